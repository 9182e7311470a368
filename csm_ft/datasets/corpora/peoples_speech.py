"""The People's Speech: train/clean.json lists clips, a recording a line, below train/clean/.

The parts of the release are clean, clean_sa, dirty and dirty_sa of train, validation and test.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from csm_ft.datasets.corpora.base import lines_of
from csm_ft.datasets.tables import Unreadable, show
from csm_ft.datasets.tree import Record, Tell, Tree
from csm_ft.datasets.values import SPLIT_OF
from csm_ft.text_file import read_first_line

_CLIPS = "training_data"
_LISTS = ("label", "name")


def is_peoples_speech(tree: Tree) -> bool:
    """Tell whether there is a list of a part beside the folder of its clips."""
    return bool(_parts(tree))


def read_peoples_speech(tree: Tree, tell: Tell) -> Iterator[Record]:
    """Yield a record per clip of the lists. Nobody is named, and capitals are not kept."""
    parts = _parts(tree)
    tell(f"{tree.folder}: read are {', '.join(str(one.relative_to(tree.folder)) for one in parts)}")
    for path in parts:
        split = SPLIT_OF.get(path.resolve().parent.name.lower(), "")
        facts = {"split": split, "language": "en", "source": "peoples-speech"}
        for number, line in lines_of(path):
            for place, row in enumerate(_rows(line, path.with_suffix("")), start=1):
                where = f"{path} line {number} clip {place}"
                yield where, row if isinstance(row, Unreadable) else {**row, **facts}


def _rows(line: str, folder: Path) -> Iterator[dict[str, Any] | Unreadable]:
    """Yield the clips of one recording."""
    try:
        texts, names = (json.loads(line)[_CLIPS][name] for name in _LISTS)
    except (ValueError, KeyError, TypeError) as error:
        yield Unreadable(f"{show(line[:40])} is no recording with its clips ({error}); fetch again")
        return
    if len(texts) != len(names):
        yield Unreadable(f"has {len(texts)} texts for {len(names)} clips; fetch the list again")
        return
    for text, name in zip(texts, names, strict=True):
        yield {"path": str(folder / str(name)), "text": text}


def _parts(tree: Tree) -> list[Path]:
    folders = (tree.folder, *(path for path in tree.top if path.is_dir()))
    found = (path for folder in folders for path in sorted(folder.glob("*.json")))
    return [path for path in found if path.with_suffix("").is_dir() and _is_list(path)]


def _is_list(path: Path) -> bool:
    return f'"{_CLIPS}"' in read_first_line(path)
