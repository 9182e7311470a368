"""The page of all results in a folder: the newest of each machine, and how figures moved.

One file without scripts; the style is that of all pages of csm-ft.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import FIGURES, reaches
from benchmarks.results import Result
from benchmarks.table import number, shown
from csm_ft.atomic import write_whole
from csm_ft.report import templating

TEMPLATE = Path(__file__).with_name("page.html.j2")
WIDTH, HEIGHT = 120.0, 24.0  # of a curve


def write_page(results: Sequence[Result], folder: Path) -> Path:
    """Write index.html into the folder, and return its path."""
    machines: dict[tuple[str, int, str], list[Result]] = {}
    for result in results:
        machines.setdefault((result.processor, result.cores, result.size), []).append(result)
    sections = [
        {
            "title": f"{processor}, {cores} cores, {size} models",
            "last": history[-1],
            "rows": [_row(name, history) for name in FIGURES if _has(name, history)],
        }
        for (processor, cores, size), history in machines.items()
    ]
    environment = templating.environment()
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    path = folder / "index.html"
    page = template.render(machines=sections, style=templating.style(environment))
    write_whole(path, page)
    return path


def _has(name: str, history: Sequence[Result]) -> bool:
    return any(name in result.figures or name in result.not_measured for result in history)


def _row(name: str, history: Sequence[Result]) -> dict[str, Any]:
    """Return what the page shows of a figure: the newest value, and its curve."""
    figure = FIGURES[name]
    measured = [result for result in history if name in result.figures]
    values = [result.figures[name] for result in measured]
    last = measured[-1] if measured else None
    reason = next((r.not_measured[name] for r in history[::-1] if name in r.not_measured), "")
    sign = "≥" if figure.better == "high" else "≤"
    return {
        "name": name,
        "text": figure.text,
        "value": shown(last, name) if last else f"not measured: {reason}",
        "date": last.date if last else "",
        "target": f"{sign} {figure.target:g} {figure.unit}" if figure.target is not None else "",
        "reached": reaches(name, values[-1]) if values else None,
        "points": _points(values),
        "words": ", ".join(f"{result.date}: {number(result.figures[name])}" for result in measured),
    }


def _points(values: Sequence[float]) -> list[tuple[float, float]]:
    """Place values on a curve, oldest on the left, the highest at the top."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    step = WIDTH / max(1, len(values) - 1)
    scale = (HEIGHT - 4) / ((high - low) or 1.0)
    return [
        (round(i * step, 1), round(HEIGHT - 2 - (v - low) * scale, 1)) for i, v in enumerate(values)
    ]
