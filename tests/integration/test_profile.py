"""train.py --profile: a trace of some steps, and the same run."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import train
from csm_ft.runs.folder import RunFolder


def run(tokens: Path, folder: Path, *more: str) -> RunFolder:
    argv = ["--data", str(tokens), "--output_dir", str(folder), "--max_steps", "6", *more]
    argv += ["--batch_size", "2", "--gen_every", "0", "--val_every", "0", "--wandb", "off"]
    argv += ["--device", "cpu", "--threads", "1", "--log_every", "1"]
    assert train.main(argv) == 0
    return RunFolder(folder)


def test_trace_has_the_steps_after_warm_up(tokens: Path, tmp_path: Path) -> None:
    plain = run(tokens, tmp_path / "plain")
    traced = run(tokens, tmp_path / "traced", "--profile", "2")
    events = json.loads(gzip.decompress(traced.trace.read_bytes()))["traceEvents"]
    steps = {event["name"] for event in events if event["name"].startswith("ProfilerStep#")}
    assert steps == {"ProfilerStep#3", "ProfilerStep#4"}
    operations = traced.operations.read_text()
    assert "aten::mm" in operations
    assert "Self CPU" in operations
    ours, theirs = (load_file(one.step_folder(6) / "model.safetensors") for one in (traced, plain))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert [row["step"] for row in traced.rows("train")] == [1, 2, 3, 4, 5, 6]
    assert not plain.profile.exists()


def test_short_run_says_that_nothing_was_traced(
    tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    traced = run(tokens, tmp_path / "run", "--profile", "2", "--max_steps", "2")
    assert not traced.profile.exists()
    assert "no step was traced" in " ".join(capsys.readouterr().out.split())
