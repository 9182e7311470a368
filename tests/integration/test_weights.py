"""Weights of metadata, from the file to the batches; and training on a share of the data."""

import json
from pathlib import Path

import pytest
import torch

import pretokenize
import train
from tests.conftest import write_metadata
from tests.integration.test_train import Killed, Killer, config_of, options, rows, weights


@pytest.fixture(scope="module")
def weighted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 clips, a quarter of them angry and drawn six times as often; weighted validation."""
    folder = tmp_path_factory.mktemp("weighted")
    argv = ["--codec", "melrvq", "--output", str(folder / "tokens.hdf5")]
    for split, count in (("train", 24), ("val", 4)):
        path = write_metadata(folder / f"{split}.json", split, count)
        clips = json.loads(path.read_text())
        for number, clip in enumerate(clips):
            is_angry = number % 4 == 0
            clip |= {"emotion": "angry" if is_angry else "calm", "weight": 6 if is_angry else 1}
        path.write_text(json.dumps(clips))
        argv += [f"--{split}_data", str(path)]
    assert pretokenize.main(argv) == 0
    return folder / "tokens.hdf5"


SHORT = "--max_steps 8 --save_every 3 --val_every 4 --log_every 2 --gen_every 0".split()


def test_weighted_runs_resume_exactly(
    weighted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train.main(options(weighted, whole, *SHORT)) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "drawn by weight: emotion: calm 75.0% -> 33.3%, angry 25.0% -> 66.7%" in said
    config = config_of(options(weighted, parts, *SHORT))
    for step in (2, 5, 7):
        with pytest.raises(Killed):
            train.run(config, Killer(step))
    assert train.run(config).status == "completed"
    assert rows(parts) == rows(whole)
    first, second = weights(whole), weights(parts)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_validation_ignores_weights(weighted: Path, tokens: Path, tmp_path: Path) -> None:
    for name, path in (("weighted", weighted), ("plain", tokens)):
        assert train.main(options(path, tmp_path / name, *SHORT)) == 0
    first, second = (rows(tmp_path / name, "val") for name in ("weighted", "plain"))
    assert first[0] == second[0], "the untrained model is the same on both"
    assert first[-1]["val_loss"] != second[-1]["val_loss"], "other clips were drawn since"
    assert first[-1]["examples"] == second[-1]["examples"]


def test_half_the_data_is_half_an_epoch(
    tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = options(
        tokens, tmp_path, "--n_epochs", "2", "--gen_every", "0", "--data_fraction", "0.5"
    )
    assert train.main(argv) == 0
    assert "12 clips to train on (data_fraction 0.5), 4 clips to" in capsys.readouterr().out
    assert rows(tmp_path, "val")[-1]["examples"] == 24
    argv[-1] = "1"
    assert train.main(argv) == 2, "a run is not resumed on other data"
    assert "data_fraction: 0.5 there, 1.0 now" in capsys.readouterr().err
