"""Atomic writes of files and folders, and exclusive use of folders."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from csm_ft.errors import ConfigError, MachineError

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a draft to write; it replaces `path` once it is on disk, or `path` does not change.

    Raises MachineError when the disk is full or refuses to be written.
    """
    draft = path.with_name(f".{path.name}.draft")
    try:
        with disk_errors(path):
            yield draft
            fsync(draft)
            draft.replace(path)
            fsync(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a small file atomically; text as UTF-8."""
    with whole_file(path) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def appending(path: Path) -> Iterator[None]:
    """Append to a file in the block, all of it or nothing: what went in before a fault is cut off.

    Raises MachineError when the disk is full or refuses to be written.
    """
    num_bytes = path.stat().st_size if path.exists() else 0
    with disk_errors(path):
        try:
            yield
        except OSError:
            if path.is_file():
                os.truncate(path, num_bytes)
            raise


def append_line(path: Path, line: str) -> None:
    """Append one line of UTF-8 to a file, or nothing; MachineError as for `appending`."""
    with appending(path), path.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a draft folder; it replaces `path` once all of it is on disk, or `path` is unchanged.

    Raises MachineError when the disk is full or refuses to be written.
    """
    recover(path)
    draft, old = _beside(path)
    try:
        with disk_errors(path):
            draft.mkdir(parents=True)
            yield draft
            # Apply the user's umask: safetensors makes files that only their owner can read.
            mode = draft.stat().st_mode & 0o666
            for file in draft.rglob("*"):
                if file.is_file():
                    file.chmod(mode)
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
    """Undo a replacement of the folder `path` that a kill interrupted, and remove drafts."""
    draft, old = _beside(path)
    if old.exists() and not path.exists():
        old.rename(path)
    for left_over in (draft, old):
        shutil.rmtree(left_over, ignore_errors=True)


@contextmanager
def exclusive(path: Path, message: str) -> Iterator[None]:
    """Hold the lock file `path`; the system releases it however the process ends.

    Raises ConfigError with `message` when another process holds it, MachineError when it cannot be
    created.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise ConfigError(message) from None
    try:
        yield
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Tell whether a process holds the lock file `path`."""
    if not path.is_file():
        return False
    try:
        with exclusive(path, "held"):
            return False
    except ConfigError:
        return True


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Convert an OSError of the disk under `path` to a MachineError that names the disk."""
    try:
        yield
    except OSError as error:
        # Libraries raise OSError, without errno, for faults that are not the disk's.
        if error.errno not in _DISK_ERRORS:
            raise
        raise MachineError(
            f"{path} could not be written: {error.strerror} ({describe_disk(path)}). Make room or"
            " check the permissions; the same command continues"
        ) from error


def describe_disk(path: Path) -> str:
    """Return the mount point of a path and its free space, for messages."""
    folder = _existing(path)
    while not folder.is_mount():
        folder = folder.parent
    return f"disk {folder}, {free_bytes(path) / 1e6:,.0f} MB free"


def free_bytes(path: Path) -> int:
    """Return the free space of the disk of a path, which need not exist yet."""
    return shutil.disk_usage(_existing(path)).free


def check_room(path: Path, needed_bytes: int) -> None:
    """Raise MachineError when the disk has no room for a file or folder that will be written."""
    if needed_bytes > free_bytes(path):
        raise MachineError(
            f"{path} was not written: it takes {needed_bytes / 1e6:,.0f} MB"
            f" ({describe_disk(path)}). Make room; the same command continues"
        )


def _existing(path: Path) -> Path:
    """Return the nearest folder that exists."""
    folder = path.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def fsync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(folder: Path) -> tuple[Path, Path]:
    return folder.with_name(f".{folder.name}.draft"), folder.with_name(f".{folder.name}.old")
