"""Multilingual LibriSpeech: train/transcripts.txt (ID, tab, text) beside audio/READER/BOOK/ID.flac.

Released in flac and in opus. metainfo.txt has the readers.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from csm_ft.datasets.corpora.base import lines_of, sounds_by_name, split_of
from csm_ft.datasets.labels import GENDERS
from csm_ft.datasets.tables import Unreadable, show
from csm_ft.datasets.tree import Record, Tell, Tree

_LIST, _SOUNDS, _READERS = "transcripts.txt", "audio", "metainfo.txt"
_ID = re.compile(r"(\d+)_(\d+)_\d+")  # reader_book_number
_FOLDER = re.compile(r"mls_([a-z]+)")
_LANGUAGES = {
    **{"english": "en", "german": "de", "dutch": "nl", "french": "fr", "spanish": "es"},
    **{"italian": "it", "portuguese": "pt", "polish": "pl"},
}


def is_mls(tree: Tree) -> bool:
    """Tell whether there is a list of transcripts beside a folder of readers."""
    return bool(_lists(tree))


def read_mls(tree: Tree, tell: Tell) -> Iterator[Record]:
    """Yield a record per line of the lists, and one per sound without a line."""
    sounds, genders = sounds_by_name(tree), _genders(tree)
    for path in _lists(tree):
        facts = {"split": split_of(path, tree.folder), "source": "mls"}
        facts["language"] = _language(path)
        for number, line in lines_of(path):
            id_, is_pair, text = line.partition("\t")
            name, where = _ID.fullmatch(id_.strip()), f"{path} line {number}"
            if name is None or not is_pair:
                reason = f"{show(line)} is no reader_book_number, tab and text; correct the line"
                yield where, Unreadable(reason)
                continue
            missing = path.parent / _SOUNDS / name[1] / name[2] / f"{name[0]}.flac"
            sound = sounds.pop(name[0], missing)
            reader = {"speaker": name[1], "gender": genders.get(name[1], "")}
            yield where, {"path": str(sound), "text": text, **reader, **facts}
    for stem, sound in sounds.items():
        if _ID.fullmatch(stem):
            reason = f"{_LIST} has no line for it; add one, or remove the file"
            yield str(sound), Unreadable(reason, str(sound))


def _lists(tree: Tree) -> list[Path]:
    return [
        path
        for path in tree.files
        if path.name == _LIST and any(_SOUNDS in one.parts for one in _below(tree, path.parent))
    ]


def _below(tree: Tree, folder: Path) -> Iterator[Path]:
    return (one.relative_to(folder) for one in tree.folders if one.is_relative_to(folder))


def _language(path: Path) -> str:
    """Return the language that a folder above names, as mls_german_opus, or ""."""
    names = (_FOLDER.match(part.lower()) for part in reversed(path.resolve().parts))
    return next((_LANGUAGES.get(name[1], "") for name in names if name), "")


def _genders(tree: Tree) -> dict[str, str]:
    path = next((path for path in tree.files if path.name == _READERS), None)
    rows = [line.split("|") for _, line in lines_of(path)] if path else []
    return {
        row[0].strip(): GENDERS[row[1].strip().lower()]
        for row in rows
        if len(row) > 1 and row[1].strip().lower() in GENDERS
    }
