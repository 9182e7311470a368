"""How often examples are drawn: exact in an epoch, and in the long run."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csm_ft.data.examples import Examples
from csm_ft.data.sampling import describe_weights, draw_counts, take_fraction
from tests.helpers.splits import FakeSplit, examples_of

WEIGHTS = st.lists(st.floats(0.01, 100), min_size=1, max_size=60)


def slow_counts(weights: Sequence[float], order: Sequence[int], start: float) -> list[int]:
    """Lay the points start, start + 1, ... on the intervals, one by one."""
    scale, counts = len(weights) / sum(weights), [0] * len(weights)
    for number in range(len(weights)):
        place, at = start + number, 0.0
        for index in order:
            at += weights[index] * scale
            if place < at:
                counts[index] += 1
                break
    return counts


@settings(deadline=None)
@given(WEIGHTS, st.integers(0, 9), st.integers(0, 50))
def test_counts_are_rounded_weights(weights: list[float], seed: int, epoch: int) -> None:
    counts = draw_counts(np.array(weights), seed=seed, epoch=epoch)
    expected = np.array(weights) / np.mean(weights)
    assert counts.sum() == len(weights)
    assert (np.abs(counts - expected) < 1 + 1e-6).all()


def test_counts_equal_those_of_a_slow_reference() -> None:
    weights = np.random.default_rng(0).choice([0.25, 1.0, 2.5], 40)
    for epoch in range(20):
        # The order and the start, as the docstring defines them.
        random = np.random.default_rng([3, 1])
        order = sorted(random.permutation(40).tolist(), key=lambda i: weights[i])
        start = (random.random() + epoch * (math.sqrt(5) - 1) / 2) % 1
        found = draw_counts(weights, seed=3, epoch=epoch).tolist()
        assert found == slow_counts(weights.tolist(), order, start)


def test_groups_get_their_share_in_every_epoch() -> None:
    weights = np.repeat([0.13, 1.7, 4.9], [70, 25, 5])  # three emotions, unevenly frequent
    share = weights / weights.sum() * 100
    for epoch in range(50):
        counts = draw_counts(weights, seed=1, epoch=epoch)
        for group in (slice(0, 70), slice(70, 95), slice(95, 100)):
            assert abs(counts[group].sum() - share[group].sum()) < 1


def test_share_of_each_example_converges() -> None:
    weights = np.random.default_rng(2).uniform(0.1, 3, 200)
    expected, total = weights / weights.mean(), np.zeros(200)
    for epoch in range(1000):
        total += draw_counts(weights, seed=4, epoch=epoch)
        # Independent draws would be off by sqrt(epochs) / 2: 16 at the end.
        assert (np.abs(total - (epoch + 1) * expected) < 4).all()


def test_expected_counts_are_the_weights() -> None:
    weights = np.array([0.3, 0.9, 1.4, 1.4])
    total = sum(draw_counts(weights, seed=seed, epoch=0) for seed in range(4000))
    assert total / 4000 == pytest.approx(weights, abs=0.03)


def test_seeds_draw_different_examples() -> None:
    weights = np.repeat([0.5, 1.5], 50)
    first, second = (draw_counts(weights, seed=seed, epoch=0).tolist() for seed in (0, 1))
    assert first != second


def test_weight_of_a_conversation_is_its_targets_mean() -> None:
    split = FakeSplit(
        [5] * 5,
        [4] * 5,
        conversations=["a", "a", "a", "", ""],
        turns=[0, 1, 2, 0, 0],
        speakers=["x", "y", "x", "x", "y"],
        weights=[1.0, 9.0, 4.0, 2.0, 5.0],
    )
    assert examples_of(split).weights.tolist() == pytest.approx([14 / 3, 2.0, 5.0])
    assert examples_of(split, loss_turns="speaker:x").weights.tolist() == [2.5, 2.0]


def test_shares_before_and_after_are_told() -> None:
    split = FakeSplit([5] * 4, [4] * 4, speakers=list("aaab"), weights=[1, 1, 1, 3])
    assert describe_weights(examples_of(split)) == ["speaker: a 75.0% -> 50.0%, b 25.0% -> 50.0%"]


def test_equal_weights_need_no_words() -> None:
    split = FakeSplit([5] * 4, [4] * 4, speakers=list("aaab"), weights=[2, 2, 2, 2])
    assert describe_weights(examples_of(split)) == []


def ids(examples: Examples) -> set[str]:
    return {examples.id(index) for index in range(len(examples))}


def people(*counts: int) -> Examples:
    speakers = [f"s{number}" for number, count in enumerate(counts) for _ in range(count)]
    return examples_of(FakeSplit([5] * len(speakers), [4] * len(speakers), speakers=speakers))


@given(st.lists(st.integers(1, 12), min_size=1, max_size=8), st.integers(0, 5))
@settings(deadline=None)
def test_smaller_shares_are_parts_of_larger(counts: list[int], seed: int) -> None:
    examples = people(*counts)
    taken = [ids(take_fraction(examples, i / 10, seed=seed)) for i in range(1, 11)]
    assert all(small <= large for small, large in pairwise(taken))
    assert taken[0]
    assert taken[-1] == ids(examples)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.floats(0.01, 1))
@settings(deadline=None)
def test_speakers_keep_their_share(counts: list[int], fraction: float) -> None:
    taken = take_fraction(people(*counts), fraction, seed=0)
    rows = [next(taken.of(index)).row for index in range(len(taken))]
    for number, count in enumerate(counts):
        kept = sum(taken.split.speaker(row) == f"s{number}" for row in rows)
        assert abs(kept - fraction * count) <= 1


def test_share_of_many_speakers_is_exact() -> None:
    """One clip each: half of the speakers stay, not all and not none."""
    assert len(take_fraction(people(*[1] * 100), 0.5, seed=0)) == 50


def test_seeds_take_different_clips() -> None:
    first, second = (ids(take_fraction(people(40, 40), 0.5, seed=seed)) for seed in (0, 1))
    assert len(first) == len(second) == 40
    assert first != second


def test_conversations_stay_whole() -> None:
    names = [f"c{number}" for number in range(10) for _ in range(6)]
    split = FakeSplit(
        [5] * 60, [4] * 60, conversations=names, turns=list(range(6)) * 10, speakers=["a", "b"] * 30
    )
    examples = examples_of(split, max_positions=30)  # three turns each
    taken = take_fraction(examples, 0.4, seed=0)
    kept = [split.conversation(piece.row) for i in range(len(taken)) for piece in taken.of(i)]
    assert sorted(Counter(kept).values()) == [6] * 4
    assert taken.costs.tolist() == [30] * 8
