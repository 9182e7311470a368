"""From examples to a CSM micro-batch: per turn text frames, audio frames, one EOS frame.

Right padding.

Shapes: B sequences, S padded positions, N audio frames incl. EOS frames, M frames drawn for the
depth decoder, K codebooks, L text tokens.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from csm_ft.data.examples import Examples
from csm_ft.families.base import Batch, Draw


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
    frame_weights: Tensor  # [N] fp32, 1 for frames that are learned, 0 for those of context turns
    depth_rows: Tensor  # [M] int64, rows of codes that train the depth decoder
    depth_weights: Tensor  # [M] fp32; their expected sum is N


def collate(
    examples: Examples, indices: Sequence[int], *, depth_fraction: float, draw: Draw | None
) -> CsmBatch:
    """Make the micro-batch of `indices`.

    Draw=None gives every learned frame to the depth decoder with weight 1.
    """
    split, lengths = examples.split, examples.costs[np.asarray(indices)]
    width = int(lengths.max())
    text, text_at, codes, codes_at, owner, learned, rows, weights = [], [], [], [], [], [], [], []
    counts = np.zeros(len(indices), dtype=np.int64)
    num_rows = 0
    for sequence, index in enumerate(indices):
        start = sequence * width
        for clip, is_target in examples.turns(index):
            tokens, frames = split.text_tokens(clip), split.codes(clip)
            num_frames, end = len(frames) + 1, start + len(tokens)
            text.append(tokens)
            text_at.append(np.arange(start, end))
            codes.append(np.concatenate([frames, np.zeros_like(frames[:1])]))
            codes_at.append(np.arange(end, end + num_frames))
            owner.append(np.full(num_frames, sequence))
            learned.append(np.full(num_frames, is_target))
            if is_target:
                drawn, weight = depth_draw(len(frames), depth_fraction, draw, split.ids[clip])
                rows.append(drawn + num_rows)
                weights.append(weight)
                counts[sequence] += num_frames
            num_rows += num_frames
            start = end + num_frames
    targets = torch.from_numpy(counts)
    return CsmBatch(
        counts={"c0": targets, "depth": targets * (codes[0].shape[1] - 1)},
        num_positions=int(lengths.sum()),
        num_padded=len(indices) * width,
        num_sequences=len(indices),
        max_positions=width,
        text_tokens=_int64(text),
        text_positions=_int64(text_at),
        codes=_int64(codes),
        frame_positions=_int64(codes_at),
        frame_sequence=_int64(owner),
        frame_weights=torch.from_numpy(np.concatenate(learned).astype(np.float32)),
        depth_rows=_int64(rows),
        depth_weights=torch.from_numpy(np.concatenate(weights).astype(np.float32)),
    )


def depth_draw(
    num_frames: int, fraction: float, draw: Draw | None, clip_id: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Choose the frames of one clip that train the depth decoder.

    Return their rows (the EOS frame is row `num_frames`) and weights.

    Of n frames m = min(n, max(1, round(fraction * n))) are drawn without replacement and weighted
    n/m, so the weighted sum is an unbiased estimate of the sum over all frames; the EOS frame is
    always there with weight 1. The generator is keyed by (seed, epoch, clip), not streamed, so
    micro-batch, worker and order do not matter.
    """
    if draw is None:
        return np.arange(num_frames + 1), np.ones(num_frames + 1)
    num_drawn = min(num_frames, max(1, round(fraction * num_frames)))
    key = hashlib.blake2b(f"{draw.seed}/{draw.epoch}/{clip_id}".encode(), digest_size=16).digest()
    generator = np.random.Generator(np.random.Philox(key=np.frombuffer(key, dtype=np.uint64)))
    drawn = np.sort(generator.choice(num_frames, num_drawn, replace=False))
    return np.append(drawn, num_frames), np.append(
        np.full(num_drawn, num_frames / max(1, num_drawn)), 1.0
    )


def _int64(arrays: Sequence[NDArray[np.generic]]) -> Tensor:
    return torch.from_numpy(np.concatenate(arrays).astype(np.int64))
