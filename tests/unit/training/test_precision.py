"""Low precision: rounding without bias, a scaled loss, and 8-bit averages."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import train
from csm_ft.config.train import TrainConfig
from csm_ft.data.batches import Step
from csm_ft.data.token_file import write_store
from csm_ft.device import autocast
from csm_ft.families.csm.config import CsmConfig
from csm_ft.families.csm.family import CsmFamily
from csm_ft.families.csm.model import random_model
from csm_ft.families.csm.size import TransformerSize
from csm_ft.runs.checkpoint import load_optimizer_tensors, optimizer_tensors, save_weights
from csm_ft.runs.loss_scale import LossScale
from csm_ft.training.low_bit import RoundedAdamW
from csm_ft.training.optim import build_optimizer, choose_parameters, set_learning_rate
from csm_ft.training.precision import cast_weights, seed_rounding
from csm_ft.training.sizes import sizes_of
from csm_ft.training.step import optimizer_step
from tests.helpers.splits import INFO, SIZE, make_split
from tests.unit.training.test_recompute import CASES
from tests.unit.training.test_step import CONFIG, LENGTHS, TERMS, Letters, batch_of

# Tensors of fewer than 4096 values stay as they are in 8-bit optimisers.
WIDE = replace(SIZE, backbone=TransformerSize(layers=1, heads=2, kv_heads=2, dim=64, ffn_dim=96))


def fit(dtype: torch.dtype, *, rounds_at_random: bool) -> float:
    """The error after 200 small steps of AdamW towards a target."""
    torch.manual_seed(0)
    target = 1 + 0.2 * torch.randn(4096)
    weight = nn.Parameter(torch.ones(4096, dtype=dtype))
    options: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.95), "weight_decay": 0.0}
    optimizer = RoundedAdamW([weight], bf16_stochastic_round=rounds_at_random, **options)
    for step in range(200):
        seed_rounding(0, step)
        noise = torch.randn(4096, generator=torch.Generator().manual_seed(step))
        weight.grad = (weight.float() - target + 0.02 * noise).to(dtype)
        optimizer.step()
    return float((weight.detach().float() - target).abs().mean())


def test_200_steps_in_bf16_are_those_in_fp32() -> None:
    exact = fit(torch.float32, rounds_at_random=False)
    assert fit(torch.bfloat16, rounds_at_random=True) == pytest.approx(exact, rel=0.15)
    assert fit(torch.bfloat16, rounds_at_random=False) > 2 * exact, (
        "to the nearest, updates are lost"
    )


def test_rounding_has_no_bias() -> None:
    value, step = 1.0, 2.0**-11  # a 16th of the distance of bf16 numbers above 1
    weight = nn.Parameter(torch.full((100_000,), value, dtype=torch.bfloat16))
    options: dict[str, Any] = {"lr": step, "betas": (0.0, 0.0), "eps": 0.0, "weight_decay": 0.0}
    optimizer = RoundedAdamW([weight], bf16_stochastic_round=True, **options)
    weight.grad = -torch.ones_like(weight)
    torch.manual_seed(0)
    optimizer.step()
    assert set(weight.detach().unique().tolist()) == {1.0, 1.0 + 2.0**-7}
    assert float(weight.detach().double().mean()) == pytest.approx(1.0 + step, abs=5e-6)


def test_scale_of_the_loss_changes_no_step() -> None:
    found = []
    for scale in (LossScale(), LossScale(1024.0)):
        model = Letters()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        step = Step(1, 0, len(LENGTHS), [list(range(len(LENGTHS)))], [[0] * len(LENGTHS)])
        config = CONFIG.replace(max_grad_norm=1.0)
        batches = [batch_of(range(len(LENGTHS)))]
        sums = optimizer_step(model, optimizer, step, batches, config, TERMS, scale=scale)
        found.append((model.weight.detach(), sums["grad_norm"]))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-6, atol=0)
    assert found[0][1] == found[1][1] > 1.0, "it is clipped"


def test_overflow_halves_the_scale_and_leaves_the_step_out() -> None:
    scale = LossScale.first("fp16")
    assert not scale.fits(math.inf)
    assert not scale.fits(math.nan)
    assert (scale.value, scale.good_steps) == (65536.0 / 4, 0)
    assert all(scale.fits(1.0) for _ in range(2000))
    assert scale.value == 65536.0 / 2
    assert LossScale.first("bf16").value == 1.0
    assert LossScale().fits(math.inf), "without a scale the step diverges"


def make(options: dict[str, Any]) -> tuple[Any, Any, CsmConfig]:
    config = CsmConfig.model_validate(options)
    model = random_model(WIDE, seed=1)
    choose_parameters(model, CsmFamily(), config)
    cast_weights(model, config)
    return model, build_optimizer(model, CsmFamily(), config), config


def step_of(model: nn.Module, optimizer: Any, number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    set_learning_rate(optimizer, 1e-3)
    seed_rounding(0, number)
    optimizer.step()


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "adamw8bit"},
        {"dtype": "bf16_pure"},
        {"dtype": "bf16_pure", "optimizer": "adamw8bit"},
        {"dtype": "bf16_pure", "method": "lora"},
        {"optimizer": "adamw8bit", "method": "lora"},
    ],
    ids=str,
)
def test_restored_state_goes_on_with_the_same_bits(options: dict[str, Any]) -> None:
    model, optimizer, config = make(options)
    step_of(model, optimizer, 1)
    tensors = {name: value.clone() for name, value in optimizer_tensors(model, optimizer).items()}
    has_codes = any(name.endswith(".codes") for name in tensors)
    assert has_codes == (config.optimizer == "adamw8bit" and config.method == "full")
    num_bytes = sum(t.numel() * t.element_size() for n, t in tensors.items() if ".step" not in n)
    assert sizes_of(model, config).optimizer_bytes == num_bytes
    other, restored, _ = make(options)
    other.load_state_dict({name: value.clone() for name, value in model.state_dict().items()})
    load_optimizer_tensors(other, restored, tensors)
    for trained in ((model, optimizer), (other, restored)):
        for number in (2, 3):
            step_of(*trained, number)
    ours, theirs = model.state_dict(), other.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_frozen_base_of_adapters_is_bf16() -> None:
    model, _, _ = make({"dtype": "bf16_pure", "method": "lora"})
    dtypes = {p.requires_grad: p.dtype for p in model.parameters() if p.ndim > 1}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}


def test_schedulefree_does_not_round() -> None:
    with pytest.raises(ValueError, match="use --optimizer adamw"):
        CsmConfig.model_validate({"dtype": "bf16_pure", "optimizer": "schedulefree"})


@pytest.mark.parametrize("dtype", ["bf16_pure", "bf16", "fp16"])
@pytest.mark.parametrize("name", ["csm", "moshi", "moonshine"])
def test_loss_of_every_family_is_near_that_in_fp32(name: str, dtype: str) -> None:
    torch.manual_seed(0)
    model, batch = CASES[name]()
    with torch.no_grad():
        exact = {part: float(nats.sum()) for part, nats in model(batch).items()}
    cast_weights(model, TrainConfig.model_validate({"dtype": dtype}))
    with autocast("cpu", dtype):
        loss = model(batch)
    sum(nats.sum() for nats in loss.values()).backward()
    assert {nats.dtype for nats in loss.values()} == {torch.float32}
    assert {part: float(nats.detach().sum()) for part, nats in loss.items()} == pytest.approx(
        exact, rel=0.02
    )
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    "options",
    [{"dtype": "bf16_pure", "optimizer": "adamw8bit"}, {"dtype": "fp16"}],
    ids=lambda options: options["dtype"],
)
def test_resumed_run_has_the_same_bits(tmp_path: Path, options: dict[str, Any]) -> None:
    split = make_split([12, 5, 30, 1, 17, 9])
    save_weights(tmp_path, random_model(WIDE, seed=1), WIDE.to_json())
    write_store(tmp_path / "tokens.hdf5", INFO, {"train": split, "val": split})
    fixed: dict[str, Any] = {
        "data": str(tmp_path / "tokens.hdf5"),
        "model_name_or_checkpoint_path": str(tmp_path),
        "batch_size": 2,
        "max_steps": 4,
        "learning_rate": 1e-3,
        "val_every": "0",
        "gen_every": "0",
        "wandb": "off",
        "device": "cpu",
        "threads": 1,
    }
    found = []
    for name, pauses in (("whole", [False] * 9), ("cut", [False, False, True] + [False] * 9)):
        config = CsmConfig.model_validate({**fixed, **options, "output_dir": str(tmp_path / name)})
        while train.run(config, should_pause=lambda left=pauses: left.pop(0)).step < 4:
            pass
        folder = tmp_path / name / "checkpoints/step_000004"
        state = json.loads((folder / "state.json").read_text())["loss_scale"]
        files = [load_file(folder / f"{kind}.safetensors") for kind in ("model", "optimizer")]
        found.append((state, {**files[0], **files[1]}))
    (scale, tensors), (cut_scale, cut_tensors) = found
    assert scale == cut_scale
    assert tensors.keys() == cut_tensors.keys()
    assert all(torch.equal(tensors[name], cut_tensors[name]) for name in tensors)
