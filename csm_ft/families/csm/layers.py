"""CSM's layers with fewer operations than torchtune's, whose weights and names they have.

Shapes: B sequences, S positions, D width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchtune.modules import FeedForward, MultiHeadAttention, RMSNorm

from csm_ft.families.csm.products import gated, lay_side_by_side, project


class CausalAttention(MultiHeadAttention):
    """Self-attention whose keys and values are not copied to all query heads."""

    def forward(
        self,
        x: Tensor,
        y: Tensor | None = None,
        *,
        mask: Any = None,
        input_pos: Tensor | None = None,
    ) -> Tensor:
        """[B, S, D] -> [B, S, D]; `y` is `x`, as torchtune's layer calls it.

        `mask` [B, S, S] tells who attends to whom, by default each to itself and all before it.
        """
        del y
        rope: Any = self.pos_embeddings
        query, key, value = (
            projected.unflatten(-1, (-1, self.head_dim))
            for projected in project(x, self.parallel_projections)
        )
        heads = F.scaled_dot_product_attention(
            rope(query, input_pos=input_pos).transpose(1, 2),
            rope(key, input_pos=input_pos).transpose(1, 2),
            value.transpose(1, 2),
            attn_mask=None if mask is None else mask[:, None],
            is_causal=mask is None,
            enable_gqa=True,
        )
        return self.output_proj(heads.transpose(1, 2).flatten(2))

    @property
    def parallel_projections(self) -> list[Any]:
        """The projections of the same input."""
        return [self.q_proj, self.k_proj, self.v_proj]


class GatedFeedForward(FeedForward):
    """SwiGLU whose first two projections are one product."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        gate, up = project(x, self.parallel_projections)
        return self.w2(gated(gate, up))

    @property
    def parallel_projections(self) -> list[Any]:
        """The projections of the same input."""
        return [self.w1, self.w3]


class CastRMSNorm(RMSNorm):
    """An RMSNorm whose result has the dtype of the products that follow.

    With autocast each of them would cast it by itself, and keep its copy for the backward pass.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        kind = x.device.type
        is_cast = torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if is_cast else x.dtype
        if kind != "cpu" or torch.compiler.is_compiling():  # torch has a kernel for all of it
            return super().forward(x).to(dtype)
        normed: Any = _RMSNorm.apply(x.float(), self.scale.float(), self.eps)
        return normed.to(dtype)


class _RMSNorm(torch.autograd.Function):
    """x, scale -> x / sqrt(mean(x²) + eps) * scale, with half the passes over memory of autograd.

    Only the normed x and its factor [..., 1] are kept for the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, eps: float) -> Tensor:
        squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
        factor = squares.div_(x.shape[-1]).add_(eps).rsqrt_()
        normed = x * factor
        ctx.save_for_backward(normed, factor, scale)
        return normed * scale

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None]:
        (grad,), (normed, factor, scale) = grads, ctx.saved_tensors
        product = grad * normed
        of_scale = product.flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        along = (product @ scale).div_(-scale.numel()).unsqueeze(-1)  # x grows, and its norm
        of_x = torch.mul(grad, scale, out=product).addcmul_(normed, along).mul_(factor)
        return of_x, of_scale, None


def join_projections(model: nn.Module) -> None:
    """Lay the weights of projections of the same input side by side in memory."""
    for module in model.modules():
        if isinstance(module, CausalAttention | GatedFeedForward):
            lay_side_by_side(module.parallel_projections)
