"""kill -9 of pretokenize.py at random moments.

The same command finishes with the content of an undisturbed run.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import pretokenize
from csm_ft.data.split import Store
from csm_ft.families.stores import open_store, verify
from tests.helpers.pretokenizing import FakeEncoder, use_fake_family, write_wave

ROOT = Path(__file__).resolve().parents[2]
NUM_CLIPS = 40
SPEED = ["--batch_sec", "3", "--save_every", "4", "--num_workers", "2", "--device", "cpu"]
FLAGS = ["--family", "fake", *SPEED]


def make_data(folder: Path) -> Path:
    rows = []
    for i in range(NUM_CLIPS):
        write_wave(folder / f"{i}.wav", 0.5 + 0.03 * (7 * i % NUM_CLIPS), seed=i)
        rows.append({"path": f"{i}.wav", "text": f"Sentence {i}.", "speaker": i % 3})
    metadata = folder / "train.json"
    metadata.write_text(json.dumps(rows))
    return metadata


def command(metadata: Path, output: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "tests.integration.test_pretokenize_chaos",
        "--train_data",
        str(metadata),
        "--output",
        str(output),
        *FLAGS,
    ]


def start(metadata: Path, output: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command(metadata, output),
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def assert_same_content(left: Store, right: Store) -> None:
    assert left.info == right.info
    for name, split in left.splits.items():
        other = right.splits[name]
        assert split.ids == other.ids
        for i in range(len(split)):
            assert split.clip(i) == other.clip(i)
            for array in split.kinds:
                np.testing.assert_array_equal(split.array(array, i), other.array(array, i))


def wait_for_parts(process: "subprocess.Popen[bytes]", output: Path) -> None:
    """Wait until the first part is on disk.

    So that what follows hits a run at work and not its imports.
    """
    deadline = time.monotonic() + 200
    while not list(Path(f"{output}.parts").glob("part_*")):
        assert process.poll() is None, f"ended early with {process.returncode}"
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture(autouse=True)
def fake_family(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `verify` of this process know the family of the token files."""
    use_fake_family(FakeEncoder(), monkeypatch.setattr)


@pytest.mark.slow
def test_killed_runs_finish_with_same_content(tmp_path: Path) -> None:
    metadata = make_data(tmp_path)
    calm = tmp_path / "calm.hdf5"
    assert subprocess.run(command(metadata, calm), cwd=ROOT, check=False).returncode == 0
    output, chance, kills = tmp_path / "tokens.hdf5", random.Random(0), 0
    for _ in range(12):
        process = start(metadata, output)
        if kills == 0:
            wait_for_parts(process, output)
        try:
            process.wait(chance.uniform(0.0, 4.0) if kills else chance.uniform(0.0, 0.2))
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            if output.exists():
                assert verify(output) == [], "whatever stands at the output is whole"
    assert subprocess.run(command(metadata, output), cwd=ROOT, check=False).returncode == 0
    assert kills >= 2
    assert verify(output) == []
    assert_same_content(open_store(output), open_store(calm))
    assert not Path(f"{output}.parts").exists()
    assert not [p.name for p in tmp_path.iterdir() if p.name.endswith(".draft")], "no litter"


@pytest.mark.slow
def test_kill_costs_at_most_unfinished_part(tmp_path: Path) -> None:
    metadata, output = make_data(tmp_path), tmp_path / "tokens.hdf5"
    process = start(metadata, output)
    wait_for_parts(process, output)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not output.exists()
    again = subprocess.run(
        command(metadata, output), cwd=ROOT, capture_output=True, text=True, check=True
    )
    encoded = json.loads(Path(f"{output}.report.json").read_text())["encoded_now"]
    assert encoded <= NUM_CLIPS - 4, again.stdout


@pytest.mark.slow
def test_ctrl_c_says_how_to_continue(tmp_path: Path) -> None:
    metadata, output = make_data(tmp_path), tmp_path / "tokens.hdf5"
    process = subprocess.Popen(
        command(metadata, output),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    wait_for_parts(process, output)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=100)
    assert process.returncode == 130
    assert "the same command continues" in error
    assert "Traceback" not in error


if __name__ == "__main__":  # slow enough to be killed while it works
    use_fake_family(FakeEncoder(pause_sec=0.05))
    sys.exit(pretokenize.main(sys.argv[1:]))
