"""Passes with kept keys and values against torchtune's own pass over all positions at once."""

import torch
from torch import Tensor

from csm_ft.device import autocast
from csm_ft.families.csm.decode import CachedTransformer
from csm_ft.families.csm.model import CsmModel
from csm_ft.families.csm.sample import FRAMES_PER_CHECK, generate
from tests.helpers.splits import SIZE, make_model

MODEL = make_model(seed=3).eval()
INPUTS = torch.randn(2, 9, SIZE.backbone.dim, generator=torch.Generator().manual_seed(0))


def cached(model: CsmModel, capacity: int = 9) -> CachedTransformer:
    options = {"batch_size": 2, "dtype": torch.float32}
    return CachedTransformer(model.backbone, capacity=capacity, **options)


@torch.no_grad()
def test_piecewise_passes_equal_one_pass() -> None:
    transformer = cached(MODEL)
    steps = [INPUTS[:, :4], *INPUTS[:, 4:].split(1, dim=1)]
    found = torch.cat([transformer(step) for step in steps], dim=1)
    torch.testing.assert_close(found, MODEL.backbone(INPUTS), rtol=1e-5, atol=1e-5)
    transformer.forget()
    again = transformer(INPUTS[:, :4])
    assert torch.equal(again, found[:, :4]), "nothing is left of what was before"


@torch.no_grad()
def test_mixed_precision_is_that_of_training() -> None:
    """Only products are in bf16: the sums of the layers, and what is read of them, stay fp32."""
    exact = MODEL.backbone(INPUTS)
    with autocast("cpu", "bf16"):
        transformer = CachedTransformer(
            MODEL.backbone, batch_size=2, capacity=9, dtype=torch.bfloat16
        )
        steps = [INPUTS[:, :4], *INPUTS[:, 4:].split(1, dim=1)]
        found = torch.cat([transformer(step) for step in steps], dim=1)
        expected = MODEL.backbone(INPUTS).float()
    assert found.dtype == torch.float32
    assert (found - exact).std() < 1.2 * (expected - exact).std()


@torch.no_grad()
def test_positions_and_mask_are_those_of_torchtune() -> None:
    """The first three slots of the second sequence are padding."""
    padding = torch.tensor([[0], [3]])
    slots = torch.arange(9)
    positions = (slots - padding).clamp(min=0)
    is_real = slots >= padding
    mask = (slots <= slots[:, None]) & (is_real[:, None] | torch.eye(9, dtype=torch.bool))
    expected = MODEL.backbone(INPUTS, mask=mask, input_pos=positions)
    transformer = cached(MODEL)
    first = transformer(INPUTS[:, :8], positions=positions[:, :8], mask=mask[:, None, :8, :8])
    last = transformer(INPUTS[:, 8:], positions=positions[:, 8:], mask=is_real[:, None, None])
    found = torch.cat([first, last], dim=1)
    torch.testing.assert_close(found[is_real], expected[is_real], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_generation_ends_within_a_check_of_the_last_end() -> None:
    """Every frame is all zero, so that each prompt ends at once."""

    def always_zero(logits: Tensor, codebook: int) -> Tensor:
        return torch.zeros(len(logits), dtype=torch.int64)

    contexts = [INPUTS[0, :5], INPUTS[1, :3]]
    assert generate(MODEL, contexts, always_zero, 100).shape[1] == FRAMES_PER_CHECK
    assert generate(MODEL, contexts, always_zero, 2).shape[1] == 2
