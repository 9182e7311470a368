"""JSON and JSON Lines to rows: an object is a row, a list of turns a conversation."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from csm_ft.datasets.tables import (
    NEEDED,
    TURNS,
    Table,
    TableRow,
    Turns,
    Unreadable,
    repeated,
    show,
    show_all,
)
from csm_ft.errors import MetadataError
from csm_ft.text_file import read_text

_STRING_OR_TRAILING_COMMA = re.compile(r'"(?:\\.|[^"\\])*"?|,(?=\s*[\]}])', re.DOTALL)


def read_json(path: Path) -> Table:
    """Read an array of objects, alone or under "data"; trailing commas are accepted.

    Or one object per line, as manifests of NeMo are.
    """
    text = read_text(path, MetadataError)
    try:
        top = _parse_json(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and _is_json_lines(text):
            return read_jsonl(path)
        raise MetadataError(
            f"{path} line {error.lineno} column {error.colno}: not JSON: {error.msg}; fix that"
            " place"
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
    return with_own_columns([json_row(row) for row in array])


def _parse_json(text: str) -> Any:
    """Parse JSON; if that fails, once more without the commas before closing brackets."""
    try:
        return json.loads(text, object_pairs_hook=_json_object)
    except json.JSONDecodeError:
        without = _STRING_OR_TRAILING_COMMA.sub(
            lambda match: "" if match[0] == "," else match[0], text
        )
        return json.loads(without, object_pairs_hook=_json_object)


def _is_json_lines(text: str) -> bool:
    first, *others = [line for line in text.split("\n") if line.strip()]
    return bool(others) and first.lstrip().startswith("{") and first.rstrip().endswith("}")


def read_jsonl(path: Path) -> Table:
    """Read one object per line; a line that cannot be read costs one row."""
    # splitlines would cut strings at U+2028.
    lines = [line for line in read_text(path, MetadataError).split("\n") if line.strip()]
    starts_array = bool(lines) and lines[0].lstrip().startswith("[")
    if starts_array and (len(lines) == 1 or isinstance(_json_line(lines[0]), Unreadable)):
        raise MetadataError(
            f"{path}: starts with [, so it is an array; name it .json, or write one object (or"
            ' {"turns": [...]}) per line'
        )
    return with_own_columns([_json_line(line) for line in lines])


def _json_line(line: str) -> TableRow:
    try:
        return json_row(json.loads(line, object_pairs_hook=_json_object))
    except (ValueError, RecursionError) as error:
        return Unreadable(f"the line is not JSON: {error}; write one object per line")


def json_row(row: Any) -> TableRow:
    """Return a row, or the turns of a conversation, from what JSON or parquet holds."""
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


def with_own_columns(rows: list[TableRow]) -> Table:
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
