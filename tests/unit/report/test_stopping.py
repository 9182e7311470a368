"""Where patience ended a trial, or would have."""

from collections.abc import Sequence
from pathlib import Path

from csm_ft.report.data import Run, Validation
from csm_ft.report.stopping import find_stops, trace
from csm_ft.sweep.records import Summary, TrialRecord
from tests.unit.report.reading import Sweep, build, figures, prose

OVERFITS = (9.0, 5.0, 4.0, 4.2, 4.4, 4.1, 3.9, 3.95, 4.0)


def run_of(values: Sequence[float]) -> Run:
    return Run([Validation(100.0 * (i + 1), v) for i, v in enumerate(values)], [], {}, [])


def summary_of(*trials: TrialRecord) -> Summary:
    return Summary(
        study="s",
        state="finished",
        trials=list(trials),
        best=0,
        rungs=[100.0, 300.0, 900.0],
        horizon_examples=900,
    )


def completed(number: int, reason: str = "") -> TrialRecord:
    return TrialRecord(number=number, state="completed", value=3.9, dir="t", reason=reason)


def test_a_run_without_patience_shows_what_it_would_do() -> None:
    (stop,) = find_stops(summary_of(completed(0)), {0: run_of(OVERFITS)})
    assert (stop.at.examples, stop.best_then, stop.is_real) == (500, 4.0, False)
    assert stop.words == (
        "--patience 20% would have stopped trial 0 after 500 examples (lowest 4.0000; its lowest"
        " came later and is 0.1000 lower)."
    )


def test_an_improving_run_has_no_mark() -> None:
    falling = [9 - i / 2 for i in range(9)]
    assert find_stops(summary_of(completed(0)), {0: run_of(falling)}) == []


def test_real_stops_are_marked_where_they_were() -> None:
    stopped = completed(1, "out of patience at step 60")
    stops = find_stops(summary_of(completed(0), stopped), {1: run_of(OVERFITS[:5])})
    assert [(stop.trial.number, stop.at.examples, stop.is_real) for stop in stops] == [
        (1, 500, True)
    ]
    assert trace(stops, is_real=True)[0]["name"] == "out of patience"
    assert trace(stops, is_real=False) == []


def test_unnamed_and_failed_trials_have_no_mark() -> None:
    others = [completed(0), completed(1), TrialRecord(number=2, state="diverged", dir="t")]
    runs = {number: run_of(OVERFITS) for number in (1, 2)}
    assert find_stops(summary_of(*others), runs) == []


def test_the_page_says_where_trials_would_stop(sweep: Sweep) -> None:
    out, facts = sweep
    metrics = Path(out / facts["trials"][facts["best"]]["dir"] / "metrics.jsonl")
    horizon = facts["horizon_examples"]
    lines = [
        f'{{"kind": "val", "step": {i + 1}, "examples": {horizon * (i + 1) / 9}, "val_loss": {v}}}'
        for i, v in enumerate(OVERFITS)
    ]
    metrics.write_text("\n".join(lines))
    page = build(out)
    assert "would have stopped trial" in prose(page)
    names = [one["name"] for one in figures(page)["curves"]["data"]]
    assert "patience 20% would stop" in names


def test_of_a_number_of_which_more_is_better_the_highest_counts() -> None:
    summary = summary_of(completed(0)).model_copy(update={"objective_metric": "similarity"})
    (stop,) = find_stops(summary, {0: run_of([-value for value in OVERFITS])})
    assert (stop.at.examples, stop.best_then) == (500, -4.0)
    assert "(highest -4.0000; its highest came later and is 0.1000 higher)" in stop.words
