"""What a search costs before it has run, in runs to the end, by the rule that stops its trials."""

import random
from statistics import fmean

from csm_ft.sweep.asha import EndedCurve
from csm_ft.sweep.pruning import group_of, may_continue
from csm_ft.sweep.trials import Plan

_NUM_DRAWS = 5  # orders in which trials come
_MOST_TRIALS = 100  # of a draw; more trials cost in proportion
# What a sampler learns: so many of its later trials are among so many of the best. By these numbers
# 50 trials cost what they do in `python -m benchmarks.search`, to about a tenth.
_NEAR_SHARE, _NEAR_RANKS = 0.5, 0.1
_LEARNING = ("tpe", "gp", "cmaes")


def expected_runs(plan: Plan) -> float:
    """Return how many whole runs the trials of the search cost together.

    As if they ran one after the other and kept their ranks from rung to rung. A sampler that learns
    brings better trials later, of which more run to the end.
    """
    num_trials = plan.sweep.n_trials
    num_drawn = min(num_trials, _MOST_TRIALS)
    draws = [_draw(plan, num_drawn, random.Random(seed)) for seed in range(_NUM_DRAWS)]  # noqa: S311
    return fmean(draws) * num_trials / num_drawn


def _draw(plan: Plan, num_trials: int, generator: random.Random) -> float:
    horizon, every = plan.rungs.horizon_examples, float(plan.rungs.validation_share)
    groups: dict[int, list[EndedCurve]] = {}
    cost = 0.0
    for number in range(num_trials):
        value, curve = generator.random(), dict[int, float]()
        group = groups.setdefault(group_of(plan.sweep, plan.rungs, number), [])
        learns = plan.sweep.sampler in _LEARNING and number >= plan.sweep.startup_trials
        if learns and generator.random() < _NEAR_SHARE:
            value *= _NEAR_RANKS
        for point in range(1, round(1 / every) + 1):
            curve[round(point * every * horizon)] = value
            if number and not may_continue(plan.sweep, plan.rungs, number, curve, group):
                break
        group.append(EndedCurve(curve))
        cost += len(curve) * every
    return cost
