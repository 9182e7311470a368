"""What the validation loss is made of: nats and accuracy per codebook, and of the EOS frames.

Shapes as in model.py.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from csm_ft.families.csm.data import CsmBatch
from csm_ft.families.csm.model import CsmModel


def measure_batch(model: CsmModel, batch: CsmBatch) -> Mapping[str, tuple[Tensor, Tensor]]:
    """Return (sums, counts) per sequence, [B] each, of every measure, over the target frames.

    `batch` is one of evaluation: all target frames go through the depth decoder, in order.
    """
    frames, drawn = model.embed_frames(batch.codes, batch.depth_rows)
    hidden = model.backbone_hidden(model.embed(batch, frames)).flatten(0, 1)
    hidden = hidden.index_select(0, batch.frame_positions - 1).index_select(0, batch.depth_rows)
    depth = model.depth_logits(hidden, drawn)  # [M, K-1, V]
    logits = torch.cat([model.codebook0_head(hidden).unsqueeze(1), depth], dim=1).float()
    targets = batch.codes.index_select(0, batch.depth_rows)  # [M, K]
    flat = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    nats = flat.view_as(targets).double()
    is_right = (logits.argmax(-1) == targets).double()
    is_eos = (targets == 0).all(dim=1).double()
    sequence = batch.frame_sequence.index_select(0, batch.depth_rows)

    def per_sequence(values: Tensor) -> Tensor:
        zeros = values.new_zeros(batch.num_sequences)
        return zeros.index_add(0, sequence, values).cpu()

    num_frames = per_sequence(torch.ones_like(is_eos))
    num_depth = num_frames * (targets.shape[1] - 1)
    measures = {
        "nats_codebook_0": (per_sequence(nats[:, 0]), num_frames),
        "accuracy_codebook_0": (per_sequence(is_right[:, 0]), num_frames),
        "nats_depth": (per_sequence(nats[:, 1:].sum(1)), num_depth),
        "accuracy_depth": (per_sequence(is_right[:, 1:].sum(1)), num_depth),
        "nats_eos": (per_sequence(nats.sum(1) * is_eos), per_sequence(is_eos)),
    }
    for codebook in range(1, targets.shape[1]):
        measures[f"nats_codebook_{codebook}"] = (per_sequence(nats[:, codebook]), num_frames)
        right = per_sequence(is_right[:, codebook])
        measures[f"accuracy_codebook_{codebook}"] = (right, num_frames)
    return measures
