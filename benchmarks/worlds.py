"""What simulated trials measure: synthetic landscapes, or recorded learning curves.

A world gives the value of a setting after a share of its run, with the noise of its seed, and the
value without noise at the end, which no search sees.
"""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from benchmarks.curves import RecordedCurve

_CLIFF = 1.1  # decades above the best rate, from which runs diverge


class World(Protocol):
    """Where a simulated search takes place; lower values are better."""

    untrained: float
    optimum: float  # the least value without noise

    def value(self, params: Mapping[str, Any], seed: int, share: float) -> float | None:
        """Return what a run measures after a share of it; None where it diverges."""
        ...

    def truth(self, params: Mapping[str, Any]) -> float:
        """Return the value at the end, without noise."""
        ...


class Synthetic:
    """A landscape over configs/sweep.yaml, drawn by a seed.

    The learning rate matters most, on a logarithmic scale and more above the best one than below;
    low rates learn slowly, so early ranks mislead. Runs of one setting differ between seeds.
    """

    untrained, optimum = 7.0, 5.0

    def __init__(self, seed: int, noise: float = 0.004) -> None:
        draw = random.Random(f"world {seed}")  # noqa: S311
        self._seed, self._noise = seed, noise
        self._rate = draw.uniform(math.log10(1e-5), math.log10(1e-4))
        self._batch = draw.choice([8, 16, 32])
        self._decay, self._weight = draw.uniform(-3, -1), draw.uniform(0.35, 0.65)
        self._warmup = draw.choice(["1%", "3%", "5%"])

    def value(self, params: Mapping[str, Any], seed: int, share: float) -> float | None:
        """Return the value: an exponential decay towards the truth, and luck."""
        off = self._off(params)
        if off > _CLIFF and share > 0.05:
            return None
        speed = 4.5 * 10 ** (0.35 * min(0.0, off))  # slower below the best rate
        learning = (self.untrained - 5) * 0.4 * math.exp(-speed * share)
        setting = f"{self._seed} {seed} {sorted(params.items())}"
        run, here = _normal(setting), _normal(f"{setting} {share:.3f}")
        return self.truth(params) + learning + self._noise * (0.9 * run + 0.45 * here)

    def truth(self, params: Mapping[str, Any]) -> float:
        """Return a sum over options of what each is off by."""
        off = self._off(params)
        decay = math.log10(params.get("weight_decay", 0.01)) - self._decay
        return (
            self.optimum
            + (0.16 if off > 0 else 0.08) * off**2
            + 0.006 * abs(math.log2(params.get("batch_size", 16) / self._batch))
            + 0.002 * decay**2
            + 0.3 * (params.get("decoder_loss_weight", 0.5) - self._weight) ** 2
            + 0.003 * (params.get("warmup_steps", "5%") != self._warmup)
        )

    def _off(self, params: Mapping[str, Any]) -> float:
        """Return how many decades the learning rate is above the best one."""
        return math.log10(params["learning_rate"]) - self._rate


class Recorded:
    """Recorded trials: a setting has the curve of the nearest one, each with its own luck.

    Near is a matter of ranks: options are scaled by the spread of their recorded values, numbers on
    a logarithmic scale where all are positive.
    """

    def __init__(self, curves: Sequence[RecordedCurve], untrained: float, noise: float) -> None:
        self._curves, self._noise, self.untrained = curves, noise, untrained
        self.optimum = min(curve.points[-1][1] for curve in curves)
        self._spread = {
            name: (max(places) - min(places)) or 1.0
            for name in curves[0].params
            if (places := [self._place(c.params[name]) for c in curves if name in c.params])
        }

    def value(self, params: Mapping[str, Any], seed: int, share: float) -> float | None:
        """Return what the nearest trial measured then, and luck."""
        points = self._nearest(params).points
        found = min(points, key=lambda point: abs(point[0] - share))[1]
        luck = _normal(f"{seed} {sorted(params.items())}")
        return found + self._noise * luck

    def truth(self, params: Mapping[str, Any]) -> float:
        """Return what the nearest trial ended with."""
        return self._nearest(params).points[-1][1]

    def _nearest(self, params: Mapping[str, Any]) -> RecordedCurve:
        def distance(curve: RecordedCurve) -> float:
            return sum(
                ((self._place(params[name]) - self._place(curve.params[name])) / spread) ** 2
                for name, spread in self._spread.items()
                if name in params and name in curve.params
            )

        return min(self._curves, key=distance)

    @staticmethod
    def _place(value: Any) -> float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return math.log10(value) if value > 0 else float(value)
        return float(sum(str(value).encode()))  # words: only equal ones are near


def _normal(what: str) -> float:
    """Return a draw from the standard normal distribution, the same for the same text."""
    return random.Random(what).gauss(0, 1)  # noqa: S311
