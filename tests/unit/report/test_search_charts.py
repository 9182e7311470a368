"""Lines over all parameters, the map of two, and when slots worked: their numbers and words."""

import json
from pathlib import Path
from typing import Any

import pytest

from csm_ft.report.data import Run, Validation
from csm_ft.report.search_charts import parallel, saved_by_stopping, strongest_pair
from csm_ft.report.timeline import (
    Span,
    idle_in_words,
    read_spans,
    timeline,
    value_by_time,
)
from csm_ft.sweep.records import Summary, TrialRecord
from tests.helpers.sweep_folder import make_sweep
from tests.unit.report.reading import build, figures, prose


def trial(number: int, value: float | None, **facts: Any) -> TrialRecord:
    params = {"learning_rate": 10 ** (-6 + number / 3), "method": "full" if number % 2 else "lora"}
    given: dict[str, Any] = {"state": "completed", "params": params, "is_default": number == 0}
    return TrialRecord(number=number, value=value, dir=f"trials/{number:04d}", **(given | facts))


def summary(*trials: TrialRecord, **facts: Any) -> Summary:
    return Summary(study="s", state="finished", trials=list(trials), **facts)


def test_each_trial_is_a_line_between_the_ends() -> None:
    shown = [trial(0, 3.0), trial(3, 2.0), trial(6, 4.0), trial(9, None, state="diverged")]
    figure = parallel(summary(*shown, best=3))
    assert figure is not None
    lines = {line["name"]: line["y"] for line in figure["data"]}
    assert lines["default, trial 0"] == pytest.approx([0, 1, 0.5])
    assert lines["best, trial 3"] == pytest.approx([0.5, 0, 0])
    assert lines["trial 6"] == pytest.approx([1, 1, 1])
    assert figure["data"][-1]["name"].startswith(("best", "default")), "on top"
    texts = {(a["x"], a["y"]): a["text"] for a in figure["layout"]["annotations"]}
    assert (texts[0, 0], texts[0, 1]) == ("1e-06", "0.0001")
    assert (texts[1, 0], texts[2, 1]) == ("full", "4.000")
    assert figure["layout"]["xaxis"]["ticktext"] == ["learning_rate", "method", "validation loss"]


def test_a_parameter_that_a_trial_lacks_leaves_a_gap() -> None:
    figure = parallel(
        summary(trial(0, 3.0), trial(1, 2.0, params={"method": "full"}), trial(2, 1.0))
    )
    assert figure is not None
    assert [line["y"][0] is None for line in figure["data"] if line["name"] == "trial 1"] == [True]
    assert parallel(summary(trial(0, 3.0))) is None


def test_map_is_lowest_where_values_are() -> None:
    trials = [
        trial(
            n, (n % 3) + (n // 3) / 10, params={"a": 1.0 + n % 3, "b": 10.0 ** (n // 3), "c": "x"}
        )
        for n in range(9)
    ]
    importance = {"MDI": {"a": 0.7, "b": 0.2, "c": 0.1}}
    figure = strongest_pair(summary(*trials, importance=importance))
    assert figure is not None
    field = figure["data"][0]
    assert (field["x"][0], field["x"][-1]) == (1, 3)
    assert (field["y"][0], field["y"][-1]) == pytest.approx((1, 100))
    rows = field["z"]
    assert rows[0][0] == min(map(min, rows))
    assert rows[-1][-1] == max(map(max, rows)) == pytest.approx(2.2, abs=0.05)
    assert figure["layout"]["yaxis"]["type"] == "log"
    assert figure["layout"]["xaxis"].get("type") != "log"
    again = [trial(9 + n, 0.0, params=trials[0].params, purpose="noise") for n in range(9)]
    assert strongest_pair(summary(*trials[:7], *again, importance=importance)) is None


def test_what_stopping_saved() -> None:
    trials = [trial(0, 1.0), trial(1, 2.0, state="stopped", seconds=60.0)]
    runs = {1: Run([Validation(50, 3.0), Validation(100, 2.0)], [], {}, [])}
    said = saved_by_stopping(summary(*trials, horizon_examples=400), runs)
    assert said == (
        "Stopping 1 of 2 trials early saved 0.8 whole runs, about 3 min 00 s of trial time."
    )
    assert saved_by_stopping(summary(trial(0, 1.0), horizon_examples=400), {}) == ""


def write_events(path: Path, *events: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(event) + "\n" for event in events) + '{"torn')
    return path


def test_attempts_are_read_from_events(tmp_path: Path) -> None:
    def sent(time: float, trial: int, slot: str) -> dict[str, Any]:
        return {"time": time, "event": "dispatched", "trial": trial, "slot": slot}

    path = write_events(
        tmp_path / "events.jsonl",
        {"time": 100, "event": "began"},
        sent(101, -1, "gpu0"),
        sent(110, 0, "gpu0"),
        sent(111, 1, "gpu1"),
        {"time": 120, "event": "worker died", "slot": "gpu1", "trial": 1},
        sent(125, 1, "gpu1"),
        {"time": 130, "event": "ended", "trial": 0},
        {"time": 140, "event": "worker started", "slot": "gpu0"},
        {"time": 900, "event": "began"},  # the call before was killed
        sent(901, 1, "gpu0"),
        {"time": 911, "event": "progress of something"},
    )
    spans = read_spans(path)
    assert spans == [
        Span("gpu0", -1, 101, 110),
        Span("gpu0", 0, 110, 130),
        Span("gpu1", 1, 111, 120),
        Span("gpu0", 1, 901, 911),
    ]
    figure = timeline(summary(trial(0, 1.0), trial(1, None, state="running")), spans)
    assert figure is not None
    bars = {bar["name"]: bar for bar in figure["data"]}
    assert bars["untrained model"]["base"] == [0]
    assert bars["completed"]["x"] == [pytest.approx(20 / 60)]
    assert bars["running"]["y"] == ["gpu1", "gpu0"]
    assert read_spans(tmp_path / "none") == []


def test_value_stands_against_the_time_of_all_slots() -> None:
    spans = [Span("a", 0, 0, 600), Span("b", 1, 0, 300), Span("b", 2, 400, 1000)]
    trials = [trial(0, 3.0), trial(1, 9.0, state="stopped"), trial(2, 2.0)]
    figure = value_by_time(summary(*trials, best=2), spans)
    assert figure is not None
    lines = {line["name"]: line for line in figure["data"]}
    # Trial 1 ends when both slots have worked 5 minutes, trial 0 after 10 + 5 + 3.33 minutes.
    assert lines["best so far"]["x"] == pytest.approx([18.333, 25.0], abs=1e-3)
    assert lines["best so far"]["y"] == [3.0, 2.0]
    assert lines["stopped early"]["x"] == pytest.approx([10.0])
    assert lines["stopped early"]["y"] == [figure["layout"]["yaxis"]["range"][1]]
    assert value_by_time(summary(trial(0, 1.0)), spans) is None
    assert value_by_time(summary(*trials), []) is None


def test_idle_time_is_that_between_trials() -> None:
    spans = [Span("a", 0, 0, 10), Span("a", 1, 30, 40), Span("b", 2, 0, 40)]
    assert (
        idle_in_words(spans) == "Slots were idle for 20 s, 25.0 % of the time between their trials."
    )
    assert idle_in_words([]) == ""


def test_page_has_them(tmp_path: Path) -> None:
    make_sweep(tmp_path, num_trials=10)
    rows = [("dispatched", 0, 0), ("ended", 0, 60), ("dispatched", 1, 90), ("ended", 1, 120)]
    events = [{"time": t, "event": e, "trial": n, "slot": "<b>gpu0"} for e, n, t in rows]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    page = build(tmp_path)
    assert {"parallel", "timeline"} <= figures(page).keys()
    text = prose(page)
    assert "early saved" in text
    assert "Slots were idle for 30 s, 25.0 %" in text
