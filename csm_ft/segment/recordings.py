"""The recordings of a folder, and what else lies in it: nothing is skipped without a word."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from csm_ft.console import shorten
from csm_ft.data import audio
from csm_ft.data.audio import Channel
from csm_ft.data.measures import mean_power
from csm_ft.data.not_read import what_helps
from csm_ft.datasets.sounds import is_sound, rank_of
from csm_ft.datasets.tree import Tree
from csm_ft.errors import AudioError, ConfigError
from csm_ft.evaluate.recognise import RECOGNISER_HZ
from csm_ft.segment.hear import Recording
from csm_ft.text_file import nfc

_COMPARED_SEC = 60.0  # of two channels, to tell whether they are one
_SAME_BELOW = 1e-3  # power of their difference over that of their sum
_SUBTITLES = (".srt", ".vtt")
_NAME_ANOTHER = "; name a folder of recordings, or one of them"


@dataclass
class Found:
    """What a folder holds."""

    recordings: list[Recording] = field(default_factory=list)
    problems: dict[Path, str] = field(default_factory=dict)  # of a file: why it is not cut
    notes: list[str] = field(default_factory=list)

    def leave_out(self, files: Sequence[Path]) -> None:
        """Note files that are no sound, and what helps where that is known."""
        helps = {one: what_helps(one.name) for one in files}
        self.problems |= {one: f"is not read; {way}" for one, way in helps.items() if way}
        kinds = Counter(one.suffix.lower() or one.name for one in files if not helps[one])
        if kinds:
            shown = shorten(f"{count} {kind}" for kind, count in kinds.most_common())
            self.notes.append(f"left out, as they are no sound files: {shown}")
        if kinds.keys() & set(_SUBTITLES):
            self.notes.append(
                "recordings with subtitles need no recogniser: pretokenize.py reads them as clips"
            )


def find_recordings(path: Path, output: Path, *, by_channel: bool) -> Found:
    """Return the recordings of a folder or file; those that cannot be cut with their reason.

    What earlier runs wrote at `output` is none of them. ConfigError where there is no sound file.
    """
    if not path.exists():
        raise ConfigError(f"{path}: no such folder or file; name a folder of recordings")
    path, own = path.resolve(), str(output.resolve())
    files = [path] if path.is_file() else Tree(path).files
    files = [one for one in files if not str(one).startswith(own)]
    sounds = [one for one in files if is_sound(one.name) or one == path]
    found = Found()
    found.leave_out([one for one in files if one not in set(sounds)])
    if not sounds:
        helps = "".join(f"; {one}: {reason}" for one, reason in found.problems.items())
        raise ConfigError(f"{path}: has no sound file that can be read{helps or _NAME_ANOTHER}")
    sounds = list(_without_copies(sounds, found.problems))
    root = path.parent if path.is_file() else path
    for one, name in zip(sounds, _names(sounds, root), strict=True):
        try:
            found.recordings += _open(one, name, by_channel=by_channel)
        except AudioError as error:
            found.problems[one] = str(error).removeprefix(f"{one}: ")
    return found


def _without_copies(sounds: Sequence[Path], problems: dict[Path, str]) -> Iterator[Path]:
    """Yield files of which no other is a copy: by bytes, or by name in another format."""
    by_name: dict[Path, Path] = {}
    by_content: dict[tuple[int, str], Path] = {}
    sizes = Counter(one.stat().st_size for one in sounds)
    for one in sorted(sounds, key=lambda one: rank_of(one.name)):
        first = by_name.setdefault(one.with_suffix(""), one)
        size = one.stat().st_size
        if first == one and size and sizes[size] > 1:
            with suppress(AudioError):
                first = by_content.setdefault((size, audio.digest(one)), one)
        if first != one:
            problems[one] = f"is a copy of {first}, by its name or content; if it is not, rename it"
    yield from (one for one in sounds if one not in problems)


def _names(sounds: Sequence[Path], root: Path) -> Iterator[str]:
    """Yield a name for each file that can be a speaker's: its stem, or its path if it must be."""
    stems = Counter(one.stem for one in sounds)
    for one in sounds:
        name = one.stem if stems[one.stem] == 1 else str(one.relative_to(root).with_suffix(""))
        letters = (letter if letter.isprintable() else "?" for letter in nfc(name))
        yield "".join(letters).replace("[", "(").replace("]", ")")


def _open(path: Path, name: str, *, by_channel: bool) -> list[Recording]:
    """Return the recordings of a file; AudioError if it cannot be read, or not by channel."""
    info = audio.probe(path)
    if not by_channel:
        return [Recording(path, name, info.duration_sec)]
    way_out = "cut it by --speakers off, or a number"
    if info.num_channels != 2:
        noun = "channel" if info.num_channels == 1 else "channels"
        raise AudioError(
            f"{path}: has {info.num_channels} {noun}, not one for each of two speakers; {way_out}"
        )
    if have_same_sound(path, info):
        raise AudioError(f"{path}: has the same sound on both channels; {way_out}")
    sides: tuple[Channel, Channel] = ("left", "right")
    return [Recording(path, f"{name}-{side}", info.duration_sec, side) for side in sides]


def have_same_sound(path: Path, info: audio.AudioInfo) -> bool:
    """Tell whether both channels of a stereo file are one; AudioError if it cannot be read."""
    both = audio.load(
        path,
        sample_rate_hz=RECOGNISER_HZ,
        end_sec=min(_COMPARED_SEC, info.duration_sec),
        channel="both",
    )
    return mean_power(both[0] - both[1]) < _SAME_BELOW * mean_power(both[0] + both[1])
