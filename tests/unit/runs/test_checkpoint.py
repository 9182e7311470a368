"""Checkpoints are there whole or not at all, and a run goes on exactly from them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from csm_ft.errors import MachineError
from csm_ft.families.csm.config import CsmConfig
from csm_ft.families.csm.data import collate
from csm_ft.families.csm.family import CsmFamily
from csm_ft.families.csm.model import CsmModel
from csm_ft.runs.averaging import update_average
from csm_ft.runs.checkpoint import (
    Trained,
    TrainState,
    load_optimizer,
    load_weights,
    save_best,
    save_checkpoint,
    weights_bytes,
)
from csm_ft.runs.folder import RunFolder
from csm_ft.training.optim import averaged, build_optimizer, choose_parameters
from csm_ft.training.sizes import sizes_of
from tests.helpers.splits import examples_of, make_model, make_split


def make(seed: int, **options: Any) -> tuple[CsmModel, torch.optim.Optimizer]:
    model, config = make_model(seed), CsmConfig(learning_rate=0.1, **options)
    choose_parameters(model, CsmFamily(), config)
    return model, build_optimizer(model, CsmFamily(), config)


def step(model: CsmModel, optimizer: torch.optim.Optimizer, seed: int) -> None:
    optimizer.zero_grad()
    loss = model(
        collate(examples_of(make_split([4, 7], seed)), [0, 1], depth_fraction=1.0, draw=None)
    )
    (loss["c0"].sum() + loss["depth"].sum()).backward()
    optimizer.step()
    update_average(optimizer)


@pytest.mark.parametrize(
    "options",
    [
        {"ema_decay": 0.7},
        {"ema_decay": 0.7, "method": "lora", "lora_rank": 2},
        {"ema_decay": 0.7, "optimizer": "adamw8bit"},
        {},
        {"method": "lora", "lora_rank": 2},
        {"method": "depth_only"},
        {"optimizer": "schedulefree"},
        {"optimizer": "schedulefree", "method": "lora", "lora_rank": 2},
    ],
    ids=[
        "ema",
        "ema_lora",
        "ema_8bit",
        "full",
        "lora",
        "depth_only",
        "schedulefree",
        "schedulefree_lora",
    ],
)
def test_a_restored_run_goes_on_exactly(tmp_path: Path, options: dict[str, Any]) -> None:
    model, optimizer = make(0, **options)
    for seed in range(3):
        step(model, optimizer, seed)
    state = TrainState(step=3, examples=24, best={"val_loss": 1.5}, window={"nats_c0": 0.1 + 0.2})
    folder = RunFolder(tmp_path)
    with averaged(optimizer):
        save_checkpoint(folder, Trained(model, optimizer, {"size": 1}), state, keep_last=2)
    other, other_optimizer = make(0 if options.get("method") == "lora" else 1, **options)
    (saved,) = folder.step_folders()
    assert (saved, TrainState.exists(saved)) == (folder.step_folder(3), True)
    load_weights(saved, other)
    load_optimizer(saved, other, other_optimizer)
    assert TrainState.read(saved) == state
    for seed in range(3, 6):
        step(model, optimizer, seed)
        step(other, other_optimizer, seed)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    with averaged(optimizer), averaged(other_optimizer):
        for a, b in zip(model.parameters(), other.parameters(), strict=True):
            assert torch.equal(a, b)


def test_the_last_n_are_kept_by_number(tmp_path: Path) -> None:
    model, optimizer = make(0)
    folder, trained = RunFolder(tmp_path), Trained(model, optimizer, {})
    for number in (5, 999_999, 1_000_000, 1_000_001):
        save_checkpoint(folder, trained, TrainState(step=number), keep_last=2)
    assert [p.name for p in folder.step_folders()] == ["step_1000000", "step_1000001"]
    assert {p.name for p in folder.checkpoints.iterdir()} == {"step_1000000", "step_1000001"}


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_full_disk_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device")

    folder, trained = RunFolder(tmp_path), Trained(*make(0, method=method), {})
    save_checkpoint(folder, trained, TrainState(step=1), keep_last=1)
    monkeypatch.setattr("csm_ft.families.model.save_file", full)
    with pytest.raises(MachineError, match=r"No space left on device \(disk /"):
        save_checkpoint(folder, trained, TrainState(step=2), keep_last=1)
    assert [p.name for p in folder.step_folders()] == ["step_000001"]


@pytest.mark.parametrize("method", ["full", "lora"])
def test_no_save_begins_without_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The size that is asked for is that of the files, and the last checkpoint stays."""
    model, optimizer = make(0, method=method)
    step(model, optimizer, 0)
    folder, trained = RunFolder(tmp_path), Trained(model, optimizer, {})
    save_checkpoint(folder, trained, TrainState(step=1), keep_last=1)
    size = sum(path.stat().st_size for path in folder.step_folder(1).glob("*.safetensors"))
    monkeypatch.setattr("csm_ft.atomic.free_bytes", lambda _: 1000)
    with pytest.raises(MachineError, match=r"it takes 0 MB \(disk /.*Make room") as raised:
        save_checkpoint(folder, trained, TrainState(step=2), keep_last=1)
    assert "step_000002 was not written" in str(raised.value)
    with pytest.raises(MachineError, match="best was not written"):
        save_best(folder, trained, TrainState(step=2), {})
    assert [p.name for p in folder.checkpoints.iterdir()] == ["step_000001"]
    expected = weights_bytes(model) + sizes_of(model, CsmConfig(method=method)).optimizer_bytes
    assert 0.9 * size < expected < size


def test_a_state_of_earlier_versions_is_read(tmp_path: Path) -> None:
    """As 0.2 wrote them: the last validation loss alone, and no metrics."""
    (tmp_path / "state.json").write_text(
        '{"step": 20, "examples": 160, "epoch": 2.0, "train_sec": 35.25, "best": {"val_loss":'
        ' 12.5, "step": 20, "examples": 160, "epoch": 2.0}, "final_val_loss": 12.75, "stopped":'
        ' false, "metrics_bytes": 3808, "window": {}}'
    )
    assert TrainState.read(tmp_path) == TrainState(
        step=20,
        examples=160,
        epoch=2.0,
        train_sec=35.25,
        best={"val_loss": 12.5, "step": 20, "examples": 160, "epoch": 2.0},
        metrics={"val_loss": 12.75},
        metrics_bytes=3808,
    )
    (tmp_path / "state.json").write_text('{"step": 3, "final_val_loss": null}')
    assert TrainState.read(tmp_path) == TrainState(step=3), "before the first validation"


def test_best_holds_weights_and_each_clips_share(tmp_path: Path) -> None:
    best = RunFolder(tmp_path).best
    trained = Trained(*make(0), {"size": 1})
    save_best(RunFolder(tmp_path), trained, TrainState(step=7), {"clip": (3.5, 2)})
    assert {p.name for p in best.iterdir()} == {
        "model.safetensors",
        "config.json",
        "state.json",
        "val_clips.json",
    }
    modes = {p.name: oct(p.stat().st_mode & 0o777) for p in best.iterdir()}
    (tmp_path / "new").touch()
    assert set(modes.values()) == {oct((tmp_path / "new").stat().st_mode & 0o777)}, (
        "colleagues can read them if the umask lets them"
    )
    assert json.loads(RunFolder(tmp_path).best_val_clips.read_text()) == {"clip": [3.5, 2]}
