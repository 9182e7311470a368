"""Tests of steps: what runs again, and what does not."""

import os
from pathlib import Path

import pytest

from csm_ft.expressive.steps import Step, Steps

COPY = "import pathlib, sys; pathlib.Path(sys.argv[2]).write_bytes(pathlib.Path(sys.argv[1]).read_bytes())"
COUNT = "import sys; open(sys.argv[3], 'a').write('x');" + COPY


@pytest.fixture
def step(tmp_path: Path) -> Step:
    (tmp_path / "in").write_text("a")
    names = [str(tmp_path / name) for name in ("in", "out", "count")]
    return Step("copy", ["-c", COUNT, *names], [tmp_path / "in"], tmp_path / "out")


def times(folder: Path) -> int:
    path = folder / "count"
    return len(path.read_text()) if path.exists() else 0


def run(folder: Path, step: Step) -> int:
    return Steps(folder).run(step, 1, 1)  # each time as a new process would


def test_done_step_is_skipped(tmp_path: Path, step: Step) -> None:
    assert [run(tmp_path, step), run(tmp_path, step)] == [0, 0]
    assert times(tmp_path) == 1


def test_changed_input_runs_again(tmp_path: Path, step: Step) -> None:
    run(tmp_path, step)
    (tmp_path / "in").write_text("b")
    run(tmp_path, step)
    assert (times(tmp_path), (tmp_path / "out").read_text()) == (2, "b")


def test_missing_output_runs_again(tmp_path: Path, step: Step) -> None:
    run(tmp_path, step)
    (tmp_path / "out").unlink()
    run(tmp_path, step)
    assert times(tmp_path) == 2


def test_touched_file_is_the_same(tmp_path: Path, step: Step) -> None:
    run(tmp_path, step)
    os.utime(tmp_path / "in", (1, 1))
    run(tmp_path, step)
    assert times(tmp_path) == 1


def test_failed_step_is_not_done(tmp_path: Path, step: Step) -> None:
    (tmp_path / "in").rename(tmp_path / "elsewhere")
    assert run(tmp_path, step) == 1
    (tmp_path / "elsewhere").rename(tmp_path / "in")
    assert run(tmp_path, step) == 0
    assert times(tmp_path) == 2


def test_folder_is_known_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "set/deep").mkdir(parents=True)
    (tmp_path / "set/deep/a.wav").write_text("a")
    step = Step("import", ["-c", ""], [tmp_path / "set"], tmp_path)
    before = step.fingerprint()
    assert step.fingerprint() == before
    (tmp_path / "set/deep/b.wav").write_text("b")
    assert step.fingerprint() != before
