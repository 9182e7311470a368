"""Runs of several ranks, started by torchrun: this module trains one or more, in order."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parent.parent.parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
WORDS = [sys.executable, "-m", "torch.distributed.run"]


def torchrun(ranks: int, *runs: Sequence[str], launch: Sequence[str] = ()) -> list[str]:
    """Return the command that trains `runs`, the arguments of train.py each, on several ranks."""
    launch = launch or ["--standalone", f"--nproc-per-node={ranks}"]
    return [*WORDS, *launch, __file__, json.dumps([[free_port(), *run] for run in runs])]


def finish(command: Sequence[str]) -> str:
    """Run a command to its end, and return what it printed; AssertionError if it failed."""
    done = subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT, text=True, capture_output=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def rows(run: Path, kind: str = "train") -> list[dict[str, Any]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [row for row in lines if row["kind"] == kind]


def losses(run: Path, kind: str = "train") -> list[float]:
    return [row["loss" if kind == "train" else "val_loss"] for row in rows(run, kind)]


def gradients(run: Path) -> dict[str, np.ndarray]:
    """The gradients of the first step, of which AdamW's first average is a tenth."""
    tensors = load_file(run / "checkpoints/step_000001/optimizer.safetensors")
    return {name: 10 * value for name, value in tensors.items() if name.endswith("exp_avg")}


def check_same_gradients(run: Path, other: Path, tolerance: float = 2e-6) -> None:
    ours, theirs = gradients(run), gradients(other)
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        largest = np.abs(gradient).max()
        assert np.abs(ours[name] - gradient).max() <= tolerance * max(largest, 1e-2), name
    assert max(np.abs(gradient).max() for gradient in theirs.values()) > 1e-3, "there are some"


if __name__ == "__main__":
    import train

    runs = json.loads(sys.argv[1])
    for port, *argv in runs:
        if len(runs) > 1:  # each meets at a port of its own, as if each had been launched
            os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "False", "MASTER_PORT": str(port)}
        code = train.main(argv)
        if code:
            sys.exit(code)
