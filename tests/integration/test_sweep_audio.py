"""A whole sweep whose trials have examples of different lengths: compared in seconds of audio."""

from pathlib import Path

import pandas as pd
import pytest

from csm_ft.report.page import build_report
from tests.helpers.fake_trainer import CLIP_SEC, NUM_CLIPS
from tests.integration.test_sweep_chaos import Sweep

N_EPOCHS = 12
HORIZON_SEC = N_EPOCHS * NUM_CLIPS * CLIP_SEC
SPACE = """
learning_rate: {type: float, min: 1e-6, max: 1e-3, log: true}
instance_max_sec: {type: categorical, values: [0, 6.0, 12.0]}
"""


def test_trials_are_compared_after_equal_seconds_of_audio(tmp_path: Path) -> None:
    argv = ("--family", "moonshine", "--n_epochs", str(N_EPOCHS), "--batch_size", "2")
    sweep = Sweep(tmp_path, "--n_trials", "9", *argv, faults={"kill": {"4": 1}})
    (tmp_path / "space.yaml").write_text(SPACE)
    sweep.run()
    states = sweep.check_whole(9)
    assert states["stopped"] >= 3, "rungs have decided"
    summary, rungs = sweep.summary(), [HORIZON_SEC / 9, HORIZON_SEC / 3, HORIZON_SEC]
    assert summary["compared_in"] == "seconds of audio"
    assert summary["rungs"] == pytest.approx(rungs)
    rows, lengths = summary["trials"], set[float]()
    for trial, row in zip(sweep.trials(), rows, strict=True):
        example_sec = max(CLIP_SEC, trial.params["instance_max_sec"])
        lengths.add(example_sec)
        at = sorted(seconds for seconds in trial.intermediate_values if seconds > 0)
        points = [HORIZON_SEC / 9 * place for place in range(1, len(at) + 1)]
        assert all(0 <= a - p < 2 * example_sec for a, p in zip(at, points, strict=True)), at
        assert row["best_audio_sec"] == row["best_examples"] * example_sec
        assert row["best_audio_sec"] in at
        if row["state"] == "stopped":
            assert row["reason"] == f"behind the best 1/3 after {at[-1]} seconds of audio"
    assert lengths == {2.0, 6.0, 12.0}
    table = pd.read_csv(sweep.out / "trials.csv")
    assert list(table["best_audio_sec"]) == [row["best_audio_sec"] for row in rows]
    page = build_report(sweep.out).read_text()
    assert page.count("seconds of audio trained on") >= 3, "axis, picture and table"
    assert ">log seconds of audio<" in page
    assert "examples seen" not in page
