"""Metadata files to tables: json jsonl csv tsv sqlite parquet hdf5, each as its rows stand there.

What the values mean is decided in metadata.py; here a file is only found readable or not, with a
MetadataError, and a line or row of it readable or not, with an Unreadable in its place. In JSON and
parquet a row may be a whole conversation: Turns.
"""

# Not read by pandas: it guesses types per column (speaker 007 becomes 7, and an absent number turns
# its column into floats), and its parser neither says which line of a CSV file is wrong nor tells
# closed quotes from open ones.

import csv
import io
import json
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from csm_ft.data.token_file import read_hdf5_table
from csm_ft.datasets.tables import (
    NEEDED,
    SUFFIXES,
    TURNS,
    Table,
    TableRow,
    Turns,
    Unreadable,
    check_header,
    field_of,
    reading,
    repeated,
    show,
    show_all,
)
from csm_ft.errors import MetadataError
from csm_ft.text_file import read_text

_STRING_OR_TRAILING_COMMA = re.compile(r'"(?:\\.|[^"\\])*"?|,(?=\s*[\]}])', re.DOTALL)


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
    missing = [field for field in ("path", "text") if field not in fields]
    if names and missing:
        raise MetadataError(
            f"{path}: no column for {' and '.join(missing)}; needed are {NEEDED}; found are"
            f" {show_all(names)}: rename them"
        )
    if not rows:
        raise MetadataError(f"{path}: holds no rows; each row needs {NEEDED}")
    return names, rows


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


# JSON


def _read_json(path: Path) -> Table:
    """Read an array of objects, alone or under "data"; trailing commas are accepted."""
    text = read_text(path, MetadataError)
    try:
        top = _parse_json(text)
    except json.JSONDecodeError as error:
        hint = "fix that place"
        if error.msg == "Extra data":
            hint = "name a file with one object per line .jsonl"
        raise MetadataError(
            f"{path} line {error.lineno} column {error.colno}: not JSON: {error.msg}; {hint}"
        ) from error
    except (ValueError, RecursionError) as error:  # thousands of digits, thousands of brackets
        raise MetadataError(
            f"{path}: not JSON that can be read: {error}; write an array of objects with {NEEDED}"
        ) from error
    array = top.get("data") if isinstance(top, dict) else top
    if not isinstance(array, list):
        found = f"an object with {show_all(top)}" if isinstance(top, dict) else show(top)
        raise MetadataError(
            f'{path}: holds {found}; write an array of objects, [{{...}}, ...] or {{"data":'
            f" [...]}}, with {NEEDED}"
        )
    return _with_own_columns([_json_row(row) for row in array])


def _parse_json(text: str) -> Any:
    """Parse JSON; if that fails, once more without the commas before closing brackets."""
    try:
        return json.loads(text, object_pairs_hook=_json_object)
    except json.JSONDecodeError:
        without = _STRING_OR_TRAILING_COMMA.sub(
            lambda match: "" if match[0] == "," else match[0], text
        )
        return json.loads(without, object_pairs_hook=_json_object)


def _read_jsonl(path: Path) -> Table:
    """Read one object per line; a line that cannot be read costs one row."""
    # splitlines would cut strings at U+2028.
    lines = [line for line in read_text(path, MetadataError).split("\n") if line.strip()]
    starts_array = bool(lines) and lines[0].lstrip().startswith("[")
    if starts_array and (len(lines) == 1 or isinstance(_json_line(lines[0]), Unreadable)):
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
    return Unreadable(f"the object has {show_all(repeated(names))} twice; keep one")


def _with_own_columns(rows: list[TableRow]) -> Table:
    """Return the rows with the columns that each of them brings, in the order of appearance."""
    names: dict[str, None] = {}
    for row in rows:
        for record in _records_of(row):
            names |= dict.fromkeys(record)
    return list(names), rows


def _records_of(row: TableRow) -> Iterator[Mapping[str, Any]]:
    if isinstance(row, Turns):
        yield row.defaults
        yield from (turn for turn in row.turns if isinstance(turn, Mapping))
    elif isinstance(row, Mapping):
        yield row


# CSV


def _read_csv(path: Path) -> Table:
    """Read comma-separated text with a header.

    Or with semicolons, bars or tabs where only that makes sense of the header.
    """
    text = read_text(path, MetadataError)
    header = text.lstrip().split("\n", 1)[0]
    for mark in ",;|\t":
        if {"path", "text"} <= {field_of(name) for name in _header_names(header, mark)}:
            return _parse_csv(path, text, mark, csv.QUOTE_MINIMAL)
    if header:  # report that before anything about quotes: files without a header end here
        return _header_names(header, ","), []
    return _parse_csv(path, text, ",", csv.QUOTE_MINIMAL)


def _header_names(header: str, mark: str) -> list[str]:
    return [name.strip('" \r') for name in header.split(mark)]


def _read_tsv(path: Path) -> Table:
    """Read tab-separated text with a header.

    Quotes are part of the texts where only that makes rows of the lines (as in Common Voice).
    """
    text = read_text(path, MetadataError)
    as_texts = _parse_csv(path, text, "\t", csv.QUOTE_NONE)
    try:
        as_quotes = _parse_csv(path, text, "\t", csv.QUOTE_MINIMAL)
    except MetadataError:
        return as_texts
    names, rows = as_texts
    are_whole = all(isinstance(row, dict) and len(row) == len(names) for row in rows)
    return as_texts if len(rows) > len(as_quotes[1]) and are_whole else as_quotes


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
    check_header(path, header)
    return header, [_csv_row(header, fields, delimiter) for fields in records]


def _csv_row(header: list[str], fields: list[str], delimiter: str) -> TableRow:
    if len(fields) > len(header):
        return Unreadable(
            f"has {len(fields)} fields where the header has {len(header)}; put a text with"
            f" {delimiter!r} in it in quotes"
        )
    return dict(zip(header, fields, strict=False))  # a short row lacks its last columns


# Databases and binary tables


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
            query = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')"
            tables = [name for (name,) in database.execute(query)]
            if table.lower() not in [name.lower() for name in tables]:
                raise MetadataError(
                    f"{path}: has no table {table!r}; it has {show_all(tables)}: name one with"
                    " --sql_table"
                )
            # The name is one of those listed above.
            quoted = table.replace('"', '""')
            cursor = database.execute(f'SELECT * FROM "{quoted}"')  # noqa: S608
            names = [column[0] for column in cursor.description]
            check_header(path, names)
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
        check_header(path, names)
        known = [name for name in names if _is_known(name, file.schema_arrow.field(name).type)]
        for name in known:
            if pyarrow.types.is_nested(file.schema_arrow.field(name).type) and name != TURNS:
                raise MetadataError(
                    f"{path}: column {name} holds records; write out the sound files and put their"
                    " paths there"
                )
        if not known:
            return names, [{}] * file.metadata.num_rows
        records = file.read(columns=known).to_pylist()
        inner, rows = _with_own_columns([_json_row(row) for row in records])
        return list(dict.fromkeys([*names, *inner])), rows
    except MetadataError:
        raise
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:
        raise MetadataError(f"{path}: not readable as parquet: {error}; write it again") from error


def _is_known(name: str, kind: Any) -> bool:
    if name != TURNS:
        return field_of(name) is not None
    is_list = pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind)
    return is_list and pyarrow.types.is_struct(kind.value_type)


def _read_hdf5(path: Path) -> Table:
    try:
        return _with_own_columns([*read_hdf5_table(path)])
    except ValueError as error:  # a StoreError, or what h5py raises on damage
        raise MetadataError(
            f"{path}: not readable as an HDF5 table: {error}; write columns or records with"
            f" {NEEDED}"
        ) from error
