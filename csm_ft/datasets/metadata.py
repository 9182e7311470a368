"""Metadata files to rows: which sound file, what is said in it, from where to where, by whom.

Reads json jsonl csv tsv sqlite parquet hdf5 with the columns `path` and `text` and, if wanted,
`start`, `end` or `duration` (seconds), `speaker`, and `conversation` and `turn`, in any mix over
the rows; other columns are ignored. Or a folder: folders.py. A row that cannot be used becomes a
Rejection with its reason; only a file that cannot be read at all is an error. Sound files are not
opened here.

Rows of one conversation are its turns, in the order of their numbers, or of the rows where there
are none. Every row counts, good or not: a rejected one leaves a hole, so that the turn after it is
not taken for the answer to the one before.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

from csm_ft.data.rows import Rejection, Row
from csm_ft.datasets.folders import find_metadata, is_wav_list, read_folder, read_wav_list
from csm_ft.datasets.formats import read_table
from csm_ft.datasets.tables import Turns, Unreadable, field_of, show
from csm_ft.datasets.values import Reason, read_values

_SPAN_TOLERANCE_SEC = 1e-3  # how far end and start + duration may lie apart, if a row has all three


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
        path = _spelling(columns, "path") or _spelling(defaults, "path")
        text = _spelling(columns, "text") or _spelling(defaults, "text")
        return Rejection(self.record.where, path, text, self.reason)


def read_metadata(path: Path, *, sql_table: str = "data") -> tuple[list[Row], list[Rejection]]:
    """Read a metadata file by its suffix, or a folder; `sql_table` is the table of an SQLite file.

    Returns:
        The good rows and the others, each in the file's order.

    Raises:
        MetadataError: no such file, unknown suffix, not readable in that format, no column for path
            or text, a column twice, no rows; a folder with neither metadata nor sound files, or
            with several metadata files.

    """
    source = find_metadata(path)
    # Where the user sees the file, not where a link leads.
    folder = Path.cwd() / (source if source.is_dir() else source.parent)
    checked = [_check(record, folder) for record in _records(source, sql_table)]
    if any(item.conversation for item in checked):
        _place_turns(checked)
    rows = [item.row for item in checked if item.row and not item.reason]
    return rows, [item.rejection() for item in checked if item.reason]


def _records(source: Path, sql_table: str) -> Iterator[_Record]:
    if source.is_dir():
        yield from (_Record(where, columns, {}, "") for where, columns in read_folder(source))
        return
    if is_wav_list(source):
        _, table_rows = read_wav_list(source)
    else:
        _, table_rows = read_table(source, sql_table=sql_table)
    for number, row in enumerate(table_rows, start=1):
        where = f"{source} row {number}"
        if isinstance(row, Turns):
            for place, turn in enumerate(row.turns, start=1):
                yield _Record(f"{where} turn {place}", turn, row.defaults, f"row {number}")
        else:
            yield _Record(where, row, {}, "")


def _check(record: _Record, folder: Path) -> _Checked:
    columns = record.columns
    is_readable = not isinstance(columns, Unreadable)
    values, reasons = read_values(columns if is_readable else {})
    if record.defaults:
        default_values, default_reasons = read_values(record.defaults)
        needed = default_reasons.keys() - values.keys()
        reasons |= {name: reason for name, reason in default_reasons.items() if name in needed}
        values = {**default_values, **values}
    if record.conversation:
        values.setdefault("conversation", record.conversation)
    checked = _Checked(
        record,
        conversation=values.get("conversation", "" if is_readable else None),
        turn=None if "turn" in reasons else values.get("turn"),
    )
    if "conversation" in reasons:
        checked.conversation = None
    if isinstance(columns, Unreadable):
        checked.reason = columns.reason
        return checked
    outcome = _check_row(record.where, values, reasons, folder)
    if isinstance(outcome, Row):
        checked.row = outcome
    else:
        checked.reason = outcome
    return checked


def _check_row(
    where: str, values: Mapping[str, Any], reasons: Mapping[str, Reason], folder: Path
) -> Row | Reason:
    for reason in reasons.values():
        return reason
    for field in ("path", "text"):
        if field not in values:
            return Reason(f"{field} is missing or empty; fill it in or drop the row")
    if "\n" in values["text"] and _has_suffix_of(values["path"], values["text"]):
        return Reason(
            f"the text runs over several rows, {show(values['text'])}: a quote mark is not closed;"
            " double the quotes in texts"
        )
    if "turn" in values and "conversation" not in values:
        return Reason(
            f"turn {values['turn']} is of no conversation; name it in the column conversation, or"
            " leave turn out"
        )
    span = _span(values)
    if isinstance(span, Reason):
        return span
    return Row(
        where=where,
        path=_resolve(folder, values["path"]),
        text=values["text"],
        speaker=values.get("speaker"),
        start_sec=span[0],
        end_sec=span[1],
        conversation=values.get("conversation", ""),
    )


def _has_suffix_of(path: str, text: str) -> bool:
    suffix = Path(path).suffix
    return suffix != "" and suffix in text


def _place_turns(checked: Sequence[_Checked]) -> None:
    """Give every turn its place in its conversation; what cannot be placed gets its reason."""
    runs = groupby(range(len(checked)), key=lambda i: checked[i].conversation is None)
    for is_unknown, run in runs:
        places = list(run)
        before, after = places[0] - 1, places[-1] + 1
        if not is_unknown or before < 0 or after >= len(checked):
            continue
        if checked[before].conversation == checked[after].conversation:
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
    last = Decimal("-Infinity")
    for item in turns:
        reason = ""
        if item.turn is not None:
            last = item.turn
            first = first_with.setdefault(item.turn, item.record.where)
            if first != item.record.where:
                reason = (
                    f"the place of an earlier turn; {first} is turn {item.turn} of {name}, too:"
                    " number them apart"
                )
        elif is_numbered:
            reason = (
                "no number, but other turns of its conversation have one; number all turns of"
                f" {name}, or none"
            )
        item.reason = item.reason or reason
        order.append(last)
    for rank, i in enumerate(sorted(range(len(turns)), key=order.__getitem__)):
        row = turns[i].row
        turns[i].row = replace(row, turn=rank) if row else None


def _span(values: Mapping[str, Any]) -> tuple[float | None, float | None] | Reason:
    """Return start and end in seconds, from start, end and duration."""
    start_sec, end_sec = values.get("start"), values.get("end")
    duration_sec = values.get("duration")
    if start_sec is not None and start_sec < 0:
        return _bad_span(values, f"start_sec {start_sec} is below 0")
    if duration_sec is not None:
        if duration_sec <= 0:
            return _bad_span(values, f"duration_sec {duration_sec} is not above 0")
        sum_sec = round((start_sec or 0.0) + duration_sec, 9)  # 1.1 + 2.2 = 3.3
        if end_sec is None:
            end_sec = sum_sec
        elif abs(end_sec - sum_sec) > _SPAN_TOLERANCE_SEC:
            rule = f"start_sec {start_sec or 0.0} + duration_sec {duration_sec}"
            return _bad_span(values, f"end_sec {end_sec} is not {rule}")
    if end_sec is not None and end_sec <= (start_sec or 0.0):
        return _bad_span(values, f"end_sec {end_sec} is not after start_sec {start_sec or 0.0}")
    return start_sec, end_sec


def _bad_span(values: Mapping[str, Any], problem: str) -> Reason:
    return Reason(f"{problem} (clip {show(values['path'])}); drop the row or fix the span")


def _resolve(folder: Path, value: str) -> Path:
    # pathlib is slow for a million rows.
    given = os.path.expanduser(value)  # noqa: PTH111
    parent, name = os.path.split(os.path.join(folder, given))  # noqa: PTH118
    return _real_folder(parent) / name


@lru_cache(maxsize=65536)
def _real_folder(folder: str) -> Path:
    """Resolve links and .. once per folder: two spellings of one file must be one source."""
    return Path(os.path.realpath(folder))


def _spelling(columns: Mapping[str, Any], field: str) -> str:
    """Return a field as the file spells it, or "" if it has none."""
    for name, value in columns.items():
        if field_of(name) == field and value is not None:
            return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return ""
