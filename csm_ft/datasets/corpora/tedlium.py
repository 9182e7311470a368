"""TED-LIUM, releases 1 to 3: stm/TALK.stm has the segments of sph/TALK.sph.

A line of STM: talk, channel, speaker, start, end, <labels>, text. Clitics stand apart (i 'm);
fillers and pronunciations are marked.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from csm_ft.datasets.corpora.base import lines_of, sounds_by_name, split_of, tell_unheard
from csm_ft.datasets.labels import GENDERS
from csm_ft.datasets.tables import Unreadable, show
from csm_ft.datasets.tree import Record, Tell, Tree
from csm_ft.text_file import nfc

_LINE = re.compile(r"(\S+) +(\S+) +(\S+) +([\d.]+) +([\d.]+)(?: +<([^>]*)>)? *(.*)")
_COMMENT = ";;"
_IGNORED = "ignore_time_segment_in_scoring"
_UNKNOWN = "<unk>"
_SOUND_MARKS = re.compile(r"\{[^}]*\}|\[[^\]]*\]|\(\d+\)|<(?!unk>)[^>]*>")  # {NOISE}, the(2), <sil>
_CLITIC = re.compile(r" (?='(?:s|m|d|t|re|ve|ll|em)\b)", re.IGNORECASE)


def is_tedlium(tree: Tree) -> bool:
    """Tell whether there is a segment list in a folder stm."""
    return any(path.suffix == ".stm" and path.parent.name == "stm" for path in tree.files)


def read_tedlium(tree: Tree, tell: Tell) -> Iterator[Record]:
    """Yield a record per segment of the talks that are there, each talk once; others are counted.

    Release 3 has its talks in data/ and, as links or copies, in legacy/, where splits are.
    """
    sounds, unheard, seen = sounds_by_name(tree), dict[str, None](), set[str]()
    lists = [path for path in tree.files if path.suffix == ".stm"]
    copies: list[Path] = []
    for path in sorted(lists, key=lambda path: (not split_of(path, tree.folder), path)):
        sound = sounds.get(nfc(path.stem))
        if path.stem in seen:
            copies.append(path)
        elif sound is None:
            unheard[path.stem] = None
        else:
            split = split_of(path, tree.folder)
            lines = ((n, line) for n, line in lines_of(path) if not line.startswith(_COMMENT))
            for number, line in lines:
                yield f"{path} line {number}", _row(line.strip(), sound, split)
        seen.add(path.stem)
    if copies:
        tell(f"TED-LIUM: {len(copies)} lists of talks that are there twice are read once")
    tell_unheard(tell, "TED-LIUM", unheard)


def _row(line: str, sound: Path, split: str) -> dict[str, Any] | Unreadable:
    fields = _LINE.fullmatch(line)
    if fields is None:
        reason = f"{show(line)} is no line of STM: talk, channel, speaker, start, end, text"
        return Unreadable(f"{reason}; correct it", str(sound))
    talk, _, speaker, start, end, labels, said = fields.groups()
    times = {"start": start, "end": end}
    if said.strip() == _IGNORED:
        return Unreadable(f"was not transcribed ({_IGNORED}); left out", str(sound), times)
    if _UNKNOWN in said.split():
        reason = f"has a word that nobody wrote down ({_UNKNOWN}); left out, as its text has a gap"
        return Unreadable(reason, str(sound), times)
    text = _CLITIC.sub("", " ".join(_SOUND_MARKS.sub(" ", said).split()))
    if not text:
        return Unreadable(f"has sound that is no speech, {show(said)}; left out", str(sound), times)
    found = (GENDERS.get(label.strip().lower()) for label in (labels or "").split(","))
    return {
        "path": str(sound),
        "text": text,
        **times,
        "speaker": talk if speaker.lower().startswith("unknown") else speaker,
        "gender": next(filter(None, found), ""),
        "split": split,
        "language": "en",
        "source": "tedlium",
    }
