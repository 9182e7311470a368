"""Strengths from choices between two: the Bradley-Terry model.

R. A. Bradley and M. E. Terry, "Rank Analysis of Incomplete Block Designs", Biometrika 39 (1952): i
is preferred to j with probability 1 / (1 + exp(s_j - s_i)). Strengths s are the mode under a weak
normal prior, so that they are finite for who has won every time, and exist where some were never
compared; intervals are those of the normal approximation there. The packages for this model give
no intervals, which need the curvature that the fit computes anyway.

Shapes: n contenders.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PRIOR_DEVIATION = 2.0  # of a strength, in log-odds: 98 % wins against the average is within it
_QUANTILE = 1.96  # of the normal distribution: 95 % are within

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Strengths:
    """The fit: strengths in log-odds against the average contender, and how well they are known."""

    values: Matrix  # [n], sum 0
    covariance: Matrix  # [n, n], of `values`
    groups: NDArray[np.int32]  # [n]: contenders of two groups were never compared, nor by others

    @property
    def half_widths(self) -> Matrix:
        """Half of each 95 % interval [n]."""
        return _QUANTILE * np.sqrt(np.diag(self.covariance))

    def differ(self, first: int, second: int) -> bool:
        """Tell whether two contenders differ: the 95 % interval of the difference leaves out 0."""
        spread = self.covariance[first, first] + self.covariance[second, second]
        variance = max(0.0, spread - 2 * self.covariance[first, second])
        gap = abs(self.values[first] - self.values[second])
        return bool(gap > _QUANTILE * np.sqrt(variance))


def fit(wins: Matrix) -> Strengths:
    """Fit strengths to `wins` [n, n]: how often i was preferred to j, a tie being half for each."""
    from scipy.optimize import minimize  # here: it takes a while to import
    from scipy.sparse.csgraph import connected_components

    counts = wins + wins.T
    precision = np.eye(len(wins)) / PRIOR_DEVIATION**2

    def cost(strengths: Matrix) -> tuple[float, Matrix]:
        gaps = strengths[:, None] - strengths[None, :]
        surprise = (wins * np.logaddexp(0, -gaps)).sum() + strengths @ precision @ strengths / 2
        return surprise, (counts * _sigmoid(gaps) - wins).sum(axis=1) + precision @ strengths

    def curvature(strengths: Matrix) -> Matrix:
        share = _sigmoid(strengths[:, None] - strengths[None, :])
        weights = counts * share * (1 - share)
        return np.diag(weights.sum(axis=1)) - weights + precision

    start = np.zeros(len(wins))
    found = minimize(cost, start, jac=True, hess=curvature, method="trust-exact")
    centre = np.eye(len(wins)) - 1 / len(wins)
    covariance = centre @ np.linalg.inv(curvature(found.x)) @ centre
    groups = connected_components(counts, directed=False)[1]
    return Strengths(centre @ found.x, covariance, groups)


def _sigmoid(gaps: Matrix) -> Matrix:
    from scipy.special import expit

    return expit(gaps)
