"""Which clips make which batch.

Length buckets, reshuffled each epoch, as a pure function of (seed, epoch).

A batch is `batch_size` clips of similar length (or as many as `batch_tokens` padded positions
hold). An optimiser step takes `grad_acc_steps` batches; each batch goes through the model in
micro-batches of at most `micro_batch_tokens` padded positions. As the loop divides by the counts of
the whole step, how a step is cut into micro-batches never changes its gradient.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

# clips are sorted by length within pools of this many batches: little padding, other neighbours in
# each epoch
POOL_BATCHES = 64
Indices = list[int]
T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Step:
    """One optimiser step."""

    number: int  # 1-based: the value of `step` when it is done
    epoch: int
    examples: int  # clips in this step
    micro_batches: list[Indices]


@dataclass(frozen=True)
class BatchOptions:
    """What decides the batches; see the options of the same names."""

    batch_size: int
    batch_tokens: int
    grad_acc_steps: int
    micro_batch_tokens: int
    seed: int


class BatchPlan:
    """All batches of a run over clips of the given costs (positions per clip)."""

    def __init__(self, costs: NDArray[np.int64], options: BatchOptions) -> None:
        if not len(costs):
            raise ValueError("there are no clips to train on")
        self.costs, self.options = costs, options
        self._epoch = lru_cache(maxsize=2)(self._plan_epoch)

    def epoch(self, epoch: int) -> list[list[Indices]]:
        """Return the optimiser steps of an epoch, each a list of batches.

        Every clip occurs once.
        """
        return self._epoch(epoch)

    def total_steps(self, *, n_epochs: float, max_steps: int) -> int:
        """Return the optimiser steps of the run.

        A part of an epoch counts as that part of its steps.
        """
        if max_steps:
            return max_steps
        whole, part = int(n_epochs), n_epochs - int(n_epochs)
        same_every_epoch = self.options.batch_tokens == 0
        steps = (
            whole * len(self.epoch(0))
            if same_every_epoch
            else sum(len(self.epoch(e)) for e in range(whole))
        )
        return max(1, steps + round(part * len(self.epoch(whole))))

    def examples_after(self, total_steps: int) -> int:
        """Return the examples seen after `total_steps` optimiser steps."""
        epochs, left, examples = 0, total_steps, 0
        while left > 0:
            steps = self.epoch(epochs)
            examples += (
                len(self.costs)
                if left >= len(steps)
                else sum(len(b) for s in steps[:left] for b in s)
            )
            left -= len(steps)
            epochs += 1
        return examples

    def steps(self, *, start: int, stop: int) -> Iterator[Step]:
        """Yield optimiser steps start+1 .. stop."""
        epoch, first = 0, 0
        while first < stop:
            steps = self.epoch(epoch)
            for offset in range(max(0, start - first), min(len(steps), stop - first)):
                batches = steps[offset]
                micro = [part for batch in batches for part in self.split(batch)]
                yield Step(first + offset + 1, epoch, sum(map(len, batches)), micro)
            first += len(steps)
            epoch += 1

    def split(self, batch: Indices) -> list[Indices]:
        """Cut a batch into micro-batches within `micro_batch_tokens` padded positions.

        A longer clip stands alone.
        """
        return _fill(batch, self.costs, self.options.micro_batch_tokens)

    def _plan_epoch(self, epoch: int) -> list[list[Indices]]:
        options = self.options
        random = np.random.default_rng([options.seed, epoch])
        order = random.permutation(len(self.costs))
        size = options.batch_size
        if options.batch_tokens:
            size = max(1, int(options.batch_tokens / self.costs.mean()))
        batches: list[Indices] = []
        for start in range(0, len(order), size * POOL_BATCHES):
            pool = order[start : start + size * POOL_BATCHES]
            pool = pool[np.argsort(self.costs[pool], kind="stable")].tolist()
            if options.batch_tokens:
                batches += _fill(pool, self.costs, options.batch_tokens)
            else:
                batches += [pool[i : i + size] for i in range(0, len(pool), size)]
        shuffled = [batches[i] for i in random.permutation(len(batches))]
        return [
            shuffled[i : i + options.grad_acc_steps]
            for i in range(0, len(shuffled), options.grad_acc_steps)
        ]


def evaluation_batches(costs: NDArray[np.int64], budget_tokens: int) -> list[Indices]:
    """Return all clips, sorted by length, in batches within the budget.

    Fixed order, the same for every trial.
    """
    return _fill(np.argsort(costs, kind="stable").tolist(), costs, budget_tokens)


def prefetch(make: Callable[[T], U], items: Iterable[T]) -> Iterator[tuple[T, U]]:
    """Yield (item, make(item)) in order.

    Making the next one in a thread while the caller works on this one.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="collate") as pool:
        waiting: tuple[T, Future[U]] | None = None
        for item in items:
            upcoming = (item, pool.submit(make, item))
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = upcoming
        if waiting is not None:
            yield waiting[0], waiting[1].result()


def _fill(indices: Sequence[int], costs: NDArray[np.int64], budget_tokens: int) -> list[Indices]:
    """Cut a sequence of clips into runs whose padded size (longest x count) stays within the budget."""
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
