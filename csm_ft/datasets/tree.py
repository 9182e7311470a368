"""The files below a folder, listed once."""

import os
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from csm_ft.datasets.sounds import is_sound, rank_of
from csm_ft.datasets.tables import Unreadable
from csm_ft.errors import MetadataError
from csm_ft.text_file import nfc

Record = tuple[str, dict[str, Any] | Unreadable]  # where it stands, for people; its columns
Tell = Callable[[str], object]  # prints a line


class Tree:
    """A folder with all that is below it, in order; hidden files and folders are left out.

    Linked folders count, but once. MetadataError where a folder cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.num_hidden = 0  # files, counted when they are listed
        self.left_out: dict[str, list[Path]] = {}  # what an importer knows and does not read

    def leave_out(self, kind: str, paths: Iterable[Path]) -> None:
        """Count files that are known and not read, as songs or copies."""
        self.left_out.setdefault(kind, []).extend(paths)

    @cached_property
    def top(self) -> list[Path]:
        """What stands in the folder itself."""
        try:
            found = sorted(self.folder.iterdir())
        except OSError as error:
            _refuse(error)
        return [path for path in found if not path.name.startswith(".")]

    @cached_property
    def folders(self) -> dict[Path, list[str]]:
        """The names of the files in each folder, this one included."""
        found: dict[Path, list[str]] = {}
        for folder, names in _walk(self.folder):
            found[folder] = [name for name in names if not name.startswith(".")]
            self.num_hidden += len(names) - len(found[folder])
        return found

    @cached_property
    def files(self) -> list[Path]:
        """All files."""
        return [parent / name for parent, names in self.folders.items() for name in names]

    def sounds(self, folder: Path) -> dict[str, Path]:
        """Return the sound files in one of the folders by their names (NFC) without suffix.

        Of several that differ in the suffix, one.
        """
        names = sorted(filter(is_sound, self.folders.get(folder, [])), key=rank_of, reverse=True)
        return {nfc(Path(name).stem): folder / name for name in names}


def _walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=_refuse):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield Path(parent), sorted(names)


def _refuse(error: OSError) -> NoReturn:
    raise MetadataError(
        f"{error.filename}: cannot be read: {error.strerror}; make it readable, or move it away"
    ) from error
