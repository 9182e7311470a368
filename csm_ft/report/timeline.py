"""Which slot worked on which trial when, from events.jsonl: gaps are idle time."""

import html
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csm_ft.report import traces
from csm_ft.report.templating import duration
from csm_ft.report.traces import MARKS, Axis, Figure
from csm_ft.sweep.records import STATE_WORDS, Summary, TrialRecord

_BASELINE = -1  # the trial number of the untrained model
_NO_TRIAL = -2
_ENDS = ("ended", "interrupted", "failed")
_MOST_SPANS = 2000


@dataclass(frozen=True)
class Span:
    """One attempt at a trial; seconds since 1970."""

    slot: str
    trial: int
    began_sec: float
    ended_sec: float


def read_spans(events: Path) -> list[Span]:
    """Return the attempts, by their beginning; a line that cannot be read is left out."""
    open_by_trial: dict[int, tuple[str, float]] = {}
    spans: list[Span] = []
    last_sec = 0.0
    for event in _events(events):
        kind, trial, now_sec = event["event"], event.get("trial", _NO_TRIAL), event["time"]
        last_sec = now_sec
        if kind == "dispatched":
            open_by_trial[trial] = (event["slot"], now_sec)
        elif kind in _ENDS or kind == "worker died":
            if trial in open_by_trial:
                slot, began_sec = open_by_trial.pop(trial)
                spans.append(Span(slot, trial, began_sec, now_sec))
        elif kind == "began":  # another call: what was open died with the one before
            open_by_trial.clear()
        # The untrained model has no event at its end: the next trial there says so.
        if kind == "dispatched" and trial != _BASELINE and _BASELINE in open_by_trial:
            slot, began_sec = open_by_trial.pop(_BASELINE)
            spans.append(Span(slot, _BASELINE, began_sec, now_sec))
    spans += [Span(slot, trial, began, last_sec) for trial, (slot, began) in open_by_trial.items()]
    return sorted(spans, key=lambda span: span.began_sec)


def timeline(summary: Summary, spans: list[Span]) -> Figure | None:
    """Return one bar per attempt, one row per slot; minutes since the first."""
    shown = spans[-_MOST_SPANS:]
    if not shown:
        return None
    start_sec = shown[0].began_sec
    states = {trial.number: trial.state for trial in summary.trials}
    data: list[Figure] = []
    of_states = [(state, STATE_WORDS[state], colour) for state, (_, colour) in MARKS.items()]
    kinds = [(None, "untrained model", "--base"), *of_states]
    for state, words, colour in kinds:
        of_state = [s for s in shown if states.get(s.trial) == state]
        if not of_state:
            continue
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": words,
                "y": [html.escape(span.slot) for span in of_state],
                "base": [(span.began_sec - start_sec) / 60 for span in of_state],
                "x": [(span.ended_sec - span.began_sec) / 60 for span in of_state],
                "text": [_hover(span) for span in of_state],
                "hovertemplate": "%{text}<extra></extra>",
                "textposition": "none",
                "marker": {"color": colour, "line": {"width": 1, "color": "--paper"}},
            }
        )
    slots = sorted({span.slot for span in shown})
    made = traces.figure(
        "timeline",
        data,
        Axis("minutes since the first trial"),
        Axis("", extra={"type": "category"}),
    )
    made["layout"] |= {"barmode": "overlay", "bargap": 0.3, "height": 120 + 34 * len(slots)}
    made["layout"]["legend"] = {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"}
    return made


def value_by_time(summary: Summary, spans: list[Span]) -> Figure | None:
    """Return the best value against the time that all slots have worked until a trial ended."""
    ended_sec = {span.trial: span.ended_sec for span in spans}
    shown = [t for t in summary.valued if t.number in ended_sec and t.has_ended]
    if len(shown) < 2:
        return None
    shown.sort(key=lambda trial: ended_sec[trial.number])
    hours = [_worked_sec(spans, ended_sec[trial.number]) / 3600 for trial in shown]
    unit, scale = ("hours", 1) if hours[-1] >= 2 else ("minutes", 60)
    xs = [scale * value for value in hours]
    steps = traces.best_so_far(summary, shown)
    at = {trial.number: x for trial, x in zip(shown, xs, strict=True)}
    steps["x"] = [at[number] for number in steps["x"]]
    low, high = _completed_range(shown)
    data: list[Figure] = [steps]
    for state in MARKS:
        if of_state := [trial for trial in shown if trial.state == state]:
            marks = traces.points(summary, of_state, state, edge=0.0)
            inside = [min(max(value, low), high) for value in marks["y"]]
            data.append({**marks, "x": [at[number] for number in marks["x"]], "y": inside})
    for name, trial in traces.named_trials(summary):
        if trial.number in at:
            data.append({**traces.ring(name, trial), "x": [at[trial.number]]})
    y_axis = Axis(traces.axis_title(summary), range=[low, high])
    kind = "GPU" if summary.device.startswith("cuda") else "worker"
    return traces.figure("spent", data, Axis(f"{kind} {unit} spent, all slots together"), y_axis)


def _completed_range(trials: list[TrialRecord]) -> list[float]:
    """Return the range of the completed trials; those beyond it stand at its edge."""
    valued = [(trial.state, trial.value) for trial in trials if trial.value is not None]
    completed = [value for state, value in valued if state == "completed"]
    return traces.value_range(completed or [value for _, value in valued])


def _worked_sec(spans: list[Span], until_sec: float) -> float:
    """Return how long all slots have worked up to a moment."""
    return sum(max(0.0, min(span.ended_sec, until_sec) - span.began_sec) for span in spans)


def idle_in_words(spans: list[Span]) -> str:
    """Return what share of the slots' time no trial took, of each from its first to its last."""
    busy_sec = sum(span.ended_sec - span.began_sec for span in spans)
    there_sec = 0.0
    for slot in {span.slot for span in spans}:
        own = [span for span in spans if span.slot == slot]
        there_sec += max(s.ended_sec for s in own) - min(s.began_sec for s in own)
    if not there_sec:
        return ""
    idle_sec = max(0.0, there_sec - busy_sec)
    share = 100 * idle_sec / there_sec
    return (
        f"Slots were idle for {duration(idle_sec)}, {share:.1f} % of the time between their trials."
    )


def _hover(span: Span) -> str:
    what = "untrained model" if span.trial == _BASELINE else f"trial {span.trial}"
    return f"{what}, {duration(span.ended_sec - span.began_sec)}"


def _events(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if (
            isinstance(event, dict)
            and isinstance(event.get("time"), int | float)
            and "event" in event
        ):
            yield event
