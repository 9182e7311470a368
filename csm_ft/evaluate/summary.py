"""Means over clips with bootstrap intervals over prompts.

Takes of one prompt are not independent, so prompts are resampled, never clips.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

NUM_RESAMPLES = 2000
CONFIDENCE = 0.95


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
    sums: dict[str, list[float]] = {}
    for share in shares:
        own = sums.setdefault(share.prompt, [0.0, 0.0])
        own[0] += share.amount
        own[1] += share.of
    table = np.array(list(sums.values()), dtype=float).reshape(-1, 2)
    total = table.sum(axis=0)
    if not len(table) or not total[1]:
        return None
    value = float(total[0] / total[1])
    if len(table) == 1:
        return Estimate(value, None, None, 1, len(shares))
    random = np.random.default_rng(seed)
    drawn = table[random.integers(0, len(table), (NUM_RESAMPLES, len(table)))].sum(axis=1)
    ratios = drawn[drawn[:, 1] > 0, 0] / drawn[drawn[:, 1] > 0, 1]
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(ratios, [tail, 100 - tail])
    return Estimate(value, float(low), float(high), len(table), len(shares))


def names_of(clips: Iterable[Mapping[str, object]]) -> list[str]:
    """Return the names of all metrics, in the order that they first occur in."""
    names: dict[str, None] = {}
    for clip in clips:
        names |= dict.fromkeys(clip)
    return list(names)
