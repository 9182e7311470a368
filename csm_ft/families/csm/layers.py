"""CSM's layers with fewer operations than torchtune's, whose weights and names they have.

Shapes: B sequences, S positions, D width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchtune.modules import MultiHeadAttention, RMSNorm


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
            project(x).unflatten(-1, (-1, self.head_dim))
            for project in (self.q_proj, self.k_proj, self.v_proj)
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


class CastRMSNorm(RMSNorm):
    """An RMSNorm whose result has the dtype of the products that follow.

    With autocast each of them would cast it by itself, and keep its copy for the backward pass.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        normed, kind = super().forward(x), x.device.type
        is_cast = torch.is_autocast_enabled(kind)
        return normed.to(torch.get_autocast_dtype(kind)) if is_cast else normed
