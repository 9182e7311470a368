"""What a run sounds like: the same prompts at every step, as wav + JSON, next to the codec's own reconstruction of real clips."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csm_ft import audio, codecs
from csm_ft.codecs.base import Codec, Wave
from csm_ft.config import ConfigError, TrainConfig
from csm_ft.families.base import Prompt, SamplingOptions, SpeechModel
from csm_ft.families.csm.text import tokenizer_from_store
from csm_ft.files import write_whole
from csm_ft.progress import console
from csm_ft.store import Store
from csm_ft.track import Tracker

NUM_REFERENCES = 2


@dataclass(frozen=True)
class Voice:
    """Everything needed to hear a model: prompts, tokenizer, codec and how to sample."""

    prompts: Sequence[Prompt]
    tokenizer: Any
    codec: Codec
    options: SamplingOptions

    def speak(self, model: SpeechModel, folder: Path, *, step: int, examples: int, tracker: Tracker) -> None:
        """Speak every prompt into `folder`/<prompt id>/step_000500.{wav,json} and log what can be measured on it."""
        for sample in model.sample(self.prompts, tokenizer=self.tokenizer, options=self.options):
            wave = self.codec.decode(sample.codes) if len(sample.codes) else _silence(self.codec)
            facts = {
                "prompt": sample.prompt.id,
                "text": sample.prompt.text,
                "speaker": sample.prompt.speaker,
                "examples": examples,
                "stopped_by_eos": sample.stopped_by_eos,
                **_facts(wave if len(sample.codes) else wave[:0], self.codec.sample_rate_hz, sample.prompt.text),
            }
            stem = folder / sample.prompt.id / f"step_{step:06d}"
            stem.parent.mkdir(parents=True, exist_ok=True)
            audio.save(stem.with_suffix(".wav"), wave, self.codec.sample_rate_hz)
            write_whole(stem.with_suffix(".json"), json.dumps({"step": step, **facts}))
            tracker.row("sample", step, facts)
            tracker.audio(step, sample.prompt.id, stem.with_suffix(".wav"), sample.prompt.text)
        console.print(f"step {step}  spoke {len(self.prompts)} sentences into {folder}", markup=False)


def open_voice(config: TrainConfig, store: Store, folder: Path) -> Voice | None:
    """Load codec and tokenizer and write the reference recordings.

    Without sentences of the user's own, a codec that cannot be loaded costs the samples, not the run: None. Otherwise ConfigError.
    """
    try:
        codec, tokenizer = codecs.from_store(store, config.device), tokenizer_from_store(store)
    except (ValueError, OSError) as error:
        if config.gen_sentences:
            raise ConfigError(f"cannot speak gen_sentences: {error}; fix that, or --gen_every 0") from error
        console.print(f"[yellow]No samples in this run:[/] {error}", markup=True)
        return None
    max_frames = math.ceil(config.gen_max_sec * codec.sample_rate_hz / codec.frame_samples)
    _write_references(store, codec, folder / "reference")
    return Voice(
        make_prompts(config, store), tokenizer, codec, SamplingOptions(max_frames, config.gen_temperature, config.gen_topk, config.seed)
    )


def make_prompts(config: TrainConfig, store: Store) -> list[Prompt]:
    """Return gen_sentences in the voice gen_speaker, or else texts and speakers of the first two validation clips."""
    names_speakers = "{speaker}" in store.info.template
    if config.gen_sentences:
        return [_prompt(text, config.gen_speaker if names_speakers else "") for text in config.gen_sentences]
    clips = [store.splits["val"].clip(i) for i in range(min(NUM_REFERENCES, len(store.splits["val"])))]
    return [_prompt(clip.text, clip.speaker if names_speakers else "") for clip in clips if clip.text]


def _prompt(text: str, speaker: str) -> Prompt:
    return Prompt(hashlib.blake2b(f"{speaker}|{text}".encode(), digest_size=6).hexdigest(), text, speaker)


def _write_references(store: Store, codec: Codec, folder: Path) -> None:
    """Decode the first validation clips: the best that any model can sound through this codec."""
    split = store.splits["val"]
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(min(NUM_REFERENCES, len(split))):
        clip = split.clip(index)
        wave = codec.decode(split.codes(index))
        audio.save(folder / f"{clip.id[:12]}.wav", wave, codec.sample_rate_hz)
        facts = {"text": clip.text, "clip_id": clip.id, **_facts(wave, codec.sample_rate_hz, clip.text)}
        write_whole(folder / f"{clip.id[:12]}.json", json.dumps(facts))


def _silence(codec: Codec) -> Wave:
    """One silent frame: what is written, and can be played, for a model that stopped at once."""
    import numpy as np

    return np.zeros(codec.frame_samples, dtype=np.float32)


def _facts(wave: Wave, sample_rate_hz: int, text: str) -> dict[str, float]:
    if not len(wave):
        return {"seconds": 0.0, "sec_per_char": 0.0, "silence_share": 1.0, "peak": 0.0}
    facts = audio.facts(wave, sample_rate_hz)
    return {
        "seconds": facts.duration_sec,
        "sec_per_char": facts.duration_sec / max(1, len(text)),
        "silence_share": facts.silence_share,
        "peak": facts.peak,
    }
