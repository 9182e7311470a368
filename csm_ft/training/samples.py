"""What a run sounds like.

The same prompts at every step, as wav + JSON, next to the codec's own reconstruction of real clips.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from csm_ft import codecs
from csm_ft.atomic import write_whole
from csm_ft.codecs.base import Codec, Wave
from csm_ft.config import ConfigError, TrainConfig
from csm_ft.console import console
from csm_ft.data import audio
from csm_ft.data.examples import turns_before
from csm_ft.data.token_file import Store
from csm_ft.families.base import Sample, SamplingOptions, SpeechModel, Turn
from csm_ft.families.csm.encoder import tokenizer_from_store
from csm_ft.families.prompts import (
    AskedPrompt,
    VoicedPrompt,
    check_lengths,
    check_speaker,
    make_prompt,
    read_prompts,
    voiced,
)
from csm_ft.runs.metrics import Tracker

NUM_REFERENCES = 2


@dataclass(frozen=True)
class Voice:
    """Everything needed to hear a model: prompts, tokenizer, codec and how to sample."""

    prompts: Sequence[VoicedPrompt]
    tokenizer: Any
    codec: Codec
    options: SamplingOptions

    def speak(
        self, model: SpeechModel, folder: Path, *, step: int, examples: int, tracker: Tracker
    ) -> None:
        """Write `folder`/<prompt id>/step_000500.{wav,json} of every prompt, and log its facts."""
        samples = model.sample(
            [one.prompt for one in self.prompts], tokenizer=self.tokenizer, options=self.options
        )
        for one, sample in zip(self.prompts, samples, strict=True):
            stem = folder / sample.prompt.id / f"step_{step:06d}"
            stem.parent.mkdir(parents=True, exist_ok=True)
            facts = write_take(stem, one, sample, self.codec, {"step": step, "examples": examples})
            tracker.row(
                "sample", step, {name: value for name, value in facts.items() if name != "step"}
            )
            tracker.audio(step, sample.prompt.id, stem.with_suffix(".wav"), sample.prompt.text)
        console.print(
            f"step {step}  spoke {len(self.prompts)} sentences into {folder}", markup=False
        )


def write_take(
    stem: Path, prompt: VoicedPrompt, sample: Sample, codec: Codec, more: Mapping[str, Any]
) -> dict[str, Any]:
    """Write `stem`.wav and its facts, with `more`, as `stem`.json, and return the facts.

    A model that said nothing is one silent frame.
    """
    wave = codec.decode(sample.codes)
    facts = {
        **more,
        "prompt": sample.prompt.id,
        "text": sample.prompt.text,
        "speaker": sample.prompt.speaker,
        "context": prompt.facts,
        "turns_left_out": sample.turns_left_out,
        "stopped_by_eos": sample.stopped_by_eos,
        **_measured(wave, codec.sample_rate_hz, sample.prompt.text),
    }
    audio.save(
        stem.with_suffix(".wav"),
        wave if len(wave) else np.zeros(codec.frame_samples, np.float32),
        codec.sample_rate_hz,
    )
    write_whole(stem.with_suffix(".json"), json.dumps(facts))
    return facts


def open_voice(config: TrainConfig, store: Store, folder: Path) -> Voice | None:
    """Load codec and tokenizer, encode the context clips of gen_prompts.

    And write the reference recordings.

    Without prompts of the user's own, a codec that cannot be loaded costs the samples, not the run:
    None. Otherwise ConfigError.
    """
    asked = ask(config)
    try:
        codec, tokenizer = codecs.from_store(store, config.device), tokenizer_from_store(store)
    except (ValueError, OSError) as error:
        if config.gen_sentences or config.gen_prompts:
            what = "gen_sentences" if config.gen_sentences else "gen_prompts"
            raise ConfigError(
                f"cannot speak {what}: {error}; fix that, or --gen_every 0"
            ) from error
        console.print(f"[yellow]No samples in this run:[/] {error}", markup=True)
        return None
    names_speakers = "{speaker}" in store.info.template
    prompts = (
        voiced(asked, codec, speaker=config.gen_speaker, names_speakers=names_speakers)
        if asked
        else of_validation(store)
    )
    if asked:
        max_frames = check_lengths(
            prompts, tokenizer, codec, config.gen_max_sec, option="gen_max_sec"
        )
    else:
        max_frames = math.ceil(config.gen_max_sec * codec.sample_rate_hz / codec.frame_samples)
    _write_references(store, codec, folder / "reference")
    return Voice(
        prompts,
        tokenizer,
        codec,
        SamplingOptions(max_frames, config.gen_temperature, config.gen_topk, config.seed),
    )


def ask(config: TrainConfig) -> list[AskedPrompt]:
    """Return gen_sentences in the voice gen_speaker, and gen_prompts."""
    check_speaker("--gen_speaker", config.gen_speaker)
    asked = [AskedPrompt("gen_sentences", text) for text in config.gen_sentences]
    return asked + (read_prompts(Path(config.gen_prompts)) if config.gen_prompts else [])


def of_validation(store: Store) -> list[VoicedPrompt]:
    """Return the first validation clips as prompts.

    Their texts and speakers, after the turns of their conversation before them.
    """
    split, names_speakers = store.splits["val"], "{speaker}" in store.info.template

    def turn(row: int) -> Turn:
        clip = split.clip(row)
        return Turn(clip.text, clip.speaker if names_speakers else "", split.codes(row))

    prompts: dict[str, VoicedPrompt] = {}
    for row in range(min(NUM_REFERENCES, len(split))):
        this, before = turn(row), turns_before(split, row)
        if this.text:
            prompt = make_prompt(this.text, this.speaker, [turn(other) for other in before])
            facts = [
                {
                    "path": split.clip(other).source,
                    "text": said.text,
                    "speaker": said.speaker,
                    "seconds": len(said.codes) * store.info.frame_sec,
                }
                for other, said in zip(before, prompt.context, strict=True)
            ]
            prompts.setdefault(prompt.id, VoicedPrompt(prompt, facts=facts))
    return list(prompts.values())


def _write_references(store: Store, codec: Codec, folder: Path) -> None:
    """Decode the first validation clips: the best that any model can sound through this codec."""
    split = store.splits["val"]
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(min(NUM_REFERENCES, len(split))):
        clip = split.clip(index)
        wave = codec.decode(split.codes(index))
        audio.save(folder / f"{clip.id[:12]}.wav", wave, codec.sample_rate_hz)
        facts = {
            "text": clip.text,
            "clip_id": clip.id,
            **_measured(wave, codec.sample_rate_hz, clip.text),
        }
        write_whole(folder / f"{clip.id[:12]}.json", json.dumps(facts))


def _measured(wave: Wave, sample_rate_hz: int, text: str) -> dict[str, float]:
    if not len(wave):
        return {"seconds": 0.0, "sec_per_char": 0.0, "silence_share": 1.0, "peak": 0.0}
    facts = audio.facts(wave, sample_rate_hz)
    return {
        "seconds": facts.duration_sec,
        "sec_per_char": facts.duration_sec / max(1, len(text)),
        "silence_share": facts.silence_share,
        "peak": facts.peak,
    }
