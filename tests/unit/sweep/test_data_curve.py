"""The learning curve over shares of the data: fit, error, and the sentence."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import curve_fit

from csm_ft.sweep.data_curve import fit, measure_curve
from csm_ft.sweep.records import DataCurve, Objective, TrialRecord

SHARES = (0.125, 0.25, 0.5, 0.75, 1.0)
NATS = Objective(unit="nats")


def law(share: float) -> float:
    return 3.0 + 0.5 * share**-0.6


def trials(
    value: Callable[[float], float], *, noise: float, num_seeds: int = 3, seed: int = 0
) -> list[TrialRecord]:
    random = np.random.default_rng(seed)
    grid = [(share, number) for share in SHARES for number in range(num_seeds)]
    return [
        TrialRecord(
            number=i,
            state="completed",
            value=value(share) + noise * random.standard_normal(),
            params={"data_fraction": share, "seed": number},
            dir="d",
        )
        for i, (share, number) in enumerate(grid)
    ]


def curve_of(records: list[TrialRecord]) -> DataCurve:
    curve = measure_curve(records, NATS)
    assert curve is not None
    return curve


def test_an_exact_power_law_is_found() -> None:
    curve = curve_of(trials(law, noise=0.0))
    assert curve.gain == pytest.approx(law(1) - law(2), rel=0.01)
    assert curve.standard_error == pytest.approx(0, abs=1e-9)
    assert curve.line[-1][:2] == pytest.approx((2.0, law(2)), rel=1e-3)


def test_fit_equals_that_of_scipy() -> None:
    values = {t.params["data_fraction"]: {0: t.value or 0} for t in trials(law, noise=0.02)[::3]}
    found = fit(values, [[0]])

    def power_law(share: float, a: float, b: float, c: float) -> float:
        return a + b * share**-c

    means = [by_seed[0] for by_seed in values.values()]
    wanted, _ = curve_fit(power_law, SHARES, means, p0=(3, 0.5, 0.6), bounds=(-9, [9, 9, 2]))
    assert found.at(2.0)[0] == pytest.approx(power_law(2.0, *wanted), abs=2e-3)


def test_standard_error_is_that_of_repeated_sweeps() -> None:
    sweeps = [curve_of(trials(law, noise=0.02, num_seeds=4, seed=s)) for s in range(40)]
    true = np.std([sweep.gain for sweep in sweeps])
    told = np.sqrt(np.mean([(sweep.standard_error or 0) ** 2 for sweep in sweeps]))
    assert told == pytest.approx(true, rel=0.35)


def test_a_clear_gain_is_told_with_its_error() -> None:
    curve = curve_of(trials(law, noise=0.01))
    assert curve.text.startswith("With twice the data expect 0.1")
    assert "±" in curve.text
    assert "over 3 seeds" in curve.text


def test_noise_alone_is_called_flat() -> None:
    texts = [curve_of(trials(lambda _: 3.0, noise=0.05, seed=s)).text for s in range(20)]
    assert sum("flat within the noise" in text for text in texts) >= 15


def test_one_seed_has_no_error() -> None:
    curve = curve_of(trials(law, noise=0.01, num_seeds=1))
    assert curve.standard_error is None
    assert "one seed" in curve.text


def test_two_shares_are_not_fitted() -> None:
    curve = curve_of(trials(law, noise=0.01)[:6])
    assert (curve.text, curve.line) == (
        "A learning curve needs 3 shares of the data, and has 2.",
        [],
    )


def test_failed_trials_leave_the_rest_usable() -> None:
    records = trials(law, noise=0.0)
    records[4] = records[4].model_copy(update={"state": "diverged", "value": None})
    assert [point.num_seeds for point in curve_of(records).points] == [3, 2, 3, 3, 3]


def test_other_sweeps_have_no_curve() -> None:
    other = TrialRecord(
        number=0, state="completed", value=1, params={"data_fraction": 1, "lora_rank": 8}, dir="d"
    )
    assert measure_curve([other], NATS) is None
    assert measure_curve([], NATS) is None
