"""The optimiser: which weights are trained and how fast; AdamW with fp32 master weights."""

import torch
from torch import Tensor

from csm_ft.config.train import TrainConfig
from csm_ft.families.base import Family
from csm_ft.families.lora import add_adapters
from csm_ft.families.model import SpeechModel


def choose_parameters(model: SpeechModel, family: Family, config: TrainConfig) -> None:
    """Freeze the weights that are not trained; with method lora, freeze all and add adapters."""
    if config.method == "lora":
        add_adapters(model, family.lora_modules(config), config)
        return
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(family.parameter(config, name).lr_factor > 0)


def build_optimizer(model: SpeechModel, family: Family, config: TrainConfig) -> torch.optim.AdamW:
    """Return fused AdamW over the trained weights, one group per learning rate and decay."""
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rule = family.parameter(config, name)
            # Vectors are scales (norms, DoRA's magnitudes), which decay would pull towards zero.
            decays = config.decay_all or (parameter.ndim > 1 and rule.decays)
            key = (rule.lr_factor, config.weight_decay if decays else 0.0)
            groups.setdefault(key, []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": members, "weight_decay": decay, "lr_factor": factor}
            for (factor, decay), members in groups.items()
        ],
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_eps,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of all groups, each times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["lr_factor"]
