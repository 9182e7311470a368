"""Sets of acted speech, whose file names say what is spoken, how and by whom.

Folders are only searched: a name counts once, wherever it lies.
"""

import filecmp
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from csm_ft.console import shorten
from csm_ft.data import audio
from csm_ft.data.measures import SILENT_DBFS, to_dbfs
from csm_ft.data.sound_file import is_lfs_pointer
from csm_ft.datasets.sounds import is_sound, rank_of
from csm_ft.datasets.tables import Unreadable
from csm_ft.datasets.tree import Record, Tree
from csm_ft.errors import AudioError

LONGEST_SEC = 20.0  # of one acted sentence, with room to spare
_VIDEOS = (".mp4", ".flv", ".avi", ".mov", ".mkv", ".webm")
_SILENT_PEAK = 10 ** (SILENT_DBFS / 20)
_CANCELLED_DB = 20.0  # what mixing takes away where one side of a stereo file is inverted

Columns = dict[str, str]


@dataclass(frozen=True)
class Clip:
    """What a name stands for: the columns of its row, or why it cannot be one."""

    paths: Sequence[Path]  # files of that name, the one to read first
    columns: Columns | str


def has_names(tree: Tree, pattern: re.Pattern[str]) -> bool:
    """Tell whether a folder holds a sound with a name of the pattern."""
    return any(is_sound(path.name) and pattern.fullmatch(path.stem) for path in tree.files)


def find_names(tree: Tree, pattern: re.Pattern[str]) -> dict[re.Match[str], list[Path]]:
    """Return the sounds whose names have the pattern, those of one name together.

    Videos of such names are left out.
    """
    found: dict[str, list[Path]] = {}
    videos: list[Path] = []
    for path in tree.files:
        if is_sound(path.name):
            found.setdefault(path.stem.upper(), []).append(path)
        elif path.suffix.lower() in _VIDEOS and pattern.fullmatch(path.stem):
            videos.append(path)
    tree.leave_out("videos", videos)
    return {
        match: sorted(found[name], key=_preference)
        for name in sorted(found)
        if (match := pattern.fullmatch(name))
    }


def read_clips(
    tree: Tree, clips: Iterable[Clip], longest_sec: float = LONGEST_SEC
) -> Iterator[Record]:
    """Yield the records of clips whose sound can be used; the others with their reasons.

    Copies and other formats of a sound are left out. A sound of the same name with other content is
    rejected: it is not known which one is right.
    """
    good: list[tuple[Path, Columns]] = []
    for clip in clips:
        path, *others = clip.paths
        if isinstance(clip.columns, str):
            for one in clip.paths:
                yield str(one), Unreadable(clip.columns, str(one))
            continue
        good.append((path, clip.columns))
        yield from _leave_out_copies(tree, path, others)
    with ThreadPoolExecutor() as pool:
        problems = pool.map(partial(sound_problem, longest_sec), [path for path, _ in good])
        for (path, columns), problem in zip(good, problems, strict=True):
            row = {"path": str(path), **columns}
            yield str(path), Unreadable(problem, str(path)) if problem else row


def sound_problem(longest_sec: float, path: Path) -> str:
    """Return why a sound is no recording of one sentence or turn, or ""."""
    try:
        info = audio.probe(path)
        if info.duration_sec > longest_sec:
            return (
                f"{path.name} runs {info.duration_sec:.1f} s, but holds one sentence, which takes"
                f" no {longest_sec:g} s; cut it to the speech, or remove the file"
            )
        _, measures = audio.load_measured(path, sample_rate_hz=info.sample_rate_hz)
    except AudioError as error:
        return str(error)
    if measures.peak < _SILENT_PEAK and not measures.mix_loss_db > _CANCELLED_DB:
        return (
            f"{path.name} is silent: its highest peak is {to_dbfs(measures.peak**2):.0f} dBFS;"
            " fetch it again, or remove the file"
        )
    return ""


def describe_missing(
    title: str, found: Mapping[str, Counter[str]], expected: Mapping[str, Sequence[str]]
) -> str:
    """Return what of the expected actors, emotions, ... is missing, "" where nothing is."""
    parts: list[str] = []
    for what, all_values in expected.items():
        missing = [value for value in all_values if not found[what][value]]
        if missing:
            there = len(all_values) - len(missing)
            parts.append(f"{there} of {len(all_values)} {what} (missing: {shorten(missing)})")
    return f"{title}: not the whole set: {'; '.join(parts)}" if parts else ""


def describe_few(title: str, what: str, found: Counter[str], expected: int) -> str:
    """Return which speakers have fewer clips than the set has of each, "" where none has."""
    few = [
        f"{name} ({count} of {expected})"
        for name, count in sorted(found.items())
        if count < expected
    ]
    return f"{title}: clips are missing of {len(few)} {what}: {shorten(few)}" if few else ""


def tell_all(tell: Callable[[str], object], lines: Iterable[str]) -> None:
    """Print the lines that say something."""
    for line in filter(None, lines):
        tell(line)


def _preference(path: Path) -> tuple[bool, int, int, str]:
    """Sounds before pointers to them, better formats first, then what lies highest."""
    return is_lfs_pointer(path), rank_of(path.name), len(path.parts), str(path)


def _leave_out_copies(tree: Tree, path: Path, others: Sequence[Path]) -> Iterator[Record]:
    for other in others:
        if other.suffix.lower() != path.suffix.lower():
            tree.leave_out("sounds in another format", [other])
        elif is_lfs_pointer(other) or filecmp.cmp(path, other, shallow=False):
            tree.leave_out("copies", [other])
        else:
            reason = f"differs from {path}, which has the same name; keep the right one"
            yield str(other), Unreadable(reason, str(other))
