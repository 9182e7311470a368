"""An evaluation in the W&B run of its weights."""

from pathlib import Path

import pytest

from csm_ft.config.train import TrainConfig
from csm_ft.evaluate.judge import JudgedClip
from csm_ft.evaluate.results import Evaluation, make_row
from csm_ft.evaluate.summary import Share
from csm_ft.evaluate.wandb_log import log_evaluation
from csm_ft.runs.folder import RunFolder
from csm_ft.runs.metrics import Tracker
from tests.helpers.judging import clip
from tests.helpers.wandb_files import offline_runs

OFFLINE = TrainConfig(wandb="offline")


def evaluation() -> Evaluation:
    judged = [
        JudgedClip(clip(name, "one", 0.1), {"wer": wer}, {"wer": Share(name, wer)})
        for name, wer in (("a", 0.0), ("b", 0.5))
    ]
    rows = [make_row("run", "model", judged, on_data={"val_loss": 5.5})]
    rows.append(make_row("after the codec", "codec", judged[:1]))
    return Evaluation("run", rows, {}, [], [])


def test_numbers_go_to_the_run_that_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(tmp_path)
    log_evaluation(evaluation(), run, OFFLINE)
    assert not (tmp_path / "wandb").exists()
    with Tracker(run, OFFLINE, keep_bytes=0) as tracker:
        tracker.row("val", 1, {"val_loss": 6.0})
        with run.opened():
            log_evaluation(evaluation(), run, OFFLINE)
    assert "the run is being trained; evaluation.json has everything" in capsys.readouterr().out
    log_evaluation(evaluation(), run, OFFLINE)
    trained, evaluated = offline_runs(tmp_path)
    assert evaluated.id.startswith(trained.id)
    assert evaluated.summary["evaluation/model/wer"] == 0.25
    assert evaluated.summary["evaluation/model/val_loss"] == 5.5
    assert evaluated.summary["evaluation/codec/wer"] == 0.0
    assert [row["clips"] for row in evaluated.rows("evaluation")] == [2, 1]
    log_evaluation(evaluation(), run, TrainConfig(wandb="off"))
    assert len(offline_runs(tmp_path)) == 2
