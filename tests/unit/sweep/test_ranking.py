"""How well the validation loss ranks trials by judged numbers."""

from typing import Any

import numpy as np
import pytest

from csm_ft.sweep.ranking import measure_rankings, rankings_in_words, spearman
from csm_ft.sweep.records import Ranking, TrialRecord

SWAPPED = (2, 1, 4, 3, 6, 5, 8, 7)  # neighbours: rho = 1 - 6 * 8 / (8 * 63)


def record(number: int, state: Any = "completed", **metrics: float) -> TrialRecord:
    found = {"val_loss": float(number), **metrics}
    return TrialRecord(number=number, state=state, value=1.0, dir="t", metrics=found)


def of(rankings: list[Ranking], metric: str) -> Ranking:
    return next(ranking for ranking in rankings if ranking.metric == metric)


def test_correlation_equals_values_by_hand() -> None:
    first = np.array([[1.0, 2, 3, 4, 5, 6, 7, 8]])
    assert spearman(first, np.array([SWAPPED]))[0] == pytest.approx(1 - 48 / 504)
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: 4.5 / sqrt(4.5 * 5).
    tied = spearman(np.array([[1.0, 7, 7, 9]]), np.array([[1.0, 2, 3, 4]]))
    assert tied[0] == pytest.approx(4.5 / np.sqrt(22.5))
    assert np.isnan(spearman(np.ones((1, 4)), np.array([[1.0, 2, 3, 4]]))[0])


def test_agreement_is_positive_whatever_is_better() -> None:
    records = [record(i, wer=SWAPPED[i], similarity=-SWAPPED[i], seconds=-i) for i in range(8)]
    found = measure_rankings(records)
    assert of(found, "wer").rho == of(found, "similarity").rho == pytest.approx(1 - 48 / 504)
    wer = of(found, "wer")
    assert wer.low < wer.rho < wer.high <= 1
    assert wer.text == (
        f"val_loss ranks trials by word errors (wer): rho 0.90 [{wer.low:.2f}, {wer.high:.2f}], 8"
        " trials."
    )
    assert of(found, "seconds").rho == pytest.approx(-1)
    assert of(found, "seconds").text == "", "neither long nor short is better"
    assert rankings_in_words(found)[0] == wer.text


def test_what_cannot_be_told_is_said() -> None:
    noise = (5, 1, 7, 3, 2, 8, 4, 6)
    (wer,) = measure_rankings([record(i, wer=noise[i]) for i in range(8)])
    assert wer.low < 0 < wer.high
    assert wer.text.startswith("Whether val_loss ranks trials by word errors (wer) cannot be told:")
    (wrong,) = measure_rankings([record(i, dnsmos=i) for i in range(12)])
    assert "the wrong way round by DNSMOS (dnsmos): rho -1.00" in wrong.text


def test_interval_shrinks_with_trials() -> None:
    def width(count: int) -> float:
        values = np.random.default_rng(0).normal(np.arange(count), count / 4)
        (found,) = measure_rankings([record(i, wer=values[i]) for i in range(count)])
        return found.high - found.low

    assert width(100) < width(10) / 2


def test_eight_judged_trials_are_needed() -> None:
    seven = [record(i, wer=i) for i in range(7)]
    assert measure_rankings([*seven, record(7), record(8, "diverged", wer=8)]) == []
    violating = record(7, "infeasible", wer=7).model_copy(update={"violated": ["wer<=1"]})
    assert [one.num_trials for one in measure_rankings([*seven, violating])] == [8]


def test_trials_are_compared_at_equal_lengths() -> None:
    stopped = [record(i, "stopped") for i in range(10)]
    early = [
        one.model_copy(update={"first_judged": {"val_loss": float(i), "wer": float(i)}})
        for i, one in enumerate(stopped)
    ]
    (found,) = measure_rankings(early)
    assert found.text.endswith("10 trials at their first judged validation.")
