"""What a model answered, as files: sound as wav, and its facts, or the text, as JSON beside it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from csm_ft.atomic import write_whole
from csm_ft.data import audio
from csm_ft.data.audio import Wave
from csm_ft.families.base import Prompt, Sample
from csm_ft.families.encoder import Encoder
from csm_ft.watermark.silentcipher import Watermark


class Hears(Protocol):
    """Compares what a recogniser hears in a sound [N] with the text that is said in it."""

    def __call__(self, text: str, wave: Wave, sample_rate_hz: int) -> Mapping[str, Any]:
        """Return facts for the sample: `heard`, `wer`."""
        ...


@dataclass
class Recorder:
    """Writes samples, each beside the measures of what was really said, where that is known."""

    encoder: Encoder
    watermark: Watermark | None = None
    hears: Hears | None = None  # None: samples are not heard
    _real: dict[str, dict[str, Any]] = field(default_factory=dict)  # prompt id -> real_... facts

    def write(self, stem: Path, sample: Sample, more: Mapping[str, Any]) -> dict[str, Any]:
        """Write the sound of a sample, if it has any, as `stem`.wav; facts and text as `stem`.json.

        Returns the facts, `more` among them. Sound of no length becomes one silent frame, which
        players take.
        """
        encoder = self.encoder
        facts = {**more, **_asked(sample)}
        if sample.text is not None:
            facts["answer"] = sample.text
        facts["is_complete"] = sample.is_complete
        wave = encoder.decode(sample.arrays) if sample.arrays else None
        if wave is not None:
            facts["stopped_by_eos"] = sample.is_complete
            facts |= measure(wave, encoder.sample_rate_hz, sample.prompt.text)
            facts |= self._measure(sample, wave) | self._measure_real(sample.prompt)
            facts |= _running_text(sample, encoder)
            if self.watermark is not None and wave.size:
                wave = self.watermark.apply(wave, encoder.sample_rate_hz)
                facts["watermark"] = "silentcipher"
            if not wave.size:
                num_samples = round(encoder.frame_sec * encoder.sample_rate_hz)
                wave = np.zeros((*wave.shape[:-1], num_samples), np.float32)
            audio.save(stem.with_suffix(".wav"), wave, encoder.sample_rate_hz)
        write_whole(stem.with_suffix(".json"), json.dumps(facts))
        return facts

    def write_real(self, stem: Path, prompt: Prompt, more: Mapping[str, Any]) -> None:
        """Write what was really said after a prompt, as a sample."""
        encoder, sample = self.encoder, Sample(prompt, prompt.real)
        wave = encoder.decode(prompt.real)
        if wave is None:
            return
        audio.save(stem.with_suffix(".wav"), wave, encoder.sample_rate_hz)
        facts = {**more, "prompt": prompt.id, "text": prompt.text}
        facts |= measure(wave, encoder.sample_rate_hz, prompt.text)
        found = self._measure(sample, wave)
        self._keep_real(prompt, found)
        facts |= found | _running_text(sample, encoder)
        write_whole(stem.with_suffix(".json"), json.dumps(facts))

    def _measure(self, sample: Sample, wave: Wave) -> dict[str, Any]:
        """Return what the family measures, and what is heard."""
        facts: dict[str, Any] = dict(self.encoder.measure(sample, wave))
        if self.hears is not None:
            text, spoken = self.encoder.said(sample, wave)
            facts |= self.hears(text, spoken, self.encoder.sample_rate_hz)
        return facts

    def _measure_real(self, prompt: Prompt) -> dict[str, Any]:
        """Return the same of what was really said; it is measured once."""
        if prompt.id not in self._real:
            wave = self.encoder.decode(prompt.real) if prompt.real else None
            found = {} if wave is None else self._measure(Sample(prompt, prompt.real), wave)
            self._keep_real(prompt, found)
        return self._real[prompt.id]

    def _keep_real(self, prompt: Prompt, found: Mapping[str, Any]) -> None:
        self._real[prompt.id] = {f"real_{name}": value for name, value in found.items()}


def _asked(sample: Sample) -> dict[str, Any]:
    """Return the facts of the prompt of a sample."""
    prompt = sample.prompt
    facts: dict[str, Any] = {"prompt": prompt.id, "text": prompt.text}
    if prompt.speaker or sample.text is None:
        facts["speaker"] = prompt.speaker
    if prompt.tags:
        facts["tags"] = dict(prompt.tags)
    if prompt.context or sample.text is None:
        facts["context"] = [turn.facts() for turn in prompt.context]
        facts["turns_left_out"] = sample.turns_left_out
    return facts


def _running_text(sample: Sample, encoder: Encoder) -> dict[str, Any]:
    """Return what a player shows along with the sound; nothing where there is nothing."""
    facts = {"prompt_sec": encoder.prompt_sec(sample), "captions": [*encoder.captions(sample)]}
    return {name: value for name, value in facts.items() if value}


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
