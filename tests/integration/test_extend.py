"""A finished run prolonged: `--extend`, with the schedule that was chosen, killed or not."""

from pathlib import Path

import pytest
import torch

import train
from tests.integration.test_train import options, rows, weights


def run(tokens: Path, folder: Path, steps: int, *more: str) -> int:
    return train.main(
        options(
            tokens, folder, "--max_steps", str(steps), "--gen_every", "0", "--log_every", "1", *more
        )
    )


def rates(folder: Path) -> list[float]:
    return [row["learning_rate"] for row in rows(folder, "train")]


def test_at_a_constant_rate_it_equals_a_run_of_that_length(tokens: Path, tmp_path: Path) -> None:
    constant = ["--lr_decay", "constant"]
    for schedule in ("stretch", "constant"):
        folder = tmp_path / schedule
        assert run(tokens, folder, 3, *constant) == 0
        assert run(tokens, folder, 5, *constant, "--extend", schedule) == 0
        if schedule == "stretch":
            assert run(tokens, tmp_path / "long", 5, *constant) == 0
        long = weights(tmp_path / "long")
        assert all(torch.equal(tensor, long[name]) for name, tensor in weights(folder).items())
        assert rows(folder, "train") == rows(tmp_path / "long", "train")


def test_the_chosen_schedule_is_used_also_after_another_start(
    tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    linear = ["--lr_decay", "linear", "--min_lr_ratio", "0", "--warmup_steps", "0"]
    assert run(tokens, tmp_path / "long", 6, *linear) == 0
    stretched = rates(tmp_path / "long")
    assert run(tokens, tmp_path / "run", 2, *linear) == 0
    first = rates(tmp_path / "run")
    assert run(tokens, tmp_path / "run", 4, *linear, "--extend", "constant") == 0
    assert rates(tmp_path / "run") == [*first, first[-1], first[-1]]
    assert "extended from 2 to 4 steps" in capsys.readouterr().out
    assert run(tokens, tmp_path / "run", 6, *linear, "--extend", "stretch") == 0
    expected = [*first, first[-1], first[-1], *stretched[4:]]
    assert rates(tmp_path / "run") == expected
    last = weights(tmp_path / "run")
    checkpoint = max((tmp_path / "run/checkpoints").glob("step_*"))
    (checkpoint / "state.json").unlink()  # as if a kill had come before the last checkpoint
    for file in checkpoint.iterdir():
        file.unlink()
    checkpoint.rmdir()
    assert run(tokens, tmp_path / "run", 6, *linear) == 0, "the extension is remembered"
    assert rates(tmp_path / "run") == expected
    assert all(
        torch.equal(tensor, last[name]) for name, tensor in weights(tmp_path / "run").items()
    )


def test_mistakes_name_the_ways_out(
    tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert run(tokens, folder, 3, "--extend", "stretch") == 2
    assert "holds no run to prolong; name its folder" in capsys.readouterr().err
    assert run(tokens, folder, 3) == 0
    assert run(tokens, folder, 5) == 2
    assert "prolong it with --extend constant or --extend stretch" in capsys.readouterr().err
    assert run(tokens, folder, 2, "--extend", "stretch") == 2, "shorter"
    assert "max_steps: 3 there, 2 now" in capsys.readouterr().err
    assert run(tokens, folder, 5, "--extend", "stretch", "--batch_size", "4") == 2
    assert "batch_size: 8 there, 4 now" in capsys.readouterr().err
    assert run(tokens, folder, 5, "--extend", "stretch", "--resume", "false") == 2
    assert "drop one of the two" in capsys.readouterr().err
    assert folder.is_dir(), "not moved aside"
    assert run(tokens, folder, 3, "--extend", "stretch") == 0, "nothing to do"
    assert "this run is complete" in capsys.readouterr().out
