"""An exponential moving average of the trained weights, kept in the optimiser's state.

So it is saved, resumed and sharded as the rest of that state. While the average is evaluated or
saved, the state keeps the weights that training goes on at.
"""

from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

AVERAGE, TRAINED = "average", "y"  # entries of a parameter's state; it has one of the two


def has_average(optimizer: torch.optim.Optimizer) -> bool:
    """Tell whether the optimiser keeps an average of the weights."""
    return any(group.get("ema_decay") for group in optimizer.param_groups)


def update_average(optimizer: torch.optim.Optimizer) -> None:
    """Move the average towards the weights of this step; it begins as those of the first step."""
    for group in optimizer.param_groups if has_average(optimizer) else ():
        known: list[tuple[Tensor, Tensor]] = []
        for parameter in group["params"]:
            state = optimizer.state.get(parameter)
            if not state:  # it has had no gradient
                continue
            if AVERAGE in state:
                known.append((state[AVERAGE], parameter.detach()))
            else:
                state[AVERAGE] = parameter.detach().clone()
        if known:
            averages, weights = (list(tensors) for tensors in zip(*known, strict=True))
            update: Any = get_ema_multi_avg_fn(group["ema_decay"])
            update(averages, weights, 0)


@torch.no_grad()
def exchange(optimizer: torch.optim.Optimizer, taken: str, kept: str) -> None:
    """Give the parameters the entry `taken` of their state, and keep what they were as `kept`."""
    for parameter, state in optimizer.state.items():
        if taken in state:
            before = parameter.detach().clone()
            parameter.copy_(state.pop(taken))
            state[kept] = before
