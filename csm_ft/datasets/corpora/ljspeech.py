"""LJSpeech: metadata.csv beside wavs/, told by the names LJ001-0001."""

import re
from collections.abc import Iterator

from csm_ft.datasets.folders import is_wav_list, read_wav_list
from csm_ft.datasets.tables import Columns, Unreadable
from csm_ft.datasets.tree import Record, Tell, Tree
from csm_ft.text_file import read_first_line

_LIST = "metadata.csv"
_LINE = re.compile(r"LJ\d{3}-\d{4}\|")
_FACTS = {"speaker": "LJ", "gender": "female", "language": "en", "source": "ljspeech"}


def is_ljspeech(tree: Tree) -> bool:
    """Tell whether the folder holds the list."""
    path = tree.folder / _LIST
    return is_wav_list(path, Columns()) and _LINE.match(read_first_line(path)) is not None


def read_ljspeech(tree: Tree, tell: Tell) -> Iterator[Record]:
    """Yield the rows of the list, with the normalised text."""
    path = tree.folder / _LIST
    for number, row in enumerate(read_wav_list(path, Columns()), start=1):
        where = f"{path} row {number}"
        if isinstance(row, Unreadable):
            yield where, row
        else:
            yield where, {**row, **_FACTS, "path": str(path.parent / row["path"])}
