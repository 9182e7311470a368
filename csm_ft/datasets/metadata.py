"""Metadata to rows: which sound file, what is said in it, from where to where, by whom.

Reads json jsonl csv tsv sqlite parquet hdf5 with the columns of tables.py in any mix over the rows;
other columns are not used, which is told. Or a folder: a corpus (corpora/), or one of folders.py. A
row that cannot be used becomes a Rejection with its reason; only a file that cannot be read at all
is an error. Sound files are not opened here.

Rows of one conversation are its turns, in the order of their numbers, or of the rows where there
are none. Every row counts, good or not: a rejected one leaves a hole, so that the turn after it is
not taken for the answer to the one before.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import groupby
from pathlib import Path
from typing import Any

from csm_ft.console import shorten
from csm_ft.data.rows import Rejection, Row
from csm_ft.datasets.corpora import CORPORA, find_corpus
from csm_ft.datasets.corpora.common_voice import is_list, read_list
from csm_ft.datasets.corpora.wav_lists import read_one
from csm_ft.datasets.folders import (
    find_splits,
    is_wav_list,
    one_table,
    only_folder,
    read_folder,
)
from csm_ft.datasets.formats import read_table
from csm_ft.datasets.sounds import find_sound, forget_folders
from csm_ft.datasets.tables import ALIASES, Columns, Table, Turns, Unreadable, reading, show
from csm_ft.datasets.tree import Tell, Tree
from csm_ft.datasets.values import Reason, read_values
from csm_ft.errors import MetadataError

_RESEMBLES = 0.7  # likeness of a column's name to a known one, from which it is told
_SPAN_TOLERANCE_SEC = 1e-3  # how far end and start + duration may lie apart, if a row has all three


@dataclass(frozen=True, slots=True)
class _Record:
    """A row as it stands in the file, or a turn of one."""

    where: str
    columns: dict[str, Any] | Unreadable
    folder: Path  # that paths are relative to, as the user sees it, not where a link leads
    split: str = ""  # of the file, for rows that name none
    defaults: Mapping[str, Any] = field(default_factory=dict)  # for what a turn does not say
    conversation: str = ""  # where neither names one: "row 17" for a turn of a list, "" for a row
    names: Columns = field(default_factory=Columns)  # of its columns, as the user has them


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
        record, defaults, columns = self.record.columns, self.record.defaults, self.record.names
        if isinstance(record, Unreadable):
            return Rejection(self.record.where, record.path, "", self.reason)
        path, text = (
            _spelling(record, name, columns) or _spelling(defaults, name, columns)
            for name in ("path", "text")
        )
        return Rejection(self.record.where, path, text, self.reason)


def read_metadata(
    path: Path,
    *,
    sql_table: str = "data",
    columns: Columns | None = None,
    corpus: str | None = None,
    tell: Tell = lambda _: None,
) -> tuple[list[Row], list[Rejection]]:
    """Read a metadata file by its suffix, or a folder; `sql_table` is the table of an SQLite file.

    A folder must hold the `corpus` of that name; without a name, its files tell. `tell` is called
    with what the data were taken for, and with what of them is not used.

    Returns:
        The good rows and the others, each in the file's order.

    Raises:
        MetadataError: no such file, unknown suffix, not readable in that format, no column for path
            or text, a column twice, no rows; a folder with neither metadata nor sound files, or
            with several metadata files.

    """
    forget_folders()
    reader = _Reader(sql_table, columns or Columns(), tell)
    records = reader.corpus(path, corpus) if corpus else reader.records(path, "")
    checked = [reader.check(record) for record in records]
    _number_channels(checked)
    if any(item.conversation for item in checked):
        _place_turns(checked)
    rows = [item.row for item in checked if item.row and not item.reason]
    return rows, [item.rejection() for item in checked if item.reason]


@dataclass(frozen=True)
class _Reader:
    """How metadata are read."""

    sql_table: str
    columns: Columns
    tell: Tell

    def corpus(self, path: Path, name: str) -> Iterator[_Record]:
        """Yield every row of a folder that must hold a corpus; MetadataError if it does not."""
        tree, corpus = Tree(path), CORPORA[name]
        if not corpus.is_in(tree):
            found = find_corpus(tree, by_top=True) or find_corpus(tree, by_top=False)
            hint = f"it looks like {found.title}" if found else "name the folder that holds it"
            raise MetadataError(f"{path}: does not hold {corpus.title} as it is known; {hint}")
        for where, columns in corpus.read(tree, self.tell):
            yield _Record(where, columns, Path.cwd() / path)

    def records(self, path: Path, split: str) -> Iterator[_Record]:
        """Yield every row of a file or folder, and every turn of a row."""
        with reading(path):
            is_folder = path.is_dir()
        if not is_folder:
            yield from self._file(path, split)
            return
        tree = Tree(path)
        corpus = find_corpus(tree, by_top=True)
        parts = [] if corpus else find_splits(tree)
        table = None if corpus or parts else one_table(tree)
        inner = None if corpus or parts or table else only_folder(tree)
        if inner:
            yield from self.records(inner, split)
            return
        if table:
            self.tell(f"{path} is a folder: its metadata is {table.name}")
            yield from self._file(table, split)
            return
        if parts:
            names = ", ".join(f"{part.name} is {name}" for name, part in parts)
            self.tell(f"{path} is a folder with splits: {names}")
            for name, part in parts:
                yield from self.records(part, name)
            return
        corpus = corpus or find_corpus(tree, by_top=False)
        if corpus:
            self.tell(f"{path} is {corpus.title}")
            found = corpus.read(tree, self.tell)
        else:
            self.tell(
                f"{path} is a folder without metadata: its sound files are the clips, the text"
                " file beside each its text"
            )
            found = read_folder(tree)
        for where, columns in found:
            yield _Record(where, columns, Path.cwd() / path, split)

    def _file(self, path: Path, split: str) -> Iterator[_Record]:
        folder = Path.cwd() / path.parent
        if is_wav_list(path, self.columns):
            for where, columns in read_one(path, path.parent, self.columns):
                yield _Record(where, columns, folder, split)
            return
        columns = Columns() if is_list(path) else self.columns
        names, rows = self._table(path)
        self._tell_unused(path, names)
        for number, row in enumerate(rows, start=1):
            where = f"{path} row {number}"
            if isinstance(row, Turns):
                for place, turn in enumerate(row.turns, start=1):
                    turn_where = f"{where} turn {place}"
                    yield _Record(
                        turn_where, turn, folder, split, row.defaults, f"row {number}", columns
                    )
            else:
                yield _Record(where, row, folder, split, names=columns)

    def _table(self, path: Path) -> Table:
        if is_list(path):
            self.tell(f"{path} is a table of Common Voice: its paths are below clips/")
            return read_list(path)
        return read_table(path, sql_table=self.sql_table, columns=self.columns, tell=self.tell)

    def _tell_unused(self, path: Path, names: Iterable[str]) -> None:
        """Say which columns are not used, and which of them look like one that is."""
        unused = [name for name in names if self.columns.field_of(name) is None]
        if not unused:
            return
        known = {alias: one for one, aliases in ALIASES.items() for alias in aliases}
        taken = {self.columns.field_of(name) for name in names}
        near = {
            name: known[found[0]]
            for name in unused
            if (found := difflib.get_close_matches(name.lower(), known, 1, _RESEMBLES))
        }
        hints = [f"{one}={name}" for name, one in near.items() if one not in taken]
        hint = f"; is one of them meant to be? --columns {' '.join(hints)}" if hints else ""
        self.tell(f"{path}: columns that are not used: {shorten(unused)}{hint}")

    def check(self, record: _Record) -> _Checked:
        """Read the values of a row."""
        columns = record.columns
        is_readable = not isinstance(columns, Unreadable)
        values, reasons = read_values(columns if is_readable else {}, record.names)
        if record.defaults:
            default_values, default_reasons = read_values(record.defaults, record.names)
            needed = default_reasons.keys() - values.keys()
            reasons |= {name: reason for name, reason in default_reasons.items() if name in needed}
            values = {**default_values, **values}
        if record.conversation:
            values.setdefault("conversation", record.conversation)
        values.setdefault("split", record.split)
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
        outcome = _check_row(record.where, values, reasons, record.folder)
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
    for name in ("path", "text"):
        if name not in values:
            return Reason(f"{name} is missing or empty; fill it in or drop the row")
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
        path=find_sound(folder, values["path"]),
        text=values["text"],
        speaker=values.get("speaker"),
        start_sec=span[0],
        end_sec=span[1],
        conversation=values.get("conversation", ""),
        channel=values.get("channel", ""),
        split=values["split"],
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


def _number_channels(checked: Sequence[_Checked]) -> None:
    """Replace numbers of channels by their names; they count from 0 if any is 0."""
    numbers = {item.row.channel for item in checked if item.row} & {"0", "1", "2"}
    if not numbers:
        return
    name_of = {"0": "left", "1": "right"} if "0" in numbers else {"1": "left", "2": "right"}
    is_open = numbers == {"1"}
    for item in checked:
        channel = item.row.channel if item.row else ""
        if item.row is None or channel not in numbers:
            continue
        item.row = replace(item.row, channel=name_of.get(channel, ""))
        if is_open or channel not in name_of:
            item.reason = item.reason or (
                f"channel {channel} may count from 0 or from 1; write left or right"
            )


def _spelling(record: Mapping[str, Any], name_of_field: str, columns: Columns) -> str:
    """Return a field as the file spells it, or "" if it has none."""
    for name, value in record.items():
        if columns.field_of(name) == name_of_field and value is not None:
            return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return ""
