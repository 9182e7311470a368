"""The Moshi demo: a base that knows the words learns to answer questions that it never heard."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import pretokenize
import train
from tests.conftest import ROOT
from tests.helpers.asking import Answer, Question, ask, write_questions

sys.path.insert(0, str(ROOT / "scripts/moshi_demo"))

import pairs

DEMO = ROOT / "demo/moshi"


def share_right(questions: list[Question], answers: list[Answer]) -> float:
    both = zip(questions, answers, strict=True)
    return float(np.mean([one.answer == answer.heard for one, answer in both]))


@pytest.mark.slow
def test_training_questions_get_their_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default settings of `make demo-moshi`, its trial 0."""
    monkeypatch.chdir(ROOT)
    questions = write_questions(DEMO / "train.jsonl", pairs.ENGLISH, tmp_path / "questions")
    before = ask(DEMO / "base", questions, tmp_path / "before")
    tokens, run = tmp_path / "tokens.hdf5", tmp_path / "run"
    config = ["--config", "configs/demo/moshi_pretokenize.yaml"]
    assert pretokenize.main([*config, "--output", str(tokens)]) == 0
    argv = ["--config", "configs/demo/moshi_train.yaml", "--data", str(tokens)]
    argv += ["--output_dir", str(run), "--device", "cpu", "--threads", "1"]
    assert train.main([*argv, "--gen_every", "0", "--wandb", "off"]) == 0
    answers = ask(run, questions, tmp_path / "after")

    for question, answer in zip(questions, answers, strict=True):
        print(f"{question.answer} | {answer.heard} | {answer.written}")
    late = [
        abs(answer.begins_sec - question.answered_sec)
        for question, answer in zip(questions, answers, strict=True)
    ]
    shuffled = questions[7:] + questions[:7]
    assert len(questions) == 20
    assert share_right(questions, before) <= 0.2
    assert share_right(questions, answers) >= 0.8
    assert share_right(shuffled, answers) <= 0.2
    assert np.mean([one <= 1.0 for one in late]) >= 0.8


@pytest.mark.slow
def test_ten_minutes_of_the_page(tmp_path: Path) -> None:
    """Every command of docs/moshi.md, Moshi in ten minutes, as it stands there.

    Runs are cut to an epoch: what the whole ones learn is tested above.
    """
    page = (ROOT / "docs/moshi.md").read_text(encoding="utf-8")
    section = page.split("## Moshi in ten minutes")[1].split("\n## ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    commands = [line for block in blocks for line in block.splitlines()]
    for name in ("csm_ft", "demo", "pretokenize.py", "train.py", "sweep.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    path = tmp_path / "configs/demo/moshi_train.yaml"
    options = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**options, "n_epochs": 1, "gen_clips": 1, "gen_sec": 2}))
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "python"
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    assert (tmp_path / "exp/demo-moshi/report.html").is_file()
    assert (tmp_path / "exp/demo-moshi/export-moshi/model.safetensors").is_file()
