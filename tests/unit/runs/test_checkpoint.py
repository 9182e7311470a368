"""Checkpoints are there whole or not at all, and go on exactly."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from csm_ft.atomic import recover, whole_folder, write_whole
from csm_ft.families.csm.config import CsmConfig
from csm_ft.families.csm.data import collate
from csm_ft.families.csm.family import CsmFamily
from csm_ft.families.csm.model import CsmModel
from csm_ft.runs.checkpoint import (
    TrainState,
    checkpoints,
    load_checkpoint,
    save_best,
    save_checkpoint,
)
from csm_ft.training.optim import build_optimizer, choose_parameters
from tests.helpers.splits import examples_of, make_model, make_split


def make(seed: int, **options: Any) -> tuple[CsmModel, torch.optim.AdamW]:
    model, config = make_model(seed), CsmConfig(learning_rate=0.1, **options)
    choose_parameters(model, CsmFamily(), config)
    return model, build_optimizer(model, CsmFamily(), config)


def step(model: CsmModel, optimizer: torch.optim.AdamW, seed: int) -> None:
    optimizer.zero_grad()
    loss = model(
        collate(examples_of(make_split([4, 7], seed)), [0, 1], depth_fraction=1.0, draw=None)
    )
    (loss["c0"].sum() + loss["depth"].sum()).backward()
    optimizer.step()


@pytest.mark.parametrize(
    "options",
    [{}, {"method": "lora", "lora_rank": 2}, {"method": "depth_only"}],
    ids=["full", "lora", "depth_only"],
)
def test_a_restored_run_goes_on_bit_for_bit(tmp_path: Path, options: dict[str, Any]) -> None:
    model, optimizer = make(0, **options)
    for seed in range(3):
        step(model, optimizer, seed)
    state = TrainState(step=3, examples=24, best={"val_loss": 1.5}, window={"nats_c0": 0.1 + 0.2})
    save_checkpoint(tmp_path, model, optimizer, state, {"size": 1}, keep_last=2)
    other, other_optimizer = make(0 if options.get("method") == "lora" else 1, **options)
    assert load_checkpoint(tmp_path / "step_000003", other, other_optimizer) == state
    for seed in range(3, 6):
        step(model, optimizer, seed)
        step(other, other_optimizer, seed)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_last_n_are_kept_by_number_not_by_name(tmp_path: Path) -> None:
    model, optimizer = make(0)
    for number in (5, 999_999, 1_000_000, 1_000_001):
        save_checkpoint(tmp_path, model, optimizer, TrainState(step=number), {}, keep_last=2)
    assert [p.name for p in checkpoints(tmp_path)] == ["step_1000000", "step_1000001"]


def test_a_failure_leaves_the_old_folder(tmp_path: Path) -> None:
    path = tmp_path / "best"
    with whole_folder(path) as draft:
        (draft / "a").write_text("old")

    def fail() -> None:
        with whole_folder(path) as draft:
            (draft / "a").write_text("new")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["best"]
    assert (path / "a").read_text() == "old"


@pytest.mark.parametrize("moment", ["draft written", "old moved away", "new in place"])
def test_a_kill_at_any_moment_leaves_the_old_or_the_new(tmp_path: Path, moment: str) -> None:
    path, draft, old = tmp_path / "best", tmp_path / ".best.draft", tmp_path / ".best.old"
    for folder, text in ((path, "old"), (draft, "new")):
        folder.mkdir()
        (folder / "a").write_text(text)
    if moment != "draft written":
        path.rename(old)
    if moment == "new in place":
        draft.rename(path)
    recover(path)
    assert [p.name for p in tmp_path.iterdir()] == ["best"]
    assert (path / "a").read_text() == ("new" if moment == "new in place" else "old")


def test_best_holds_weights_and_each_clips_share(tmp_path: Path) -> None:
    model, _ = make(0)
    save_best(tmp_path, model, TrainState(step=7), {"size": 1}, {"clip": (3.5, 2)})
    assert {p.name for p in (tmp_path / "best").iterdir()} == {
        "model.safetensors",
        "config.json",
        "state.json",
        "val_clips.json",
    }
    modes = {p.name: oct(p.stat().st_mode & 0o777) for p in (tmp_path / "best").iterdir()}
    (tmp_path / "new").touch()
    assert set(modes.values()) == {oct((tmp_path / "new").stat().st_mode & 0o777)}, (
        "colleagues can read them if the umask lets them"
    )
    assert json.loads((tmp_path / "best" / "val_clips.json").read_text()) == {"clip": [3.5, 2]}


def test_text_is_written_whole(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.txt", "one")
    write_whole(tmp_path / "a.txt", "two")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "two")]
