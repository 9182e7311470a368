"""How much each parameter explains of what trials reached."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import optuna
from optuna.trial import FrozenTrial

from csm_ft.sweep.optuna_trials import costs_of, has_failed, state_of
from csm_ft.sweep.records import objective_label

if TYPE_CHECKING:
    from csm_ft.sweep.trials import Plan

FEWEST_TRIALS = 4


class Point(NamedTuple):
    """A trial and the value that it is compared by; None leaves it out."""

    trial: FrozenTrial
    value: float | None


def explain(trials: Sequence[FrozenTrial], plan: "Plan") -> tuple[str, dict[str, dict[str, float]]]:
    """Return (which values it explains, {method: {parameter: share}}) of all trials of a study.

    Where most trials were stopped early, the value at the first rung stands in: there all trials
    are compared at equal examples.
    """
    label, rungs, objective = objective_label(plan.metric), plan.rungs, plan.objective
    good = [t for t in trials if t.state.is_finished() and not has_failed(t)]
    completed = [t for t in good if state_of(t) == "completed"]
    if 2 * len(completed) >= len(good):
        values = [(t, t.value) for t in completed if t.value is not None]
        points = [Point(t, objective.cost(value)) for t, value in values]
        extreme = "highest" if objective.higher_is_better else "lowest"
        return f"{extreme} {label}", measure_importance(points)
    points = [Point(t, rungs.value(costs_of(t, objective), 0)) for t in good]
    return f"{label} at {rungs.shares[0]} of the run", measure_importance(points)


def measure_importance(points: Sequence[Point]) -> dict[str, dict[str, float]]:
    """Return {method: {parameter: share}}; empty below four comparable trials."""
    study = optuna.create_study(direction="minimize")
    for trial, value in points:
        if value is not None:
            study.add_trial(
                optuna.create_trial(
                    params=trial.params, distributions=trial.distributions, value=value
                )
            )
    trials = study.trials
    # Conditional parameters are absent from some trials: only what all have can be compared.
    shared = set.intersection(*(set(t.params) for t in trials)) if trials else set()
    varied = sorted(name for name in shared if len({t.params[name] for t in trials}) > 1)
    if len(trials) < FEWEST_TRIALS or not varied or len({t.value for t in trials}) < 2:
        return {}
    from optuna.importance import (  # here: it imports scikit-learn
        MeanDecreaseImpurityImportanceEvaluator,
        PedAnovaImportanceEvaluator,
        get_param_importances,
    )

    methods = {
        "PED-ANOVA": PedAnovaImportanceEvaluator(),
        "MDI": MeanDecreaseImpurityImportanceEvaluator(seed=0),
    }
    measured: dict[str, dict[str, float]] = {}
    for name, method in methods.items():
        shares = get_param_importances(study, evaluator=method, params=varied)
        measured[name] = {parameter: float(share) for parameter, share in shares.items()}
    return measured
