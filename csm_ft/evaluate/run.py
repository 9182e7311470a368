"""Evaluate weights or a folder of samples, or let a codec repeat real clips."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from csm_ft.atomic import disk_errors, whole_folder
from csm_ft.config.evaluate import EvaluateConfig
from csm_ft.data import audio
from csm_ft.data.split import Store
from csm_ft.device import choose_device
from csm_ft.errors import ConfigError
from csm_ft.evaluate import recordings
from csm_ft.evaluate.evaluator import Evaluator
from csm_ft.evaluate.judge import Judges, open_judges
from csm_ft.evaluate.models import Job, evaluate_models
from csm_ft.evaluate.wandb_log import log_evaluation
from csm_ft.families import open_family
from csm_ft.families.base import EncoderRecord, Family
from csm_ft.families.stores import is_foreign, open_store
from csm_ft.report.page import build_report
from csm_ft.runs.encoder_record import find_record
from csm_ft.runs.folder import EvaluationFolder
from csm_ft.runs.source import Source

FOLDER = "evaluation"


def evaluate_weights(config: EvaluateConfig, source: Source, family: Family) -> Path:
    """Evaluate weights on a token file; return the page.

    ConfigError where no token file is known, or it is of another family.
    """
    record = find_record(source, config.data)
    store = _store_of(record, family)
    output = _output(config.output, source.home or Path())
    device = choose_device(config.device)
    judges = _judges(config, device)
    with _opened(output, judges, store, device) as evaluator:
        evaluator.options = config.model_dump(mode="json")
        evaluator.refer_to(config.seed)
        evaluate_models(evaluator, Job(config, source, replace(record, store=store), family))
        evaluation = evaluator.finish(_title(source))
    if source.sweep and source.is_sweep and output == source.sweep.evaluation.path:
        build_report(source.sweep.path)  # it says what was found
    if source.run is not None and source.config is not None:
        log_evaluation(evaluation, source.run, source.config)
    return EvaluationFolder(output).page


def _title(source: Source) -> str:
    """Name the weights; those of a sweep by their trial, as another may become the best."""
    of_trial = f", trial {int(source.run.path.name)}" if source.run and source.is_sweep else ""
    return source.label + of_trial


def evaluate_samples(config: EvaluateConfig) -> Path:
    """Judge a folder of samples; with --data, real recordings of the same texts stand beside them.

    Returns the page.
    """
    folder, store = Path(config.model), None
    if config.data:
        store = open_store(Path(config.data), in_memory=is_foreign(Path(config.data)))
    found = recordings.samples_of(folder)
    output, device = _output(config.output, folder), choose_device(config.device)
    judges = _judges(config, device)
    with _opened(output, judges, store, device) as evaluator:
        evaluator.options = config.model_dump(mode="json")
        evaluator.refer_to(config.seed)
        for name, clips in found.items():
            for clip in clips:
                audio.save(evaluator.folder / clip.id, clip.wave, clip.sample_rate_hz)
            evaluator.add(name, "model", clips)
        if store is not None:
            texts = {clip.text for clips in found.values() for clip in clips}
            split = store.splits["val"]
            rows = [row for row in range(len(split)) if split.clip(row).text in texts]
            rows = rows or list(range(min(config.n_prompts, len(split))))
            evaluator.add_real([("val", row) for row in rows])
        evaluator.finish(folder.resolve().name)
    return EvaluationFolder(output).page


def check_codec(config: EvaluateConfig) -> Path:
    """Judge real clips of a token file before and after its codec; return the page.

    Clips of the validation split come first, as an encoder may have been fitted on the others.
    ConfigError for a family that keeps no sound.
    """
    path = Path(config.data)
    store = open_store(path, in_memory=is_foreign(path))
    output = _output(config.output or f"{path}.codec_check", path.parent)
    device = choose_device(config.device)
    judges = _judges(config, device)
    places = [("val", row) for row in range(len(store.splits["val"]))]
    places = _shuffled(places, config.seed)
    train = [("train", row) for row in range(len(store.splits["train"]))]
    chosen = [*places, *_shuffled(train, config.seed)][: config.n_prompts]
    with _opened(output, judges, store, device) as evaluator:
        evaluator.options = config.model_dump(mode="json")
        evaluator.refer_to(config.seed)
        evaluator.add_real(chosen)
        if not any(row.kind == "codec" for row in evaluator.rows):
            raise ConfigError(
                f"{path}: the family {store.info.family} keeps no sound, so there is no codec to"
                " check"
            )
        evaluator.finish(f"{path.name}: real clips through the codec")
    return EvaluationFolder(output).page


def _judges(config: EvaluateConfig, device: str) -> Judges:
    return open_judges(
        config.asr,
        config.embedder,
        config.emotion_classifier,
        language=config.language,
        device=device,
    )


def _shuffled(places: list[tuple[str, int]], seed: int) -> list[tuple[str, int]]:
    order = np.random.default_rng(seed).permutation(len(places)).tolist()
    return [places[place] for place in order]


@contextmanager
def _opened(output: Path, judges: Judges, store: Store | None, device: str) -> Iterator[Evaluator]:
    """Yield an evaluator that writes into a draft, which becomes `output` at the end."""
    encoder = None
    if store is not None:
        encoder = open_family(store.info.family).open_encoder(store, device)
    with disk_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(output) as draft:
        evaluator = Evaluator(draft, judges, store, encoder)
        evaluator.tell_judges()
        yield evaluator


def _store_of(record: EncoderRecord, family: Family) -> Store:
    """Return the token file of weights; ConfigError when there is none, or of another family."""
    store = record.store
    if store is None or not store.splits:
        raise ConfigError(
            f"{record.label}: {record.found or 'no token file is known'}; name a token file with"
            " --data: the weights are measured on its validation clips"
        )
    if store.info.family != family.name:
        raise ConfigError(
            f"{store.path} is of the family {store.info.family}, {record.label} of {family.name};"
            " name the token file of its training with --data"
        )
    return store


def _output(named: str, home: Path) -> Path:
    """Return the folder to write; ConfigError if it exists and is no evaluation."""
    output = Path(named) if named else home / FOLDER
    results = EvaluationFolder(output).results
    if output.exists() and not results.is_file():
        raise ConfigError(
            f"--output {output} exists and holds no {results.name}: it is not overwritten; name a"
            " new folder"
        )
    return output
