"""Tokens that J-Moshi's tools made: npz files of tokenize_audio and tokenize_text, or parquet.

A parquet file has a row for each dialogue: `dialogue_id`, and `A` and `B`, nine rows each, text
and eight codebooks. The npz files have `A` and `B` of a dialogue: [K, T] codes in one folder, [T]
text in another. Nothing in them says which tokenizer and padding ids they were made with, so both
are options, and checked against the ids that are found.
"""

import hashlib
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csm_ft.data.split import Clip
from csm_ft.datasets.sources import Source, parse_sources, weight_factors
from csm_ft.errors import ConfigError, DataError
from csm_ft.families.moshi.config import MoshiPretokenizeConfig
from csm_ft.families.moshi.encoder import MoshiEncoder

_FRAME_SHARE = 0.5  # of a frame, where a piece begins: safe from rounding
_CHECKED_TEXTS = 50  # dialogues whose most frequent id must be the padding


@dataclass(frozen=True)
class Dialogue:
    """Tokens of one dialogue."""

    name: str
    codes: NDArray[np.uint16]  # [T, 2K], those of A first
    texts: tuple[NDArray[np.int64], NDArray[np.int64]]  # of A and B, [T] each
    source: int = 0  # place in a list of several
    weight: float = 1.0

    @property
    def id(self) -> str:
        """Hash of its codes."""
        return hashlib.blake2b(self.codes.tobytes(), digest_size=16).hexdigest()


class Table:
    """Dialogues as a split of a token file; each piece of text is a word of one token."""

    def __init__(self, dialogues: Sequence[Dialogue], encoder: MoshiEncoder) -> None:
        self._dialogues, self._encoder = dialogues, encoder

    def __len__(self) -> int:
        return len(self._dialogues)

    def lengths(self, array: str) -> NDArray[np.int64]:
        """Return the rows of an array for each dialogue, [n]."""
        return np.array([len(self.array(array, i)) for i in range(len(self))], dtype=np.int64)

    def array(self, name: str, index: int) -> NDArray[Any]:
        """Return one array of one dialogue."""
        dialogue = self._dialogues[index]
        if name == "codes":
            return dialogue.codes
        words, tokens = self._words(dialogue)
        return words if name == "words" else tokens

    def clip(self, index: int) -> Clip:
        """Return the row of the clip table."""
        dialogue = self._dialogues[index]
        seconds = len(dialogue.codes) * self._encoder.frame_sec
        text = " ".join(filter(None, map(self._encoder.text_of, dialogue.texts))) or dialogue.name
        return Clip(
            dialogue.id, text, "", dialogue.name, 0.0, seconds, seconds, weight=dialogue.weight
        )

    def _words(self, dialogue: Dialogue) -> tuple[NDArray[np.float64], NDArray[np.uint32]]:
        silent, frame_sec = self._encoder.silent_ids, self._encoder.frame_sec
        rows: list[tuple[float, float, float, float]] = []
        tokens: list[int] = []
        for speaker, text in enumerate(dialogue.texts):
            for frame in np.flatnonzero(~np.isin(text, silent)).tolist():
                start_sec = (frame + _FRAME_SHARE) * frame_sec
                rows.append((start_sec, start_sec, float(speaker), 1.0))
                tokens.append(int(text[frame]))
        order = sorted(range(len(rows)), key=lambda place: rows[place][0])
        words = np.array([rows[place] for place in order], dtype=np.float64).reshape(-1, 4)
        return words, np.array([tokens[place] for place in order], dtype=np.uint32)


def import_tokens(config: MoshiPretokenizeConfig, encoder: MoshiEncoder) -> dict[str, Table] | None:
    """Return the splits of tokens that options name; None if they name metadata or sound.

    ConfigError for options that do not go with tokens, DataError for tokens that do not fit them.
    """
    sources = parse_sources(config.train_data)
    files = [_find(source.path) for source in sources]
    if not any(files):
        return None
    if not all(files):
        other = sources[files.index([])].path
        raise ConfigError(
            f"{config.train_data}: {other} holds no tokens, other sources do; name sources of one"
            " kind"
        )
    if config.interleave != "characters":
        raise ConfigError(
            f"{config.train_data} has text that J-Moshi's tools laid over frames; say so with"
            " --interleave characters"
        )
    if config.fit_tokenizer:
        raise ConfigError("fit_tokenizer: tokens have a tokenizer; name it with --tokenizer")
    train: list[Dialogue] = []
    for number, of_source in enumerate(files):
        found = _read(of_source, config, encoder)
        train += [replace(one, source=number) for one in found]
    splits = {"train": train}
    if config.val_data:
        splits["val"] = _read(_find(Path(config.val_data)), config, encoder)
    else:
        splits["train"], splits["val"] = _hold_out(splits["train"], config)
    splits["train"] = _weighed(splits["train"], sources)
    for name, dialogues in splits.items():
        if not dialogues:
            raise ConfigError(f"no {name} dialogue: give --val_data, or more dialogues")
    return {name: Table(dialogues, encoder) for name, dialogues in splits.items()}


def _weighed(dialogues: Sequence[Dialogue], sources: Sequence[Source]) -> list[Dialogue]:
    """Return dialogues with weights that give every source its share of the draws."""
    if all(source.weight is None for source in sources):
        return list(dialogues)
    counts = Counter(one.source for one in dialogues)
    totals = [float(counts[number]) for number in range(len(sources))]
    factors = weight_factors(sources, totals, len(dialogues))
    return [replace(one, weight=round(factors[one.source], 6)) for one in dialogues]


def read_parquet(path: Path, encoder: MoshiEncoder) -> list[Dialogue]:
    """Return the dialogues of one parquet file; DataError as import_tokens."""
    if not path.is_file() or not _is_tokens(path):
        raise DataError(f"{path}: no parquet file with the columns A and B; name one, or a store")
    dialogues = [
        _dialogue(f"{path} {name}", name, (of_a, of_b), encoder)
        for name, of_a, of_b in _read_parquet(path)
    ]
    _check_padding(path, dialogues, encoder)
    return dialogues


def _find(path: Path) -> list[Path]:
    """Return the files of tokens that a path names; none if it holds something else."""
    if path.is_dir():
        for suffix in (".parquet", ".npz"):
            found = sorted(path.glob(f"*{suffix}"))
            if found and (suffix == ".npz" or _is_tokens(found[0])):
                return found
        return []
    is_tokens = path.suffix == ".npz" or (path.suffix == ".parquet" and _is_tokens(path))
    return [path] if path.is_file() and is_tokens else []


def _is_tokens(path: Path) -> bool:
    from pyarrow import ArrowException
    from pyarrow.parquet import read_schema

    try:
        return {"A", "B"} <= set(read_schema(path).names)
    except (ArrowException, OSError):
        return False


def _read(
    files: Sequence[Path], config: MoshiPretokenizeConfig, encoder: MoshiEncoder
) -> list[Dialogue]:
    dialogues: list[Dialogue] = []
    for file in files:
        rows = _read_npz(file, config) if file.suffix == ".npz" else _read_parquet(file)
        for name, of_a, of_b in rows:
            dialogues.append(_dialogue(f"{file} {name}", name, (of_a, of_b), encoder))
    _check_padding(files[0] if files else Path(), dialogues, encoder)
    return dialogues


def _read_parquet(file: Path) -> Iterator[tuple[str, NDArray[np.int64], NDArray[np.int64]]]:
    """Yield name and tokens [1 + K, T] of both speakers."""
    from pyarrow.parquet import ParquetFile

    for batch in ParquetFile(file).iter_batches(batch_size=16):
        for number, row in enumerate(batch.to_pylist()):
            name = str(row.get("dialogue_id", number))
            sides = [_rectangle(f"{file} {name} {side}", row[side]) for side in "AB"]
            yield name, sides[0], sides[1]


def _rectangle(where: str, rows: Any) -> NDArray[np.int64]:
    lengths = {len(one) for one in rows}
    if len(lengths) != 1:
        raise DataError(f"{where}: its rows have {sorted(lengths)} tokens; make them again")
    return np.array(rows, dtype=np.int64)


def _read_npz(
    file: Path, config: MoshiPretokenizeConfig
) -> Iterator[tuple[str, NDArray[np.int64], NDArray[np.int64]]]:
    """Yield name and tokens of both speakers; the text is cut or padded to the codes."""
    if not config.words_folder:
        raise ConfigError(
            f"{file}: holds codes; name the folder of the text tokens with --words_folder"
        )
    text_file = Path(config.words_folder) / file.name
    codes, texts = _arrays(file), _arrays(text_file)
    sides = []
    for side in "AB":
        num_frames = codes[side].shape[-1]
        text = texts[side].reshape(-1)[:num_frames]
        missing = num_frames - len(text)
        text = np.pad(text, (0, missing), constant_values=config.text_padding_id)
        sides.append(np.concatenate([text[None], codes[side].reshape(-1, num_frames)]))
    yield file.stem, sides[0], sides[1]


def _arrays(file: Path) -> dict[str, NDArray[np.int64]]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {side: arrays[side].astype(np.int64) for side in "AB"}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{file}: holds no tokens of A and B ({error}); make it again") from error


def _dialogue(
    where: str,
    name: str,
    sides: tuple[NDArray[np.int64], NDArray[np.int64]],
    encoder: MoshiEncoder,
) -> Dialogue:
    card, num_codebooks = int(encoder.facts["card"]), encoder.codec.num_codebooks
    lengths = [side.shape for side in sides]
    if lengths[0] != lengths[1]:
        raise DataError(f"{where}: A is {lengths[0]}, B is {lengths[1]}; make it again")
    if lengths[0][0] != 1 + num_codebooks or not lengths[0][1]:
        raise DataError(
            f"{where}: has {lengths[0][0] - 1} codebooks of {lengths[0][1]} frames, the codec has"
            f" {num_codebooks}; give --num_codebooks {lengths[0][0] - 1}"
        )
    for what, ids, limit in (
        ("text id", np.concatenate([side[0] for side in sides]), encoder.tokenizer.vocab_size),
        ("code", np.concatenate([side[1:].ravel() for side in sides]), card),
    ):
        if ids.min() < 0 or ids.max() >= limit:
            raise DataError(
                f"{where}: has the {what} {ids.min() if ids.min() < 0 else ids.max()}, which is"
                f" none of {limit}; name the tokenizer and codec that made it"
            )
    codes = np.concatenate([side[1:].T for side in sides], axis=1).astype(np.uint16)
    return Dialogue(name, codes, (sides[0][0], sides[1][0]))


def _check_padding(file: Path, dialogues: Sequence[Dialogue], encoder: MoshiEncoder) -> None:
    """Raise DataError if the most frequent text id is not the padding: other ids were used."""
    texts = [text for one in dialogues[:_CHECKED_TEXTS] for text in one.texts]
    if not texts:
        return
    ids, counts = np.unique(np.concatenate(texts), return_counts=True)
    most = int(ids[counts.argmax()])
    if most != encoder.padding_id:
        raise DataError(
            f"{file}: its most frequent text id is {most}, not the padding"
            f" {encoder.padding_id}; give --text_padding_id {most}"
        )


def _hold_out(
    dialogues: Sequence[Dialogue], config: MoshiPretokenizeConfig
) -> tuple[list[Dialogue], list[Dialogue]]:
    """Return dialogues to train on and to validate, chosen by a seeded hash of their codes."""

    def place(dialogue: Dialogue) -> bytes:
        return hashlib.blake2b(f"{config.seed} {dialogue.id}".encode()).digest()

    in_order = sorted(dialogues, key=place)
    num_held = max(1, round(config.val_fraction * len(in_order)))
    return in_order[num_held:], in_order[:num_held]
