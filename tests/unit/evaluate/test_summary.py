"""Intervals over prompts, and of the difference between two rows of the same prompts."""

import numpy as np
import pytest

from csm_ft.evaluate.summary import Share, difference


def shares(errors: list[float], first: int = 0) -> list[Share]:
    return [Share(str(place), error, 10) for place, error in enumerate(errors, start=first)]


def test_difference_is_paired_by_prompt() -> None:
    hard = np.random.default_rng(0).integers(0, 9, 30).astype(float)
    own, their = shares(list(hard + 1)), shares(list(hard))
    found = difference(own, their)
    assert found is not None
    assert found.value == pytest.approx(0.1)
    assert found.low == pytest.approx(0.1), "one error more at each prompt: no doubt about it"
    assert found.high == pytest.approx(0.1)
    apart = difference(shares(list(hard + 1), first=100), their)
    assert apart is not None
    assert apart.value == pytest.approx(0.1)
    assert apart.low < 0 < apart.high, "other prompts: it may be those that were harder"


def test_difference_by_hand() -> None:
    # Of three prompts, those drawn decide: the mean difference of three draws of -1, 0 and 4.
    found = difference(shares([1, 2, 8]), shares([2, 2, 4]))
    assert found is not None
    assert found.value == pytest.approx(0.1)
    assert found.low == pytest.approx(-0.1)
    assert found.high == pytest.approx(0.4)


def test_difference_needs_two_prompts() -> None:
    assert difference(shares([1]), shares([2])) is None
    assert difference([], shares([1, 2])) is None
    assert difference(shares([1, 2]), [Share("0", 0, 0), Share("1", 0, 0)]) is None


def test_equal_rows_do_not_differ() -> None:
    found = difference(shares([0, 0]), shares([0, 0]))
    assert found is not None
    assert found == (0, 0, 0)
