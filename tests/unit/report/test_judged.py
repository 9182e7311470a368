"""Judged numbers on the pages of sweeps and runs."""

import json
import re
from pathlib import Path

from csm_ft.report.__main__ import main
from csm_ft.report.data import read_summary
from csm_ft.report.run_page import build_run_page
from csm_ft.runs.folder import SweepFolder
from tests.helpers.sweep_folder import RANKED, add_judged, write_summary
from tests.unit.report.reading import NASTY, Sweep, build, figures, prose


def test_page_shows_what_judges_say(sweep: Sweep) -> None:
    add_judged(*sweep)
    text = build(sweep[0])
    words, drawn = prose(text), figures(text)
    assert RANKED in words
    assert "Judges: words by faster-whisper 1.2.1, tiny.en." in words
    assert "no DNSMOS: speechmos is not installed" in words
    wer = drawn["judged-wer"]["data"]
    assert wer[0]["name"] == "base"
    assert wer[0]["y"] == [0.7812, 0.7812]
    assert wer[1]["x"] == [480, 960, 1440]
    assert "judged-seconds" not in drawn, "neither main nor with a better"
    assert "Word errors (lower is better)" in words
    assert "Own voice (higher is better)" in words


def test_columns_are_main_numbers_and_constrained_ones(sweep: Sweep) -> None:
    add_judged(*sweep)
    summary = read_summary(SweepFolder(sweep[0]))
    assert "f0_mean_st" in summary.other_metrics
    assert summary.shown_metrics == ["val_first", "val_rest", "wer", "similarity", "seconds"]


def test_infeasible_comes_last_and_keeps_its_numbers(sweep: Sweep) -> None:
    out, summary = sweep
    add_judged(out, summary)
    valued = [t for t in read_summary(SweepFolder(out)).ranked if t.value and not t.has_failed]
    assert valued[-1].number == 3
    assert any((t.value or 0) > (valued[-1].value or 0) for t in valued), "not by its value"
    text = build(out)
    row = next(r for r in re.findall(r"<tr.*?</tr>", text, re.DOTALL) if "wer&lt;=0.45 is" in r)
    assert f"{summary['trials'][3]['value']:.3f}" in row
    assert "given" not in row
    points = {trace["name"]: trace for trace in figures(text)["history"]["data"]}
    assert points["infeasible"]["y"] == [summary["trials"][3]["value"]]
    assert "Only if" in prose(text)


def test_higher_values_lead(sweep: Sweep) -> None:
    out, summary = sweep
    summary["objective_metric"] = "similarity"
    for trial in summary["trials"]:
        if trial["value"] is not None:
            trial["value"] = 0.5 + trial["number"] / 100
    add_judged(out, summary)
    ranked = [t for t in read_summary(SweepFolder(out)).ranked if t.state == "completed"]
    assert [t.value for t in ranked] == sorted((t.value or 0 for t in ranked), reverse=True)
    text = build(out)
    assert "; higher is better" in prose(text)
    traces = figures(text)["history"]["data"]
    best_so_far = next(trace for trace in traces if trace["name"] == "best so far")["y"]
    assert best_so_far == sorted(best_so_far)


def test_page_of_a_run(sweep: Sweep) -> None:
    out, summary = sweep
    add_judged(out, summary)
    run = out / "trials/0000"
    clip = {"id": "1.wav", "text": NASTY, "speaker": "anna", "heard": "", "metrics": {"wer": 1.0}}
    found = {"judges": {"words": "w"}, "notes": [NASTY], "rows": [{"clips": [clip]}]}
    (run / "judged/step_000180").mkdir(parents=True)
    (run / "judged/step_000180/evaluation.json").write_text(json.dumps(found))
    text = build_run_page(run).read_text(encoding="utf-8")
    assert figures(text).keys() == {"judged-val_loss", "judged-wer", "judged-similarity"}
    words = prose(text)
    assert "heard “(nothing)”" in words
    assert NASTY not in text
    assert 'src="judged/step_000180/1.wav"' in text
    (run / "judged/step_000180/evaluation.json").write_text("{")
    assert "not readable" in prose(build_run_page(run).read_text(encoding="utf-8"))


def test_command_makes_the_page_of_a_run(sweep: Sweep, tmp_path: Path) -> None:
    run = sweep[0] / "trials/0000"
    assert main([str(run)]) == 0
    assert "csm-ft run" in (run / "report.html").read_text(encoding="utf-8")


def test_page_shows_what_is_forgotten(sweep: Sweep) -> None:
    out, summary = sweep
    for trial in [*summary["trials"], summary["baseline"]]:
        path = out / trial["dir"] / "metrics.jsonl"
        if not path.is_file():
            continue
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        canary = [{**row, "val_canary_loss": 3.5} for row in rows if row["kind"] == "val"]
        path.write_text("\n".join(json.dumps(row) for row in canary))
        trial["metrics"]["val_canary_loss"] = 3.5
    write_summary(out, summary)
    text = build(out)
    drawn = figures(text)
    assert set(drawn["judged-val_canary_loss"]["data"][1]["y"]) == {3.5}
    assert drawn["judged-val_canary_loss"]["data"][0]["name"] == "base"
    assert "judged-val_loss" in drawn
    assert "What is forgotten" in prose(text)
    assert "val_canary_loss" in read_summary(SweepFolder(out)).shown_metrics
