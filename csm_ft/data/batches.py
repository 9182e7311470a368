"""Batches of examples of similar length, as a pure function of (seed, epoch).

A batch is `batch_size` examples of similar length (or as many as `batch_tokens` padded positions
hold). An optimiser step takes `grad_acc_steps` batches; each batch goes through the model in
micro-batches of at most `micro_batch_tokens` padded positions. Because the loss is divided by the
counts of the whole step, the split into micro-batches never changes the gradient.

An epoch over n examples is n draws. Without weights each example is drawn once; with weights an
example is drawn as often as sampling.draw_counts says. Within a pool first draws come before
repeated ones, so that an example rarely meets itself in a batch.

The cost of an example is its number of positions in the model.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from csm_ft.data.sampling import draw_counts
from csm_ft.errors import DataError

# Examples are sorted by length within pools of this many batches. A pool is large enough for little
# padding, and drawn anew each epoch, so that an example meets different neighbours.
POOL_BATCHES = 512
SIMILAR = 0.02  # difference of lengths within which neighbours are exchanged
BORDER_SHARE = 0.05  # of a batch that may go to its neighbour for less padding
Indices = list[int]
T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Step:
    """One optimiser step."""

    number: int  # 1-based: the value of TrainState.step when it is done
    epoch: int
    examples: int  # in this step
    micro_batches: list[Indices]
    repeats: list[list[int]]  # of each index above: how often the epoch has drawn it before


@dataclass(frozen=True)
class _Epoch:
    """An epoch in terms of draws 0..n-1; draw d is of example `examples[d]`."""

    steps: list[list[list[int]]]  # optimiser steps of batches of draws
    examples: NDArray[np.int64]  # [n], rising
    costs: NDArray[np.int64]  # [n]
    repeats: NDArray[np.int64]  # [n] earlier draws of the same example


@dataclass(frozen=True)
class BatchOptions:
    """The options that decide the batches; see TrainConfig."""

    batch_size: int
    batch_tokens: int
    grad_acc_steps: int
    micro_batch_tokens: int
    seed: int
    ranks: int = 1  # processes that share the micro-batches of a step
    batch_fill: str = "even"  # how batches of `batch_tokens` are made; see TrainConfig


class BatchPlan:
    """All batches of a run over examples of the given costs and weights, [n] each."""

    def __init__(
        self,
        costs: NDArray[np.int64],
        options: BatchOptions,
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        """Take the weights above 0 by which examples are drawn; None = each once per epoch."""
        if not len(costs):
            raise DataError(
                "there are no clips to train on; pretokenise with more, or choose other target"
                " turns"
            )
        self.costs, self.options = costs, options
        self.weights = np.ones(len(costs)) if weights is None else weights
        self._epoch = lru_cache(maxsize=2)(self._plan_epoch)

    def epoch(self, epoch: int) -> list[list[Indices]]:
        """Return the optimiser steps of an epoch, each a list of batches.

        Without weights every example occurs exactly once.
        """
        planned = self._epoch(epoch)
        return [
            [planned.examples[batch].tolist() for batch in batches] for batches in planned.steps
        ]

    def total_steps(self, *, n_epochs: float, max_steps: int) -> int:
        """Return the number of optimiser steps of the run, at least 1.

        A fraction of an epoch is that fraction of its steps, rounded.
        """
        if max_steps:
            return max_steps
        whole, part = int(n_epochs), n_epochs - int(n_epochs)
        if self.options.batch_tokens:
            # How many batches a token budget makes depends on the epoch's order.
            steps = sum(len(self._epoch(e).steps) for e in range(whole))
        else:
            steps = whole * len(self._epoch(0).steps)
        return max(1, steps + round(part * len(self._epoch(whole).steps)))

    def examples_after(self, total_steps: int) -> int:
        """Return the examples seen after `total_steps` optimiser steps."""
        left, examples = total_steps, 0
        epoch = 0
        while left > 0:
            steps = self._epoch(epoch).steps
            if left >= len(steps):
                examples += len(self.costs)
            else:
                examples += sum(sum(map(len, batches)) for batches in steps[:left])
            left -= len(steps)
            epoch += 1
        return examples

    def steps(self, *, start: int, stop: int) -> Iterator[Step]:
        """Yield optimiser steps start+1 .. stop; `start` is that of the checkpoint resumed from."""
        epoch, first = 0, 0
        while first < stop:
            planned = self._epoch(epoch)
            num_steps = len(planned.steps)
            for offset in range(max(0, start - first), min(num_steps, stop - first)):
                yield self._step(first + offset + 1, epoch, planned, planned.steps[offset])
            first += num_steps
            epoch += 1

    def split(self, batch: Indices) -> list[Indices]:
        """Split a batch into micro-batches of at most `micro_batch_tokens` padded positions.

        An example longer than that is a micro-batch by itself.
        """
        return fill(batch, self.costs, self.options.micro_batch_tokens)

    def _step(self, number: int, epoch: int, planned: _Epoch, batches: Sequence[list[int]]) -> Step:
        budget, ranks = self.options.micro_batch_tokens, self.options.ranks
        micro = fill_for_ranks(batches, planned.costs, budget, ranks)
        return Step(
            number,
            epoch,
            examples=sum(map(len, batches)),
            micro_batches=[planned.examples[draws].tolist() for draws in micro],
            repeats=[planned.repeats[draws].tolist() for draws in micro],
        )

    def _plan_epoch(self, epoch: int) -> _Epoch:
        options = self.options
        counts = draw_counts(self.weights, seed=options.seed, epoch=epoch)
        examples = np.repeat(np.arange(len(counts)), counts)
        repeats = np.arange(len(examples)) - np.repeat(np.cumsum(counts) - counts, counts)
        costs = self.costs[examples]
        return _Epoch(self._shuffle(epoch, costs, repeats), examples, costs, repeats)

    def _shuffle(
        self, epoch: int, costs: NDArray[np.int64], repeats: NDArray[np.int64]
    ) -> list[list[list[int]]]:
        """Return the optimiser steps of an epoch from the costs and repeats of its draws."""
        options = self.options
        # Keyed by seed and epoch, so a resumed run needs no generator state.
        random = np.random.default_rng([options.seed, epoch])
        exchanges = np.random.default_rng([options.seed, epoch, 1])
        order = random.permutation(len(costs))
        size = options.batch_size
        if options.batch_tokens:
            size = max(1, int(options.batch_tokens / costs.mean()))  # only sizes the pools
        batches: list[list[int]] = []
        for start in range(0, len(order), size * POOL_BATCHES):
            pool = order[start : start + size * POOL_BATCHES]
            # Stable: draws of equal length keep the random order.
            pool = pool[np.lexsort((costs[pool], repeats[pool]))]
            pool = _exchange(pool, costs, exchanges).tolist()
            if options.batch_tokens:
                fill_batches = fill_evenly if options.batch_fill == "even" else fill
                batches += fill_batches(pool, costs, options.batch_tokens)
            else:
                batches += [pool[i : i + size] for i in range(0, len(pool), size)]
        # Otherwise every pool would go from short to long examples.
        shuffled = [batches[i] for i in random.permutation(len(batches))]
        return [
            shuffled[i : i + options.grad_acc_steps]
            for i in range(0, len(shuffled), options.grad_acc_steps)
        ]


def _exchange(
    pool: NDArray[np.int64], costs: NDArray[np.int64], random: np.random.Generator
) -> NDArray[np.int64]:
    """Exchange neighbours of similar, but not equal, cost at random.

    Where few examples have the same cost, the same ones would meet in every epoch.
    """
    for start in (1, 0, 1):  # pairs across the borders of batches, then within, then across again
        left = np.arange(start, len(pool) - 1, 2)
        longer_by = costs[pool[left + 1]] / costs[pool[left]] - 1
        is_similar = (longer_by > 0) & (longer_by <= SIMILAR)
        left = left[is_similar & (random.random(len(left)) < 0.5)]
        pool[left], pool[left + 1] = pool[left + 1], pool[left]
    return pool


def evaluation_batches(costs: NDArray[np.int64], budget_tokens: int) -> list[Indices]:
    """Return batches of all examples, sorted by length, each within the budget.

    No random choice or swept option affects them, so they are the same for every trial.
    """
    return fill(np.argsort(costs, kind="stable").tolist(), costs, budget_tokens)


def prefetch(make: Callable[[T], U], items: Iterable[T]) -> Iterator[tuple[T, U]]:
    """Yield (item, make(item)) in order; a thread makes the next one while the caller works."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="collate") as pool:
        waiting: tuple[T, Future[U]] | None = None
        for item in items:
            upcoming = (item, pool.submit(make, item))
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = upcoming
        if waiting is not None:
            yield waiting[0], waiting[1].result()


def fill(indices: Sequence[int], costs: NDArray[np.int64], budget_tokens: int) -> list[Indices]:
    """Split a sequence of examples into runs of padded size (longest x count) within the budget."""
    runs: list[Indices] = []
    run: Indices = []
    longest = 0
    for index in indices:
        longest_then = max(longest, int(costs[index]))
        if run and longest_then * (len(run) + 1) > budget_tokens:
            runs.append(run)
            run, longest_then = [], int(costs[index])
        run.append(index)
        longest = longest_then
    return [*runs, run] if run else runs


def fill_evenly(
    indices: Sequence[int], costs: NDArray[np.int64], budget_tokens: int
) -> list[Indices]:
    """Split examples of rising cost into as many runs as `fill`, of similar size and less padding.

    The last run is no remainder, and a run ends where costs rise rather than just before.
    """
    runs = fill(indices, costs, budget_tokens)
    if len(runs) < 2:
        return runs
    low = int(costs[indices].sum()) // len(runs) - 1
    even = smallest_budget(
        lambda budget: len(fill(indices, costs, budget)) <= len(runs), low, budget_tokens
    )
    runs = fill(indices, costs, even)
    for i in range(len(runs) - 1):
        runs[i], runs[i + 1] = _least_padded(runs[i], runs[i + 1], costs, budget_tokens)
    return runs


def _least_padded(
    left: Indices, right: Indices, costs: NDArray[np.int64], budget_tokens: int
) -> tuple[Indices, Indices]:
    """Move the border of two runs by a few examples, to where both take the fewest positions."""
    both = left + right
    most = max(1, int(BORDER_SHARE * min(len(left), len(right))))
    counts = np.arange(max(1, len(left) - most), min(len(both) - 1, len(left) + most) + 1)
    tops = np.maximum.accumulate(costs[both])
    tops_after = np.maximum.accumulate(costs[both[::-1]])[::-1]
    left_sizes = tops[counts - 1] * counts
    right_sizes = tops_after[counts] * (len(both) - counts)
    fits = np.maximum(left_sizes, right_sizes) <= budget_tokens
    totals = np.where(fits, left_sizes + right_sizes, np.iinfo(np.int64).max)
    count = int(counts[totals.argmin()]) if fits.any() else len(left)
    return both[:count], both[count:]


def smallest_budget(is_enough: Callable[[int], bool], low: int, high: int) -> int:
    """Return the smallest whole budget that is enough; `low` is not, and `high` is."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def fill_for_ranks(
    batches: Sequence[Sequence[int]], costs: NDArray[np.int64], budget_tokens: int, ranks: int
) -> list[Indices]:
    """Split batches into runs within the budget, for one rank or dealt in turn to several.

    Several get equally many, by the smallest budget that needs no further pass of any rank, and
    those of one pass are of similar size. Fewer examples than ranks leave some without.
    """

    def filled(budget: int) -> list[Indices]:
        return [run for batch in batches for run in fill(batch, costs, budget)]

    runs = filled(budget_tokens)
    if ranks == 1 or not runs:
        return runs
    most = -(-len(runs) // ranks) * ranks
    even = smallest_budget(lambda budget: len(filled(budget)) <= most, 0, budget_tokens)
    return sorted(filled(even), key=lambda run: len(run) * max(costs[run]))
