"""Weights that balance groups, and caps on them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_ft.datasets.weights import Cap, weigh

ROWS = st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0.1, 30)), min_size=1, max_size=60)


def drawn(groups: list[str], sizes: list[float], weights: list[float]) -> dict[str, float]:
    """Return the share of each group in what is drawn."""
    total = sum(w * s for w, s in zip(weights, sizes, strict=True))
    rows = list(zip(groups, sizes, weights, strict=True))
    return {g: sum(w * s for group, s, w in rows if group == g) / total for g in set(groups)}


@given(ROWS)
def test_groups_are_drawn_alike(rows: list[tuple[str, float]]) -> None:
    groups = [group for group, _ in rows]
    clips = [1.0] * len(rows)
    weights = weigh(groups, clips, math.inf)
    assert sum(weights) / len(weights) == pytest.approx(1, abs=1e-5)
    assert list(drawn(groups, clips, weights).values()) == pytest.approx(
        [1 / len(set(groups))] * len(set(groups)), abs=1e-5
    )


@given(ROWS)
def test_hours_are_drawn_alike(rows: list[tuple[str, float]]) -> None:
    groups, sizes = map(list, zip(*rows, strict=True))
    weights = weigh(groups, sizes, math.inf)
    assert sum(weights) / len(weights) == pytest.approx(1, abs=1e-5)
    shares = drawn(groups, sizes, weights)
    assert max(shares.values()) - min(shares.values()) < 1e-3


@given(ROWS)
def test_temperature_one_changes_nothing(rows: list[tuple[str, float]]) -> None:
    groups = [group for group, _ in rows]
    assert weigh(groups, [1.0] * len(rows), 1.0) == [1.0] * len(rows)


def test_temperature_flattens_by_its_root() -> None:
    groups = ["a"] * 16 + ["b"]
    shares = drawn(groups, [1.0] * 17, weigh(groups, [1.0] * 17, 2.0))
    assert shares["a"] / shares["b"] == pytest.approx(4, rel=1e-4)  # the root of 16


@given(ROWS, st.floats(0.001, 0.02), st.integers(0, 3))
def test_no_group_exceeds_the_cap(rows: list[tuple[str, float]], hours: float, seed: int) -> None:
    groups, sizes = map(list, zip(*rows, strict=True))
    units = [str(index) for index in range(len(rows))]
    left_out = Cap(hours, seed).left_out(units, groups, sizes)
    for group in set(groups):
        kept = [i for i, one in enumerate(groups) if one == group and i not in left_out]
        dropped = [i for i, one in enumerate(groups) if one == group and i in left_out]
        kept_sec = sum(sizes[i] for i in kept)
        assert kept_sec <= 3600 * hours + 1e-6
        assert all(kept_sec + sizes[i] > 3600 * hours - 1e-6 for i in dropped)


def test_cap_keeps_conversations_whole() -> None:
    units = ["talk"] * 3 + ["a", "b"]
    left_out = Cap(3 / 3600, 0).left_out(units, ["g"] * 5, [1.0] * 5)
    assert {0, 1, 2} <= left_out or not {0, 1, 2} & left_out
    assert len(left_out) == 2 if 0 not in left_out else left_out == {0, 1, 2}
