"""How the search went: settings as lines over all parameters, and the two strongest as a map."""

import html
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from csm_ft.report import traces
from csm_ft.report.data import Run
from csm_ft.report.templating import duration, number, short
from csm_ft.report.traces import Axis, Figure
from csm_ft.sweep.records import Summary, TrialRecord

LOG_FROM_RATIO = 5  # a parameter over more than this ratio is logarithmic
MOST_LINES = 200
FEWEST_FOR_MAP = 8
_GRID = 30  # points of the map to a side
_REACH = 0.12  # of each range: how far a trial colours its surroundings


def parallel(summary: Summary) -> Figure | None:
    """Return one line per trial over all varied parameters and its value.

    Lines of plain scatter: plotly's own parallel coordinates compile code, which the page forbids.
    """
    trials = [t for t in summary.ranked if t.value is not None and not t.has_failed][:MOST_LINES]
    names = [n for n in summary.parameters if len({str(t.params.get(n)) for t in trials}) > 1]
    if len(trials) < 2 or not names:
        return None
    columns = [_places([t.params.get(name) for t in trials]) for name in names]
    columns.append(_places([t.value for t in trials]))
    label = summary.objective_label
    named = {trial.number: name for name, trial in traces.named_trials(summary)}
    data = [
        _line(summary, trial, [places[row] for places, *_ in columns], named.get(trial.number))
        for row, trial in enumerate(trials)
    ]
    data.sort(key=lambda line: line["line"]["width"])  # the named ones on top
    words = {
        "tickvals": list(range(len(columns))),
        "ticktext": [html.escape(name) for name in (*names, label)],
        "range": [-0.3, len(columns) - 0.7],
    }
    hidden = {"visible": False}
    made = traces.figure(
        "parallel", data, Axis("", extra=words), Axis("", range=[-0.12, 1.12], extra=hidden)
    )
    ends = [(x, y, text) for x, (_, *texts) in enumerate(columns) for y, text in enumerate(texts)]
    made["layout"]["annotations"] = [_end(x, y, text) for x, y, text in ends]
    made["layout"]["shapes"] = [_axis_line(x) for x in range(len(columns))]
    return made


def strongest_pair(summary: Summary) -> Figure | None:
    """Return a map of the value over the two most important numeric parameters.

    Between trials it is a mean weighted by nearness; trials are drawn, so that one sees where there
    are none.
    """
    trials = [t for t in summary.valued if t.state == "completed" and t.purpose == "search"]
    names = [name for name in _by_importance(summary) if _is_numeric(trials, name)][:2]
    shown = [t for t in trials if all(name in t.params for name in names)]
    if len(names) < 2 or len(shown) < FEWEST_FOR_MAP:
        return None
    xs, ys = ([float(t.params[name]) for t in shown] for name in names)
    scales = [_is_log(xs), _is_log(ys)]
    grids = [_grid(xs, log=scales[0]), _grid(ys, log=scales[1])]
    values = np.array([t.value for t in shown], dtype=float)
    surface = _smooth((xs, ys), grids, scales, values)
    best_first = ["--best", "--paper"]
    colours = best_first[::-1] if summary.higher_is_better else best_first
    field: Figure = {
        "type": "contour",
        "x": grids[0],
        "y": grids[1],
        "z": [[round(float(value), 6) for value in row] for row in surface],
        "colorscale": [[0, colours[0]], [1, colours[1]]],
        "contours": {"showlines": False},
        "ncontours": 12,
        "opacity": 0.75,
        "hoverinfo": "skip",
        "colorbar": {"thickness": 10, "outlinewidth": 0},
    }
    marks: Figure = {
        "type": "scatter",
        "mode": "markers",
        "x": xs,
        "y": ys,
        "text": [traces.hover(summary, t) for t in shown],
        "hovertemplate": "%{text}<extra></extra>",
        "showlegend": False,
        "marker": {"size": 7, "color": "--ink", "line": {"width": 1, "color": "--paper"}},
    }
    axes = [
        Axis(
            html.escape(name), extra={"exponentformat": "e", **({"type": "log"} if is_log else {})}
        )
        for name, is_log in zip(names, scales, strict=True)
    ]
    return traces.figure("map", [field, marks], axes[0], axes[1])


def saved_by_stopping(summary: Summary, runs: dict[int, Run]) -> str:
    """Return in words what stopping early saved; "" if nothing was stopped."""
    horizon, stopped = summary.horizon_examples or 0, list[tuple[float, float]]()
    for trial in summary.trials:
        seen = [v.examples for v in runs[trial.number].validations] if trial.number in runs else []
        if trial.state == "stopped" and seen and horizon:
            stopped.append((min(1.0, max(seen) / horizon), trial.seconds or 0.0))
    shares = [(share, seconds) for share, seconds in stopped if share > 0]
    if not shares:
        return ""
    runs_saved = sum(1 - share for share, _ in shares)
    seconds = sum(seconds * (1 / share - 1) for share, seconds in shares)
    return (
        f"Stopping {len(shares)} of {summary.num_ended} trials early saved"
        f" {runs_saved:.1f} whole runs, about {duration(seconds)} of trial time."
    )


def _line(summary: Summary, trial: TrialRecord, places: Sequence[Any], name: str | None) -> Figure:
    colour = traces.colour_of(name) if name else "--muted"
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": list(range(len(places))),
        "y": list(places),
        "name": html.escape(f"{name}, trial {trial.number}" if name else f"trial {trial.number}"),
        "showlegend": name is not None,
        "connectgaps": False,
        "text": traces.hover(summary, trial),
        "hovertemplate": "%{text}<extra></extra>",
        "line": {"color": colour, "width": 3 if name else 1},
        "marker": {"size": 4, "color": colour},
        "opacity": 1 if name else 0.45,
    }


def _places(values: Sequence[Any]) -> tuple[list[float | None], str, str]:
    """Return the place of each value between the ends, None where there is none; and the ends."""
    there = [value for value in values if value is not None]
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in there):
        low, high = min(there), max(there)
        scale = math.log if _is_log(there) else float
        span = (scale(high) - scale(low)) or 1.0
        places = [None if v is None else (scale(v) - scale(low)) / span for v in values]
        is_float = any(isinstance(v, float) for v in there)
        texts = [number(v) if is_float and abs(v) >= 0.1 else short(v) for v in (low, high)]
        return places, texts[0], texts[1]
    words = sorted({str(value) for value in there})
    at = {word: place / max(1, len(words) - 1) for place, word in enumerate(words)}
    return [None if v is None else at[str(v)] for v in values], words[0], words[-1]


def _end(x: int, y: int, text: str) -> Figure:
    return {
        "x": x,
        "y": y,
        "text": html.escape(text),
        "showarrow": False,
        "yanchor": "bottom" if y else "top",
        "font": {"size": 11, "color": "--muted"},
    }


def _axis_line(x: int) -> Figure:
    line = {"color": "--line", "width": 1}
    return {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "line": line}


def _by_importance(summary: Summary) -> list[str]:
    total = dict.fromkeys(summary.parameters, 0.0)
    for shares in summary.importance.values():
        for name, share in shares.items():
            total[name] = total.get(name, 0.0) + (share or 0.0)
    return sorted(total, key=lambda name: -total[name])


def _is_numeric(trials: Sequence[TrialRecord], name: str) -> bool:
    values = [t.params[name] for t in trials if name in t.params]
    is_number = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    return is_number and len(set(values)) > 1


def _is_log(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) / min(values) > LOG_FROM_RATIO


def _grid(values: Sequence[float], *, log: bool) -> list[float]:
    low, high = min(values), max(values)
    made = np.geomspace(low, high, _GRID) if log else np.linspace(low, high, _GRID)
    return [float(value) for value in made]


def _smooth(
    points: Sequence[Sequence[float]],
    grids: Sequence[Sequence[float]],
    scales: Sequence[bool],
    values: np.ndarray,
) -> np.ndarray:
    """Return the mean of values [n] by nearness at each point of the grid, [rows, columns]."""
    units: list[tuple[np.ndarray, np.ndarray]] = []
    for place, grid, is_log in zip(points, grids, scales, strict=True):
        at, of = np.array(place), np.array(grid)
        at, of = (np.log(at), np.log(of)) if is_log else (at, of)
        span = (of[-1] - of[0]) or 1.0
        units.append(((at - of[0]) / span, (of - of[0]) / span))
    (x, grid_x), (y, grid_y) = units
    far = (grid_x[None, :, None] - x) ** 2 + (grid_y[:, None, None] - y) ** 2  # [rows, columns, n]
    weights = np.exp(-far / (2 * _REACH**2)) + 1e-9
    return (weights * values).sum(-1) / weights.sum(-1)
