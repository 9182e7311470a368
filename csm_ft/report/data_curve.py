"""The figure of a learning curve over shares of the data, with its fit and its error bars."""

from collections.abc import Sequence

from csm_ft.report import traces
from csm_ft.report.traces import Axis, Figure
from csm_ft.sweep.records import CurvePoint, DataCurve, Summary

WIDEST = 8  # shares that get a tick each; of more, plotly chooses


def data_curve(summary: Summary) -> Figure | None:
    """Return the value against the share of the data; None if no share has a value."""
    curve = summary.data_curve
    if curve is None or not curve.points:
        return None
    shares = [point.share for point in curve.points]
    ticks = [*shares, *([2 * shares[-1]] if curve.line else [])]
    scale = {"type": "log"}
    if len(ticks) <= WIDEST:
        scale |= {"tickvals": ticks, "ticktext": [f"{share:.3g}" for share in ticks]}
    return traces.figure(
        "data-curve",
        [*_fit(curve), _points(curve.points)],
        Axis("share of the training data", extra=scale),
        Axis(traces.axis_title(summary)),
    )


def _points(points: Sequence[CurvePoint]) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "mean over seeds ± standard deviation",
        "x": [point.share for point in points],
        "y": [round(point.mean, 5) for point in points],
        "error_y": {
            "type": "data",
            "array": [point.deviation or 0.0 for point in points],
            "color": "--ink",
            "thickness": 1.5,
        },
        "text": [f"{point.num_seeds} seeds" for point in points],
        "hovertemplate": "%{x} of the data: %{y:.4f}<br>%{text}<extra></extra>",
        "marker": {"symbol": "circle", "size": 9, "color": "--ink"},
    }


def _fit(curve: DataCurve) -> list[Figure]:
    """Return the band, and the fit: a line over the data, dashed beyond it."""
    if not curve.line:
        return []
    last = curve.points[-1].share
    xs = [x for x, *_ in curve.line]
    band = {
        "type": "scatter",
        "mode": "lines",
        "name": "two standard errors",
        "x": [*xs, *reversed(xs)],
        "y": [*(low for *_, low, _ in curve.line), *(high for *_, high in reversed(curve.line))],
        "fill": "toself",
        "fillcolor": "--line",
        "opacity": 0.6,
        "line": {"width": 0, "color": "--line"},
        "hoverinfo": "skip",
    }
    return [
        band,
        _line("power law", [(x, y) for x, y, *_ in curve.line if x <= last], "solid"),
        _line("with more data", [(x, y) for x, y, *_ in curve.line if x >= last * 0.95], "dash"),
    ]


def _line(name: str, points: Sequence[tuple[float, float]], dash: str) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": [x for x, _ in points],
        "y": [round(y, 5) for _, y in points],
        "line": {"color": "--best", "width": 2, "dash": dash},
        "hovertemplate": "%{x:.3g} times the data: %{y:.4f}<extra></extra>",
    }
