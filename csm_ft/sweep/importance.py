"""How much each parameter explains of what trials reached."""

from collections.abc import Sequence
from typing import NamedTuple

import optuna
from optuna.trial import FrozenTrial

FEWEST_TRIALS = 4


class Point(NamedTuple):
    """A trial and the value that it is compared by; None leaves it out."""

    trial: FrozenTrial
    value: float | None


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
