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
        normed, kind = super().forward(x), x.device.type
        is_cast = torch.is_autocast_enabled(kind)
        return normed.to(torch.get_autocast_dtype(kind)) if is_cast else normed


def join_projections(model: nn.Module) -> None:
    """Lay the weights of projections of the same input side by side in memory."""
    for module in model.modules():
        if isinstance(module, CausalAttention | GatedFeedForward):
            lay_side_by_side(module.parallel_projections)
