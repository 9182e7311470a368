"""Whole sweeps with a trainer that has no model.

Exact counts, every kind of fault, kill -9 of anything at any moment.
"""

import contextlib
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import patch

import optuna
import pandas as pd
import pytest
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

import sweep as program
from csm_ft.config.base import build
from csm_ft.families.csm.config import CsmConfig
from csm_ft.report.page import build_report
from csm_ft.sweep import disk
from csm_ft.sweep.link import Link
from csm_ft.sweep.messages import FROM_WORKER, Answer, Done, FromWorker, RunTrial, Validated
from csm_ft.sweep.status import describe_sweep
from tests.helpers import fake_trainer

ROOT = Path(__file__).resolve().parents[2]
SPACE = (
    "learning_rate: {type: float, min: 1e-6, max: 1e-3, log: true}\nbatch_size: {type: categorical,"
    " values: [4, 8]}\nweight_decay: {type: float, min: 1e-3, max: 1e-1, log: true}\n"
)
# The untrained model and two trials: neither ends before the other has begun.
BOTH_RUN = {"slow_sec": 0.1, "until": {"0": ["dispatched", 3], "1": ["dispatched", 3]}}


class Sweep:
    """One sweep in a folder, typed again and again."""

    def __init__(self, folder: Path, *argv: str, faults: dict[str, Any] | None = None) -> None:
        (folder / "space.yaml").write_text(SPACE)
        self.out = folder / "out"
        self.argv = [
            *("--data", "d", "--family", "csm", "--sweep_config", str(folder / "space.yaml")),
            *("--output_dir", str(self.out), "--n_epochs", "3", "--wandb", "off"),
            *("--device", "cpu", *argv),
        ]
        self.environment = {**os.environ, "FAKE_TRAINER": json.dumps(faults or {})}

    def start(self, *argv: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "tests.helpers.fake_trainer", *self.argv, *argv]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *argv: str, code: int = 0) -> str:
        """Give the command in this process, which has imported everything, and return its output.

        Workers are processes of their own.
        """
        with (
            io.StringIO() as output,
            patch.dict(os.environ, self.environment, clear=True),
            contextlib.chdir(ROOT),
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
        ):
            returned = fake_trainer.main([*self.argv, *argv])
            said = output.getvalue()
        assert returned == code, said
        return said

    def run_apart(self, *argv: str, code: int = 0) -> str:
        """Give the command in a process of its own, and return its output."""
        with self.start(*argv) as process:
            output = process.communicate(timeout=200)[0]
        assert process.returncode == code, output
        return output

    def tell(self, kind: str) -> None:
        """Add an event that trials wait for ("until")."""
        with (self.out / "events.jsonl").open("a") as file:
            file.write(json.dumps({"event": kind}) + "\n")

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        storage = JournalStorage(JournalFileBackend(str(self.out / "study.journal")))
        return optuna.load_study(study_name="csm-sweep", storage=storage).trials

    def summary(self) -> dict[str, Any]:
        return json.loads((self.out / "summary.json").read_text())

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Rows of events.jsonl; the last line may be in the making."""
        path = self.out / "events.jsonl"
        rows = (
            [json.loads(line) for line in path.read_text().split("\n")[:-1]]
            if path.is_file()
            else []
        )
        return [row for row in rows if row["event"] == kind]

    def config(self, number: int) -> dict[str, Any]:
        path = self.out / "trials" / f"{number:04d}" / "config.yaml"
        return yaml.safe_load(path.read_text())

    def at(self, number: int, examples: int) -> dict[str, float]:
        """All metrics that a trial's run wrote of the validation at `examples`."""
        path = self.out / "trials" / f"{number:04d}" / "metrics.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        (row,) = [row for row in rows if row["examples"] == examples]
        return {name: value for name, value in row.items() if name.startswith("val_")}

    def steps(self) -> list[list[str]]:
        """All steps that each trial ever took, also those that were done again."""
        logs = (self.out / "trials").glob("*/steps.log")
        return [log.read_text().split() for log in logs]

    def check_whole(self, n_trials: int) -> Counter[str]:
        """Exactly n trials, each ended and with its outcome, none twice, none running."""
        trials = self.trials()
        assert [t.number for t in trials] == list(range(n_trials))
        assert all(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in trials)
        summary = self.summary()
        assert [t["number"] for t in summary["trials"]] == list(range(n_trials))
        assert len(list((self.out / "trials").iterdir())) == n_trials
        assert not alive(self)
        return Counter(t["state"] for t in summary["trials"])

    def check_metrics(self) -> None:
        """Every good trial's reports are those of an undisturbed run of its config.

        None lost, none invented.
        """
        for trial in self.trials():
            if trial.user_attrs["outcome"]["state"] not in ("completed", "stopped"):
                continue
            folder = self.out / "trials" / f"{trial.number:04d}"
            rows = [
                json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()
            ]
            reported = {k: v for k, v in trial.intermediate_values.items() if k > 0}
            assert reported == {row["examples"]: row["val_loss"] for row in rows}
            for row in rows:
                metrics = trial.user_attrs[f"metrics after {row['examples']} examples"]
                assert metrics == {name: row[name] for name in row if name.startswith("val_")}
            if trial.user_attrs["outcome"]["state"] == "completed":
                config = build(
                    CsmConfig,
                    {
                        "learning_rate": trial.params["learning_rate"],
                        "batch_size": trial.params["batch_size"],
                    },
                )
                assert trial.value == fake_trainer.val_loss(config, 1.0)


def alive(sweep: Sweep) -> list[int]:
    """Pids of workers of this sweep that still run."""
    pids = [row["pid"] for row in sweep.events("worker started") if "pid" in row]
    return [pid for pid in pids if is_worker(pid)]


def is_worker(pid: int) -> bool:
    try:
        return b"csm_ft.sweep.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def is_stopped(pid: int) -> bool:
    facts = Path(f"/proc/{pid}/stat").read_text()
    return facts.rpartition(")")[2].split()[0] == "T"


def wait_for(condition: Any, sec: float = 120) -> None:
    deadline_sec = time.monotonic() + sec
    while not condition():
        assert time.monotonic() < deadline_sec, "waited in vain"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("n_trials", "n_gpus", "trials_per_gpu"), [(1, 1, 1), (5, 2, 1), (3, 2, 2), (7, 1, 3)]
)
def test_exact_trial_count_for_any_split(
    tmp_path: Path, n_trials: int, n_gpus: int, trials_per_gpu: int
) -> None:
    sweep = Sweep(
        tmp_path,
        "--n_trials",
        str(n_trials),
        "--n_gpus",
        str(n_gpus),
        "--trials_per_gpu",
        str(trials_per_gpu),
    )
    sweep.run()
    sweep.check_whole(n_trials)
    sweep.check_metrics()
    assert len(sweep.events("worker started")) == min(n_trials, n_gpus * trials_per_gpu)


def test_auto_raises_workers_on_the_cpu(tmp_path: Path) -> None:
    """A second worker joins once the first has been measured; every trial still runs once."""
    argv = ("--n_trials", "6", "--trials_per_gpu", "auto", "--threads", "1", "--pruner", "none")
    faults = {"slow_sec": 0.02, "packing_window_sec": 0.3, "until": {"4": ["dispatched", 7]}}
    sweep = Sweep(tmp_path, *argv, faults=faults)
    output = sweep.run()
    assert "trials per GPU: 2" in output
    assert sweep.check_whole(6) == {"completed": 6}
    sweep.check_metrics()
    assert {t["slot"] for t in sweep.summary()["trials"]} >= {"cpu0", "cpu1"}


def test_same_command_runs_the_remainder(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    sweep.run("--n_trials", "3")
    first = [t.params for t in sweep.trials()]
    journal = (sweep.out / "study.journal").read_bytes()
    assert "3 of 3 trials done" in sweep.run("--n_trials", "3")
    assert (sweep.out / "study.journal").read_bytes() == journal
    sweep.run("--n_trials", "5")
    sweep.check_whole(5)
    assert [t.params for t in sweep.trials()][:3] == first
    assert "n_epochs: 3.0 there, 2.0 now" in sweep.run("--n_trials", "9", "--n_epochs", "2", code=2)


def test_wider_space_goes_on_with_all_trials(tmp_path: Path) -> None:
    """Also with the trial that was running when the sweep was stopped."""
    sweep = Sweep(tmp_path, "--pruner", "none", faults={"full_disk": [3]})
    sweep.run("--n_trials", "4", code=2)
    before = sweep.trials()
    wider = SPACE.replace("[4, 8]", "[2, 4, 8]").replace("1e-3, log", "1e-2, log", 1)
    (tmp_path / "space.yaml").write_text(wider)
    sweep.environment["FAKE_TRAINER"] = "{}"
    output = " ".join(sweep.run("--n_trials", "8").split())
    assert "4 trials are kept in a new study; the old journal is" in output
    assert "3 of 8 trials done, 1 to resume" in output
    assert sweep.check_whole(8) == {"completed": 8}
    sweep.check_metrics()
    assert [t.params for t in sweep.trials()[:4]] == [t.params for t in before]
    assert [t["attempts"] for t in sweep.summary()["trials"]] == [1, 1, 1, 2, 1, 1, 1, 1]
    assert "8 of 8 trials done" in sweep.run("--n_trials", "8")
    (tmp_path / "space.yaml").write_text(wider.replace("1e-6", "1e-4", 1))
    output = " ".join(sweep.run("--n_trials", "9", code=2).split())
    assert "trial 0 does not fit into it: it has learning_rate 3e-05" in output


def test_dead_worker_costs_only_steps(tmp_path: Path) -> None:
    sweep = Sweep(
        tmp_path,
        "--n_trials",
        "4",
        "--n_gpus",
        "2",
        "--pruner",
        "none",
        faults={"kill": {"0": 1, "2": 1}},
    )
    sweep.run()
    assert sweep.check_whole(4) == {"completed": 4}
    sweep.check_metrics()
    assert [t["attempts"] for t in sweep.summary()["trials"]] == [2, 1, 2, 1]
    died = sweep.events("worker died")
    assert Counter(row["trial"] for row in died) == {0: 1, 2: 1}
    assert all(row["how"] == "killed by SIGKILL" for row in died)
    steps = (sweep.out / "trials" / "0000" / "steps.log").read_text().split()
    assert len(steps) - len(set(steps)) <= 2, "it resumed from its checkpoint"


def test_every_kind_of_fault(tmp_path: Path) -> None:
    faults = {
        "diverge": [1],
        "diverge_at_once": [2],
        "infeasible": [3],
        "kill": {"4": 99},
        "raise": [5],
        "out_of_memory": {"8": 1},
        "no_memory_to": {"9": "validation"},
    }
    sweep = Sweep(tmp_path, "--n_trials", "10", "--n_gpus", "1", "--pruner", "none", faults=faults)
    sweep.run()
    assert sweep.check_whole(10) == {"completed": 3, "diverged": 2, "infeasible": 3, "poison": 2}
    rows = sweep.summary()["trials"]
    assert "the loss is not finite" in rows[1]["reason"]
    reason = "OutOfMemoryError: CUDA out of memory. Micro-batches of 512 positions cannot be halved"
    assert rows[8]["reason"].startswith(reason)
    assert "--method lora" in rows[8]["reason"]
    reason = (
        "OutOfMemoryError: CUDA out of memory (in validation); less memory is needed by --method"
    )
    assert rows[9]["reason"].startswith(reason), "smaller micro-batches do not help a validation"
    assert rows[3]["reason"] == "ConfigError: backbone: 33 heads do not go into 2048"
    assert "killed by SIGKILL; 3 times without progress, on cpu0" in rows[4]["reason"]
    # Progress is reported now and then, so the first repetition may look like progress.
    assert rows[4]["attempts"] in (3, 4)
    assert (
        "KeyError: 'a bug in the trainer'; 3 times without progress, on cpu0" in rows[5]["reason"]
    )
    assert all(row["value"] is None for row in rows if row["state"] != "completed")
    assert rows[sweep.summary()["best"]]["state"] == "completed"


def test_out_of_memory_halves_micro_batches_of_all(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "--pruner", "none", faults={"out_of_memory": {"1": 4096}})
    output = " ".join(sweep.run("--n_trials", "3").split())
    assert "trial 1 ran out of memory with micro-batches of 16384 positions" in output
    assert sweep.check_whole(3) == {"completed": 3}
    sweep.check_metrics()
    assert [t["attempts"] for t in sweep.summary()["trials"]] == [1, 3, 1]
    steps = (sweep.out / "trials" / "0001" / "steps.log").read_text().split()
    assert len(steps) - len(set(steps)) <= 4, "it resumed from its checkpoint"
    assert [sweep.config(number)["micro_batch_tokens"] for number in range(3)] == [
        16384,
        4096,
        4096,
    ]
    assert sweep.config(1)["batch_size"] == sweep.trials()[1].params["batch_size"]
    said = describe_sweep(sweep.out)
    assert "micro_batch_tokens is 4096 for all trials from now on (16384 asked for)" in said
    assert "micro_batch_tokens is 4096" in build_report(sweep.out).read_text()


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("run", "3 trials in a row ended there before their first step, the last by RuntimeError"),
        pytest.param(
            "import",
            "its workers do not get as far as the trainer (exit code 1)",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_bad_slot_is_set_aside(tmp_path: Path, where: str, reason: str) -> None:
    """It costs no trial, although no trial has run well when it is noticed."""
    argv = ("--n_trials", "5", "--n_gpus", "2", "--n_epochs", "1", "--pruner", "none")
    until = {str(number): ["slot set aside", 1] for number in range(5)}
    sweep = Sweep(tmp_path, *argv, faults={"bad_slot": {"cpu1": where}, "until": until})
    output = " ".join(sweep.run().split())
    assert f"slot cpu1 is set aside until the next start: {reason}" in output
    assert sweep.check_whole(5) == {"completed": 5}
    assert {t["slot"] for t in sweep.summary()["trials"]} == {"cpu0"}
    (note,) = sweep.summary()["notes"]
    assert note.startswith("slot cpu1 is set aside")


def test_last_slot_ends_the_sweep(tmp_path: Path) -> None:
    sweep = Sweep(
        tmp_path,
        "--n_trials",
        "6",
        "--pruner",
        "none",
        faults={"raise_early": ["0001", "0002", "0003"]},
    )
    output = " ".join(sweep.run("--max_attempts", "1", code=2).split())
    assert "cpu0, the last slot, cannot be used: 3 trials in a row ended there before" in output
    assert "Traceback" not in output
    states = [trial["state"] for trial in sweep.summary()["trials"][:4]]
    assert states == ["completed", "poison", "poison", "running"]


def test_bug_ends_sweep_until_repaired(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "--n_trials", "8", "--n_gpus", "2", faults={"raise": list(range(8))})
    output = sweep.run(code=1)
    assert output.count("Traceback (most recent call last)") == 1
    assert "3 trials ended by the same line, none has run well" in output
    assert "KeyError: 'a bug in the trainer'" in output
    assert len(sweep.trials()) <= 4
    sweep.environment["FAKE_TRAINER"] = "{}"
    sweep.run()
    sweep.check_whole(8)


def test_user_error_has_no_traceback(tmp_path: Path) -> None:
    output = Sweep(tmp_path, faults={"infeasible": ["baseline"]}).run(code=2)
    assert output.rstrip().endswith("error: backbone: 33 heads do not go into 2048")
    assert "Traceback" not in output
    assert "more than the 0" not in output


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("full_disk", "checkpoints could not be written: No space left on device"),
        (
            "raw_full_disk",
            "MB free). Make room or check the permissions; the same command continues",
        ),
        ("no_base", "base: no such file or folder"),
        ("damaged_data", "d: is not a readable token file"),
    ],
)
def test_faults_of_others_end_sweep_until_repaired(tmp_path: Path, fault: str, reason: str) -> None:
    """What is not the trial's fault is not charged to it, before and after a good trial."""
    sweep = Sweep(tmp_path, "--n_trials", "2", faults={fault: [1]})
    output = sweep.run(code=2)
    assert "this is not the trial's fault" in " ".join(output.split())
    assert " ".join(output.split()).endswith(reason)
    assert [trial["state"] for trial in sweep.summary()["trials"]] == ["completed", "running"]
    sweep.environment["FAKE_TRAINER"] = "{}"
    sweep.run()
    assert sweep.check_whole(2) == {"completed": 2}


def test_full_disk_pauses_the_sweep_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ("--n_trials", "3", "--n_gpus", "1", "--pruner", "none")
    sweep = Sweep(tmp_path, *argv, faults={"full_disk": [1]})
    looks = 0

    def free_bytes(_: Path) -> int:
        nonlocal looks
        looks += bool(sweep.events("failed"))
        if looks == 3:
            os.environ["FAKE_TRAINER"] = "{}"  # of workers that are started from now on
        return 0 if 1 <= looks < 3 else 10**12

    monkeypatch.setattr(disk, "free_bytes", free_bytes)
    output = " ".join(sweep.run().split())
    assert "paused, as the disk is full: checkpoints could not be written" in output
    assert "the disk has room again: the sweep goes on" in output
    assert looks == 3
    assert sweep.check_whole(3) == {"completed": 3}
    assert len(sweep.events("failed")) == 1


def test_full_disk_under_events_and_logs(tmp_path: Path) -> None:
    """Events end the sweep with the disk named; a worker that cannot write its log goes on."""
    sweep = Sweep(tmp_path, "--n_trials", "3", "--pruner", "none", faults={"diverge": [1]})
    (sweep.out / "workers").mkdir(parents=True)
    for path in ("events.jsonl", "workers/cpu0.log"):
        (sweep.out / path).symlink_to("/dev/full")
    output = " ".join(sweep.run(code=2).split())
    assert "events.jsonl could not be written: No space left on device (disk /" in output
    assert "Traceback" not in output
    (sweep.out / "events.jsonl").unlink()
    sweep.run()
    assert sweep.check_whole(3) == {"completed": 2, "diverged": 1}
    assert not sweep.events("worker died")


@pytest.mark.parametrize("change", ["rename", "replace"])
def test_token_file_that_changes_ends_sweep(tmp_path: Path, change: str) -> None:
    data = tmp_path / "tokens.hdf5"
    data.write_text("one content")
    sweep = Sweep(tmp_path, "--n_trials", "3", "--data", str(data), faults={"slow_sec": 0.05})
    with sweep.start() as process:
        wait_for(lambda: sweep.events("dispatched"))
        data.rename(tmp_path / "aside")
        if change == "replace":
            data.write_text("another content")
        output = process.communicate(timeout=100)[0]
    assert process.returncode == 2, output
    words = {"rename": "is gone", "replace": "its content has changed"}[change]
    assert words in " ".join(output.split())
    assert "infeasible" not in output
    (tmp_path / "aside").rename(data)
    sweep.environment["FAKE_TRAINER"] = "{}"
    sweep.run()
    assert sum(sweep.check_whole(3).values()) == 3
    assert {trial["state"] for trial in sweep.summary()["trials"]} <= {"completed", "stopped"}


def test_finite_space_is_searched_without_repetition(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "--n_trials", "10")
    (tmp_path / "space.yaml").write_text(
        "learning_rate: {type: categorical, values: [1e-5, 1e-4]}\n"
        "batch_size: {type: categorical, values: [4, 8]}\n"
    )
    output = sweep.run()
    assert "6 of 10 trials were not run" in " ".join(output.split())
    sweep.check_whole(4)
    settings = {tuple(sorted(trial.params.items())) for trial in sweep.trials()}
    assert len(settings) == 4


def test_repeated_seeds_are_trials_of_their_own(tmp_path: Path) -> None:
    """Also when the sweep is killed and goes on; without the option all has been tried."""
    sweep = Sweep(tmp_path, "--n_trials", "9", "--seed", "5", faults={"kill": {"6": 1}})
    (tmp_path / "space.yaml").write_text(
        "learning_rate: {type: categorical, values: [1e-5, 1e-4]}\n"
        "batch_size: {type: categorical, values: [4, 8]}\n"
    )
    output = " ".join(sweep.run().split())
    assert "5 of 9 trials were not run" in output
    assert "--repeat_seeds tells luck from gain" in output
    best = sweep.summary()["best"]
    output = sweep.run("--repeat_seeds", "true")
    assert "were not run" not in output
    assert "seed 7" in output
    sweep.check_whole(9)
    rows = sweep.summary()["trials"]
    tried = [(*sorted(row["params"].items()), row["seed"]) for row in rows]
    assert len(set(tried)) == 9
    assert [row["seed"] for row in rows[:4]] == [5] * 4
    assert sum(row["params"] == rows[best]["params"] for row in rows) >= 3
    for row in rows:
        config = yaml.safe_load((sweep.out / row["dir"] / "config.yaml").read_text())
        assert config["seed"] == row["seed"]
    assert list(pd.read_csv(sweep.out / "trials.csv")["seed"]) == [row["seed"] for row in rows]
    page = build_report(sweep.out).read_text()
    assert '<button type="button">seed</button>' in page


def test_metrics_travel_to_table_and_page(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "--n_trials", "3", "--pruner", "none")
    sweep.run()
    summary = sweep.summary()
    assert summary["unit"] == "nats per frame"
    assert summary["formula"]
    table = pd.read_csv(sweep.out / "trials.csv")
    for number, row in enumerate(summary["trials"]):
        at_best = sweep.at(number, row["best_examples"])
        assert row["metrics"] == at_best
        assert row["value"] == at_best["val_loss"]
        for name, value in at_best.items():
            assert table[f"metrics.{name}"][number] == pytest.approx(value)
    page = build_report(sweep.out).read_text()
    assert "val_<wbr>depth" in page
    assert f"{summary['trials'][1]['metrics']['val_depth']:.3f}</td>" in page
    assert f"{summary['baseline']['metrics']['val_depth']:.3f}</td>" in page


def test_objective_other_than_the_loss(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "--n_trials", "4", "--pruner", "none", "--best_by", "val_error")
    output = sweep.run()
    summary = sweep.summary()
    rows = summary["trials"]
    assert summary["objective_metric"] == "val_error"
    assert summary["objective"] == "lowest val_error from the first rung on"
    assert all(row["value"] == row["metrics"]["val_error"] for row in rows)
    assert summary["best"] == min(rows, key=lambda row: row["value"])["number"]
    assert summary["best"] != min(rows, key=lambda row: row["metrics"]["val_loss"])["number"]
    assert summary["verdict"]["standard_error"] is None
    assert "measured for val_loss only" in summary["verdict"]["text"]
    assert "untrained model: val_error" in output
    assert "best_by: 'val_error' there, None now" in sweep.run("--best_by", "val_loss", code=2)


def test_unknown_objective_is_an_error(tmp_path: Path) -> None:
    output = Sweep(tmp_path, "--best_by", "val_nothing").run(code=2)
    assert "best_by 'val_nothing' is not among the validation metrics; choose among" in output
    assert "val_loss, val_c0" in output


@pytest.mark.slow
def test_unimportable_trainer_ends_sweep(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    start = "sys.exit(sweep.main(sys.argv[1:], trainer='no_such', describe=fake.describe))"
    code = f"import sys, sweep; from tests.helpers import fake_trainer as fake; {start}"
    done = subprocess.run(
        [sys.executable, "-c", code, *sweep.argv],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 1
    assert "no worker gets as far as importing the trainer" in done.stderr
    assert "No module named 'no_such'" in done.stderr


def test_control_c_saves_and_resumes(tmp_path: Path) -> None:
    argv = ("--n_trials", "3", "--n_gpus", "2", "--pruner", "none")
    sweep = Sweep(tmp_path, *argv, faults=BOTH_RUN)
    with sweep.start() as process:
        wait_for(lambda: (sweep.out / "trials" / "0001" / "steps.log").is_file())
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=100)[0]
    assert process.returncode == 130, output
    assert "The same command resumes them" in output
    assert not alive(sweep)
    assert sweep.summary()["state"] == "unfinished"
    assert len(sweep.events("interrupted")) == 2
    sweep.environment["FAKE_TRAINER"] = "{}"
    sweep.run()
    assert sweep.check_whole(3) == {"completed": 3}
    for number in (0, 1):
        steps = (sweep.out / "trials" / f"{number:04d}" / "steps.log").read_text().split()
        assert len(steps) == len(set(steps)), "nothing was done twice"


def test_second_control_c_ends_at_once(tmp_path: Path) -> None:
    """Of a worker that hangs, and so does not save."""
    argv = ("--n_trials", "1", "--pruner", "none")
    sweep = Sweep(tmp_path, *argv, faults={"hang": {"0": "training"}})
    with sweep.start() as process:
        wait_for(lambda: (sweep.out / "trials" / "0000" / "hung in training").is_file())
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        process.send_signal(signal.SIGTERM)
        output = process.communicate(timeout=100)[0]
    assert process.returncode == 130, output
    assert not alive(sweep)
    sweep.run()
    assert sweep.check_whole(1) == {"completed": 1}
    assert sweep.summary()["trials"][0]["attempts"] == 2


def test_stop_from_another_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ("--n_trials", "2", "--n_gpus", "2", "--pruner", "none")
    sweep = Sweep(tmp_path, *argv, faults=BOTH_RUN)
    with sweep.start() as process:
        wait_for(lambda: (sweep.out / "trials" / "0001" / "steps.log").is_file())
        assert program.main(["--stop", str(sweep.out)]) == 0
        said = capsys.readouterr().out
        output = process.communicate(timeout=100)[0]
    assert process.returncode == 130, output
    assert f"stopped the sweep in {sweep.out}; the command that began it resumes it" in said
    assert len(sweep.events("interrupted")) == 2
    assert not (sweep.out / "process.json").exists()
    assert program.main(["--stop", str(sweep.out)]) == 0
    assert f"no sweep is running in {sweep.out}" in capsys.readouterr().out


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "--n_trials", "7", "--n_gpus", "2")
    output = sweep.run("--dry_run")
    assert not sweep.out.exists()
    assert f"plan of csm-sweep in {sweep.out}: a new study" in output
    assert "trials: 7 over learning_rate, batch_size, weight_decay, after the untrained" in output
    assert "each: 144 examples, compared after 16, 48: 1/3 continue" in output
    assert "workers: cpu0, cpu1" in output
    assert "time: not known before a trial has ended" in output
    assert "disk: up to 0 MB for weights and checkpoints (disk /" in output


def test_full_disk_is_told_before_the_first_trial(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "--n_trials", "2", faults={"weights_bytes": 10**15})
    for _ in range(2):  # found when the untrained model is measured, and at each start after it
        output = " ".join(sweep.run(code=2).split())
        assert "weights and checkpoints take up to 8,000,000,000 MB with 1 worker, 0 MB" in output
        assert "MB free). Make room, or use fewer workers (--n_gpus)" in output
    assert not (sweep.out / "trials").exists()


def test_second_orchestrator_is_refused(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "--n_trials", "2", "--n_gpus", "2", faults={"slow_sec": 0.2})
    with sweep.start() as process:
        wait_for(lambda: (sweep.out / "trials" / "0000" / "steps.log").is_file())
        assert f"{sweep.out}: another sweep is running there; wait for it" in sweep.run(code=2)
        assert alive(sweep)
        process.kill()
    wait_for(lambda: not alive(sweep))


def test_stopped_worker_dies_with_its_orchestrator(tmp_path: Path) -> None:
    """Also when it is stopped before it has imported anything."""
    sweep = Sweep(tmp_path, "--n_trials", "1")
    with sweep.start() as process:
        wait_for(lambda: alive(sweep))
        (pid,) = alive(sweep)
        os.kill(pid, signal.SIGSTOP)
        process.kill()
    wait_for(lambda: not alive(sweep))


@pytest.mark.slow
def test_page_is_left(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "--n_trials", "2", faults={"page": True})
    sweep.run()
    assert (sweep.out / "report.html").stat().st_size > 10_000
    assert {"best.yaml", "best", "trials.csv", "summary.json", "study.journal", "events.jsonl"} <= {
        p.name for p in sweep.out.iterdir()
    }


def test_warm_worker_equals_fresh_process(tmp_path: Path) -> None:
    """Trial B after trial A equals B in a fresh process, in every number it reports."""
    warm = run_in_one_worker(tmp_path / "warm", [1e-3, 2e-5])
    fresh = run_in_one_worker(tmp_path / "fresh", [2e-5])
    assert warm[1] == fresh[0]
    assert warm[0] != warm[1]


def run_in_one_worker(folder: Path, rates: list[float]) -> list[dict[str, Any]]:
    link, theirs = Link[FromWorker].open(FROM_WORKER)
    arguments = ["--links", str(theirs.fileno()), "--trainer", "tests.helpers.fake_trainer"]
    results = []
    process = subprocess.Popen(
        [sys.executable, "-m", "csm_ft.sweep.worker", *arguments],
        cwd=ROOT,
        pass_fds=[theirs.fileno()],
        stdout=subprocess.DEVNULL,
    )
    with process:
        theirs.close()
        assert link.receive().type == "ready"
        for number, rate in enumerate(rates):
            values = {
                "family": "csm",
                "learning_rate": rate,
                "n_epochs": 2,
                "output_dir": str(folder / str(number)),
                "val_every": "100%",
            }
            config = build(CsmConfig, values).model_dump(mode="json")
            link.send(RunTrial(trial=number, attempt=1, config=config))
            while not isinstance(message := link.receive(), Done):
                if isinstance(message, Validated):
                    answer = {"trial": number, "attempt": 1, "examples": message.examples}
                    link.send(Answer(**answer, may_continue=True))
            results.append(message.model_dump(exclude={"trial"}))
        link.close()
        assert process.wait(timeout=100) == 0, "the end of the link is the end of the worker"
    return results


def chaos(sweep: Sweep, *, longest_gap: int, seed: int, **faults: int) -> dict[str, int]:
    """Type the command until it is done, with `faults` in random order at random moments.

    They are numbers of workers to kill, of workers to stop, which are left to the watchdog, and of
    orchestrators to kill. Gaps are counted in steps of all trials, so that a slow machine has no
    more faults for its steps than a fast one.

    Return how many of each there were, and how many workers were found to hang.
    """
    dice = random.Random(seed)
    order = [kind for kind, count in faults.items() for _ in range(count)]
    dice.shuffle(order)
    done, next_fault = Counter[str](), 0
    process, outputs = sweep.start(), []
    try:
        while process.poll() is None:
            time.sleep(0.1)
            num_steps = sum(len(steps) for steps in sweep.steps())
            victims = [pid for pid in alive(sweep) if not is_stopped(pid)]
            if not order or not victims or num_steps < next_fault:
                continue
            next_fault = num_steps + dice.randint(0, longest_gap)
            kind = order.pop()
            done[kind] += 1
            if kind == "orchestrators":
                process.kill()
                outputs.append(process.communicate()[0])
                wait_for(lambda: not alive(sweep))
                process = sweep.start()
            else:
                number = signal.SIGSTOP if kind == "stops" else signal.SIGKILL
                os.kill(dice.choice(victims), number)
        outputs.append(process.communicate()[0])
        assert process.returncode == 0, outputs[-1]
        done["hangs"] = sum(output.count(" hangs (") for output in outputs)
        return done
    finally:
        process.kill()
        process.__exit__(None, None, None)


def test_killed_workers_and_orchestrator(tmp_path: Path) -> None:
    sweep = Sweep(
        tmp_path,
        "--n_trials",
        "6",
        "--n_gpus",
        "2",
        "--max_attempts",
        "9",
        faults={"slow_sec": 0.03},
    )
    done = chaos(sweep, workers=3, orchestrators=2, longest_gap=8, seed=0)
    assert done["workers"] + done["orchestrators"] >= 2
    sweep.check_whole(6)
    sweep.check_metrics()


def test_stopped_worker(tmp_path: Path) -> None:
    argv = ("--n_trials", "4", "--n_gpus", "2", "--hang_sec", "2")
    sweep = Sweep(tmp_path, *argv, faults={"slow_sec": 0.05, "until": {"0": ["worker died", 1]}})
    with sweep.start() as process:
        log = sweep.out / "trials" / "0000" / "steps.log"
        wait_for(lambda: log.is_file() and len(log.read_text().split()) >= 3)
        slot = next(e["slot"] for e in sweep.events("dispatched") if e["trial"] == 0)
        pid = next(e["pid"] for e in sweep.events("worker started") if e["slot"] == slot)
        os.kill(pid, signal.SIGSTOP)
        output = " ".join(process.communicate(timeout=100)[0].split())
    assert process.returncode == 0, output
    assert f"trial 0 on {slot} hangs (training): silent for" in output
    assert "most recent call first" in (sweep.out / "workers" / f"{slot}.log").read_text()
    assert [e["trial"] for e in sweep.events("worker died")] == [0]
    sweep.check_whole(4)
    sweep.check_metrics()


def test_hangs_in_validations(tmp_path: Path) -> None:
    """Of the untrained model, and of a trial; trial 1 hangs in a step."""
    hangs = {"baseline": "validation", "0": "validation", "1": "training"}
    argv = ("--n_trials", "2", "--n_gpus", "2", "--hang_sec", "2", "--pruner", "none")
    sweep = Sweep(tmp_path, *argv, faults={"hang": hangs, "slow_sec": 0.01})
    output = " ".join(sweep.run().split())
    for what in ("the untrained model", "trial 0"):
        assert re.search(rf"{what} on cpu. hangs \(validation\): silent for", output)
    slot = re.search(r"trial 1 on (cpu.) hangs \(training\)", output)
    assert slot, output
    assert "in _spend_time" in (sweep.out / "workers" / f"{slot[1]}.log").read_text()
    assert sweep.check_whole(2) == {"completed": 2}
    sweep.check_metrics()
    assert [t["attempts"] for t in sweep.summary()["trials"]] == [2, 2]


def test_long_validation_is_no_hang(tmp_path: Path) -> None:
    argv = ("--n_trials", "1", "--hang_sec", "3")  # it says that it lives every second
    sweep = Sweep(tmp_path, *argv, faults={"long_validation_sec": {"baseline": 3.5}})
    assert "hangs" not in sweep.run()
    assert sweep.check_whole(1) == {"completed": 1}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_constant_kills_and_hangs_of_everything(tmp_path: Path) -> None:
    argv = ["--n_trials", "200", "--n_gpus", "2", "--max_attempts", "9", "--hang_sec", "3"]
    argv += ["--n_epochs", "12", "--save_every", "1/27"]
    sweep = Sweep(tmp_path, *argv, faults={"slow_sec": 0.01, "diverge_at_once": [7, 30]})
    done = chaos(sweep, workers=75, stops=12, orchestrators=8, longest_gap=60, seed=1)
    states = sweep.check_whole(200)
    sweep.check_metrics()
    assert states["completed"] + states["stopped"] == 198
    assert states["diverged"] == 2
    steps = sweep.steps()
    num_different = sum(len(set(one)) for one in steps)
    redone = (sum(map(len, steps)) - num_different) / num_different
    print(f"{dict(done)}; {dict(states)}; {redone:.1%} of {num_different} steps done again")
    assert (done["workers"], done["stops"], done["orchestrators"]) == (75, 12, 8)
    assert done["hangs"] >= 5  # of the stopped ones; some die with their orchestrator
    assert redone <= 0.05
