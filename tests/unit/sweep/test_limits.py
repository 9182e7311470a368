"""Limits of time, and the plateau: when they end a search, and how it goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from csm_ft.runs.folder import SweepFolder
from csm_ft.sweep.limits import Limits, seconds_of_calls
from csm_ft.sweep.request import parse
from tests.unit.sweep.test_study import Opener, complete, opener, validated

__all__ = ["opener"]  # the fixture
ROOT = Path(__file__).resolve().parents[3]


def events(path: Path, *rows: tuple[float, str]) -> Path:
    path.write_text("".join(json.dumps({"time": t, "event": e}) + "\n" for t, e in rows))
    return path


def test_time_between_calls_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert seconds_of_calls(path) == 0
    calls = [(100, "began"), (130, "ended"), (900, "began"), (905, "died"), (2000, "began")]
    assert seconds_of_calls(events(path, *calls)) == 35
    assert seconds_of_calls(events(path, (50, "dispatched"), (60, "ended"), (900, "began"))) == 10


def limits_of(tmp_path: Path, *argv: str, seconds: float = 0) -> Limits:
    folder = SweepFolder(tmp_path)
    study: Any = SimpleNamespace(folder=folder, seconds=seconds, event=lambda _: None)
    return Limits(study, parse(list(argv)).sweep)


def test_each_limit_is_named(tmp_path: Path) -> None:
    assert not limits_of(tmp_path, seconds=1e9).reached(1e9)
    events(tmp_path / "events.jsonl", (100, "began"), (3701, "ended"))
    assert limits_of(tmp_path, "--max_hours", "1").reached(0).startswith("--max_hours 1 is reached")
    assert not limits_of(tmp_path, "--max_hours", "1.1").reached(0)
    gpu = ("--gpu_hours", "2", "--trials_per_gpu", "2")
    assert not limits_of(tmp_path, *gpu, seconds=7200).reached(7100)
    assert "--gpu_hours 2" in limits_of(tmp_path, *gpu, seconds=7200).reached(7200)
    lanes = (*gpu, "--packed_lora", "4")  # eight trials on a GPU
    assert not limits_of(tmp_path, *lanes, seconds=7200 * 4).reached(7100 * 4)
    assert "--gpu_hours 2" in limits_of(tmp_path, *lanes, seconds=7200 * 4).reached(7200 * 4)
    both = ("--gpu_hours", "2", "--n_gpus", "2", "--gpus_per_trial", "2")
    assert not limits_of(tmp_path, *both, seconds=1800).reached(1700)
    assert "--gpu_hours 2" in limits_of(tmp_path, *both, seconds=1800).reached(1800)


def search(study: Any, values: list[float]) -> None:
    for value in values:
        number = study.ask()
        if validated(study, number, 100, value):
            complete(study, number, value)
        else:
            study.finish(number, "stopped")


def test_search_ends_on_a_plateau_and_goes_on_with_more(opener: Opener) -> None:
    study = opener("--n_trials", "20", "--plateau", "4")
    study.set_baseline({"val_loss": 9.0})
    search(study, [3.0, 2.0, 2.5, 2.5, 2.5])
    assert study.num_new == 15
    search(study, [2.5])
    assert study.num_new == 0
    assert study.points.plateau().startswith("the search ended after 6 of 20 trials: the last 4")
    assert opener("--n_trials", "20", "--plateau", "4").num_new == 0
    assert opener("--n_trials", "20", "--plateau", "5").num_new == 14
    longer = opener("--n_trials", "20")
    search(longer, [1.0])
    assert opener("--n_trials", "20", "--plateau", "4").num_new == 13


def test_gain_within_the_noise_is_a_plateau(opener: Opener, tmp_path: Path) -> None:
    argv = ("--n_trials", "20", "--plateau", "2", "--confirm", "1x2")
    study = opener(*argv)
    study.set_baseline({"val_loss": 9.0})
    for number, value in enumerate((3.0, 2.0, 2.5, 1.9)):
        clips = {f"c{i}": (10 * (value + 0.06 * (i - 5) * (number - 2)), 10) for i in range(11)}
        path = SweepFolder(tmp_path / "out").trial(number).val_clips
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(clips))
        search(study, [value])
    assert study.points.plateau(), "0.1 is within the noise over the clips"
    assert study.num_new == 4, "the default and the best are confirmed"
    again = opener(*argv)
    assert (again.num_new, bool(again.points.plateau())) == (4, True)


def sweep(out: Path, *argv: str, slow_sec: float = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.helpers.fake_trainer", "--data", "d", "--wandb", "off"]
    return subprocess.run(
        [*command, "--device", "cpu", "--n_trials", "3", "--output_dir", str(out), *argv],
        cwd=ROOT,
        env={**os.environ, "FAKE_TRAINER": json.dumps({"slow_sec": slow_sec})},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("option", ["--max_hours", "--gpu_hours"])
def test_limited_sweep_is_saved_and_goes_on(tmp_path: Path, option: str) -> None:
    out = tmp_path / "out"
    first = sweep(out, option, "0.0003", slow_sec=0.05)
    said = " ".join(first.stdout.split())
    assert f"{option} 0.0003 is reached: running trials are saved" in said, first.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert summary["state"] == "unfinished"
    assert any(option in note for note in summary["notes"])
    assert len([t for t in summary["trials"] if t["state"] == "completed"]) < 3
    again = sweep(out, option, "9")
    assert again.returncode == 0, again.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["state"], summary["notes"]) == ("finished", [])
    assert len(summary["trials"]) == 3
    for number in range(3):
        steps = (out / "trials" / f"{number:04d}" / "steps.log").read_text().split()
        assert len(steps) == len(set(steps)), "no step was done twice"
