"""metrics.jsonl is the truth.

Weights & Biases can neither stop a run nor be imported when it is off.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from csm_ft.config import TrainConfig
from csm_ft.runs import metrics as track
from csm_ft.runs.metrics import Tracker

ROOT = Path(__file__).resolve().parents[3]
OFF = TrainConfig(wandb="off")


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_rows_are_cut_back_to_the_checkpoint_and_a_torn_line_is_dropped(tmp_path: Path) -> None:
    with Tracker(tmp_path, OFF, keep_bytes=0) as tracker:
        tracker.row("train", 1, {"loss": 2.0})
        kept = tracker.num_bytes
        tracker.row("train", 2, {"loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    with Tracker(tmp_path, OFF, keep_bytes=kept) as tracker:
        tracker.row("val", 2, {"val_loss": 1.5})
    assert rows(tmp_path) == [
        {"kind": "train", "step": 1, "loss": 2.0},
        {"kind": "val", "step": 2, "val_loss": 1.5},
    ]


def test_off_does_not_import_wandb(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from csm_ft.runs.metrics import Tracker; from"
        f" csm_ft.config import TrainConfig\nwith Tracker(Path({str(tmp_path)!r}),"
        " TrainConfig(wandb='off'), keep_bytes=0) as t: t.row('val', 1, {'val_loss':"
        " 1.0})\nprint('wandb' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


class BrokenRun:
    """A W&B run that fails at every call."""

    calls = 0

    def __getattr__(self, name: str) -> Any:
        BrokenRun.calls += 1
        raise ConnectionError("no network")


def test_a_broken_mirror_never_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(track, "_start_wandb", lambda folder, config: BrokenRun())
    with Tracker(tmp_path, OFF, keep_bytes=0) as tracker:
        tracker.row("train", 1, {"loss": 2.0})
        tracker.row("train", 2, {"loss": 1.0})
        tracker.summary({"x": 1})
    assert len(rows(tmp_path)) == 2
    assert BrokenRun.calls == 1, "it is given up after the first failure"


def test_offline_without_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with Tracker(tmp_path, TrainConfig(wandb="auto"), keep_bytes=0) as tracker:
        tracker.row("val", 1, {"val_loss": 1.0})
        assert tracker._wandb is not None
        assert tracker._wandb.offline
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
