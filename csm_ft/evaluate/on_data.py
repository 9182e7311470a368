"""A model on the validation clips of a token file: its loss in parts, over all and by group."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from csm_ft.config.train import TrainConfig
from csm_ft.data.batches import evaluation_batches
from csm_ft.data.examples import Examples
from csm_ft.evaluate.validation import BUDGET_TOKENS
from csm_ft.families.base import Family
from csm_ft.families.encoder import Encoder
from csm_ft.families.model import SpeechModel

MAX_GROUPS = 60  # of one kind; more are no groups to look at
_NUM_LENGTHS = 4

Measures = dict[str, float]
ByGroup = dict[str, dict[str, Measures]]  # kind -> group -> measures


def measure_on_data(
    model: SpeechModel, family: Family, examples: Examples, encoder: Encoder, config: TrainConfig
) -> tuple[Measures, ByGroup]:
    """Return the measures over all examples, and by speaker, emotion, source and length."""
    device = next(model.parameters()).device
    sums: dict[str, list[np.ndarray]] = {}
    order: list[int] = []
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for indices in evaluation_batches(examples.costs, BUDGET_TOKENS):
            batch = family.collate(examples, indices, config, draw=None)
            for name, pair in family.measure_batch(model, batch.to(device)).items():
                sums.setdefault(name, []).append(np.stack([part.numpy() for part in pair]))
            order += list(indices)
        each = family.score_each(model, examples, encoder, config)
    model.train(was_training)
    table = {name: np.concatenate(parts, axis=1) for name, parts in sums.items()}  # [2, n]
    table |= {name: pair[:, order] for name, pair in each.items()}
    if not table:
        return {}, {}
    groups = {kind: label(examples, order) for kind, label in _KINDS.items()}
    return _means(table, slice(None)), {
        kind: {
            group: _means(table, [place for place, own in enumerate(labels) if own == group])
            for group in sorted(set(labels) - {""})
        }
        for kind, labels in groups.items()
        if 1 < len(set(labels) - {""}) <= MAX_GROUPS
    }


def _means(table: Mapping[str, np.ndarray], places: Sequence[int] | slice) -> Measures:
    """Return sums / counts over some examples; a measure without a target is left out."""
    totals = {name: values[:, places].sum(axis=1) for name, values in table.items()}
    return {name: float(total[0] / total[1]) for name, total in totals.items() if total[1]}


def _clip_of(examples: Examples, index: int) -> int:
    """Return the clip of an example's last target: whose speaker and tags it is counted under."""
    return [piece.row for piece in examples.of(index) if piece.is_target][-1]


def _speakers(examples: Examples, order: Sequence[int]) -> list[str]:
    return [examples.split.speaker(_clip_of(examples, index)) for index in order]


def _tagged(column: str) -> Callable[[Examples, Sequence[int]], list[str]]:
    def labels(examples: Examples, order: Sequence[int]) -> list[str]:
        return [examples.split.tags(_clip_of(examples, i)).get(column, "") for i in order]

    return labels


def _lengths(examples: Examples, order: Sequence[int]) -> list[str]:
    """Label each example by the quarter that its clip's length lies in: `1.2-3.4 s`."""
    seconds = examples.split.durations_sec[[_clip_of(examples, index) for index in order]]
    edges = np.quantile(seconds, np.linspace(0, 1, _NUM_LENGTHS + 1))
    places = np.clip(np.searchsorted(edges, seconds, side="right") - 1, 0, _NUM_LENGTHS - 1)
    return [f"{edges[place]:05.2f}-{edges[place + 1]:05.2f} s" for place in places.tolist()]


_KINDS: Mapping[str, Callable[[Examples, Sequence[int]], list[str]]] = {
    "speaker": _speakers,
    "emotion": _tagged("emotion"),
    "source": _tagged("source"),
    "length": _lengths,
}
