"""A run that is killed, and resumed."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from csm_ft.training.plan import RunPlan


def check_resume(
    run: Callable[[Path], int],
    folder: Path,
    uninterrupted: Path,
    weights: str = "model.safetensors",
) -> None:
    """Kill `run` of a folder after its second step, and compare it once it has resumed.

    Both runs have four steps, with a checkpoint after each.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunPlan, "is_best", _killed_after_step(2))
        with pytest.raises(RuntimeError, match="killed"):
            run(folder)
    assert run(folder) == 0
    ours = load_file(folder / "checkpoints/step_000004" / weights)
    theirs = load_file(uninterrupted / "checkpoints/step_000004" / weights)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def _killed_after_step(step: int) -> Callable[..., bool]:
    before = RunPlan.is_best

    def kill(plan: RunPlan, state: Any, metrics: Any) -> bool:
        if state.step > step:
            raise RuntimeError("killed")
        return before(plan, state, metrics)

    return kill


def wait_until_it_tells(process: subprocess.Popen[bytes], metrics: Path, num_changes: int) -> None:
    """Return when a run's metrics have changed so many times."""
    before = metrics.stat().st_size if metrics.exists() else 0
    while num_changes:
        time.sleep(0.005)
        assert process.poll() is None, "the run ended before it could be killed"
        now = metrics.stat().st_size if metrics.exists() else 0
        num_changes -= now != before
        before = now
