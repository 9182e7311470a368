"""What weights and their base say to the same prompts, and how they do on the validation clips."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from csm_ft.config.evaluate import EvaluateConfig
from csm_ft.config.train import TrainConfig
from csm_ft.console import console
from csm_ft.data.split import Store
from csm_ft.device import choose_device, choose_dtype
from csm_ft.errors import ConfigError, HubError, WeightsError
from csm_ft.evaluate import prompts
from csm_ft.evaluate.evaluator import Evaluator
from csm_ft.evaluate.judge import SpokenClip
from csm_ft.evaluate.on_data import measure_on_data
from csm_ft.evaluate.results import Kind
from csm_ft.evaluate.speaking import ask, make_script, speak
from csm_ft.families.base import EncoderRecord, Family
from csm_ft.families.model import SpeechModel
from csm_ft.generate.run import Generator
from csm_ft.runs.source import Source, find

_PROMPTS = "prompts.json"


@dataclass(frozen=True)
class Job:
    """Weights to evaluate, with all that is known of them."""

    config: EvaluateConfig
    source: Source
    record: EncoderRecord
    family: Family

    @property
    def store(self) -> Store:
        """The token file."""
        assert self.record.store is not None, "checked before"
        return self.record.store

    def train_config(self) -> TrainConfig:
        """Return the options of the run, or the family's defaults."""
        return self.record.config or self.family.train_config(data=str(self.store.path))


def evaluate_models(evaluator: Evaluator, job: Job) -> None:
    """Add rows for the weights, for their base, and for the real recordings of the prompts."""
    config, store, family = job.config, job.store, job.family
    assert evaluator.encoder is not None, "opened with the token file"
    rows, encoder = list[int](), evaluator.encoder
    speaks = family.speaks_texts(store)
    if speaks:
        chosen = _choose(evaluator, job)
        chosen.write(evaluator.folder / _PROMPTS)
        evaluator.notes += chosen.notes
        rows = list(chosen.rows) or list(range(min(config.n_prompts, len(store.splits["val"]))))
    else:
        evaluator.notes.append(
            f"the family {family.name} speaks no texts of these data: it is measured on them only"
        )
    for name, kind, loaded in _models(evaluator, job):
        model = loaded.requires_grad_(False).to(choose_device(config.device))
        train_config = job.train_config()
        examples = family.arrange(store.splits["val"], train_config, evaluate=True)
        on_data, by_group = measure_on_data(model, family, examples, encoder, train_config)
        clips = _speak(evaluator, job, model, kind) if speaks else []
        evaluator.add(name, kind, clips, on_data=on_data, by_group=by_group)
    evaluator.add_real([("val", row) for row in rows])


def _choose(evaluator: Evaluator, job: Job) -> prompts.ChosenPrompts:
    config = job.config
    if config.prompts:
        return prompts.from_file(Path(config.prompts), job.store)
    assert evaluator.encoder is not None, "opened with the token file"
    columns = evaluator.encoder.columns
    return prompts.from_validation(job.store, columns, config.n_prompts, config.seed)


def _models(evaluator: Evaluator, job: Job) -> Iterator[tuple[str, Kind, SpeechModel]]:
    """Load the weights, those of a sweep's default settings, and their base, one after the other.

    What cannot be loaded is noted, unless it was named.
    """
    source, family, base = job.source, job.family, job.config.base
    yield source.label, "model", family.load_model(source.weights)
    default = _default_trial(source)
    if default is not None:
        try:
            yield "default settings", "default", family.load_model(find(default).weights)
        except (ConfigError, WeightsError) as error:
            evaluator.notes.append(f"the default settings are left out: {error}")
    if base == "none":
        return
    name = source.base if base == "auto" else base
    if not name or name == source.weights:
        evaluator.notes.append(
            "no base model: none is known, or training began with random weights"
        )
        return
    try:
        found = find(name)
        loaded = family.load_model(found.weights)
    except (WeightsError, HubError) as error:
        if base != "auto":
            raise
        evaluator.notes.append(f"the base model is left out: {error}")
        return
    yield "base model", "base", loaded


def _default_trial(source: Source) -> str | None:
    """Return the folder of a sweep's trial 0, which has the defaults, where another is the best."""
    if source.sweep is None or source.run is None or not source.is_sweep:
        return None
    default = source.sweep.trial(0).path
    return None if default.resolve() == source.run.path.resolve() else str(default)


def _speak(evaluator: Evaluator, job: Job, model: SpeechModel, kind: Kind) -> list[SpokenClip]:
    """Let a model speak the prompts into a folder of their own."""
    config = job.config
    asked = ask(
        job.family,
        {
            "model": config.model,
            # The user's own file is the one that messages name.
            "prompts": config.prompts or str(evaluator.folder / _PROMPTS),
            "num_takes": config.num_takes,
            "seed": config.seed,
            "batch_size": config.batch_size,
            "max_sec": config.max_sec,
            "device": config.device,
            "dtype": config.dtype,
        },
        job.train_config(),
    )
    device = choose_device(asked.device)
    encoder = job.family.open_generator(asked, job.record, model, device)
    script = make_script(job.family, asked, job.record, encoder)
    generator = Generator(model, encoder, kind, device, choose_dtype(asked.dtype, device))
    count = len(script.prompts) * asked.num_takes
    console.print(f"generating {count} samples of the {kind}", markup=False)
    clips = speak(generator, script, job.record, evaluator.folder / kind)
    return [replace(clip, id=f"{kind}/{clip.id}") for clip in clips]
