"""The layers of Llama 3 with few operations, under the tensor names of torchtune's.

Shapes: B sequences, S positions, D width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from csm_ft.families.csm.packed import Packing, causal_attention
from csm_ft.families.csm.products import gated, lay_side_by_side, project
from csm_ft.families.csm.rope import ComplexRoPE
from csm_ft.families.csm.size import MAX_POSITIONS, TransformerSize

ROPE_BASE, ROPE_SCALE = 500_000, 32
NORM_EPS = 1e-5


class Transformer(nn.Module):
    """A Llama 3 with the constants of Sesame's code, without embedding and head."""

    def __init__(self, size: TransformerSize) -> None:
        super().__init__()
        rope = ComplexRoPE(size.dim // size.heads, MAX_POSITIONS, ROPE_BASE, ROPE_SCALE)
        self.layers = nn.ModuleList(Layer(size, rope) for _ in range(size.layers))
        self.norm = RMSNorm(size.dim, NORM_EPS)

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        input_pos: Tensor | None = None,
        packing: Packing | None = None,
    ) -> Tensor:
        """[B, S, D] -> fp32 [B, S, D].

        `mask` [B, S, S] tells who attends to whom, by default each to itself and all before it;
        `input_pos` [B, S] are the positions, by default 0, 1, 2, ... In place of both, `packing`
        tells which sequences follow each other in a row, with B = 1.
        """
        if packing is not None:
            input_pos = packing.places
        for layer in self.layers:
            x = layer(x, mask=mask, input_pos=input_pos, packing=packing)
        return self.norm(x).float()


class Layer(nn.Module):
    """Attention and feed-forward, each behind a norm and added to its input."""

    def __init__(self, size: TransformerSize, rope: ComplexRoPE) -> None:
        super().__init__()
        self.attn = CausalAttention(size, rope)
        self.mlp = GatedFeedForward(size.dim, size.ffn_dim)
        self.sa_norm = CastRMSNorm(size.dim, NORM_EPS)
        self.mlp_norm = CastRMSNorm(size.dim, NORM_EPS)

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None,
        input_pos: Tensor | None,
        packing: Packing | None = None,
    ) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        x = self.attn(self.sa_norm(x), mask=mask, input_pos=input_pos, packing=packing) + x
        return x + self.mlp(self.mlp_norm(x))


class CausalAttention(nn.Module):
    """Self-attention whose keys and values are not copied to all query heads."""

    def __init__(self, size: TransformerSize, rope: ComplexRoPE) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = size.heads, size.kv_heads
        self.head_dim = size.dim // size.heads
        width, kv_width = size.heads * self.head_dim, size.kv_heads * self.head_dim
        self.q_proj = nn.Linear(size.dim, width, bias=False)
        self.k_proj = nn.Linear(size.dim, kv_width, bias=False)
        self.v_proj = nn.Linear(size.dim, kv_width, bias=False)
        self.output_proj = nn.Linear(size.dim, size.dim, bias=False)
        self.pos_embeddings = rope

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        input_pos: Tensor | None = None,
        packing: Packing | None = None,
    ) -> Tensor:
        """[B, S, D] -> [B, S, D]; mask, positions and packing are those of Transformer."""
        rope = self.pos_embeddings
        query, key, value = (
            projected.unflatten(-1, (-1, self.head_dim))
            for projected in project(x, self.parallel_projections)
        )
        query, key = rope(query, input_pos=input_pos), rope(key, input_pos=input_pos)
        if packing is not None:
            return self.output_proj(causal_attention(query, key, value, packing).flatten(2))
        heads = F.scaled_dot_product_attention(
            query.transpose(1, 2),
            key.transpose(1, 2),
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


class GatedFeedForward(nn.Module):
    """SwiGLU whose first two projections are one product."""

    def __init__(self, dim: int, ffn_dim: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(dim, ffn_dim, bias=False)
        self.w2 = nn.Linear(ffn_dim, dim, bias=False)
        self.w3 = nn.Linear(dim, ffn_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        gate, up = project(x, self.parallel_projections)
        return self.w2(gated(gate, up))

    @property
    def parallel_projections(self) -> list[Any]:
        """The projections of the same input."""
        return [self.w1, self.w3]


class RMSNorm(nn.Module):
    """Root mean square normalisation, in fp32."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        if x.device.type != "cpu" or torch.compiler.is_compiling():  # torch has a kernel for it
            return F.rms_norm(x.float(), self.scale.shape, self.scale, self.eps).to(x.dtype)
        normed: Any = _RMSNorm.apply(x.float(), self.scale.float(), self.eps)
        return normed.to(x.dtype)


class CastRMSNorm(RMSNorm):
    """An RMSNorm whose result has the dtype of the products that follow.

    With autocast each of them would cast it by itself, and keep its copy for the backward pass.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        kind = x.device.type
        is_cast = torch.is_autocast_enabled(kind)
        return super().forward(x).to(torch.get_autocast_dtype(kind) if is_cast else x.dtype)


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
