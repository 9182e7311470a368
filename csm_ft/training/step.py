"""One optimiser step: micro-batches forward and backward, clipping, update."""

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import get_total_norm

from csm_ft.config.train import TrainConfig
from csm_ft.data.batches import Step
from csm_ft.device import autocast
from csm_ft.errors import NEEDS_LESS_MEMORY, Diverged, OutOfMemoryError, first_line
from csm_ft.families.base import Term, parts_of, weighted_loss
from csm_ft.families.lora import seed_dropout
from csm_ft.families.model import Batch, SpeechModel
from csm_ft.ranks import ALONE, Ranks
from csm_ft.runs.averaging import update_average
from csm_ft.runs.loss_scale import LossScale
from csm_ft.training.precision import seed_rounding

_NORM_EPS = 1e-6  # as torch adds it to a norm
_TOTALS = ("positions", "padded", "micro_batches", "audio_sec")


def optimizer_step(
    model: SpeechModel,
    optimizer: torch.optim.Optimizer,
    step: Step,
    batches: Sequence[Batch],
    config: TrainConfig,
    terms: Sequence[Term],
    ranks: Ranks = ALONE,
    scale: LossScale | None = None,
) -> dict[str, float]:
    """Take one optimiser step on this rank's micro-batches; return the sums and counts of all.

    The loss is divided by the counts of the whole step, so the split into micro-batches, and over
    ranks, never changes the gradient. Raises Diverged, before the weights are updated, for a loss
    or gradient that is not finite; a gradient that only its `scale` made so is left out.
    """
    scale = scale or LossScale()
    began = time.perf_counter()
    parts = parts_of(terms)
    # The divisors are known from collate, before any forward pass.
    counted = ranks.sum(np.array([_counts_of(batch, parts) for batch in batches]).sum(0)).tolist()
    counts = {part: int(count) for part, count in zip(parts, counted, strict=False)}
    nats = {part: torch.zeros((), device=config.device) for part in parts}
    if not model.training:  # it goes through all modules, of which adapters have thousands
        model.train()
    optimizer.zero_grad(set_to_none=True)
    for number, batch in enumerate(batches):
        if config.lora_dropout:
            seed_dropout(config.seed, step.number, number * ranks.size + ranks.rank)
        is_last = number == len(batches) - 1
        with _named_memory_errors(step.number, batch):
            with autocast(config.device, config.dtype):
                loss = ranks.forward(model, batch.to(config.device), is_last=is_last)
            sums = {part: loss[part].sum() for part in parts}
            if not batch.has_targets:
                sums = {part: 0.0 * value for part, value in sums.items()}
            total = weighted_loss(terms, sums, counts)
            # Ranks exchange the mean of their gradients, and the sum is wanted.
            factor = ranks.size * scale.value
            ranks.backward(total if factor == 1 else factor * total)
        for part in parts:
            nats[part] += sums[part].detach()
    norm = get_total_norm(_gradients(optimizer), foreach=True)
    # One transfer for all values: here, and only here, the host waits for the device.
    values = torch.stack([*nats.values(), ranks.total_norm(norm)])
    values = ranks.sum_on_device(values).tolist()
    # All ranks have the same norm.
    total_nats, grad_norm = dict(zip(parts, values[:-1], strict=True)), values[-1] / ranks.size
    grad_norm, used = grad_norm / scale.value, scale.value
    fits = scale.fits(grad_norm)
    _check_finite(step.number, total_nats, grad_norm if fits else 0.0)
    compute_sec = time.perf_counter() - began
    if fits:
        divisor = used * clipping(grad_norm, config.max_grad_norm)
        if config.dtype == "bf16_pure":
            seed_rounding(config.seed, step.number)
        with divided(optimizer, divisor), _named_memory_errors(step.number, None):
            optimizer.step()
            update_average(optimizer)
    return {
        **{f"nats_{part}": value for part, value in total_nats.items()},
        **{f"count_{part}": count for part, count in counts.items()},
        "grad_norm": grad_norm if fits else 0.0,
        **dict(zip(_TOTALS, counted[len(parts) :], strict=True)),
        "compute_sec": compute_sec,
        "update_sec": time.perf_counter() - began - compute_sec,
    }


def clipping(norm: float, limit: float) -> float:
    """Return what gradients of this norm are divided by for one of at most `limit`; 0 = any.

    It is the inverse of the factor of clip_grad_norm_, and the same on all ranks, as the norm is.
    """
    return max(1.0, (norm + _NORM_EPS) / limit) if limit else 1.0


@contextmanager
def divided(optimizer: torch.optim.Optimizer, divisor: float) -> Iterator[None]:
    """Let the optimiser's step see its gradients divided.

    Fused kernels divide what they read, as for torch's GradScaler, and others need a pass before.
    """
    gradients = _gradients(optimizer)
    if divisor == 1.0 or not gradients:
        yield
        return
    fused: Any = optimizer
    is_sharded = hasattr(gradients[0], "device_mesh")
    if is_sharded or not getattr(fused, "_step_supports_amp_scaling", False):
        torch._foreach_mul_(gradients, 1 / divisor)  # pyright: ignore[reportPrivateImportUsage]
        yield
        return
    fused.grad_scale = torch.tensor(divisor, device=gradients[0].device)
    try:
        yield
    finally:
        fused.grad_scale = None


def _gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    members = [p for group in optimizer.param_groups for p in group["params"]]
    return [p.grad for p in members if p.grad is not None]


def _counts_of(batch: Batch, parts: Sequence[str]) -> list[float]:
    """Return the targets of each part, and what _TOTALS names."""
    counts = [int(batch.counts[part].sum()) for part in parts]
    is_counted = batch.num_padded > 0
    return [*counts, batch.num_positions, batch.num_padded, is_counted, batch.audio_sec]


@contextmanager
def _named_memory_errors(step: int, batch: Batch | None) -> Iterator[None]:
    """Say which micro-batch does not fit, and what would help; None is the optimiser's state."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        num_sequences = len(next(iter(batch.counts.values()))) if batch else 0
        positions = batch.micro_batch_tokens if batch and num_sequences > 1 else 0
        what = "the optimiser's state"
        if batch:
            what = (
                f"a micro-batch of {num_sequences} x"
                f" {batch.micro_batch_tokens // num_sequences} positions"
            )
        way_out = NEEDS_LESS_MEMORY
        if positions:
            way_out = f"use --micro_batch_tokens {positions // 2}: the gradient is the same"
        raise OutOfMemoryError(
            f"step {step}: out of memory with {what} ({first_line(error)}); {way_out}", positions
        ) from error


@contextmanager
def after_each_forward(call: Callable[[], None]) -> Iterator[None]:
    """Call a function after each forward pass of any module: in steps, validations and samples.

    Those of other threads, which run something else, do not count.
    """
    own = threading.get_ident()

    def hook(*_: Any) -> None:
        if not torch.compiler.is_compiling() and threading.get_ident() == own:
            call()

    handle = register_module_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _check_finite(step: int, nats: Mapping[str, float], grad_norm: float) -> None:
    for part, value in nats.items():
        if not math.isfinite(value):
            raise Diverged(step, f"loss of {part}")
    if not math.isfinite(grad_norm):
        raise Diverged(step, "gradient norm")
