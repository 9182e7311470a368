"""Rows back to metadata, .jsonl, and beside them those that cannot be used."""

import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from csm_ft.atomic import disk_errors, write_whole
from csm_ft.data.rows import Rejection, Row


def write_metadata(output: Path, rows: Sequence[Row], rejections: Sequence[Rejection]) -> Path:
    """Write rows to `output`, the others to `<output>.rejected.jsonl`, and return the latter.

    Paths are relative where the sound lies below the folder of `output`, else absolute.
    """
    rejected = Path(f"{output}.rejected.jsonl")
    with disk_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = output.parent.resolve()
    lines = [_to_json(row, folder) for row in rows]
    kept = {row.conversation for row in rows if row.conversation} | {row.path.name for row in rows}
    lines += [_hole(one) for one in rejections if _leaves_hole(one, kept)]
    if rejections:
        write_whole(rejected, "".join(f"{one.to_json()}\n" for one in rejections))
    else:
        rejected.unlink(missing_ok=True)
    write_whole(output, "".join(f"{line}\n" for line in lines))
    return rejected


def shown_path(path: Path, folder: Path) -> str:
    """Return a path as metadata in `folder` names it: relative below the folder, else absolute."""
    return os.fspath(path.relative_to(folder) if path.is_relative_to(folder) else path)


def as_line(values: Mapping[str, Any]) -> str:
    """Return the values that are given as JSON; what is no Unicode in names of files is escaped."""
    given = {name: value for name, value in values.items() if value not in (None, "")}
    return json.dumps(given, ensure_ascii=False).encode(errors="backslashreplace").decode()


def _to_json(row: Row, folder: Path) -> str:
    """Return a row as JSON; its path is relative where the sound lies below the output's folder."""
    values: dict[str, Any] = {
        "path": shown_path(row.path, folder),
        "text": row.text,
        "speaker": row.speaker,
        "start": row.start_sec,
        "end": row.end_sec,
        "channel": row.channel,
        "split": row.split,
        "conversation": row.conversation,
        "turn": row.turn if row.conversation else None,
        **row.tags,
        "weight": None if row.weight == 1 else row.weight,
    }
    return as_line(values)


def _leaves_hole(one: Rejection, kept: Collection[str]) -> bool:
    """Tell whether neighbours of a rejection are kept, which must not be joined across it.

    `kept` are conversations and names of sound files.
    """
    has_times = one.start_sec is not None or one.end_sec is not None
    name = PurePosixPath(one.path.replace("\\", "/")).name
    return one.conversation in kept or (has_times and name in kept)


def _hole(one: Rejection) -> str:
    """Return a turn or a part of a recording that cannot be used, without its text."""
    values: dict[str, Any] = {"path": one.path, "start": one.start_sec, "end": one.end_sec}
    if one.conversation:
        values |= {"conversation": one.conversation, "turn": one.turn}
    return as_line({**values, "split": one.split, "note": one.reason})
