"""The figures, as plotly's own JSON.

Colours are names of CSS properties (`--best`); page.js looks them up, so that charts follow light
and dark.
"""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from csm_ft.report.data import FAILED, STATE_WORDS, Run, State, Summary, Trial, Validation

Figure = dict[str, Any]

# Shape and colour both, so that neither a printer nor a colour-blind reader loses the state.
MARKS: dict[State, tuple[str, str]] = {
    "completed": ("circle", "--ink"),
    "stopped": ("triangle-down-open", "--muted"),
    "diverged": ("x-thin-open", "--bad"),
    "infeasible": ("square-x-open", "--bad"),
    "poison": ("diamond-x-open", "--bad"),
    "running": ("circle-open-dot", "--muted"),
    "waiting": ("circle-open", "--muted"),
}
MAX_POINTS = 200
LOG_FROM_RATIO = 5  # a parameter tried over more than this ratio is drawn on a log axis
FEW_TRIALS = 20
MAX_TICKS = 6  # a whole number tried at so few values has its ticks there


def history(summary: Summary) -> Figure | None:
    """Return value per trial with the best so far.

    Failed trials, whose told value only ranks them, stand at the top edge.
    """
    shown = summary.valued
    failed = [t for t in summary.trials if t.state in FAILED]
    if not shown and not failed:
        return None
    low, high = _range([t.value for t in shown if t.value is not None] + _baseline_value(summary))
    traces = [
        _points(summary, [t for t in summary.trials if t.state == state], state, ceiling=high)
        for state in MARKS
        if any(t.state == state for t in (*shown, *failed))
    ]
    data = [_best_so_far(summary), *(t for t in traces if t["x"])]
    if summary.baseline and summary.baseline.value is not None:
        data.insert(
            0, _horizontal("base", summary.baseline.value, [t.number for t in summary.begun])
        )
    data += [_ring(name, trial) for name, trial in _named(summary) if trial.value is not None]
    return _figure(
        "history",
        data,
        x="trial",
        y="nats per frame",
        y_range=[low, high],
        x_extra={"dtick": 1 if len(summary.begun) <= 16 else None},
    )


def learning_curves(summary: Summary, runs: Mapping[int, Run]) -> Figure | None:
    """Return the yardstick against examples seen, one line per trial, rungs as vertical lines."""
    named = {trial.number: name for name, trial in _named(summary)}
    lines = [
        (t, _thin(runs[t.number].validations))
        for t in summary.trials
        if t.number in runs and runs[t.number].validations
    ]
    if not lines:
        return None
    lines.sort(key=lambda line: (line[0].number in named, line[0].number == summary.best))
    data = [_line(trial, points, named.get(trial.number)) for trial, points in lines]
    if not all(t.number in named for t, _ in lines):
        data.append(_legend_only("other trials"))
    xs = [p.examples for _, points in lines for p in points]
    if summary.baseline and summary.baseline.value is not None:
        data.insert(0, _horizontal("base", summary.baseline.value, xs))
    base = _baseline_value(summary)
    healthy = [p.value for t, points in lines for p in points if t.state not in FAILED] or [
        p.value for _, ps in lines for p in ps
    ]
    figure = _figure(
        "curves",
        data,
        x="training examples seen",
        y="nats per frame",
        y_range=_range(healthy + base),
    )
    figure["layout"]["shapes"] = [
        {
            "type": "line",
            "x0": r,
            "x1": r,
            "yref": "paper",
            "y0": 0,
            "y1": 1,
            "line": {"color": "--muted", "width": 1, "dash": "dot"},
            "opacity": 0.6,
        }
        for r in summary.rungs
    ]
    figure["layout"]["annotations"] = [
        {
            "x": r,
            "yref": "paper",
            "y": 1,
            "yanchor": "bottom",
            "text": f"rung {i}",
            "showarrow": False,
            "font": {"size": 11, "color": "--muted"},
        }
        for i, r in enumerate(summary.rungs, 1)
    ]
    return figure


def importance(summary: Summary) -> Figure | None:
    """Return each parameter's share of the importance by each method, as bars side by side."""
    methods = {
        m: {p: s for p, s in shares.items() if s is not None}
        for m, shares in summary.importance.items()
    }
    methods = {m: shares for m, shares in methods.items() if shares}
    if not methods:
        return None
    mean = {
        p: sum(s.get(p, 0.0) for s in methods.values())
        for shares in methods.values()
        for p in shares
    }
    names = sorted(mean, key=lambda p: mean[p])
    colours = ("--ink", "--muted", "--line")
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": html.escape(method),
            "y": [html.escape(n) for n in names],
            "x": [shares.get(n) for n in names],
            "marker": {"color": colours[i % 3]},
            "hovertemplate": "%{y}: %{x:.2f}<extra>" + html.escape(method) + "</extra>",
        }
        for i, (method, shares) in reversed(list(enumerate(methods.items())))
    ]
    figure = _figure("importance", data, x="share of importance", y="")
    figure["layout"] |= {
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
    figure["layout"]["xaxis"] |= {"rangemode": "tozero"}
    figure["layout"]["yaxis"] |= {"automargin": True, "ticks": "", "type": "category"}
    return figure


def slices(summary: Summary) -> list[tuple[str, Figure]]:
    """Return (parameter, figure) for each parameter that varied: its value against the yardstick.

    Where the good region lies.

    The axis spans the completed trials; those that were stopped above it stand at its top edge.
    """
    shown = summary.valued
    varied = [
        name
        for name in summary.parameters
        if len({str(t.params.get(name)) for t in shown if name in t.params}) > 1
    ]
    completed = [t.value for t in shown if t.state == "completed" and t.value is not None]
    y_range = _range(
        completed if len(completed) > 2 else [t.value for t in shown if t.value is not None]
    )
    return [
        (name, _slice(summary, [t for t in shown if name in t.params], name, i, y_range))
        for i, name in enumerate(varied)
    ]


def _slice(
    summary: Summary, trials: Sequence[Trial], name: str, index: int, y_range: list[float]
) -> Figure:
    named = {trial.number: which for which, trial in _named(summary)}
    trials = sorted(
        trials, key=lambda t: t.number in named
    )  # best and default are drawn last, on top
    values = [t.params[name] for t in trials]
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    xs = values if numeric else [html.escape(str(v)) for v in values]
    colours = [_colour(named[t.number]) if t.number in named else MARKS[t.state][1] for t in trials]
    data = {
        "type": "scatter",
        "mode": "markers",
        "x": xs,
        "y": [min(t.value or 0.0, y_range[1]) for t in trials],
        "cliponaxis": False,
        "text": [_hover(summary, t) for t in trials],
        "hovertemplate": html.escape(name) + " %{x}<br>%{text}<extra></extra>",
        "showlegend": False,
        "marker": {
            "size": [11 if t.number in named else 8 for t in trials],
            "symbol": [
                MARKS[t.state][0].removesuffix("-open") if t.number in named else MARKS[t.state][0]
                for t in trials
            ],
            "color": colours,
            "line": {"width": 1.5, "color": colours},
            "opacity": 1,
        },
    }
    figure = _figure(f"slice{index}", [data], x=html.escape(name), y="", y_range=y_range)
    figure["layout"]["xaxis"]["exponentformat"] = "e"
    if numeric and len(set(values)) <= MAX_TICKS and all(isinstance(v, int) for v in values):
        figure["layout"]["xaxis"] |= {"tickvals": sorted(set(values))}
    if numeric and min(values) > 0 and max(values) / min(values) > LOG_FROM_RATIO:
        figure["layout"]["xaxis"] |= {"type": "log"}
    elif not numeric:
        figure["layout"]["xaxis"] |= {
            "type": "category",
            "categoryorder": "array",
            "categoryarray": sorted(set(xs), key=_by_number),
        }
    figure["layout"] |= {
        "height": 210,
        "margin": {"l": 46, "r": 12, "t": 8, "b": 42},
        "showlegend": False,
    }
    return figure


def _by_number(word: str) -> tuple[float, str]:
    """Sort 2%, 5%, 10% by their numbers, words after them."""
    try:
        return float(word.rstrip("%")), word
    except ValueError:
        return math.inf, word


def _points(summary: Summary, trials: Sequence[Trial], state: State, *, ceiling: float) -> Figure:
    failed = state in FAILED
    trials = [t for t in trials if failed or t.value is not None]
    symbol, colour = MARKS[state]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": STATE_WORDS[state],
        "x": [t.number for t in trials],
        "y": [ceiling if failed else t.value for t in trials],
        "text": [_hover(summary, t) for t in trials],
        "hovertemplate": "%{text}<extra></extra>",
        "cliponaxis": False,
        "marker": {
            "symbol": symbol,
            "color": colour,
            "size": 9,
            "line": {"width": 1.8, "color": colour},
        },
    }


def _best_so_far(summary: Summary) -> Figure:
    xs, ys, best = [], [], math.inf
    for trial in sorted(summary.begun, key=lambda t: t.number):
        if trial.state == "completed" and trial.value is not None:
            best = min(best, trial.value)
        if best < math.inf:
            xs.append(trial.number)
            ys.append(best)
    line = {"color": "--best", "width": 1.5, "shape": "hv"}
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "best so far",
        "x": xs,
        "y": ys,
        "line": line,
        "hoverinfo": "skip",
    }


def _horizontal(name: str, value: float, xs: Sequence[float]) -> Figure:
    ends = [min(xs, default=0), max(xs, default=1)]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": ends,
        "y": [value, value],
        "line": {"color": "--base", "width": 1.5, "dash": "dash"},
        "hovertemplate": f"{name} %{{y:.4f}}<extra></extra>",
    }


def _ring(name: str, trial: Trial) -> Figure:
    marker = {
        "symbol": "circle-open",
        "color": _colour(name),
        "size": 17,
        "line": {"width": 2, "color": _colour(name)},
    }
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [trial.number],
        "y": [trial.value],
        "marker": marker,
        "hoverinfo": "skip",
    }


def _line(trial: Trial, points: Sequence[Validation], name: str | None) -> Figure:
    ends = ["circle"] * (len(points) - 1) + [MARKS[trial.state][0]]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": f"{name} (trial {trial.number})" if name else f"trial {trial.number}",
        "showlegend": name is not None,
        "x": [p.examples for p in points],
        "y": [round(p.value, 5) for p in points],
        "line": {"color": _colour(name), "width": 2.6 if name else 1},
        "marker": {
            "symbol": ends,
            "size": [3] * (len(points) - 1) + [8],
            "color": _colour(name),
            "line": {"color": _colour(name), "width": 1.2},
        },
        "opacity": 1 if name else 0.75,
        "hovertemplate": (
            f"trial {trial.number} · {STATE_WORDS[trial.state]}<br>%{{x}} examples:"
            " %{y:.4f}<extra></extra>"
        ),
    }


def _legend_only(name: str) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": [None],
        "y": [None],
        "line": {"color": "--muted", "width": 1},
    }


def _named(summary: Summary) -> list[tuple[str, Trial]]:
    best, default = summary.best_trial, summary.default_trial
    pairs = [("default", default)] if default and default != best else []
    return pairs + ([("best", best)] if best else [])


def _colour(name: str | None) -> str:
    return {"best": "--best", "default": "--default"}.get(name or "", "--muted")


def _hover(summary: Summary, trial: Trial) -> str:
    value = "no value" if trial.value is None else f"{trial.value:.4f}"
    if trial.state in FAILED:
        value = "no value that counts"
    marks = [name for name, named in _named(summary) if named == trial]
    reason = f"<br>{html.escape(trial.reason[:120])}" if trial.reason else ""
    return (
        f"trial {trial.number}{' (' + ', '.join(marks) + ')' if marks else ''} ·"
        f" {STATE_WORDS[trial.state]}<br>{value}{reason}"
    )


def _baseline_value(summary: Summary) -> list[float]:
    return (
        [summary.baseline.value] if summary.baseline and summary.baseline.value is not None else []
    )


def _range(values: Sequence[float]) -> list[float]:
    """Return an axis range with some air around `values`."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    air = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    return [low - air, high + air]


def _thin(points: Sequence[Validation]) -> list[Validation]:
    """Keep at most MAX_POINTS of a curve, evenly, ends and lowest point included."""
    if len(points) <= MAX_POINTS:
        return list(points)
    kept = {round(i * (len(points) - 1) / (MAX_POINTS - 1)) for i in range(MAX_POINTS)}
    kept.add(min(range(len(points)), key=lambda i: points[i].value))
    return [points[i] for i in sorted(kept)]


def _figure(
    name: str,
    data: list[Figure],
    *,
    x: str,
    y: str,
    y_range: list[float] | None = None,
    x_extra: Mapping[str, Any] | None = None,
) -> Figure:
    axis = {
        "gridcolor": "--line",
        "linecolor": "--line",
        "zeroline": False,
        "ticks": "outside",
        "tickcolor": "--line",
        "ticklen": 4,
    }
    layout = {
        "height": 360,
        "margin": {"l": 58, "r": 16, "t": 22, "b": 44},
        "xaxis": {
            **axis,
            "showgrid": False,
            "title": {"text": x, "standoff": 8},
            **(x_extra or {}),
        },
        "yaxis": {
            **axis,
            "title": {"text": y, "standoff": 8},
            **({"range": y_range} if y_range else {}),
        },
        "legend": {"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top"},
        "hovermode": "closest",
    }
    return {"id": name, "data": data, "layout": layout}
