"""From examples to a CSM micro-batch: per turn text, audio frames, one EOS frame; right padding.

Shapes: B sequences, S padded positions, N audio frames incl. EOS frames, M frames drawn for the
depth decoder, K codebooks, L text tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from csm_ft.data.examples import Examples
from csm_ft.data.split import Split
from csm_ft.families.base import Draw
from csm_ft.families.csm.packed import Packing
from csm_ft.families.drawn import keyed_generator, num_drawn
from csm_ft.families.joined import joined_places, joined_rows, joined_totals, starts_of
from csm_ft.families.model import Batch, JoinedBatch

_LEAST_SCORED = 2  # frames of a clip, where validation draws some: an error needs two


@dataclass
class CsmBatch(Batch):
    """Positions are flat, sequence * S + position, and unique.

    Packed sequences follow each other without padding, and S is the length of all of them.
    """

    num_sequences: int  # B
    max_positions: int  # S
    text_tokens: Tensor  # [L] int64
    text_positions: Tensor  # [L] int64
    codes: Tensor  # [N, K] int64, EOS frames are all zero
    frame_positions: Tensor  # [N] int64
    frame_sequence: Tensor  # [N] int64, 0..B-1
    frame_weights: Tensor  # [N] fp32, 1 for target frames, 0 for those of context turns
    depth_rows: Tensor  # [M] int64, rows of codes that train the depth decoder
    depth_weights: Tensor  # [M] fp32; their expected sum is the number of target frames
    lengths: tuple[int, ...] = ()  # [B], of packed sequences; () = padded
    places: Tensor | None = None  # of packed sequences, as Packing has them
    ends: Tensor | None = None

    @property
    def num_rows(self) -> int:
        """The rows of the layout: one for each sequence, or for all that are packed."""
        return 1 if self.lengths else self.num_sequences

    @property
    def micro_batch_tokens(self) -> int:
        """The positions that the option micro_batch_tokens counts: with padding."""
        return len(self.lengths) * max(self.lengths) if self.lengths else self.num_padded

    @property
    def packing(self) -> Packing | None:
        """Where packed sequences lie."""
        if self.places is None or self.ends is None:
            return None
        return Packing(self.lengths, self.places, self.ends)


@dataclass
class _Columns:
    """The tensors of a batch, as lists of the parts that clips contribute."""

    text: list[NDArray[np.generic]] = field(default_factory=list)
    text_at: list[NDArray[np.generic]] = field(default_factory=list)
    codes: list[NDArray[np.generic]] = field(default_factory=list)
    codes_at: list[NDArray[np.generic]] = field(default_factory=list)
    sequence: list[NDArray[np.generic]] = field(default_factory=list)
    is_target: list[NDArray[np.generic]] = field(default_factory=list)
    depth_rows: list[NDArray[np.generic]] = field(default_factory=list)
    depth_weights: list[NDArray[np.generic]] = field(default_factory=list)
    num_rows: int = 0  # of codes so far
    num_positions: int = 0  # of all sequences so far

    def add(
        self,
        sequence: int,
        start: int,
        tokens: NDArray[np.generic],
        frames: NDArray[np.generic],
        *,
        is_target: bool,
    ) -> int:
        """Add a piece, its EOS frame included, from position `start`; return the next one."""
        num_frames, end = len(frames) + 1, start + len(tokens)
        self.text.append(tokens)
        self.text_at.append(np.arange(start, end))
        self.codes.append(np.concatenate([frames, np.zeros_like(frames[:1])]))
        self.codes_at.append(np.arange(end, end + num_frames))
        self.sequence.append(np.full(num_frames, sequence))
        self.is_target.append(np.full(num_frames, is_target))
        self.num_rows += num_frames
        self.num_positions += len(tokens) + num_frames
        return end + num_frames


def text_ids(splits: Sequence[Split]) -> Tensor:
    """Return the different text tokens of all clips, with and without tags, in order, [U]."""
    found = np.zeros(0, dtype=np.int64)
    for split in splits:
        for name in {"text_tokens", "untagged_tokens"} & split.kinds.keys():
            for _, tokens in split.blocks(name):
                counts = np.bincount(tokens, minlength=len(found))
                counts[: len(found)] += found
                found = counts
    return torch.from_numpy(np.flatnonzero(found))


def collate(
    examples: Examples,
    indices: Sequence[int],
    *,
    depth_fraction: float,
    tag_dropout: float = 0.0,
    val_depth_fraction: float = 1.0,
    draw: Draw | None,
    max_padding: float = 1.0,
) -> CsmBatch:
    """Make the micro-batch of `indices`, packed if more than `max_padding` of it were padding.

    draw=None is validation: no tags are dropped, and the depth decoder gets the share
    `val_depth_fraction` of the target frames, chosen by the clip alone; 1 = all, with weight 1.
    """
    split, costs = examples.split, examples.costs[np.asarray(indices)]
    width = int(costs.max())
    is_packed = 1 - costs.sum() / (len(costs) * width) > max_padding
    columns = _Columns()
    counts = np.zeros(len(indices), dtype=np.int64)
    lengths: list[int] = []
    for sequence, index in enumerate(indices):
        before = columns.num_positions
        start = before if is_packed else sequence * width
        for piece in examples.of(index):
            key = f"{draw.key(sequence)}/{split.clip_id(piece.row)}" if draw else None
            is_untagged = _drops_tags(key, tag_dropout)
            tokens = split.array("untagged_tokens" if is_untagged else "text_tokens", piece.row)
            frames = split.array("codes", piece.row)[piece.start : piece.stop]
            if piece.is_target:
                if key is not None:
                    drawn, weights = depth_draw(len(frames), depth_fraction, key)
                else:
                    drawn, weights = scored_draw(
                        len(frames), val_depth_fraction, split.clip_id(piece.row)
                    )
                columns.depth_rows.append(drawn + columns.num_rows)
                columns.depth_weights.append(weights)
                counts[sequence] += len(frames) + 1
            start = columns.add(sequence, start, tokens, frames, is_target=piece.is_target)
        lengths.append(columns.num_positions - before)
    targets = torch.from_numpy(counts)
    return CsmBatch(
        # The divisor is the true number of targets, never the sum of drawn weights.
        counts={"c0": targets, "depth": targets * (columns.codes[0].shape[1] - 1)},
        audio_sec=_target_sec(examples, indices),
        num_positions=columns.num_positions,
        num_padded=columns.num_positions if is_packed else len(indices) * width,
        num_sequences=len(indices),
        max_positions=columns.num_positions if is_packed else width,
        text_tokens=_int64(columns.text),
        text_positions=_int64(columns.text_at),
        codes=_int64(columns.codes),
        frame_positions=_int64(columns.codes_at),
        frame_sequence=_int64(columns.sequence),
        frame_weights=_float32(columns.is_target),
        depth_rows=_int64(columns.depth_rows),
        depth_weights=_float32(columns.depth_weights),
        is_estimate=draw is None and val_depth_fraction < 1,
        **(_packing(lengths) if is_packed else {}),
    )


def _packing(lengths: Sequence[int]) -> dict[str, Any]:
    """Return the fields of a batch whose sequences follow each other."""
    ends = np.cumsum([0, *lengths])
    places = np.arange(ends[-1]) - np.repeat(ends[:-1], lengths)
    return {
        "lengths": tuple(lengths),
        "places": torch.from_numpy(places).unsqueeze(0),
        "ends": torch.from_numpy(ends.astype(np.int32)),
    }


def _unpacked(batch: CsmBatch) -> CsmBatch:
    """Return the batch with padding."""
    if batch.places is None or batch.ends is None:
        return batch
    width, places, ends = max(batch.lengths), batch.places[0], batch.ends

    def padded(positions: Tensor) -> Tensor:
        sequence = torch.bucketize(positions, ends[1:], right=True)
        return sequence * width + places[positions]

    return replace(
        batch,
        num_padded=batch.num_sequences * width,
        max_positions=width,
        text_positions=padded(batch.text_positions),
        frame_positions=padded(batch.frame_positions),
        lengths=(),
        places=None,
        ends=None,
    )


def join(batches: Sequence[CsmBatch]) -> JoinedBatch:
    """Return micro-batches as one, on their device, padded to the longest sequence of all."""
    batches = [_unpacked(batch) for batch in batches]
    sequences = [batch.num_sequences for batch in batches]
    widths, width = [b.max_positions for b in batches], max(b.max_positions for b in batches)
    frames = [len(batch.codes) for batch in batches]
    whole = CsmBatch(
        **joined_totals(batches),
        num_padded=sum(sequences) * width,
        num_sequences=sum(sequences),
        max_positions=width,
        text_tokens=torch.cat([b.text_tokens for b in batches]),
        text_positions=joined_places([b.text_positions for b in batches], widths, sequences),
        codes=torch.cat([b.codes for b in batches]),
        frame_positions=joined_places([b.frame_positions for b in batches], widths, sequences),
        frame_sequence=joined_rows([b.frame_sequence for b in batches], starts_of(sequences)),
        frame_weights=torch.cat([b.frame_weights for b in batches]),
        depth_rows=joined_rows([b.depth_rows for b in batches], starts_of(frames)),
        depth_weights=torch.cat([b.depth_weights for b in batches]),
    )
    drawn = [len(batch.depth_rows) for batch in batches]
    rows = {"backbone": sequences, "decoder": drawn, "projection": drawn, "codebook0_head": frames}
    return JoinedBatch(whole, rows)


def depth_draw(
    num_frames: int, fraction: float, key: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Choose the frames of one clip that train the depth decoder; return their rows and weights.

    The EOS frame is row `num_frames`, and drawn as all others. Of n frames with it, m = max(1,
    round(fraction * n)) are drawn without replacement and weighted n/m, so the weighted sum is an
    unbiased estimate of the sum over all frames. The generator is keyed (seed/epoch/clip), not
    streamed, so micro-batch, worker and order do not matter.
    """
    return _draw(num_frames + 1, fraction, key)


def scored_draw(
    num_frames: int, fraction: float, clip: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Choose the frames of one clip that validation scores, as depth_draw; 1 = all.

    The EOS frame is always there, with weight 1. Neither the run's seed nor its step has a part in
    it: all validations of a clip are compared.
    """
    if fraction >= 1:
        return np.arange(num_frames + 1), np.ones(num_frames + 1)
    drawn, weights = _draw(num_frames, fraction, f"val/{clip}", _LEAST_SCORED)
    return np.append(drawn, num_frames), np.append(weights, 1.0)


def _draw(
    num_frames: int, fraction: float, key: str, least: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    count = num_drawn(num_frames, fraction, least)
    drawn = np.sort(keyed_generator(key).choice(num_frames, count, replace=False))
    return drawn, np.full(count, num_frames / max(1, count))


def _drops_tags(key: str | None, share: float) -> bool:
    """Draw whether a clip is read without its tags, keyed as depth_draw."""
    if key is None or not share:
        return False
    return keyed_generator(f"{key}/tags").random() < share


def _target_sec(examples: Examples, indices: Sequence[int]) -> float:
    """Return the seconds of sound of all target pieces."""
    durations_sec = examples.split.durations_sec
    total_sec = 0.0
    for index in indices:
        rows = [piece.row for piece in examples.of(index) if piece.is_target]
        total_sec += float(durations_sec[rows].sum())
    return total_sec


def _int64(arrays: Sequence[NDArray[np.generic]]) -> Tensor:
    return torch.from_numpy(np.concatenate(arrays).astype(np.int64))


def _float32(arrays: Sequence[NDArray[np.generic]]) -> Tensor:
    return torch.from_numpy(np.concatenate(arrays).astype(np.float32))
