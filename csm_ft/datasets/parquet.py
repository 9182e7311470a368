"""Parquet to rows; sounds that stand in it, as in data sets of the Hugging Face hub, to files."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from csm_ft.atomic import disk_errors, write_whole
from csm_ft.datasets.json_rows import json_row, with_own_columns
from csm_ft.datasets.tables import TURNS, Columns, Table, show
from csm_ft.errors import MachineError, MetadataError

_ROWS_PER_READ = 64  # rows of sounds in memory
_SUFFIXES = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg"}  # by the first bytes; else mp3


def read_parquet(path: Path, columns: Columns, tell: Callable[[str], object]) -> Table:
    """Read the known columns only.

    Sounds that stand in the file are written, once, into the folder `<path>.sounds`; `tell` is told
    so. MetadataError for what is no parquet, and for other records in a column.
    """
    try:
        file = pyarrow.parquet.ParquetFile(path)
        schema = file.schema_arrow
        columns.check_header(path, schema.names)
        known = [n for n in schema.names if _is_known(n, schema.field(n).type, columns)]
        sounds = [name for name in known if _holds_sound(schema.field(name).type)]
        # Beside the sound itself its path is only a name.
        known = [n for n in known if not sounds or n in sounds or columns.field_of(n) != "path"]
        for name in known:
            is_nested = pyarrow.types.is_nested(schema.field(name).type)
            if is_nested and name not in (TURNS, *sounds):
                raise MetadataError(
                    f"{path}: column {name} holds records that are no sounds ({{bytes, path}});"
                    " write out the sound files and put their paths there"
                )
        if not known:
            return schema.names, [{}] * file.metadata.num_rows
        records: list[dict[str, Any]] = []
        for batch in file.iter_batches(_ROWS_PER_READ, columns=known):
            records += [_with_files(path.absolute(), r, sounds) for r in batch.to_pylist()]
        if sounds:
            tell(f"the sounds in {path} are written into {_sound_folder(path)}")
        inner, rows = with_own_columns([json_row(record) for record in records])
        return list(dict.fromkeys([*schema.names, *inner])), rows
    except (MetadataError, MachineError):
        raise
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:
        raise MetadataError(f"{path}: not readable as parquet: {error}; write it again") from error


def _is_known(name: str, kind: Any, columns: Columns) -> bool:
    if name != TURNS:
        return columns.field_of(name) is not None
    is_list = pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind)
    return is_list and pyarrow.types.is_struct(kind.value_type)


def _holds_sound(kind: Any) -> bool:
    return pyarrow.types.is_struct(kind) and "bytes" in {one.name for one in kind}


def _with_files(path: Path, record: dict[str, Any], sounds: list[str]) -> dict[str, Any]:
    """Return a record with the path of a file in place of each sound."""
    return {
        name: _file_of(path, value) if name in sounds else value for name, value in record.items()
    }


def _file_of(path: Path, sound: Any) -> str | None:
    data, given = (sound or {}).get("bytes"), (sound or {}).get("path")
    if not data:
        return given
    suffix = _SUFFIXES.get(data[:4]) or ".mp3"
    name = hashlib.blake2b(data, digest_size=16).hexdigest() + suffix
    target = _sound_folder(path) / name
    if not target.is_file():
        try:
            with disk_errors(target):
                target.parent.mkdir(exist_ok=True)
            write_whole(target, data)
        except MachineError as error:
            raise MachineError(
                f"{error}\n{path} holds the sound {show(given)} itself, which is written out"
                " beside it: copy it to a folder that can be written"
            ) from error
    return str(target)


def _sound_folder(path: Path) -> Path:
    return path.with_name(f"{path.name}.sounds")
