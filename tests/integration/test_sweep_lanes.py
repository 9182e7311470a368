"""`--packed_lora`: several trials in each worker process, and what its death or a fault means."""

import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import sweep as program
from tests.integration.test_sweep_chaos import Sweep, alive, chaos, wait_for

LANES = ("--method", "lora", "--packed_lora", "3", "--pruner", "none")


def processes(sweep: Sweep) -> list[int]:
    """Pids of all worker processes that there were."""
    return sorted({row["pid"] for row in sweep.events("worker started")})


def test_every_trial_runs_once_in_lanes(tmp_path: Path) -> None:
    faults = {"until": {str(number): ["dispatched", 7] for number in range(3)}}
    sweep = Sweep(tmp_path, "--n_trials", "9", "--n_gpus", "2", *LANES, faults=faults)
    assert "3 trials in each worker share their passes" in sweep.run()
    assert sweep.check_whole(9) == {"completed": 9}
    sweep.check_metrics()
    slots = {row["slot"] for row in sweep.events("dispatched")}
    assert slots == {f"cpu{process}:{lane}" for process in range(2) for lane in range(3)}
    assert len(processes(sweep)) == 2
    assert sorted(path.name for path in (sweep.out / "workers").iterdir()) == [
        "cpu0.log",
        "cpu1.log",
    ]
    assert sweep.config(8)["wandb_reinit"]  # each of them has a run of its own there


def test_few_trials_need_no_lanes(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "--n_trials", "2", *LANES)
    sweep.run()
    assert sweep.check_whole(2) == {"completed": 2}
    assert len(sweep.events("worker started")) == 2


def test_a_study_goes_on_with_other_lanes(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, *LANES)
    sweep.run("--n_trials", "3")
    sweep.run("--n_trials", "5", "--packed_lora", "1")
    sweep.run("--n_trials", "8", "--packed_lora", "2")
    assert sweep.check_whole(8) == {"completed": 8}
    sweep.check_metrics()


def test_an_error_leaves_the_other_lanes_alone(tmp_path: Path) -> None:
    """The process takes no more trials after it; those that run there go on to their end."""
    faults = {"raise": [4], "slow_sec": 0.02}
    sweep = Sweep(tmp_path, "--n_trials", "9", *LANES, faults=faults)
    sweep.run()
    assert sweep.check_whole(9) == {"completed": 8, "poison": 1}
    sweep.check_metrics()
    attempts = {t["number"]: t["attempts"] for t in sweep.summary()["trials"]}
    assert attempts.pop(4) >= 3
    assert set(attempts.values()) == {1}
    assert len(processes(sweep)) > 1
    assert not sweep.events("worker died")


def test_who_kills_its_process_is_found_and_no_one_else_blamed(tmp_path: Path) -> None:
    faults = {"kill": {"3": 99}, "slow_sec": 0.01}
    sweep = Sweep(tmp_path, "--n_trials", "9", *LANES, faults=faults)
    output = " ".join(sweep.run().split())
    assert sweep.check_whole(9) == {"completed": 8, "poison": 1}
    sweep.check_metrics()
    assert "trial 3 continues alone in its process: worker killed by SIGKILL" in output
    trial = sweep.summary()["trials"][3]
    assert trial["state"] == "poison"
    assert "3 times without progress, on cpu0" in trial["reason"]


def test_a_killed_process_costs_only_steps(tmp_path: Path) -> None:
    until = {str(number): ["worker died", 1] for number in range(3)}
    sweep = Sweep(tmp_path, "--n_trials", "6", *LANES, faults={"until": until})
    with sweep.start() as running:
        wait_for(lambda: len([steps for steps in sweep.steps() if steps]) == 3)
        (pid,) = alive(sweep)[:1]
        os.kill(pid, signal.SIGKILL)
        running.communicate(timeout=100)
    assert running.returncode == 0
    assert sweep.check_whole(6) == {"completed": 6}
    sweep.check_metrics()
    assert len(sweep.events("worker died")) == 3
    attempts = Counter(t["attempts"] for t in sweep.summary()["trials"])
    assert attempts == {1: 3, 2: 3}


def test_a_hanging_lane_is_noticed(tmp_path: Path) -> None:
    faults = {"hang": {"1": "validation"}, "slow_sec": 0.02}
    sweep = Sweep(tmp_path, "--n_trials", "5", "--hang_sec", "2", *LANES, faults=faults)
    output = " ".join(sweep.run().split())
    assert "trial 1 on cpu0:1 hangs (validation): silent for" in output
    assert sweep.check_whole(5) == {"completed": 5}
    sweep.check_metrics()


def test_out_of_memory_in_company_is_tried_alone(tmp_path: Path) -> None:
    """Micro-batches cannot be halved below the longest example: 1000 positions."""
    faults = {"out_of_memory": {"2": 100}, "no_memory_to": {"3": "validation"}, "slow_sec": 0.02}
    sweep = Sweep(tmp_path, "--n_trials", "5", *LANES, faults=faults)
    output = " ".join(sweep.run().split())
    assert "trial 2 continues alone in its process" in output
    assert "trial 3 continues alone in its process" in output
    assert sweep.check_whole(5) == {"completed": 3, "infeasible": 2}


def test_ctrl_c_saves_all_lanes(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "--n_trials", "5", *LANES, faults={"slow_sec": 0.1})
    with sweep.start() as running:
        wait_for(lambda: len([steps for steps in sweep.steps() if steps]) == 3)
        running.send_signal(signal.SIGINT)
        output = running.communicate(timeout=100)[0]
    assert running.returncode == 130, output
    assert len(sweep.events("interrupted")) == 3
    assert not alive(sweep)
    sweep.run()
    assert sweep.check_whole(5) == {"completed": 5}
    sweep.check_metrics()


@pytest.mark.slow
def test_chaos_loses_no_lane(tmp_path: Path) -> None:
    """12 kills of processes with 4 lanes each, 2 of the sweep itself, over 60 trials."""
    argv = ("--n_trials", "60", "--n_gpus", "2", "--method", "lora", "--packed_lora", "4")
    sweep = Sweep(tmp_path, *argv, faults={"slow_sec": 0.03})
    done = chaos(sweep, workers=12, orchestrators=2, longest_gap=40, seed=3)
    assert (done["workers"], done["orchestrators"]) == (12, 2)
    states = sweep.check_whole(60)
    assert set(states) == {"completed", "stopped"}
    sweep.check_metrics()


@pytest.mark.parametrize(
    ("argv", "space", "said"),
    [
        ("--method full", "", "method full: packed_lora 3 trains adapters by passes that trials"),
        ("--lora_dropout 0.1", "", "lora_dropout 0.1: packed_lora 3 trains adapters"),
        (
            "",
            "lora_dropout: {type: float, min: 0.0, max: 0.2}",
            "which needs lora_dropout 0 in every trial",
        ),
        (
            "",
            "method: {type: categorical, values: [lora, full]}",
            "give --method lora and do not search it",
        ),
        ("--lora_dora true", "", "lora_dora True: packed_lora 3"),
        ("--dtype bf16_pure", "", "dtype bf16_pure: packed_lora 3"),
        ("--compile on", "", "compile on: packed_lora 3 trains adapters"),
        ("--activation_checkpointing full", "", "activation_checkpointing full: packed_lora 3"),
        ("--parallel ddp", "", "parallel ddp"),
        ("--gpus_per_trial 2 --n_gpus 2", "", "share one process on this machine; drop --cluster"),
        ("--trials_per_gpu auto", "", "share one process on this machine; drop --cluster"),
        ("--packed_lora 0", "", "packed_lora"),
    ],
)
def test_what_cannot_share_passes_is_refused(
    tmp_path: Path, argv: str, space: str, said: str
) -> None:
    sweep = Sweep(tmp_path, *LANES, *argv.split())
    if space:
        with (tmp_path / "space.yaml").open("a") as file:
            file.write(f"{space}\n")
    output = " ".join(sweep.run(code=2).split())
    assert said in output
    assert not sweep.out.exists()


@pytest.mark.slow
def test_trials_in_lanes_equal_trials_alone(tokens: Path, tmp_path: Path) -> None:
    """The real trainer: the same study with lanes and without has the same values."""
    space = tmp_path / "space.yaml"
    space.write_text(
        "learning_rate: {type: float, min: 1e-3, max: 3e-2, log: true}\n"
        "lora_rank: {type: categorical, values: [4, 8]}\n"
    )
    values: dict[str, list[float]] = {}
    for lanes in ("1", "3"):
        out = tmp_path / lanes
        argv = [
            *("--data", str(tokens), "--sweep_config", str(space), "--output_dir", str(out)),
            *("--n_trials", "3", "--sampler", "random", "--pruner", "none", "--device", "cpu"),
            *("--method", "lora", "--packed_lora", lanes, "--n_epochs", "0.5", "--batch_size", "4"),
            *("--gen_every", "0", "--threads", "1", "--wandb", "off", "--dtype", "fp32"),
        ]
        assert program.main(argv) == 0
        summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
        values[lanes] = [t["value"] for t in summary["trials"]]
    assert values["3"] == pytest.approx(values["1"], rel=1e-5)
    assert len(set(values["3"])) == 3
