"""The verdict: numbers against slow ones, words against the numbers."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_ft.sweep.records import Objective, TrialRecord, Verdict
from csm_ft.sweep.verdict import Contest, compare, reach_verdict

DEFAULT = TrialRecord(number=0, state="completed", value=2.5, dir="trials/0000", is_default=True)


def replace(record: TrialRecord, **changes: Any) -> TrialRecord:
    return record.model_copy(update=changes)


BEST = replace(DEFAULT, number=4, value=2.3)
LOSS = Objective("val_loss", "nats per frame")
frames = {f"c{i}": 10 + 3 * i for i in range(12)}


def clips(loss: float, noise: float, seed: int = 0) -> dict[str, tuple[float, int]]:
    random = np.random.default_rng(seed)
    return {name: (n * (loss + noise * random.standard_normal()), n) for name, n in frames.items()}


def judged(best: TrialRecord | None, default: TrialRecord | None, noise: float) -> Verdict:
    scored = {0: clips(2.5, noise, 1), 4: clips(2.3, noise, 2)}
    verdict = reach_verdict(Contest(best, default, 3.0, scored), LOSS)
    assert verdict is not None
    return verdict


@given(
    st.lists(
        st.tuples(st.floats(0, 99), st.floats(0, 99), st.integers(1, 500)), min_size=2, max_size=20
    )
)
def test_compare_equals_written_out_formula(rows: list[tuple[float, float, int]]) -> None:
    first = {str(i): (a, n) for i, (a, _, n) in enumerate(rows)}
    second = {str(i): (b, n) for i, (_, b, n) in enumerate(rows)}
    total = sum(n for *_, n in rows)
    gain = sum(a - b for a, b, _ in rows) / total
    variance = sum((a - b - gain * n) ** 2 for a, b, n in rows) / (len(rows) - 1)
    error = math.sqrt(variance * len(rows)) / total
    comparison = compare(first, second)
    assert comparison.gain == pytest.approx(gain, abs=1e-9)
    assert comparison.standard_error == pytest.approx(error, abs=1e-9)


def test_standard_error_is_spread_over_clips() -> None:
    random = np.random.default_rng(0)
    gains, errors = [], []
    for _ in range(400):
        lengths = random.integers(20, 200, 60)
        difference = lengths * (0.1 + 0.3 * random.standard_normal(60))
        result = compare(
            {str(i): (d, n) for i, (d, n) in enumerate(zip(difference, lengths, strict=True))},
            {str(i): (0.0, n) for i, n in enumerate(lengths)},
        )
        gains.append(result.gain)
        errors.append(result.standard_error)
    assert np.mean(errors) == pytest.approx(np.std(gains), rel=0.1)


def test_win_tie_and_no_win() -> None:
    clear = judged(BEST, DEFAULT, 0.01)
    assert not clear.tie
    assert clear.text.startswith("Trial 4 beats the default by 0.2")
    assert "standard errors" in clear.text
    tie = judged(BEST, DEFAULT, 3.0)
    assert tie.tie
    assert tie.text.startswith("A tie: ")
    none = judged(DEFAULT, DEFAULT, 0.01)
    assert none.text.startswith("No trial beats the default")
    assert none.gain_over_default == 0.0


def test_untrained_model_is_compared() -> None:
    assert (
        "The default is 0.500 nats per frame better than the untrained model (3.000)."
        in judged(BEST, DEFAULT, 0.01).text
    )
    assert "WORSE" in judged(BEST, replace(DEFAULT, value=3.2), 0.01).text


def test_missing_default_or_clips_are_named() -> None:
    assert (
        "the default (trial 0) ended as diverged"
        in judged(BEST, replace(DEFAULT, state="diverged", value=None), 0.01).text
    )
    verdict = reach_verdict(Contest(BEST, DEFAULT, None, {}), LOSS)
    assert verdict is not None
    assert "too few validation clips" in verdict.text
    assert verdict.tie
    assert reach_verdict(Contest(None, DEFAULT, 3.0, {}), LOSS) is None


def test_other_clips_are_refused() -> None:
    with pytest.raises(ValueError, match="different clips: 2"):
        compare({"a": (1.0, 1)}, {"b": (1.0, 1)})


def test_other_objective_has_no_standard_error() -> None:
    wer = Objective("val_wer", "errors per word")
    scored = {0: clips(2.5, 0.01), 4: clips(2.3, 0.01)}
    verdict = reach_verdict(Contest(BEST, DEFAULT, 3.0, scored), wer)
    assert verdict is not None
    assert verdict.standard_error is None
    assert not verdict.tie
    assert verdict.gain_over_default == pytest.approx(0.2)
    assert "Trial 4 is 0.200 errors per word below the default in val_wer." in verdict.text
    assert "is measured for val_loss only" in verdict.text
    assert "The default is 0.500 errors per word better" in verdict.text


def test_the_highest_can_be_the_best() -> None:
    default, best = replace(DEFAULT, value=0.6), replace(BEST, value=0.8)
    verdict = reach_verdict(Contest(best, default, 0.5, {}), Objective("similarity"))
    assert verdict is not None
    assert verdict.gain_over_default == pytest.approx(0.2)
    assert "Trial 4 is 0.200 above the default in similarity." in verdict.text
    assert "The default is 0.100 better than the untrained model (0.500)." in verdict.text


def test_verdict_respects_constraints() -> None:
    broken = {"state": "infeasible", "violated": ["cer<=0.1"]}
    excluded = replace(DEFAULT, number=7, value=1.0, **broken)
    verdict = reach_verdict(Contest(BEST, DEFAULT, None, {}, [excluded]), Objective("val_wer"))
    assert verdict is not None
    assert verdict.gain_over_default == pytest.approx(0.2)
    assert verdict.text.endswith("1 trial could not be the best: cer<=0.1 violated.")
    default = replace(DEFAULT, **broken)
    verdict = reach_verdict(Contest(BEST, default, None, {}, [default]), LOSS)
    assert verdict is not None
    assert "the default (trial 0) violates cer<=0.1: no comparison" in verdict.text
    nothing = reach_verdict(Contest(None, default, None, {}, [default, excluded]), LOSS)
    assert nothing is not None
    assert nothing.text == (
        "No trial meets the constraints: 2 of those that were trained to the end violate cer<=0.1."
    )


def test_objective_without_a_unit() -> None:
    verdict = reach_verdict(Contest(BEST, DEFAULT, 3.0, {}), Objective("val_wer"))
    assert verdict is not None
    assert "Trial 4 is 0.200 below the default in val_wer." in verdict.text
    assert "  " not in verdict.text
