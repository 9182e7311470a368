"""Our rotation against torchtune's, forward and backward."""

import pytest
import torch
from torchtune.models.llama3_1 import Llama3ScaledRoPE

from csm_ft.families.csm.rope import ComplexRoPE

OPTIONS = (16, 64, 500_000, 32)


@pytest.mark.parametrize("positions", [None, torch.tensor([[0, 1, 2, 3, 4], [0, 0, 7, 8, 63]])])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotation_is_torchtunes(positions: torch.Tensor | None, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    values, gradient = (torch.randn(2, 5, 4, 16, generator=generator).to(dtype) for _ in range(2))
    found = []
    for rope in (Llama3ScaledRoPE(*OPTIONS), ComplexRoPE(*OPTIONS)):
        leaf = values.clone().requires_grad_()
        rotated = rope(leaf, input_pos=positions)
        rotated.backward(gradient)
        found.append((rotated, leaf.grad))
    (expected, expected_gradient), (rotated, own_gradient) = found
    torch.testing.assert_close(rotated, expected)
    torch.testing.assert_close(own_gradient, expected_gradient)
    assert not torch.allclose(rotated, values, atol=0.1)
