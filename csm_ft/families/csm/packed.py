"""Attention over sequences that follow each other in one row, without padding.

Shapes: T positions of all sequences, n sequences, H query heads, G key/value heads, E head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from csm_ft.families.csm.size import MAX_POSITIONS


@dataclass(frozen=True)
class Packing:
    """Where the sequences of a row of T positions lie."""

    lengths: Sequence[int]  # [n]; known to the host, so that nothing waits for a GPU
    places: Tensor  # [1, T] int64, each position within its own sequence
    ends: Tensor  # [n + 1] int32, where sequences begin and the last one ends


def causal_attention(query: Tensor, key: Tensor, value: Tensor, packing: Packing) -> Tensor:
    """Attend within each sequence, to itself and all before it: [1, T, H or G, E] -> [1, T, H, E].

    Newer GPUs have a kernel for all sequences in 16 bits; elsewhere each is a call of its own.
    """
    if _has_kernel(query):
        return _by_one_kernel(query, key, value, packing)
    lengths = list(packing.lengths)
    parts = [tensor.transpose(1, 2).split(lengths, dim=2) for tensor in (query, key, value)]
    heads = [
        F.scaled_dot_product_attention(*of_one, is_causal=True, enable_gqa=True)
        for of_one in zip(*parts, strict=True)
    ]
    return torch.cat(heads, dim=2).transpose(1, 2)


def _has_kernel(query: Tensor) -> bool:
    """Tell whether torch's flash attention takes it: Ampere or newer, 16 bits, heads of 8 n."""
    if not query.is_cuda or query.dtype not in (torch.float16, torch.bfloat16):
        return False
    return query.shape[-1] % 8 == 0 and torch.cuda.get_device_capability(query.device) >= (8, 0)


def _by_one_kernel(query: Tensor, key: Tensor, value: Tensor, packing: Packing) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    attended = varlen_attn(
        query[0],
        key[0],
        value[0],
        packing.ends,
        packing.ends,
        MAX_POSITIONS,
        MAX_POSITIONS,
        window_size=(-1, 0),  # to all before, and none behind
        enable_gqa=True,
    )
    assert isinstance(attended, Tensor), "nothing else is asked for"
    return attended.unsqueeze(0)
