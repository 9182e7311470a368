"""The yardstick: every frame of the validation examples, fixed order, fp32, no swept parameter."""

from dataclasses import dataclass

import numpy as np
import torch

from csm_ft.config import TrainConfig
from csm_ft.data.batches import evaluation_batches
from csm_ft.data.examples import Examples
from csm_ft.families.base import Family, Loss, SpeechModel, Tally

BUDGET_TOKENS = 2048  # not an option: the batches of the yardstick are the same for every trial


@dataclass(frozen=True)
class Evaluation:
    """Result of one validation, in nats."""

    val_loss: float  # weighted sum of the parts' means
    parts: dict[str, float]  # mean per target
    clips: dict[
        str, tuple[float, int]
    ]  # id of the example -> (nats, frames); sum of nats / sum of frames = val_loss


def evaluate(
    model: SpeechModel, family: Family, examples: Examples, config: TrainConfig
) -> Evaluation:
    """Measure the model on all `examples`; the model's mode is left as found."""
    device = next(model.parameters()).device
    weights = family.yardstick_weights()
    tally, nats, counts, ids = Tally(), [], [], []
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for indices in evaluation_batches(examples.costs, BUDGET_TOKENS):
            batch = family.collate(examples, indices, config, draw=None)
            loss: Loss = model(batch.to(device))
            nats.append(np.stack([loss[part].double().cpu().numpy() for part in weights], axis=1))
            counts.append(np.stack([batch.counts[part].numpy() for part in weights], axis=1))
            ids += [examples.id(i) for i in indices]
    model.train(was_training)
    all_nats, all_counts = np.concatenate(nats), np.concatenate(counts)  # [clips, parts]
    for column, part in enumerate(weights):
        tally.add(part, float(all_nats[:, column].sum()), int(all_counts[:, column].sum()))
    parts = tally.means()
    # An example's share: each part's nats, rescaled from its own targets to frames (the targets of
    # the first part).
    totals = all_counts.sum(axis=0)
    share = (all_nats * np.array(list(weights.values())) * totals[0] / totals).sum(axis=1)
    clips = {
        id_: (float(n), int(c)) for id_, n, c in zip(ids, share, all_counts[:, 0], strict=True)
    }
    return Evaluation(sum(weights[p] * parts[p] for p in weights), parts, clips)
