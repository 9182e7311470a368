"""`--patience`: a run ends by itself, resumes exactly, and continues where more is given."""

from pathlib import Path
from typing import Any

import pytest

import train
from csm_ft.runs.checkpoint import TrainState
from tests.integration.test_train import Killed, Killer, config_of, options, rows, weights

# No validation is better by 10 nats, so the first one that counts stays the last improvement.
HOPELESS = "--n_epochs 6 --val_every 1ep --gen_every 0 --patience 2ep --min_delta 10".split()


def run(tokens: Path, folder: Path, *more: str) -> int:
    return train.main(options(tokens, folder, *HOPELESS, *more))


def epochs(folder: Path) -> list[float]:
    return [round(row["epoch"], 3) for row in rows(folder, "val")]


def test_a_run_ends_when_patience_does(
    tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tokens, tmp_path) == 0
    assert epochs(tmp_path) == [0, 1, 2, 3]
    said = capsys.readouterr().out
    assert "out of patience at step 9 of 18: val_loss has not fallen" in said
    assert (tmp_path / "checkpoints/step_000009/model.safetensors").is_file()
    assert run(tokens, tmp_path) == 0
    said = capsys.readouterr().out
    assert "this run is complete" in said
    assert "a longer --patience, or 0, continues it" in said
    assert epochs(tmp_path) == [0, 1, 2, 3], "the same command does nothing"


@pytest.mark.parametrize("more", [["--batch_size", "3"], ["--grad_acc_steps", "2"], []])
def test_the_batch_size_does_not_matter(tokens: Path, tmp_path: Path, more: list[str]) -> None:
    assert run(tokens, tmp_path, *more) == 0
    assert epochs(tmp_path) == [0, 1, 2, 3]


def test_a_killed_run_stops_at_the_same_step(tokens: Path, tmp_path: Path) -> None:
    assert run(tokens, tmp_path / "whole") == 0
    config = config_of(options(tokens, tmp_path / "killed", *HOPELESS, "--save_every", "4"))
    with pytest.raises(Killed):
        train.run(config, Killer(8))
    result = train.run(config)
    assert (result.status, result.step) == ("completed", 9)
    assert "out of patience" in result.reason
    whole, killed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all((tensor == killed[name]).all() for name, tensor in whole.items())


def test_a_stopped_run_continues_with_more_patience(tokens: Path, tmp_path: Path) -> None:
    assert run(tokens, tmp_path / "run") == 0
    assert run(tokens, tmp_path / "run", "--patience", "0") == 0
    assert epochs(tmp_path / "run") == [0, 1, 2, 3, 4, 5, 6]
    assert run(tokens, tmp_path / "whole", "--patience", "0") == 0
    whole = weights(tmp_path / "whole")
    found = weights(tmp_path / "run")
    assert all((tensor == found[name]).all() for name, tensor in whole.items())


def test_improving_runs_are_not_stopped(tokens: Path, tmp_path: Path) -> None:
    assert run(tokens, tmp_path, "--min_delta", "0") == 0
    val: list[dict[str, Any]] = rows(tmp_path, "val")
    assert val[-1]["epoch"] == 6
    (checkpoint,) = (tmp_path / "checkpoints").glob("step_*")
    improvement = TrainState.read(checkpoint).improvement
    assert improvement is not None
    assert improvement.value == min(row["val_loss"] for row in val[1:])


def test_patience_without_validations_is_refused(
    tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(options(tokens, tmp_path, "--patience", "1ep", "--val_every", "0")) == 2
    assert "val_every 0 has none" in capsys.readouterr().err
