"""Precision: weights in bf16, and their rounding."""

import numpy as np
import torch

from csm_ft.config.train import TrainConfig
from csm_ft.families.model import SpeechModel

_ROUNDING = 8  # part of the generator's key: no other choice of the same seed has its numbers


def cast_weights(model: SpeechModel, config: TrainConfig) -> None:
    """Make the weights bf16 for --dtype bf16_pure; of a model with adapters only the frozen ones.

    Norms and biases, which take no memory, stay, and what the family computes in fp32 anyway.
    """
    if config.dtype != "bf16_pure":
        return
    for name, parameter in model.named_parameters():
        is_adapter = config.method == "lora" and parameter.requires_grad
        is_vector = parameter.numel() == max(parameter.shape)
        if not (is_adapter or is_vector or name.startswith(model.fp32_weights)):
            parameter.data = parameter.data.to(torch.bfloat16)


def seed_rounding(seed: int, step: int) -> None:
    """Seed the rounding of a step, so that a resumed run rounds as an uninterrupted one."""
    key = np.random.SeedSequence([seed, _ROUNDING, step])
    torch.manual_seed(int(key.generate_state(1)[0]))
