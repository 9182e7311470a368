"""Token files of the public CSM trainer, read as if they were our own.

Layout: groups `train` and `val`, each with `audio` (variable-length int32, one row per clip: K x T
codes, codebook-first), `text` (variable-length int32) and `length` (int32 = T + text tokens + 1).
No attributes: K and the vocabularies come from the environment that the trainer was configured by
(AUDIO_NUM_CODEBOOKS, AUDIO_VOCAB_SIZE, TEXT_VOCAB_SIZE), with its defaults.
"""

import hashlib
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csm_ft.data.split import (
    SPLITS,
    Clip,
    Split,
    Store,
    StoreError,
    StoreInfo,
    clip_columns,
    content_fingerprint,
)

_BLOCK_CLIPS = 1024
_COLUMNS = ("audio", "text", "length")


def is_public(file: Any) -> bool:
    """Tell whether an open HDF5 file has the public trainer's layout."""
    return "schema_version" not in file.attrs and all(
        name in file.get("train", ()) for name in _COLUMNS
    )


def environment_key() -> str:
    """Return a short name of what the environment says about these files."""
    return hashlib.blake2b(repr(_info()).encode(), digest_size=4).hexdigest()


def read(path: Path, file: Any) -> Store:
    """Read the whole file into memory.

    Records that a crash of the trainer left empty are left out, with a note on stderr and in
    `Store.notes`. Raises StoreError for a record that does not fit the number of codebooks or its
    own length.
    """
    info = _info()
    notes: list[str] = []
    splits = {name: _read_split(path, file, name, info, notes) for name in SPLITS}
    for note in notes:
        print(f"{path}: {note}", file=sys.stderr)
    return Store(
        path, replace(info, content_fingerprint=content_fingerprint(splits)), splits, notes=notes
    )


def _info() -> StoreInfo:
    return StoreInfo(
        family="csm",
        codec="mimi",
        codec_source="kyutai/mimi",
        codec_fingerprint="",
        num_codebooks=_from_environment("AUDIO_NUM_CODEBOOKS", 32),
        codec_vocab_size=_from_environment("AUDIO_VOCAB_SIZE", 2051),
        sample_rate_hz=24000,
        frame_samples=1920,
        tokenizer="meta-llama/Llama-3.2-1B",
        tokenizer_fingerprint="",
        text_vocab_size=_from_environment("TEXT_VOCAB_SIZE", 128256),
        template="[{speaker}]{text}",
    )


def _from_environment(name: str, default: int) -> int:
    text = os.environ.get(name, "").strip() or str(default)
    if not text.isdecimal() or int(text) < 1:
        raise StoreError(
            f"{name}={text!r} in the environment or .env is not a number above 0; the public"
            f" trainer's default is {default}"
        )
    return int(text)


def _read_split(path: Path, file: Any, name: str, info: StoreInfo, notes: list[str]) -> Split:
    group = file.get(name, {})
    rows = [len(group.get(column, ())) for column in _COLUMNS]
    if min(rows) != max(rows):
        notes.append(
            f"{name}: {max(rows) - min(rows)} records at the end are cut short (audio, text,"
            f" length: {rows}); left out"
        )
    codes: list[NDArray[np.uint16]] = []
    text: list[NDArray[np.uint32]] = []
    empty: list[int] = []
    for start in range(0, min(rows), _BLOCK_CLIPS):
        stop = min(start + _BLOCK_CLIPS, min(rows))
        block = zip(*(group[column][start:stop] for column in _COLUMNS), strict=True)
        for row, (audio, tokens, length) in enumerate(block, start):
            if not len(audio) or not len(tokens) or length == 0:
                empty.append(row)
                continue
            _check_record(f"{path} {name} record {row}", audio, tokens, int(length), info)
            codes.append(
                np.ascontiguousarray(audio.reshape(info.num_codebooks, -1).T).astype(np.uint16)
            )
            text.append(tokens.astype(np.uint32))
    if empty:
        shown = ", ".join(map(str, empty[:10])) + (", ..." if len(empty) > 10 else "")
        notes.append(
            f"{name}: {len(empty)} of {min(rows)} records are empty (a crash of the trainer that"
            f" wrote them); left out: {shown}"
        )
    return _split(name, codes, text, info)


def _check_record(
    where: str, audio: NDArray[Any], tokens: NDArray[Any], length: int, info: StoreInfo
) -> None:
    num_codebooks = info.num_codebooks
    if len(audio) % num_codebooks:
        raise StoreError(
            f"{where}: {len(audio)} codes are not a multiple of {num_codebooks} codebooks; set"
            " AUDIO_NUM_CODEBOOKS to theirs"
        )
    expected = len(audio) // num_codebooks + len(tokens) + 1
    if length != expected:
        raise StoreError(
            f"{where}: length {length} is not {expected} = {len(audio) // num_codebooks} frames +"
            f" {len(tokens)} text tokens + 1; set AUDIO_NUM_CODEBOOKS (now {num_codebooks}) to the"
            " number the file was made with, or make the file again"
        )
    for what, values, size, variable in (
        ("audio code", audio, info.codec_vocab_size, "AUDIO_VOCAB_SIZE"),
        ("text token", tokens, info.text_vocab_size, "TEXT_VOCAB_SIZE"),
    ):
        if values.min() < 0 or values.max() >= size:
            worst = values.min() if values.min() < 0 else values.max()
            raise StoreError(
                f"{where}: {what} {worst} is not in 0..{size - 1}; set {variable} to that of the"
                " model, or make the file again"
            )


def _split(
    name: str, codes: list[NDArray[np.uint16]], text: list[NDArray[np.uint32]], info: StoreInfo
) -> Split:
    """Put records together.

    A clip's id is the hash of its codes and text, as there is nothing else to know it by.
    """
    clips = [
        Clip(
            hashlib.blake2b(c.tobytes() + t.tobytes(), digest_size=16).hexdigest(),
            "",
            "",
            "",
            0.0,
            seconds,
            seconds,
        )
        for c, t, seconds in zip(codes, text, (len(c) * info.frame_sec for c in codes), strict=True)
    ]
    arrays = {
        "codes": np.concatenate([np.empty((0, info.num_codebooks), np.uint16), *codes]),
        "codes_offsets": np.cumsum([0, *map(len, codes)], dtype=np.int64),
        "text_tokens": np.concatenate([np.empty(0, np.uint32), *text]),
        "text_tokens_offsets": np.cumsum([0, *map(len, text)], dtype=np.int64),
    }
    return Split(name, {**arrays, **clip_columns(clips)})
