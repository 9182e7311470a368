"""Tells how a sweep stands, from its files alone: `python sweep.py --status DIR`."""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from csm_ft.atomic import is_locked
from csm_ft.report.data import read_summary
from csm_ft.report.templating import duration, number
from csm_ft.runs.folder import SweepFolder
from csm_ft.sweep.records import STATE_WORDS, Summary, TrialRecord


def describe_sweep(path: Path) -> str:
    """Return how the sweep in a folder stands, one fact per line.

    Starts and changes nothing. ReportError where the folder is none of a sweep.
    """
    folder = SweepFolder(path)
    summary = read_summary(folder)
    return "\n".join(
        [
            f"{summary.study} in {path}: {_activity(folder, summary)}",
            _counts(summary),
            *_values(summary),
            *([summary.confirmation.text] if summary.confirmation else []),
            *([summary.preference.text] if summary.preference else []),
            *summary.notes,
            *_unfinished(folder, summary),
            *_failures(folder, summary),
        ]
    )


def _activity(folder: SweepFolder, summary: Summary) -> str:
    if is_locked(folder.lock):
        return "running"
    if summary.state == "finished":
        return "finished"
    return "not running; the command that began it continues"


def _counts(summary: Summary) -> str:
    states = Counter(trial.state for trial in summary.trials)
    parts = [f"{states[state]} {word}" for state, word in STATE_WORDS.items() if states[state]]
    return f"{summary.num_ended} of {summary.n_trials} trials ended: {', '.join(parts)}"


def _values(summary: Summary) -> Iterator[str]:
    """Say what the best trial and the default settings reached."""
    unit = f" {summary.unit}" if summary.unit else ""
    for name, trial in (("best", summary.best_trial), ("default", summary.default_trial)):
        if trial is not None and trial.value is not None:
            value = f"{summary.objective_metric} {number(trial.value)}{unit}"
            chosen = ", ".join(f"{key} {value}" for key, value in trial.params.items())
            yield f"{name}: trial {trial.number}, {value} ({chosen})"


def _unfinished(folder: SweepFolder, summary: Summary) -> Iterator[str]:
    """Say how far each trial is that has begun and not ended."""
    for trial in summary.trials:
        rows = [] if trial.has_ended else folder.trial(trial.number).rows("train")
        if rows:
            row = rows[-1]
            silent = duration(time.time() - row["time"]) if "time" in row else "–"
            left = duration(row.get("eta_sec"))
            yield (
                f"trial {trial.number}: step {row['step']}, epoch {row['epoch']:.2f},"
                f" {left} left; last heard of {silent} ago"
            )


def _failures(folder: SweepFolder, summary: Summary) -> Iterator[str]:
    for trial in summary.trials:
        if trial.has_failed:
            yield _failure(folder, trial)


def _failure(folder: SweepFolder, trial: TrialRecord) -> str:
    log = folder.trial(trial.number).log
    return (
        f"trial {trial.number} {STATE_WORDS[trial.state]}: {trial.reason or 'no reason known'}"
        f" ({log})"
    )
