"""Replay: examples of other data beside those of each step, so that they are not forgotten."""

from dataclasses import dataclass

import numpy as np

from csm_ft.data.batches import Indices, Step, fill_for_ranks
from csm_ft.data.examples import Examples
from csm_ft.data.sampling import is_even

_REPLAY = 3  # part of the generator's key: no other choice of the same seed has its numbers


@dataclass(frozen=True)
class Replay:
    """What is replayed; which examples is a function of seed and step, so resuming is exact."""

    examples: Examples
    share: float  # of all examples of a step, above 0 and below 1
    seed: int
    micro_batch_tokens: int
    fingerprint: str  # of the content of its token file
    ranks: int = 1

    def draw(self, step: Step) -> list[Indices]:
        """Return the examples to add to a step, as micro-batches of similar length.

        n examples get n * share / (1 - share) more on average, rounded up or down at random. They
        are drawn by weight, and none twice in a step as long as there are enough.
        """
        random = np.random.default_rng([self.seed, _REPLAY, step.number])
        expected = step.examples * self.share / (1 - self.share)
        count = int(expected + random.random())
        weights, total = self.examples.weights, len(self.examples)
        shares = None if is_even(weights) else weights / weights.sum()
        drawn = random.choice(total, count, replace=count > total, p=shares)
        costs = self.examples.costs
        in_order = drawn[np.argsort(costs[drawn], kind="stable")].tolist()
        return fill_for_ranks([in_order], costs, self.micro_batch_tokens, self.ranks)
