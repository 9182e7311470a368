"""Means over clips with bootstrap intervals over prompts.

Takes of one prompt are not independent, so prompts are resampled, never clips.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

NUM_RESAMPLES = 2000
CONFIDENCE = 0.95
_TAILS = (50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE))  # per cent


class Share(NamedTuple):
    """What one clip adds to a metric, which is sum(amount) / sum(of): errors of words, 1 of 1."""

    prompt: str
    amount: float
    of: float = 1.0


class Estimate(NamedTuple):
    """A metric over clips, with its interval."""

    value: float
    low: float | None  # None: one prompt, no interval
    high: float | None
    num_prompts: int
    num_clips: int


def estimate(shares: Sequence[Share], seed: int = 0) -> Estimate | None:
    """Return sum(amount) / sum(of) with its 95 % percentile interval over resampled prompts.

    None without anything to divide by.
    """
    table = np.array(list(_by_prompt(shares).values()), dtype=float).reshape(-1, 2)
    total = table.sum(axis=0)
    if not len(table) or not total[1]:
        return None
    value = float(total[0] / total[1])
    if len(table) == 1:
        return Estimate(value, None, None, 1, len(shares))
    random = np.random.default_rng(seed)
    drawn = table[random.integers(0, len(table), (NUM_RESAMPLES, len(table)))].sum(axis=1)
    ratios = drawn[drawn[:, 1] > 0, 0] / drawn[drawn[:, 1] > 0, 1]
    low, high = np.percentile(ratios, _TAILS)
    return Estimate(value, float(low), float(high), len(table), len(shares))


class Difference(NamedTuple):
    """A metric of one row less that of another, with its interval."""

    value: float
    low: float
    high: float


def difference(own: Sequence[Share], their: Sequence[Share], seed: int = 0) -> Difference | None:
    """Return how a metric differs between two rows, with its 95 % interval over prompts.

    Prompts that both rows have are drawn together, as some are harder than others for anyone.
    Where fewer than two are shared, each row is drawn by itself. None where a row has fewer than
    two prompts.
    """
    tables = [_by_prompt(own), _by_prompt(their)]
    shared = [prompt for prompt in tables[0] if prompt in tables[1]]
    random = np.random.default_rng(seed)
    if len(shared) > 1:
        picked = [np.array([table[prompt] for prompt in shared]) for table in tables]
        draws = [random.integers(0, len(shared), (NUM_RESAMPLES, len(shared)))] * 2
    else:
        picked = [np.array(list(table.values())).reshape(-1, 2) for table in tables]
        if min(map(len, picked)) < 2:
            return None
        draws = [random.integers(0, len(rows), (NUM_RESAMPLES, len(rows))) for rows in picked]
    sums = [rows[drawn].sum(axis=1) for rows, drawn in zip(picked, draws, strict=True)]
    valid = (sums[0][:, 1] > 0) & (sums[1][:, 1] > 0)
    totals = [rows.sum(axis=0) for rows in picked]
    if not valid.any() or not (totals[0][1] and totals[1][1]):
        return None
    ratios = [found[valid, 0] / found[valid, 1] for found in sums]
    low, high = np.percentile(ratios[0] - ratios[1], _TAILS)
    value = totals[0][0] / totals[0][1] - totals[1][0] / totals[1][1]
    return Difference(float(value), float(low), float(high))


def _by_prompt(shares: Sequence[Share]) -> dict[str, list[float]]:
    """Return {prompt: [amount, of]}, summed over its clips."""
    sums: dict[str, list[float]] = {}
    for share in shares:
        own = sums.setdefault(share.prompt, [0.0, 0.0])
        own[0] += share.amount
        own[1] += share.of
    return sums


def names_of(clips: Iterable[Mapping[str, object]]) -> list[str]:
    """Return the names of all metrics, in the order that they first occur in."""
    names: dict[str, None] = {}
    for clip in clips:
        names |= dict.fromkeys(clip)
    return list(names)
