"""Common Voice: tables of a language beside a folder clips/, from which their paths count."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from csm_ft.datasets.delimited import read_tsv
from csm_ft.datasets.labels import GENDERS
from csm_ft.datasets.tables import Columns, TableRow, Unreadable
from csm_ft.datasets.tree import Record, Tell, Tree
from csm_ft.text_file import nfc, read_first_line

CLIPS = "clips"
_SPLITS = ("train", "dev", "test")  # official, and apart by speaker
_ALL = "validated"  # what the splits are chosen from
_ID_CHARS = 12  # of the 128 hex digits of a client_id; a speaker's name stands in every prompt


def is_common_voice(tree: Tree) -> bool:
    """Tell whether the folder of a language, or one with such folders, is given."""
    return bool(_languages(tree))


def is_list(path: Path) -> bool:
    """Tell whether a file is one of the tables."""
    if path.suffix.lower() != ".tsv" or not (path.parent / CLIPS).is_dir() or not path.is_file():
        return False
    return {"client_id", "path", "sentence"} <= set(read_first_line(path).split("\t"))


def read_common_voice(tree: Tree, tell: Tell) -> Iterator[Record]:
    """Yield the rows of the official splits; of validated.tsv where there are none."""
    for language in _languages(tree):
        there = sorted(path.stem for path in language.glob("*.tsv"))
        wanted = [name for name in _SPLITS if name in there]
        if "train" not in wanted:
            wanted = [_ALL]
        others = [f"{name}.tsv" for name in there if name not in wanted]
        tell(f"{language}: read are {_names(wanted)}; left out are {', '.join(others) or 'none'}")
        for name in wanted:
            split = name if name in _SPLITS else ""
            table = language / f"{name}.tsv"
            for number, row in enumerate(read_list(table), start=1):
                has_split = not isinstance(row, Unreadable)
                yield f"{table} row {number}", {**row, "split": split} if has_split else row


def read_list(path: Path) -> list[dict[str, Any] | Unreadable]:
    """Return the rows of one table."""
    _, rows = read_tsv(path, Columns())
    return [_row(path.parent / CLIPS, row) for row in rows]


def _row(clips: Path, row: TableRow) -> dict[str, Any] | Unreadable:
    if not isinstance(row, dict):
        return row if isinstance(row, Unreadable) else Unreadable("holds several turns")
    name = nfc(row.get("path", ""))
    name = name if not name or Path(name).suffix else f"{name}.mp3"
    return {
        "path": str(clips / name) if name else "",
        "sentence": row.get("sentence", ""),
        "client_id": row.get("client_id", "")[:_ID_CHARS],
        "gender": GENDERS.get(row.get("gender", "").lower(), ""),
        "accent": row.get("accents", "") or row.get("accent", ""),
        "language": row.get("locale", ""),
        "source": "commonvoice",
    }


def _languages(tree: Tree) -> list[Path]:
    folders = [tree.folder, *(path for path in tree.top if path.is_dir())]
    return [folder for folder in folders if _is_language(folder)]


def _is_language(folder: Path) -> bool:
    return any(is_list(folder / f"{name}.tsv") for name in ("train", _ALL))


def _names(stems: Sequence[str]) -> str:
    return ", ".join(f"{stem}.tsv" for stem in stems)
