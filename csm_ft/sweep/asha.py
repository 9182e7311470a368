"""When a trial stops early.

Asynchronous successive halving, stopping kind (arXiv 1810.05934), at equal numbers of examples
seen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

Curve = Mapping[int, float]  # examples seen -> validation loss, step 0 left out


@dataclass(frozen=True)
class Rungs:
    """The points, in examples seen, where trials are compared.

    A run's own length may differ from the horizon by part of an optimiser step (a share of an epoch
    is rounded to whole steps), so a point counts as reached a quarter of a validation interval
    early.
    """

    shares: Sequence[Fraction]  # rising, without the end
    validation_share: Fraction
    horizon_examples: float

    @property
    def examples(self) -> list[float]:
        """Examples at each rung and at the end."""
        return [float(share) * self.horizon_examples for share in (*self.shares, Fraction(1))]

    def reached(self, curve: Curve, rung: int) -> int | None:
        """Return the examples of the first validation at or after rung number `rung`, or None."""
        slack = float(self.validation_share) * self.horizon_examples / 4
        return min(
            (examples for examples in curve if examples >= self.examples[rung] - slack),
            default=None,
        )

    def value(self, curve: Curve, rung: int) -> float | None:
        """Return the lowest loss from the first rung up to rung number `rung`.

        Or None if it is not reached.
        """
        last, first = self.reached(curve, rung), self.reached(curve, 0)
        if last is None or first is None:
            return None
        return min(value for examples, value in curve.items() if first <= examples <= last)

    def best(self, curve: Curve) -> float | None:
        """Return the lowest loss from the first rung on: the objective so far."""
        first = self.reached(curve, 0)
        return (
            None
            if first is None
            else min(value for examples, value in curve.items() if examples >= first)
        )


def go_on(own: Curve, others: Sequence[Curve], rungs: Rungs, eta: int) -> bool:
    """Decide on a trial whose last validation is the newest point of `own`.

    At a rung it goes on if it is among the best 1/eta of all trials seen there so far; with fewer
    than `eta` of them nothing is decided. Between rungs, and at the end, it goes on.
    """
    newest = max(own)
    for rung in range(len(rungs.shares)):
        if rungs.reached(own, rung) != newest:
            continue
        value = rungs.value(own, rung)
        seen = sorted(v for curve in (own, *others) if (v := rungs.value(curve, rung)) is not None)
        if value is not None and len(seen) >= eta and value > seen[len(seen) // eta - 1]:
            return False
    return True
