"""Sweeps on a real Ray cluster: three nodes on this machine, one killed, one added."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.helpers.ray_nodes import RayNodes
from tests.integration.test_sweep_chaos import Sweep, is_worker, wait_for

pytestmark = pytest.mark.slow
FAULTS = {"slow_sec": 0.15}
ARGV = ("--n_trials", "24", "--pruner", "none", "--sampler", "random")


@pytest.fixture
def empty() -> Iterator[RayNodes]:
    """No node yet; workers on nodes inherit the faults from here."""
    nodes = RayNodes({"FAKE_TRAINER": json.dumps(FAULTS)})
    try:
        yield nodes
    finally:
        nodes.close()


@pytest.fixture
def nodes(empty: RayNodes) -> RayNodes:
    """Three nodes."""
    for name in ("a", "b", "c"):
        start(empty, name)
    return empty


def start(nodes: RayNodes, name: str, **more: Any) -> None:
    """Start a node and wait for it: two at once would choose the same ports."""
    nodes.start(name, **more)
    wait_for(lambda: nodes.num_alive() == nodes.num_started)


def on(nodes: RayNodes) -> tuple[str, ...]:
    return ("--cluster", nodes.address, "--cluster_resources", "slot=1")


def table(sweep: Sweep) -> pd.DataFrame:
    """What a sweep found, without where and how long."""
    found = pd.read_csv(sweep.out / "trials.csv")
    columns = ["number", "state", "value", "seed"]
    return found[columns + [name for name in found if name.startswith(("params.", "metrics."))]]


def test_lost_and_added_nodes_change_no_number(tmp_path: Path, nodes: RayNodes) -> None:
    for name in ("local", "cluster"):
        (tmp_path / name).mkdir()
    sweep = Sweep(tmp_path / "cluster", *ARGV, *on(nodes), faults=FAULTS)
    with sweep.start() as process:
        wait_for(lambda: len(sweep.events("dispatched")) >= 4)
        nodes.start("d")
        wait_for(lambda: any(row["slot"] == "d.0" for row in sweep.events("dispatched")))
        nodes.kill("b")
        output = process.communicate(timeout=100)[0]
    assert process.returncode == 0, output
    assert "on b.0: its node is lost" in " ".join(output.split())
    assert sweep.check_whole(24) == {"completed": 24}
    sweep.check_metrics()
    wait_for(lambda: not any(map(is_worker, nodes.processes())))
    rows = sweep.summary()["trials"]
    (again,) = [row for row in rows if row["attempts"] > 1]
    steps = (sweep.out / again["dir"] / "steps.log").read_text().split()
    assert len(steps) - len(set(steps)) <= 4, "it resumed from its checkpoint"
    assert {row["slot"] for row in rows} >= {"a.0", "c.0", "d.0"}
    assert "== trial 0, attempt 1" in "".join(
        log.read_text() for log in (sweep.out / "workers").iterdir()
    )
    local = Sweep(tmp_path / "local", *ARGV, "--n_gpus", "2", faults={})
    local.run_apart()
    pd.testing.assert_frame_equal(table(sweep), table(local))


def test_runs_are_copied_from_nodes_that_share_nothing(tmp_path: Path, nodes: RayNodes) -> None:
    """A worker that dies on one node continues from the copy on another.

    A node that cannot be used is named.
    """
    argv = ("--n_trials", "4", "--pruner", "none", "--cluster_copy", "true", "--max_attempts", "9")
    sweep = Sweep(tmp_path, *argv, *on(nodes), faults=FAULTS)
    (tmp_path / "tokens").write_text("tokens of all nodes")
    sweep.argv[sweep.argv.index("d")] = str(tmp_path / "tokens")
    with sweep.start() as process:
        wait_for(lambda: len(list(sweep.out.glob("trials/*/checkpoints/step"))) >= 2)
        nodes.kill("b")
        output = process.communicate(timeout=100)[0]
    assert process.returncode == 0, output
    assert sweep.check_whole(4) == {"completed": 4}
    sweep.check_metrics()
    assert f"csm-ft-{os.getuid()}/runs/" in sweep.config(0)["output_dir"]
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / f"csm-ft-{os.getuid()}").symlink_to(tmp_path)
    start(nodes, "bad", TMPDIR=str(bad))
    output = " ".join(sweep.run_apart("--n_trials", "8", code=2).split())
    assert "error: node bad.0: " in output
    assert "belongs to somebody else; set TMPDIR where ray was started" in output


def test_token_file_that_differs_on_a_node_is_named(tmp_path: Path, empty: RayNodes) -> None:
    tokens, others = tmp_path / "tokens", tmp_path / "others"
    tokens.write_text("tokens of all nodes")
    others.write_text("tokens of one node")
    start(empty, "a")
    start(empty, "stale", other_files={tokens: others})
    sweep = Sweep(tmp_path, "--n_trials", "4", *on(empty), faults=FAULTS)
    sweep.argv[sweep.argv.index("d")] = str(tokens)
    output = " ".join(sweep.run_apart(code=2).split())
    assert f"error: node stale.0: {tokens} has other content there" in output
    assert "Copy it there again" in output
