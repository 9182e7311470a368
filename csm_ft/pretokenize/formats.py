"""Metadata files to tables.

Json jsonl csv tsv sqlite parquet hdf5, each to its column names and its rows as they stand there.

What the values mean is decided in metadata.py; here a file is only found readable or not, with a
MetadataError, and a line or row of it readable or not, with an Unreadable in its place. In JSON and
parquet a row may be a whole conversation: Turns.
"""

import codecs
import csv
import io
import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from csm_ft.data.token_file import read_hdf5_table

SUFFIXES = ".json .jsonl .csv .tsv .sql .sqlite .db .parquet .hdf5 .h5"
ALIASES = {
    "path": ("path", "audio"),
    "text": ("text", "transcription", "transcript", "sentence"),
    "start": ("start", "start_sec"),
    "end": ("end", "end_sec"),
    "duration": ("duration", "duration_sec"),
    "speaker": ("speaker", "speaker_id"),
    "conversation": ("conversation", "conversation_id"),
    "turn": ("turn",),
}
TURNS = "turns"  # the column that holds a list of turns
NEEDED = " and ".join(f"{field} (or {', '.join(ALIASES[field][1:])})" for field in ("path", "text"))

_FIELD_OF = {alias: field for field, aliases in ALIASES.items() for alias in aliases}
_STRING_OR_TRAILING_COMMA = re.compile(r'"(?:\\.|[^"\\])*"?|,(?=\s*[\]}])', re.DOTALL)


class MetadataError(ValueError):
    """A metadata file that cannot be read as a whole.

    The message names the file, the rule and the way out.
    """


@dataclass(frozen=True)
class Unreadable:
    """Stands for a row that cannot be read as columns."""

    reason: str
    path: str = ""  # of the sound file, where it is known


@dataclass(frozen=True)
class Turns:
    """A row that is a conversation.

    The records of its turns, and the columns beside them, which hold for each turn that lacks them.
    """

    turns: Sequence[dict[str, Any] | Unreadable]
    defaults: Mapping[str, Any]


TableRow = dict[str, Any] | Turns | Unreadable
Table = tuple[Sequence[str], Sequence[TableRow]]  # names of the columns, rows


def field_of(column: str) -> str | None:
    """Return which field a column fills, None for none.

    Capitals and spaces around its name do not matter.
    """
    return _FIELD_OF.get(column) or _FIELD_OF.get(str(column).strip().lower())


def show(value: Any) -> str:
    """Return a value as a message shows it: on one line, not endlessly."""
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def read_table(path: Path, *, sql_table: str) -> Table:
    """Read a file by its suffix.

    MetadataError if that cannot be done, or if no column can be path or text.
    """
    with reading(path):
        if not path.exists():
            raise MetadataError(
                f"{path}: no such file; give one of {SUFFIXES} with {NEEDED}, or a folder of sound"
                " files with transcripts"
            )
        names, rows = _read_by_suffix(path, sql_table)
    fields = {field_of(name) for name in names}
    if names and (missing := [field for field in ("path", "text") if field not in fields]):
        raise MetadataError(
            f"{path}: no column for {' and '.join(missing)}; needed are {NEEDED}; found are"
            f" {_list(names)}: rename them"
        )
    if not rows:
        raise MetadataError(f"{path}: holds no rows; each row needs {NEEDED}")
    return names, rows


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say of which file it is that the system refuses to read it."""
    try:
        yield
    except OSError as error:
        raise MetadataError(
            f"{path}: cannot be read: {error.strerror or error}; make it readable or write it again"
        ) from error


def _read_by_suffix(path: Path, sql_table: str) -> Table:
    match path.suffix.lower():
        case ".json":
            return _read_json(path)
        case ".jsonl" | ".ndjson":
            return _read_jsonl(path)
        case ".csv":
            return _read_csv(path)
        case ".tsv":
            return _read_tsv(path)
        case ".sql" | ".sqlite" | ".db":
            return _read_sqlite(path, sql_table)
        case ".parquet":
            return _read_parquet(path)
        case ".hdf5" | ".h5":
            return _read_hdf5(path)
        case suffix:
            raise MetadataError(
                f"{path}: suffix {suffix!r} is not one of {SUFFIXES}; convert or rename the file"
            )


def read_text(path: Path) -> str:
    """Read UTF-8, with or without a byte order mark; MetadataError for anything else."""
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data:
        raise MetadataError(
            f"{path}: is UTF-16, UTF-32 or no text at all; save it as UTF-8 (iconv -f UTF-16 -t"
            " UTF-8)"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise MetadataError(
            f"{path} line {line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as"
            " UTF-8"
        ) from error


# JSON


def _read_json(path: Path) -> Table:
    """Read an array of objects, alone or under "data".

    Commas before a closing bracket are forgiven.
    """
    text = read_text(path)
    try:
        try:
            top = json.loads(text, object_pairs_hook=_json_object)
        except json.JSONDecodeError:
            without = _STRING_OR_TRAILING_COMMA.sub(
                lambda match: "" if match[0] == "," else match[0], text
            )
            top = json.loads(without, object_pairs_hook=_json_object)
    except json.JSONDecodeError as error:
        hint = (
            "name a file with one object per line .jsonl"
            if error.msg == "Extra data"
            else "fix that place"
        )
        raise MetadataError(
            f"{path} line {error.lineno} column {error.colno}: not JSON: {error.msg}; {hint}"
        ) from error
    except (
        ValueError,
        RecursionError,
    ) as error:  # a number of thousands of digits, thousands of brackets
        raise MetadataError(
            f"{path}: not JSON that can be read: {error}; write an array of objects with {NEEDED}"
        ) from error
    array = top.get("data") if isinstance(top, dict) else top
    if not isinstance(array, list):
        found = f"an object with {_list(top)}" if isinstance(top, dict) else show(top)
        raise MetadataError(
            f'{path}: holds {found}; write an array of objects, [{{...}}, ...] or {{"data":'
            f" [...]}}, with {NEEDED}"
        )
    return _with_own_columns([_json_row(row) for row in array])


def _read_jsonl(path: Path) -> Table:
    """Read one object per line; a line that cannot be read costs one row."""
    lines = [
        line for line in read_text(path).split("\n") if line.strip()
    ]  # splitlines would cut strings at U+2028
    if (
        lines
        and lines[0].lstrip().startswith("[")
        and (len(lines) == 1 or isinstance(_json_line(lines[0]), Unreadable))
    ):
        raise MetadataError(
            f"{path}: starts with [, so it is an array; name it .json, or write one object (or"
            ' {"turns": [...]}) per line'
        )
    return _with_own_columns([_json_line(line) for line in lines])


def _json_line(line: str) -> TableRow:
    try:
        return _json_row(json.loads(line, object_pairs_hook=_json_object))
    except (ValueError, RecursionError) as error:
        return Unreadable(f"the line is not JSON: {error}; write one object per line")


def _json_row(row: Any) -> TableRow:
    if isinstance(row, list) and any(isinstance(turn, dict | Unreadable) for turn in row):
        return _turns(row, {})
    if isinstance(row, dict) and isinstance(row.get(TURNS), list):
        return _turns(row[TURNS], {name: value for name, value in row.items() if name != TURNS})
    return _record("row", row)


def _turn(turn: Any) -> dict[str, Any] | Unreadable:
    if isinstance(turn, dict) and isinstance(turn.get(TURNS), list):
        return Unreadable(
            f"the turn has {TURNS} of its own; a conversation is one list: write them all into it"
        )
    return _record("turn", turn)


def _turns(turns: list[Any], defaults: Mapping[str, Any]) -> TableRow:
    if not turns:
        return Unreadable(f"{TURNS} is an empty list; drop the row, or write its turns")
    return Turns([_turn(turn) for turn in turns], defaults)


def _record(what: str, value: Any) -> dict[str, Any] | Unreadable:
    if isinstance(value, dict | Unreadable):
        return value
    return Unreadable(
        f'the {what} is {show(value)}, not an object; write {{"path": ..., "text": ...}}'
    )


def _json_object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | Unreadable:
    columns = dict(pairs)
    if len(columns) == len(pairs):
        return columns
    names = [name for name, _ in pairs]
    return Unreadable(f"the object has {_list(_twice(names))} twice; keep one")


def _with_own_columns(rows: list[TableRow]) -> Table:
    """Name the columns of rows that each bring their own."""
    records = (
        record
        for row in rows
        for record in ((row.defaults, *row.turns) if isinstance(row, Turns) else (row,))
    )
    return (
        list({name: None for record in records if isinstance(record, Mapping) for name in record}),
        rows,
    )


# CSV


def _read_csv(path: Path) -> Table:
    """Read comma-separated text with a header.

    Or with semicolons, bars or tabs where only that makes sense of the header.
    """
    text = read_text(path)
    header = text.lstrip().split("\n", 1)[0]
    fitting = (
        mark
        for mark in ",;|\t"
        if {"path", "text"} <= {field_of(name.strip('" \r')) for name in header.split(mark)}
    )
    mark = next(fitting, None)
    if (
        mark is None and header
    ):  # say that before anything about quotes: files without a header end here
        return [name.strip('" \r') for name in header.split(",")], []
    return _parse_csv(path, text, mark or ",", csv.QUOTE_MINIMAL)


def _read_tsv(path: Path) -> Table:
    """Read tab-separated text with a header.

    Quotes are part of the texts where only that makes rows of the lines (as in Common Voice).
    """
    text = read_text(path)
    as_texts = _parse_csv(path, text, "\t", csv.QUOTE_NONE)
    try:
        as_quotes = _parse_csv(path, text, "\t", csv.QUOTE_MINIMAL)
    except MetadataError:
        return as_texts
    names, rows = as_texts
    if len(rows) > len(as_quotes[1]) and all(
        isinstance(row, dict) and len(row) == len(names) for row in rows
    ):
        return as_texts
    return as_quotes


def _parse_csv(path: Path, text: str, delimiter: str, quoting: Any) -> Table:
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        quoting=quoting,
        strict=True,
        skipinitialspace=True,
    )
    try:
        records = [fields for fields in reader if fields]  # blank lines are no rows
    except csv.Error as error:
        raise MetadataError(
            f"{path} line {reader.line_num}: {error}; put a text with commas or quotes in quotes,"
            " and double the quotes in it"
        ) from error
    if not records:
        return [], []
    header, *records = records
    _check_header(path, header)
    return header, [_csv_row(header, fields, delimiter) for fields in records]


def _csv_row(header: list[str], fields: list[str], delimiter: str) -> TableRow:
    if len(fields) > len(header):
        return Unreadable(
            f"has {len(fields)} fields where the header has {len(header)}; put a text with"
            f" {delimiter!r} in it in quotes"
        )
    return dict(zip(header, fields, strict=False))  # a short row lacks its last columns


# Data bases and binary tables


def _read_sqlite(path: Path, table: str) -> Table:
    with path.open("rb") as file:
        if file.read(16) != b"SQLite format 3\0":
            raise MetadataError(
                f"{path}: is no SQLite file; load an SQL dump into one first (sqlite3 data.db <"
                " dump.sql)"
            )
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            database.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
            tables = [
                name
                for (name,) in database.execute(
                    "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')"
                )
            ]
            if table.lower() not in [name.lower() for name in tables]:
                raise MetadataError(
                    f"{path}: has no table {table!r}; it has {_list(tables)}: name one with"
                    " --sql_table"
                )
            quoted = table.replace('"', '""')
            cursor = database.execute(f'SELECT * FROM "{quoted}"')  # noqa: S608 - a name of the list above, quoted
            names = [column[0] for column in cursor.description]
            _check_header(path, names)
            return names, [dict(zip(names, values, strict=True)) for values in cursor]
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise MetadataError(
            f"{path}: not readable as SQLite: {error}; write the table again"
        ) from error


def _read_parquet(path: Path) -> Table:
    """Read the known columns only: data sets of the hub carry the sound itself in others."""
    try:
        file = pyarrow.parquet.ParquetFile(path)
        names = file.schema_arrow.names
        _check_header(path, names)
        kinds = {name: file.schema_arrow.field(name).type for name in names}
        known = [
            name
            for name in names
            if field_of(name) or (name == TURNS and _is_list_of_records(kinds[name]))
        ]
        for name in known:
            if pyarrow.types.is_nested(kinds[name]) and name != TURNS:
                raise MetadataError(
                    f"{path}: column {name} holds records; write out the sound files and put their"
                    " paths there"
                )
        inner, rows = _with_own_columns(
            [_json_row(row) for row in file.read(columns=known).to_pylist()] if known else []
        )
        return list(dict.fromkeys([*names, *inner])), (
            rows if known else [{}] * file.metadata.num_rows
        )
    except MetadataError:
        raise
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:
        raise MetadataError(f"{path}: not readable as parquet: {error}; write it again") from error


def _is_list_of_records(kind: Any) -> bool:
    return (
        pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind)
    ) and pyarrow.types.is_struct(kind.value_type)


def _read_hdf5(path: Path) -> Table:
    try:
        return _with_own_columns([*read_hdf5_table(path)])
    except ValueError as error:
        raise MetadataError(
            f"{path}: not readable as an HDF5 table: {error}; write columns or records with"
            f" {NEEDED}"
        ) from error


def _check_header(path: Path, names: Sequence[str]) -> None:
    if twice := _twice([str(name).strip().lower() for name in names if field_of(name)]):
        raise MetadataError(f"{path}: has column {_list(twice)} twice; keep one")


def _twice(names: Sequence[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def _list(names: Iterable[str]) -> str:
    shown = [show(name) for name in names]
    return (
        ", ".join(shown[:12]) + (f" and {len(shown) - 12} more" if len(shown) > 12 else "")
        if shown
        else "nothing"
    )
