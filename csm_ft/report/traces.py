"""The parts of figures: marks, lines and axes, as plotly's own JSON.

Colours are names of CSS properties (`--best`); page.js looks them up, so that charts follow light
and dark.
"""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from csm_ft.report.data import Validation
from csm_ft.sweep.records import EXAMPLES, STATE_WORDS, ComparedIn, State, Summary, TrialRecord

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


@dataclass(frozen=True)
class Axis:
    """An axis: its title, its range, and further keys of plotly's."""

    title: str
    range: list[float] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def figure(name: str, data: list[Figure], x: Axis, y: Axis) -> Figure:
    """Return a figure; the page draws it into the element with the id `name`."""
    return {
        "id": name,
        "data": data,
        "layout": {
            "height": 360,
            "margin": {"l": 58, "r": 16, "t": 22, "b": 44},
            "xaxis": {**_axis(x), "showgrid": False},
            "yaxis": {**_axis(y), "automargin": True},
            "legend": {"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top"},
            "hovermode": "closest",
        },
    }


def axis_title(summary: Summary) -> str:
    """Return the title of the axis that shows the objective."""
    unit = f", {summary.unit}" if summary.unit else ""
    return html.escape(f"{summary.objective_label}{unit}")


def seen(compared_in: ComparedIn) -> str:
    """Return the title of the axis along a run, whose unit is `compared_in` of a summary."""
    return "training examples seen" if compared_in == EXAMPLES else f"{compared_in} trained on"


def points(summary: Summary, trials: Sequence[TrialRecord], state: State, *, edge: float) -> Figure:
    """Return the trials of one state; failed ones stand at the edge of the bad values."""
    shown = [t for t in trials if t.has_failed or t.value is not None]
    symbol, colour = MARKS[state]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": STATE_WORDS[state],
        "x": [t.number for t in shown],
        "y": [edge if t.has_failed else t.value for t in shown],
        "text": [hover(summary, t) for t in shown],
        "hovertemplate": "%{text}<extra></extra>",
        "cliponaxis": False,
        "marker": {
            "symbol": symbol,
            "color": colour,
            "size": 9,
            "line": {"width": 1.8, "color": colour},
        },
    }


def best_so_far(summary: Summary, trials: Sequence[TrialRecord] | None = None) -> Figure:
    """Return the best value of the completed trials up to each, as a staircase.

    In the order of `trials`; without them that of their numbers.
    """
    xs, ys, best = [], [], math.inf
    for trial in trials or sorted(summary.begun, key=lambda t: t.number):
        if trial.state == "completed" and trial.value is not None:
            best = min(best, summary.cost(trial.value))
        if best < math.inf:
            xs.append(trial.number)
            ys.append(summary.cost(best))
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "best so far",
        "x": xs,
        "y": ys,
        "line": {"color": "--best", "width": 1.5, "shape": "hv"},
        "hoverinfo": "skip",
    }


def horizontal(name: str, value: float, xs: Sequence[float]) -> Figure:
    """Return a dashed line at `value` over the span of `xs`."""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": [min(xs, default=0), max(xs, default=1)],
        "y": [value, value],
        "line": {"color": "--base", "width": 1.5, "dash": "dash"},
        "hovertemplate": f"{name} %{{y:.4f}}<extra></extra>",
    }


def ring(name: str, trial: TrialRecord) -> Figure:
    """Return a ring around the best or the default trial."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [trial.number],
        "y": [trial.value],
        "marker": {
            "symbol": "circle-open",
            "color": colour_of(name),
            "size": 17,
            "line": {"width": 2, "color": colour_of(name)},
        },
        "hoverinfo": "skip",
    }


def curve(trial: TrialRecord, validations: Sequence[Validation], name: str | None) -> Figure:
    """Return a learning curve; its last point is marked by how the trial ended."""
    last = len(validations) - 1
    colour = colour_of(name)
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": f"{name} (trial {trial.number})" if name else f"trial {trial.number}",
        "showlegend": name is not None,
        "x": [v.examples for v in validations],
        "y": [round(v.value, 5) for v in validations],
        "line": {"color": colour, "width": 2.6 if name else 1},
        "marker": {
            "symbol": ["circle"] * last + [MARKS[trial.state][0]],
            "size": [3] * last + [8],
            "color": colour,
            "line": {"color": colour, "width": 1.2},
        },
        "opacity": 1 if name else 0.75,
        "hovertemplate": (
            f"trial {trial.number} · {STATE_WORDS[trial.state]}<br>after %{{x:.6~g}}:"
            " %{y:.4f}<extra></extra>"
        ),
    }


def legend_only(name: str) -> Figure:
    """Return an entry of the legend that stands for lines without one."""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": [None],
        "y": [None],
        "line": {"color": "--muted", "width": 1},
    }


def named_trials(summary: Summary) -> list[tuple[str, TrialRecord]]:
    """Return the trials that have a name of their own: default and best, the best last."""
    best, default = summary.best_trial, summary.default_trial
    pairs = [("default", default)] if default and default != best else []
    return pairs + ([("best", best)] if best else [])


def colour_of(name: str | None) -> str:
    """Return the colour of a named trial, or that of all others."""
    return {"best": "--best", "default": "--default"}.get(name or "", "--muted")


def hover(summary: Summary, trial: TrialRecord) -> str:
    """Return what is shown while the pointer is on a trial."""
    value = "no value" if trial.value is None else f"{trial.value:.4f}"
    if trial.has_failed:
        value = "no value that counts"
    names = ", ".join(name for name, named in named_trials(summary) if named == trial)
    marks = f" ({names})" if names else ""
    reason = f"<br>{html.escape(trial.reason[:120])}" if trial.reason else ""
    return f"trial {trial.number}{marks} · {STATE_WORDS[trial.state]}<br>{value}{reason}"


def value_range(values: Sequence[float]) -> list[float]:
    """Return an axis range with some air around `values`."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    air = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    return [low - air, high + air]


def thin(validations: Sequence[Validation]) -> list[Validation]:
    """Keep at most MAX_POINTS of a curve, evenly, ends, lowest and highest point included."""
    if len(validations) <= MAX_POINTS:
        return list(validations)
    step = (len(validations) - 1) / (MAX_POINTS - 1)
    kept = {round(i * step) for i in range(MAX_POINTS)}
    kept.add(min(range(len(validations)), key=lambda i: validations[i].value))
    kept.add(max(range(len(validations)), key=lambda i: validations[i].value))
    return [validations[i] for i in sorted(kept)]


def _axis(axis: Axis) -> Figure:
    return {
        "gridcolor": "--line",
        "linecolor": "--line",
        "zeroline": False,
        "ticks": "outside",
        "tickcolor": "--line",
        "ticklen": 4,
        "title": {"text": axis.title, "standoff": 8},
        **({"range": axis.range} if axis.range else {}),
        **axis.extra,
    }
