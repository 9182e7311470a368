"""Targets that are drawn: keyed generators, and the error of a sum over drawn targets.

Shapes: M drawn targets, B sequences.
"""

import hashlib

import numpy as np
import torch
from torch import Tensor

from csm_ft.data.examples import Examples

_SCORED_SHARE, _LEAST_SCORED_FRAMES = 0.1, 500


def keyed_generator(name: str) -> np.random.Generator:
    """Return a generator that depends on a name alone, so that no order of draws matters."""
    key = hashlib.blake2b(name.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(key, dtype=np.uint64)))


def scored_share(fraction: float, examples: Examples) -> float:
    """Return the share of frames that validation scores; for 0 a tenth, and at least 500 frames.

    So few validation clips, of which a tenth would tell little, are scored whole.
    """
    if fraction:
        return fraction
    return min(1.0, max(_SCORED_SHARE, _LEAST_SCORED_FRAMES / max(1, examples.num_target_rows)))


def num_drawn(num_targets: int, fraction: float, least: int = 1) -> int:
    """Return how many of so many targets are drawn."""
    return min(num_targets, max(least, round(fraction * num_targets)))


def sampling_variance(
    nats: Tensor, weights: Tensor, sequence: Tensor, num_sequences: int
) -> Tensor:
    """Return the estimated variance of each sequence's weighted sum of nats, [B], by its draws.

    m of n targets were drawn without replacement, `nats` [M], and weighted n / m, `weights` [M].
    The variance of the Horvitz-Thompson sum is then n (n - m) / m s^2 = w (w - 1) m s^2, where s^2
    is the variance of a sequence's drawn nats (Cochran, Sampling Techniques, 2.9). Targets of
    weight 1 are always drawn, and add nothing. Where the draws of a sequence are of several clips,
    s^2 includes the differences between these, and the variance is a little too large.
    """
    zeros = nats.new_zeros(num_sequences)
    is_drawn = (weights > 1).to(nats.dtype)

    def total(values: Tensor) -> Tensor:
        return zeros.index_add(0, sequence, values * is_drawn)

    num = total(torch.ones_like(nats))
    mean = total(nats) / num.clamp(min=1)
    squares = (nats - mean.index_select(0, sequence)).square()
    return total(weights * (weights - 1) * squares) * num / (num - 1).clamp(min=1)
