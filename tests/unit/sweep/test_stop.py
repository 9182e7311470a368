"""`sweep.py --stop`: what it says where there is nothing to stop."""

import json
import os
from pathlib import Path

import pytest

from csm_ft.atomic import exclusive
from csm_ft.errors import MachineError
from csm_ft.runs.folder import SweepFolder
from csm_ft.sweep import stop
from csm_ft.sweep.stop import findable, stop_sweep


def test_nothing_runs(tmp_path: Path) -> None:
    assert stop_sweep(tmp_path) == f"no sweep is running in {tmp_path}"
    assert list(tmp_path.iterdir()) == []


def test_killed_sweep_is_not_running(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    folder.process.write_text(json.dumps({"pid": os.getpid(), "host": "here"}))
    folder.lock.touch()
    assert stop_sweep(tmp_path) == f"no sweep is running in {tmp_path}"


def test_sweep_on_another_machine(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    folder.process.write_text(json.dumps({"pid": os.getpid(), "host": "far away"}))
    with exclusive(folder.lock, "held"), pytest.raises(MachineError, match="runs on far away"):
        stop_sweep(tmp_path)


def test_sweep_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(stop.os, "kill", lambda pid, _: asked.append(pid))
    monkeypatch.setattr(stop, "LONGEST_STOP_SEC", 0)
    folder = SweepFolder(tmp_path)
    with (
        exclusive(folder.lock, "held"),
        findable(folder),
        pytest.raises(MachineError, match="still runs; the same command again"),
    ):
        stop_sweep(tmp_path)
    assert asked == [os.getpid()]
    assert not folder.process.exists()
