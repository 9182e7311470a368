"""The page of a sweep: what it says, and what it leaves alone."""

import base64
import errno
import hashlib
import html
import json
import math
import re
from pathlib import Path

import pytest

from csm_ft.errors import MachineError
from csm_ft.report.page import build_report
from csm_ft.runs.folder import SweepFolder
from tests.helpers.sweep_folder import as_old, make_sweep, write_summary
from tests.unit.report.reading import NASTY, Sweep, build, figures, prose, scripts


def test_page_says_what_was_found(sweep: Sweep) -> None:
    out, summary = sweep
    text = build(out)
    words = prose(text)
    best = summary["trials"][summary["best"]]
    assert summary["verdict"]["text"] in words
    assert f"Best · trial {best['number']}{best['value']:.3f}" in words.replace(" <", "<")
    assert "7.812" in words
    assert "6 of 6 ended: 3 completed, 2 stopped early, 1 diverged" in words
    assert "4 min 31 s on the clock" in words
    assert f"python train.py --config {out}/best.yaml" in words
    assert "loss is not finite at step 34 (learning_rate 0.003)" in words
    assert "best/model.safetensors" in words
    assert set(figures(text)) >= {"history", "curves", "importance", "slice0"}
    assert len(text.encode()) <= 10_000_000
    assert "Read with caution" in words


def test_page_says_what_an_evaluation_found(sweep: Sweep) -> None:
    out, _ = sweep
    folder = SweepFolder(out).evaluation
    assert "Evaluation of" not in prose(build(out))
    folder.path.mkdir()
    found = {"title": "voice, trial 3", "verdicts": ["better in <words>."]}
    folder.results.write_text(json.dumps(found))
    text = build(out)
    assert "better in &lt;words&gt;." in text
    assert "Evaluation of voice, trial 3" in prose(text)
    assert 'href="evaluation/index.html"' in text
    folder.results.write_text("[]")
    assert "Evaluation of" not in prose(build(out))
    folder.results.write_text('{"title": "torn')
    assert "Evaluation of" not in prose(build(out))


def test_page_loads_nothing_from_outside(sweep: Sweep) -> None:
    text = build(sweep[0])
    outside = text
    for script in scripts(text):
        outside = outside.replace(script, "")
    assert "http://" not in outside
    assert "https://" not in outside
    sources = set(re.findall(r'src="([^"]{0,30})', outside))
    assert sources
    assert all(source.startswith("data:audio/mpeg;base64,") for source in sources)
    assert not re.search(r"<link(?! rel=\"icon\" href=\"data:,\")", outside)


def test_policy_allows_only_own_scripts(sweep: Sweep) -> None:
    text = build(sweep[0])
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy
    assert "connect-src 'none'" in policy[1]
    allowed = re.findall(r"'sha256-([^']*)'", policy[1])
    assert allowed == [
        base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts(text)
    ]
    assert "unsafe-eval" not in policy[1]
    assert "'unsafe-inline'" not in policy[1].split("style-src")[0]


def test_everything_is_escaped(tmp_path: Path) -> None:
    summary = make_sweep(tmp_path, sentences={"aaaa": (NASTY, NASTY), "bbbb": ("fine", "")})
    before = len(re.findall("<script", build(tmp_path)))
    for trial in summary["trials"]:
        trial["reason"] = NASTY
        trial["params"] = {
            NASTY: f"{NASTY}{trial['number']}",
            "img": "<img src=x onerror=alert(1)>",
        }
    summary |= {
        "study": NASTY,
        "data": NASTY,
        "objective": NASTY,
        "device": NASTY,
        "importance": {NASTY: {NASTY: 1.0}},
        "importance_of": NASTY,
    }
    summary["verdict"]["text"] = NASTY
    write_summary(tmp_path, summary)
    text = build(tmp_path)
    assert len(re.findall("<script", text)) == before
    assert "<script>alert" not in text
    assert "<img" not in text.replace(scripts(text)[0], "")
    assert prose(text).count("alert(1)") > 10
    assert html.escape(NASTY) in figures(text)["slice0"]["layout"]["xaxis"]["title"]["text"]


@pytest.mark.parametrize("num_trials", [0, 1, 2])
def test_few_trials(tmp_path: Path, num_trials: int) -> None:
    make_sweep(tmp_path, num_trials=num_trials)
    words = prose(build(tmp_path))
    assert f"{num_trials} of {num_trials} ended" in words
    assert ("No trial has begun yet" in words) == (num_trials == 0)
    assert ("No trial has a value yet" in words) == (num_trials == 0)
    assert ("There is no best trial yet" in words) == (num_trials == 0)
    if num_trials == 1:
        assert "the default is the best" in words
        assert "Best = default (trial 0)" in words


def test_running_sweep_without_values(tmp_path: Path) -> None:
    summary = make_sweep(tmp_path, num_trials=2, samples=False)
    for trial, state in zip(summary["trials"], ("running", "waiting"), strict=True):
        trial |= {
            "state": state,
            "value": None,
            "final_value": None,
            "best_examples": None,
            "best_epoch": None,
            "seconds": None,
        }
    summary |= {
        "state": "running",
        "baseline": None,
        "best": None,
        "verdict": None,
        "importance": {},
        "n_trials": 6,
        "n_workers": None,
    }
    write_summary(tmp_path, summary)
    words = prose(build(tmp_path))
    assert "1 waiting trial is not listed." in words
    for sentence in (
        "No verdict yet: the sweep is running",
        "0 of 6 ended: 1 running, 1 waiting",
        "not measured",
        "none completed yet",
        "No samples yet",
        "No trial has a value yet",
        "Not computed",
    ):
        assert sentence in words


def test_unfinished_settings_are_named(tmp_path: Path) -> None:
    make_sweep(tmp_path, num_trials=0)
    (tmp_path / "best.yaml").write_text("# UNFINISHED")
    assert "until a trial is completed, best.yaml holds the best settings seen so far" in prose(
        build(tmp_path)
    )


@pytest.mark.parametrize(
    ("state", "words"),
    [("running", "against the base (so far)"), ("stopped", "against the base (stopped early)")],
)
def test_unfinished_default_is_named(tmp_path: Path, state: str, words: str) -> None:
    summary = make_sweep(tmp_path, num_trials=2)
    summary["trials"][0]["state"] = state
    write_summary(tmp_path, summary)
    assert words in prose(build(tmp_path))


def test_command_is_written_as_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "exp" / "my sweep"
    out.mkdir(parents=True)
    make_sweep(out, num_trials=1)
    monkeypatch.chdir(tmp_path)
    assert "python train.py --config 'exp/my sweep/best.yaml'" in prose(build(out))


def test_minimal_summary(tmp_path: Path) -> None:
    write_summary(
        tmp_path,
        {"study": "s", "state": "unfinished", "rungs": None, "trials": None, "importance": None},
    )
    words = prose(build(tmp_path))
    assert "No verdict: no trial was completed." in words
    assert (
        "best.yaml the best trial as a complete config that train.py takes as it is; not written yet"
        in words
    )


def test_not_a_number_is_no_value(tmp_path: Path) -> None:
    summary = make_sweep(tmp_path)
    summary["trials"][1] |= {"value": math.nan, "final_value": math.inf}
    summary["importance"]["MDI"] = {"learning_rate": math.nan}
    write_summary(tmp_path, summary)
    text = build(tmp_path)
    assert "nan" not in prose(text).lower().split()
    assert len(figures(text)["importance"]["data"]) == 1


def test_damaged_files_are_named(sweep: Sweep) -> None:
    out, _ = sweep
    metrics = out / "trials/0000/metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-9])
    prompt = out / "trials/0001/samples/5e1f0a"
    (prompt / "step_000180.json").write_text('{"text": "half')
    (out / "trials/0000/samples/5e1f0a/step_000180.wav").unlink()
    (out / "baseline/samples/9b22c4/step_000000.wav").write_bytes(b"RIFF nothing")
    words = prose(build(out))
    assert "trials/0000/metrics.jsonl: 1 torn line left out" in words
    assert (
        "trials/0001/samples/5e1f0a/step_000180.json: not readable as the facts of a sample"
        in words
    )
    assert "trials/0000/samples/5e1f0a/step_000180.wav: the file is missing" in words
    assert "baseline/samples/9b22c4/step_000000.wav: not readable as audio" in words
    assert "1 recording is not in this file" in words


def test_missing_run_folders_leave_table(sweep: Sweep) -> None:
    out, summary = sweep
    for trial in summary["trials"]:
        (out / trial["dir"]).rename(out / f"gone{trial['number']}")
    text = build(out)
    assert "curves" not in figures(text)
    assert "No validations are written yet" in prose(text)
    assert len(re.findall('<th scope="row" data-value', text)) == 6


def test_old_page_survives_failed_write(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    out, _ = sweep
    (out / "report.html").write_text("old")

    def full_disk(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr("csm_ft.atomic.os.fsync", full_disk)
    with pytest.raises(MachineError, match="no space left on device"):
        build_report(out)
    assert (out / "report.html").read_text() == "old"
    assert list(out.glob(".report*")) == []


def test_same_folder_same_page(sweep: Sweep) -> None:
    assert build(sweep[0]) == build(sweep[0])


def test_other_metrics_are_columns(sweep: Sweep) -> None:
    out, summary = sweep
    words = prose(build(out)).replace(" ", "")
    assert "lastvalueval_firstval_restlearning_rate" in words
    best = summary["trials"][summary["best"]]
    value, first, rest = best["final_value"], *list(best["metrics"].values())[1:]
    assert f"{value:.3f}{first:.3f}{rest:.3f}" in words
    assert "3.1254.687" in words, "those of the untrained model"


def test_old_summary_still_renders(sweep: Sweep) -> None:
    out, summary = sweep
    write_summary(out, as_old(summary))
    for path in out.glob("**/samples/*/*.json"):
        facts = json.loads(path.read_text())
        if "is_complete" in facts:
            facts["stopped_by_eos"] = facts.pop("is_complete")
            path.write_text(json.dumps(facts))
    text = build(out)
    words = prose(text)
    assert "validation loss; lower is better" in words
    assert figures(text)["curves"]["layout"]["yaxis"]["title"]["text"] == "validation loss"
    assert "last valuelearning_rate" in words.replace(" learning", "learning")
    assert "stopped by itself" in words
    assert "cut at the limit" in words
    assert "Listen" in words
