"""The W&B run of a sweep, read back: the leaderboard, the verdict, recordings side by side."""

from pathlib import Path
from typing import Any

import pytest

from csm_ft.config.train import TrainConfig
from csm_ft.runs import wandb_mirror
from csm_ft.runs.folder import SweepFolder
from csm_ft.sweep.config import SweepConfig
from csm_ft.sweep.wandb_run import mirror_sweep
from tests.helpers.sweep_folder import SENTENCES, add_judged, make_sweep, write_summary
from tests.helpers.wandb_files import OfflineRun, offline_runs

SWEEP = SweepConfig(study_name="demo")
OFFLINE = TrainConfig(wandb="offline", wandb_project=SWEEP.wandb_project)


def recorded(out: Path) -> OfflineRun:
    mirror_sweep(SweepFolder(out), SWEEP, OFFLINE)
    return offline_runs(out)[-1]


def step_shown(trial: dict[str, Any]) -> int:
    """The sampled step that is nearest to a trial's best validation."""
    return min((90, 180), key=lambda step: abs(8 * step - trial["best_examples"]))


def test_it_stands_beside_its_trials(tmp_path: Path) -> None:
    summary = make_sweep(tmp_path)
    run = recorded(tmp_path)
    assert (run.name, run.group, run.project, run.job_type) == (
        "demo",
        "demo",
        "csm-sweep",
        "sweep",
    )
    assert run.id == (tmp_path / "wandb_id.txt").read_text().split()[0]
    assert run.summary["verdict"] == summary["verdict"]["text"]
    assert run.summary["best_trial"] == summary["best"]
    assert run.summary["state"] == "finished"
    assert (run.config["study_name"], run.config["n_trials"]) == ("demo", 20)


def test_leaderboard_is_best_first(tmp_path: Path) -> None:
    summary = make_sweep(tmp_path)
    # A parameter of several kinds, and one that not every trial has.
    summary["trials"][1]["params"] |= {"warmup_steps": 100, "lora_rank": 8}
    write_summary(tmp_path, summary)
    rows = recorded(tmp_path).rows("leaderboard")
    searched = [*summary["trials"][0]["params"], "lora_rank"]
    assert list(rows[0]) == ["trial", "state", "value", *searched, "seconds", "is_default"]
    assert sorted(row["trial"] for row in rows) == list(range(6))
    assert rows[0]["trial"] == summary["best"]
    for row in rows:
        trial = summary["trials"][row["trial"]]
        assert (row["state"], row["seconds"]) == (trial["state"], trial["seconds"])
        assert row["learning_rate"] == trial["params"]["learning_rate"]
        assert row["warmup_steps"] == str(trial["params"]["warmup_steps"])
        assert row["is_default"] == (row["trial"] == 0)
        assert row["lora_rank"] == (8 if row["trial"] == 1 else None)


def test_recordings_stand_side_by_side(tmp_path: Path) -> None:
    summary = make_sweep(tmp_path)
    assert summary["best"] != 0
    run = recorded(tmp_path)
    rows = run.rows("recordings")
    assert list(rows[0]) == ["sentence", "reconstruction", "base", "default", "best"]
    assert [row["sentence"] for row in rows] == [text for text, _ in SENTENCES.values()]
    default, best = summary["trials"][0], summary["trials"][summary["best"]]
    for number, (prompt, row) in enumerate(zip(SENTENCES, rows, strict=True)):
        samples = f"samples/{prompt}/step_000"
        wanted = {
            "reconstruction": tmp_path / f"baseline/samples/reference/clip{number}.wav",
            "base": tmp_path / f"baseline/samples/{prompt}/step_000000.wav",
            "default": tmp_path / "trials/0000" / f"{samples}{step_shown(default):03d}.wav",
            "best": tmp_path / best["dir"] / f"{samples}{step_shown(best):03d}.wav",
        }
        for role, wav in wanted.items():
            assert row[role].read_bytes() == wav.read_bytes(), role
            assert run.folder in row[role].parents, "the folder is complete"


def test_answers_that_are_text(tmp_path: Path) -> None:
    summary = make_sweep(tmp_path, text_only=True)
    assert summary["best"] == 0, "the default is the best, and has one column"
    row = recorded(tmp_path).rows("recordings")[0]
    heard = f"{row['sentence'].lower()} as heard at"
    assert row == {
        "sentence": row["sentence"],
        "base": f"{heard} 0",
        "best": f"{heard} {step_shown(summary['trials'][0])}",
    }


def test_a_sweep_that_has_only_begun(tmp_path: Path) -> None:
    summary = make_sweep(tmp_path, num_trials=1, samples=False)
    trial = {**summary["trials"][0], "state": "running", "value": None, "best_examples": None}
    more: dict[str, Any] = {"trials": [trial], "best": None, "verdict": None}
    write_summary(tmp_path, {**summary, **more, "state": "unfinished"})
    run = recorded(tmp_path)
    assert run.summary["verdict"] == "no trial has completed yet"
    (row,) = run.rows("leaderboard")
    assert (row["state"], row["value"]) == ("running", None)
    assert "recordings" not in run.tables


def test_judged_numbers_are_columns(tmp_path: Path) -> None:
    summary = make_sweep(tmp_path)
    add_judged(tmp_path, summary)
    rows = recorded(tmp_path).rows("leaderboard")
    assert list(rows[0])[3:6] == ["wer", "similarity", "seconds"]
    by_number = {row["trial"]: row["wer"] for row in rows}
    assert by_number[0] == summary["trials"][0]["metrics"]["wer"]


def test_the_same_run_is_brought_up_to_date(tmp_path: Path) -> None:
    make_sweep(tmp_path)
    first = recorded(tmp_path)
    folder = first.folder.rename(tmp_path / "synced")  # two in one second would share a folder
    assert folder.is_dir()
    assert recorded(tmp_path).id == first.id


def test_off_leaves_nothing(tmp_path: Path) -> None:
    make_sweep(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    mirror_sweep(SweepFolder(tmp_path), SWEEP, OFFLINE.replace(wandb="off"))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_failure_is_told_and_not_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror_sweep(SweepFolder(tmp_path), SWEEP, OFFLINE)
    assert "the sweep has no W&B run" in capsys.readouterr().out

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a broken install")

    make_sweep(tmp_path)
    monkeypatch.setattr(wandb_mirror, "_init", fail)
    mirror_sweep(SweepFolder(tmp_path), SWEEP, OFFLINE)
    assert "W&B did not start (a broken install)" in capsys.readouterr().out
