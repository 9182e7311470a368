"""Examples of other data that are added to a step."""

from itertools import chain

import numpy as np

from csm_ft.data.batches import Step
from csm_ft.data.replay import Replay
from tests.helpers.splits import FakeSplit, examples_of


def replay(share: float, *, seed: int = 0, num_clips: int = 50, micro: int = 4096) -> Replay:
    lengths = [10 + 3 * number for number in range(num_clips)]
    return Replay(examples_of(FakeSplit(lengths, [4] * num_clips)), share, seed, micro, "content")


def drawn(one: Replay, number: int, examples: int = 8) -> list[int]:
    step = Step(number, epoch=0, examples=examples, micro_batches=[], repeats=[])
    return list(chain.from_iterable(one.draw(step)))


def test_share_is_that_of_all_examples() -> None:
    for share in (0.1, 0.5, 0.7):
        count = np.mean([len(drawn(replay(share), number)) for number in range(400)])
        assert abs(count / (count + 8) - share) < 0.01


def test_draw_is_a_function_of_seed_and_step() -> None:
    assert drawn(replay(0.5), 3) == drawn(replay(0.5), 3)
    assert drawn(replay(0.5), 3) != drawn(replay(0.5), 4)
    assert drawn(replay(0.5), 3) != drawn(replay(0.5, seed=1), 3)


def test_no_example_twice_in_a_step_if_there_are_enough() -> None:
    for number in range(20):
        indices = drawn(replay(0.5), number, examples=40)
        assert len(set(indices)) == len(indices) == 40
    assert len(drawn(replay(0.5, num_clips=3), 0)) == 8


def test_micro_batches_stay_within_the_budget() -> None:
    one = replay(0.5, micro=500)
    step = Step(1, epoch=0, examples=30, micro_batches=[], repeats=[])
    batches = one.draw(step)
    costs = one.examples.costs
    assert len(batches) > 1
    assert all(max(costs[batch]) * len(batch) <= 500 for batch in batches)


def test_weights_decide_how_often() -> None:
    weights = [9.0] * 5 + [1.0] * 45
    split = FakeSplit([20] * 50, [4] * 50, weights=weights)
    one = Replay(examples_of(split), 0.2, 0, 4096, "content")
    counts = np.bincount(list(chain(*(drawn(one, n, examples=4) for n in range(2000)))))
    assert 7 < counts[:5].mean() / counts[5:].mean() < 11
