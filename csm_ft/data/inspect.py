"""Every sound file opened and hashed once, several at a time."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from csm_ft.console import track
from csm_ft.data import audio
from csm_ft.errors import AudioError


@dataclass(frozen=True)
class SoundFile:
    """A file that can be read."""

    info: audio.AudioInfo
    digest: str  # of its bytes
    size: int = 0
    mtime_ns: int = 0


def inspect_files(paths: Iterable[Path], num_workers: int) -> dict[Path, SoundFile | str]:
    """Read the header and hash the bytes of every file once; a str is why one cannot be read."""
    distinct = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(num_workers) as pool:
        files = track(pool.map(_inspect, distinct), "checking files", len(distinct))
        return dict(zip(distinct, files, strict=True))


def _inspect(path: Path) -> SoundFile | str:
    try:
        info, stat = audio.probe(path), path.stat()
        return SoundFile(info, audio.digest(path), stat.st_size, stat.st_mtime_ns)
    except AudioError as error:
        is_there = os.path.lexists(path)
        return f"{error}" if is_there else f"{error}; paths are relative to the metadata file"
