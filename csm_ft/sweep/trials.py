"""What a study is about, and what a trial is: train.py with a config and a folder of its own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csm_ft.config.base import build
from csm_ft.config.train import TrainConfig
from csm_ft.errors import ConfigError, SweepError
from csm_ft.evaluate.metrics import check_best_by
from csm_ft.families import open_family
from csm_ft.runs.folder import RunFolder, SweepFolder
from csm_ft.runs.yardstick import kept_options
from csm_ft.schedule import Duration
from csm_ft.sweep.asha import Rungs
from csm_ft.sweep.config import SweepConfig
from csm_ft.sweep.constraints import check_request
from csm_ft.sweep.records import AUDIO, VAL_LOSS, Objective
from csm_ft.sweep.slots import Machine

if TYPE_CHECKING:
    from csm_ft.sweep.space import Space

# Keys of an agreement: followed by the name of a searched option.
SPACE_OF = "space of "
TRIAL_0 = "value of trial 0 for "


@dataclass(frozen=True)
class DataFacts:
    """What the orchestrator needs to know of the token file."""

    num_train_examples: int
    fingerprint: str
    longest_positions: int = 1  # of the longest training example
    epoch_sec: float = 0.0  # of audio


Describe = Callable[[TrainConfig], DataFacts]


def describe_data(config: TrainConfig) -> DataFacts:
    """Read the facts from the token file; StoreError if it cannot be trained on."""
    # Here: a wrong option needs no HDF5.
    from csm_ft.data.sampling import take_fraction
    from csm_ft.families.stores import open_tokens

    store = open_tokens(Path(config.data), config.family, in_memory=False)
    examples = open_family(config.family).arrange(store.splits["train"], config, evaluate=False)
    examples = take_fraction(examples, config.data_fraction, seed=config.seed)
    longest = int(examples.costs.max(initial=1))
    fingerprint = store.info.content_fingerprint
    return DataFacts(len(examples), fingerprint, longest, examples.epoch_sec)


class DataWatch:
    """Notices between trials that the token file is gone, or has other content."""

    def __init__(self, config: TrainConfig, facts: DataFacts, describe: Describe) -> None:
        """Take the facts that the study began with."""
        self._config, self._facts, self._describe = config, facts, describe
        self._path = Path(config.data)
        self._seen = self._signature()

    def check(self) -> None:
        """Raise SweepError if trials would not see the data that the study is about.

        The file is read again only when its size or time has changed.
        """
        signature = self._signature()
        if signature == self._seen:
            return
        way_out = (
            "put it back; trials that have not ended stay open, and the same command continues"
        )
        if signature is None:
            raise SweepError(f"{self._path}: the token file of this sweep is gone; {way_out}")
        if self._describe(self._config).fingerprint != self._facts.fingerprint:
            raise SweepError(
                f"{self._path}: its content has changed since the sweep began, and trials on other"
                f" data cannot be compared; {way_out}"
            )
        self._seen = signature

    def _signature(self) -> tuple[int, int] | None:
        if not self._path.is_file():
            return None
        stat = self._path.stat()
        return stat.st_size, stat.st_mtime_ns


@dataclass(frozen=True)
class Plan:
    """What a study is about."""

    sweep: SweepConfig
    space: "Space"
    rungs: Rungs
    agreement: Mapping[str, Any]  # all that must stay the same while the study grows

    @property
    def metric(self) -> str:
        """Name of the metric that trials are compared by."""
        return self.space.base.best_by

    @cached_property  # asked for with each trial
    def objective(self) -> Objective:
        """What trials are compared by."""
        return objective_of(self.space.base)

    @property
    def changes_examples(self) -> bool:
        """Whether a searched option changes what an example is."""
        return changes_examples(self.space)

    @property
    def is_learning_curve(self) -> bool:
        """Whether trials have different amounts of data: then those with less are not behind."""
        return any(parameter.name == "data_fraction" for parameter in self.space.parameters)


def plan_study(sweep: SweepConfig, space: "Space", data: DataFacts) -> Plan:
    """Return the plan of a study; ConfigError for numbers that its trials cannot have."""
    check_best_by(space.base.best_by, judge_every=space.base.judge_every)
    check_request(sweep.constraints, space.base)
    return Plan(sweep, space, _rungs(sweep, space, data), _agreement(sweep, space, data))


def changes_examples(space: "Space") -> bool:
    """Tell whether a searched option changes what an example is.

    Then trials are compared after equal seconds of audio.
    """
    searched = {*(parameter.name for parameter in space.parameters), *space.computed}
    return bool(searched & set(space.base.changes_examples))


def objective_of(config: TrainConfig) -> Objective:
    """Return what trials of this config are compared by."""
    yardstick = open_family(config.family).yardstick
    metric = config.best_by
    unit = yardstick.unit if metric == VAL_LOSS else yardstick.metric_units.get(metric, "")
    return Objective(metric, unit, yardstick.formula)


def is_judged(config: TrainConfig) -> bool:
    """Tell whether runs of this config are judged."""
    return bool(Duration.parse(config.judge_every).amount)


# Set by the sweep; or unknown to studies that are older than the option.
_NOT_AGREED = (
    ("judge_best", True),
    ("judge_best", False),
    ("judge_emotion_classifier", "none"),
)


@dataclass(frozen=True)
class Configs:
    """Makes the config of each run of the sweep."""

    folder: SweepFolder
    sweep: SweepConfig
    base: TrainConfig
    machine: Machine
    longest_positions: int = 1  # of the longest training example
    audio: "EpochAudio | None" = None  # where trials are compared in seconds of it
    compute: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda _: {}  # Space.compute

    def trial(self, number: int, params: Mapping[str, Any], *, threads: int) -> TrainConfig:
        """Return the complete config of a trial; ConfigError if its parameters do not fit.

        Its validations measure as that of the untrained model did, on whatever machine it runs.
        """
        config = self._run(self.folder.trial(number), threads, params)
        return config.replace(**kept_options(config, self.folder.baseline.config))

    def baseline(self) -> TrainConfig:
        """Return the config under which the untrained model is measured."""
        return self._run(self.folder.baseline, self.machine.threads, {})

    def _run(self, folder: RunFolder, threads: int, params: Mapping[str, Any]) -> TrainConfig:
        fixed = {
            "output_dir": str(folder.path),
            "device": self.machine.device,
            "threads": threads,
            "val_every": str(self.sweep.validation_share),
            "best_from": str(self.sweep.rung_shares[0]),
            "measure_base": False,
            "keep_last": 1,
            "judge_best": is_judged(self.base),
            "resume": True,
            "wandb_group": self.sweep.study_name,
            "wandb_name": f"{self.sweep.study_name}-{folder.path.name}",
            "wandb_reinit": self.base.wandb_reinit or self.sweep.packed_lora > 1,
        }
        computed = self.compute(params)
        config = build(type(self.base), {**self.base.model_dump(), **params, **computed, **fixed})
        return config if self.audio is None else config.replace(**self._timed_by_audio(config))

    def _timed_by_audio(self, config: TrainConfig) -> dict[str, object]:
        """Return the length and the intervals of a run that are equal in seconds of audio."""
        assert self.audio is not None, "called where trials are compared by it"
        horizon_sec = self.base.n_epochs * self.audio(self.base)
        changes: dict[str, object] = {"n_epochs": horizon_sec / self.audio(config)}
        for name in ("val_every", "best_from", "judge_every"):
            every = Duration.parse(getattr(config, name))
            if every.unit == "run" and every.amount:
                changes[name] = f"{horizon_sec * every.amount:.6f}sec"
        return changes


class EpochAudio:
    """Seconds of audio that an epoch has under options that change what an example is."""

    def __init__(self, describe: Describe) -> None:
        self._describe, self._known = describe, dict[tuple[object, ...], float]()

    def __call__(self, config: TrainConfig) -> float:
        """Return the seconds; ConfigError where the options leave no example."""
        key = (config.seed, *(getattr(config, name) for name in config.changes_examples))
        if key not in self._known:
            self._known[key] = self._describe(config).epoch_sec
        if not self._known[key]:
            names = ", ".join(f"{n} {getattr(config, n)}" for n in config.changes_examples)
            raise ConfigError(f"no example is left to train on with {names}; narrow the space")
        return self._known[key]


def _rungs(sweep: SweepConfig, space: "Space", data: DataFacts) -> Rungs:
    """Return where trials are compared, in examples seen or in seconds of audio."""
    base, shares, every = space.base, sweep.rung_shares, sweep.validation_share
    if changes_examples(space):
        return Rungs(shares, every, base.n_epochs * data.epoch_sec, AUDIO)
    steps_examples = base.max_steps * base.batch_size * base.grad_acc_steps
    horizon = steps_examples or base.n_epochs * data.num_train_examples
    return Rungs(shares, every, horizon)


def _agreement(sweep: SweepConfig, space: "Space", data: DataFacts) -> dict[str, Any]:
    """Return all that must stay the same for trials to be comparable."""
    texts = space.describe()
    facts: dict[str, Any] = {f"{SPACE_OF}{name}": text for name, text in texts.items()}
    for name, value in space.base.training_keys().items():
        facts[f"{TRIAL_0}{name}" if name in texts else name] = value
    if space.base.best_by != VAL_LOSS:  # studies that are older than best_by must stay resumable
        facts["best_by"] = space.base.best_by
    facts |= {f"expression of {name}": one.text for name, one in space.computed.items()}
    if changes_examples(space):
        facts["compared in"] = AUDIO
    if sweep.constraints:
        facts["constraint"] = sweep.constraint
    if is_judged(space.base):  # of which validations can be the best, and by which judges
        facts |= {
            name: value
            for name, value in space.base.model_dump(mode="json").items()
            if name.startswith("judge_") and (name, value) not in _NOT_AGREED
        }
    return facts | {
        "content of the token file": data.fingerprint,
        "rungs": [str(share) for share in sweep.rung_shares],
        "eta": sweep.eta,
        "pruner": sweep.pruner,
    }
