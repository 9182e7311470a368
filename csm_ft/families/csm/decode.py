"""Passes through one of CSM's transformers that keep keys and values: each position once.

The layers and their weights are torchtune's. Its own cache would read a value back from the device
in every layer, and expand keys and values to all query heads.

Shapes: B sequences, S new positions, T positions so far with them, D width, H heads, E width of a
head.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchtune.modules import TransformerDecoder

from csm_ft.families.csm.rope import rotate


class CachedTransformer:
    """A transformer and the keys and values of the positions that it has seen."""

    def __init__(
        self, transformer: TransformerDecoder, *, batch_size: int, capacity: int, dtype: torch.dtype
    ) -> None:
        """Make room for `capacity` positions of `batch_size` sequences."""
        self._layers: list[Any] = list(transformer.layers)
        self._norm: Any = transformer.norm
        attention = self._layers[0].attn
        self._rotations: Tensor = attention.pos_embeddings.rotations
        shape = (batch_size, attention.num_kv_heads, capacity, attention.head_dim)
        options: dict[str, Any] = {"dtype": dtype, "device": self._rotations.device}
        self._keys = [torch.zeros(shape, **options) for _ in self._layers]
        self._values = [torch.zeros(shape, **options) for _ in self._layers]
        self._length = 0

    def forget(self) -> None:
        """Begin anew."""
        self._length = 0

    def __call__(
        self, inputs: Tensor, *, positions: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """[B, S, D] -> [B, S, D] after the final norm.

        `positions` [B, S] are those of RoPE, by default the next ones. `mask` [B, 1, S, T] tells
        what each position attends to, by default itself and all before it; then several positions
        at once have to be the first ones.
        """
        start, stop = self._length, self._length + inputs.shape[1]
        assert mask is not None or start == 0 or stop == start + 1, "needs a mask"
        if positions is None:
            rotations = self._rotations[None, start:stop, None]
        else:
            rotations = self._rotations[positions][:, :, None]
        hidden = inputs
        for number, layer in enumerate(self._layers):
            attended = self._attend(number, layer.sa_norm(hidden), rotations, mask)
            hidden = hidden + attended
            hidden = hidden + layer.mlp(layer.mlp_norm(hidden))
        self._length = stop
        return self._norm(hidden).float()

    def _attend(
        self, number: int, inputs: Tensor, rotations: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Let the new positions attend to all so far, in one layer."""
        attention = self._layers[number].attn
        start, stop = self._length, self._length + inputs.shape[1]
        by_head = (*inputs.shape[:2], -1, attention.head_dim)
        query = rotate(attention.q_proj(inputs).view(by_head), rotations)
        key = rotate(attention.k_proj(inputs).view(by_head), rotations)
        value = attention.v_proj(inputs).view(by_head)
        keys, values = self._keys[number], self._values[number]
        keys[:, :, start:stop] = key.transpose(1, 2)
        values[:, :, start:stop] = value.transpose(1, 2)
        attended = F.scaled_dot_product_attention(
            query.transpose(1, 2),
            keys[:, :, :stop],
            values[:, :, :stop],
            attn_mask=mask,
            is_causal=mask is None and stop > start + 1,
            enable_gqa=True,
        )
        return attention.output_proj(attended.transpose(1, 2).flatten(2))
