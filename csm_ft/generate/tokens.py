"""Tokens of samples as files, .npy, and such files back to sound."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from csm_ft.atomic import whole_file
from csm_ft.data import audio
from csm_ft.errors import ConfigError, DataError
from csm_ft.families.base import Sample
from csm_ft.families.encoder import Encoder


def save_tokens(stem: Path, sample: Sample, encoder: Encoder) -> None:
    """Write the tokens of a sample, [streams, frames], as `stem`.npy.

    Raises ConfigError where a sample has none.
    """
    tokens = encoder.tokens_of(sample) if sample.arrays else None
    if tokens is None:
        raise ConfigError("--save_tokens: this model answers with text, and has no tokens to save")
    with whole_file(stem.with_suffix(".npy")) as draft, draft.open("wb") as file:
        np.save(file, tokens, allow_pickle=False)


def decode_folder(folder: Path, encoder: Encoder, output: Path) -> Iterator[Path]:
    """Write a wav into `output` for each .npy of a folder, and yield its path.

    Raises ConfigError where the folder has none, DataError for one that does not fit the codec.
    """
    files = sorted(folder.glob("*.npy"))
    if not files:
        raise ConfigError(f"{folder}: has no .npy file; name a folder of --save_tokens")
    output.mkdir(parents=True, exist_ok=True)
    for path in files:
        try:
            tokens = np.load(path, allow_pickle=False)
            if tokens.ndim != 2 or tokens.dtype.kind not in "iu":
                raise DataError(
                    f"has {tokens.dtype} of shape {tokens.shape}, not [streams, frames]"
                )
            wave = encoder.decode(encoder.arrays_of(tokens.astype(np.int64)))
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: {error}; make it again with --save_tokens") from error
        if wave is None:
            raise ConfigError(f"{path}: this family keeps no sound to decode")
        target = output / f"{path.stem}.wav"
        audio.save(target, wave, encoder.sample_rate_hz)
        yield target
