"""What a study keeps with each of Optuna's trials."""

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial

from csm_ft.evaluate.metrics import is_judged
from csm_ft.sweep.asha import Curve, Rungs
from csm_ft.sweep.records import FAILED, Objective, State

_METRICS = "metrics after {} examples"


def key_of(params: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
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


def rivals_of(own: FrozenTrial, trials: Sequence[FrozenTrial], objective: Objective) -> list[Curve]:
    """Return the costs of the longest good trial of each other setting.

    Only one for each: copies must not fill the best 1/eta.
    """
    key = key_of(own.params)
    good = [t for t in trials if not has_failed(t) and key_of(t.params) != key]
    good.sort(key=lambda t: len(curve_of(t)))
    return list({key_of(t.params): costs_of(t, objective) for t in good}.values())


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
