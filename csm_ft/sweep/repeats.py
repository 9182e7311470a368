"""Which setting is run again with another seed, once a finite space has none left to try."""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from csm_ft.sweep.records import Objective, TrialRecord

BEST_SHARE = 1 / 3  # of the settings, to be repeated in turn


def choose_repeat(
    records: Sequence[TrialRecord], objective: Objective, seed: int
) -> tuple[dict[str, Any], int] | None:
    """Return the setting to run next and its seed; None if there is none that has not failed.

    Of the best third of the settings it is the one with the fewest trials, the best of those.
    `seed` is that of the first trial of each setting; its repetitions have the numbers after it.
    """
    settings: dict[tuple[tuple[str, Any], ...], list[TrialRecord]] = {}
    for record in records:
        settings.setdefault(tuple(sorted(record.params.items())), []).append(record)
    usable = [
        trials
        for trials in settings.values()
        if not all(t.has_failed or t.violated for t in trials)
    ]
    if not usable:
        return None
    usable.sort(key=lambda trials: _rank(trials, objective))
    best = usable[: math.ceil(len(usable) * BEST_SHARE)]
    chosen = min(best, key=len)  # the first of them, so the best
    return chosen[0].params, seed + len(chosen)


def _rank(trials: Sequence[TrialRecord], objective: Objective) -> tuple[int, float]:
    """Order settings: those that were trained to the end first, then by the mean of their values.

    The mean, so that one lucky seed does not keep a setting among the best.
    """
    completed = [t.value for t in trials if t.state == "completed" and t.value is not None]
    stopped = [t.value for t in trials if t.state == "stopped" and t.value is not None]
    if completed:
        return 0, objective.cost(fmean(completed))
    return (1, objective.cost(fmean(stopped))) if stopped else (2, 0.0)
