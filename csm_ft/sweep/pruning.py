"""Which trials stop early, by --pruner: all at equal numbers of examples seen.

Optuna's own pruners compare at equal steps, and note in the study what they have seen: trials of
different batch sizes share no steps, and a kill between note and report lets a trial pass.
"""

import zlib
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from csm_ft.sweep import asha
from csm_ft.sweep.asha import Curve, Rungs
from csm_ft.sweep.config import SweepConfig

FEWEST_FOR_MEDIAN = 5  # other trials that have come as far


def is_decided_at(sweep: SweepConfig, rungs: Rungs, curve: Curve) -> bool:
    """Tell whether the newest validation is one where the pruner decides."""
    if sweep.pruner == "median":
        return True
    return sweep.pruner != "none" and bool(rungs.at(curve))


def group_of(sweep: SweepConfig, rungs: Rungs, number: int) -> int:
    """Return which trials one is compared with: those of its group, a bracket of Hyperband's."""
    if sweep.pruner != "hyperband":
        return 0
    return bracket_of(number, len(rungs.shares), sweep.eta, sweep.seed)


def may_continue(
    sweep: SweepConfig,
    rungs: Rungs,
    number: int,
    curve: Curve,
    rivals: Sequence[Curve],
    *,
    margin: float = 0.0,
) -> bool:
    """Decide whether a trial goes on after its newest validation; values so that lower is better.

    `rivals` are the curves of those of the other trials that it is compared with; at a rung it may
    be behind by the margin.
    """
    if not is_decided_at(sweep, rungs, curve):
        return True
    if sweep.pruner == "median":
        return median_continues(curve, rivals, rungs)
    first_rung = group_of(sweep, rungs, number)
    return asha_continues(curve, rivals, rungs, sweep.eta, first_rung=first_rung, margin=margin)


def bracket_of(number: int, num_rungs: int, eta: int, seed: int) -> int:
    """Return the first rung at which Hyperband may stop a trial; `num_rungs` = it never does.

    L. Li et al., Hyperband (JMLR 18, 2018): the later the first rung of a bracket, the fewer trials
    it has. They are drawn in proportion, by seed and number.
    """
    sizes = [
        (num_rungs + 1) / (num_rungs - first + 1) * eta ** (num_rungs - first)
        for first in range(num_rungs + 1)
    ]
    place = zlib.crc32(f"{seed} {number}".encode()) / 2**32 * sum(sizes)
    for first, size in enumerate(sizes):
        place -= size
        if place < 0:
            return first
    return num_rungs


def asha_continues(
    own: Curve,
    others: Sequence[Curve],
    rungs: Rungs,
    eta: int,
    *,
    first_rung: int = 0,
    margin: float = 0.0,
) -> bool:
    """Decide by successive halving over the rungs from `first_rung` on."""
    if first_rung >= len(rungs.shares):
        return True
    later = replace(rungs, shares=rungs.shares[first_rung:])
    return asha.may_continue(own, others, later, eta, margin=margin)


def median_continues(own: Curve, others: Sequence[Curve], rungs: Rungs) -> bool:
    """Decide at each validation from the first rung on, by the best value so far.

    D. Golovin et al., Google Vizier (KDD 2017): a trial stops that is behind the median of all that
    have come as far; with fewer than five of them nothing is decided.
    """
    every, first = rungs.validation_share, rungs.shares[0]
    points = replace(rungs, shares=[k * every for k in range(int(first / every), int(1 / every))])
    for point in points.at(own):
        value = points.value(own, point)
        seen = [v for v in (points.value(curve, point) for curve in others) if v is not None]
        if value is not None and len(seen) >= FEWEST_FOR_MEDIAN and value > median(seen):
            return False
    return True
