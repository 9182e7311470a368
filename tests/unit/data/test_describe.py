"""What `python -m csm_ft.data` says of a token file."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from csm_ft.data.__main__ import describe, main
from csm_ft.data.describe import histogram
from csm_ft.data.split import DUPLICATE
from tests.helpers.tables import make_table, write

ROOT = Path(__file__).resolve().parents[3]


def test_describe_says_what_is_inside(tmp_path: Path) -> None:
    table = make_table([13, 26, 400])
    table.clips = [*table.clips[:2], replace(table.clips[2], flags=DUPLICATE, speaker="Ann")]
    val = replace(make_table([13]), clips=table.clips[:1])
    text = describe(write(tmp_path / "t.hdf5", table, val))
    lines = text.splitlines()
    assert any(line.startswith("train ") and "3 clips  0.6 min" in line for line in lines)
    assert any(line.startswith("train ") and "439 frames" in line for line in lines)
    assert "7 (2), Ann (1)" in text
    assert "1 clips repeat an earlier one" in text
    assert "1 validation clips are training clips, too" in text
    assert "melrvq, 4 codebooks of 256 ids, 16000 Hz, 12.5 frames per second" in text
    assert "c0dec" in text
    assert "t0ken" in text
    bars = [line.split() for line in lines if "#" in line]
    assert [bar[:3] for bar in bars] == [["1-2", "s", "2"], ["2-4", "s", "1"], ["30-60", "s", "1"]]


def test_the_last_bin_is_open() -> None:
    assert histogram(np.array([130.0])) == [f"over 120 s       1 {'#' * 40}"]
    assert histogram(np.array([])) == ["(no clips)"]


def test_the_command_tells_by_its_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "t.hdf5")
    assert main([str(path)]) == 0
    assert "3 clips" in capsys.readouterr().out
    assert main([str(path), "--decode", "3"]) == 2
    assert "has clips 0 to 2" in capsys.readouterr().err
    assert main([]) == 2
    assert main([str(tmp_path / "none.hdf5")]) == 1
    with h5py.File(path, "r+") as file:
        file["train/codes"][0, 0] ^= 1
    assert main([str(path)]) == 1
    assert "bytes have changed" in capsys.readouterr().err


def test_verifying_needs_neither_torch_nor_codec(tmp_path: Path) -> None:
    path = write(tmp_path / "t.hdf5")
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "csm_ft.data", str(path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0
    assert "12.5 frames per second" in done.stdout
    assert "| torch" not in done.stderr.replace("  ", "")
