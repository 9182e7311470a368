"""Builds report.html: one file that needs nothing beside it and loads nothing from outside."""

import functools
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment
from plotly.offline import get_plotlyjs

from csm_ft.atomic import write_whole
from csm_ft.evaluate.metrics import METRICS
from csm_ft.report import charts, listen, search_charts, stopping, templating, traces
from csm_ft.report.blind import arrange_contest
from csm_ft.report.data import Run, read_evaluation, read_run, read_summary
from csm_ft.report.data_curve import data_curve
from csm_ft.report.failures import find_failures
from csm_ft.report.judged import canary_curves, judged_curves
from csm_ft.report.leaderboard import make_leaderboard
from csm_ft.report.timeline import idle_in_words, read_spans, timeline, value_by_time
from csm_ft.runs.folder import SweepFolder
from csm_ft.sweep.ranking import rankings_in_words
from csm_ft.sweep.records import STATE_WORDS, Summary

PAGE_BYTES = 10_000_000


@dataclass(frozen=True)
class _Content:
    """Everything that the page shows."""

    folder: SweepFolder
    summary: Summary
    runs: Mapping[int, Run]
    listening: listen.Listening
    notes: list[str]
    is_served: bool


def build_report(out: Path) -> Path:
    """Write report.html from the files of the sweep folder `out` and return its path.

    The page is replaced as a whole. Raises ReportError if summary.json is missing or is not one.
    """
    folder = SweepFolder(out)
    write_whole(folder.report, render_report(folder))
    return folder.report


def render_report(folder: SweepFolder, *, is_served: bool = False) -> bytes:
    """Return the page of a sweep.

    Valid at any time after summary.json was first written; what is missing or torn is named on the
    page. One that is served by csm_ft.report.watch links to all sounds, and asks for its next
    version. Raises ReportError as `build_report`.
    """
    notes, out = list[str](), folder.path
    summary = read_summary(folder)
    metric = summary.objective_metric
    baseline = read_run(out / summary.baseline.dir, notes, metric) if summary.baseline else None
    runs = {
        trial.number: read_run(out / trial.dir, notes, metric)
        for trial in summary.trials
        if (out / trial.dir).is_dir()
    }
    listening = listen.arrange(out, summary, baseline, runs)
    listen.match_levels(listening, notes)
    content = _Content(folder, summary, runs, listening, notes, is_served)
    page = _render(content)
    if is_served:
        return page
    # What the page takes without sounds is known once it has been made without them.
    listen.inline(listening, PAGE_BYTES - len(page), notes)
    return _render(content)


def _render(content: _Content) -> bytes:
    summary = content.summary
    environment = _environment()
    plotly = templating.script(get_plotlyjs())
    scripts = ("players.js", "sort.js", "page.js", "vote.js", "live.js")
    script = templating.script(templating.template_text(environment, *scripts))
    contest = arrange_contest(
        summary, content.listening, content.folder, is_served=content.is_served
    )
    spans = read_spans(content.folder.events)
    figures = [
        charts.history(summary),
        charts.learning_curves(summary, content.runs),
        data_curve(summary),
        charts.importance(summary),
        search_charts.parallel(summary),
        search_charts.strongest_pair(summary),
        timeline(summary, spans),
        value_by_time(summary, spans),
    ]
    drawn = [figure for figure in figures if figure]
    slices = charts.slices(summary)
    judged = judged_curves(summary, content.runs)
    canary = canary_curves(summary, content.runs)
    page = environment.get_template("page.html.j2").render(
        summary=summary,
        seen=traces.seen(summary.compared_in),
        baseline_value=summary.baseline.value if summary.baseline else None,
        baseline_metrics=summary.baseline.metrics if summary.baseline else {},
        listening=content.listening,
        contest=templating.json_for_script(contest.data) if contest.is_possible else None,
        merge_command=f"python -m csm_ft.report {_quoted(content.folder.path)} --votes votes.json",
        leaderboard=make_leaderboard(summary, content.folder),
        failures=list(find_failures(summary, content.folder)),
        is_served=content.is_served,
        notes=content.notes,
        figures=templating.json_for_script([*drawn, *(f for _, f in (*slices, *judged, *canary))]),
        stops=stopping.find_stops(summary, content.runs),
        saved=search_charts.saved_by_stopping(summary, dict(content.runs)),
        idle=idle_in_words(spans),
        chart_ids={figure["id"] for figure in drawn},
        slices=[(name, figure["id"]) for name, figure in slices],
        judged=[(title, figure["id"]) for title, figure in judged],
        canary=[(name, figure["id"]) for name, figure in canary],
        rankings=rankings_in_words(summary.rankings),
        evaluation=read_evaluation(content.folder),
        meanings={name: metric.meaning for name, metric in METRICS.items()},
        states=Counter(trial.state for trial in summary.trials),
        state_words=STATE_WORDS,
        facts=_facts(summary),
        command=f"python train.py --config {_quoted(content.folder.best_config)}",
        files=_files(content.folder),
        style=templating.style(environment),
        plotly=plotly[0],
        script=script[0],
        script_hashes=f"{plotly[1]} {script[1]}",
    )
    return page.encode("utf-8")


@functools.cache
def _environment() -> Environment:
    """Return the templates of this page, which take a while to compile."""
    environment = templating.environment()
    environment.filters |= {
        "number": templating.number,
        "signed": templating.signed,
        "score": templating.score,
        "duration": templating.duration,
        "words": STATE_WORDS.__getitem__,
    }
    environment.globals |= {"few_trials": charts.FEW_TRIALS}
    return environment


def _facts(summary: Summary) -> list[tuple[str, str]]:
    """Return the small print of the headline, as (name, value)."""
    started, updated = templating.moment(summary.created), templating.moment(summary.updated)
    device, horizon, elapsed = summary.device, "", ""
    if device and summary.n_workers:
        device += f", {summary.n_workers} worker{'s' * (summary.n_workers != 1)}"
    if summary.horizon_examples:
        horizon = f"{templating.short(summary.horizon_examples)} {summary.compared_in} per trial"
    if started and updated:
        elapsed = f"{templating.duration((updated - started).total_seconds())} on the clock"
    trials_sec = sum(t.seconds or 0.0 for t in summary.trials)
    facts = [
        ("Data", summary.data),
        ("Device", device),
        ("Horizon", horizon),
        ("Time", elapsed),
        ("Work", f"{templating.duration(trials_sec)} in trials" if trials_sec else ""),
        ("As of", updated.strftime("%Y-%m-%d %H:%M UTC") if updated else summary.updated or ""),
        ("Objective", summary.objective),
        ("Only if", ", ".join(summary.constraints)),
        ("Loss", summary.formula),
    ]
    return [(name, value) for name, value in facts if value]


def _quoted(path: Path) -> str:
    """Return `path` as one types it in the folder of train.py, where sweep.py was started."""
    path, here = path.resolve(), Path.cwd()
    return shlex.quote((path.relative_to(here) if path.is_relative_to(here) else path).as_posix())


def _files(folder: SweepFolder) -> list[tuple[str, str, bool]]:
    """Return (name, what it is, whether it exists); the weights are named file by file."""
    weights = folder.best
    inside = sorted(weights.iterdir()) if weights.is_dir() else []
    meanings = [
        (folder.best_config, "the best trial as a complete config that train.py takes as it is"),
        (weights, "its weights at the best validation, under the published tensor names"),
        *((file, "") for file in inside),
        (folder.evaluation.page, "what the best trial says, judged (python -m csm_ft.evaluate)"),
        (folder.table, "the table above, for a spreadsheet"),
        (folder.journal, "the Optuna study (optuna-dashboard reads it)"),
        (folder.votes, "what was voted for in blind comparisons"),
        (folder.events, "what happened when"),
        (folder.summary, "what this page was made from"),
        (folder.baseline.path, "the untrained model: its validation and its samples"),
        (folder.trials, "one folder per trial: config, metrics and samples"),
    ]
    folders = (weights, folder.baseline.path, folder.trials)
    rows = []
    for path, meaning in meanings:
        name = path.relative_to(folder.path).as_posix()
        rows.append((f"{name}/" if path in folders else name, meaning, path.exists()))
    return rows
