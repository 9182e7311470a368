"""Runs side by side in one process train what each of them trains alone."""

from pathlib import Path
from typing import Any

import torch

from csm_ft.families.csm.config import CsmConfig
from tests.helpers.side_by_side import losses, train_side_by_side

# What a sweep over adapters varies: rates, shapes of the adapter, batches, lengths, seeds.
RUNS: list[dict[str, Any]] = [
    {"learning_rate": 1e-3},
    {"learning_rate": 3e-3, "lora_alpha": 32},
    {"learning_rate": 5e-4, "lora_rank": 4, "seed": 7},
    {"learning_rate": 2e-3, "batch_size": 3, "n_epochs": 1},
    {"learning_rate": 2e-3, "lora_targets": "q_proj"},  # no part in the others' passes
]


def test_runs_side_by_side_equal_runs_alone(tokens: Path, tmp_path: Path) -> None:
    deterministic = torch.are_deterministic_algorithms_enabled()
    # Each run has a log of its own, without the lines of the others.
    for folder in train_side_by_side(CsmConfig, RUNS, tmp_path, data=str(tokens)):
        log = (folder / "log.txt").read_text()
        assert log.count("  val_loss ") == len(losses(folder, "val"))
        assert log.count("  epoch ") == len(losses(folder, "train"))
    assert torch.are_deterministic_algorithms_enabled() == deterministic
