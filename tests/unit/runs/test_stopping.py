"""Early stopping as a function of validations."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from csm_ft.runs.stopping import follow, stopping_point

FALLING_THEN_RISING = [(100, 5.0), (200, 4.0), (300, 3.5), (400, 3.6), (500, 3.7), (600, 3.4)]
VALUES = st.lists(st.integers(0, 40), min_size=1, max_size=30)


def slow_stopping_point(
    validations: list[tuple[int, float]], patience: float, min_delta: float
) -> int | None:
    """Look back from every validation at all those before it."""
    for end in range(1, len(validations) + 1):
        best, at = validations[0][1], validations[0][0]
        for examples, value in validations[:end]:
            if value < best - min_delta:
                best, at = value, examples
        if validations[end - 1][0] - at >= patience:
            return validations[end - 1][0]
    return None


@given(VALUES, st.integers(1, 2000), st.integers(0, 5))
def test_stopping_point_equals_slow_reference(
    values: list[int], patience: int, min_delta: int
) -> None:
    curve = [(100 * (i + 1), float(value)) for i, value in enumerate(values)]
    found = stopping_point(curve, patience_examples=patience, min_delta=min_delta)
    assert found == slow_stopping_point(curve, patience, min_delta)


def test_patience_counts_examples() -> None:
    assert stopping_point(FALLING_THEN_RISING, patience_examples=100) == 400
    assert stopping_point(FALLING_THEN_RISING, patience_examples=101) == 500
    assert stopping_point(FALLING_THEN_RISING, patience_examples=300) is None


def test_finer_validations_stop_no_later() -> None:
    fine = [(e + 50, (v + w) / 2) for (e, v), (_, w) in pairwise(FALLING_THEN_RISING)]
    both = sorted([*FALLING_THEN_RISING, *fine])
    assert stopping_point(both, patience_examples=150) == 450
    assert stopping_point(FALLING_THEN_RISING, patience_examples=150) == 500


def test_small_gains_count_once_they_add_up() -> None:
    creeping = [(100 * i, 5.0 - 0.04 * i) for i in range(1, 20)]
    assert stopping_point(creeping, patience_examples=300, min_delta=0.1) is None
    assert stopping_point(creeping, patience_examples=200, min_delta=0.1) == 300


def test_another_metric_begins_anew() -> None:
    last = follow(None, "val_loss", 3.0, examples=100, min_delta=0)
    last = follow(last, "val_cer", 9.0, examples=200, min_delta=0)
    assert (last.metric, last.value, last.waited_examples) == ("val_cer", 9.0, 0)
