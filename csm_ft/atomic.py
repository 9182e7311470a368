"""Files and folders that are there whole or not at all, whatever kills the program.

Written aside, synced, renamed into place.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to.

    On success it takes the place of `path` once it is on disk, on failure nothing changes.
    """
    draft = path.with_name(f".{path.name}.draft")
    try:
        yield draft
        fsync(draft)
        draft.replace(path)
        fsync(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a small file as `whole_file` does; text as UTF-8."""
    with whole_file(path) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a folder to fill.

    On success it takes the place of `path` after everything in it is on disk, on failure nothing
    changes.
    """
    recover(path)
    draft, old = _beside(path)
    draft.mkdir(parents=True)
    try:
        yield draft
        readable_by = (
            draft.stat().st_mode & 0o666
        )  # as the user's umask says; safetensors writes files for their owner alone
        for file in draft.rglob("*"):
            if file.is_file():
                file.chmod(readable_by)
                fsync(file)
        fsync(draft)
        if path.exists():
            path.rename(old)
        draft.rename(path)
        fsync(path.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def recover(path: Path) -> None:
    """Undo a replacement of the folder `path` that a kill cut short.

    The old one comes back if the new one is not in place, drafts go.
    """
    draft, old = _beside(path)
    if old.exists() and not path.exists():
        old.rename(path)
    for left_over in (draft, old):
        shutil.rmtree(left_over, ignore_errors=True)


def fsync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(folder: Path) -> tuple[Path, Path]:
    return folder.with_name(f".{folder.name}.draft"), folder.with_name(f".{folder.name}.old")
