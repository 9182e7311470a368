"""VCTK: txt/p225/p225_001.txt, and the sound of it in a folder wav48*/p225."""

import re
from collections.abc import Iterator
from pathlib import Path

from csm_ft.datasets.corpora.base import lines_of
from csm_ft.datasets.labels import GENDERS
from csm_ft.datasets.tables import Unreadable
from csm_ft.datasets.tree import Record, Tell, Tree
from csm_ft.errors import MetadataError
from csm_ft.text_file import read_text

_NAME = re.compile(r"((?:p|s)\d+)_(\d+)(_mic\d)?")
_FIRST_MIC = "_mic1"  # every speaker has it


def is_vctk(tree: Tree) -> bool:
    """Tell whether there is a text where VCTK has them."""
    return any(path.suffix == ".txt" and _is_text(path) for path in tree.files)


def read_vctk(tree: Tree, tell: Tell) -> Iterator[Record]:
    """Yield a record per sound of the first microphone."""
    num_others = 0
    people = _people(tree)
    for folder in tree.folders:
        if not folder.parent.name.startswith("wav48"):
            continue
        for stem, sound in tree.sounds(folder).items():
            name = _NAME.fullmatch(stem)
            if name is None:
                reason = "its name is not speaker_number; move it away"
                yield str(sound), Unreadable(reason, str(sound))
            elif name[3] in (None, _FIRST_MIC):
                text = folder.parent.parent / "txt" / name[1] / f"{name[1]}_{name[2]}.txt"
                facts = {"speaker": name[1], **people.get(name[1], {}), "language": "en"}
                yield str(sound), _row(sound, text, {**facts, "source": "vctk"})
            else:
                num_others += 1
    if num_others:
        tell(f"VCTK: {num_others} sounds of other microphones than the first are left out")


def _is_text(path: Path) -> bool:
    name = _NAME.fullmatch(path.stem)
    return bool(name) and path.parent.name == name[1] and path.parent.parent.name == "txt"


def _people(tree: Tree) -> dict[str, dict[str, str]]:
    """Return what speaker-info.txt says: ID AGE GENDER ACCENTS; older ones leave out the p."""
    path = next((path for path in tree.files if path.name == "speaker-info.txt"), None)
    rows = [line.split() for _, line in lines_of(path)] if path else []
    return {
        row[0] if row[0][0] in "ps" else f"p{row[0]}": {
            "gender": GENDERS[row[2].lower()],
            "accent": row[3],
        }
        for row in rows
        if len(row) > 3 and row[2].lower() in GENDERS
    }


def _row(sound: Path, text: Path, facts: dict[str, str]) -> dict[str, str] | Unreadable:
    try:
        said = read_text(text, MetadataError)
    except FileNotFoundError:
        return Unreadable(f"no transcript; {text} is missing", str(sound))
    except (MetadataError, OSError) as error:
        return Unreadable(f"its transcript cannot be read: {error}", str(sound))
    return {"path": str(sound), "text": " ".join(said.split()), **facts}
