"""Tests of the translation of the expressivity guide's options."""

from pathlib import Path

import pytest

from csm_ft.errors import ConfigError
from csm_ft.expressive import guide
from csm_ft.expressive.__main__ import main

YAML = """
moshi_paths: {hf_repo_id: kyutai/moshiko}
dataset: {train: data.jsonl}
lora: {rank: 64, alpha: 128}
optimizer: {lr: 2e-6}
scheduler: {num_warmup_steps: 100}
advanced: {gradient_checkpointing: true, odd: 1}
"""


def test_all_names_are_translated_at_once(tmp_path: Path) -> None:
    path = tmp_path / "guide.yaml"
    path.write_text(YAML)
    with pytest.raises(ConfigError, match="expressivity guide") as caught:
        guide.check(["d", "--gpus", "0,1", "--skip-datasets", "--train_config", str(path)])
    told = str(caught.value)
    for words in (
        "--gpus: --n_gpus N",
        "--skip-datasets: nothing",
        "moshi_paths: --family moshi",
        "lora.rank: lora_rank",
        "optimizer.lr: learning_rate",
        "scheduler.num_warmup_steps: warmup_steps",
        "advanced.gradient_checkpointing: nothing: a smaller micro_batch_tokens",
        "advanced.odd: no such option",
    ):
        assert words in told


def test_own_options_pass(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("method: lora\nlearning_rate: 1e-4\n")
    guide.check(["d", "--train_config", str(path), "--sweep", "4"])


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "no data"),
        (["nowhere"], "no such folder"),
        (["demo", "--text_template", "{text}"], "has no tag"),
        (["demo", "--resume-from-checkpoint"], "the same command resumes"),
        (["demo", "--sweep_config", "x.yaml"], "goes with --sweep"),
    ],
)
def test_mistakes_name_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str], words: str
) -> None:
    assert main([*argv, *(["--output", str(tmp_path)] if argv else [])]) == 2
    assert words in capsys.readouterr().err


def test_two_sets_of_one_name_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "set").mkdir(parents=True)
    sets = [str(tmp_path / name / "set") for name in ("a", "b")]
    assert main([*sets, "--output", str(tmp_path / "out")]) == 2
    assert "have one name" in capsys.readouterr().err
