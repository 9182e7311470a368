"""Adapters side by side: each lane's loss and gradients are those of its model alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from csm_ft.config.train import TrainConfig
from csm_ft.device import autocast
from csm_ft.families.csm.data import CsmBatch, collate
from csm_ft.families.csm.model import CsmModel
from csm_ft.families.lanes import joint_loss, lane_key, make_trunk, share_frozen_weights
from csm_ft.families.model import Loss
from csm_ft.training.recompute import checkpoint_activations
from tests.helpers.splits import examples_of, make_split
from tests.unit.families.test_lora import adapted, write_base

EXAMPLES = examples_of(make_split([5, 9, 3, 7, 1, 12, 2, 6]))
LANES = [{"lora_alpha": 4}, {"lora_alpha": 9}, {"lora_rank": 2, "lora_rslora": True}]
TARGETS = ["attention,mlp", "q_proj,w2,projection,codebook0_head"]


def batch_of(*indices: int) -> CsmBatch:
    return collate(EXAMPLES, indices, depth_fraction=1.0, draw=None)


def lanes(tmp_path: Path, *options: dict[str, Any], **common: Any) -> list[CsmModel]:
    base = write_base(tmp_path / "base")
    models = [adapted(base, seed=i, **common, **own) for i, own in enumerate(options)]
    with torch.no_grad():  # larger ones would make large logits, and hide differences in rounding
        for model in models:
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter *= 0.1
    return models


def backward(losses: list[Loss]) -> None:
    sum(
        (value.sum() * (i + 1) for i, one in enumerate(losses) for value in one.values())
    ).backward()


def gradients(model: CsmModel) -> dict[str, Tensor]:
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "picks", [[(0, 1), (2, 3), (4, 5)], [(0,), (1, 2, 3), (4, 5)], [(6, 7), (6, 7), (6, 7)]]
)
def test_lanes_equal_their_models_alone(
    tmp_path: Path, targets: str, dtype: str, picks: list[tuple[int, ...]]
) -> None:
    models = lanes(tmp_path, *LANES, lora_targets=targets)
    batches = [batch_of(*pick) for pick in picks]
    with autocast("cpu", dtype):
        alone = [model(batch) for model, batch in zip(models, batches, strict=True)]
    backward(alone)
    expected = [gradients(model) for model in models]

    trunk = make_trunk(models[0])
    with autocast("cpu", dtype):
        together = joint_loss(trunk, models, batches)
    backward(together)

    loose = {"rtol": 3e-2, "atol": 1e-1} if dtype == "bf16" else {"rtol": 1e-5, "atol": 1e-5}
    for one, other in zip(alone, together, strict=True):
        assert one.keys() == other.keys()
        for part, value in one.items():
            torch.testing.assert_close(other[part], value, **loose)
    for model, gradient in zip(models, expected, strict=True):
        assert all("lora_" in name for name in gradient)
        actual = gradients(model)
        assert actual.keys() == gradient.keys()
        for name, value in gradient.items():
            difference = float((actual[name] - value).norm() / value.norm())
            assert difference < (0.1 if dtype == "bf16" else 1e-5), name


def test_a_lane_that_is_not_finite_leaves_the_others_alone(tmp_path: Path) -> None:
    models = lanes(tmp_path, {}, {}, {})
    batches = [batch_of(0, 1), batch_of(2, 3), batch_of(4, 5)]
    pairs = zip(models, batches, strict=True)
    expected = [float(model(batch)["c0"].detach().sum()) for model, batch in pairs]
    with torch.no_grad():
        for name, parameter in models[1].named_parameters():
            if "lora_" in name:
                parameter.fill_(torch.inf)
    losses = joint_loss(make_trunk(models[0]), models, batches)
    backward(losses)
    sums = [float(loss["c0"].detach().sum()) for loss in losses]
    assert sums[0] == pytest.approx(expected[0], abs=1e-4)
    assert sums[2] == pytest.approx(expected[2], abs=1e-4)
    assert sums[1] != sums[1]
    for model in (models[0], models[2]):
        assert all(value.isfinite().all() for value in gradients(model).values())


def test_lanes_share_the_memory_of_frozen_weights(tmp_path: Path) -> None:
    first, second = lanes(tmp_path, {}, {"lora_rank": 5})
    trunk, batch = make_trunk(first), batch_of(0, 3)
    before = second(batch)["depth"]
    share_frozen_weights(second, trunk)
    assert torch.equal(second(batch)["depth"], before)
    of_first = {p.data_ptr() for p in first.parameters() if not p.requires_grad}
    of_second = {p.data_ptr() for p in second.parameters() if not p.requires_grad}
    assert of_first == of_second == {p.data_ptr() for p in trunk.parameters()}


@pytest.mark.parametrize(
    ("options", "shares"),
    [
        ({"lora_rank": 7, "lora_alpha": 1}, True),
        ({"lora_targets": "q_proj"}, False),
        ({"lora_dropout": 0.1}, False),
        ({"lora_dora": True}, False),
    ],
)
def test_only_lanes_of_one_kind_share_a_trunk(
    tmp_path: Path, options: dict[str, Any], *, shares: bool
) -> None:
    plain, other = lanes(tmp_path, {}, options)
    assert lane_key(plain) is not None
    assert (lane_key(plain) == lane_key(other)) == shares


@pytest.mark.parametrize("mode", ["selective", "full"])
def test_recomputed_blocks_have_no_lane(tmp_path: Path, mode: str) -> None:
    model = lanes(tmp_path, {})[0]
    checkpoint_activations(model, TrainConfig.model_validate({"activation_checkpointing": mode}))
    assert lane_key(model) is None


def test_full_weights_have_no_lane(tmp_path: Path) -> None:
    model = lanes(tmp_path, {})[0]
    model.requires_grad_(True)
    assert lane_key(model) is None
