"""The validation loss: targets of the validation examples, in fixed order and one precision.

A run validates on the share of targets that its family scores (Family.scored_share): the same ones
in every validation of every trial, whatever the batches or ranks, so that trials and steps are
compared on equal terms. A sum over them is a Horvitz-Thompson estimate of that over all targets:
each is weighted by 1 / its chance of being drawn, and divided by the true number of targets, so the
loss is unbiased, and `val_loss_se` is its standard error. With `all_targets` nothing is estimated.

Only weights in bf16 are measured in bf16 whatever val_dtype is. No other option that a sweep can
search affects how it is computed.

Shapes: n examples, p parts of the loss, t terms.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from csm_ft.config.train import TrainConfig
from csm_ft.data.batches import evaluation_batches, prefetch
from csm_ft.data.examples import Examples
from csm_ft.device import autocast, choose_dtype
from csm_ft.evaluate.metrics import ERROR, canary_name
from csm_ft.families.base import Family, Yardstick, parts_of, weighted_loss
from csm_ft.families.model import Batch, Loss, SpeechModel
from csm_ft.ranks import ALONE, Ranks

# Not options: validation batches are the same for every trial. Where few targets are scored, they
# need less memory.
BUDGET_TOKENS, SHARE_BUDGET_TOKENS = 2048, 4096


@dataclass(frozen=True)
class Validation:
    """The result of a validation."""

    # val_loss, val_<part> (nats per target), and the family's own; val_loss_se of an estimate.
    metrics: dict[str, float]
    clips: dict[str, tuple[float, float]]  # id of the example -> (nats, targets)

    @property
    def loss(self) -> float:
        """The validation loss; it equals the sum of nats / the sum of targets over `clips`."""
        return self.metrics["val_loss"]

    @property
    def in_words(self) -> str:
        """The loss, with the standard error of an estimate."""
        error = f" ± {self.metrics[ERROR]:.4f}" if ERROR in self.metrics else ""
        return f"{self.loss:.4f}{error}"


def validate(
    model: SpeechModel,
    family: Family,
    examples: Examples,
    config: TrainConfig,
    ranks: Ranks = ALONE,
    *,
    all_targets: bool = False,
) -> Validation:
    """Measure a model on all `examples`, shared by the ranks; restores the model's mode."""
    device = next(model.parameters()).device
    is_share = family.scored_share(examples, config) < 1 and not all_targets
    parts = parts_of(family.yardstick.terms)
    batches = evaluation_batches(examples.costs, SHARE_BUDGET_TOKENS if is_share else BUDGET_TOKENS)
    order = [index for batch in batches for index in batch]
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))

    def collate(indices: Sequence[int]) -> Batch:
        if is_share:
            return family.collate_scored(examples, indices, config)
        return family.collate(examples, indices, config, draw=None)

    own = ranks.share(batches)
    rows, counts, sums = list[NDArray[np.int64]](), list[Tensor](), list[Tensor]()
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for (indices, is_own), batch in prefetch(lambda item: collate(item[0]), own):
            with autocast(device.type, _dtype(config, device)):
                loss = model(batch.to(device))
            if is_own:
                rows.append(places[indices])
                counts.append(torch.stack([batch.counts[part] for part in parts], 1))
                sums.append(_columns(loss, parts))
        # [n, 2 p] and [n, p]; every rank fills in the rows of its batches. All results are read at
        # once: within the loop nothing waits for the device.
        nats, targets = np.zeros((len(order), 2 * len(parts))), np.zeros((len(order), len(parts)))
        if rows:
            nats[np.concatenate(rows)] = torch.cat(sums).cpu().numpy()
            targets[np.concatenate(rows)] = torch.cat(counts).numpy()
        with ranks.gathered(model):
            scores = ranks.tell(lambda: family.score(model, examples, config))
    model.train(was_training)
    ids = [examples.id(index) for index in order]
    nats, targets = ranks.sum(nats), ranks.sum(targets)
    result = summarise(family.yardstick, ids, nats[:, : len(parts)], targets, scores)
    if is_share:
        variances = nats[:, len(parts) :].sum(0)
        result.metrics[ERROR] = standard_error(family.yardstick, variances, targets.sum(0))
    return result


def _dtype(config: TrainConfig, device: torch.device) -> str:
    dtype = choose_dtype(config.val_dtype, str(device))
    is_bf16 = config.dtype == "bf16_pure" and dtype == "fp32"  # as the weights
    return "bf16" if is_bf16 else dtype


def _columns(loss: Loss, parts: Sequence[str]) -> Tensor:
    """Return the nats and the variances of all parts, [B, 2 p] float64; none are variances of 0."""
    variances = [loss.get(f"{part}_variance", torch.zeros_like(loss[part])) for part in parts]
    return torch.stack([*(loss[part] for part in parts), *variances], 1).double()


def validate_canary(
    model: SpeechModel,
    family: Family,
    examples: Examples,
    config: TrainConfig,
    ranks: Ranks = ALONE,
    *,
    all_targets: bool = False,
) -> dict[str, float]:
    """Measure a model on another set; its metrics, under names of their own."""
    found = validate(model, family, examples, config, ranks, all_targets=all_targets).metrics
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


def standard_error(
    yardstick: Yardstick, variances: NDArray[np.float64], counts: NDArray[np.float64]
) -> float:
    """Return the standard error of the loss from the variances and targets of all parts, [p] each.

    Parts of one term may have been drawn together, so that their errors add up: an upper bound.
    """
    columns = {part: column for column, part in enumerate(parts_of(yardstick.terms))}
    variance = 0.0
    for term in yardstick.terms:
        errors = [w * math.sqrt(variances[columns[part]]) for part, w in term.parts.items()]
        targets = sum(w * counts[columns[part]] for part, w in term.parts.items())
        variance += (term.weight * sum(errors) / (targets or 1.0)) ** 2
    return math.sqrt(variance)
