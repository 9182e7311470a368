"""Where weights come from, and all that is known of how they came to be.

A run, a sweep's best, a checkpoint; or just weights.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from csm_ft.config import ConfigError, TrainConfig, build, read_yaml
from csm_ft.data.token_file import Store, StoreError, is_public_layout, open_store
from csm_ft.families import config_class
from csm_ft.runs.checkpoint import TrainState, checkpoints

_MAX_ANCESTORS = 100  # a run may start from a run


@dataclass(frozen=True)
class Origin:
    """Weights, with the run and the sweep that they are of; None = not known."""

    weights: str  # a folder, a file or a hub name
    home: Path | None = None  # of the run or the sweep: where what is made of it belongs
    run: Path | None = None
    sweep: Path | None = None
    config: TrainConfig | None = None  # as the run resolved it
    state: TrainState | None = None  # when the weights were saved

    @property
    def label(self) -> str:
        """Name for people, without the folders above."""
        if self.home is None:
            return self.weights if is_hub_name(self.weights) else Path(self.weights).resolve().name
        return self.home.resolve().name

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
            name = _base(_read_config(run))
        return name


def find(name: str, checkpoint: str = "") -> Origin:
    """Resolve a run folder, a sweep folder, a checkpoint folder, or any other name of weights.

    `checkpoint` is best, last or step_000500 of a run; "" = best. Raises ConfigError when that is
    not there.
    """
    path = Path(name)
    if (path / "config.yaml").is_file():
        weights = _checkpoint(path, checkpoint or "best")
        return _origin(weights, path, home=path)
    if (path / "trials").is_dir():
        return _sweep(path, checkpoint)
    if checkpoint:
        raise ConfigError(
            f"--checkpoint {checkpoint}: {name} is not the folder of a run or a sweep; leave the"
            " flag out"
        )
    run = _run_of(path)
    if run is not None:
        return _origin(path, run, home=run)
    if (path.parent / "trials").is_dir() and path.name == "best":
        return _sweep(path.parent, "")
    return Origin(name)


def open_data(origin: Origin) -> tuple[Store | None, str]:
    """Open the token file that a run was trained on.

    None, and why, when it is gone or has become another.
    """
    if origin.config is None or origin.run is None:
        return None, ""
    # A run that is looked at from elsewhere: its paths are relative to a folder above it.
    places = [folder / origin.config.data for folder in (Path(), *origin.run.resolve().parents)]
    path = next((place for place in places if place.is_file()), places[0])
    try:
        store = open_store(path, in_memory=is_public_layout(path))
    except (StoreError, OSError) as error:
        return None, f"the run's token file cannot be read ({error})"
    recorded = json.loads((origin.run / "env.json").read_text(encoding="utf-8"))
    for what in ("codec_fingerprint", "tokenizer_fingerprint"):
        if recorded[what] != getattr(store.info, what):
            return (
                None,
                f"{path} was made with another {what.split('_')[0]} than when the run began",
            )
    return store, ""


def is_same_data(origin: Origin, store: Store) -> bool:
    """Tell whether a token file still has the content that the run was trained on."""
    assert origin.run is not None, "a run's token file"
    recorded = json.loads((origin.run / "env.json").read_text(encoding="utf-8"))
    return recorded["data_fingerprint"] == store.info.content_fingerprint


def is_hub_name(name: str) -> bool:
    """Tell a hub name (owner/name) from a path."""
    return (
        re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name, re.ASCII) is not None
        and not Path(name).exists()
    )


def _sweep(folder: Path, checkpoint: str) -> Origin:
    """Resolve a sweep to its best trial; best/ outlives the trial's own checkpoints."""
    summary = folder / "summary.json"
    best = (
        json.loads(summary.read_text(encoding="utf-8")).get("best") if summary.is_file() else None
    )
    if best is None or not (folder / "best").is_dir():
        raise ConfigError(
            f"{folder}: no trial of this sweep has completed yet, so it has no best/; wait, or name"
            " a trial's folder"
        )
    run = folder / "trials" / f"{best:04d}"
    weights = folder / "best" if checkpoint in ("", "best") else _checkpoint(run, checkpoint)
    return _origin(weights, run, home=folder)


def _origin(weights: Path, run: Path, *, home: Path) -> Origin:
    sweep = run.resolve().parents[1]
    state = TrainState.read(weights) if (weights / "state.json").is_file() else None
    is_trial = run.resolve().parent.name == "trials" and (sweep / "trials.csv").is_file()
    return Origin(str(weights), home, run, sweep if is_trial else None, _read_config(run), state)


def _checkpoint(run: Path, which: str) -> Path:
    folder = run / "checkpoints"
    steps = checkpoints(folder)
    if which == "last" and steps:
        return steps[-1]
    if (
        which != "last"
        and (folder / which).is_dir()
        and which in ("best", *(step.name for step in steps))
    ):
        return folder / which
    there = ", ".join(
        [*(["best"] if (folder / "best").is_dir() else []), *(step.name for step in steps)]
    )
    if there:
        why = " (no validation since the first step)" if which == "best" else ""
        raise ConfigError(
            f"{run} has no checkpoint {which!r}{why}; it has {there}: name one with --checkpoint,"
            " or last"
        )
    raise ConfigError(
        f"{run} has no checkpoint: it has not saved one yet, or it is a trial whose weights its"
        f" sweep has dropped. Go on with `python train.py --config {run / 'config.yaml'}`"
    )


def _run_of(path: Path) -> Path | None:
    """Return the run that a folder is, or is a checkpoint of."""
    for folder in (path, path.parent.parent) if path.is_dir() else ():
        if (folder / "config.yaml").is_file() and (
            folder == path or path.parent.name == "checkpoints"
        ):
            return folder
    return None


def _read_config(run: Path) -> TrainConfig:
    options = config_class()
    return build(options, read_yaml(options, run / "config.yaml"))


def _base(config: TrainConfig) -> str:
    return "" if config.train_from_scratch else config.model_name_or_checkpoint_path
