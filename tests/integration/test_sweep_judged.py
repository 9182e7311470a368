"""Sweeps whose trials are judged: constraints, higher is better, and how well the loss ranks."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

import sweep
from csm_ft.evaluate.__main__ import main as evaluate
from csm_ft.report.page import build_report
from tests.integration.test_sweep_chaos import Sweep
from tests.integration.test_train import TINY, rows
from tests.unit.report.reading import figures, prose

JUDGED = ("--judge_every", "1/3", "--pruner", "none")


def events(study: Sweep, kind: str) -> list[dict[str, Any]]:
    lines = (study.out / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def test_constraint_decides_and_the_loss_is_ranked(tmp_path: Path) -> None:
    study = Sweep(tmp_path, *JUDGED, "--n_trials", "10", "--constraint", "similarity>=0.6")
    said = study.run()
    summary = study.summary()
    trials = summary["trials"]
    violating = [t for t in trials if t["violated"]]
    assert violating
    assert all(t["state"] == "infeasible" for t in violating)
    assert all(t["metrics"]["similarity"] < 0.6 for t in violating)
    feasible = [t for t in trials if t["state"] == "completed"]
    assert summary["best"] == min(feasible, key=lambda t: t["value"])["number"]
    assert min(violating, key=lambda t: t["value"])["value"] < trials[summary["best"]]["value"], (
        "the constraint made a difference"
    )
    assert "could not be the best: similarity>=0.6 violated" in summary["verdict"]["text"]
    wer = next(one for one in summary["rankings"] if one["metric"] == "wer")
    assert (wer["rho"], wer["num_trials"]) == (1, 10)
    assert "val_loss ranks trials by word errors (wer): rho 1.00 [1.00, 1.00], 10 trials." in said
    assert "cannot be told: rho" in said, "similarity goes another way than the loss"
    assert summary["judges"] == {"words": "fake 1", "voice": "fake 2"}
    best = yaml.safe_load((study.out / "best.yaml").read_text())
    assert best["learning_rate"] == trials[summary["best"]]["params"]["learning_rate"]
    table = pd.read_csv(study.out / "trials.csv")
    assert table["metrics.wer"].notna().all()
    text = build_report(study.out).read_text()
    assert {"judged-wer", "judged-similarity"} <= figures(text).keys()
    assert "Infeasible trials with a value violate similarity>=0.6" in prose(text)
    again = study.run()
    assert study.summary()["trials"] == trials, "resumed, nothing changes"
    assert "similarity>=0.6 violated" in again
    assert "constraint" in study.run("--constraint", "wer<=0.5", code=2)


def test_best_by_a_number_of_which_more_is_better(tmp_path: Path) -> None:
    study = Sweep(tmp_path, "--judge_every", "1/9", "--n_trials", "6", "--best_by", "similarity")
    said = study.run()
    summary = study.summary()
    done = [t for t in summary["trials"] if t["state"] == "completed"]
    best = max(done, key=lambda t: t["value"])
    assert summary["best"] == best["number"]
    assert summary["objective"] == "highest similarity from the first rung on"
    assert best["value"] == best["metrics"]["similarity"]
    assert "similarity" in said
    text = build_report(study.out).read_text()
    assert "; higher is better" in prose(text)


def test_no_trial_meets_the_constraint(tmp_path: Path) -> None:
    study = Sweep(tmp_path, *JUDGED, "--n_trials", "2", "--constraint", "wer<=0.0001")
    said = study.run(code=1)
    assert "No trial meets the constraints" in said
    assert "meets the constraints (wer<=0.0001)" in (study.out / "best.yaml").read_text()
    assert not (study.out / "best").exists()


def test_what_cannot_be_asked_for_stops_before_the_first_trial(tmp_path: Path) -> None:
    study = Sweep(tmp_path, "--n_trials", "2")
    said = study.run("--constraint", "cer<=0.1", code=2)
    assert "add --judge_every 1/3" in said
    said = study.run("--constraint", "crr<=0.1", "--judge_every", "1/3", code=2)
    assert "did you mean cer? Known: val_loss, wer" in said
    assert "write 1/3" in study.run("--judge_every", "20", code=2).replace("such as", "write")
    assert not (study.out / "events.jsonl").exists()
    said = study.run("--judge_every", "1/3", "--constraint", "dnsmos>=3", code=2)
    assert "dnsmos is not measured" in said
    assert "no DNSMOS" in said
    assert [event["trial"] for event in events(study, "dispatched")] == [-1]


@pytest.mark.slow
def test_real_trials_with_real_judges(tokens: Path, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(
        "learning_rate: {type: float, min: 1e-3, max: 3e-2, log: true}\n"
    )
    out = tmp_path / "out"
    argv = ["--data", str(tokens), "--sweep_config", str(tmp_path / "space.yaml"), *TINY]
    argv += ["--output_dir", str(out), "--n_trials", "2", "--n_epochs", "3", "--device", "cpu"]
    argv += ["--gen_every", "0", "--judge_every", "1/3", "--judge_n_prompts", "2"]
    assert sweep.main([*argv, "--judge_max_sec", "0.8", "--constraint", "dnsmos>=0"]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["judges"].keys() == {"words", "voice", "quality", "pitch"}
    done = [trial for trial in summary["trials"] if trial["state"] == "completed"]
    assert done
    for trial in done:
        assert {"wer", "similarity", "dnsmos", "val_loss"} <= trial["metrics"].keys()
        best = next(
            row
            for row in rows(out / trial["dir"], "val")
            if row["examples"] == trial["best_examples"]
        )
        assert trial["metrics"]["wer"] == best["wer"]
    assert {"wer", "similarity"} <= summary["baseline"]["metrics"].keys()
    assert "judged-wer" in figures((out / "report.html").read_text())

    summary["best"] = 1  # whichever it was: the default has a row of its own beside another
    (out / "summary.json").write_text(json.dumps(summary))
    fast = ["--n_prompts", "2", "--max_sec", "0.8", "--device", "cpu"]
    assert evaluate([str(out), *fast]) == 0
    found = json.loads((out / "evaluation/evaluation.json").read_text())
    kinds = [row["kind"] for row in found["rows"]]
    assert kinds == ["model", "default", "codec", "recordings"]
    assert found["title"] == "out, trial 1"
    assert any("compared with the default settings" in said for said in found["verdicts"])
    assert "compared with the default settings" in (out / "report.html").read_text()
