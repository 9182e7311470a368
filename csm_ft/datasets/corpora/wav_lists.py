"""Folders each with a list beside wavs/, as in M-AILABS: a speaker or a book per folder."""

from collections.abc import Iterator
from pathlib import Path

from csm_ft.datasets.folders import is_wav_list, read_wav_list
from csm_ft.datasets.tables import Columns, Unreadable
from csm_ft.datasets.tree import Record, Tell, Tree

_LIST = "metadata.csv"
_GENDERS = ("female", "male")  # the folder below names the speaker
_MIXED = "mix"  # several speakers, who are not named


def is_wav_list_tree(tree: Tree) -> bool:
    """Tell whether there are such folders below the given one."""
    return bool(_lists(tree))


def read_wav_list_tree(tree: Tree, tell: Tell) -> Iterator[Record]:
    """Yield the rows of each list; the speaker is in the names of the folders."""
    for path in _lists(tree):
        yield from read_one(path, tree.folder, Columns())


def read_one(path: Path, top: Path, columns: Columns) -> Iterator[Record]:
    """Yield the rows of a list, whose speaker a folder below `top` or of M-AILABS may name."""
    speaker = _speaker(path.resolve().parent, top.resolve())
    for number, row in enumerate(read_wav_list(path, columns), start=1):
        where = f"{path} row {number}"
        if isinstance(row, Unreadable):
            yield where, row
        else:
            yield where, {"speaker": speaker, **row, "path": str(path.parent / row["path"])}


def _lists(tree: Tree) -> list[Path]:
    return [path for path in tree.files if path.name == _LIST and is_wav_list(path, Columns())]


def _speaker(folder: Path, top: Path) -> str:
    for gender, name in zip(folder.parts, folder.parts[1:], strict=False):
        if gender in _GENDERS:
            return name
        if gender == _MIXED:
            return ""
    return folder.relative_to(top).parts[0] if folder != top else ""
