"""The memory of a step, predicted without values, against the sizes of real tensors."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from csm_ft.config.train import TrainConfig
from csm_ft.data.token_file import write_store
from csm_ft.families import open_family
from csm_ft.families.csm.config import CsmConfig
from csm_ft.families.csm.data import collate
from csm_ft.families.csm.family import CsmFamily
from csm_ft.families.csm.model import empty_model, init_weights
from csm_ft.families.csm.size import CsmSize, TransformerSize
from csm_ft.runs.averaging import update_average
from csm_ft.runs.checkpoint import optimizer_tensors, save_weights
from csm_ft.training import dry_run
from csm_ft.training.memory import (
    LiveBytes,
    StepMemory,
    measure_pass,
    measure_step,
    peak_of_pass,
    prepare,
    sharded,
)
from csm_ft.training.optim import build_optimizer, set_learning_rate
from tests.helpers.splits import INFO, SIZE, examples_of, make_model, make_split
from tests.unit.training.test_recompute import CASES

SMALL = CsmSize(
    TransformerSize(layers=3, heads=4, kv_heads=2, dim=64, ffn_dim=128),
    TransformerSize(layers=2, heads=2, kv_heads=1, dim=32, ffn_dim=64),
    text_vocab_size=200,
    audio_vocab_size=19,
    num_codebooks=4,
)
RECIPES: list[dict[str, Any]] = [
    {"dtype": "fp32"},
    {"dtype": "bf16", "activation_checkpointing": "selective"},
    {"dtype": "bf16", "activation_checkpointing": "full", "optimizer": "schedulefree"},
    {"dtype": "bf16_pure", "optimizer": "adamw8bit"},
    {"dtype": "fp16", "optimizer": "adamw8bit", "ema_decay": 0.99},
    {"dtype": "bf16_pure", "method": "lora"},
]


@pytest.mark.parametrize("options", RECIPES, ids=str)
def test_prediction_is_within_five_percent_of_real_tensors(options: dict[str, Any]) -> None:
    config = CsmConfig.model_validate({"device": "cpu", **options})
    examples = examples_of(make_split([160, 145, 170]))
    batch = collate(examples, range(3), depth_fraction=0.5, draw=None)
    terms = CsmFamily().loss_terms(config)
    predicted = empty_model(SMALL)
    prepare(predicted, CsmFamily(), config)
    found = measure_step(predicted, batch, terms, config)

    model = empty_model(SMALL)
    init_weights(model, 0)
    prepare(model, CsmFamily(), config)
    model.join_weights()
    activations = peak_of_pass(model, batch, terms, config)
    optimizer = build_optimizer(model, CsmFamily(), config)
    set_learning_rate(optimizer, 1e-3)
    optimizer.step()
    update_average(optimizer)
    state = optimizer_tensors(model, optimizer)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    real = {
        "weights": weights,
        "gradients": sum(g.numel() * g.element_size() for g in gradients),
        "optimizer": sum(t.numel() * t.element_size() for t in state.values()),
        "activations": activations,
    }
    if config.optimizer == "schedulefree":  # the weights are there twice while they are averaged
        real["optimizer"] += real["gradients"]
    for name, expected in real.items():
        assert getattr(found, name) == pytest.approx(expected, rel=0.05), name


@pytest.mark.parametrize("name", ["moshi", "moonshine"])
def test_other_families_are_measured(name: str) -> None:
    model, batch = CASES[name]()
    config = TrainConfig(device="cpu", dtype="fp32")
    terms = open_family(name).loss_terms(open_family(name).train_config())
    real = peak_of_pass(model, batch, terms, config)
    # The prediction counts the micro-batch, which a GPU holds, too; here it was there before.
    tensors = [value for value in vars(batch).values() if isinstance(value, torch.Tensor)]
    real += sum(tensor.nbytes for tensor in tensors)
    assert measure_step(model, batch, terms, config).activations == pytest.approx(real, rel=0.01)


def test_live_bytes_by_hand() -> None:
    with LiveBytes() as live:
        first = torch.zeros(1000)
        assert live.live == 4000
        second = first.view(10, 100) + 1
        assert live.live == 8000
        del first
        assert (live.live, live.peak) == (4000, 8000)
        del second
    assert live.live == 0


def test_smallest_card_leaves_room() -> None:
    def card(gb: float) -> int | None:
        return StepMemory(int(gb * 2**30), 0, 0, 0).smallest_card_gb

    assert [card(gb) for gb in (1, 7.4, 7.5, 22, 75, 140)] == [8, 8, 12, 24, 141, None]


def test_operations_are_counted() -> None:
    with LiveBytes() as live:
        torch.randn(4, 5) @ torch.randn(5, 6)
    assert live.flops == 2 * 4 * 5 * 6


def test_a_rank_of_fsdp_needs_its_share_and_the_block_at_work() -> None:
    model = empty_model(SMALL)
    whole = StepMemory(4 * 10**9, 4 * 10**9, 8 * 10**9, 10**9)
    part = sharded(whole, model, 4)
    all_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    assert whole.weights / 4 < part.weights <= whole.weights / 4 + 2 * all_bytes
    assert (part.optimizer, part.activations) == (2 * 10**9, 10**9)


@pytest.fixture
def base(tmp_path: Path) -> list[str]:
    """Options of a run on four examples, in folders of their own."""
    split = make_split([12, 5, 30, 1])
    save_weights(tmp_path, make_model(seed=1), SIZE.to_json())
    write_store(tmp_path / "tokens.hdf5", INFO, {"train": split, "val": split})
    paths = ["--data", str(tmp_path / "tokens.hdf5"), "--output_dir", str(tmp_path / "run")]
    base = ["--model_name_or_checkpoint_path", str(tmp_path), "--device", "cpu", "--dry_run"]
    sizes = ["--batch_size", "2", "--gen_every", "0", "--wandb", "off", "--n_epochs", "3"]
    return [*paths, *base, *sizes]


def test_dry_run_tells_and_writes_nothing(
    tmp_path: Path,
    base: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, passes = sorted(tmp_path.rglob("*")), []

    def measure(*given: Any) -> LiveBytes:
        passes.append(given)
        return measure_pass(*given)

    monkeypatch.setattr(dry_run, "measure_pass", measure)
    assert train.main(base) == 0
    out = capsys.readouterr().out
    assert "6 optimiser steps, 4 examples an epoch\n" in out
    assert "activations of the longest micro-batch (2 x 37 positions)" in out
    assert "8 GB card  --optimizer adamw8bit --activation_checkpointing full" in out
    assert "time, a rough estimate: " in out
    assert "on one H100" in out
    assert out.endswith("nothing was started or written\n")
    assert sorted(tmp_path.rglob("*")) == before
    assert len(passes) == 6, "of seven recipes two have the same pass"


def test_dry_run_knows_the_seconds_of_a_run(
    tmp_path: Path, base: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    rows = [
        {"kind": "train", "step": step, "sec": sec} for step, sec in enumerate((9.0, 600.0, 1200.0))
    ]
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    (tmp_path / "run/metrics.jsonl").write_text(text)
    assert train.main(base) == 0
    assert "time: 1 h at 600 s a step, as measured in" in capsys.readouterr().out


def test_dry_run_knows_ranks(base: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main([*base, "--parallel", "fsdp", "--dry_run_gpus", "2"]) == 0
    out = capsys.readouterr().out
    assert "on 2 GPUs (fsdp)" in out
    assert "on 2 x H100" in out
    assert "(1 x 37 positions)" in out
    assert "adamw8bit" not in out, "fsdp does not take it"
    assert train.main([*base, "--parallel", "fsdp", "--optimizer", "adamw8bit"]) == 2
    assert "do not fit the shards" in capsys.readouterr().err
