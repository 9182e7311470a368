"""The figures of one run as a Markdown table, for the console and docs/performance.md."""

from benchmarks.figures import FIGURES, reaches
from benchmarks.results import Result

MARKS = {True: "yes", False: "no", None: ""}


def table(result: Result) -> str:
    """Return a row for each figure that was measured, or why it was not."""
    rows = ["| what | measured | to reach | reached |", "|---|---|---|---|"]
    for name, figure in FIGURES.items():
        target = "" if figure.target is None else f"{_bound(name)} {figure.target:g} {figure.unit}"
        if name in result.figures:
            value = result.figures[name]
            cells = shown(result, name), target.strip(), MARKS[reaches(name, value)]
        elif name in result.not_measured:
            cells = f"not measured: {result.not_measured[name]}", target.strip(), ""
        else:
            continue
        rows.append(f"| {figure.text} | {' | '.join(cells)} |")
    return "\n".join(rows)


def shown(result: Result, name: str) -> str:
    """Write a figure with its unit, and its spread where it varies."""
    low, high, rounds = result.spread.get(name, [0, 0, 0])
    spread = f" ({number(low)} to {number(high)})" if rounds > 1 else ""
    return f"{number(result.figures[name])} {FIGURES[name].unit}".strip() + spread


def number(value: float) -> str:
    """Write a figure by three digits, or all those before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _bound(name: str) -> str:
    return "≥" if FIGURES[name].better == "high" else "≤"
