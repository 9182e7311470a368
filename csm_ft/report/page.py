"""Builds report.html: one file that needs nothing beside it and asks nobody for anything."""

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from csm_ft.atomic import write_whole
from csm_ft.report import charts, listen, templating
from csm_ft.report.data import FAILED, STATE_WORDS, Run, Summary, read_run, read_summary

PAGE_BYTES = 10_000_000
FILES = {
    "best.yaml": "the best trial as a complete config that train.py takes as it is",
    "best": "its weights at the best validation, under the published tensor names",
    "trials.csv": "the table above, for a spreadsheet",
    "study.journal": "the Optuna study (optuna-dashboard reads it)",
    "events.jsonl": "what happened when",
    "summary.json": "what this page was made from",
    "baseline": "the untrained model: its validation and its recordings",
    "trials": "one folder per trial: config.yaml, metrics.jsonl, samples/",
}


def build_report(out: Path) -> Path:
    """Write `<out>/report.html` from the files of the sweep folder `out`, whole or not at all.

    And return its path.

    Valid at any time after summary.json was first written; what is missing or torn is told on the
    page. Raises ReportError if summary.json is missing or is not one.
    """
    notes: list[str] = []
    summary = read_summary(out)
    baseline = read_run(out / summary.baseline.dir, notes) if summary.baseline else None
    runs = {
        trial.number: read_run(out / trial.dir, notes)
        for trial in summary.trials
        if (out / trial.dir).is_dir()
    }
    listening = listen.arrange(out, summary, baseline, runs)
    room_bytes = PAGE_BYTES - len(_render(out, summary, runs, listening, notes))
    listen.inline(listening, room_bytes, notes)
    path = out / "report.html"
    write_whole(path, _render(out, summary, runs, listening, notes))
    return path


def _render(
    out: Path,
    summary: Summary,
    runs: Mapping[int, Run],
    listening: listen.Listening,
    notes: Sequence[str],
) -> bytes:
    environment = templating.environment()
    environment.filters |= {
        "nats": _nats,
        "signed": _signed,
        "duration": _duration,
        "words": STATE_WORDS.__getitem__,
    }
    environment.globals |= {"few_trials": charts.FEW_TRIALS, "failed": FAILED}
    plotly = templating.script(get_plotlyjs())
    script = templating.script(templating.template_text(environment, "players.js", "page.js"))
    figures = [
        charts.history(summary),
        charts.learning_curves(summary, runs),
        charts.importance(summary),
    ]
    slices = charts.slices(summary)
    page = environment.get_template("page.html.j2").render(
        summary=summary,
        baseline_value=summary.baseline.value if summary.baseline else None,
        listening=listening,
        notes=notes,
        figures=_json_for_script([f for f in (*figures, *(figure for _, figure in slices)) if f]),
        chart_ids={f["id"] for f in figures if f},
        slices=[(name, figure["id"]) for name, figure in slices],
        states=Counter(trial.state for trial in summary.trials),
        facts=_facts(summary),
        command=f"python train.py --config {shlex.quote(_as_typed(out / 'best.yaml'))}",
        files=_files(out),
        style=templating.style(environment),
        plotly=plotly[0],
        script=script[0],
        script_hashes=f"{plotly[1]} {script[1]}",
    )
    return page.encode("utf-8")


def _json_for_script(value: Any) -> Markup:
    """Return JSON that cannot end the script element it stands in."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))  # noqa: S704 - escaped right here


def _facts(summary: Summary) -> list[tuple[str, str]]:
    """Return the small print of the headline, as (name, value)."""
    started, updated = _moment(summary.created), _moment(summary.updated)
    compute_sec = sum(t.seconds or 0.0 for t in summary.trials)
    workers = (
        f", {summary.n_workers} worker{'s' * (summary.n_workers != 1)}" if summary.n_workers else ""
    )
    facts = [
        ("Data", summary.data),
        ("Device", f"{summary.device}{workers}" if summary.device else ""),
        (
            "Horizon",
            (
                f"{templating.short(summary.horizon_examples)} examples per trial"
                if summary.horizon_examples
                else ""
            ),
        ),
        (
            "Time",
            (
                f"{_duration((updated - started).total_seconds())} on the clock"
                if started and updated
                else ""
            ),
        ),
        ("Work", f"{_duration(compute_sec)} in trials" if compute_sec else ""),
        ("As of", updated.strftime("%Y-%m-%d %H:%M UTC") if updated else summary.updated or ""),
        ("Objective", summary.objective),
    ]
    return [(name, value) for name, value in facts if value]


def _as_typed(path: Path) -> str:
    """Return `path` as one types it in the folder where train.py lies.

    Which is where sweep.py was started.
    """
    path, here = path.resolve(), Path.cwd()
    return (path.relative_to(here) if path.is_relative_to(here) else path).as_posix()


def _files(out: Path) -> list[tuple[str, str, bool]]:
    """Return (name, what it is, whether it is there); the weights are named file by file."""
    rows = []
    for name, meaning in FILES.items():
        path = out / name
        inside = sorted(p.name for p in path.iterdir()) if name == "best" and path.is_dir() else []
        rows.append(
            (
                f"{name}/" if path.is_dir() or name in ("best", "baseline", "trials") else name,
                meaning,
                path.exists(),
            )
        )
        rows.extend((f"best/{file}", "", True) for file in inside)
    return rows


def _moment(text: str | None) -> datetime | None:
    """Read a time as ISO 8601 or as seconds since 1970; None if it is neither."""
    if text is None:
        return None
    try:
        return datetime.fromtimestamp(float(text), UTC)
    except (ValueError, OverflowError, OSError):
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _nats(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}".replace("-", "−")


def _duration(seconds: float | None) -> str:
    """Write seconds as a person would: 48 s, 4 min 12 s, 2 h 05 min."""
    if seconds is None:
        return "–"
    whole = round(max(0.0, seconds))
    if whole < 60:
        return f"{whole} s"
    return (
        f"{whole // 60} min {whole % 60:02d} s"
        if whole < 3600
        else f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    )
