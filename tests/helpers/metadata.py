"""Folders of metadata and sound files in tests, and what is read of them."""

from pathlib import Path

from csm_ft.data.rows import Rejection, Row
from csm_ft.datasets.metadata import read_metadata


def make(folder: Path, *files: str, **texts: str) -> None:
    """Make sound files by their names, and text files with their contents."""
    for name in (*files, *texts):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(texts.get(name, "sound"), encoding="utf-8")


def read(path: Path) -> tuple[list[Row], list[Rejection], str]:
    told: list[str] = []
    rows, rejections = read_metadata(path, tell=told.append)
    return rows, rejections, "\n".join(told)
