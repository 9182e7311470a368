"""The Bradley-Terry fit against a slow reference, and whether its intervals hold."""

import math

import numpy as np
import pytest

from csm_ft.sweep.bradley_terry import PRIOR_DEVIATION, Matrix, fit

WINS = np.array([[0, 7, 5.5, 0], [3, 0, 6, 1], [1.5, 2, 0, 2], [0, 0, 1, 0]])


def log_posterior(strengths: Matrix, wins: Matrix) -> float:
    total = -sum(s**2 for s in strengths) / (2 * PRIOR_DEVIATION**2)
    for i in range(len(wins)):
        for j in range(len(wins)):
            total += wins[i, j] * -math.log1p(math.exp(strengths[j] - strengths[i]))
    return float(total)


def slow_fit(wins: Matrix) -> tuple[Matrix, Matrix]:
    """Climb with numerical gradients, then take the curvature by differences."""
    n, step, eps = len(wins), 0.05, 1e-4
    unit = np.eye(n) * eps
    strengths = np.zeros(n)

    def slope(at: Matrix) -> Matrix:
        return np.array(
            [(log_posterior(at + e, wins) - log_posterior(at - e, wins)) / (2 * eps) for e in unit]
        )

    for _ in range(800):
        strengths = strengths + step * slope(strengths)
    curvature = -np.array([(slope(strengths + e) - slope(strengths - e)) / (2 * eps) for e in unit])
    centre = np.eye(n) - 1 / n
    return strengths - strengths.mean(), centre @ np.linalg.inv(curvature) @ centre


def test_fit_is_that_of_the_slow_reference() -> None:
    found = fit(WINS)
    values, covariance = slow_fit(WINS)
    np.testing.assert_allclose(found.values, values, atol=1e-5)
    np.testing.assert_allclose(found.covariance, covariance, atol=1e-4)
    assert set(found.groups.tolist()) == {0}


def test_two_contenders_with_many_votes_have_the_logit_of_their_shares() -> None:
    found = fit(np.array([[0, 7500], [2500, 0.0]]))
    assert found.values[0] - found.values[1] == pytest.approx(math.log(3), abs=1e-3)
    # Of a logit of n votes: 1 / sqrt(n p (1 - p)); half of it on each side of the mean.
    wanted = 1.96 / math.sqrt(10_000 * 0.75 * 0.25) / 2
    assert found.half_widths[0] == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("wins", [1, 1000])
def test_who_wins_every_time_has_a_finite_score(wins: int) -> None:
    found = fit(np.array([[0, wins], [0, 0.0]]))
    assert 0 < found.values[0] < 8
    assert found.differ(0, 1) == (wins > 1)


def test_ties_are_half_wins() -> None:
    tied = fit(np.array([[0, 5.0], [5.0, 0]]))
    assert tied.values == pytest.approx([0, 0], abs=1e-6)
    assert not tied.differ(0, 1)


def test_groups_that_never_met_are_told_apart_and_do_not_differ() -> None:
    wins = np.zeros((4, 4))
    wins[0, 1], wins[1, 0], wins[2, 3], wins[3, 2] = 30, 10, 20, 20
    found = fit(wins)
    assert found.groups[0] == found.groups[1] != found.groups[2] == found.groups[3]
    assert found.differ(0, 1)
    assert not found.differ(0, 2)
    # Only the prior says anything of the distance between the groups.
    apart = found.covariance[0, 0] + found.covariance[2, 2] - 2 * found.covariance[0, 2]
    assert math.sqrt(apart) > 0.7 * PRIOR_DEVIATION


def test_intervals_hold_the_true_differences() -> None:
    rng = np.random.default_rng(0)
    num_hits = num_all = 0
    for _ in range(120):
        true = rng.normal(0, 1, 5)
        wins = np.zeros((5, 5))
        for i in range(5):
            for j in range(i):
                share = 1 / (1 + math.exp(true[j] - true[i]))
                wins[i, j] = rng.binomial(12, share)
                wins[j, i] = 12 - wins[i, j]
        found = fit(wins)
        error = np.abs(found.values - (true - true.mean()))
        num_hits += int((error <= found.half_widths).sum())
        num_all += 5
    assert 0.92 < num_hits / num_all < 0.985
