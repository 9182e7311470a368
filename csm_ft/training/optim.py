"""The optimiser.

Which weights are trained and how fast, AdamW with fp32 master weights, its state as tensors that
need no pickle.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from csm_ft.config import TrainConfig
from csm_ft.families.base import Family, SpeechModel
from csm_ft.families.lora import add_adapters


def choose_parameters(model: SpeechModel, family: Family, config: TrainConfig) -> None:
    """Freeze what is not trained.

    With method lora all weights are frozen and adapters are put beside them.
    """
    if config.method == "lora":
        add_adapters(model, family.lora_modules(config), config)
    else:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(family.learning_rate_factor(config, name) > 0)


def build_optimizer(model: SpeechModel, family: Family, config: TrainConfig) -> torch.optim.AdamW:
    """Return fused AdamW over the trained weights.

    Norms and embeddings are not decayed unless `decay_all`.
    """
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_decayed = config.decay_all or (parameter.ndim > 1 and "embeddings" not in name)
            key = (
                family.learning_rate_factor(config, name),
                config.weight_decay if is_decayed else 0.0,
            )
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


def optimizer_tensors(model: SpeechModel, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's state as `<parameter name>.<entry>`, for safetensors."""
    return {
        f"{name}.{entry}": value.detach().reshape(value.shape or (1,)).contiguous()
        for name, parameter in model.named_parameters()
        for entry, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(
    model: SpeechModel, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Put tensors of `optimizer_tensors` back; raises KeyError when one is missing."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            entries = {"step": (), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}
            optimizer.state[parameter] = {
                entry: (
                    tensors[f"{name}.{entry}"]
                    .to(parameter.device, torch.float32)
                    .reshape(shape)
                    .clone()
                )
                for entry, shape in entries.items()
            }
