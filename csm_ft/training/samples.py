"""Samples of a run: the same prompts at every step, and reconstructions for reference."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import soxr

from csm_ft.atomic import write_whole
from csm_ft.config.train import TrainConfig
from csm_ft.console import console
from csm_ft.data import audio
from csm_ft.data.audio import Wave
from csm_ft.data.split import Store
from csm_ft.data.text import Normaliser
from csm_ft.device import autocast, torch_state_kept
from csm_ft.errors import ConfigError, EncoderError, HubError, UserError, first_line
from csm_ft.evaluate.judge import open_hearing
from csm_ft.evaluate.recognise import NO_JUDGE, RECOGNISER_HZ, ExpectingRecogniser, Recogniser
from csm_ft.evaluate.words import compare_words
from csm_ft.families.base import Family, Prompt, SamplingOptions
from csm_ft.families.encoder import Encoder
from csm_ft.families.model import SpeechModel
from csm_ft.generate.recordings import Recorder, measure
from csm_ft.report.data import read_takes
from csm_ft.report.listen import Player
from csm_ft.report.spoken import render
from csm_ft.runs.checkpoint import TrainState
from csm_ft.runs.folder import RunFolder
from csm_ft.runs.metrics import Tracker
from csm_ft.schedule import Duration

NUM_REFERENCES = 2


@dataclass(frozen=True)
class Sampler:
    """Prompts, recorder and options of a run's samples."""

    prompts: Sequence[Prompt]
    recorder: Recorder
    options: SamplingOptions
    dtype: str

    def run(
        self, model: SpeechModel, state: TrainState, folder: RunFolder, tracker: Tracker
    ) -> None:
        """Sample every prompt into samples/<prompt id>/step_000500.*, and log the facts."""
        device = next(model.parameters()).device.type
        with autocast(device, self.dtype):
            samples = model.sample(self.prompts, self.recorder.encoder, self.options)
        for sample in samples:
            stem = folder.sample_stem(sample.prompt.id, state.step)
            stem.parent.mkdir(parents=True, exist_ok=True)
            reached = {"step": state.step, "examples": state.examples}
            with torch_state_kept(device):  # a recogniser may draw, or set threads
                facts = self.recorder.write(stem, sample, reached)
            tracker.row("sample", state.step, facts)
        tracker.samples(state.step)
        tracker.page("players", lambda: self._page(folder, state.step), state.step)
        console.print(
            f"step {state.step}  {len(samples)} samples in {folder.samples}", markup=False
        )

    def _page(self, folder: RunFolder, step: int) -> str:
        """Return a page of the samples of a step beside what was really said.

        "" where no words run along with them: then plain recordings show as much.
        """
        notes: list[str] = []
        real = {take.file.stem: take for take in read_takes(folder.references, notes)}
        players = []
        for prompt in self.prompts:
            if prompt.id in real:
                players.append(Player("reference", "real", real[prompt.id], ""))
            of_prompt = read_takes(folder.sample_stem(prompt.id, step).parent, notes)
            takes = [take for take in of_prompt if take.step == step]
            players += [Player("best", f"step {step}", take, "") for take in takes]
        if not any(player.take.captions for player in players):
            return ""
        return render(players, f"Samples of step {step}", notes)


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
    recorder = Recorder(encoder, hears=_open_hearing(config, prompts))
    if any(prompt.real for prompt in prompts):
        folder.references.mkdir(parents=True, exist_ok=True)
        for prompt in prompts:
            recorder.write_real(folder.references / prompt.id, prompt, {"clip_id": prompt.name})
    else:
        _write_references(store, encoder, folder)
    return Sampler(prompts, recorder, options, config.dtype)


@dataclass(frozen=True)
class Hearing:
    """A recogniser, and the rules by which words are compared."""

    recogniser: Recogniser
    rules: Normaliser

    def __call__(self, text: str, wave: Wave, sample_rate_hz: int) -> dict[str, str | float]:
        """Return what is heard in a sound [N], and the word error rate against `text`, if any."""
        resampled = soxr.resample(wave, sample_rate_hz, RECOGNISER_HZ, quality="HQ")
        try:
            heard = self.recogniser.hear(resampled) if len(wave) else ""
        except UserError:
            raise
        except Exception as error:  # other people's code, on sounds of any kind
            return {"not_heard": f"{type(error).__name__}: {first_line(error)}"}
        if not self.rules.apply(text):
            return {"heard": heard}
        return {"heard": heard, "wer": compare_words(text, heard, self.rules).words.rate}


def _open_hearing(config: TrainConfig, prompts: Sequence[Prompt]) -> Hearing | None:
    """Open the recogniser of --gen_asr; None for `none`, and, with a line, where it is missing."""
    if config.gen_asr == NO_JUDGE:
        return None
    with torch_state_kept(config.device):
        recogniser, rules = open_hearing(config.gen_asr, config.judge_language, config.device)
    if isinstance(recogniser, str):
        console.print(f"Samples are not heard: {recogniser}", style="yellow", markup=False)
        return None
    if isinstance(recogniser, ExpectingRecogniser):
        recogniser.expect(prompt.text for prompt in prompts)
    console.print(f"samples are heard by {recogniser.name}", markup=False)
    return Hearing(recogniser, rules)


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
