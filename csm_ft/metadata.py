"""Metadata files to checked rows: which sound file, what is said in it, and optionally from where to where and by whom.

Reads json jsonl csv tsv sqlite parquet hdf5 with the columns `path` and `text` and, if wanted, `start`, `end` or `duration` (seconds) and
`speaker`, in any mix over the rows; other columns are ignored. A row that cannot be used becomes a Rejection with its reason; only a file
that cannot be read at all is an error. Sound files are not opened here.
"""

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

from csm_ft.tables import MetadataError, Unreadable, field_of, read_table, show

__all__ = ["MetadataError", "Rejection", "Row", "read_metadata"]

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_SPAN_TOLERANCE_SEC = 1e-3  # how far end and start + duration may lie apart, if a row has all three
_PRINTED_NOTHING = ("nan", "none", "null")  # what an absent number or speaker looks like when a program printed it


class _RowError(ValueError):
    """Why one row cannot be used."""


@dataclass(frozen=True, slots=True)
class Row:
    """One clip that a metadata file asks for."""

    where: str  # "val.json row 17", counted from 1
    path: Path  # absolute; relative ones are relative to the metadata file
    text: str  # stripped, never empty
    speaker: str | None  # a word: 3, 3.0 and "3" are all "3"
    start_sec: float | None  # None = from the start of the file
    end_sec: float | None  # None = to its end


@dataclass(frozen=True, slots=True)
class Rejection:
    """One row that cannot be used, with the file's own spelling of path and text ("" where there is none)."""

    where: str
    path: str
    text: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"

    def to_json(self) -> str:
        """Return one line of rejected.jsonl."""
        return json.dumps(asdict(self), ensure_ascii=False).encode(errors="backslashreplace").decode()


def read_metadata(path: Path, *, sql_table: str = "data") -> tuple[list[Row], list[Rejection]]:
    """Read a metadata file by its suffix; `sql_table` is the table of an SQLite file.

    Returns:
        The good rows and the others, each in the file's order.

    Raises:
        MetadataError: no such file, unknown suffix, not readable in that format, no column for path or text, a column twice, no rows.

    """
    _, table_rows = read_table(path, sql_table=sql_table)
    folder = Path.cwd() / path.parent  # where the user sees the file, not where a link leads
    rows: list[Row] = []
    rejections: list[Rejection] = []
    for number, columns in enumerate(table_rows, start=1):
        where = f"{path} row {number}"
        if isinstance(columns, Unreadable):
            rejections.append(Rejection(where, "", "", columns.reason))
            continue
        try:
            rows.append(_check_row(where, columns, folder))
        except _RowError as error:
            rejections.append(Rejection(where, _spelling(columns, "path"), _spelling(columns, "text"), str(error)))
    return rows, rejections


def _check_row(where: str, columns: Mapping[str, Any], folder: Path) -> Row:
    values: dict[str, Any] = {}
    for name, raw in columns.items():
        field = field_of(name)
        if field is None:
            continue
        value = _CONVERT[field](name, raw)
        if value is None:
            continue
        if values.setdefault(field, value) != value:
            raise _RowError(f"{name} {show(value)} and {field} {show(values[field])} differ; keep one of the columns")
    for field in ("path", "text"):
        if field not in values:
            raise _RowError(f"{field} is missing or empty; fill it in or drop the row")
    if "\n" in values["text"] and (suffix := Path(values["path"]).suffix) and suffix in values["text"]:
        raise _RowError(f"the text runs over several rows, {show(values['text'])}: a quote mark is not closed; double the quotes in texts")
    start_sec, end_sec = _span(values)
    return Row(where, _resolve(folder, values["path"]), values["text"], values.get("speaker"), start_sec, end_sec)


def _span(values: Mapping[str, Any]) -> tuple[float | None, float | None]:
    start_sec, end_sec, duration_sec = values.get("start"), values.get("end"), values.get("duration")
    if start_sec is not None and start_sec < 0:
        raise _RowError(f"start_sec {start_sec} is below 0 {_clip(values)}")
    if duration_sec is not None:
        if duration_sec <= 0:
            raise _RowError(f"duration_sec {duration_sec} is not above 0 {_clip(values)}")
        sum_sec = round((start_sec or 0.0) + duration_sec, 9)  # 1.1 + 2.2 = 3.3
        if end_sec is None:
            end_sec = sum_sec
        elif abs(end_sec - sum_sec) > _SPAN_TOLERANCE_SEC:
            raise _RowError(f"end_sec {end_sec} is not start_sec {start_sec or 0.0} + duration_sec {duration_sec} {_clip(values)}")
    if end_sec is not None and end_sec <= (start_sec or 0.0):
        raise _RowError(f"end_sec {end_sec} is not after start_sec {start_sec or 0.0} {_clip(values)}")
    return start_sec, end_sec


def _clip(values: Mapping[str, Any]) -> str:
    return f"(clip {show(values['path'])}); drop the row or fix the span"


def _plain(name: str, value: Any) -> Any:
    """Return Python's own type for what formats bring, and None for what means absent."""
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:  # numpy scalars
        value = value.item()
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    if isinstance(value, str):
        value = value.strip()
        if "\0" in value or (not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value)):
            raise _RowError(f"{name} {show(value)} has characters that are no text (NUL, broken UTF-8); write it again as UTF-8")
        return value or None
    if isinstance(value, float | Decimal) and math.isnan(value):
        return None
    return value


def _text(name: str, value: Any) -> str | None:
    value = _plain(name, value)
    if value is None:
        return None
    if not isinstance(value, str):
        raise _RowError(f"{name} {show(value)} is not a string; put it in quotes")
    if value in ("nan", "NaN"):
        raise _RowError(f"{name} {show(value)} is an empty cell printed by a program; fill it in or drop the row")
    if not any(letter.isprintable() and not letter.isspace() for letter in value):
        raise _RowError(f"{name} {show(value)} has no visible character; fill it in or drop the row")
    return value


def _path(name: str, value: Any) -> str | None:
    value = _text(name, value)
    if value is not None and "://" in value:
        raise _RowError(f"{name} {show(value)} is an address; fetch the file and give its local path")
    return value


def _speaker(name: str, value: Any) -> str | None:
    value = _plain(name, value)
    if value is None or (isinstance(value, str) and value.lower() in _PRINTED_NOTHING):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise _RowError(f"{name} {show(value)} is neither a word nor a number; write a word, or leave it out")
    if isinstance(value, float | Decimal) and not math.isfinite(value):
        raise _RowError(f"{name} {value} is not finite; write a word or a whole number")
    word = value if isinstance(value, str) else str(int(value)) if value == int(value) else str(value)
    word = re.sub(r"(?<=\d)\.0+$", "", word) if _NUMBER.fullmatch(word) else word
    if any(letter in "[]" or not letter.isprintable() for letter in word):
        raise _RowError(f"{name} {show(word)} has brackets or control characters, but stands as [speaker] before the text; rename it")
    return word


def _seconds(name: str, value: Any) -> float | None:
    value = _plain(name, value)
    if value is None or (isinstance(value, str) and value.lower() in _PRINTED_NOTHING):
        return None
    is_number = _NUMBER.fullmatch(value) if isinstance(value, str) else isinstance(value, int | float | Decimal)
    if isinstance(value, bool) or not is_number:
        raise _RowError(f"{name} {show(value)} is not a number of seconds; write it like 12.5")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds):
        raise _RowError(f"{name} {show(value)} is not finite; write seconds like 12.5, or leave it out")
    return seconds


_CONVERT = {"path": _path, "text": _text, "speaker": _speaker, "start": _seconds, "end": _seconds, "duration": _seconds}


def _resolve(folder: Path, value: str) -> Path:
    parent, name = os.path.split(os.path.join(folder, os.path.expanduser(value)))  # noqa: PTH111, PTH118 - pathlib is slow for 1e6 rows
    return _real_folder(parent) / name


@lru_cache(maxsize=65536)
def _real_folder(folder: str) -> Path:
    """Resolve links and .. once per folder: two spellings of one file must be one source."""
    return Path(os.path.realpath(folder))


def _spelling(columns: Mapping[str, Any], field: str) -> str:
    value = next((value for name, value in columns.items() if field_of(name) == field and value is not None), "")
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
