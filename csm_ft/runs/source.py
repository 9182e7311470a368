"""Where weights come from, and all that is known of how they came to be.

A run, a sweep's best, a checkpoint; or just weights.
"""

import json
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csm_ft.config.train import TrainConfig
from csm_ft.data.split import Store, StoreInfo
from csm_ft.errors import ConfigError, DataError
from csm_ft.families import read_config
from csm_ft.families.stores import is_foreign, open_store
from csm_ft.hub import is_hub_name
from csm_ft.runs.folder import RunFolder, SweepFolder

if TYPE_CHECKING:
    from csm_ft.runs.checkpoint import TrainState

_MAX_ANCESTORS = 100  # a run may start from a run
_OLD_KEYS = {  # of env.json, until runs of all families had the same ones
    "audio_fingerprint": "codec_fingerprint",
    "text_fingerprint": "tokenizer_fingerprint",
}


@dataclass(frozen=True)
class Source:
    """Weights, with the run and the sweep that they are of; None = not known."""

    weights: str  # a folder, a file or a hub name
    home: Path | None = None  # of the run or the sweep: where what is made of it belongs
    run: RunFolder | None = None
    sweep: SweepFolder | None = None
    config: TrainConfig | None = None  # as the run resolved it
    state: "TrainState | None" = None  # when the weights were saved

    @property
    def label(self) -> str:
        """Name for people, without the folders above."""
        if self.home is not None:
            return self.home.resolve().name
        return self.weights if is_hub_name(self.weights) else Path(self.weights).resolve().name

    @property
    def is_sweep(self) -> bool:
        """Whether a sweep was named, whose best weights these are."""
        return self.sweep is not None and self.home == self.sweep.path

    @property
    def base(self) -> str:
        """The weights that training began with, through runs that began with runs.

        A hub name or a foreign folder; "" = random ones.
        """
        name = self.weights if self.config is None else _base(self.config)
        for _ in range(_MAX_ANCESTORS):
            run = _run_of(Path(name))
            if run is None:
                break
            name = _base(read_config(run.config))
        return name


def find(name: str, checkpoint: str = "") -> Source:
    """Resolve a run folder, a sweep folder, a checkpoint, or any other name of weights.

    `checkpoint` is best, last or step_000500 of a run; "" = best. Raises ConfigError when there is
    no such checkpoint.
    """
    path = Path(name)
    above = RunFolder(path.resolve().parent)
    if path.resolve() == above.checkpoints and above.is_run:
        path = above.path
    run, sweep = RunFolder(path), SweepFolder(path)
    if run.is_run:
        return _of_run(run, _checkpoint(run, checkpoint or "best"))
    if sweep.trials.is_dir():
        return _of_sweep(sweep, checkpoint)
    if checkpoint:
        raise ConfigError(
            f"--checkpoint {checkpoint}: {name} is not the folder of a run or a sweep; leave the"
            " flag out"
        )
    folder = path.parent if path.is_file() else path
    run, sweep = _run_of(folder), SweepFolder(folder.parent)
    if run is not None:
        return replace(_of_run(run, folder), weights=name)
    if sweep.trials.is_dir() and folder.name == sweep.best.name:
        return replace(_of_sweep(sweep, ""), weights=name)
    return Source(name)


def open_data(source: Source) -> tuple[Store | None, str]:
    """Open the token file that a run was trained on; None, and why, when it is not found.

    Nor is it when another encoder has made it since.
    """
    if source.config is None or source.run is None:
        return None, ""
    # A run that is looked at from elsewhere: its paths are relative to a folder above it.
    above = source.run.path.resolve().parents
    places = [folder / source.config.data for folder in (Path(), *above)]
    path = next((place for place in places if place.is_file()), places[0])
    try:
        store = open_store(path, in_memory=is_foreign(path))
    except DataError as error:
        return None, f"the run's token file cannot be read ({error})"
    recorded = fingerprints(source)
    for what, was in recorded.items():
        if was != getattr(store.info, f"{what}_fingerprint"):
            return None, f"{path}: its {what} was encoded otherwise when the run began"
    return store, ""


def fingerprints(source: Source) -> dict[str, str]:
    """Return the fingerprints of the encoder when the run began: audio, text."""
    recorded = _environment(source)
    found = {name: recorded.get(name, recorded.get(old)) for name, old in _OLD_KEYS.items()}
    return {
        name.removesuffix("_fingerprint"): was for name, was in found.items() if was is not None
    }


def data_fingerprint(source: Source) -> str:
    """Return the fingerprint of the tokens that a run was trained on; "" = not known."""
    return _environment(source).get("data_fingerprint", "")


def is_same_data(source: Source, info: StoreInfo) -> bool:
    """Tell whether a token file still has the content that the run was trained on."""
    return data_fingerprint(source) == info.content_fingerprint


def _environment(source: Source) -> dict[str, Any]:
    if source.run is None or not source.run.environment.is_file():
        return {}
    return source.run.read_environment()


def _of_sweep(sweep: SweepFolder, checkpoint: str) -> Source:
    """Resolve a sweep to its best trial; best/ outlives the trial's own checkpoints."""
    summary = sweep.summary
    best = None
    if summary.is_file():
        best = json.loads(summary.read_text(encoding="utf-8")).get("best")
    if best is None or not sweep.best.is_dir():
        raise ConfigError(
            f"{sweep.path}: no trial of this sweep has completed yet, so it has no best/; wait, or"
            " name a trial's folder"
        )
    run = sweep.trial(best)
    weights = sweep.best if checkpoint in ("", "best") else _checkpoint(run, checkpoint)
    return replace(_of_run(run, weights), home=sweep.path, sweep=sweep)


def _of_run(run: RunFolder, weights: Path) -> Source:
    from csm_ft.runs.checkpoint import TrainState  # imports torch

    sweep = SweepFolder(run.path.resolve().parents[1])
    is_trial = run.path.resolve().parent == sweep.trials and sweep.table.is_file()
    return Source(
        str(weights),
        home=run.path,
        run=run,
        sweep=sweep if is_trial else None,
        config=read_config(run.config),
        state=TrainState.read(weights) if (weights / "state.json").is_file() else None,
    )


def _checkpoint(run: RunFolder, which: str) -> Path:
    steps = run.step_folders()
    if which == "last" and steps:
        return steps[-1]
    by_name = {step.name: step for step in steps}
    if run.best.is_dir():
        by_name = {"best": run.best, **by_name}
    if which in by_name:
        return by_name[which]
    if by_name:
        why = " (no validation since the first step)" if which == "best" else ""
        raise ConfigError(
            f"{run.path} has no checkpoint {which!r}{why}; it has {', '.join(by_name)}: name one"
            " with --checkpoint, or last"
        )
    raise ConfigError(
        f"{run.path} has no checkpoint: it has not saved one yet, or it is a trial whose weights"
        " its sweep has dropped. Resume it with `python train.py --config"
        f" {shlex.quote(str(run.config))}`"
    )


def _run_of(path: Path) -> RunFolder | None:
    """Return the run that a folder is, or is a checkpoint of."""
    if not path.is_dir():
        return None
    run, above = RunFolder(path), RunFolder(path.parent.parent)
    if run.is_run:
        return run
    is_checkpoint = path.parent == above.checkpoints and above.is_run
    return above if is_checkpoint else None


def _base(config: TrainConfig) -> str:
    return "" if config.train_from_scratch else config.model_name_or_checkpoint_path
