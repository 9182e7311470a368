"""Folders of metadata and sound files in tests, and what is read of them."""

from pathlib import Path

import numpy as np
import soundfile

from csm_ft.data.rows import Rejection, Row
from csm_ft.datasets.metadata import read_metadata

_RATE_HZ = 8000
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 134742\n"


def make(folder: Path, *files: str, **texts: str) -> None:
    """Make sound files by their names, and text files with their contents."""
    for name in (*files, *texts):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(texts.get(name, "sound"), encoding="utf-8")


def sound(path: Path, *, sec: float = 0.25, level: float = 0.3, hz: int = 200) -> None:
    """Write a tone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    times = np.arange(round(sec * _RATE_HZ)) / _RATE_HZ
    soundfile.write(path, level * np.sin(2 * np.pi * hz * times), _RATE_HZ)


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def read(path: Path) -> tuple[list[Row], list[Rejection], str]:
    told: list[str] = []
    rows, rejections = read_metadata(path, tell=told.append)
    return rows, rejections, "\n".join(told)
