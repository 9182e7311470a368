"""The optimiser: AdamW with fp32 master weights, and its state as named tensors that need no pickle."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from csm_ft.config import TrainConfig


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Return fused AdamW; norms and embeddings are not decayed unless `decay_all`."""
    decayed, free = [], []
    for name, parameter in model.named_parameters():
        is_free = parameter.ndim == 1 or "embeddings" in name
        (free if is_free and not config.decay_all else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_eps,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of all groups."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's state as `<parameter name>.<entry>`, for safetensors."""
    return {
        f"{name}.{entry}": value.detach().reshape(value.shape or (1,)).contiguous()
        for name, parameter in model.named_parameters()
        for entry, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put tensors of `optimizer_tensors` back; raises KeyError when one is missing."""
    for name, parameter in model.named_parameters():
        entries = {"step": (), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}
        optimizer.state[parameter] = {
            entry: tensors[f"{name}.{entry}"].to(parameter.device, torch.float32).reshape(shape).clone() for entry, shape in entries.items()
        }
