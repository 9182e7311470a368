"""Runs side by side in one process, to be compared with the same runs alone."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from csm_ft.config.base import build
from csm_ft.config.train import TrainConfig
from csm_ft.families.model import Batch, Loss
from csm_ft.runs.folder import RunFolder
from csm_ft.sweep.messages import Doing
from csm_ft.training.lanes import Lane, Lanes
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


class StartTogether(Lanes):
    """Lanes whose first pass is taken by all runs, however long each has loaded."""

    def __init__(self, num_runs: int) -> None:
        super().__init__()
        self._loaded = threading.Barrier(num_runs)
        self.pools: dict[Lane, Any] = {}

    def forward(self, lane: Lane, pool: Any, batch: Batch) -> Loss:
        if lane not in self.pools:
            self.pools[lane] = pool
            pool.training.add(lane)
            self._loaded.wait(timeout=300)
        return super().forward(lane, pool, batch)


class Follower:
    """A reporter that lets every run go on."""

    def __init__(self) -> None:
        self.steps = 0

    def alive(self, doing: Doing | None = None) -> None: ...

    def progress(self, step: int, examples: int) -> None:
        self.steps = step

    def validated(self, examples: int, metrics: Mapping[str, float]) -> bool:
        return True


def together(configs: Sequence[TrainConfig], lanes: Lanes) -> list[RunResult]:
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


def train_side_by_side(
    kind: type[TrainConfig], runs: Sequence[dict[str, Any]], folder: Path, **common: Any
) -> list[Path]:
    """Train adapters alone and side by side, compare all losses; return the latter's folders."""

    def configs(name: str) -> list[TrainConfig]:
        folders = [str(folder / f"{name}{number}") for number in range(len(runs))]
        pairs = zip(runs, folders, strict=True)
        return [build(kind, {**COMMON, **common, **own, "output_dir": f}) for own, f in pairs]

    for config in configs("alone"):
        run(config)
    lanes = StartTogether(len(runs))
    results = together(configs("joined"), lanes)
    assert [result.status for result in results] == ["completed"] * len(runs)
    num_shared = len(runs) - len(set(lanes.pools.values()))
    assert num_shared > 0
    until_validation = int(COMMON["val_every"])  # each pass up to there is one for all of a pool
    assert lanes.num_joined - lanes.num_passes >= until_validation * num_shared
    for number in range(len(runs)):
        for rows in ("train", "val"):
            expected = losses(folder / f"alone{number}", rows)
            actual = losses(folder / f"joined{number}", rows)
            assert len(actual) == len(expected) > 0
            assert actual == pytest.approx(expected, rel=1e-5), (rows, runs[number])
    return [folder / f"joined{number}" for number in range(len(runs))]
