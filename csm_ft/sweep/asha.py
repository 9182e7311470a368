"""When a trial stops early: asynchronous successive halving at equal numbers of examples seen.

Or of seconds of audio: `examples` stands for both, see Rungs.unit.

The stopping kind of arXiv 1810.05934.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from csm_ft.sweep.records import EXAMPLES, ComparedIn

Curve = Mapping[int, float]  # examples seen -> objective, step 0 left out


class EndedCurve(dict[int, float]):
    """The curve of a trial that has ended, with what was worked out from it: it never changes."""

    def __init__(self, curve: Curve) -> None:
        super().__init__(curve)
        self.lowest: dict[tuple[float, float], float | None] = {}  # by the ends of Rungs.value


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
    unit: ComparedIn = EXAMPLES

    @property
    def examples(self) -> list[float]:
        """Examples at each rung and at the end."""
        return [float(share) * self.horizon_examples for share in (*self.shares, Fraction(1))]

    @cached_property
    def _reached_from(self) -> list[float]:
        """Examples from which on each rung, and the end, count as reached."""
        slack = float(self.validation_share) * self.horizon_examples / 4
        return [examples - slack for examples in self.examples]

    def reached(self, curve: Curve, rung: int) -> int | None:
        """Return the examples of the first validation at or after rung number `rung`, or None."""
        first = self._reached_from[rung]
        return min((examples for examples in curve if examples >= first), default=None)

    def at(self, curve: Curve) -> list[int]:
        """Return the rungs that the newest validation is the first to reach."""
        newest = max(curve)
        return [rung for rung in range(len(self.shares)) if self.reached(curve, rung) == newest]

    def value(self, curve: Curve, rung: int) -> float | None:
        """Return the lowest value from the first rung up to rung number `rung`; None before it."""
        if not isinstance(curve, EndedCurve):
            return self._value(curve, rung)
        ends = (self._reached_from[0], self._reached_from[rung])
        if ends not in curve.lowest:
            curve.lowest[ends] = self._value(curve, rung)
        return curve.lowest[ends]

    def _value(self, curve: Curve, rung: int) -> float | None:
        last, first = self.reached(curve, rung), self.reached(curve, 0)
        if last is None or first is None:
            return None
        return min(value for examples, value in curve.items() if first <= examples <= last)

    def best(self, curve: Curve) -> float | None:
        """Return the lowest value from the first rung on; None before it."""
        first = self.reached(curve, 0)
        if first is None:
            return None
        return min(value for examples, value in curve.items() if examples >= first)


def may_continue(
    own: Curve, others: Sequence[Curve], rungs: Rungs, eta: int, *, margin: float = 0.0
) -> bool:
    """Decide whether a trial continues whose last validation is the newest point of `own`.

    At a rung it does if it is among the best 1/eta of all trials seen there so far, or behind them
    by no more than the margin; with fewer than `eta` of them nothing is decided. Between rungs, and
    at the end, it always continues.
    """
    for rung in rungs.at(own):
        value = rungs.value(own, rung)
        values = [rungs.value(curve, rung) for curve in (own, *others)]
        seen = sorted(v for v in values if v is not None)
        # A tie with the last of the best 1/eta continues: equal values must not depend on order.
        if value is not None and len(seen) >= eta and value > seen[len(seen) // eta - 1] + margin:
            return False
    return True
