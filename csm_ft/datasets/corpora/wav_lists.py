"""Folders each with a list beside wavs/, as in M-AILABS: a speaker or a book per folder."""

from collections.abc import Iterator
from pathlib import Path

from csm_ft.datasets.folders import is_wav_list, read_wav_list
from csm_ft.datasets.tables import Columns, Unreadable
from csm_ft.datasets.tree import Record, Tell, Tree

_LIST = "metadata.csv"
_M_AILABS = "by_book"  # below it are folders of genders, of speakers and of books
_GENDERS = ("female", "male")  # and mix, of speakers who are not named


def is_wav_list_tree(tree: Tree) -> bool:
    """Tell whether there are such folders below the given one."""
    return bool(_lists(tree))


def read_wav_list_tree(tree: Tree, tell: Tell) -> Iterator[Record]:
    """Yield the rows of each list; the speaker is in the names of the folders."""
    for path in _lists(tree):
        yield from read_one(path, tree.folder, Columns(), tell)


def read_one(path: Path, top: Path, columns: Columns, tell: Tell) -> Iterator[Record]:
    """Yield the rows of a list, whose speaker a folder below `top` or of M-AILABS may name."""
    speaker = _speaker(path.resolve().parent, top.resolve())
    rows = read_wav_list(path, columns)
    first = next((row for row in rows if not isinstance(row, Unreadable)), {})
    tell(f"{path} is a list without a header: it gives {', '.join(first)} of each sound")
    for number, row in enumerate(rows, start=1):
        where = f"{path} row {number}"
        if isinstance(row, Unreadable):
            yield where, row
        else:
            yield where, {"speaker": speaker, **row, "path": str(path.parent / row["path"])}


def _lists(tree: Tree) -> list[Path]:
    return [path for path in tree.files if path.name == _LIST and is_wav_list(path, Columns())]


def _speaker(folder: Path, top: Path) -> str:
    if _M_AILABS in folder.parts:
        gender, name, *_ = (*folder.parts[folder.parts.index(_M_AILABS) + 1 :], "", "")
        return name if gender in _GENDERS else ""
    return folder.relative_to(top).parts[0] if folder != top else ""
