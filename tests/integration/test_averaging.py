"""A run whose weights are averaged: how often it validates, and kills, change no bit of it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import train
from csm_ft.evaluate.validation import validate
from csm_ft.families.csm.config import CsmConfig
from csm_ft.families.csm.family import CsmFamily
from csm_ft.families.stores import open_tokens

STEPS = 6
KINDS: dict[str, dict[str, Any]] = {
    "free": {"optimizer": "schedulefree"},
    "free-lora": {"optimizer": "schedulefree", "method": "lora"},
    "ema": {"ema_decay": 0.8},
}


def config(tokens: Path, run: Path, **more: Any) -> CsmConfig:
    fixed: dict[str, Any] = {
        "data": str(tokens),
        "output_dir": str(run),
        "learning_rate": 1e-3,
        "batch_size": 4,
        "max_steps": STEPS,
        "warmup_steps": "2",
        "gen_every": "0",
        "log_every": "1",
        "save_every": "2",
        "wandb": "off",
        "device": "cpu",
        "dtype": "fp32",
        "threads": 1,
    }
    return CsmConfig.model_validate({**fixed, **more})


def losses(run: Path) -> list[float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [row["loss"] for row in lines if row["kind"] == "train"]


def state(run: Path, step: int) -> dict[str, torch.Tensor]:
    folder = run / f"checkpoints/step_{step:06}"
    return load_file(folder / "optimizer.safetensors") | load_file(folder / "model.safetensors")


@pytest.fixture(scope="module", params=KINDS)
def uninterrupted(
    request: pytest.FixtureRequest, tokens: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    run = tmp_path_factory.mktemp("averaging") / request.param
    train.run(config(tokens, run, **KINDS[request.param], val_every="0"))
    return run


def same(run: Path, other: Path, step: int = STEPS) -> bool:
    ours, theirs = weights(run, step), weights(other, step)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in theirs)


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    folder = run / f"checkpoints/step_{step:06}"
    return {name: t for file in folder.glob("*.safetensors") for name, t in load_file(file).items()}


def test_validations_do_not_change_the_run(
    tokens: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    kind = KINDS[uninterrupted.name]
    train.run(config(tokens, tmp_path / "often", **kind, val_every="1"))
    assert same(tmp_path / "often", uninterrupted)


def test_resumed_run_equals_uninterrupted(
    tokens: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = config(tokens, run, **KINDS[uninterrupted.name], val_every="0")
    for number in range(STEPS):  # before the first step, and after every one
        result = train.run(options, should_pause=lambda: True)
        assert (result.status, result.step) == ("interrupted", number)
    train.run(options)
    assert same(run, uninterrupted)
    assert losses(run) == losses(uninterrupted)


@pytest.mark.parametrize("kind", ["free", "ema"])
def test_best_weights_are_those_that_were_validated(
    tokens: Path, tmp_path: Path, kind: str
) -> None:
    run = tmp_path / "run"
    options = config(tokens, run, **KINDS[kind], val_every="3")
    result = train.run(options)
    assert result.best is not None
    family = CsmFamily()
    store = open_tokens(tokens, in_memory=True)
    val = family.arrange(store.splits["val"], options, evaluate=True)
    for folder in (run, run / f"checkpoints/step_{STEPS:06}"):
        model = family.load_model(str(folder))
        here = options.replace(device="cpu")
        measured = validate(model, family, val, here, all_targets=True).loss
        assert measured == pytest.approx(result.best["val_loss"], rel=1e-6)


@pytest.mark.parametrize("uninterrupted", ["free", "ema"], indirect=True)
def test_checkpoint_keeps_the_weights_that_training_goes_on_at(uninterrupted: Path) -> None:
    saved = state(uninterrupted, STEPS)
    averages = {name: t for name, t in saved.items() if f"{name}.y" in saved}
    assert averages
    differ = [name for name, t in averages.items() if not torch.equal(t, saved[f"{name}.y"])]
    assert len(differ) == len(averages)
    if uninterrupted.name == "free":
        assert saved["group.0.k"].item() == STEPS
