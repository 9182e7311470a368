"""AdamW with bf16 or 8-bit state and stochastic rounding of bf16 weights, by torchao.

Rounding up or down at random, by how near each is, keeps the expectation of small updates, which
rounding to the nearest bf16 would lose.
"""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torchao.optim import AdamW8bit, _AdamW


class _LowBit:
    """What checkpoints and CPUs need of torchao's optimisers."""

    _new_buffer: Any
    param_groups: list[dict[str, Any]]

    def empty_state(self, parameter: Tensor) -> dict[str, Tensor]:
        """Return the state of a parameter before its first step, to be filled in place."""
        return {
            "step": torch.tensor(0.0),
            "exp_avg": self._new_buffer(parameter, True),
            "exp_avg_sq": self._new_buffer(parameter, False),
        }

    def step(self, closure: Any = None) -> Any:
        """Take a step; on a GPU compiled, as torchao does it."""
        parameter: Tensor = self.param_groups[0]["params"][0]
        on_gpu = parameter.device.type != "cpu"
        with nullcontext() if on_gpu else torch.compiler.set_stance("force_eager"):
            return super().step(closure)  # pyright: ignore[reportAttributeAccessIssue]


class RoundedAdamW(_LowBit, _AdamW):
    """AdamW whose state has the dtype of the weights."""


class RoundedAdamW8bit(_LowBit, AdamW8bit):
    """AdamW whose averages are blocks of 256 8-bit codes with a scale."""
