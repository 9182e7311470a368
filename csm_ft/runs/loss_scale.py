"""The scale of an fp16 loss, part of a checkpoint. No torch."""

import math
from dataclasses import dataclass
from typing import Self

_FIRST = 65536.0
_GROWS_AFTER_STEPS = 2000


@dataclass
class LossScale:
    """The factor of the loss, a power of 2: without it small gradients in fp16 would become 0.

    A step whose gradient overflows is left out, and halves it; many without one double it. It is 1
    in every other precision.
    """

    value: float = 1.0
    good_steps: int = 0  # since the last overflow

    @classmethod
    def first(cls, dtype: str) -> Self:
        """Return the scale that a run begins with."""
        return cls(_FIRST if dtype == "fp16" else 1.0)

    def fits(self, grad_norm: float) -> bool:
        """Follow the norm of a gradient; tell whether the step is to be taken."""
        if self.value == 1.0:  # nothing is left to halve: a step that is not finite has diverged
            return True
        if not math.isfinite(grad_norm):
            self.value, self.good_steps = self.value / 2, 0
            return False
        self.good_steps += 1
        if self.good_steps % _GROWS_AFTER_STEPS == 0:
            self.value *= 2
        return True
