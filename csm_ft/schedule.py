"""Schedules: intervals in any unit, and the learning rate at each optimiser step."""

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, Self

Unit = Literal["steps", "epochs", "examples", "audio", "run"]
_DURATION = re.compile(
    r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>ep|ex|sec|%)?|(?P<top>\d+)/(?P<bottom>[1-9]\d*)"
)


@dataclass(frozen=True)
class Duration:
    """An interval: `100` steps, `0.5ep` epochs, `2000ex` examples, `10%` or `1/9` of the run.

    `600sec` are seconds of training audio; 0 disables.
    """

    amount: Fraction
    unit: Unit

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse one of the spellings above; raises ValueError, which lists them, for others."""
        match = _DURATION.fullmatch(text.strip())
        if match is None:
            raise ValueError(
                f"{text!r} is not a duration: write 100 (steps), 0.5ep (epochs), 2000ex (examples),"
                " 600sec (of training audio), 10% or 1/9 (of the run), or 0 (off)"
            )
        if match["top"]:
            return cls(Fraction(int(match["top"]), int(match["bottom"])), "run")
        number = Fraction(match["number"])
        if match["unit"] == "%":
            return cls(number / 100, "run")
        units: dict[str | None, Unit] = {"ep": "epochs", "ex": "examples", "sec": "audio"}
        return cls(number, units.get(match["unit"], "steps"))


@dataclass(frozen=True)
class Clock:
    """Converts durations to optimiser steps of one run.

    Epochs and shares of the run are measured in examples, so that runs with different batch sizes
    are validated at equal numbers of examples seen.
    """

    total_steps: int
    total_examples: int
    examples_per_epoch: int
    sec_per_example: float = 1.0  # of audio, on average

    def is_due(self, duration: Duration, *, step: int, examples: int, examples_before: int) -> bool:
        """Tell whether the optimiser step that ended here reached a multiple of `duration`."""
        if duration.amount == 0 or step == 0:
            return False
        if duration.unit == "steps":
            return math.floor(step / duration.amount) > math.floor((step - 1) / duration.amount)
        # A step can jump over a multiple, and over several: so compare before and after. The
        # amount is a Fraction, so no multiple is missed by rounding.
        length = self._examples_per(duration.unit) * duration.amount
        return math.floor(examples / length) > math.floor(examples_before / length)

    def steps(self, duration: Duration) -> int:
        """Return `duration` in whole optimiser steps of this run, rounded to the nearest."""
        if duration.unit == "steps":
            return round(duration.amount)
        num_examples = float(duration.amount) * self._examples_per(duration.unit)
        return round(num_examples * self.total_steps / max(self.total_examples, 1))

    def examples(self, duration: Duration) -> float:
        """Return `duration` in examples seen."""
        if duration.unit == "steps":
            return float(duration.amount) * self.total_examples / max(self.total_steps, 1)
        return float(duration.amount) * self._examples_per(duration.unit)

    def _examples_per(self, unit: Unit) -> float:
        lengths: dict[Unit, float] = {
            "epochs": self.examples_per_epoch,
            "examples": 1,
            "audio": 1 / self.sec_per_example,
            "run": self.total_examples,
        }
        return lengths[unit]


def learning_rate_factor(
    step: int, *, total_steps: int, warmup_steps: int, decay: str, min_ratio: float
) -> float:
    """Return the learning rate of optimiser step `step` (0-based) as a share of the peak.

    Warm-up is linear and its first step is not zero. The decay would reach `min_ratio` at
    `total_steps`, one step after the last.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if decay == "constant":
        return 1.0
    if decay == "linear":
        return 1 - (1 - min_ratio) * progress
    if decay == "cosine":
        return min_ratio + (1 - min_ratio) * (1 + math.cos(math.pi * progress)) / 2
    if decay == "exponential":
        return max(min_ratio, 0.01) ** progress  # a ratio of 0 is never reached
    if decay == "wsd":  # warm-up, stable, decay: linear over the last fifth
        return 1 - (1 - min_ratio) * max(0.0, (progress - 0.8) / 0.2)
    raise AssertionError(f"unknown decay {decay}")
