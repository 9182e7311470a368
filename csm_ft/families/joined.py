"""What families need to make one micro-batch of those of several runs."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from csm_ft.families.model import Batch


def joined_totals(batches: Sequence[Batch]) -> dict[str, Any]:
    """Return the counts, seconds and positions of all batches, as fields of one."""
    counted = {part: [batch.counts[part] for batch in batches] for part in batches[0].counts}
    return {
        "counts": {part: torch.cat(counts) for part, counts in counted.items()},
        "audio_sec": sum(batch.audio_sec for batch in batches),
        "num_positions": sum(batch.num_positions for batch in batches),
    }


def starts_of(sizes: Sequence[int]) -> list[int]:
    """Return where each of several things begins that follow each other."""
    return [0, *accumulate(sizes[:-1])]


def joined_rows(tensors: Sequence[Tensor], starts: Sequence[int]) -> Tensor:
    """Join numbers of rows, each counted from its own start."""
    pairs = zip(tensors, starts, strict=True)
    return torch.cat([rows + start if start else rows for rows, start in pairs])


def joined_places(
    tensors: Sequence[Tensor], widths: Sequence[int], num_sequences: Sequence[int]
) -> Tensor:
    """Join flat places, sequence * width + position, as of a batch of the largest width."""
    width, moved = max(widths), []
    for places, own_width in zip(tensors, widths, strict=True):
        if own_width < width:
            sequences = torch.div(places, own_width, rounding_mode="floor")
            places = places.add(sequences, alpha=width - own_width)
        moved.append(places)
    return joined_rows(moved, [start * width for start in starts_of(num_sequences)])
