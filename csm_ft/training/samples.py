"""Samples of a run: the same prompts at every step, and reconstructions for reference."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from csm_ft.atomic import write_whole
from csm_ft.config.train import TrainConfig
from csm_ft.console import console
from csm_ft.data import audio
from csm_ft.data.split import Store
from csm_ft.device import autocast
from csm_ft.errors import ConfigError, EncoderError, HubError
from csm_ft.families.base import Family, Prompt, SamplingOptions
from csm_ft.families.encoder import Encoder
from csm_ft.families.model import SpeechModel
from csm_ft.generate.recordings import measure, write_sample
from csm_ft.runs.checkpoint import TrainState
from csm_ft.runs.folder import RunFolder
from csm_ft.runs.metrics import Tracker
from csm_ft.schedule import Duration

NUM_REFERENCES = 2


@dataclass(frozen=True)
class Sampler:
    """Prompts, encoder and options of a run's samples."""

    prompts: Sequence[Prompt]
    encoder: Encoder
    options: SamplingOptions
    dtype: str

    def run(
        self, model: SpeechModel, state: TrainState, folder: RunFolder, tracker: Tracker
    ) -> None:
        """Sample every prompt into samples/<prompt id>/step_000500.*, and log the facts."""
        device = next(model.parameters()).device.type
        with autocast(device, self.dtype):
            samples = model.sample(self.prompts, self.encoder, self.options)
        for sample in samples:
            stem = folder.sample_stem(sample.prompt.id, state.step)
            stem.parent.mkdir(parents=True, exist_ok=True)
            reached = {"step": state.step, "examples": state.examples}
            facts = write_sample(stem, sample, self.encoder, reached)
            tracker.row("sample", state.step, facts)
        tracker.samples(state.step)
        console.print(
            f"step {state.step}  {len(samples)} samples in {folder.samples}", markup=False
        )


def open_sampler(
    config: TrainConfig, store: Store, family: Family, folder: RunFolder
) -> Sampler | None:
    """Open the encoder, make the prompts and write the reference recordings; None = no samples.

    When the encoder cannot be opened, the run goes without samples, unless the user gave prompts:
    then ConfigError is raised.
    """
    if Duration.parse(config.gen_every).amount == 0:
        return None
    try:
        encoder = family.open_encoder(store, config.device)
    except (EncoderError, HubError) as error:
        if family.asks_for_samples(config):
            raise ConfigError(
                f"the prompts of this run cannot be sampled: {error}; fix that, or --gen_every 0"
            ) from error
        console.print(f"[yellow]No samples in this run:[/] {error}")
        return None
    prompts, options = family.sample_prompts(config, store, encoder)
    if not prompts:
        return None
    _write_references(store, encoder, folder)
    return Sampler(prompts, encoder, options, config.dtype)


def _write_references(store: Store, encoder: Encoder, folder: RunFolder) -> None:
    """Decode the first validation clips: the upper bound for the quality of any sample."""
    split = store.splits["val"]
    for row in range(min(NUM_REFERENCES, len(split))):
        wave = encoder.decode(split.arrays(row))
        if wave is None:
            return
        clip = split.clip(row)
        folder.references.mkdir(parents=True, exist_ok=True)
        stem = folder.references / clip.id[:12]
        audio.save(stem.with_suffix(".wav"), wave, encoder.sample_rate_hz)
        measured = measure(wave, encoder.sample_rate_hz, clip.text)
        facts = {"text": clip.text, "clip_id": clip.id, **measured}
        write_whole(stem.with_suffix(".json"), json.dumps(facts))
