"""Trials that several processes train together: two gloo ranks on the CPU in each slot.

On this machine, and on a node of a cluster.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import train
from csm_ft.data.token_file import write_store
from csm_ft.runs.checkpoint import save_weights
from tests.helpers.ranks import ENVIRONMENT, ROOT, losses
from tests.helpers.ray_nodes import RayNodes
from tests.helpers.splits import INFO, SIZE, make_model, make_split

FRAMES = [12, 5, 30, 1, 17, 9, 22, 3, 14, 8]
SPACE = "learning_rate: {type: float, min: 1e-4, max: 1e-2, log: true}\n"
OPTIONS = "--wandb off --device cpu --dtype fp32 --threads 1 --log_every 1 --gen_every 0".split()
OPTIONS += "--batch_size 4 --n_epochs 24 --lr_decay constant --pruner none".split()


def command(folder: Path, *argv: str) -> list[str]:
    split = make_split(FRAMES)
    (folder / "base").mkdir()
    save_weights(folder / "base", make_model(seed=1), SIZE.to_json())
    write_store(folder / "tokens.hdf5", INFO, {"train": split, "val": split})
    (folder / "space.yaml").write_text(SPACE)
    paths = ["--data", folder / "tokens.hdf5", "--sweep_config", folder / "space.yaml"]
    paths += ["--model_name_or_checkpoint_path", folder / "base", "--output_dir", folder / "out"]
    ranks = ["--gpus_per_trial", "2"]
    return [sys.executable, "sweep.py", *map(str, paths), *OPTIONS, *ranks, *argv]


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def events(out: Path, kind: str) -> list[dict[str, object]]:
    path = out / "events.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    return [row for row in map(json.loads, lines) if row["event"] == kind]


@pytest.mark.slow
def test_killed_rank_costs_steps_and_ranks_train_the_model_of_one(tmp_path: Path) -> None:
    out = tmp_path / "out"
    argv = command(tmp_path, "--n_gpus", "2", "--n_trials", "2", "--save_every", "1/9")
    with subprocess.Popen(
        argv, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        metrics, deadline_sec = out / "trials/0000/metrics.jsonl", time.monotonic() + 200
        while not metrics.is_file() or metrics.read_text().count("\n") < 30:
            assert time.monotonic() < deadline_sec, "the first trial does not begin"
            time.sleep(0.02)
        leader = events(out, "worker started")[-1]["pid"]
        (follower,) = children(int(str(leader)))
        os.kill(follower, signal.SIGKILL)
        text = " ".join(process.communicate(timeout=200)[0].split())
    assert process.returncode == 0, text
    assert "1 worker of 2 processes on the CPU" in text
    assert [event["trial"] for event in events(out, "worker died")] == [0]
    trials = json.loads((out / "summary.json").read_text())["trials"]
    assert [(t["state"], t["attempts"]) for t in trials] == [("completed", 2), ("completed", 1)]
    for number in (0, 1):
        run = out / f"trials/{number:04d}"
        assert "2 ranks: DDP" in (out / "workers/cpu0.log").read_text()
        config = yaml.safe_load((run / "config.yaml").read_text())
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({**config, "parallel": "off"}))
        alone = tmp_path / f"alone{number}"
        again = ["--config", str(tmp_path / "config.yaml"), "--output_dir", str(alone)]
        assert train.main(again) == 0
        assert losses(run) == pytest.approx(losses(alone), rel=1e-4)
        assert losses(run, "val") == pytest.approx(losses(alone, "val"), rel=1e-4)


@pytest.mark.slow
def test_ranks_train_on_a_node_of_a_cluster(tmp_path: Path) -> None:
    nodes = RayNodes(dict(ENVIRONMENT))
    nodes.start("a", "--num-cpus", "2")
    try:
        deadline_sec = time.monotonic() + 200
        while not nodes.num_alive():
            assert time.monotonic() < deadline_sec, "no node"
            time.sleep(0.2)
        argv = command(tmp_path, "--n_trials", "2", "--n_epochs", "3", "--cluster", nodes.address)
        done = subprocess.run(
            argv, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=200
        )
    finally:
        nodes.close()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cluster: 1 worker on 1 node" in done.stdout
    out = tmp_path / "out"
    trials = json.loads((out / "summary.json").read_text())["trials"]
    assert [(t["state"], t["slot"]) for t in trials] == [("completed", "a.0")] * 2
    assert "2 ranks: DDP" in (out / "workers/a.0.log").read_text()
