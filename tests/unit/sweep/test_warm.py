"""Settings of earlier studies: what fits is tried early, what does not is told."""

import json
from pathlib import Path

import pytest

from csm_ft.errors import ReportError
from csm_ft.sweep.request import parse
from csm_ft.sweep.study import SweepStudy
from csm_ft.sweep.warm import warm_settings
from tests.helpers.sweep_folder import make_sweep
from tests.unit.sweep.test_space import space
from tests.unit.sweep.test_study import Opener, complete, opener

__all__ = ["opener"]  # the fixture
ROWS = (
    "learning_rate: {type: float, min: 1e-6, max: 1e-3, log: true}\n"
    "batch_size: {type: categorical, values: [8, 16]}\n"
)


def make_earlier(folder: Path, *settings: tuple[float, float, int]) -> Path:
    """Write a sweep whose trials have (value, learning rate, batch size)."""
    summary = make_sweep(folder, samples=False)
    trial = summary["trials"][0]
    summary["trials"] = [
        {
            **trial,
            "number": number,
            "value": value,
            "state": "completed",
            "params": {"learning_rate": rate, "batch_size": size},
        }
        for number, (value, rate, size) in enumerate(settings)
    ]
    (folder / "summary.json").write_text(json.dumps(summary))
    for run in (folder / "trials").glob("*/config.yaml"):
        run.unlink()
    return folder


def test_the_best_three_are_tried_after_the_neighbours(tmp_path: Path, opener: Opener) -> None:
    settings = [(5.0, 2e-4, 8), (4.0, 3e-4, 16), (4.5, 4e-4, 8), (4.4, 5e-4, 64), (9.0, 6e-4, 8)]
    earlier = make_earlier(tmp_path / "earlier", *settings)
    study = opener("--warm_from", str(earlier), "--n_trials", "9")
    drawn = [study.params(study.ask()) for _ in range(6)]
    assert drawn[3:] == [
        {"learning_rate": 3e-4, "batch_size": 16},
        {"learning_rate": 5e-4, "batch_size": 8},
        {"learning_rate": 4e-4, "batch_size": 8},
    ]


def test_misfits_are_told(tmp_path: Path) -> None:
    earlier = make_earlier(tmp_path / "earlier", (4.0, 3e-1, 64), (4.1, 3e-4, 8))
    (earlier / "trials/0001").mkdir(parents=True, exist_ok=True)
    (earlier / "trials/0001/config.yaml").write_text("lr_decay: cosine\nmax_grad_norm: 1.3\n")
    found, notes = warm_settings([str(earlier)], space(tmp_path, ROWS))
    assert found == [{"learning_rate": 3e-4, "batch_size": 8}]
    text = "\n".join(notes)
    assert "trial 0: learning_rate: it has 0.3, which is not in the space; " in text
    assert "trial 0: batch_size: it has 64, which is not in the space; 8 takes its place" in text
    assert "trial 0: its setting is among the first ones already" in text
    assert "trial 1: lr_decay: it has 'cosine', and all trials here have 'linear'" in text
    assert "trial 1 is tried again: learning_rate 0.0003, batch_size 8" in text


def test_a_study_keeps_what_it_began_with(
    tmp_path: Path, opener: Opener, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier = make_earlier(tmp_path / "earlier", (4.0, 3e-4, 16))
    study: SweepStudy = opener("--warm_from", str(earlier))
    complete(study, study.ask(), 1.0)
    (earlier / "summary.json").unlink()
    again = opener("--warm_from", str(earlier))
    assert again.num_started == 1
    later = [again.params(again.ask()) for _ in range(3)]
    assert later[-1] == {"learning_rate": 3e-4, "batch_size": 16}
    capsys.readouterr()
    opener("--warm_from", "elsewhere")
    assert "warm_from is not used: the study has begun" in capsys.readouterr().out


def test_folder_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(ReportError):
        warm_settings([str(tmp_path)], space(tmp_path, ROWS))
    assert parse(["--warm_from", "a,b", "--warm_from", "c"]).sweep.warm_from == ["a", "b", "c"]
