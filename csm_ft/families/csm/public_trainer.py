"""Reading token files of the public CSM trainer.

Layout: groups `train` and `val`, each with `audio` (variable-length int32, one row per clip: K x T
codes, codebook-first), `text` (variable-length int32) and `length` (int32 = T + text tokens + 1).
There are no attributes: K and the vocabulary sizes come from the trainer's environment variables
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
    ArrayKind,
    Clip,
    Split,
    Store,
    StoreInfo,
    clip_columns,
    content_fingerprint,
)
from csm_ft.data.token_file import HDF5_ERRORS, hdf5
from csm_ft.errors import StoreError

_BLOCK_CLIPS = 1024
_SAMPLE_RATE_HZ, _FRAME_SAMPLES = 24000, 1920  # of Mimi
_COLUMNS = ("audio", "text", "length")


def foreign_key(path: Path) -> str:
    """Return a key of the settings that such a file is read with; "" for any other file."""
    try:
        with hdf5(path) as file:
            is_public = "schema_version" not in file.attrs and all(
                name in file.get("train", ()) for name in _COLUMNS
            )
    except HDF5_ERRORS:
        return ""
    return repr(_info()) if is_public else ""


def open_store(path: Path) -> Store:
    """Read a whole file into memory.

    Records that a crash of the trainer left empty are skipped, with a note on stderr and in
    `Store.notes`. Raises StoreError for a damaged file, and for a record that does not fit the
    number of codebooks, its own length or a vocabulary.
    """
    info = _info()
    notes: list[str] = []
    try:
        with hdf5(path) as file:
            splits = {name: _read_split(path, file, name, info, notes) for name in SPLITS}
    except (OSError, KeyError, RuntimeError, TypeError, AttributeError) as error:
        # Whatever h5py raises on damage.
        raise StoreError(
            f"{path} is not readable as a token file of the public trainer ({error}); copy it"
            " again, or pretokenise"
        ) from error
    for note in notes:
        print(f"{path}: {note}", file=sys.stderr)
    info = replace(info, content_fingerprint=content_fingerprint(splits))
    return Store(path, info, splits, notes=notes)


def _info() -> StoreInfo:
    num_codebooks = _from_environment("AUDIO_NUM_CODEBOOKS", 32)
    facts = {
        "codec": "mimi",
        "codec_source": "kyutai/mimi",
        "codec_fingerprint": "",
        "num_codebooks": num_codebooks,
        "codec_vocab_size": _from_environment("AUDIO_VOCAB_SIZE", 2051),
        "sample_rate_hz": _SAMPLE_RATE_HZ,
        "frame_samples": _FRAME_SAMPLES,
        "tokenizer": "meta-llama/Llama-3.2-1B",
        "tokenizer_fingerprint": "",
        "text_vocab_size": _from_environment("TEXT_VOCAB_SIZE", 128256),
        "template": "[{speaker}]{text}",
    }
    return StoreInfo(
        family="csm",
        arrays={"codes": ArrayKind("<u2", num_codebooks), "text_tokens": ArrayKind("<u4")},
        sample_rate_hz=_SAMPLE_RATE_HZ,
        frame_sec=_FRAME_SAMPLES / _SAMPLE_RATE_HZ,
        audio_fingerprint="",
        text_fingerprint="",
        facts=facts,
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
            by_codebook = audio.reshape(info.facts["num_codebooks"], -1)  # [K, T]
            codes.append(np.ascontiguousarray(by_codebook.T).astype(np.uint16))
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
    num_codebooks = info.facts["num_codebooks"]
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
        ("audio code", audio, info.facts["codec_vocab_size"], "AUDIO_VOCAB_SIZE"),
        ("text token", tokens, info.facts["text_vocab_size"], "TEXT_VOCAB_SIZE"),
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
    """Build a split from records.

    A clip's id is the hash of its codes and text, because the file names neither audio nor span.
    """
    clips = [_clip(c, t, len(c) * info.frame_sec) for c, t in zip(codes, text, strict=True)]
    arrays = {
        "codes": np.concatenate([np.empty((0, info.facts["num_codebooks"]), np.uint16), *codes]),
        "codes_offsets": np.cumsum([0, *map(len, codes)], dtype=np.int64),
        "text_tokens": np.concatenate([np.empty(0, np.uint32), *text]),
        "text_tokens_offsets": np.cumsum([0, *map(len, text)], dtype=np.int64),
    }
    return Split(name, {**arrays, **clip_columns(clips)}, info.arrays)


def _clip(codes: NDArray[np.uint16], text: NDArray[np.uint32], duration_sec: float) -> Clip:
    content = hashlib.blake2b(codes.tobytes() + text.tobytes(), digest_size=16)
    return Clip(
        id=content.hexdigest(),
        text="",
        speaker="",
        source="",
        start_sec=0.0,
        end_sec=duration_sec,
        duration_sec=duration_sec,
    )
