"""metrics.jsonl is the truth, and its rows are means over targets."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from csm_ft.config.train import TrainConfig
from csm_ft.errors import MachineError
from csm_ft.families.base import Term
from csm_ft.runs.folder import RunFolder
from csm_ft.runs.metrics import Tracker, add, training_line, training_row

ROOT = Path(__file__).resolve().parents[3]
OFF = TrainConfig(wandb="off")


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_rows_are_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    with Tracker(RunFolder(tmp_path), OFF, keep_bytes=0) as tracker:
        tracker.row("train", 1, {"loss": 2.0})
        kept = tracker.num_bytes
        tracker.row("train", 2, {"loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    with Tracker(RunFolder(tmp_path), OFF, keep_bytes=kept) as tracker:
        tracker.row("val", 2, {"val_loss": 1.5})
    assert rows(tmp_path) == [
        {"kind": "train", "step": 1, "loss": 2.0},
        {"kind": "val", "step": 2, "val_loss": 1.5},
    ]


def test_off_does_not_import_wandb(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from csm_ft.runs.folder import RunFolder; from"
        " csm_ft.runs.metrics import Tracker; from csm_ft.config.train import TrainConfig\nwith"
        f" Tracker(RunFolder(Path({str(tmp_path)!r})), TrainConfig(wandb='off'), keep_bytes=0) as"
        " t: t.row('val', 1, {'val_loss': 1.0})\nprint('wandb' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


TERMS = [Term(2.0, {"c0": 1.0}), Term(0.5, {"letters": 1.0, "spaces": 0.5})]


def step_sums(nats: float, count: int) -> dict[str, float]:
    sums: dict[str, float] = {}
    for place, part in enumerate(("c0", "letters", "spaces"), start=1):
        sums |= {f"nats_{part}": nats * place, f"count_{part}": count * place}
    counted = {"grad_norm": 3.0, "positions": 90, "padded": 100, "micro_batches": 2}
    timed = {"sec": 0.5, "data_sec": 0.1, "compute_sec": 0.3, "update_sec": 0.1}
    return {**sums, **counted, **timed, "audio_sec": 10.0, "steps": 1}


def test_training_rows_are_means_over_targets() -> None:
    totals: dict[str, float] = {}
    add(totals, step_sums(8.0, 4))
    add(totals, {**step_sums(1.0, 1), "grad_norm": 5.0, "positions": 60})
    row = training_row(totals, TERMS)
    # Nats 9, 18, 27 over 5, 10, 15 targets: each mean is over the targets of both steps.
    assert (row["c0"], row["letters"], row["spaces"]) == pytest.approx((1.8, 1.8, 1.8))
    assert row["loss"] == pytest.approx(2 * 9 / 5 + 0.5 * (18 + 13.5) / (10 + 7.5))
    assert row["grad_norm"] == 4.0
    assert row["padding_share"] == pytest.approx(1 - 150 / 200)
    assert (row["sec"], row["micro_batches"], row["audio_sec_per_sec"]) == (0.5, 2.0, 20.0)
    shown = {**row, "epoch": 0.5, "learning_rate": 1e-3, "eta_sec": 3661}
    line = training_line(7, 10, shown, TERMS)
    assert line.startswith("step 7/10  epoch 0.50  loss 4.5000 (c0 1.800 letters 1.800 spaces")
    assert line.endswith("lr 1.00e-03  20x real time, padding 25.0%, 1:01:01 left")


def test_a_part_without_targets_is_zero() -> None:
    row = training_row({**step_sums(8.0, 4), "nats_c0": 0.0, "count_c0": 0}, TERMS)
    assert row["c0"] == 0.0
    assert row["loss"] == pytest.approx(0.5 * 2.0)


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with Tracker(folder, OFF, keep_bytes=0) as tracker:
        folder.metrics.unlink()
        folder.metrics.symlink_to("/dev/full")
        with pytest.raises(MachineError, match=r"metrics\.jsonl could not be written: No space"):
            tracker.row("train", 1, {"loss": 2.0})
