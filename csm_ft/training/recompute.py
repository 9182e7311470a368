"""Activation checkpointing: blocks forget what their backward pass needs, and compute it again.

It changes no bit of loss or gradient on a CPU: the same operations run again on the same inputs,
with the same dropout.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from csm_ft.config.train import TrainConfig
from csm_ft.families.model import SpeechModel

_ATEN = torch.ops.aten
# What takes long to compute again: matrix products and attention.
_KEPT = {
    _ATEN.mm.default,
    _ATEN.addmm.default,
    _ATEN.bmm.default,
    _ATEN._scaled_dot_product_flash_attention.default,
    _ATEN._scaled_dot_product_flash_attention_for_cpu.default,
    _ATEN._scaled_dot_product_efficient_attention.default,
    _ATEN._scaled_dot_product_cudnn_attention.default,
}


def checkpoint_activations(model: SpeechModel, config: TrainConfig) -> None:
    """Let each block of the model keep only its inputs (full), or also its products (selective).

    It is for the backward pass alone: without gradients nothing changes.
    """
    if config.activation_checkpointing == "off":
        return
    contexts: dict[str, Any] = {}
    if config.activation_checkpointing == "selective":
        contexts["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)
    for module in model.modules():
        if isinstance(module, model.block_classes):
            module.forward = _recomputed(module.forward, contexts)


def _recomputed(forward: Callable[..., Any], contexts: dict[str, Any]) -> Callable[..., Any]:
    def forward_again(*inputs: Any, **options: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs, **options)
        return checkpoint(forward, *inputs, use_reentrant=False, **contexts, **options)

    return forward_again


def _policy(_context: Any, operation: Any, *_inputs: Any, **_options: Any) -> CheckpointPolicy:
    is_kept = operation in _KEPT
    return CheckpointPolicy.MUST_SAVE if is_kept else CheckpointPolicy.PREFER_RECOMPUTE
