"""Figures of further numbers along a run: of judges, and of a second validation set."""

from collections.abc import Mapping, Sequence
from itertools import chain

from csm_ft.evaluate.metrics import MAIN, METRICS
from csm_ft.report import traces
from csm_ft.report.data import Run, Validation
from csm_ft.report.traces import Axis, Figure
from csm_ft.sweep.records import ComparedIn, Summary, TrialRecord, keys_of

HEIGHT = 230


def judged_curves(summary: Summary, runs: Mapping[int, Run]) -> list[tuple[str, Figure]]:
    """Return (title, figure) for each main judged number, one line per trial, the base dashed."""
    judged = {number: run.judged for number, run in runs.items()}
    return [(title_of(name), made) for name, made in _curves(summary, judged, MAIN)]


def canary_curves(summary: Summary, runs: Mapping[int, Run]) -> list[tuple[str, Figure]]:
    """Return (title, figure) for each metric of own data and canary, as for judged numbers."""
    canary = {number: run.canary for number, run in runs.items()}
    return _curves(summary, canary, keys_of(canary.values()))


def _curves(
    summary: Summary, curves: Mapping[int, Mapping[str, Sequence[Validation]]], names: Sequence[str]
) -> list[tuple[str, Figure]]:
    named = {trial.number: name for name, trial in traces.named_trials(summary)}
    shown = [trial for trial in summary.trials if trial.number in curves]
    # The named ones are drawn last, on top of the others.
    shown.sort(key=lambda trial: (trial.number in named, trial.number == summary.best))
    figures = []
    for name in names:
        lines = [(trial, curves[trial.number].get(name, ())) for trial in shown]
        lines = [(trial, points) for trial, points in lines if points]
        if lines:
            base = summary.baseline.metrics.get(name) if summary.baseline else None
            made = [_line(trial, points, named.get(trial.number)) for trial, points in lines]
            values = [point.value for _, points in lines for point in points]
            figures.append((name, _figure(name, made, base, values, summary.compared_in)))
    return figures


def title_of(name: str) -> str:
    """Return the title of a judged number, with what is better."""
    metric = METRICS[name]
    unit = f", {metric.unit}" if metric.unit else ""
    better = {"low": "lower is better", "high": "higher is better", "": ""}[metric.better]
    return f"{metric.title}{unit}" + (f" ({better})" if better else "")


def _line(trial: TrialRecord, points: Sequence[Validation], name: str | None) -> Figure:
    return traces.curve(trial, traces.thin(points), name) | {"showlegend": False}


def _figure(
    name: str,
    lines: list[Figure],
    base: float | None,
    values: Sequence[float],
    compared_in: ComparedIn,
) -> Figure:
    data = list(lines)
    if base is not None:
        xs = list(chain.from_iterable(line["x"] for line in lines))
        data.insert(0, traces.horizontal("base", base, xs) | {"showlegend": False})
    ends = traces.value_range([*values, *([base] if base is not None else [])])
    x_axis = Axis(traces.seen(compared_in), extra={"nticks": 4})
    made = traces.figure(f"judged-{name}", data, x_axis, Axis("", range=ends))
    made["layout"] |= {
        "height": HEIGHT,
        "margin": {"l": 46, "r": 12, "t": 8, "b": 42},
        "showlegend": False,
    }
    return made


def run_curves(run: Run, metric: str) -> list[tuple[str, Figure]]:
    """Return (title, figure) for the validation loss of a run and each main judged number."""
    own = [(name, title_of(name), run.judged.get(name, ())) for name in MAIN]
    own += [(name, name, points) for name, points in run.canary.items() if name != metric]
    shown = [(metric, "validation loss (lower is better)", run.validations), *own]
    figures = []
    for name, title, points in shown:
        if not points:
            continue
        trace = {
            "type": "scatter",
            "mode": "lines+markers",
            "x": [point.examples for point in points],
            "y": [round(point.value, 5) for point in points],
            "line": {"color": "--best", "width": 2},
            "hovertemplate": f"%{{x}} {run.compared_in}: %{{y:.4f}}<extra></extra>",
        }
        values = [point.value for point in points]
        figures.append((title, _figure(name, [trace], None, values, run.compared_in)))
    return figures
