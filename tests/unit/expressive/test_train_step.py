"""Which weights the expressive command judges: never those of the lowest validation loss."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from csm_ft.config.yaml_file import load_yaml
from csm_ft.errors import ConfigError
from csm_ft.expressive.__main__ import _train
from csm_ft.expressive.config import ExpressiveConfig
from csm_ft.families import open_family
from tests.conftest import ROOT


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    (tmp_path / "tokens.hdf5").write_text("tokens")
    speak(tmp_path, "neutral", "angry")
    return tmp_path / "tokens.hdf5"


def speak(folder: Path, *emotions: str) -> None:
    prompts = [{"text": "Hello."}, *({"text": "Hello.", "emotion": one} for one in emotions)]
    (folder / "prompts.json").write_text(json.dumps(prompts))


def argv_of(tokens: Path, **options: object) -> Sequence[str]:
    config = ExpressiveConfig.model_validate({"folders": ["d"], **options})
    return _train(config, tokens, tokens.with_name("prompts.json")).argv


def test_one_training_uses_its_last_weights(tokens: Path) -> None:
    argv = argv_of(tokens)
    assert "--best_by" not in argv
    file = Path(argv[argv.index("--config") + 1])
    assert file.samefile(ROOT / "configs/expressive_lora.yaml")
    assert load_yaml(file)["best_from"] == "100%"


def test_trials_of_a_sweep_are_ranked_by_expression(tokens: Path, tmp_path: Path) -> None:
    argv = argv_of(tokens, sweep=3)
    options = dict(zip(argv[::2], argv[1::2], strict=True))
    assert options["--best_by"] == "expression_distance"
    assert options["--judge_every"] == "1/3"
    assert options["--judge_prompts"] == str(tmp_path / "prompts.json")
    own = tmp_path / "own.yaml"
    own.write_text("best_by: wer\njudge_every: 1/2\n")
    assert "--best_by" not in argv_of(tokens, sweep=3, train_config=str(own))


@pytest.mark.parametrize("emotions", [(), ("angry", "sad"), ("neutral",)])
def test_expression_that_cannot_be_compared_is_refused(
    tokens: Path, tmp_path: Path, emotions: tuple[str, ...]
) -> None:
    speak(tmp_path, *emotions)
    with pytest.raises(ConfigError, match="best_by: wer"):
        argv_of(tokens, sweep=3)
    assert "--best_by" not in argv_of(tokens)


def test_other_sentences_are_another_sweep(tokens: Path) -> None:
    before = argv_of(tokens, sweep=3)[-1]
    speak(tokens.parent, "neutral", "sad")
    assert argv_of(tokens, sweep=3)[-1] != before
    assert argv_of(tokens)[-1] == argv_of(tokens)[-1]


@pytest.mark.parametrize("option", ["pretokenize_config", "train_config"])
def test_file_for_another_family_is_refused(tmp_path: Path, option: str) -> None:
    (tmp_path / "own.yaml").write_text("family: moshi\n")
    values = {"folders": [str(tmp_path)], option: str(tmp_path / "own.yaml")}
    with pytest.raises(
        ValueError, match=r"own.yaml is for the family moshi, not csm; add --family"
    ):
        ExpressiveConfig.model_validate(values)
    assert ExpressiveConfig.model_validate({**values, "family": "moshi"})


def test_family_that_speaks_no_texts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="family moonshine: emotions are tags"):
        ExpressiveConfig.model_validate({"folders": [str(tmp_path)], "family": "moonshine"})


@pytest.mark.parametrize("family", ["csm", "moshi"])
def test_files_of_a_family_are_there(family: str) -> None:
    config = ExpressiveConfig.model_validate({"folders": ["d"], "family": family})
    files = [config.pretokenize_file, config.train_file, config.sweep_file]
    assert all(Path(file).is_file() for file in files if file)
    train = load_yaml(Path(config.train_file))
    assert open_family(family).train_config.model_validate({"data": "d", **train})
    assert train["best_from"] == "100%"
