"""What a study keeps with each of Optuna's trials."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from optuna.trial import FrozenTrial

from csm_ft.evaluate.metrics import is_judged
from csm_ft.sweep.asha import Curve, EndedCurve, Rungs
from csm_ft.sweep.records import FAILED, Objective, State, TrialRecord, metrics_in

if TYPE_CHECKING:
    from csm_ft.sweep.trials import Plan

Key = tuple[tuple[str, Any], ...]
_METRICS = "metrics after {} examples"


def key_of(params: Mapping[str, Any]) -> Key:
    """Return what tells settings apart; sums of steps differ in their last digits."""
    values = {n: float(f"{v:.12g}") if isinstance(v, float) else v for n, v in params.items()}
    return tuple(sorted(values.items()))


def metrics_key(examples: int | None) -> str:
    """Return the attribute that keeps the metrics of a validation."""
    return _METRICS.format(examples)


def curve_of(frozen: FrozenTrial) -> dict[int, float]:
    """Return the objective by examples seen."""
    return {e: value for e, value in frozen.intermediate_values.items() if e > 0}


def costs_of(frozen: FrozenTrial, objective: Objective) -> dict[int, float]:
    """Return the objective by examples seen so that lower is better."""
    return {e: objective.cost(value) for e, value in curve_of(frozen).items()}


class _Longest(NamedTuple):
    """The longest curve of a setting; of equally long ones that of the later trial."""

    num_points: int
    number: int
    costs: Curve


class Curves:
    """The costs of the longest good trial of each setting, kept of trials that have ended."""

    def __init__(self, objective: Objective, group_of: Callable[[int], int]) -> None:
        """`group_of` is given a trial's number; trials are compared with those of their group."""
        self._objective, self._group_of = objective, group_of
        self._ended: dict[int, dict[Key, _Longest]] = {}  # by group

    def ended(self, trial: FrozenTrial) -> None:
        """Keep the curve of a trial that has ended, unless it has failed."""
        if not has_failed(trial):
            group = self._ended.setdefault(self._group_of(trial.number), {})
            _keep_longest(group, trial, EndedCurve(costs_of(trial, self._objective)))

    def rivals(self, own: FrozenTrial, running: Iterable[FrozenTrial]) -> list[Curve]:
        """Return the costs of the longest good trial of each other setting.

        Only one for each: copies must not fill the best 1/eta.
        """
        group = self._group_of(own.number)
        longest = dict(self._ended.get(group, {}))
        for trial in running:
            if self._group_of(trial.number) == group:
                _keep_longest(longest, trial, costs_of(trial, self._objective))
        longest.pop(key_of(own.params), None)
        return [one.costs for one in longest.values()]


def _keep_longest(longest: dict[Key, _Longest], trial: FrozenTrial, costs: Curve) -> None:
    key, found = key_of(trial.params), _Longest(len(costs), trial.number, costs)
    if key not in longest or found[:2] > longest[key][:2]:
        longest[key] = found


def state_of(frozen: FrozenTrial) -> State:
    """Return the state of a trial that counts; WAITING is running: it is asked for in a moment."""
    return frozen.user_attrs["outcome"]["state"] if frozen.state.is_finished() else "running"


def has_failed(frozen: FrozenTrial) -> bool:
    """Tell whether a trial ended as one that cannot be the best: also by a constraint."""
    return state_of(frozen) in FAILED


def first_judged(frozen: FrozenTrial, rungs: Rungs) -> dict[str, float | None]:
    """Return the metrics of the first judged validation from the first rung on; {} = none."""
    points = curve_of(frozen)
    first = rungs.reached(points, 0)
    for examples in sorted(points):
        metrics = frozen.user_attrs.get(metrics_key(examples), {})
        if first is not None and examples >= first and is_judged(metrics):
            return metrics
    return {}


def record_of(frozen: FrozenTrial, plan: "Plan", run_dir: str) -> TrialRecord:
    """Return what people and results see of a trial."""
    objective = plan.objective
    attrs, curve = frozen.user_attrs, curve_of(frozen)
    state = state_of(frozen)
    outcome = attrs["outcome"] if frozen.state.is_finished() else {}
    best = outcome.get("best") or {}
    lowest = plan.rungs.best(costs_of(frozen, objective))
    own = None if lowest is None else objective.cost(lowest)
    value = best.get(plan.metric, own)
    # A running trial has no `best` yet: its best validation is where the curve is lowest.
    best_examples, best_sec = best.get("examples"), best.get("audio_sec")
    at = best_examples if best_sec is None else round(best_sec)
    at = at or next((e for e, v in curve.items() if v == value), None)
    metrics = {**attrs.get(metrics_key(at), {}), **metrics_in(best)}
    broken = outcome.get("violated", [])
    is_lost = state in FAILED and not broken
    return TrialRecord(
        number=frozen.number,
        state=state,
        reason=outcome.get("reason", ""),
        value=None if is_lost else value,
        final_value=outcome.get("final_value"),
        best_examples=best_examples,
        best_audio_sec=best_sec,
        best_epoch=best.get("epoch"),
        params=dict(frozen.params),
        purpose=attrs.get("purpose", "search"),
        seed=attrs.get("seed", plan.space.base.seed),
        attempts=attrs.get("attempts", 0),
        seconds=round(attrs.get("seconds", 0.0), 3),
        slot=attrs.get("slot", ""),
        dir=run_dir,
        is_default=frozen.number == 0,
        violated=broken,
        metrics={} if is_lost else metrics,
        curve=curve,
        first_judged=first_judged(frozen, plan.rungs),
    )
