"""Every sound file opened and hashed once, several at a time, and not again until it changes."""

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from csm_ft.atomic import write_whole
from csm_ft.console import track
from csm_ft.data import audio
from csm_ft.errors import AudioError

Stamp = tuple[int, int, int]  # bytes, time of the last change of content and of anything, in ns
_SETTLED_SEC = 2.0  # a file that is younger may change again without another time


@dataclass(frozen=True)
class SoundFile:
    """A file that can be read."""

    info: audio.AudioInfo
    digest: str  # of its bytes
    size: int = 0
    mtime_ns: int = 0


Known = Mapping[str, tuple[Stamp, SoundFile]]  # by path


def inspect_files(
    paths: Iterable[Path], num_workers: int, *, known: Known | None = None, keep: Path | None = None
) -> dict[Path, SoundFile | str]:
    """Read the header and hash the bytes of every file once; a str is why one cannot be read.

    A file of `known` whose size and times have not changed is not read. What was found is kept at
    `keep`, for `read_known`.
    """
    distinct = list(dict.fromkeys(paths))
    inspect = partial(_inspect, known or {})
    with ThreadPoolExecutor(num_workers) as pool:
        inspected = list(track(pool.map(inspect, distinct), "checking files", len(distinct)))
    found = dict(zip(distinct, inspected, strict=True))
    if keep is not None:
        _write(keep, found)
    return {path: file for path, (_, file) in found.items()}


def read_known(paths: Sequence[Path]) -> dict[str, tuple[Stamp, SoundFile]]:
    """Return what was kept at these paths; nothing of a file that is missing or damaged."""
    known: dict[str, tuple[Stamp, SoundFile]] = {}
    for kept in paths:
        try:
            entries = json.loads(kept.read_text(encoding="utf-8"))
            known |= {
                path: (tuple(stamp), SoundFile(audio.AudioInfo(*info), digest, *stamp[:2]))
                for path, (stamp, info, digest) in entries.items()
            }
        except (OSError, ValueError, TypeError, AttributeError):
            continue  # all files are read again
    return known


def _inspect(known: Known, path: Path) -> tuple[Stamp | None, SoundFile | str]:
    """Return the stamp of a file, if it may be trusted later, and what the file is."""
    stamp = _stamp_of(path)
    before = known.get(str(path))
    if before and before[0] == stamp:
        return before
    try:
        info, stat = audio.probe(path), path.stat()
        return stamp, SoundFile(info, audio.digest(path), stat.st_size, stat.st_mtime_ns)
    except AudioError as error:
        is_there = os.path.lexists(path)
        return None, f"{error}" if is_there else f"{error}; paths are relative to the metadata file"


def _stamp_of(path: Path) -> Stamp | None:
    """Return size and times of a file; None if it is missing, or changed just now."""
    try:
        found = path.stat()
    except OSError:
        return None
    is_settled = time.time() - max(found.st_mtime, found.st_ctime) > _SETTLED_SEC
    return (found.st_size, found.st_mtime_ns, found.st_ctime_ns) if is_settled else None


def _write(keep: Path, found: Mapping[Path, tuple[Stamp | None, SoundFile | str]]) -> None:
    entries = {
        str(path): (stamp, list(vars(file.info).values()), file.digest)
        for path, (stamp, file) in found.items()
        if stamp and isinstance(file, SoundFile)
    }
    keep.parent.mkdir(parents=True, exist_ok=True)
    write_whole(keep, json.dumps(entries, separators=(",", ":")))
