"""configs/learning_curve.yaml as a user runs it: shares times seeds, and what more would bring."""

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

import sweep
from tests.integration.test_train import ROOT, TINY, rows


@pytest.mark.slow
def test_shares_and_seeds_make_a_curve(
    tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--data", str(tokens), "--output_dir", str(tmp_path), *TINY, "--device", "cpu"]
    argv += ["--sweep_config", str(ROOT / "configs/learning_curve.yaml")]
    assert sweep.main([*argv, "--n_epochs", "4", "--gen_every", "0"]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    trials = summary["trials"]
    assert [t["state"] for t in trials] == ["completed"] * 15, "none is stopped for having less"
    assert len({(t["params"]["data_fraction"], t["params"]["seed"]) for t in trials}) == 15
    assert trials[0]["params"] == {"data_fraction": 1.0, "seed": 0}
    configs = [yaml.safe_load((tmp_path / t["dir"] / "config.yaml").read_text()) for t in trials]
    assert [c["seed"] for c in configs] == [t["params"]["seed"] for t in trials]
    seen = {rows(tmp_path / t["dir"], "val")[-1]["examples"] for t in trials}
    assert max(seen) <= 1.15 * min(seen), "all trials see about as many examples"
    assert summary["compared_in"] == "seconds of audio"
    seconds = {rows(tmp_path / t["dir"], "val")[-1]["audio_sec"] for t in trials}
    assert summary["rungs"][-1] == pytest.approx(min(seconds), rel=0.15)
    table = pd.read_csv(tmp_path / "trials.csv")
    assert list(table["best_audio_sec"]) == [t["best_audio_sec"] for t in trials]
    assert all(0 < t["best_audio_sec"] <= max(seconds) for t in trials)
    assert "seconds of audio trained on" in (tmp_path / "report.html").read_text("utf-8")
    curve = summary["data_curve"]
    assert [point["num_seeds"] for point in curve["points"]] == [3] * 5
    assert curve["text"] in " ".join(capsys.readouterr().out.split())
    assert curve["text"] in (tmp_path / "report.html").read_text("utf-8")
