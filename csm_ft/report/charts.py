"""The figures of the page, as plotly's own JSON."""

import html
import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from csm_ft.report import stopping, traces
from csm_ft.report.data import Run, Validation
from csm_ft.report.traces import MARKS, Axis, Figure
from csm_ft.sweep.records import Summary, TrialRecord

LOG_FROM_RATIO = 5  # a parameter tried over more than this ratio is drawn on a log axis
FEW_TRIALS = 20
MAX_TICKS = 6  # a whole number tried at so few values has its ticks there
FEW_NUMBERS = 16  # of trials: each has its own tick


def history(summary: Summary) -> Figure | None:
    """Return value per trial with the best so far.

    Failed trials have no value that counts, and stand at the edge of the bad values.
    """
    shown = [*summary.valued, *(t for t in summary.trials if t.has_failed)]
    if not shown:
        return None
    values = [t.value for t in summary.valued if t.value is not None]
    low, high = traces.value_range(values + _baseline_value(summary))
    data = [traces.best_so_far(summary)]
    for state in MARKS:
        of_state = [t for t in shown if t.state == state]
        if of_state:
            edge = low if summary.higher_is_better else high
            data.append(traces.points(summary, of_state, state, edge=edge))
    for value in _baseline_value(summary):
        data.insert(0, traces.horizontal("base", value, [t.number for t in summary.begun]))
    for name, trial in traces.named_trials(summary):
        if trial.value is not None:
            data.append(traces.ring(name, trial))
    ticks = {"dtick": 1 if len(summary.begun) <= FEW_NUMBERS else None}
    title = traces.axis_title(summary)
    return traces.figure(
        "history", data, Axis("trial", extra=ticks), Axis(title, range=[low, high])
    )


def learning_curves(summary: Summary, runs: Mapping[int, Run]) -> Figure | None:
    """Return the objective against examples seen, one line per trial; rungs as vertical lines."""
    named = {trial.number: name for name, trial in traces.named_trials(summary)}
    lines: list[tuple[TrialRecord, list[Validation]]] = []
    for trial in summary.trials:
        if trial.number in runs and runs[trial.number].validations:
            lines.append((trial, traces.thin(runs[trial.number].validations)))
    if not lines:
        return None
    # The named ones are drawn last, on top of the others.
    lines.sort(key=lambda line: (line[0].number in named, line[0].number == summary.best))
    data = [traces.curve(trial, points, named.get(trial.number)) for trial, points in lines]
    if not all(trial.number in named for trial, _ in lines):
        data.append(traces.legend_only("other trials"))
    stops = stopping.find_stops(summary, runs)
    data += [*stopping.trace(stops, is_real=False), *stopping.trace(stops, is_real=True)]
    points = list(chain.from_iterable(of_trial for _, of_trial in lines))
    for value in _baseline_value(summary):
        data.insert(0, traces.horizontal("base", value, [p.examples for p in points]))
    # A diverged curve must not squeeze the others into one line.
    healthy = chain.from_iterable(of_trial for trial, of_trial in lines if not trial.has_failed)
    values = [p.value for p in healthy] or [p.value for p in points]
    y_range = traces.value_range(values + _baseline_value(summary))
    made = traces.figure(
        "curves",
        data,
        Axis(traces.seen(summary.compared_in)),
        Axis(traces.axis_title(summary), range=y_range),
    )
    made["layout"]["shapes"] = [_rung_line(x) for x in summary.rungs]
    made["layout"]["annotations"] = [_rung_label(x, i) for i, x in enumerate(summary.rungs, 1)]
    return made


def importance(summary: Summary) -> Figure | None:
    """Return each parameter's share of the importance by each method, as bars side by side."""
    methods: dict[str, dict[str, float]] = {}
    for method, shares in summary.importance.items():
        known = {name: share for name, share in shares.items() if share is not None}
        if known:
            methods[method] = known
    if not methods:
        return None
    total: dict[str, float] = {}
    for shares in methods.values():
        for name, share in shares.items():
            total[name] = total.get(name, 0.0) + share
    names = sorted(total, key=lambda name: total[name])
    colours = ("--ink", "--muted", "--line")
    bars = [
        {
            "type": "bar",
            "orientation": "h",
            "name": html.escape(method),
            "y": [html.escape(name) for name in names],
            "x": [shares.get(name) for name in names],
            "marker": {"color": colours[index % len(colours)]},
            "hovertemplate": "%{y}: %{x:.2f}<extra>" + html.escape(method) + "</extra>",
        }
        for index, (method, shares) in enumerate(methods.items())
    ]
    words = {"ticks": "", "type": "category"}
    made = traces.figure(
        "importance",
        bars[::-1],  # horizontal bars are stacked from below
        Axis("share of importance", extra={"rangemode": "tozero"}),
        Axis("", extra=words),
    )
    made["layout"] |= {
        "barmode": "group",
        "bargap": 0.35,
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": 1,
            "yanchor": "bottom",
            "traceorder": "reversed",
        },
        "height": 90 + 44 * len(names),
    }
    return made


def slices(summary: Summary) -> list[tuple[str, Figure]]:
    """Return (parameter, figure) for each parameter that varied: where the good region lies.

    The axis spans the completed trials; those that were stopped beyond it stand at its edge.
    """
    shown = summary.valued
    completed = [t.value for t in shown if t.state == "completed" and t.value is not None]
    values = completed if len(completed) > 2 else [t.value for t in shown if t.value is not None]
    y_axis = Axis("", range=traces.value_range(values))
    figures = []
    for name in summary.parameters:
        trials = [t for t in shown if name in t.params]
        if len({str(t.params[name]) for t in trials}) > 1:
            made = _slice(summary, trials, name, y_axis)
            figures.append((name, {**made, "id": f"slice{len(figures)}"}))
    return figures


def _slice(summary: Summary, trials: Sequence[TrialRecord], name: str, y_axis: Axis) -> Figure:
    named = {trial.number: which for which, trial in traces.named_trials(summary)}
    trials = sorted(trials, key=lambda t: t.number in named)  # best and default on top
    values = [t.params[name] for t in trials]
    is_numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    xs = values if is_numeric else [html.escape(str(v)) for v in values]
    marks = [_mark(trial, named.get(trial.number)) for trial in trials]
    colours = [colour for _, colour, _ in marks]
    assert y_axis.range is not None
    data = {
        "type": "scatter",
        "mode": "markers",
        "x": xs,
        "y": [_clip(t.value or 0.0, y_axis.range, summary) for t in trials],
        "cliponaxis": False,
        "text": [traces.hover(summary, t) for t in trials],
        "hovertemplate": html.escape(name) + " %{x}<br>%{text}<extra></extra>",
        "showlegend": False,
        "marker": {
            "size": [size for _, _, size in marks],
            "symbol": [symbol for symbol, _, _ in marks],
            "color": colours,
            "line": {"width": 1.5, "color": colours},
            "opacity": 1,
        },
    }
    scale = _number_scale(values) if is_numeric else _word_scale(xs)
    x_axis = Axis(html.escape(name), extra={"exponentformat": "e", **scale})
    made = traces.figure("", [data], x_axis, y_axis)
    made["layout"] |= {
        "height": 210,
        "margin": {"l": 46, "r": 12, "t": 8, "b": 42},
        "showlegend": False,
    }
    return made


def _clip(value: float, ends: Sequence[float], summary: Summary) -> float:
    """Move a value that is worse than the axis spans to its edge."""
    return max(value, ends[0]) if summary.higher_is_better else min(value, ends[1])


def _mark(trial: TrialRecord, name: str | None) -> tuple[str, str, int]:
    """Return symbol, colour and size of a trial; named ones are larger and filled."""
    symbol, colour = MARKS[trial.state]
    if name is None:
        return symbol, colour, 8
    return symbol.removesuffix("-open"), traces.colour_of(name), 11


def _number_scale(values: Sequence[Any]) -> dict[str, Any]:
    scale: dict[str, Any] = {}
    if len(set(values)) <= MAX_TICKS and all(isinstance(v, int) for v in values):
        scale["tickvals"] = sorted(set(values))
    if min(values) > 0 and max(values) / min(values) > LOG_FROM_RATIO:
        scale["type"] = "log"
    return scale


def _word_scale(words: Sequence[str]) -> dict[str, Any]:
    ordered = sorted(set(words), key=_by_number)
    return {"type": "category", "categoryorder": "array", "categoryarray": ordered}


def _by_number(word: str) -> tuple[float, str]:
    """Sort 2%, 5%, 10% by their numbers, words after them."""
    try:
        return float(word.rstrip("%")), word
    except ValueError:
        return math.inf, word


def _rung_line(x: float) -> Figure:
    return {
        "type": "line",
        "x0": x,
        "x1": x,
        "yref": "paper",
        "y0": 0,
        "y1": 1,
        "line": {"color": "--muted", "width": 1, "dash": "dot"},
        "opacity": 0.6,
    }


def _rung_label(x: float, number: int) -> Figure:
    return {
        "x": x,
        "yref": "paper",
        "y": 1,
        "yanchor": "bottom",
        "text": f"rung {number}",
        "showarrow": False,
        "font": {"size": 11, "color": "--muted"},
    }


def _baseline_value(summary: Summary) -> list[float]:
    """Return the value of the untrained model, if it was measured."""
    baseline = summary.baseline
    return [baseline.value] if baseline and baseline.value is not None else []
