"""Passes through one of CSM's transformers that keep keys and values: each position once.

Unlike torchtune's, the cache reads no value back from the device, and keys and values are not
expanded to all query heads.

Shapes: B sequences, S new positions, T positions so far with them, C capacity, D width, H heads of
queries, G of keys and of values, E width of a head.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from csm_ft.families.csm.layers import Transformer
from csm_ft.families.csm.products import projection
from csm_ft.families.csm.rope import rotate_


class CachedTransformer:
    """A transformer and the keys and values of the positions that it has seen."""

    def __init__(
        self, transformer: Transformer, *, batch_size: int, capacity: int, dtype: torch.dtype
    ) -> None:
        """Make room for `capacity` positions of `batch_size` sequences."""
        layers: list[Any] = list(transformer.layers)
        attention = layers[0].attn
        self._rotations: Tensor = attention.pos_embeddings.rotations
        shape = (batch_size, 2 * attention.num_kv_heads, capacity, attention.head_dim)
        options: dict[str, Any] = {"dtype": dtype, "device": self._rotations.device}
        self._layers = [_CachedLayer(layer, torch.zeros(shape, **options)) for layer in layers]
        self._norm = _norm(transformer.norm)
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
        for layer in self._layers:
            hidden = layer(hidden, start, rotations, mask)
        self._length = stop
        return self._norm(hidden).float()


class _CachedLayer:
    """A layer, and its keys and values: [B, 2G, C, E], first the keys."""

    def __init__(self, layer: Any, cache: Tensor) -> None:
        attention, mlp, dtype = layer.attn, layer.mlp, cache.dtype
        self._cache, self._width = cache, attention.head_dim
        self._num_queries, self._num_keys = attention.num_heads, attention.num_kv_heads
        self._project = projection(attention.parallel_projections, dtype)
        self._gate_and_up = projection(mlp.parallel_projections, dtype, is_wide=True)
        self._add_output = _adder(attention.output_proj, dtype)
        self._add_down = _adder(mlp.w2, dtype)
        self._attention_norm, self._mlp_norm = _norm(layer.sa_norm), _norm(layer.mlp_norm)

    def __call__(
        self, hidden: Tensor, start: int, rotations: Tensor, mask: Tensor | None
    ) -> Tensor:
        """[B, S, D] -> [B, S, D], where the new positions begin at `start`."""
        attended = self._attend(self._attention_norm(hidden), start, rotations, mask)
        hidden = self._add_output(hidden, attended)
        gate, up = self._gate_and_up(self._mlp_norm(hidden)).chunk(2, dim=-1)
        return self._add_down(hidden, F.silu(gate).mul_(up))

    def _attend(self, inputs: Tensor, start: int, rotations: Tensor, mask: Tensor | None) -> Tensor:
        """Let the new positions attend to all so far."""
        stop, num_queries, num_keys = start + inputs.shape[1], self._num_queries, self._num_keys
        heads = self._project(inputs).unflatten(-1, (-1, self._width))  # [B, S, H + 2G, E]
        rotate_(heads[:, :, : num_queries + num_keys], rotations)
        heads = heads.transpose(1, 2)
        self._cache[:, :, start:stop] = heads[:, num_queries:]
        keys, values = self._cache[:, :, :stop].chunk(2, dim=1)
        attended = F.scaled_dot_product_attention(
            heads[:, :num_queries],
            keys,
            values,
            attn_mask=mask,
            is_causal=mask is None and stop > start + 1,
            enable_gqa=True,
        )
        return attended.transpose(1, 2).flatten(2)


def _adder(linear: Any, dtype: torch.dtype) -> Callable[[Tensor, Tensor], Tensor]:
    """Return hidden, inputs -> hidden + linear(inputs): one operation if no precision is lost."""
    if type(linear) is not nn.Linear:
        return lambda hidden, inputs: hidden + linear(inputs)
    weight = linear.weight.detach().to(dtype)
    if torch.is_autocast_enabled(weight.device.type):  # one operation would round `hidden`, too
        return lambda hidden, inputs: hidden + F.linear(inputs, weight)

    def add(hidden: Tensor, inputs: Tensor) -> Tensor:
        rows = torch.addmm(hidden.flatten(0, 1), inputs.flatten(0, 1), weight.t())
        return rows.view_as(hidden)

    return add


def _norm(norm: Any) -> Callable[[Tensor], Tensor]:
    """Return an RMS norm of four operations where torch's own takes six: not on a GPU."""
    scale = norm.scale
    kind = scale.device.type
    if kind != "cpu" or torch.is_autocast_enabled(kind):
        return norm
    # x / sqrt(mean(x^2) + eps) = x sqrt(D) / sqrt(|x|^2 + D eps)
    scale = scale.detach() * math.sqrt(len(scale))
    floor = torch.tensor(math.sqrt(len(scale) * norm.eps))

    def normed(hidden: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True)
        return (hidden / torch.hypot(length, floor)).mul_(scale)

    return normed
