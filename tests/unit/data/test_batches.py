from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import data
from csm_ft.data.batches import (
    BatchOptions,
    BatchPlan,
    evaluation_batches,
    fill,
    fill_evenly,
    fill_for_ranks,
    prefetch,
)
from csm_ft.data.sampling import draw_counts

LENGTHS = st.lists(st.integers(2, 2048), min_size=1, max_size=300)


def plan(
    costs: list[int] | np.ndarray,
    *,
    batch_size: int = 8,
    batch_tokens: int = 0,
    acc: int = 1,
    micro: int = 4096,
    seed: int = 0,
    weights: np.ndarray | None = None,
) -> BatchPlan:
    options = BatchOptions(batch_size, batch_tokens, acc, micro, seed)
    return BatchPlan(np.asarray(costs, dtype=np.int64), options, weights)


@settings(deadline=None, max_examples=60)
@given(
    LENGTHS,
    st.integers(1, 40),
    st.integers(1, 5),
    st.sampled_from([0, 500, 4096]),
    st.integers(0, 3),
)
def test_every_clip_occurs_once_per_epoch(
    costs: list[int], batch_size: int, acc: int, batch_tokens: int, epoch: int
) -> None:
    steps = plan(costs, batch_size=batch_size, acc=acc, batch_tokens=batch_tokens).epoch(epoch)
    assert sorted(i for step in steps for batch in step for i in batch) == list(range(len(costs)))
    assert all(len(step) == acc for step in steps[:-1]), (
        "left-over batches make a last step, they are not dropped"
    )
    assert 1 <= len(steps[-1]) <= acc


@settings(deadline=None, max_examples=60)
@given(LENGTHS, st.integers(50, 5000))
def test_micro_batches_stay_within_the_budget(costs: list[int], budget: int) -> None:
    p = plan(costs, batch_size=64, micro=budget)
    batch = p.epoch(0)[0][0]
    parts = p.split(batch)
    assert [i for part in parts for i in part] == batch
    for part in parts:
        assert len(part) == 1 or max(costs[i] for i in part) * len(part) <= budget


def test_order_depends_on_seed_and_epoch() -> None:
    costs = np.random.default_rng(0).integers(20, 200, 500)
    assert plan(costs).epoch(3) == plan(costs).epoch(3)
    assert plan(costs).epoch(3) != plan(costs).epoch(4)
    assert plan(costs).epoch(3) != plan(costs, seed=1).epoch(3)


def test_neighbours_change_between_epochs() -> None:
    p = plan(np.random.default_rng(0).integers(20, 200, 800))
    together = [{frozenset(b) for s in p.epoch(e) for b in s} for e in (0, 1)]
    assert len(together[0] & together[1]) <= 2


def test_padding_of_reshuffled_batches_is_small() -> None:
    costs = np.random.default_rng(1).integers(30, 160, 12_500)
    real = padded = 0
    for step in plan(costs, batch_size=8).epoch(0):
        for batch in step:
            real += int(costs[batch].sum())
            padded += int(costs[batch].max()) * len(batch)
    assert 1 - real / padded < 0.003
    random_order = np.random.default_rng(2).permutation(len(costs)).reshape(-1, 10)
    assert 1 - costs.sum() / (costs[random_order].max(axis=1) * 10).sum() > 0.2, (
        "what it would be without buckets"
    )


@pytest.mark.parametrize("n_epochs", [0.5, 1, 2.25, 3])
@pytest.mark.parametrize("batch_tokens", [0, 1000])
def test_steps_add_up_from_any_start(n_epochs: float, batch_tokens: int) -> None:
    p = plan(np.random.default_rng(0).integers(20, 200, 103), batch_tokens=batch_tokens, acc=2)
    total = p.total_steps(n_epochs=n_epochs, max_steps=0)
    steps = list(p.steps(start=0, stop=total))
    assert [s.number for s in steps] == list(range(1, total + 1))
    assert sum(s.examples for s in steps) == p.examples_after(total)
    assert p.examples_after(total) == pytest.approx(
        n_epochs * 103, abs=2 * 103 / len(p.epoch(0)) + 1
    )
    assert list(p.steps(start=5, stop=total)) == steps[5:], (
        "a resumed run sees the rest of the same steps"
    )


def weighted(*, n: int = 103, micro: int = 4096, batch_tokens: int = 0) -> BatchPlan:
    random = np.random.default_rng(5)
    costs, weights = random.integers(20, 200, n), random.choice([0.2, 1.0, 3.5], n)
    return plan(costs, weights=weights, micro=micro, batch_tokens=batch_tokens, acc=2)


@pytest.mark.parametrize("batch_tokens", [0, 1000])
def test_weighted_epoch_has_the_multiset_drawn(batch_tokens: int) -> None:
    p = weighted(batch_tokens=batch_tokens)
    for epoch in range(4):
        drawn = [i for step in p.epoch(epoch) for batch in step for i in batch]
        counts = draw_counts(p.weights, seed=0, epoch=epoch)
        assert np.bincount(drawn, minlength=103).tolist() == counts.tolist()


def test_equal_weights_change_nothing() -> None:
    costs = np.random.default_rng(0).integers(20, 200, 103)
    plain, equal = plan(costs, acc=2), plan(costs, acc=2, weights=np.full(103, 0.3))
    assert list(equal.steps(start=0, stop=30)) == list(plain.steps(start=0, stop=30))
    assert all(not any(map(sum, step.repeats)) for step in plain.steps(start=0, stop=30))


def test_small_sets_of_short_clips_keep_the_order_of_earlier_versions() -> None:
    def earlier(costs: np.ndarray, epoch: int) -> list[list[int]]:
        random = np.random.default_rng([0, epoch])
        pool = random.permutation(len(costs))
        pool = pool[np.argsort(costs[pool], kind="stable")].tolist()
        batches = [pool[i : i + 8] for i in range(0, len(pool), 8)]
        return [batches[i] for i in random.permutation(len(batches))]

    costs = np.random.default_rng(0).integers(5, 50, 512)
    for epoch in range(3):
        found = [batch for step in plan(costs).epoch(epoch) for batch in step]
        assert found == earlier(costs, epoch)


@pytest.mark.parametrize(("count", "padding"), [(12_500, 0.0125), (2_000, 0.02)])
def test_long_tailed_lengths_are_padded_little_and_meet_others(count: int, padding: float) -> None:
    seconds = np.clip(np.random.default_rng(0).lognormal(np.log(3.9), 1.0, count), 0.5, 60)
    costs = (17 * seconds).astype(np.int64) + 1
    epochs = [[b for step in plan(costs).epoch(e) for b in step] for e in (0, 1)]
    padded = sum(len(batch) * int(costs[batch].max()) for batch in epochs[0])
    assert 1 - int(costs.sum()) / padded < padding
    first, second = ({frozenset(batch) for batch in batches} for batches in epochs)
    assert len(first & second) < 0.05 * len(first)


@settings(deadline=None, max_examples=60)
@given(LENGTHS, st.integers(50, 5000))
def test_even_runs_are_as_many_within_the_budget(lengths: list[int], budget: int) -> None:
    costs = np.sort(np.asarray(lengths, dtype=np.int64))
    indices = list(range(len(costs)))
    runs, greedy = fill_evenly(indices, costs, budget), fill(indices, costs, budget)
    assert [i for run in runs for i in run] == indices
    assert len(runs) == len(greedy)
    assert all(len(run) == 1 or len(run) * max(costs[run]) <= budget for run in runs)


def test_batches_of_a_budget_are_even_and_padded_little() -> None:
    costs = data.costs_of("conversation", 12_500)
    epochs = [data.plan(costs, 8, batch_tokens=8192, epoch=epoch) for epoch in (0, 1)]
    assert data.padding(epochs[0], costs) < 1.3
    assert data.variation(epochs[0], costs) < 0.03
    assert data.repeated(*epochs) < 5


def test_a_run_of_an_earlier_version_keeps_its_order() -> None:
    costs = np.random.default_rng(0).integers(5, 50, 512)
    options = BatchOptions(8, 1000, 1, 4096, 0, batch_fill="greedy")
    kept = [batch for step in BatchPlan(costs, options).epoch(1) for batch in step]
    random = np.random.default_rng([0, 1])
    pool = random.permutation(len(costs))
    runs = fill(pool[np.argsort(costs[pool], kind="stable")].tolist(), costs, 1000)
    assert kept == [runs[i] for i in random.permutation(len(runs))]


def test_weighted_run_resumes_exactly() -> None:
    steps = list(weighted().steps(start=0, stop=30))
    assert list(weighted().steps(start=17, stop=30)) == steps[17:]
    assert sum(step.examples for step in steps) == weighted().examples_after(30)


def test_repeats_number_the_draws_of_an_example() -> None:
    p = weighted()
    drawn: list[tuple[int, int]] = []
    for step in p.steps(start=0, stop=len(p.epoch(0))):
        for indices, repeats in zip(step.micro_batches, step.repeats, strict=True):
            drawn += zip(indices, repeats, strict=True)
    counts = draw_counts(p.weights, seed=0, epoch=0)
    assert sorted(drawn) == [(i, k) for i, count in enumerate(counts) for k in range(count)]


def test_repeats_do_not_depend_on_micro_batches() -> None:
    def pairs(micro: int) -> list[list[tuple[int, int]]]:
        steps = weighted(micro=micro).steps(start=0, stop=20)
        flat = [(chain(*step.micro_batches), chain(*step.repeats)) for step in steps]
        return [list(zip(indices, repeats, strict=True)) for indices, repeats in flat]

    assert pairs(250) == pairs(100_000)


def test_few_batches_hold_an_example_twice() -> None:
    batches = [batch for step in weighted(n=400).epoch(0) for batch in step]
    assert sum(len(set(batch)) < len(batch) for batch in batches) <= 2


def test_no_clips_is_an_error() -> None:
    with pytest.raises(ValueError, match="no clips"):
        plan([])


def test_evaluation_order_is_by_length() -> None:
    batches = evaluation_batches(np.array([50, 10, 30, 10]), 60)
    assert batches == [[1, 3], [2], [0]]


def test_prefetch_keeps_order_and_errors() -> None:
    assert list(prefetch(lambda n: n * n, iter(range(5)))) == [(n, n * n) for n in range(5)]
    with pytest.raises(ZeroDivisionError):
        list(prefetch(lambda n: 1 // n, iter([1, 0, 2])))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.integers(1, 300), min_size=1, max_size=20), min_size=1, max_size=3),
    st.integers(1, 5),
    st.integers(300, 1000),
)
def test_ranks_share_a_step_without_duplicates(
    batches: list[list[int]], ranks: int, budget: int
) -> None:
    costs = np.array([cost for batch in batches for cost in batch])
    indices = iter(range(len(costs)))
    cut = [[next(indices) for _ in batch] for batch in batches]
    alone = fill_for_ranks(cut, costs, budget, 1)
    runs = fill_for_ranks(cut, costs, budget, ranks)
    assert sorted(chain.from_iterable(runs)) == list(range(len(costs)))
    assert all(len(run) * max(costs[run]) <= budget for run in runs)
    assert -(-len(runs) // ranks) == -(-len(alone) // ranks), "no further pass"
    assert len(runs) >= len(alone)


def test_one_batch_is_spread_over_all_ranks() -> None:
    costs = np.full(8, 10)
    assert fill_for_ranks([list(range(8))], costs, 16384, 1) == [list(range(8))]
    assert fill_for_ranks([list(range(8))], costs, 16384, 2) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert fill_for_ranks([list(range(8))], costs, 16384, 3) == [[6, 7], [0, 1, 2], [3, 4, 5]]
