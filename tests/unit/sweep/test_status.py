"""`sweep.py --status`: how a sweep stands, from its files alone."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import sweep
from csm_ft.atomic import exclusive
from csm_ft.runs.folder import SweepFolder
from csm_ft.sweep.status import describe_sweep
from tests.conftest import ROOT
from tests.helpers.sweep_folder import make_sweep, write_summary


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    return tmp_path, make_sweep(tmp_path, samples=False)


def test_finished_sweep(made: tuple[Path, dict[str, Any]]) -> None:
    out, summary = made
    lines = describe_sweep(out).splitlines()
    assert lines[0].endswith(": finished")
    assert lines[1] == "6 of 6 trials ended: 3 completed, 2 stopped early, 1 diverged"
    best = summary["trials"][summary["best"]]
    assert lines[2].startswith(f"best: trial {best['number']}, val_loss {best['value']:.3f} nats")
    assert lines[3].startswith("default: trial 0, val_loss")
    reason = "loss is not finite at step 34 (learning_rate 0.003)"
    log = SweepFolder(out).trial(4).log
    assert lines[4:] == [f"trial 4 diverged: {reason} ({log})"]


def test_running_trial_and_lock(made: tuple[Path, dict[str, Any]]) -> None:
    out, summary = made
    folder = SweepFolder(out)
    summary["state"] = "running"
    summary["trials"][5] |= {"state": "running", "value": None}
    write_summary(out, summary)
    row = {"kind": "train", "step": 7, "epoch": 0.5, "eta_sec": 75.0, "time": time.time() - 3}
    folder.trial(5).metrics.write_text(json.dumps(row) + "\n")
    with exclusive(folder.lock, "held"):
        said = describe_sweep(out)
    assert said.splitlines()[0].endswith(": running")
    assert "trial 5: step 7, epoch 0.50, 1 min 15 s left; last heard of 3 s ago" in said
    assert (
        describe_sweep(out)
        .splitlines()[0]
        .endswith(": not running; the command that began it continues")
    )


def test_folder_of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep.main(["--status", str(tmp_path)]) == 2
    assert "give the folder that sweep.py wrote (its --output_dir)" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_status_needs_no_torch(made: tuple[Path, dict[str, Any]]) -> None:
    code = (
        f"import sys, sweep; code = sweep.main(['--status', {str(made[0])!r}]);"
        " sys.exit(code or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
