"""Norms and embeddings of few operations against torchtune's and the table itself."""

import pytest
import torch
from torch import Tensor
from torchtune.modules import RMSNorm

from csm_ft.device import autocast
from csm_ft.families.csm.layers import CastRMSNorm
from tests.helpers.splits import SIZE, make_model

ROWS, WIDTH = (3, 5), 48


def gradients(norm: RMSNorm, x: Tensor, dtype: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the normed values, and gradients of x and the scale."""
    x = x.clone().requires_grad_()
    with autocast("cpu", dtype):
        normed = norm(x)
    weights = torch.linspace(-1, 2, x.numel()).view_as(x)
    of_x, of_scale = torch.autograd.grad((normed * weights).sum(), [x, norm.scale])
    return normed, of_x, of_scale


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_norm_is_torchtunes(dtype: str) -> None:
    torch.manual_seed(0)
    ours, theirs = CastRMSNorm(WIDTH, eps=1e-5), RMSNorm(WIDTH, eps=1e-5)
    for norm in (ours, theirs):
        norm.scale.data = torch.linspace(0.5, 2, WIDTH)
    x = torch.randn(*ROWS, WIDTH)
    x[0, 0] *= 1e-3  # where eps counts
    found, expected = (gradients(norm, x, dtype) for norm in (ours, theirs))
    assert found[0].dtype == (torch.bfloat16 if dtype == "bf16" else torch.float32)
    tolerance = 1e-2 if dtype == "bf16" else 1e-6
    for ours_now, reference in zip(found, expected, strict=True):
        error = (ours_now - reference).norm() / reference.norm()
        assert error < tolerance


def test_norm_of_bf16_weights_keeps_their_type() -> None:
    norm = CastRMSNorm(WIDTH, eps=1e-5).bfloat16()
    normed, of_x, of_scale = gradients(norm, torch.randn(*ROWS, WIDTH).bfloat16(), "fp32")
    assert {t.dtype for t in (normed, of_x, of_scale)} == {torch.bfloat16}


def test_frames_are_sums_of_embedded_codes_and_drawn_ones_single() -> None:
    model, rows = make_model(), torch.tensor([1, 4])
    codes = torch.randint(SIZE.audio_vocab_size, (6, SIZE.num_codebooks))
    codes[2] = codes[1]  # two frames share all their rows of the table
    table = model.audio_embeddings.weight
    embedded = model.embed_codes(codes)
    expected = embedded.sum(1), embedded[rows]
    found = model.embed_frames(codes, rows)
    weights = [torch.randn_like(values) for values in found]
    for ours, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, reference)
    of_table, reference = (
        torch.autograd.grad(values, table, weights)[0] for values in (found, expected)
    )
    torch.testing.assert_close(of_table, reference)


def test_no_drawn_frames() -> None:
    model, codes = make_model(), torch.zeros(3, SIZE.num_codebooks, dtype=torch.long)
    frames, drawn = model.embed_frames(codes, torch.zeros(0, dtype=torch.long))
    assert frames.shape == (3, SIZE.backbone.dim)
    assert drawn.shape == (0, SIZE.num_codebooks, SIZE.backbone.dim)
