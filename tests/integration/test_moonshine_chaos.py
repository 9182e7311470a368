"""A schedule-free run killed at random moments, validating as it likes, is the run left alone."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import ROOT
from tests.helpers.killed import wait_until_it_tells
from tests.integration.test_moonshine import OPTIONS, SMALL, tokens  # noqa: F401 (a fixture)

NUM_KILLS = int(os.environ.get("CSM_FT_KILLS", "2"))  # twenty are for a run by hand
STEPS = 8 * NUM_KILLS


def command(tokens: Path, run: Path, val_every: int) -> list[str]:  # noqa: F811
    argv = [sys.executable, "train.py", "--data", str(tokens), "--output_dir", str(run)]
    argv += [*OPTIONS, *SMALL, "--train_from_scratch", "--optimizer", "schedulefree"]
    argv += ["--max_steps", str(STEPS), "--save_every", "1", "--gen_every", "0", "--log_every", "1"]
    return [*argv, "--val_every", str(val_every)]


def weights(run: Path) -> dict[str, torch.Tensor]:
    folder = run / f"checkpoints/step_{STEPS:06}"
    return {
        f"{file.stem}/{name}": tensor
        for file in folder.glob("*.safetensors")
        for name, tensor in load_file(file).items()
    }


@pytest.mark.slow
@pytest.mark.timeout(120 + 60 * NUM_KILLS)
def test_killed_run_equals_one_left_alone(tokens: Path, tmp_path: Path) -> None:  # noqa: F811
    """Each command validates at other steps; weights and optimiser are the same to the bit."""
    moments = random.Random(NUM_KILLS)
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    subprocess.run(command(tokens, alone, 5), cwd=ROOT, check=True, capture_output=True)
    for _ in range(NUM_KILLS):
        process = subprocess.Popen(
            command(tokens, killed, moments.randint(1, 6)),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until_it_tells(process, killed / "metrics.jsonl", moments.randint(1, 4))
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was still at work"
    subprocess.run(command(tokens, killed, 3), cwd=ROOT, check=True, capture_output=True)
    expected, found = weights(alone), weights(killed)
    assert expected.keys() == found.keys()
    assert any(name.startswith("optimizer/") for name in expected)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
