"""Metadata files to tables: json jsonl csv tsv sqlite parquet hdf5, each as its rows stand there.

What the values mean is decided in metadata.py; here a file is only found readable or not, with a
MetadataError, and a line or row of it readable or not, with an Unreadable in its place. In JSON and
parquet a row may be a whole conversation: Turns.
"""

# Not read by pandas: it guesses types per column (speaker 007 becomes 7, and an absent number turns
# its column into floats), and its parser neither says which line of a CSV file is wrong nor tells
# closed quotes from open ones.

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from csm_ft.data.not_read import what_helps
from csm_ft.data.token_file import read_hdf5_table
from csm_ft.datasets.delimited import read_csv, read_tsv
from csm_ft.datasets.json_rows import read_json, read_jsonl, with_own_columns
from csm_ft.datasets.parquet import read_parquet
from csm_ft.datasets.tables import NEEDED, SUFFIXES, Columns, Table, reading, show_all
from csm_ft.errors import MetadataError


def read_table(
    path: Path,
    *,
    sql_table: str,
    columns: Columns,
    tell: Callable[[str], object],
    has_text: bool = True,
) -> Table:
    """Read a file by its suffix; `tell` is told of sounds that are written out.

    Without `has_text` no column of the text is asked for.

    MetadataError if that cannot be done, or if no column can be path or text.
    """
    with reading(path):
        if not path.exists():
            raise MetadataError(
                f"{path}: no such file; give one of {SUFFIXES} with {NEEDED}, or a folder of sound"
                " files with transcripts"
            )
        names, rows = _read_by_suffix(path, sql_table, columns, tell)
    _check_names(path, names, columns, ("path", "text") if has_text else ("path",))
    if not rows:
        raise MetadataError(f"{path}: holds no rows; each row needs {NEEDED}")
    return names, rows


def _check_names(path: Path, names: Sequence[str], columns: Columns, needed: Sequence[str]) -> None:
    absent = [name for name in columns.given.values() if not _has(names, name)]
    if names and absent:
        raise MetadataError(
            f"{path}: has no column {show_all(absent)} (--columns); found are {show_all(names)}"
        )
    fields = {columns.field_of(name) for name in names}
    missing = [field for field in needed if field not in fields]
    if names and missing:
        example = " ".join(f"{field}=NAME" for field in missing)
        raise MetadataError(
            f"{path}: no column for {' and '.join(missing)}; needed are {NEEDED}; found are"
            f" {show_all(names)}: rename them, or say which it is with --columns {example}"
        )


def _has(names: Sequence[str], name: str) -> bool:
    return name.strip().lower() in {str(one).strip().lower() for one in names}


def _read_by_suffix(
    path: Path, sql_table: str, columns: Columns, tell: Callable[[str], object]
) -> Table:
    match path.suffix.lower():
        case ".json":
            return read_json(path)
        case ".jsonl" | ".ndjson":
            return read_jsonl(path)
        case ".gz" if Path(path.stem).suffix.lower() in (".jsonl", ".ndjson"):
            return read_jsonl(path)
        case ".csv":
            return read_csv(path, columns)
        case ".tsv":
            return read_tsv(path, columns)
        case ".sql" | ".sqlite" | ".db":
            return _read_sqlite(path, sql_table, columns)
        case ".parquet":
            return read_parquet(path, columns, tell)
        case ".hdf5" | ".h5":
            return _read_hdf5(path)
        case suffix:
            way_out = what_helps(path.name) or "convert or rename the file"
            raise MetadataError(f"{path}: suffix {suffix!r} is not one of {SUFFIXES}; {way_out}")


# Databases and binary tables


def _read_sqlite(path: Path, table: str, columns: Columns) -> Table:
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
            columns.check_header(path, names)
            return names, [dict(zip(names, values, strict=True)) for values in cursor]
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise MetadataError(
            f"{path}: not readable as SQLite: {error}; write the table again"
        ) from error


def _read_hdf5(path: Path) -> Table:
    try:
        return with_own_columns([*read_hdf5_table(path)])
    except ValueError as error:  # a StoreError, or what h5py raises on damage
        raise MetadataError(
            f"{path}: not readable as an HDF5 table: {error}; write columns or records with"
            f" {NEEDED}"
        ) from error
