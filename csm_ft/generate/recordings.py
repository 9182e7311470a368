"""What a model answered, as files: sound as wav, and its facts, or the text, as JSON beside it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from csm_ft.atomic import write_whole
from csm_ft.data import audio
from csm_ft.data.audio import Wave
from csm_ft.families.base import Sample
from csm_ft.families.encoder import Encoder
from csm_ft.watermark.silentcipher import Watermark


def write_sample(
    stem: Path,
    sample: Sample,
    encoder: Encoder,
    more: Mapping[str, Any],
    watermark: Watermark | None = None,
) -> dict[str, Any]:
    """Write the sound of a sample, if it has any, as `stem`.wav; facts and text as `stem`.json.

    Returns the facts, `more` among them. Sound of no length becomes one silent frame, which players
    take.
    """
    prompt = sample.prompt
    facts: dict[str, Any] = {**more, "prompt": prompt.id, "text": prompt.text}
    if prompt.speaker or sample.text is None:
        facts["speaker"] = prompt.speaker
    if prompt.tags:
        facts["tags"] = dict(prompt.tags)
    if prompt.context or sample.text is None:
        facts["context"] = [turn.facts() for turn in prompt.context]
        facts["turns_left_out"] = sample.turns_left_out
    if sample.text is not None:
        facts["answer"] = sample.text
    facts["is_complete"] = sample.is_complete
    wave = encoder.decode(sample.arrays) if sample.arrays else None
    if wave is not None:
        facts["stopped_by_eos"] = sample.is_complete
        facts |= measure(wave, encoder.sample_rate_hz, prompt.text)
        facts |= encoder.measure(sample, wave)
        if watermark is not None and wave.size:
            wave = watermark.apply(wave, encoder.sample_rate_hz)
            facts["watermark"] = "silentcipher"
        if not wave.size:
            num_samples = round(encoder.frame_sec * encoder.sample_rate_hz)
            wave = np.zeros((*wave.shape[:-1], num_samples), np.float32)
        audio.save(stem.with_suffix(".wav"), wave, encoder.sample_rate_hz)
    write_whole(stem.with_suffix(".json"), json.dumps(facts))
    return facts


def measure(wave: Wave, sample_rate_hz: int, text: str) -> dict[str, float]:
    """Measure the sound of a text, [N] or [2, N]: of two sides the left one, which answers."""
    if not wave.size:
        return {"seconds": 0.0, "sec_per_char": 0.0, "silence_share": 1.0, "peak": 0.0}
    facts = audio.facts(wave[0] if wave.ndim == 2 else wave, sample_rate_hz)
    return {
        "seconds": facts.duration_sec,
        "sec_per_char": facts.duration_sec / max(1, len(text)),
        "silence_share": facts.silence_share,
        "peak": facts.peak,
    }
