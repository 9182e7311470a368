"""What a study keeps with each of Optuna's trials."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial

from csm_ft.evaluate.metrics import is_judged
from csm_ft.sweep.asha import Curve, Rungs
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


class Curves:
    """Settings and costs of trials; those of trials that have ended are kept."""

    def __init__(self, objective: Objective) -> None:
        self._objective, self._ended = objective, dict[int, tuple[Key, Curve]]()

    def of(self, trial: FrozenTrial) -> tuple[Key, Curve]:
        """Return what tells the setting of a trial apart, and its costs by examples seen."""
        if trial.number in self._ended:
            return self._ended[trial.number]
        found = key_of(trial.params), costs_of(trial, self._objective)
        if trial.state.is_finished():
            self._ended[trial.number] = found
        return found

    def rivals(self, own: FrozenTrial, trials: Sequence[FrozenTrial]) -> list[Curve]:
        """Return the costs of the longest good trial of each other setting.

        Only one for each: copies must not fill the best 1/eta.
        """
        own_key, _ = self.of(own)
        good = [self.of(trial) for trial in trials if not has_failed(trial)]
        good.sort(key=lambda one: len(one[1]))
        return list({key: costs for key, costs in good if key != own_key}.values())


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
