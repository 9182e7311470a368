"""Joined projections against separate ones: the same loss and gradients, and the same weights."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from csm_ft.device import autocast
from csm_ft.families.base import Draw
from csm_ft.families.csm.data import collate
from csm_ft.families.csm.model import CsmModel
from csm_ft.families.csm.products import gated, projection, side_by_side
from tests.helpers.splits import examples_of, make_model, make_split

BATCH = collate(
    examples_of(make_split([12, 5, 30])), range(3), depth_fraction=0.25, draw=Draw(0, 0)
)


def separate_model() -> CsmModel:
    model = deepcopy(make_model())  # each weight has a memory of its own then
    assert not any(is_joined(model))
    return model


def is_joined(model: CsmModel) -> list[bool]:
    modules = [m for layer in model.backbone.layers for m in (layer.attn, layer.mlp)]
    weights = [[p.weight for p in m.parallel_projections] for m in modules]
    return [side_by_side(members, 0) is not None for members in weights]


def gradients(model: CsmModel, dtype: str = "fp32") -> dict[str, Tensor]:
    model.zero_grad()
    with autocast("cpu", dtype):
        loss = model(BATCH)
    (loss["c0"].sum() + loss["depth"].sum()).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 1e-5), ("bf16", 2e-2)])
@pytest.mark.parametrize("frozen", ["nothing", "k_proj", "embeddings"])
def test_gradients_are_those_of_separate_products(
    dtype: str, tolerance: float, frozen: str
) -> None:
    joined, separate = make_model(), separate_model()
    assert all(is_joined(joined))
    for model in (joined, separate):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(frozen not in name)
    found, expected = gradients(joined, dtype), gradients(separate, dtype)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert found[name].dtype == gradient.dtype
        error = (found[name] - gradient).norm() / gradient.norm()
        assert error < tolerance, f"{name}: {error:.2g}"


def test_joined_weights_are_trained_and_loaded_in_place() -> None:
    joined, separate = make_model(), separate_model()
    for model in (joined, separate):
        gradients(model)
        torch.optim.SGD(model.parameters(), lr=1e-3).step()
    assert all(is_joined(joined))
    for (name, found), expected in zip(
        joined.named_parameters(), separate.parameters(), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6, msg=name)
    joined.load_state_dict(make_model(seed=7).state_dict())
    separate.load_state_dict(make_model(seed=7).state_dict())
    assert all(is_joined(joined))
    with torch.no_grad():
        torch.testing.assert_close(joined(BATCH)["c0"], separate(BATCH)["c0"])


def test_joining_changes_neither_names_nor_values() -> None:
    model = separate_model()
    parameters, before = dict(model.named_parameters()), deepcopy(model.state_dict())
    for _ in range(2):
        model.join_weights()
        assert all(is_joined(model))
        assert {n: id(p) for n, p in model.named_parameters()} == {
            n: id(p) for n, p in parameters.items()
        }
        assert model.state_dict().keys() == before.keys()
        assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


@torch.no_grad()
@pytest.mark.parametrize("is_wide", [False, True])
def test_projection_is_its_parts_joined_or_not(*, is_wide: bool) -> None:
    x = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
    for model in (make_model(), separate_model()):
        linears = model.backbone.layers[0].attn.parallel_projections
        expected = torch.cat([linear(x) for linear in linears], dim=-1)
        found = projection(linears, torch.float32, is_wide=is_wide)(x)
        torch.testing.assert_close(found, expected)


def test_gated_equals_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, 3, 5, dtype=torch.float64, generator=generator) for _ in range(2)]
    inputs = [x.requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(gated, inputs)
    assert torch.equal(gated(*inputs), F.silu(inputs[0]) * inputs[1])


def test_only_neighbours_lie_side_by_side() -> None:
    block = torch.arange(24.0).view(4, 6)
    parts = block.split([1, 2, 3], dim=1)
    whole = side_by_side(parts, 1)
    assert whole is not None
    assert torch.equal(whole, block)
    assert whole.data_ptr() == block.data_ptr()
    assert side_by_side(parts[::2], 1) is None
    assert side_by_side(parts[::-1], 1) is None
    assert side_by_side([parts[0], parts[1].clone()], 1) is None
    rows = side_by_side(block.split([3, 1]), 0)
    assert rows is not None
    assert torch.equal(rows, block)
