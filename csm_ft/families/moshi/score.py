"""How a model takes part in dialogues of the validation set: gaps, overlap and speech."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from csm_ft.data.split import Split
from csm_ft.device import autocast
from csm_ft.families.base import Sample
from csm_ft.families.moshi.config import MoshiConfig
from csm_ft.families.moshi.encoder import MoshiEncoder
from csm_ft.families.moshi.model import MoshiModel
from csm_ft.families.moshi.prompts import openings
from csm_ft.families.moshi.sample import MoshiSamplingOptions
from csm_ft.families.stores import open_store

# Measures of MoshiEncoder.measure, and the names of their means and distances to the real ones.
MEASURES: Mapping[str, tuple[str, str]] = {
    "gap_sec": ("val_gap_sec", "val_gap_error_sec"),
    "overlap_share": ("val_overlap_share", "val_overlap_error"),
    "moshi_share": ("val_moshi_share", "val_moshi_share_error"),
}
_SEED, _BATCH_SIZE = 0, 16  # the same for all trials


def score_dialogues(model: MoshiModel, split: Split, config: MoshiConfig) -> dict[str, float]:
    """Continue the openings of `val_dialogues` dialogues as recorded users go on, and measure.

    Means over the dialogues, and mean distances to what was really said there. A measure that no
    dialogue has, as the gap where nobody answers, is left out.
    """
    encoder = _open_encoder(config.data, model.device.type)
    asked = config.replace(gen_clips=config.val_dialogues, user_stream=False)
    prompts = openings(split, asked)
    options = MoshiSamplingOptions(
        seed=_SEED,
        temperature=config.gen_temperature,
        topk=config.gen_topk,
        text_temperature=config.gen_text_temperature,
        text_topk=config.gen_text_topk,
    )
    # As the validation loss: only weights in bf16 are measured in bf16.
    dtype = "bf16" if config.dtype == "bf16_pure" else "fp32"
    values: dict[str, list[float]] = {}
    for start in range(0, len(prompts), _BATCH_SIZE):
        with autocast(model.device.type, dtype):
            samples = model.sample(prompts[start : start + _BATCH_SIZE], encoder, options)
        for sample in samples:
            found = _measure(encoder, sample)
            real = _measure(encoder, replace(sample, arrays=sample.prompt.real))
            for measure, (mean, error) in MEASURES.items():
                if measure in found:
                    values.setdefault(mean, []).append(found[measure])
                if measure in found and measure in real:
                    values.setdefault(error, []).append(abs(found[measure] - real[measure]))
    return {name: float(np.mean(found)) for name, found in values.items()}


def _measure(encoder: MoshiEncoder, sample: Sample) -> Mapping[str, float]:
    return encoder.measure(sample, encoder.decode(sample.arrays))


@lru_cache(maxsize=1)
def _open_encoder(path: str, device: str) -> MoshiEncoder:
    return MoshiEncoder.from_store(open_store(Path(path), in_memory=False), device)
