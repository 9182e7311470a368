"""Copies the folder of a run between machines, piece by piece, changed files only."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

PIECE_BYTES = 32_000_000
_INCOMING = ".incoming"
Files = dict[str, tuple[int, int]]  # size and time of change in nanoseconds, by relative path


class CopyEnd(Protocol):
    """A folder to copy from or to, here or elsewhere."""

    def files(self) -> Files:
        """Return the files."""
        ...

    def read(self, name: str, offset: int) -> bytes:
        """Return a piece of a file; FileNotFoundError if it is gone."""
        ...

    def write(self, name: str, offset: int, piece: bytes, time_ns: int) -> None:
        """Write a piece of a file, aside."""
        ...

    def commit(self, names: Sequence[str]) -> None:
        """Put what was written into its place, and remove what is not in `names`."""
        ...


class Tree:
    """A folder of this machine."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def files(self) -> Files:
        """Return the files; drafts, whose names or folders begin with a dot, are left out."""
        found: Files = {}
        for root, folders, names in os.walk(self._path):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in (name for name in names if not name.startswith(".")):
                path = Path(root) / name
                try:
                    facts = path.stat()
                except FileNotFoundError:  # replaced in this moment
                    continue
                found[str(path.relative_to(self._path))] = (facts.st_size, facts.st_mtime_ns)
        return found

    def read(self, name: str, offset: int) -> bytes:
        """Return a piece of a file; FileNotFoundError if it is gone."""
        with (self._path / name).open("rb") as file:
            file.seek(offset)
            return file.read(PIECE_BYTES)

    def write(self, name: str, offset: int, piece: bytes, time_ns: int) -> None:
        """Write a piece of a file, aside."""
        path = self._path / _INCOMING / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab" if offset else "wb") as file:
            file.write(piece)
        os.utime(path, ns=(time_ns, time_ns))

    def commit(self, names: Sequence[str]) -> None:
        """Put what was written into its place, and remove what is not in `names`.

        The checkpoint of a step appears as a whole: a kill leaves it or none of it.
        """
        incoming = self._path / _INCOMING
        parents = {Path(name).parent for name in Tree(incoming).files()}
        for whole in (parent for parent in parents if parent.name.startswith("step_")):
            if not (self._path / whole).exists():
                (self._path / whole.parent).mkdir(parents=True, exist_ok=True)
                (incoming / whole).rename(self._path / whole)
        for name in Tree(incoming).files():
            target = self._path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (incoming / name).replace(target)
        shutil.rmtree(incoming, ignore_errors=True)
        for name in set(self.files()) - set(names):
            (self._path / name).unlink(missing_ok=True)
        for root, _, _ in os.walk(self._path, topdown=False):
            if Path(root) != self._path and not any(Path(root).iterdir()):
                Path(root).rmdir()


def copy(source: CopyEnd, target: CopyEnd) -> bool:
    """Make `target` the same as `source`.

    Return whether it is: not if a file was replaced meanwhile, which leaves the target unchanged.
    """
    wanted, there = source.files(), target.files()
    for name, (size, time_ns) in wanted.items():
        if there.get(name) == (size, time_ns):
            continue
        for offset in range(0, max(1, size), PIECE_BYTES):
            try:
                piece = source.read(name, offset)
            except FileNotFoundError:
                return False
            target.write(name, offset, piece, time_ns)
    if source.files() != wanted:
        return False
    target.commit(list(wanted))
    return True
