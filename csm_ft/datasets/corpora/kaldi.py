"""Kaldi's data directories: wav.scp and text, and segments and utt2spk where they are.

wav.scp may name a command that writes the sound. No command is run: those that only unpack a file
that is read here anyway are understood, the others are rejected.
"""

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from csm_ft.config.base import expand_home
from csm_ft.datasets.corpora.base import lines_of
from csm_ft.datasets.sounds import is_sound
from csm_ft.datasets.tables import Unreadable, show
from csm_ft.datasets.tree import Record, Tell, Tree

# Programs that unpack a sound, each with the options that leave it what it is.
_UNPACKERS = {
    "cat": r"",
    "flac": r"-[cds]+|--(silent|decode|stdout)",
    "sph2pipe": r"-p|-f wav|-c [12]",
    "sox": r"-t wav|-|-[rb] \d+k?|-e signed-integer|remix [12]",
    "ffmpeg": r"-i|-f wav|-ar \d+k?|-acodec pcm_s16le|-nostdin|-y|-loglevel \w+|-|pipe:1",
}
_ARCHIVE = re.compile(r"\.ark:\d+$")


def is_kaldi(tree: Tree) -> bool:
    """Tell whether the folder holds wav.scp and text."""
    return {"wav.scp", "text"} <= {path.name for path in tree.top}


def read_kaldi(tree: Tree, tell: Tell) -> Iterator[Record]:
    """Yield a record per utterance of `text`, and one per sound without a text."""
    folder = tree.folder
    sounds = {id_: _sound(folder, value) for id_, value in _pairs(folder / "wav.scp").items()}
    segments = _pairs(folder / "segments")
    speakers = _pairs(folder / "utt2spk")
    unused = set(segments or sounds)
    for number, line in lines_of(folder / "text"):
        id_, text = (*line.split(maxsplit=1), "")[:2]
        unused.discard(id_)
        where = f"{folder / 'text'} line {number}"
        yield where, _row(id_, text, sounds, segments, speakers)
    source = folder / ("segments" if segments else "wav.scp")
    for id_ in sorted(unused):
        yield f"{source} {id_}", Unreadable("text has no line for it; add one, or drop it", id_)


def _row(
    id_: str,
    text: str,
    sounds: Mapping[str, dict[str, str] | Unreadable],
    segments: Mapping[str, str],
    speakers: Mapping[str, str],
) -> dict[str, Any] | Unreadable:
    span: dict[str, str] = {}
    recording = id_
    channel: dict[str, str] = {}
    if segments:
        fields = segments.get(id_, "").split()
        if len(fields) not in (3, 4):
            return Unreadable(f"segments has no line `{id_} recording start end`; add it", id_)
        recording, start, end = fields[:3]
        span = {"start": start, "end": "" if end.startswith("-") else end}  # -1 = to the end
        if len(fields) > 3:  # counted from 0
            channel = {"channel": {"0": "left", "1": "right"}.get(fields[3], fields[3])}
    sound = sounds.get(recording)
    if sound is None:
        return Unreadable(f"wav.scp has no line for {show(recording)}; add it", id_)
    if isinstance(sound, Unreadable):
        return sound
    return {**sound, "text": text, "speaker": speakers.get(id_, ""), **span, **channel}


def _sound(folder: Path, value: str) -> dict[str, str] | Unreadable:
    if not value.endswith("|"):
        if _ARCHIVE.search(value):
            reason = "is a part of a Kaldi archive (.ark); extract the sounds to files"
            return Unreadable(reason, value)
        return {"path": str(_find(folder, value))}
    if value.count("|") == 1:
        try:
            program, *words = shlex.split(value[:-1])
        except ValueError:
            program, words = "", []
        name = Path(program).name
        files = [word for word in words if is_sound(Path(word).name)]
        others = " ".join(word for word in words if word not in files)
        if name in _UNPACKERS and len(files) == 1:
            pattern = rf"(?:(?:{_UNPACKERS[name]})(?: |$))*"
            if re.fullmatch(pattern, others):
                return {"path": str(_find(folder, files[0])), **_channel(name, others)}
    return Unreadable(
        f"wav.scp names a command, {show(value)}, which is not run; write the sound to a file, and"
        " its path into wav.scp",
        value,
    )


def _channel(program: str, options: str) -> dict[str, str]:
    """Return the channel that a command takes, which it counts from 1."""
    option = {"sph2pipe": "-c", "sox": "remix"}.get(program)
    found = re.search(rf"{option} ([12])", options)
    return {"channel": {"1": "left", "2": "right"}[found[1]]} if found else {}


def _find(folder: Path, name: str) -> Path:
    """Return a file that Kaldi's scripts name from the folder of the recipe, somewhere above."""
    given = Path(expand_home(name))
    above = [folder.resolve(), *folder.resolve().parents]
    places = [Path.cwd(), *above]
    found = next((place for place in places if (place / given).is_file()), folder.resolve())
    return given if given.is_absolute() else found / given


def _pairs(path: Path) -> dict[str, str]:
    """Return what a file says of each id; nothing where there is no such file."""
    if not path.is_file():
        return {}
    pairs = (line.split(maxsplit=1) for _, line in lines_of(path))
    return {pair[0]: pair[1].strip() if len(pair) > 1 else "" for pair in pairs}
