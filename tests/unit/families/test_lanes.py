"""Adapters side by side: each lane's loss and gradients are those of its model alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.counters import Operations
from csm_ft.config.train import TrainConfig
from csm_ft.device import autocast
from csm_ft.families import open_family
from csm_ft.families.base import Draw
from csm_ft.families.csm import data as csm
from csm_ft.families.csm.weights import load_model
from csm_ft.families.lanes import (
    adapted_layers,
    joint_loss,
    lane_key,
    make_trunk,
    share_frozen_weights,
)
from csm_ft.families.model import Loss, SpeechModel
from csm_ft.families.moonshine.data import collate_clips
from csm_ft.families.moshi.data import draw_depth
from csm_ft.training.optim import choose_parameters
from csm_ft.training.recompute import checkpoint_activations
from tests.helpers.splits import examples_of, make_split
from tests.unit.families.moonshine import test_model as moonshine
from tests.unit.families.moonshine import test_streaming as streaming
from tests.unit.families.moshi import test_model as moshi
from tests.unit.families.test_lora import write_base

LENGTHS = [5, 9, 3, 7, 1, 12, 2, 6]
LANES = [
    *({"lora_alpha": 4}, {"lora_alpha": 9}),
    {"lora_alpha": 6, "lora_rank": 2, "lora_rslora": True},
]
PICKS = [[(0, 1), (2, 3), (4, 5)], [(0,), (1, 2, 3), (4, 5)], [(6, 7), (6, 7), (6, 7)]]
CASES = [
    *(("csm", "attention,mlp"), ("csm", "q_proj,w2,projection,codebook0_head")),
    *(("moshi", "all"), ("moshi", "in_projs,heads")),
    *(("moonshine", "attention,mlp"), ("moonshine", "encoder_attn.k_proj,o_proj,fc2")),
    *(("streaming", "attention,mlp"), ("streaming", "encoder_attn.k_proj,o_proj,fc2")),
]
FAMILIES = ["csm", "moshi", "moonshine", "streaming"]


@pytest.fixture(scope="module")
def csm_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("lanes") / "base")


def lanes(kind: str, base: Path, *options: dict[str, Any], **common: Any) -> list[Any]:
    """Models of one base with adapters that do something."""
    return [adapted(kind, base, seed, **common, **own) for seed, own in enumerate(options)]


def adapted(kind: str, base: Path, seed: int, **options: Any) -> SpeechModel:
    family = open_family("moonshine" if kind == "streaming" else kind)
    model = base_of(kind, base)
    values = {"method": "lora", "lora_rank": 3, "lora_alpha": 6, **options}
    choose_parameters(model, family, family.train_config.model_validate(values))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # larger ones would make large logits, and hide differences
            nn.init.normal_(parameter, std=0.03, generator=generator)
    return model


def base_of(kind: str, base: Path) -> SpeechModel:
    match kind:
        case "csm":
            return load_model(str(base))
        case "moshi":
            return moshi.model_of()
        case "moonshine":
            return moonshine.make_model()
        case _:
            return streaming.make_model()


def batch_of(kind: str, pick: Sequence[int], lane: int = 0) -> Any:
    """Some of eight examples, of different lengths, as the options of a lane have them."""
    if kind == "csm":
        examples, draw = examples_of(make_split(LENGTHS)), Draw(seed=lane, epoch=0)
        fraction = (1.0, 0.5, 0.3)[lane % 3]
        return csm.collate(examples, pick, depth_fraction=fraction, draw=draw)
    if kind == "moshi":
        batch = moshi.batch_of([moshi.tokens(LENGTHS[i], seed=i) for i in pick])
        draw_depth(batch, (1.0, 0.5, 0.3)[lane % 3], [f"{lane}/{i}" for i in pick])
        return batch
    clips, tokens = moonshine.make_clips(tuple(1000 + 1310 * n for n in LENGTHS))
    batch = collate_clips([clips[i] for i in pick], [tokens[i] for i in pick])
    batch.label_smoothing = (0.0, 0.2, 0.1)[lane % 3]
    return batch


def backward(losses: Sequence[Loss]) -> None:
    sum(
        (value.sum() * (i + 1) for i, one in enumerate(losses) for value in one.values())
    ).backward()


def gradients(model: SpeechModel) -> dict[str, Tensor]:
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def difference(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    whole, other = (torch.cat([t.flatten() for t in one]) for one in (actual, expected))
    return float((whole - other).norm() / other.norm())


@pytest.mark.parametrize(
    ("dtype", "picks"), [*(("fp32", picks) for picks in PICKS), ("bf16", PICKS[1])]
)
@pytest.mark.parametrize(("kind", "targets"), CASES)
def test_lanes_equal_their_models_alone(
    csm_base: Path, kind: str, targets: str, dtype: str, picks: list[tuple[int, ...]]
) -> None:
    models = lanes(kind, csm_base, *LANES, lora_targets=targets)
    batches = [batch_of(kind, pick, lane) for lane, pick in enumerate(picks)]
    with autocast("cpu", dtype):
        alone = [model(batch) for model, batch in zip(models, batches, strict=True)]
    backward(alone)
    expected = [gradients(model) for model in models]

    trunk = make_trunk(models[0])
    with autocast("cpu", dtype):
        together = joint_loss(trunk, [*map(adapted_layers, models)], batches)
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
        of_all = difference([*actual.values()], [*gradient.values()])
        assert of_all < (0.1 if dtype == "bf16" else 1e-5)
        for name, value in gradient.items() if dtype == "fp32" else ():
            assert difference([actual[name]], [value]) < 2e-4, name


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_lane_that_is_not_finite_leaves_the_others_alone(csm_base: Path, kind: str) -> None:
    models = lanes(kind, csm_base, {}, {}, {})
    batches = [batch_of(kind, pick) for pick in ((0, 1), (2, 3), (4, 5))]
    pairs = zip(models, batches, strict=True)
    expected = [{part: nats.detach() for part, nats in m(batch).items()} for m, batch in pairs]
    with torch.no_grad():
        for name, parameter in models[1].named_parameters():
            if "lora_" in name:
                parameter.fill_(torch.inf)
    losses = joint_loss(make_trunk(models[0]), [*map(adapted_layers, models)], batches)
    backward(losses)
    for lane in (0, 2):
        for part, nats in expected[lane].items():
            torch.testing.assert_close(losses[lane][part], nats, rtol=1e-5, atol=1e-4)
        assert all(value.isfinite().all() for value in gradients(models[lane]).values())
    assert not any(bool(nats.isfinite().all()) for nats in losses[1].values() if nats.any())


@pytest.mark.parametrize(
    ("kind", "most"), [("csm", 1.25), ("moshi", 1.37), ("moonshine", 1.46), ("streaming", 1.5)]
)
def test_operations_of_four_lanes(csm_base: Path, kind: str, most: float) -> None:
    """A multiple of one alone; lanes have different lengths, draws and smoothing."""
    models = lanes(kind, csm_base, {}, {}, {}, {})
    batches = [
        batch_of(kind, pick, lane) for lane, pick in enumerate(((0, 1), (2, 3), (4, 5), (6, 7)))
    ]
    trunk = make_trunk(models[0])
    models[0](batches[0])  # what is computed once, such as rotations
    with Operations() as alone:
        backward([models[0](batches[0])])
    gradients(models[0])
    with Operations() as together:
        backward(joint_loss(trunk, [*map(adapted_layers, models)], batches))
    counts = [one.num_products + one.num_others for one in (alone, together)]
    assert counts[1] <= most * counts[0]


def test_lanes_share_the_memory_of_frozen_weights(csm_base: Path) -> None:
    first, second = lanes("csm", csm_base, {}, {"lora_rank": 5})
    trunk, batch = make_trunk(first), batch_of("csm", (0, 3))
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
    csm_base: Path, options: dict[str, Any], *, shares: bool
) -> None:
    plain, other = lanes("csm", csm_base, {}, options)
    assert lane_key(plain) is not None
    assert (lane_key(plain) == lane_key(other)) == shares


@pytest.mark.parametrize("mode", ["selective", "full"])
def test_recomputed_blocks_have_no_lane(csm_base: Path, mode: str) -> None:
    (model,) = lanes("csm", csm_base, {})
    checkpoint_activations(model, TrainConfig.model_validate({"activation_checkpointing": mode}))
    assert lane_key(model) is None


def test_full_weights_have_no_lane(csm_base: Path) -> None:
    (model,) = lanes("csm", csm_base, {})
    model.requires_grad_(True)
    assert lane_key(model) is None
