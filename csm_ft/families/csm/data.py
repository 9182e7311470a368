"""From the token store to a CSM micro-batch: text frames, audio frames, one EOS frame per clip; right padding.

Shapes: B sequences, S padded positions, N audio frames incl. EOS frames, M frames drawn for the depth decoder, K codebooks, L text tokens.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from csm_ft.families.base import Batch, Draw, Split


@dataclass
class CsmBatch(Batch):
    """Positions are flat, sequence * S + position, and unique."""

    num_sequences: int  # B
    max_positions: int  # S
    text_tokens: Tensor  # [L] int64
    text_positions: Tensor  # [L] int64
    codes: Tensor  # [N, K] int64, EOS frames are all zero
    frame_positions: Tensor  # [N] int64
    frame_sequence: Tensor  # [N] int64, 0..B-1
    depth_rows: Tensor  # [M] int64, rows of codes that train the depth decoder
    depth_weights: Tensor  # [M] fp32; their expected sum is N


def costs(split: Split) -> NDArray[np.int64]:
    """Positions of each clip: text tokens + frames + EOS frame."""
    return split.num_text_tokens + split.num_frames + 1


def collate(split: Split, indices: Sequence[int], *, depth_fraction: float, draw: Draw | None) -> CsmBatch:
    """Make the micro-batch of `indices`; draw=None gives every frame to the depth decoder with weight 1."""
    lengths = costs(split)[np.asarray(indices)]
    width = int(lengths.max())
    text, text_at, codes, codes_at, owner, rows, weights = [], [], [], [], [], [], []
    num_rows = 0
    for sequence, index in enumerate(indices):
        tokens, frames = split.text_tokens(index), split.codes(index)
        start, end = sequence * width, sequence * width + len(tokens)
        text.append(tokens)
        text_at.append(np.arange(start, end))
        codes.append(np.concatenate([frames, np.zeros_like(frames[:1])]))
        codes_at.append(np.arange(end, end + len(frames) + 1))
        owner.append(np.full(len(frames) + 1, sequence))
        drawn, weight = depth_draw(len(frames), depth_fraction, draw, split.ids[index])
        rows.append(drawn + num_rows)
        weights.append(weight)
        num_rows += len(frames) + 1
    num_codebooks = codes[0].shape[1]
    targets = torch.tensor([len(c) for c in codes])
    return CsmBatch(
        counts={"c0": targets, "depth": targets * (num_codebooks - 1)},
        num_positions=int(lengths.sum()),
        num_padded=len(indices) * width,
        num_sequences=len(indices),
        max_positions=width,
        text_tokens=_int64(text),
        text_positions=_int64(text_at),
        codes=_int64(codes),
        frame_positions=_int64(codes_at),
        frame_sequence=_int64(owner),
        depth_rows=_int64(rows),
        depth_weights=torch.from_numpy(np.concatenate(weights).astype(np.float32)),
    )


def depth_draw(num_frames: int, fraction: float, draw: Draw | None, clip_id: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Choose the frames of one clip that train the depth decoder; return their rows (the EOS frame is row `num_frames`) and weights.

    Of n frames m = min(n, max(1, round(fraction * n))) are drawn without replacement and weighted n/m, so the weighted sum is an
    unbiased estimate of the sum over all frames; the EOS frame is always there with weight 1. The generator is keyed by
    (seed, epoch, clip), not streamed, so micro-batch, worker and order do not matter.
    """
    if draw is None:
        return np.arange(num_frames + 1), np.ones(num_frames + 1)
    num_drawn = min(num_frames, max(1, round(fraction * num_frames)))
    key = hashlib.blake2b(f"{draw.seed}/{draw.epoch}/{clip_id}".encode(), digest_size=16).digest()
    generator = np.random.Generator(np.random.Philox(key=np.frombuffer(key, dtype=np.uint64)))
    drawn = np.sort(generator.choice(num_frames, num_drawn, replace=False))
    return np.append(drawn, num_frames), np.append(np.full(num_drawn, num_frames / max(1, num_drawn)), 1.0)


def _int64(arrays: Sequence[NDArray[np.generic]]) -> Tensor:
    return torch.from_numpy(np.concatenate(arrays).astype(np.int64))
