"""Whole sweeps with the W&B run of the sweep, and a trainer that has no model."""

import json
import signal
from pathlib import Path

import pytest

from tests.helpers.wandb_files import offline_runs
from tests.integration.test_sweep_chaos import Sweep, wait_for


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    sweep = Sweep(tmp_path, "--wandb", "offline", "--study_name", "voices")
    unset = ("WANDB_SERVICE", "WANDB_MODE", "WANDB_DIR", "WANDB_PROJECT")
    sweep.environment = {k: v for k, v in sweep.environment.items() if k not in unset}
    sweep.environment |= {"WANDB_API_KEY": "5e" * 20, "HF_TOKEN": "hf_doNotShowThisToAnybody"}
    return sweep


@pytest.mark.slow
def test_an_extended_sweep_updates_its_run(sweep: Sweep) -> None:
    sweep.run_apart("--n_trials", "2")
    sweep.run_apart("--n_trials", "3")
    first, second = offline_runs(sweep.out)
    assert (first.id, first.name, first.job_type) == (second.id, "voices", "sweep")
    assert [len(run.rows("leaderboard")) for run in (first, second)] == [2, 3]
    summary = sweep.summary()
    assert second.summary["verdict"] == summary["verdict"]["text"]
    assert second.rows("leaderboard")[0]["trial"] == summary["best"]
    secrets = [sweep.environment[name].encode() for name in ("WANDB_API_KEY", "HF_TOKEN")]
    files = [path for path in sweep.out.rglob("*") if path.is_file()]
    assert [path for path in files if any(s in path.read_bytes() for s in secrets)] == []


@pytest.mark.slow
def test_an_interrupted_sweep_has_its_run(sweep: Sweep) -> None:
    sweep.environment["FAKE_TRAINER"] = json.dumps({"slow_sec": 0.05})
    with sweep.start("--n_trials", "2") as process:
        wait_for(lambda: (sweep.out / "trials/0000/steps.log").is_file())
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=200)[0]
    assert process.returncode == 130, output
    (first,) = offline_runs(sweep.out)
    assert first.summary["state"] == "unfinished"
    assert first.rows("leaderboard")[0]["state"] == "running"
    sweep.environment["FAKE_TRAINER"] = "{}"
    sweep.run_apart("--n_trials", "2")
    second = offline_runs(sweep.out)[-1]
    assert (second.id, second.summary["state"]) == (first.id, "finished")
    assert {row["state"] for row in second.rows("leaderboard")} <= {"completed", "stopped"}


def test_a_broken_wandb_does_not_fail_the_sweep(sweep: Sweep, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/wandb.py").write_text("raise RuntimeError('a broken install')\n")
    sweep.environment["PYTHONPATH"] = str(tmp_path / "broken")
    output = sweep.run_apart("--n_trials", "2")
    assert "W&B did not start (a broken install); continuing without it" in output
    assert sweep.summary()["state"] == "finished"
    assert (sweep.out / "best.yaml").is_file()
