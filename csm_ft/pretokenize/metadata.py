"""Metadata files to checked rows.

Which sound file, what is said in it, and optionally from where to where and by whom.

Reads json jsonl csv tsv sqlite parquet hdf5 with the columns `path` and `text` and, if wanted,
`start`, `end` or `duration` (seconds), `speaker`, and `conversation` and `turn`, in any mix over
the rows; other columns are ignored. Or a folder: folders.py. A row that cannot be used becomes a
Rejection with its reason; only a file that cannot be read at all is an error. Sound files are not
opened here.

Rows of one conversation are its turns, in the order of their numbers, or of the rows where there
are none. Every row counts, good or not: what is rejected leaves a hole, so that nobody takes the
turn after it for the answer to the one before.
"""

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

from csm_ft.pretokenize.folders import find_metadata, is_ljspeech, read_folder, read_ljspeech
from csm_ft.pretokenize.formats import MetadataError, Turns, Unreadable, field_of, read_table, show

__all__ = ["MetadataError", "Rejection", "Row", "read_metadata"]

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_SPAN_TOLERANCE_SEC = 1e-3  # how far end and start + duration may lie apart, if a row has all three
_PRINTED_NOTHING = (
    "nan",
    "none",
    "null",
)  # what an absent number or speaker looks like when a program printed it


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
    conversation: str = ""  # "" = none; else a word, as speaker is
    # place in the conversation, from 0, among all rows of it that the file has, rejected ones, too
    turn: int = 0


@dataclass(frozen=True, slots=True)
class Rejection:
    """One row that cannot be used.

    With the file's own spelling of path and text ("" where there is none).
    """

    where: str
    path: str
    text: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"

    def to_json(self) -> str:
        """Return one line of rejected.jsonl."""
        return (
            json.dumps(asdict(self), ensure_ascii=False).encode(errors="backslashreplace").decode()
        )


@dataclass(frozen=True, slots=True)
class _Record:
    """A row as it stands in the file, or a turn of one."""

    where: str
    columns: dict[str, Any] | Unreadable
    defaults: Mapping[str, Any]  # of the row around a turn, for what the turn does not say
    conversation: str  # where neither names one: "row 17" for a turn of a list, "" for a row


@dataclass(slots=True)
class _Checked:
    """A row after reading: good if it has no reason."""

    record: _Record
    conversation: str | None  # "" = none, None = cannot be read
    turn: Decimal | None
    row: Row | None = None
    reason: str = ""

    def rejection(self) -> Rejection:
        """Return why the row cannot be used."""
        columns, defaults = self.record.columns, self.record.defaults
        if isinstance(columns, Unreadable):
            return Rejection(self.record.where, columns.path, "", self.reason)
        path, text = (
            _spelling(columns, field) or _spelling(defaults, field) for field in ("path", "text")
        )
        return Rejection(self.record.where, path, text, self.reason)


def read_metadata(path: Path, *, sql_table: str = "data") -> tuple[list[Row], list[Rejection]]:
    """Read a metadata file by its suffix, or a folder; `sql_table` is the table of an SQLite file.

    Returns:
        The good rows and the others, each in the file's order.

    Raises:
        MetadataError: no such file, unknown suffix, not readable in that format, no column for path
        or text, a column twice, no rows;
            a folder with neither metadata nor sound files, or with several metadata files.

    """
    source = find_metadata(path)
    folder = Path.cwd() / (
        source if source.is_dir() else source.parent
    )  # where the user sees the file, not where a link leads
    checked = [_check(record, folder) for record in _records(source, sql_table)]
    if any(item.conversation for item in checked):
        _place_turns(checked)
    rows = [item.row for item in checked if item.row and not item.reason]
    return rows, [item.rejection() for item in checked if item.reason]


def _records(source: Path, sql_table: str) -> Iterator[_Record]:
    if source.is_dir():
        yield from (_Record(where, columns, {}, "") for where, columns in read_folder(source))
        return
    _, table_rows = (
        read_ljspeech(source) if is_ljspeech(source) else read_table(source, sql_table=sql_table)
    )
    for number, row in enumerate(table_rows, start=1):
        where = f"{source} row {number}"
        if isinstance(row, Turns):
            for place, turn in enumerate(row.turns, start=1):
                yield _Record(f"{where} turn {place}", turn, row.defaults, f"row {number}")
        else:
            yield _Record(where, row, {}, "")


def _check(record: _Record, folder: Path) -> _Checked:
    columns = record.columns
    values, reasons = _values({} if isinstance(columns, Unreadable) else columns)
    if record.defaults:
        default_values, default_reasons = _values(record.defaults)
        reasons |= {
            field: reason for field, reason in default_reasons.items() if field not in values
        }
        values = {**default_values, **values}
    if record.conversation:
        values.setdefault("conversation", record.conversation)
    conversation = values.get("conversation", None if isinstance(columns, Unreadable) else "")
    checked = _Checked(
        record,
        None if "conversation" in reasons else conversation,
        None if "turn" in reasons else values.get("turn"),
    )
    try:
        if isinstance(columns, Unreadable):
            raise _RowError(columns.reason)
        checked.row = _check_row(record.where, values, reasons, folder)
    except _RowError as error:
        checked.reason = str(error)
    return checked


def _values(columns: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the value of each field that has one, and the reason for each that cannot be read."""
    values: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    for name, raw in columns.items():
        field = field_of(name)
        if field is None:
            continue
        try:
            value = _CONVERT[field](name, raw)
        except _RowError as error:
            reasons.setdefault(field, str(error))
            continue
        if value is not None and values.setdefault(field, value) != value:
            reasons.setdefault(
                field,
                f"{name} {show(value)} and {field} {show(values[field])} differ; keep one of the"
                " columns",
            )
    return values, reasons


def _check_row(
    where: str, values: Mapping[str, Any], reasons: Mapping[str, str], folder: Path
) -> Row:
    for reason in reasons.values():
        raise _RowError(reason)
    for field in ("path", "text"):
        if field not in values:
            raise _RowError(f"{field} is missing or empty; fill it in or drop the row")
    if (
        "\n" in values["text"]
        and (suffix := Path(values["path"]).suffix)
        and suffix in values["text"]
    ):
        raise _RowError(
            f"the text runs over several rows, {show(values['text'])}: a quote mark is not closed;"
            " double the quotes in texts"
        )
    if "turn" in values and "conversation" not in values:
        raise _RowError(
            f"turn {values['turn']} is of no conversation; name it in the column conversation, or"
            " leave turn out"
        )
    start_sec, end_sec = _span(values)
    path = _resolve(folder, values["path"])
    return Row(
        where,
        path,
        values["text"],
        values.get("speaker"),
        start_sec,
        end_sec,
        values.get("conversation", ""),
    )


def _place_turns(checked: Sequence[_Checked]) -> None:
    """Give every turn its place in its conversation; what cannot be placed gets its reason."""
    for is_unknown, run in groupby(
        range(len(checked)), key=lambda i: checked[i].conversation is None
    ):
        places = list(run)
        before, after = places[0] - 1, places[-1] + 1
        if (
            is_unknown
            and before >= 0
            and after < len(checked)
            and checked[before].conversation == checked[after].conversation
        ):
            for i in places:  # a torn line between two turns of a conversation is one, too
                checked[i].conversation = checked[before].conversation
    conversations: dict[str, list[_Checked]] = {}
    for item in checked:
        if item.conversation:
            conversations.setdefault(item.conversation, []).append(item)
    for turns in conversations.values():
        _place(turns)


def _place(turns: Sequence[_Checked]) -> None:
    """Place the turns of one conversation by their numbers.

    A row without one, where others have one, stands after the row before it.
    """
    name = f"conversation {show(turns[0].conversation)}"
    is_numbered = any(item.turn is not None for item in turns)
    first_with: dict[Decimal, str] = {}
    order: list[Decimal] = []
    for item in turns:
        if item.turn is not None:
            first = first_with.setdefault(item.turn, item.record.where)
            if first != item.record.where:
                item.reason = (
                    item.reason
                    or f"the place of an earlier turn; {first} is turn {item.turn} of {name}, too:"
                    " number them apart"
                )
        elif is_numbered:
            item.reason = (
                item.reason
                or "no number, but other turns of its conversation have one;"
                f" number all turns of {name}, or none"
            )
        order.append(
            item.turn if item.turn is not None else order[-1] if order else Decimal("-Infinity")
        )
    for rank, i in enumerate(sorted(range(len(turns)), key=order.__getitem__)):
        row = turns[i].row
        turns[i].row = replace(row, turn=rank) if row else None


def _span(values: Mapping[str, Any]) -> tuple[float | None, float | None]:
    start_sec, end_sec, duration_sec = (
        values.get("start"),
        values.get("end"),
        values.get("duration"),
    )
    if start_sec is not None and start_sec < 0:
        raise _RowError(f"start_sec {start_sec} is below 0 {_clip(values)}")
    if duration_sec is not None:
        if duration_sec <= 0:
            raise _RowError(f"duration_sec {duration_sec} is not above 0 {_clip(values)}")
        sum_sec = round((start_sec or 0.0) + duration_sec, 9)  # 1.1 + 2.2 = 3.3
        if end_sec is None:
            end_sec = sum_sec
        elif abs(end_sec - sum_sec) > _SPAN_TOLERANCE_SEC:
            raise _RowError(
                f"end_sec {end_sec} is not start_sec {start_sec or 0.0} + duration_sec"
                f" {duration_sec} {_clip(values)}"
            )
    if end_sec is not None and end_sec <= (start_sec or 0.0):
        raise _RowError(
            f"end_sec {end_sec} is not after start_sec {start_sec or 0.0} {_clip(values)}"
        )
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
        if "\0" in value or (
            not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value)
        ):
            raise _RowError(
                f"{name} {show(value)} has characters that are no text (NUL, broken UTF-8); write"
                " it again as UTF-8"
            )
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
        raise _RowError(
            f"{name} {show(value)} is an empty cell printed by a program; fill it in or drop"
            " the row"
        )
    if not any(letter.isprintable() and not letter.isspace() for letter in value):
        raise _RowError(
            f"{name} {show(value)} has no visible character; fill it in or drop the row"
        )
    return value


def _path(name: str, value: Any) -> str | None:
    value = _text(name, value)
    if value is not None and "://" in value:
        raise _RowError(
            f"{name} {show(value)} is an address; fetch the file and give its local path"
        )
    return value


def _word(name: str, value: Any) -> str | None:
    value = _plain(name, value)
    if value is None or (isinstance(value, str) and value.lower() in _PRINTED_NOTHING):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise _RowError(
            f"{name} {show(value)} is neither a word nor a number; write a word, or leave it out"
        )
    if isinstance(value, float | Decimal) and not math.isfinite(value):
        raise _RowError(f"{name} {value} is not finite; write a word or a whole number")
    word = (
        value if isinstance(value, str) else str(int(value)) if value == int(value) else str(value)
    )
    return re.sub(r"(?<=\d)\.0+$", "", word) if _NUMBER.fullmatch(word) else word


def _speaker(name: str, value: Any) -> str | None:
    word = _word(name, value)
    if word is not None and any(letter in "[]" or not letter.isprintable() for letter in word):
        raise _RowError(
            f"{name} {show(word)} has brackets or control characters, but stands as [speaker]"
            " before the text; rename it"
        )
    return word


def _conversation(name: str, value: Any) -> str | None:
    word = _word(name, value)
    if word is not None and not word.isprintable():
        raise _RowError(f"{name} {show(word)} has control characters; rename it")
    return word


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return _NUMBER.fullmatch(value) is not None
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _turn(name: str, value: Any) -> Decimal | None:
    """Return the number exactly: turns may be numbered by time stamps."""
    value = _plain(name, value)
    if value is None or (isinstance(value, str) and value.lower() in _PRINTED_NOTHING):
        return None
    try:
        if (
            _is_number(value)
            and (number := Decimal(value if isinstance(value, int) else str(value))).is_finite()
        ):
            return number
    except InvalidOperation:  # an exponent of many digits
        pass
    raise _RowError(
        f"{name} {show(value)} is not a number; number the turns 1, 2, 3, or leave the column out"
    )


def _seconds(name: str, value: Any) -> float | None:
    value = _plain(name, value)
    if value is None or (isinstance(value, str) and value.lower() in _PRINTED_NOTHING):
        return None
    if not _is_number(value):
        raise _RowError(f"{name} {show(value)} is not a number of seconds; write it like 12.5")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds):
        raise _RowError(
            f"{name} {show(value)} is not finite; write seconds like 12.5, or leave it out"
        )
    return seconds


_CONVERT = {
    "path": _path,
    "text": _text,
    "start": _seconds,
    "end": _seconds,
    "duration": _seconds,
    "speaker": _speaker,
    "conversation": _conversation,
    "turn": _turn,
}


def _resolve(folder: Path, value: str) -> Path:
    parent, name = os.path.split(os.path.join(folder, os.path.expanduser(value)))  # noqa: PTH111, PTH118 - pathlib is slow for 1e6 rows
    return _real_folder(parent) / name


@lru_cache(maxsize=65536)
def _real_folder(folder: str) -> Path:
    """Resolve links and .. once per folder: two spellings of one file must be one source."""
    return Path(os.path.realpath(folder))


def _spelling(columns: Mapping[str, Any], field: str) -> str:
    value = next(
        (value for name, value in columns.items() if field_of(name) == field and value is not None),
        "",
    )
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
