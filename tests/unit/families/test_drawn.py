"""The estimated variance of a sum over drawn targets, against the slow formula and the truth."""

import numpy as np
import pytest
import torch

from csm_ft.families.drawn import keyed_generator, num_drawn, sampling_variance

RANDOM = np.random.default_rng(0)


def slow_variance(drawn: list[float], num_targets: int) -> float:
    """n (n - m) / m times the variance of what was drawn, of one sequence."""
    m, n = len(drawn), num_targets
    return n * (n - m) / m * float(np.var(drawn, ddof=1))


def test_it_is_the_slow_formula_per_sequence() -> None:
    sequences = [(RANDOM.normal(3, 1, 4).tolist(), 12), (RANDOM.normal(9, 2, 6).tolist(), 6)]
    nats = torch.tensor([value for drawn, _ in sequences for value in [*drawn, 50.0]])
    weights = [w for drawn, n in sequences for w in [*[n / len(drawn)] * len(drawn), 1.0]]
    place = torch.tensor([i for i, (drawn, _) in enumerate(sequences) for _ in [*drawn, None]])
    found = sampling_variance(nats, torch.tensor(weights), place, 3)
    assert found[0].item() == pytest.approx(slow_variance(*sequences[0]), rel=1e-5)
    assert found[1:].tolist() == [0.0, 0.0], "all of them were drawn; a sequence without any"


def test_it_is_the_variance_of_the_estimates() -> None:
    values = RANDOM.gamma(2.0, 1.0, 40)
    sums, variances = [], []
    for draw in range(3000):
        count = num_drawn(len(values), 0.2)
        drawn = keyed_generator(str(draw)).choice(len(values), count, replace=False)
        weights = torch.full((count,), len(values) / count, dtype=torch.float64)
        nats, place = torch.from_numpy(values[drawn]), torch.zeros(count, dtype=torch.int64)
        sums.append(float((nats * weights).sum()))
        variances.append(float(sampling_variance(nats, weights, place, 1)))
    assert np.mean(sums) == pytest.approx(values.sum(), abs=4 * np.std(sums) / 3000**0.5)
    assert np.mean(variances) == pytest.approx(np.var(sums), rel=0.1)
