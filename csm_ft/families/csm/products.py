"""Several projections of the same input as one matrix product.

Their weights stay parameters of their own, so that optimisers, checkpoints, exports and shards know
nothing of it: only their memory is laid side by side, and read as one tensor. Where it is not
(adapters, shards of FSDP), each projection is a product by itself.

Shapes: D width of the input, O_i width of projection i, O the sum of them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Unused values between rows. Where their width is a power of two, the product of a transposed
# matrix reads columns from the same few lines of the cache, and takes a seventh longer.
_APART = 16


def lay_side_by_side(linears: Sequence[nn.Linear]) -> None:
    """Move the weights [O_i, D] into one block of memory; they stay the same parameters."""
    weights = [linear.weight for linear in linears]
    is_sharded = any(hasattr(weight, "device_mesh") for weight in weights)
    if is_sharded or not _are_plain(linears) or side_by_side(weights, 0) is not None:
        return
    rows = [len(weight) for weight in weights]
    block = torch.cat([weight.data for weight in weights])
    for weight, part in zip(weights, block.split(rows), strict=True):
        weight.data = part


def side_by_side(parts: Sequence[Tensor], dim: int) -> Tensor | None:
    """Return tensors as one, joined along `dim`, without a copy; None if their memory does not."""
    first, length, end = parts[0], 0, parts[0].storage_offset()
    storage, strides = first.untyped_storage()._cdata, first.stride()
    for part in parts:
        is_next = part.storage_offset() == end and part.stride() == strides
        if not is_next or part.untyped_storage()._cdata != storage or part.dtype != first.dtype:
            return None
        length += part.shape[dim]
        end += part.shape[dim] * strides[dim]
    shape = list(first.shape)
    shape[dim] = length
    return first.as_strided(shape, strides)


def project(inputs: Tensor, linears: Sequence[nn.Linear]) -> Sequence[Tensor]:
    """Return all projections of [..., D], [..., O_i] each."""
    if torch.compiler.is_compiling():  # where memory lies is no part of a graph
        return [linear(inputs) for linear in linears]
    weights = [linear.weight for linear in linears] if _are_plain(linears) else []
    if not weights or side_by_side(weights, 0) is None:
        return [linear(inputs) for linear in linears]
    projected: Any = _Product.apply(inputs, *weights)
    return projected


def projection(
    linears: Sequence[nn.Linear], dtype: torch.dtype, *, is_wide: bool = False
) -> Callable[[Tensor], Tensor]:
    """Return the function [B, S, D] -> [B, S, O] of all projections, for passes without gradients.

    Its inputs, and the copy that it keeps of weights of another type, are of `dtype`. The result
    of wide projections, O several times D, lies in memory by columns: W x' instead of x W', which
    takes MKL a third less time for eight rows, and as much for one.
    """
    weights = [linear.weight for linear in linears] if _are_plain(linears) else []
    whole = side_by_side(weights, 0) if weights else None
    if whole is None and len(linears) == 1:
        return linears[0]
    if whole is None:
        return lambda inputs: torch.cat([linear(inputs) for linear in linears], dim=-1)
    whole = whole.detach().to(dtype)
    if not is_wide:
        return lambda inputs: F.linear(inputs, whole)
    return lambda inputs: (whole @ inputs.flatten(0, 1).t()).t().unflatten(0, inputs.shape[:2])


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """SwiGLU: silu(gate) * up, which keeps these two alone for the backward pass."""
    if torch.compiler.is_compiling():
        return F.silu(gate) * up
    product: Any = _Gated.apply(gate, up)
    return product


class _Product(torch.autograd.Function):
    """x, w_1, ..., w_n -> x w_1', ..., x w_n' by one product, and two in the backward pass."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        whole, kind = side_by_side(weights, 0), inputs.device.type
        assert whole is not None, "weights that lie side by side"
        ctx.rows, ctx.dtype = [len(weight) for weight in weights], whole.dtype
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
            inputs, whole = inputs.to(dtype), whole.to(dtype)
        ctx.save_for_backward(inputs, whole)
        return F.linear(inputs, whole).split(ctx.rows, dim=-1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inputs, whole = ctx.saved_tensors
        grad = side_by_side(grads, -1)
        grad = torch.cat(grads, dim=-1) if grad is None else grad
        grad = grad.flatten(0, -2)
        of_inputs, of_weights = None, [None] * len(ctx.rows)
        if ctx.needs_input_grad[0]:
            of_inputs = (grad @ whole).view_as(inputs)
        if any(ctx.needs_input_grad[1:]):
            of_whole = (grad.t() @ inputs.flatten(0, -2)).to(ctx.dtype)
            parts = zip(of_whole.split(ctx.rows), ctx.needs_input_grad[1:], strict=True)
            of_weights = [part if is_needed else None for part, is_needed in parts]
        return of_inputs, *of_weights


class _Gated(torch.autograd.Function):
    """`gated`, whose gradients lie side by side, so that _Product takes them as they are."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        (grad,), (gate, up) = grads, ctx.saved_tensors
        both = grad.new_empty(*gate.shape[:-1], 2 * gate.shape[-1] + _APART)
        of_gate, of_up = both[..., :-_APART].chunk(2, dim=-1)
        torch.mul(grad, F.silu(gate), out=of_up)
        torch.ops.aten.silu_backward(grad * up, gate, grad_input=of_gate)
        return of_gate, of_up


def _are_plain(linears: Sequence[nn.Module]) -> bool:
    return all(type(linear) is nn.Linear for linear in linears)
