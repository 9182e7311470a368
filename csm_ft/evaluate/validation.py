"""The validation loss: all targets of the validation examples, in fixed order and fp32.

Only weights in bf16 are measured in bf16. No other option that a sweep can search affects how it is
computed.

Shapes: n examples, p parts of the loss, t terms.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from csm_ft.config.train import TrainConfig
from csm_ft.data.batches import evaluation_batches
from csm_ft.data.examples import Examples
from csm_ft.device import autocast
from csm_ft.evaluate.metrics import canary_name
from csm_ft.families.base import Family, Yardstick, parts_of, weighted_loss
from csm_ft.families.model import SpeechModel
from csm_ft.ranks import ALONE, Ranks

BUDGET_TOKENS = 2048  # not an option: validation batches are the same for every trial


@dataclass(frozen=True)
class Validation:
    """The result of a validation."""

    metrics: dict[str, float]  # val_loss, val_<part> (nats per target), and the family's own
    clips: dict[str, tuple[float, float]]  # id of the example -> (nats, targets)

    @property
    def loss(self) -> float:
        """The validation loss; it equals the sum of nats / the sum of targets over `clips`."""
        return self.metrics["val_loss"]


def validate(
    model: SpeechModel,
    family: Family,
    examples: Examples,
    config: TrainConfig,
    ranks: Ranks = ALONE,
) -> Validation:
    """Measure a model on all `examples`, shared by the ranks; restores the model's mode."""
    device = next(model.parameters()).device
    dtype = "bf16" if config.dtype == "bf16_pure" else "fp32"  # that of the weights
    parts = parts_of(family.yardstick.terms)
    batches = evaluation_batches(examples.costs, BUDGET_TOKENS)
    order = [index for batch in batches for index in batch]
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    # [n, p] each; every rank fills in the rows of its batches.
    nats, counts = np.zeros((2, len(order), len(parts)))
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for indices, is_own in ranks.share(batches):
            batch = family.collate(examples, indices, config, draw=None)
            with autocast(device.type, dtype):
                loss = model(batch.to(device))
            if is_own:
                rows = places[indices]
                nats[rows] = torch.stack([loss[part].double() for part in parts], 1).cpu().numpy()
                counts[rows] = torch.stack([batch.counts[part] for part in parts], 1).numpy()
        with ranks.gathered(model):
            scores = ranks.tell(lambda: family.score(model, examples, config))
    model.train(was_training)
    ids = [examples.id(index) for index in order]
    nats, counts = ranks.sum(nats), ranks.sum(counts)
    return summarise(family.yardstick, ids, nats, counts, scores)


def validate_canary(
    model: SpeechModel,
    family: Family,
    examples: Examples,
    config: TrainConfig,
    ranks: Ranks = ALONE,
) -> dict[str, float]:
    """Measure a model on another set; its metrics, under names of their own."""
    found = validate(model, family, examples, config, ranks).metrics
    return {canary_name(name): value for name, value in found.items()}


def summarise(
    yardstick: Yardstick,
    ids: list[str],
    nats: NDArray[np.float64],
    counts: NDArray[np.float64],
    scores: Mapping[str, float],
) -> Validation:
    """Return the metrics, and each example's share of the loss, from nats and targets [n, p].

    The loss is sum_t(W_t * N_t / D_t), where N_t and D_t are the weighted sums of nats and targets
    of term t over all examples. An example's share is sum_t(W_t * n_t * D_0 / D_t), with n_t its
    part of N_t: then the sum of shares / the sum of the first term's targets is the loss, as paired
    standard errors need.
    """
    terms = yardstick.terms
    columns = {part: column for column, part in enumerate(parts_of(terms))}
    sums = {part: float(nats[:, column].sum()) for part, column in columns.items()}
    totals = {part: int(counts[:, column].sum()) for part, column in columns.items()}
    share, targets = np.zeros(len(ids)), np.zeros(len(ids))
    for place, term in enumerate(terms):
        weights = np.array([term.parts.get(part, 0.0) for part in columns])
        term_nats, term_targets = nats @ weights, counts @ weights  # [n]
        if place == 0:
            targets = term_targets
        # A term without any target in the split adds nothing to the shares.
        share += term.weight * term_nats * (targets.sum() / (term_targets.sum() or 1.0))
    metrics = {"val_loss": weighted_loss(terms, sums, totals)}
    metrics |= {f"val_{part}": sums[part] / max(1, totals[part]) for part in columns}
    clips = {
        id_: (float(own), float(count)) for id_, own, count in zip(ids, share, targets, strict=True)
    }
    return Validation({**metrics, **scores}, clips)
