"""repro.sh says how a study was made, and gives no secret away."""

import subprocess
from pathlib import Path

import pytest

from csm_ft.runs.folder import SweepFolder
from csm_ft.sweep.repro import without_secrets, write_repro
from csm_ft.sweep.request import parse
from csm_ft.sweep.rows import read_rows
from csm_ft.sweep.space import make_space
from csm_ft.sweep.trials import DataFacts, plan_study


def test_commands_run_in_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run with a `python` that prints its arguments."""
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    space, out = tmp_path / "space.yaml", tmp_path / "my study"
    out.mkdir()
    space.write_text("batch_size: {type: categorical, values: [4, 8]}\n")
    argv = ["--output_dir", str(out), "--study_name", "it's", "--wandb_name", "0123456789abcdef"]
    request = parse(argv)
    plan = plan_study(
        request.sweep, make_space(read_rows(space, request), 100), DataFacts(100, "c0ffee")
    )
    folder = SweepFolder(out)
    write_repro(folder, plan, request.argv)
    text = folder.repro.read_text()
    assert "content c0ffee" in text
    assert "optuna 5." in text
    assert "0123456789abcdef" not in text
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nprintf "%s|" "$@"; echo\n')
    python.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    done = subprocess.run([str(folder.repro)], capture_output=True, text=True, check=True)
    words = ["sweep.py", *argv[:-1], "[WANDB_API_KEY]"]
    best = ["train.py", "--config", str(folder.best_config)]
    assert done.stdout.splitlines() == [
        "".join(f"{word}|" for word in line) for line in (words, best)
    ]


def test_only_secrets_are_replaced() -> None:
    environment = {"HOME": "/home/me", "HF_TOKEN": "hf_abcdef", "API_KEY": "short"}
    assert (
        without_secrets("a /home/me hf_abcdef short", environment) == "a /home/me [HF_TOKEN] short"
    )
