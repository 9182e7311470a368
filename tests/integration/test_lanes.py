"""Runs side by side in one process train what each of them trains alone."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from csm_ft.config.base import build
from csm_ft.families.csm.config import CsmConfig
from csm_ft.runs.folder import RunFolder
from csm_ft.sweep.messages import Doing
from csm_ft.training.lanes import Lanes
from train import RunResult, run

COMMON = {
    "method": "lora",
    "n_epochs": 2,
    "batch_size": 4,
    "val_every": "4",
    "gen_every": "0",
    "wandb": "off",
    "log_every": "1",
    "device": "cpu",
    "threads": 1,
    "dtype": "fp32",
}
# What a sweep over adapters varies: rates, shapes of the adapter, batches, lengths, seeds.
RUNS: list[dict[str, Any]] = [
    {"learning_rate": 1e-3},
    {"learning_rate": 3e-3, "lora_alpha": 32},
    {"learning_rate": 5e-4, "lora_rank": 4, "seed": 7},
    {"learning_rate": 2e-3, "batch_size": 3, "n_epochs": 1},
    {"learning_rate": 2e-3, "lora_targets": "q_proj"},  # no part in the others' passes
]


class Follower:
    """A reporter that lets every run go on."""

    def __init__(self) -> None:
        self.steps = 0

    def alive(self, doing: Doing | None = None) -> None: ...

    def progress(self, step: int, examples: int) -> None:
        self.steps = step

    def validated(self, examples: int, metrics: Mapping[str, float]) -> bool:
        return True


def config_of(tokens: Path, folder: Path, options: dict[str, Any]) -> CsmConfig:
    values = {**COMMON, **options, "data": str(tokens), "output_dir": str(folder)}
    return build(CsmConfig, values)


def together(configs: Sequence[CsmConfig], lanes: Lanes) -> list[RunResult]:
    results: dict[int, RunResult | BaseException] = {}

    def work(number: int) -> None:
        try:
            results[number] = run(configs[number], Follower(), lanes=lanes)
        except BaseException as error:
            results[number] = error

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(configs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=300)
    found = [results[number] for number in range(len(configs))]
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return [one for one in found if isinstance(one, RunResult)]


def losses(folder: Path, kind: str) -> list[float]:
    name = "loss" if kind == "train" else "val_loss"
    return [row[name] for row in RunFolder(folder).rows(kind)]


def test_runs_side_by_side_equal_runs_alone(tokens: Path, tmp_path: Path) -> None:
    deterministic = torch.are_deterministic_algorithms_enabled()
    alone = [config_of(tokens, tmp_path / f"alone{i}", one) for i, one in enumerate(RUNS)]
    for config in alone:
        run(config)
    lanes = Lanes()
    joined = [config_of(tokens, tmp_path / f"joined{i}", one) for i, one in enumerate(RUNS)]
    results = together(joined, lanes)

    assert [result.status for result in results] == ["completed"] * len(RUNS)
    assert lanes.num_joined > 1.5 * lanes.num_passes  # they did meet
    for one, other in zip(alone, joined, strict=True):
        for kind in ("train", "val"):
            expected = losses(Path(one.output_dir), kind)
            actual = losses(Path(other.output_dir), kind)
            assert len(actual) == len(expected) > 0
            assert actual == pytest.approx(expected, rel=1e-5), (kind, other)
    # Each run has a log of its own, without the lines of the others.
    for config in joined:
        folder = Path(config.output_dir)
        log = (folder / "log.txt").read_text()
        assert log.count("  val_loss ") == len(losses(folder, "val"))
        assert log.count("  epoch ") == len(losses(folder, "train"))
    assert torch.are_deterministic_algorithms_enabled() == deterministic
