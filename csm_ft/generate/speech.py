"""What a model speaks with.

The codec and the tokenizer that its training data was made with, found from whatever folder it lies
in.

In this order: what the flags say; `speech.json` beside the weights, as csm_ft.export writes it; the
token file of the run; and for weights that come with none of these, what their size tells.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download

from csm_ft import codecs
from csm_ft.codecs.base import Codec
from csm_ft.config import ConfigError
from csm_ft.data.token_file import Store, StoreInfo, is_public_layout, open_store
from csm_ft.families.csm.config import CsmSize
from csm_ft.families.csm.encoder import (
    TEMPLATE,
    TextTokenizer,
    open_tokenizer,
    tokenizer_from_store,
)
from csm_ft.runs.encoder_record import SPEECH
from csm_ft.runs.source import Origin, is_hub_name, open_data

_WAYS = (
    "name the token file (--data tokens.hdf5), or codec and tokenizer (--codec mimi|melrvq"
    " --codec_source ... --tokenizer ...)"
)


@dataclass(frozen=True)
class Flags:
    """What the user says; "auto" or "" = not said."""

    data: str = ""
    codec: str = "auto"
    codec_source: str = ""
    tokenizer: str = ""


@dataclass(frozen=True)
class Speech:
    """A codec and a tokenizer that fit a model."""

    codec: Codec
    tokenizer: TextTokenizer
    template: str
    found: str  # where, for people
    speakers: tuple[
        str, ...
    ] = ()  # that the model has learned, the most frequent first; empty = not known
    foreign: tuple[
        str, ...
    ] = ()  # codec, tokenizer: chosen by the flags, and not what the model was trained with

    @property
    def names_speakers(self) -> bool:
        """Whether the model is told who speaks."""
        return "{speaker}" in self.template


def open_speech(origin: Origin, size: CsmSize, flags: Flags, device: str) -> Speech:
    """Open what a model of `size` speaks with.

    ConfigError when it cannot be found, or does not fit the model; it names the ways out.
    """
    record, found, speakers = _find_record(origin, flags)
    try:
        codec, codec_found = _codec(record, size, flags, device)
        tokenizer = _tokenizer(record, codec, flags)
    except (ValueError, OSError) as error:
        raise ConfigError(f"{origin.label} cannot be heard: {error}; or {_WAYS}") from error
    _check_fit(origin, size, codec, tokenizer)
    template = record.info.template if record else TEMPLATE
    return Speech(
        codec,
        tokenizer,
        template,
        found or codec_found,
        speakers,
        _foreign(origin, record, codec, tokenizer),
    )


def _find_record(origin: Origin, flags: Flags) -> tuple[Store | None, str, tuple[str, ...]]:
    """Return a token file, or a speech.json read as one without clips; where it was found.

    And the speakers that it knows.
    """
    if flags.data:
        path = Path(flags.data)
        store = open_store(path, in_memory=is_public_layout(path))
        return store, str(path), _speakers(store)
    if (folder := _folder_of_speech(origin.weights)) is not None:
        return _read_speech(folder)
    if origin.config is None:
        return None, "", ()
    store, problem = open_data(origin)
    if store is None:
        if flags.codec != "auto":
            return None, "the flags", ()
        raise ConfigError(
            f"{origin.label} cannot be heard: {problem}. Put it back, {_WAYS}; an export (python -m"
            " csm_ft.export) needs none"
        )
    return store, str(store.path), _speakers(store)


def _folder_of_speech(weights: str) -> Path | None:
    """Return the folder of speech.json beside weights, here or on the hub."""
    if is_hub_name(weights):
        try:
            return Path(hf_hub_download(weights, SPEECH)).parent
        except (OSError, ValueError):  # most repositories have none
            return None
    path = Path(weights)
    folder = path if path.is_dir() else path.parent
    return folder if (folder / SPEECH).is_file() else None


def _read_speech(folder: Path) -> tuple[Store, str, tuple[str, ...]]:
    path = folder / SPEECH
    try:
        values: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        known = {item.name: item.type for item in fields(StoreInfo)}
        info = StoreInfo(
            **{
                "family": "csm",
                "text_vocab_size": 0,
                **{k: v for k, v in values.items() if k in known},
            }
        )
        wrong = [
            name
            for name, kind in known.items()
            if not isinstance(getattr(info, name), str if kind is str else int)
        ]
        speakers = tuple(str(name) for name in values.get("speakers", ()))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path}: not what csm_ft.export writes ({error}); export again, or {_WAYS}"
        ) from error
    wrong += [
        name for name in ("codec_source", "tokenizer") if str(getattr(info, name)).startswith(".")
    ]  # from where we stand, by chance
    if wrong or info.codec not in ("mimi", "melrvq"):
        raise ConfigError(
            f"{path}: {', '.join(wrong) or 'codec'} is not what csm_ft.export writes; export again,"
            f" or {_WAYS}"
        )
    assets = {"codec": folder / info.codec_source, "tokenizer": folder / info.tokenizer}
    blobs = {
        name: file.read_bytes()
        for name, file in assets.items()
        if file.is_file() and file.parent == folder
    }
    return Store(path, info, {}, blobs), str(path), speakers


def _speakers(store: Store) -> tuple[str, ...]:
    split = store.splits["train"]
    return tuple(
        name
        for name, _ in Counter(split.clip(i).speaker for i in range(len(split))).most_common()
        if name
    )


def _codec(record: Store | None, size: CsmSize, flags: Flags, device: str) -> tuple[Codec, str]:
    name, source = flags.codec, flags.codec_source or "auto"
    if name == "auto" and record is not None and not flags.codec_source:
        return codecs.from_store(record, device), ""
    if name == "auto" and record is not None:
        name = record.info.codec
    if name == "auto":
        name = codecs.guess(size.num_codebooks, size.audio_vocab_size)
    assert name in ("mimi", "melrvq"), f"unknown codec {name}"
    return (
        codecs.open_codec(name, source, num_codebooks=size.num_codebooks, device=device),
        f"its size ({size.num_codebooks} codebooks)",
    )


def _tokenizer(record: Store | None, codec: Codec, flags: Flags) -> TextTokenizer:
    if flags.tokenizer or record is None:
        return open_tokenizer(flags.tokenizer or "auto", codec=codec.name)
    return tokenizer_from_store(record)


def _foreign(
    origin: Origin, record: Store | None, codec: Codec, tokenizer: TextTokenizer
) -> tuple[str, ...]:
    """Return which of the two are not those of the training, as far as its hashes are known."""
    known: dict[str, Any] = vars(record.info) if record is not None else {}
    if record is None and origin.run is not None:
        known = json.loads((origin.run / "env.json").read_text(encoding="utf-8"))
    has = {"codec": codec.fingerprint, "tokenizer": tokenizer.fingerprint}
    return tuple(
        name
        for name, value in has.items()
        if known.get(f"{name}_fingerprint") not in ("", None, value)
    )


def _check_fit(origin: Origin, size: CsmSize, codec: Codec, tokenizer: TextTokenizer) -> None:
    rules = (
        (
            "codebooks",
            codec.name,
            codec.num_codebooks,
            size.num_codebooks,
            codec.num_codebooks == size.num_codebooks,
        ),
        (
            "audio ids",
            codec.name,
            codec.vocab_size,
            size.audio_vocab_size,
            codec.vocab_size <= size.audio_vocab_size,
        ),
        (
            "text ids",
            "tokenizer",
            tokenizer.vocab_size,
            size.text_vocab_size,
            tokenizer.vocab_size <= size.text_vocab_size,
        ),
    )
    for what, who, has, wanted, fits in rules:
        if not fits:
            source = tokenizer.source if who == "tokenizer" else codec.source
            raise ConfigError(
                f"{origin.label} has {wanted} {what}, the {who} {source} has {has}: they were not"
                f" made for each other; {_WAYS}"
            )
