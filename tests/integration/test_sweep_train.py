"""A sweep with the real trainer: bundled speech, a tiny model, one warm worker."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import sweep
from tests.integration.test_train import ROOT, TINY, rows

SPACE = """
learning_rate: {type: float, min: 1e-3, max: 3e-2, log: true}
decoder_loss_weight: {type: float, min: 0.2, max: 0.8}
"""


def train_afresh(config: Path, run: Path) -> None:
    command = [sys.executable, "train.py", "--config", str(config), "--output_dir", str(run)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=200)


def measured(run: Path) -> list[dict[str, Any]]:
    return [row for row in rows(run) if row["kind"] in ("train", "val")]


@pytest.mark.slow
def test_best_yaml_and_warm_worker_reproduce(tokens: Path, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    out = tmp_path / "out"
    argv = [
        "--data",
        str(tokens),
        "--sweep_config",
        str(tmp_path / "space.yaml"),
        "--output_dir",
        str(out),
        "--n_trials",
        "3",
        *TINY,
    ]
    argv += [
        "--n_epochs",
        "3",
        "--gen_max_sec",
        "1",
        "--log_every",
        "2",
        "--device",
        "cpu",
        "--pruner",
        "none",
    ]
    assert sweep.main(argv) == 0

    summary = json.loads((out / "summary.json").read_text())
    assert [t["state"] for t in summary["trials"]] == ["completed"] * 3
    assert summary["horizon_examples"] == 72
    assert summary["baseline"]["value"] > max(t["value"] for t in summary["trials"])
    assert [r["step"] for r in rows(out / "baseline", "val")] == [0]
    assert [r["examples"] for r in rows(out / "trials/0001", "val")] == [
        8 * k for k in range(1, 10)
    ]
    assert list((out / "trials/0002/samples").glob("*/*.wav"))
    assert b"data:audio" in (out / "report.html").read_bytes()

    train_afresh(out / "best.yaml", tmp_path / "again")
    best = out / "trials" / f"{summary['best']:04d}"
    assert measured(tmp_path / "again") == measured(best), "bit for bit"
    weights = "checkpoints/best/model.safetensors"
    assert (
        (tmp_path / "again" / weights).read_bytes()
        == (best / weights).read_bytes()
        == (out / "best/model.safetensors").read_bytes()
    )

    last = yaml.safe_load((out / "trials/0002/config.yaml").read_text())
    (tmp_path / "last.yaml").write_text(yaml.safe_dump(last))
    train_afresh(tmp_path / "last.yaml", tmp_path / "fresh")
    assert measured(tmp_path / "fresh") == measured(out / "trials/0002"), (
        "nothing of trials 0 and 1 was left in the worker"
    )
