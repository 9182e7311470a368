"""Recordings that a corpus has cut into files (LibriSpeech, MLS): successive ones as conversations.

Moonshine joins the turns of a conversation to longer examples, CSM sees them as context.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from csm_ft.data.rows import Row
from csm_ft.datasets.corpora.base import lines_of

MAX_GAP_SEC = 2.0  # between two files of one conversation, where the corpus tells their times
_NAME = re.compile(r"\d+[-_]\d+[-_](\d+)")  # reader, chapter or book, number
_SEGMENTS = "segments.txt"  # of a split of MLS: ID, url, start and end in seconds


class _Place(NamedTuple):
    """Where a file was in its recording; sorts by time."""

    recording: str
    start: float  # in seconds, or the file's number
    stop: float
    gap: float  # that may be before the next


def join_chapters(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with successive files of a folder as turns of a conversation, from 0.

    Successive are files with successive numbers, or, where segments.txt of MLS has their times,
    files of one recording at most 2 s apart. Rows of other names or with times stay as they are.
    """
    named = [row for row in rows if _NAME.fullmatch(row.path.stem) and row.start_sec is None]
    done: dict[str, Row] = {}
    for _, members in groupby(sorted(named, key=_folder), key=_folder):
        for run in _runs(list(members)):
            for turn, row in enumerate(run):
                done[row.where] = replace(row, conversation=run[0].path.stem, turn=turn)
    return [done.get(row.where, row) for row in rows]


def _folder(row: Row) -> str:
    return str(row.path.parent)


def _runs(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Yield the rows of a folder that follow each other."""
    run: list[Row] = []
    last: _Place | None = None
    for place, row in sorted(((_place(row), row) for row in rows), key=lambda pair: pair[0]):
        if last and (place.recording != last.recording or place.start - last.stop > last.gap):
            yield run
            run = []
        run.append(row)
        last = place
    if run:
        yield run


def _place(row: Row) -> _Place:
    times = _times(row.path.parents[3]) if len(row.path.parents) > 3 else {}
    if row.path.stem in times:
        return times[row.path.stem]
    name = _NAME.fullmatch(row.path.stem)
    assert name is not None, "only such rows are chosen"
    return _Place("", float(name[1]), float(name[1]), 1.0)


@cache
def _times(split: Path) -> dict[str, _Place]:
    """Return the times of the files of a split of MLS; lines that are no times are left out."""
    path = split / _SEGMENTS
    if not path.is_file():
        return {}
    found = {}
    for _, line in lines_of(path):
        try:
            name, url, start, end = line.split("\t")
            found[name] = _Place(url, float(start), float(end), MAX_GAP_SEC)
        except ValueError:
            continue
    return found
