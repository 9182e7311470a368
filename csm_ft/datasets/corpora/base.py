"""What a corpus is: how its folder is recognised, and its files to records."""

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from csm_ft.console import shorten
from csm_ft.datasets.tree import Record, Tell, Tree
from csm_ft.errors import MetadataError
from csm_ft.text_file import read_text

_APART = re.compile(r" ([.,?!;:])(?= |$)")
_SPLIT = re.compile(r"(train|dev|test)(?![a-z])")


@dataclass(frozen=True)
class Corpus:
    """An importer."""

    title: str
    is_in: Callable[[Tree], bool]  # is a folder one of these?
    read: Callable[[Tree, Tell], Iterator[Record]]
    # Recognised by what stands in the folder itself, before tables are; by the names of sounds,
    # before folders named after splits are; or by other files, where nothing else is found.
    told_by: Literal["top", "names", "files"] = "files"


def split_of(path: Path, top: Path) -> str:
    """Return the split that a folder from `top` to a file names, as train-clean-100, or ""."""
    folders = [top.resolve().name, *path.relative_to(top).parent.parts]
    found = (_SPLIT.match(folder) for folder in reversed(folders))
    return next((match[1] for match in found if match), "")


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file that are not blank, with their numbers from 1."""
    for number, line in enumerate(read_text(path, MetadataError).split("\n"), start=1):
        if line.strip():
            yield number, line.rstrip("\r")


def sounds_by_name(tree: Tree) -> dict[str, Path]:
    """Return all sounds below a folder by their names (NFC) without suffix."""
    return {stem: path for folder in tree.folders for stem, path in tree.sounds(folder).items()}


def tell_unheard(tell: Tell, title: str, recordings: Collection[str]) -> None:
    """Say which recordings of a list have no sound: their rows are not read."""
    if recordings:
        tell(
            f"{title}: not the whole set: {len(recordings)} recordings of its lists have no sound:"
            f" {shorten(recordings)}"
        )


def glue(text: str) -> str:
    """Return a text whose punctuation marks stand apart, as words, with them at their words."""
    return _APART.sub(r"\1", " ".join(text.split()))
