"""Text with separators, .csv and .tsv, to rows below a header."""

import csv
import io
import re
from pathlib import Path
from typing import Any

from csm_ft.datasets.tables import (
    Columns,
    Table,
    TableRow,
    Unreadable,
)
from csm_ft.errors import MetadataError
from csm_ft.text_file import read_text

_MARKS = ",;|\t"
_SEPARATOR = re.compile(r'"?sep=([,;|\t])"?\r?\n')

# A field may be as long as it is: the module's own limit of 131,072 characters is less than a book.
csv.field_size_limit(2**31 - 1)


def read_csv(path: Path, columns: Columns) -> Table:
    """Read comma-separated text with a header.

    Or with semicolons, bars or tabs where only that makes sense of the header, or where a first
    line sep=; says so, as Excel writes it.
    """
    text = read_text(path, MetadataError)
    said = _SEPARATOR.match(text)
    if columns.are_numbers and not said:
        mark = max(_MARKS, key=text.split("\n", 1)[0].count)
        return _parse_csv(path, text, mark, csv.QUOTE_MINIMAL, columns)
    if said:
        return _parse_csv(path, text[said.end() :], said[1], csv.QUOTE_MINIMAL, columns)
    header = text.lstrip().split("\n", 1)[0]
    for mark in _MARKS:
        fields = {columns.field_of(name) for name in _header_names(header, mark)}
        if {"path", "text"} <= fields:
            return _parse_csv(path, text, mark, csv.QUOTE_MINIMAL, columns)
    if header:  # report that before anything about quotes: files without a header end here
        return _header_names(header, ","), []
    return _parse_csv(path, text, ",", csv.QUOTE_MINIMAL, columns)


def _header_names(header: str, mark: str) -> list[str]:
    return [name.strip('" \r') for name in header.split(mark)]


def read_tsv(path: Path, columns: Columns) -> Table:
    """Read tab-separated text with a header.

    Quotes are part of the texts where only that makes rows of the lines (as in Common Voice).
    """
    text = read_text(path, MetadataError)
    as_texts = _parse_csv(path, text, "\t", csv.QUOTE_NONE, columns)
    try:
        as_quotes = _parse_csv(path, text, "\t", csv.QUOTE_MINIMAL, columns)
    except MetadataError:
        return as_texts
    names, rows = as_texts
    are_whole = all(isinstance(row, dict) and len(row) == len(names) for row in rows)
    return as_texts if len(rows) > len(as_quotes[1]) and are_whole else as_quotes


def _parse_csv(path: Path, text: str, delimiter: str, quoting: Any, columns: Columns) -> Table:
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
    if columns.are_numbers:
        records.insert(0, [str(number + 1) for number in range(max(map(len, records)))])
    header, *records = records
    columns.check_header(path, header)
    return header, [_csv_row(header, fields, delimiter) for fields in records]


def _csv_row(header: list[str], fields: list[str], delimiter: str) -> TableRow:
    if len(fields) > len(header):
        return Unreadable(
            f"has {len(fields)} fields where the header has {len(header)}; put a text with"
            f" {delimiter!r} in it in quotes"
        )
    return dict(zip(header, fields, strict=False))  # a short row lacks its last columns
