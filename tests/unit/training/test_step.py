"""One optimiser step: however it is cut, the gradient is that of the whole."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from csm_ft.config.train import TrainConfig
from csm_ft.data.batches import Step
from csm_ft.errors import Diverged
from csm_ft.families.base import Term, parts_of, weighted_loss
from csm_ft.families.model import Batch, Loss, SpeechModel
from csm_ft.training.step import clipping, divided, optimizer_step

TERMS = [Term(1.0, {"letters": 1.0, "spaces": 0.5}), Term(2.0, {"ends": 1.0})]
CONFIG = TrainConfig(device="cpu", dtype="fp32", max_grad_norm=0)
LENGTHS = [5, 2, 7, 1, 3, 6]


@dataclass
class LetterBatch(Batch):
    values: Tensor  # [B, L]
    kinds: Tensor  # [B, L]: 0 letter, 1 space, 2 end, -1 padding


class Letters(SpeechModel):
    """Squares of how far a line is from each value, by kind of target."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.3, -0.2, 0.5]))

    def forward(self, batch: LetterBatch) -> Loss:
        error = (self.weight[batch.kinds.clamp(min=0)] * batch.values - 1) ** 2
        names = ("letters", "spaces", "ends")
        return {name: (error * (batch.kinds == kind)).sum(1) for kind, name in enumerate(names)}


def batch_of(indices: Sequence[int]) -> LetterBatch:
    width = max(LENGTHS[i] for i in indices)
    kinds = torch.full((len(indices), width), -1)
    values = torch.zeros(len(indices), width)
    for row, index in enumerate(indices):
        random = torch.Generator().manual_seed(index)
        length = LENGTHS[index]
        kinds[row, :length] = torch.randint(0, 2, (length,), generator=random)
        kinds[row, length - 1] = 2
        values[row, :length] = torch.randn(length, generator=random)
    counts = {
        name: (kinds == kind).sum(1) for kind, name in enumerate(("letters", "spaces", "ends"))
    }
    num_positions = sum(LENGTHS[i] for i in indices)
    return LetterBatch(counts, 1.5, num_positions, len(indices) * width, values, kinds)


def take(
    cut: Sequence[Sequence[int]], config: TrainConfig = CONFIG
) -> tuple[Tensor, dict[str, float]]:
    """The weights after one step of plain gradient descent, and what it summed."""
    model = Letters()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = Step(1, 0, len(LENGTHS), [list(part) for part in cut], [[0] * len(part) for part in cut])
    sums = optimizer_step(model, optimizer, step, list(map(batch_of, cut)), config, TERMS)
    return model.weight.detach(), sums


def test_a_term_of_two_parts_by_hand() -> None:
    """One divisor: spaces count half, above and below the line."""
    nats, counts = (
        {"letters": 6.0, "spaces": 4.0, "ends": 3.0},
        {"letters": 3, "spaces": 2, "ends": 6},
    )
    expected = 1.0 * (6.0 + 0.5 * 4.0) / (3 + 0.5 * 2) + 2.0 * 3.0 / 6
    assert weighted_loss(TERMS, nats, counts) == expected == 3.0
    assert parts_of(TERMS) == ["letters", "spaces", "ends"]
    apart = [Term(1.0, {"letters": 1.0}), Term(0.5, {"spaces": 1.0})]
    assert weighted_loss(apart, nats, counts) == 6 / 3 + 0.5 * 4 / 2, "each with its own divisor"
    nothing = {"letters": 0, "spaces": 0, "ends": 6}
    assert weighted_loss(TERMS, {**nats, "letters": 0.0, "spaces": 0.0}, nothing) == 1.0
    tensors = {name: torch.tensor(value, requires_grad=True) for name, value in nats.items()}
    weighted_loss(TERMS, tensors, counts).backward()
    slopes = [float(tensors[name].grad or 0.0) for name in parts_of(TERMS)]
    assert slopes == pytest.approx([1 / 4, 0.5 / 4, 2 / 6])


def test_a_step_is_that_of_the_definition() -> None:
    model, whole = Letters(), batch_of(range(len(LENGTHS)))
    loss = model(whole)
    sums = {name: nats.sum() for name, nats in loss.items()}
    counts = {name: int(whole.counts[name].sum()) for name in loss}
    total = (sums["letters"] + 0.5 * sums["spaces"]) / (counts["letters"] + 0.5 * counts["spaces"])
    (total + 2 * sums["ends"] / counts["ends"]).backward()
    assert model.weight.grad is not None
    weight, found = take([range(len(LENGTHS))])
    torch.testing.assert_close(weight, (model.weight - 0.1 * model.weight.grad).detach())
    assert {name: found[f"count_{name}"] for name in counts} == counts
    for name, value in sums.items():
        assert found[f"nats_{name}"] == pytest.approx(value.item())
    assert found["grad_norm"] == pytest.approx(model.weight.grad.norm().item())
    assert (found["positions"], found["padded"]) == (sum(LENGTHS), 7 * len(LENGTHS))
    assert (found["micro_batches"], found["audio_sec"]) == (1, 1.5)


@settings(deadline=None, max_examples=40)
@given(
    order=st.permutations(range(len(LENGTHS))),
    ends=st.sets(st.integers(1, len(LENGTHS) - 1)),
)
def test_any_cut_gives_the_same_step(order: list[int], ends: set[int]) -> None:
    edges = [0, *sorted(ends), len(order)]
    cut = [order[a:b] for a, b in pairwise(edges)]
    whole, sums = take([range(len(LENGTHS))])
    weight, cut_sums = take(cut)
    torch.testing.assert_close(weight, whole, rtol=1e-5, atol=1e-6)
    assert cut_sums["grad_norm"] == pytest.approx(sums["grad_norm"], rel=1e-5)
    assert cut_sums["micro_batches"] == len(cut)
    for part in parts_of(TERMS):
        assert cut_sums[f"nats_{part}"] == pytest.approx(sums[f"nats_{part}"], rel=1e-5)
        assert cut_sums[f"count_{part}"] == sums[f"count_{part}"]


def test_gradients_are_clipped_over_the_step() -> None:
    begin = Letters().weight.detach()
    limited, sums = take([range(3), range(3, 6)], CONFIG.replace(max_grad_norm=0.01))
    assert sums["grad_norm"] > 0.01, "it is logged as it was"
    assert float((limited - begin).norm()) == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_a_step_that_diverges_changes_nothing() -> None:
    model = Letters()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batch = batch_of([0, 1])
    batch.values[0, 4] = torch.inf
    with pytest.raises(Diverged, match=r"step 7: the loss of \w+ is not finite; .* step 6"):
        optimizer_step(model, optimizer, Step(7, 0, 2, [[0, 1]], [[0, 0]]), [batch], CONFIG, TERMS)
    assert torch.equal(model.weight, Letters().weight)


@pytest.mark.parametrize("share", [0.2, 0.999, 1.0, 1.001, 5.0])
@pytest.mark.parametrize("is_fused", [True, False])
def test_clipping_is_that_of_torch(share: float, *, is_fused: bool) -> None:
    random = torch.Generator().manual_seed(0)
    grads = [torch.randn(shape, generator=random) for shape in ((3, 4), (5,), (2, 2))]
    norm = torch.nn.utils.get_total_norm(grads).item()
    limit, scale = norm / share, 8.0
    theirs, ours = ([nn.Parameter(torch.zeros_like(grad)) for grad in grads] for _ in range(2))
    # With so large an eps, a step depends on the size of gradients.
    first, second = (torch.optim.AdamW(w, eps=1.0, fused=is_fused) for w in (theirs, ours))
    for weight, other, grad in zip(theirs, ours, grads, strict=True):
        weight.grad, other.grad = grad.clone(), scale * grad
    torch.nn.utils.clip_grad_norm_(theirs, limit, foreach=True)
    for _ in range(2):
        first.step()
        with divided(second, scale * clipping(norm, limit)):
            second.step()
        for other, grad in zip(ours, grads, strict=True):
            other.grad = scale * grad
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("is_fused", [True, False])
def test_gradients_within_the_limit_are_not_written(*, is_fused: bool) -> None:
    weight = nn.Parameter(torch.zeros(3))
    weight.grad = torch.ones(3)
    optimizer = torch.optim.AdamW([weight], fused=is_fused)
    for limit in (0.0, 2.0):
        with divided(optimizer, clipping(1.7, limit)):
            optimizer.step()
        assert torch.equal(weight.grad, torch.ones(3))
        assert weight.grad._version == 0
