"""The token file.

Audio codes, text tokens and the table of clips of every split, in one HDF5 file that can be mapped.

Per split ragged arrays X, each with X_offsets int64 [n+1]: `codes` uint16 [total frames, K],
`text_tokens` uint32 [total], and the texts of the clip table, `id` `text` `speaker` `source`
`conversation`, as UTF-8 bytes; then its numbers, `start_sec` `end_sec` `duration_sec` `flags`
`turn` [n] (files of schema 1 have no `conversation` and `turn`). Contiguous and uncompressed. Root
attributes are StoreInfo; the group `assets` holds small files (codec, tokenizer). Nothing is of
variable length in HDF5's own sense, and headers have checksums: where they are not guarded, damage
crashes the library or hangs it. Token files of the public CSM trainer open too
(csm_ft/data/public_trainer.py).

    python -m csm_ft.data tokens.hdf5                                        verifies and describes it
    python -m csm_ft.data tokens.hdf5 --decode 3 [--split val] [--output x.wav]   writes clip 3 back to a wav
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from csm_ft.data import public_trainer as public_tokens
from csm_ft.data.describe import describe_store, find_problems
from csm_ft.atomic import fsync, whole_file
from csm_ft.data.split import (
    NUMBER_COLUMNS,
    RAGGED,
    READABLE_VERSIONS,
    SCHEMA_VERSION,
    SPLITS,
    Clip,
    ClipTable,
    ContentHash,
    Split,
    Store,
    StoreError,
    StoreInfo,
    clip_columns,
    combine,
    content_fingerprint,
)

__all__ = [
    "Clip",
    "ClipTable",
    "Split",
    "Store",
    "StoreError",
    "StoreInfo",
    "is_public_layout",
    "is_token_file",
    "open_store",
    "read_hdf5_table",
    "verify",
    "write_store",
]

_BLOCK_CLIPS = 1024  # clips gathered per write


def open_store(path: Path, *, in_memory: bool = True) -> Store:
    """Open a token file.

    In_memory=False maps codes and text tokens, so memory stays flat whatever the size.

    A file of the public trainer's layout is read into memory; with in_memory=False it is converted
    once into a hidden file beside it, which is mapped. Raises StoreError for anything that is not a
    whole token file of this schema.
    """
    if not in_memory and is_public_layout(path):
        return _open_converted(path)
    return _open(path, in_memory)


def open_tokens(path: Path, *, in_memory: bool) -> Store:
    """Open a token file to train on.

    Raises StoreError as open_store does, and when a split is empty; a missing file comes with the
    command that makes it.
    """
    if not path.is_file():
        raise StoreError(
            f"{path}: no such token file. Make it with\n  python pretokenize.py --train_data"
            f" train.json --val_data val.json --output {path}\nor name another with --data"
        )
    store = open_store(path, in_memory=in_memory)
    for name, split in store.splits.items():
        if not len(split):
            raise StoreError(
                f"{path} has no {name} clips; pretokenise with --train_data and --val_data (or"
                " --val_fraction)"
            )
    return store


def write_store(
    path: Path,
    info: StoreInfo,
    splits: Mapping[str, ClipTable],
    assets: Mapping[str, bytes] | None = None,
) -> StoreInfo:
    """Write a token file.

    Rows counted first, filled, synced, read back and compared, then renamed into place.

    A kill at any moment leaves what was at `path` before. Returns `info` with the content
    fingerprint. Raises StoreError for a text that HDF5 cannot hold, a full disk, and a disk that
    does not give back what was written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as draft:
            with h5py.File(draft, "w", libver="latest", locking=False) as file:
                hashes = [
                    _write_split(file.create_group(name), splits.get(name), info.num_codebooks)
                    for name in SPLITS
                ]
                info = replace(
                    info, content_fingerprint=combine(hashes), schema_version=SCHEMA_VERSION
                )
                _write_info(file, info)
                group = file.create_group("assets")
                for name, blob in (assets or {}).items():
                    group.create_dataset(name, data=np.frombuffer(blob, dtype=np.uint8))
            fsync(draft)
            if (
                content_fingerprint(_open(draft, in_memory=False).splits)
                != info.content_fingerprint
            ):
                raise StoreError(
                    f"the disk of {path} gave back other bytes than were written; {path} is as it"
                    " was. Check the disk"
                )
    except OSError as error:
        raise StoreError(
            f"{path} could not be written ({_first_line(error)}); check space and permissions of"
            f" {path.parent}"
        ) from error
    return info


def verify(path: Path) -> list[str]:
    """Return what is wrong with a token file, each with its split and clip.

    An empty list is a sound file.
    """
    try:
        store = _open(path, in_memory=False)
    except StoreError as error:
        return [str(error)]
    problems = find_problems(store)
    found = content_fingerprint(store.splits)
    if found != store.info.content_fingerprint:
        problems.append(
            f"content {found} is not what was written ({store.info.content_fingerprint}): bytes"
            " have changed; pretokenise again"
        )
    return problems


def describe(path: Path) -> str:
    """Return hours, clips, speakers, lengths, codec, tokenizer and hashes as text for people."""
    return describe_store(_open(path, in_memory=False))


def is_public_layout(path: Path) -> bool:
    """Tell whether a file is one of the public CSM trainer.

    False for anything else, readable or not.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            return public_tokens.is_public(file)
    except OSError:
        return False  # _open says why


def is_token_file(path: Path) -> bool:
    """Tell whether a file is a token file, of this program or the public trainer.

    False for anything else, readable or not.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            return "schema_version" in file.attrs or public_tokens.is_public(file)
    except OSError:
        return False


def read_hdf5_table(path: Path) -> list[dict[str, Any]]:
    """Read metadata from HDF5.

    1-D datasets of equal length at the root or in the only group, or one compound dataset.

    Returns one dict per row with Python values. Raises StoreError when the file has no such table.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            group: Any = file
            while len(group) == 1 and isinstance(only := next(iter(group.values())), h5py.Group):
                group = only
            datasets: dict[str, Any] = {
                name: item for name, item in group.items() if isinstance(item, h5py.Dataset)
            }
            if len(datasets) == 1 and (only := next(iter(datasets.values()))).dtype.names:
                columns = {name: only[name].tolist() for name in only.dtype.names}
            else:
                columns = {
                    name: item[()].tolist() for name, item in datasets.items() if item.ndim == 1
                }
    except (OSError, RuntimeError, TypeError) as error:
        raise StoreError(
            f"{path} is not readable as HDF5 ({_first_line(error)}); write it again"
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


def _open(path: Path, in_memory: bool) -> Store:
    """Open either layout; the public one is always read into memory."""
    if not path.is_file():
        raise StoreError(
            f"{path}: no such token file; make it with: python pretokenize.py --train_data"
            f" train.json --output {path}"
        )
    try:
        with path.open("rb") as raw, h5py.File(path, "r", locking=False) as file:
            if os.fstat(raw.fileno()).st_ino != path.stat().st_ino:
                raise StoreError(f"{path} was replaced while it was being opened; try again")
            if public_tokens.is_public(file):
                return public_tokens.read(path, file)
            info = _read_info(path, file)
            splits = {
                name: _read_split(path, file, name, info, None if in_memory else raw)
                for name in SPLITS
            }
            return Store(path, info, splits, _read_assets(file))
    except StoreError:
        raise
    except (
        OSError,
        KeyError,
        RuntimeError,
        TypeError,
        AttributeError,
        ValueError,
    ) as error:  # whatever h5py raises on damage
        raise StoreError(
            f"{path} is not a readable token file ({_first_line(error)}): it is damaged, cut short"
            " or of another kind. Make it again with pretokenize.py, or copy it again if it came"
            " from another machine"
        ) from error


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
    values: dict[str, Any] = {}
    for item in fields(StoreInfo):
        value: Any = file.attrs[item.name]
        values[item.name] = value.decode() if item.type is str else int(value)
    return StoreInfo(**values)


def _write_info(file: h5py.File, info: StoreInfo) -> None:
    for name, value in vars(info).items():
        if isinstance(value, str):
            blob = value.encode()
            file.attrs.create(name, blob, dtype=h5py.string_dtype("utf-8", max(1, len(blob))))
        else:
            file.attrs[name] = value


def _read_split(path: Path, file: h5py.File, name: str, info: StoreInfo, raw: Any) -> Split:
    """Read one split; `raw` (the same file, opened plainly) maps its ragged arrays instead."""
    group: Any = file[name]
    kinds = {**RAGGED, **NUMBER_COLUMNS, **{f"{ragged}_offsets": "<i8" for ragged in RAGGED}}
    arrays: dict[str, NDArray[Any]] = {}
    if info.schema_version == 1:
        num_clips = len(group["flags"])
        arrays = {
            name: np.zeros(size, kinds.pop(name))
            for name, size in _younger_than_1(num_clips).items()
        }
    for array, kind in kinds.items():
        shape = group[array].shape
        if group[array].dtype != np.dtype(kind) or len(shape) != (2 if array == "codes" else 1):
            raise StoreError(
                f"{path} {name}/{array} is {group[array].dtype} {shape}, not {np.dtype(kind)};"
                " pretokenise again"
            )
        arrays[array] = (
            _map(group[array], raw) if raw is not None and array in RAGGED else group[array][()]
        )
        arrays[array].flags.writeable = False
    num_clips = len(arrays["flags"])
    fits = arrays["codes"].shape[1] == info.num_codebooks and all(
        len(arrays[column]) == num_clips for column in NUMBER_COLUMNS
    )
    for ragged in RAGGED:
        at = arrays[f"{ragged}_offsets"]
        fits = (
            fits
            and len(at) == num_clips + 1
            and at[0] == 0
            and at[-1] == len(arrays[ragged])
            and bool((np.diff(at) >= 0).all())
        )
    if not fits:
        raise StoreError(
            f"{path} {name}: offsets, codes, text and clip table do not fit each other; it is"
            " damaged, pretokenise again"
        )
    return Split(name, arrays)


def _younger_than_1(num_clips: int) -> dict[str, int]:
    """Return the arrays that files of schema 1 lack.

    With their sizes when no clip is in a conversation.
    """
    return {"conversation": 0, "conversation_offsets": num_clips + 1, "turn": num_clips}


def _map(dataset: Any, raw: Any) -> NDArray[Any]:
    if dataset.size == 0:  # has no place in the file, and mmap refuses it
        return np.empty(dataset.shape, dataset.dtype)
    offset = dataset.id.get_offset()
    if offset is None:
        raise StoreError(
            f"{dataset.name} is not contiguous and cannot be mapped; pretokenise again, or load it"
            " into memory"
        )
    return np.asarray(
        np.memmap(raw, dtype=dataset.dtype, mode="r", offset=offset, shape=dataset.shape)
    )


def _read_assets(file: h5py.File) -> dict[str, bytes]:
    group: Any = file["assets"]
    return {name: item[()].tobytes() for name, item in group.items()}


def _write_split(group: Any, table: ClipTable | None, num_codebooks: int) -> ContentHash:
    """Fill the group of one split, block by block; None is an empty split."""
    content = ContentHash()
    num_clips = len(table) if table is not None else 0
    frames, tokens = (
        np.asarray(c, np.int64)
        for c in ((table.num_frames, table.num_text_tokens) if table is not None else ([], []))
    )
    clips = [table.clip(i) for i in range(num_clips)] if table is not None else []
    content.add_clips([clip.id for clip in clips], frames, tokens)
    content.add_conversations((clip.conversation, clip.turn) for clip in clips)
    try:
        for name, column in clip_columns(clips).items():
            group.create_dataset(name, data=column)
    except UnicodeEncodeError as error:
        raise StoreError(
            f"{group.name}: a text is not valid Unicode ({error}); drop or fix that row"
        ) from error
    codes = group.create_dataset("codes", (int(frames.sum()), num_codebooks), RAGGED["codes"])
    text = group.create_dataset("text_tokens", (int(tokens.sum()),), RAGGED["text_tokens"])
    code_at, text_at = (
        np.cumsum([0, *lengths.tolist()], dtype=np.int64) for lengths in (frames, tokens)
    )
    group.create_dataset("codes_offsets", data=code_at)
    group.create_dataset("text_tokens_offsets", data=text_at)
    for start in range(0, num_clips, _BLOCK_CLIPS):
        assert table is not None
        stop = min(start + _BLOCK_CLIPS, num_clips)
        block = np.concatenate([table.codes(i) for i in range(start, stop)]).astype(
            RAGGED["codes"], casting="same_kind", copy=False
        )
        words = np.concatenate([table.text_tokens(i) for i in range(start, stop)])
        words = words.astype(RAGGED["text_tokens"], casting="same_kind", copy=False)
        codes[code_at[start] : code_at[stop]] = block
        text[text_at[start] : text_at[stop]] = words
        content.codes.update(block.tobytes())
        content.text.update(words.tobytes())
    return content


def _open_converted(path: Path) -> Store:
    """Map a file of the public layout by way of a copy in our own.

    Kept beside it for as long as the file does not change.
    """
    stat = path.stat()
    key = f"{stat.st_size:x}-{stat.st_mtime_ns:x}-{public_tokens.environment_key()}"
    copy = path.with_name(f".{path.name}.{key}.mapped")
    if not copy.is_file():
        store = open_store(path)
        own = copy.with_name(
            f"{copy.name}.{os.getpid()}"
        )  # several processes may convert at once: the last one stays
        try:
            write_store(own, store.info, store.splits)
        except StoreError as error:
            raise StoreError(
                f"{path} is a file of the public trainer, and mapping it takes a copy beside it."
                f" {error}; or load it into memory: leave out --partial_data_loading"
            ) from error
        own.replace(copy)
        for old in path.parent.glob(f".{path.name}.*.mapped"):
            if old != copy:
                old.unlink(missing_ok=True)
    return replace(open_store(copy, in_memory=False), path=path)


def _plain(value: Any) -> Any:
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else value


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
