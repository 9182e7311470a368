"""The token file: the arrays and clip table of every split, in one HDF5 file that can be mapped.

Each split is a group of contiguous, uncompressed data sets:

- ragged arrays X, each with X_offsets int64 [n+1]: the arrays that the family declares (CSM:
  `codes` uint16 [total frames, K], `text_tokens` uint32 [total]), and the texts of the clip table,
  `id` `text` `speaker` `source` `conversation`, as UTF-8 bytes;
- the numbers of the clip table, `start_sec` `end_sec` `duration_sec` `flags` `turn` [n];
- `tags` (JSON) and `weight` of each clip, which older files lack;
- where the sound comes from, if an array of it is left out: `source_size` `source_mtime_ns` [n],
  `source_digest`, `channel`; that array has its offsets only;
- what was measured on the sound, `level_dbfs` `peak` and the other fields of Measures, float32 [n],
  NaN = not measured. Files without them open, and no hash covers them.

The root attributes are the fields of StoreInfo; the group `assets` holds small files (codec,
tokenizer). HDF5's own variable-length types are not used, and headers have checksums, because
damage to unguarded ones crashes or hangs the library.
"""

import errno
import json
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
from numpy.typing import NDArray

from csm_ft.atomic import fsync, whole_file
from csm_ft.data.old_schemas import info_of_schema_2, missing_columns
from csm_ft.data.references import (
    SOURCE_NUMBERS,
    SOURCE_TEXTS,
    ReferencedSplit,
    ReferencedTable,
    source_columns,
)
from csm_ft.data.split import (
    LATER_NUMBER_COLUMNS,
    LATER_TEXT_COLUMNS,
    MEASURE_COLUMNS,
    NUMBER_COLUMNS,
    SCHEMA_VERSION,
    SPLITS,
    TEXT_COLUMNS,
    ArrayKind,
    ClipTable,
    ContentHash,
    Split,
    Store,
    StoreInfo,
    clip_columns,
    combine,
    content_fingerprint,
)
from csm_ft.errors import StoreError, first_line

READABLE_VERSIONS = (1, 2, 3)
# What h5py raises for damaged files, and for files of another kind.
HDF5_ERRORS = (OSError, KeyError, RuntimeError, TypeError, AttributeError, ValueError)
_BLOCK_CLIPS = 1024  # clips gathered per write
_RESERVED = (
    *TEXT_COLUMNS,
    *LATER_TEXT_COLUMNS,
    *NUMBER_COLUMNS,
    *LATER_NUMBER_COLUMNS,
    *MEASURE_COLUMNS,
    *SOURCE_NUMBERS,
    *SOURCE_TEXTS,
)  # names that no array of a family can have


def open_store(path: Path, *, in_memory: bool = True) -> Store:
    """Open a token file; in_memory=False maps its arrays, so that memory use stays constant.

    Raises StoreError for anything but a complete token file of a readable schema.
    """
    if not path.is_file():
        raise StoreError(
            f"{path}: no such token file; make it with: python pretokenize.py --train_data"
            f" train.json --output {shlex.quote(str(path))}"
        )
    try:
        with path.open("rb") as raw, h5py.File(path, "r", locking=False) as file:
            if os.fstat(raw.fileno()).st_ino != path.stat().st_ino:
                raise StoreError(f"{path} was replaced while it was being opened; try again")
            info = _read_info(path, file)
            mapped = None if in_memory else raw
            splits = {name: _read_split(path, file[name], info, mapped) for name in SPLITS}
            return Store(path, info, splits, _read_assets(file))
    except StoreError:
        raise
    except HDF5_ERRORS as error:
        raise StoreError(
            f"{path} is not a readable token file ({first_line(error)}): it is damaged, cut short"
            " or of another kind. Make it again with pretokenize.py, or copy it again if it came"
            " from another machine"
        ) from error


def family_of(path: Path) -> str:
    """Return the model family of a token file; "" if it names none, or is not a token file."""
    try:
        with hdf5(path) as file:
            value: Any = file.attrs.get("family", b"")
            return value.decode() if isinstance(value, bytes) else str(value)
    except HDF5_ERRORS:
        return ""


def is_token_file(path: Path) -> bool:
    """Tell whether a file is a token file of this program; False for anything else."""
    try:
        with hdf5(path) as file:
            return "schema_version" in file.attrs
    except HDF5_ERRORS:
        return False


@contextmanager
def hdf5(path: Path) -> Iterator[Any]:
    """Open any HDF5 file for reading, such as a token file of another program.

    Raises OSError if it is not one.
    """
    with h5py.File(path, "r", locking=False) as file:
        yield file


def write_store(
    path: Path,
    info: StoreInfo,
    splits: Mapping[str, ClipTable],
    assets: Mapping[str, bytes] | None = None,
    referenced: str = "",
) -> StoreInfo:
    """Write a token file atomically, and read it back to compare it before it is renamed.

    The array `referenced` is left out: its tables are ReferencedTables, which say where it comes
    from. A kill at any moment leaves the previous file at `path`. Returns `info` with the content
    fingerprint. Raises StoreError for a text that HDF5 cannot hold and for a disk that does not
    return what was written, MachineError for a full disk.
    """
    assert not set(info.arrays) & set(_RESERVED), f"an array cannot be called {_RESERVED}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as draft:
        try:
            with h5py.File(draft, "w", libver="latest", locking=False) as file:
                hashes = [
                    _write_split(file.create_group(name), splits.get(name), info.arrays, referenced)
                    for name in SPLITS
                ]
                fingerprint = combine(hashes)
                info = replace(info, content_fingerprint=fingerprint, schema_version=SCHEMA_VERSION)
                _write_info(file, info)
                group = file.create_group("assets")
                for name, blob in (assets or {}).items():
                    group.create_dataset(name, data=np.frombuffer(blob, dtype=np.uint8))
        except (OSError, RuntimeError) as error:
            # h5py reports write errors as either, the number only in their text.
            is_full = f"errno = {errno.ENOSPC}" in str(error)
            text = os.strerror(errno.ENOSPC) if is_full else first_line(error)
            raise OSError(errno.ENOSPC if is_full else errno.EIO, text) from error
        fsync(draft)
        written = open_store(draft, in_memory=False).splits
        if content_fingerprint(written, referenced) != combine(hashes, referenced):
            raise StoreError(
                f"the disk of {path} gave back other bytes than were written; {path} is as it was."
                " Check the disk"
            )
    return info


def read_hdf5_table(path: Path) -> list[dict[str, Any]]:
    """Read a table of metadata from HDF5, one dict of Python values per row.

    The table is 1-D datasets of equal length at the root or in the only group, or one compound
    dataset. Raises StoreError when the file has no such table.
    """
    try:
        with hdf5(path) as file:
            datasets = _datasets(file)
            tables = [item for item in datasets.values() if item.dtype.names]
            if len(datasets) == 1 and tables:
                columns = {name: tables[0][name].tolist() for name in tables[0].dtype.names}
            else:
                columns = {
                    name: item[()].tolist() for name, item in datasets.items() if item.ndim == 1
                }
    except (OSError, RuntimeError, TypeError) as error:
        raise StoreError(
            f"{path} is not readable as HDF5 ({first_line(error)}); write it again"
        ) from error
    lengths = {name: len(values) for name, values in columns.items()}
    if not columns or len(set(lengths.values())) != 1:
        raise StoreError(
            f"{path} has no table: expected 1-D datasets of equal length (path, text, ...) at the"
            " root or in one group, or one compound dataset; found"
            f" {lengths or sorted(datasets) or 'nothing'}"
        )
    return [
        dict(zip(columns, map(_plain, row), strict=True))
        for row in zip(*columns.values(), strict=True)
    ]


def _datasets(group: Any) -> dict[str, Any]:
    """Return the datasets of a group, or of the innermost group if each holds only the next."""
    members = list(group.values())
    while len(members) == 1 and isinstance(members[0], h5py.Group):
        group = members[0]
        members = list(group.values())
    return {name: item for name, item in group.items() if isinstance(item, h5py.Dataset)}


def _read_info(path: Path, file: h5py.File) -> StoreInfo:
    version = file.attrs.get("schema_version")
    if version is None:
        raise StoreError(
            f"{path} is an HDF5 file, but not a token file (it has no schema_version); make one"
            " with pretokenize.py"
        )
    if version not in READABLE_VERSIONS:
        raise StoreError(
            f"{path} has schema {version}, this program reads"
            f" {', '.join(map(str, READABLE_VERSIONS))}; use the version that wrote it, or"
            " pretokenise again"
        )
    attributes: dict[str, Any] = {name: _plain(value) for name, value in file.attrs.items()}
    if version < SCHEMA_VERSION:
        return info_of_schema_2(attributes)
    kinds: dict[str, list[Any]] = json.loads(attributes["arrays"])
    return StoreInfo(
        **{
            **attributes,
            "arrays": {name: ArrayKind(dtype, width) for name, (dtype, width) in kinds.items()},
            "facts": json.loads(attributes["facts"]),
        }
    )


def _write_info(file: h5py.File, info: StoreInfo) -> None:
    values = {
        **vars(info),
        "arrays": json.dumps(info.arrays),
        "facts": json.dumps(dict(info.facts)),
    }
    for name, value in values.items():
        if isinstance(value, str):
            blob = value.encode()
            file.attrs.create(name, blob, dtype=h5py.string_dtype("utf-8", max(1, len(blob))))
        else:
            file.attrs[name] = value


def _read_split(path: Path, group: Any, info: StoreInfo, mapped: Any) -> Split:
    """Read one split; `mapped`, the same file as a plain one, maps its ragged arrays instead."""
    texts = (*TEXT_COLUMNS, *LATER_TEXT_COLUMNS)
    referenced = next((name for name in info.arrays if name not in group), "")
    texts += SOURCE_TEXTS if referenced else ()
    ragged = {**dict.fromkeys(texts, ArrayKind("|u1")), **info.arrays}
    offsets = {f"{name}_offsets": ArrayKind("<i8") for name in ragged}
    ragged.pop(referenced, None)
    later = {name: dtype for name, (dtype, _) in LATER_NUMBER_COLUMNS.items()}
    per_clip = {**NUMBER_COLUMNS, **later, **MEASURE_COLUMNS}
    per_clip |= SOURCE_NUMBERS if referenced else {}
    numbers = {name: ArrayKind(dtype) for name, dtype in per_clip.items()}
    kinds = {**ragged, **numbers, **offsets}
    num_clips = len(group["flags"])
    columns = missing_columns(group, info.schema_version, num_clips)
    for name in kinds.keys() - columns.keys():
        dataset = group[name]
        _check_kind(path, dataset, kinds[name])
        is_mapped = mapped is not None and name in ragged
        columns[name] = _map(dataset, mapped) if is_mapped else dataset[()]
        columns[name].flags.writeable = False
    fits = all(len(columns[name]) == num_clips for name in numbers)
    fits = fits and all(
        _offsets_fit(columns[f"{name}_offsets"], num_clips, len(columns[name])) for name in ragged
    )
    if not fits:
        raise StoreError(
            f"{path} {group.name[1:]}: offsets, arrays and clip table do not fit each other; it is"
            " damaged, pretokenise again"
        )
    about = (group.name[1:], columns, info.arrays, info.facts)
    return ReferencedSplit(*about, referenced) if referenced else Split(*about)


def _check_kind(path: Path, dataset: Any, kind: ArrayKind) -> None:
    shape = dataset.shape
    is_right = len(shape) == (2 if kind.width else 1) and shape[1:] in ((), (kind.width,))
    if dataset.dtype != np.dtype(kind.dtype) or not is_right:
        raise StoreError(
            f"{path} {dataset.name[1:]} is {dataset.dtype} {shape}, not {np.dtype(kind.dtype)}"
            f"{f' [*, {kind.width}]' if kind.width else ''}; pretokenise again"
        )


def _offsets_fit(offsets: NDArray[np.int64], num_clips: int, num_rows: int) -> bool:
    if len(offsets) != num_clips + 1 or offsets[0] != 0 or offsets[-1] != num_rows:
        return False
    return bool((np.diff(offsets) >= 0).all())


def _map(dataset: Any, mapped: Any) -> NDArray[Any]:
    if dataset.size == 0:  # takes no space in the file, and mmap refuses it
        return np.empty(dataset.shape, dataset.dtype)
    offset = dataset.id.get_offset()
    if offset is None:
        raise StoreError(
            f"{dataset.name} is not contiguous and cannot be mapped; pretokenise again, or load it"
            " into memory"
        )
    array = np.memmap(mapped, dtype=dataset.dtype, mode="r", offset=offset, shape=dataset.shape)
    return np.asarray(array)


def _read_assets(file: h5py.File) -> dict[str, bytes]:
    group: Any = file["assets"]
    return {name: item[()].tobytes() for name, item in group.items()}


def _write_split(
    group: Any, table: ClipTable | None, kinds: Mapping[str, ArrayKind], referenced: str
) -> ContentHash:
    """Fill the group of one split, block by block; None is an empty split."""
    content = ContentHash(kinds)
    num_clips = len(table) if table is not None else 0
    clips = [table.clip(i) for i in range(num_clips)] if table is not None else []
    try:
        for name, column in clip_columns(clips).items():
            group.create_dataset(name, data=column)
    except UnicodeEncodeError as error:
        raise StoreError(
            f"{group.name}: a text is not valid Unicode ({error}); drop or fix that row"
        ) from error
    if referenced:
        known = cast("ReferencedTable", table)
        for name, column in source_columns([known.reference(i) for i in range(num_clips)]).items():
            group.create_dataset(name, data=column)
    none = np.zeros(0, np.int64)
    lengths = {name: table.lengths(name) if table is not None else none for name in kinds}
    content.add_clips([clip.id for clip in clips], list(lengths.values()))
    content.add_conversations((clip.conversation, clip.turn) for clip in clips)
    content.add_weights(clip.weight for clip in clips)
    for name, kind in kinds.items():
        # Created at its full size, as only a contiguous data set can be mapped.
        offsets = np.cumsum([0, *lengths[name].tolist()], dtype=np.int64)
        shape = (int(offsets[-1]), kind.width) if kind.width else (int(offsets[-1]),)
        dataset = group.create_dataset(name, shape, kind.dtype) if name != referenced else None
        group.create_dataset(f"{name}_offsets", data=offsets)
        for start in range(0, num_clips, _BLOCK_CLIPS):
            assert table is not None
            stop = min(start + _BLOCK_CLIPS, num_clips)
            block = np.concatenate([table.array(name, i) for i in range(start, stop)])
            block = block.astype(kind.dtype, casting="same_kind", copy=False)
            if dataset is not None:
                dataset[offsets[start] : offsets[stop]] = block
            content.add_block(name, block)
    return content


def _plain(value: Any) -> Any:
    """Convert a value that h5py returned to a plain Python one."""
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return value.item() if isinstance(value, np.generic) else value
