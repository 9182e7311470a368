"""The records of a sweep: written by the study and its results, read by the report page.

Reading is lenient: unknown keys are ignored, numbers that are not finite read as None.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from csm_ft.evaluate.metrics import (
    ERROR,
    ESTIMATE,
    MAIN,
    METRICS,
    VALIDATION,
    as_cost,
    is_higher_better,
)
from csm_ft.sweep.constraints import Constraint

Outcome = Literal["completed", "stopped", "diverged", "infeasible", "poison"]
State = Literal["completed", "stopped", "diverged", "infeasible", "poison", "running", "waiting"]
Purpose = Literal["search", "noise", "confirm"]
SweepState = Literal["running", "finished", "unfinished"]

FAILED: tuple[State, ...] = ("diverged", "infeasible", "poison")
STATE_WORDS: Mapping[State, str] = {
    "completed": "completed",
    "stopped": "stopped early",
    "diverged": "diverged",
    "infeasible": "infeasible",
    "poison": "set aside",
    "running": "running",
    "waiting": "waiting",
}
VAL_LOSS = "val_loss"

ComparedIn = Literal["examples", "seconds of audio"]  # along which trials are compared
EXAMPLES: ComparedIn = "examples"
AUDIO: ComparedIn = "seconds of audio"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite)]
Count = Annotated[int | float | None, BeforeValidator(_finite)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, coerce_numbers_to_str=True)


class TrialRecord(_Record):
    """One trial; values are in the unit of the objective, None = not measured."""

    number: int
    state: State
    reason: str | None = None
    value: Number = None  # lowest objective from the first rung on; None for failed trials
    final_value: Number = None  # objective of the last validation
    best_examples: Count = None  # training examples seen at the best validation
    best_audio_sec: Number = None  # seconds of audio, where trials are compared in them
    best_epoch: Number = None
    params: dict[str, Any] = {}
    attempts: int = 0
    seconds: Number = None
    slot: str | None = None
    dir: str  # run folder, relative to the sweep's
    is_default: bool = False
    purpose: Purpose = "search"  # noise, confirm: it runs again with another seed
    seed: int | None = None  # None in files of earlier versions
    metrics: dict[str, Number] = {}  # all validation metrics at the best validation
    violated: list[str] = []  # constraints; such a trial is infeasible, and has its numbers
    # Examples seen -> objective. The study alone needs it, and it stands in metrics.jsonl.
    curve: dict[int, float] = Field(default={}, exclude=True)
    # Metrics of the first judged validation from the first rung on.
    first_judged: dict[str, Number] = Field(default={}, exclude=True)

    @property
    def has_ended(self) -> bool:
        """Whether a value or a failure was recorded."""
        return self.state not in ("running", "waiting")

    @property
    def has_failed(self) -> bool:
        """Whether it ended without a value that counts."""
        return self.state in FAILED and not self.violated

    @property
    def is_good(self) -> bool:
        """Whether it ended as trials should: at the end of the run, or at a rung."""
        return self.state in ("completed", "stopped")


class Baseline(_Record):
    """The untrained model, measured once; not a trial."""

    value: Number = None
    dir: str = "baseline"
    metrics: dict[str, Number] = {}


class Verdict(_Record):
    """What the sweep found, in words; a positive gain means better than the default."""

    text: str
    tie: bool = False
    gain_over_default: Number = None
    standard_error: Number = None  # over validation clips


class Finalist(_Record):
    """A setting that ran with several seeds; values are means over its fresh runs."""

    trial: int  # of the search, that has this setting
    runs: list[int] = []  # the trials that the mean is over
    mean: float
    seconds: Number = None  # of a run
    ties_with_best: bool = False
    gain_over_default: Number = None  # positive = better
    noise: Number = None  # the least gain that is not a tie


class Confirmation(_Record):
    """What runs with other seeds found."""

    text: str
    deviation: float  # of one run over seeds
    degrees: int  # of freedom
    finalists: list[Finalist] = []  # best first; [] until all have run
    recommended: int | None = None  # the cheapest trial of those that tie with the best


class CurvePoint(_Record):
    """The values of all seeds at one share of the data."""

    share: float
    mean: float
    deviation: Number = None  # standard deviation over seeds
    num_seeds: int


class DataCurve(_Record):
    """A learning curve over shares of the data, and what twice as much is expected to bring."""

    text: str
    points: list[CurvePoint] = []
    # Of the fit: (share, value, low, high) to twice the largest share, two standard errors around.
    line: list[tuple[float, float, float, float]] = []
    gain: Number = None  # positive = lower with twice the data
    standard_error: Number = None  # over seeds


class Ranking(_Record):
    """How well val_loss ranks trials by a judged number: Spearman's rank correlation.

    Positive where a lower loss goes with a better number, if there is a better.
    """

    metric: str
    rho: float
    low: float  # 95 % bootstrap interval over trials
    high: float
    num_trials: int
    text: str = ""  # in words; "" where neither high nor low is better


BASE = "base"  # the untrained model
Contender = int | Annotated[str, Field(pattern=f"^{BASE}$")]  # a trial, or the untrained model


class Score(_Record):
    """How much a contender of blind votes is preferred: Bradley-Terry, in log-odds.

    0 is the average contender; one at s is preferred to one at t in 1 / (1 + exp(t - s)) of votes.
    """

    contender: Contender
    score: float
    low: float  # 95 % interval
    high: float
    num_votes: int
    ties_with_best: bool = False


class Preference(_Record):
    """What all votes say."""

    text: str
    num_votes: int
    num_voters: int
    scores: list[Score] = []  # best first

    def of(self, contender: Contender) -> Score | None:
        """Return the score of a contender, None where nobody voted on it."""
        return next((s for s in self.scores if s.contender == contender), None)


class Summary(_Record):
    """The content of summary.json; files of earlier versions lack the later fields."""

    study: str
    created: str | None = None
    updated: str | None = None
    state: SweepState
    data: str = ""
    objective: str = ""  # in words
    objective_metric: str = VAL_LOSS
    unit: str = ""  # of the objective
    formula: str = ""  # of the validation loss, in words
    n_trials: int = 0
    n_workers: int | None = None
    device: str = ""
    horizon_examples: Number = None  # in compared_in
    compared_in: ComparedIn = EXAMPLES
    rungs: list[float] = []
    baseline: Baseline | None = None
    trials: list[TrialRecord] = []
    best: int | None = None
    verdict: Verdict | None = None
    confirmation: Confirmation | None = None  # with --confirm
    data_curve: DataCurve | None = None  # of a sweep over data_fraction
    constraints: list[str] = []
    preference: Preference | None = None  # of blind votes
    rankings: list[Ranking] = []  # of sweeps that judged enough trials
    judges: dict[str, str] = {}  # what -> name and version
    judges_missing: list[str] = []  # sentences
    notes: list[str] = []  # what happened to the sweep as a whole, in sentences
    importance: Mapping[str, Mapping[str, Number]] = {}  # {method: {parameter: share}}
    importance_of: str = ""  # the values that it explains

    @field_validator("rungs", "trials", "importance", mode="before")
    @classmethod
    def _none_is_empty(cls, value: Any, info: Any) -> Any:
        return value if value is not None else cls.model_fields[info.field_name].get_default()

    @property
    def best_trial(self) -> TrialRecord | None:
        """The best completed trial, if there is one."""
        return next((t for t in self.trials if t.number == self.best), None)

    @property
    def default_trial(self) -> TrialRecord | None:
        """The trial of the default settings, if it is among the trials."""
        return next((t for t in self.trials if t.is_default), None)

    @property
    def begun(self) -> list[TrialRecord]:
        """The trials that have been started."""
        return [t for t in self.trials if t.state != "waiting"]

    @property
    def num_ended(self) -> int:
        """How many trials have ended, well or not."""
        return sum(t.has_ended for t in self.trials)

    @property
    def valued(self) -> list[TrialRecord]:
        """The trials whose value counts."""
        return [t for t in self.trials if t.value is not None and not t.has_failed]

    @property
    def ranked(self) -> list[TrialRecord]:
        """The trials that have begun, best first.

        Then those that violate a constraint; those without a value that counts come last.
        """

        def rank(trial: TrialRecord) -> tuple[bool, bool, float, int]:
            has_none = trial.value is None or trial.has_failed
            cost = 0.0 if trial.value is None else self.cost(trial.value)
            return has_none, bool(trial.violated), cost, trial.number

        return sorted(self.begun, key=rank)

    @property
    def has_repeats(self) -> bool:
        """Whether settings were run again with other seeds."""
        return len({t.seed for t in self.begun}) > 1

    @property
    def parameters(self) -> list[str]:
        """Names of everything that was searched, in order of first appearance."""
        return keys_of(trial.params for trial in self.trials)

    @property
    def other_metrics(self) -> list[str]:
        """Names of the validation metrics besides the objective."""
        measured = [self.baseline.metrics] if self.baseline else []
        measured += [trial.metrics for trial in self.trials]
        return [name for name in keys_of(measured) if name != self.objective_metric]

    @property
    def shown_metrics(self) -> list[str]:
        """Those of the other metrics that stand in tables: not every judged number, no error."""
        constrained = {Constraint.parse(text).metric for text in self.constraints}
        shown = {*MAIN, *constrained}
        names = [name for name in self.other_metrics if name not in (ERROR, ESTIMATE)]
        return [name for name in names if name not in METRICS or name in shown]

    @property
    def objective_label(self) -> str:
        """Name of the objective, for people."""
        return objective_label(self.objective_metric)

    @property
    def higher_is_better(self) -> bool:
        """Whether the best value is the highest."""
        return is_higher_better(self.objective_metric)

    def cost(self, value: float) -> float:
        """Return a value of the objective so that lower is better."""
        return as_cost(self.objective_metric, value)


@dataclass(frozen=True)
class Objective:
    """What trials are compared by: the best value of one metric."""

    metric: str = VAL_LOSS
    unit: str = ""
    formula: str = ""  # of the validation loss, in words

    @property
    def label(self) -> str:
        """Its name, for people."""
        return objective_label(self.metric)

    @property
    def is_loss(self) -> bool:
        """Whether it is the validation loss, whose share of each clip is known."""
        return self.metric == VAL_LOSS

    @property
    def higher_is_better(self) -> bool:
        """Whether the best value is the highest."""
        return is_higher_better(self.metric)

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        """The direction, in Optuna's words."""
        return "maximize" if self.higher_is_better else "minimize"

    def cost(self, value: float) -> float:
        """Return a value so that lower is better."""
        return as_cost(self.metric, value)

    def write(self, value: float, digits: int = 3) -> str:
        """Write a value with its unit."""
        return f"{value:.{digits}f} {self.unit}".rstrip()


def objective_label(metric: str) -> str:
    """Return a metric's name for people."""
    return "validation loss" if metric == VAL_LOSS else metric


def keys_of(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the keys of all mappings, in order of first appearance."""
    return list(dict.fromkeys(chain.from_iterable(mappings)))


def metrics_in(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics and the judged numbers among the facts of a validation."""
    return {
        name: value
        for name, value in facts.items()
        if name.startswith(VALIDATION) or name in METRICS
    }


def best_of(records: Iterable[TrialRecord], objective: Objective) -> TrialRecord | None:
    """Return the completed trial with the best value, or None.

    A trial that violates a constraint is not completed but infeasible. What runs again with other
    seeds is not among them: with enough seeds one is lucky.
    """
    completed = [
        (r.value, r)
        for r in records
        if r.state == "completed" and r.purpose == "search" and r.value is not None
    ]
    if not completed:
        return None
    return min(completed, key=lambda pair: (objective.cost(pair[0]), pair[1].number))[1]
