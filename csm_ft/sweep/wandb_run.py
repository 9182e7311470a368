"""The sweep as one W&B run: who leads, the verdict, and what there is to listen to."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.markup import escape

from csm_ft.config.train import TrainConfig
from csm_ft.console import console
from csm_ft.evaluate.metrics import METRICS
from csm_ft.report.data import read_run, read_summary
from csm_ft.report.listen import Player, arrange
from csm_ft.runs.folder import SweepFolder
from csm_ft.runs.wandb_mirror import Cell, RunFacts, Table, start_mirror
from csm_ft.runs.wandb_settings import choose_wandb_mode
from csm_ft.sweep.config import SweepConfig
from csm_ft.sweep.ranking import rankings_in_words
from csm_ft.sweep.records import Summary

_ROLES = ("reference", "base", "default", "best")  # of the players that stand side by side
_HEADINGS = {"reference": "reconstruction"}


def mirror_sweep(folder: SweepFolder, sweep: SweepConfig, config: TrainConfig) -> None:
    """Write the W&B run of a sweep from the files in its folder, or bring it up to date.

    A failure is printed; it never fails the sweep.
    """
    mode = choose_wandb_mode(config.wandb)
    if mode == "off":
        return
    try:
        summary = read_summary(folder)
        tables = {
            "leaderboard": leaderboard(summary),
            "recordings": recordings(folder, summary),
        }
        mirror = start_mirror(_facts(folder, sweep, config), mode)
        mirror.tables(lambda: tables)
        mirror.summary(_overview(summary))
        mirror.finish(is_good=True)
    except Exception as error:  # whatever it is, the sweep's own files are complete
        console.print(f"[yellow]the sweep has no W&B run[/]: {escape(str(error))}")


def leaderboard(summary: Summary) -> Table:
    """Return all trials that have begun, best first, with what was searched."""
    names = summary.parameters
    columns = [_uniform([trial.params.get(name) for trial in summary.ranked]) for name in names]
    judged = [name for name in summary.shown_metrics if name in METRICS]
    rows = [
        [
            trial.number,
            trial.state,
            trial.value,
            *(trial.metrics.get(name) for name in judged),
            *(column[place] for column in columns),
            trial.seconds,
            trial.is_default,
        ]
        for place, trial in enumerate(summary.ranked)
    ]
    return Table(["trial", "state", "value", *judged, *names, "seconds", "is_default"], rows)


def recordings(folder: SweepFolder, summary: Summary) -> Table:
    """Return what base model, default and best trial answered to each prompt, side by side.

    With it the codec's reconstruction of the real clip, where there is one.
    """
    notes: list[str] = []  # the page says what cannot be read
    shown = [trial for trial in (summary.default_trial, summary.best_trial) if trial]
    runs = {t.number: read_run(folder.path / t.dir, notes) for t in shown}
    base = read_run(folder.path / summary.baseline.dir, notes) if summary.baseline else None
    listening = arrange(folder.path, summary, base, runs)
    # Where the default is the best, its players stand in the column of the best alone.
    roles = [role for role in _ROLES if role in dict(listening.columns)]
    if listening.real_clips and "reference" not in roles:
        roles.insert(0, "reference")
    is_sound = listening.has_sound
    rows: list[list[Cell]] = [
        [row.text, *(_answer(row.players.get(role), is_sound=is_sound) for role in roles)]
        for row in listening.rows
    ]
    rows += [
        [
            player.take.text,
            *(
                _answer(player if role == "reference" else None, is_sound=is_sound)
                for role in roles
            ),
        ]
        for player in listening.real_clips
    ]
    return Table(["sentence", *(_HEADINGS.get(role, role) for role in roles)], rows)


def _answer(player: Player | None, *, is_sound: bool) -> Cell:
    """Return a recording or a text; W&B wants one kind in a column."""
    if player is None:
        return None
    return player.take.wav if is_sound else player.take.answer


def _uniform(values: Sequence[Any]) -> Sequence[Cell]:
    """Return values of one kind, as W&B wants them in a column: text, if they are of several."""
    kinds = set(_kinds(values))
    is_plain = len(kinds) <= 1 and kinds <= {"bool", "number", "text"}
    return values if is_plain else [None if v is None else str(v) for v in values]


def _kinds(values: Sequence[Any]) -> Iterator[str]:
    for value in values:
        if isinstance(value, bool):
            yield "bool"
        elif isinstance(value, int | float):
            yield "number"
        elif value is not None:
            yield "text" if isinstance(value, str) else "other"


def _facts(folder: SweepFolder, sweep: SweepConfig, config: TrainConfig) -> RunFacts:
    return RunFacts(
        folder=folder.path,
        id_file=folder.wandb_id,
        project=config.wandb_project,
        name=sweep.study_name,
        group=sweep.study_name,
        job_type="sweep",
        config={**config.model_dump(mode="json"), **sweep.model_dump(mode="json")},
        record="the sweep's folder has everything",
        has_parts=False,
        is_apart=config.wandb_reinit,
    )


def _overview(summary: Summary) -> dict[str, Any]:
    best, baseline, verdict = summary.best_trial, summary.baseline, summary.verdict
    return {
        "state": summary.state,
        "verdict": verdict.text if verdict else "no trial has completed yet",
        "gain_over_default": verdict.gain_over_default if verdict else None,
        "objective": summary.objective,
        "best_trial": best.number if best else None,
        "best_value": best.value if best else None,
        "baseline_value": baseline.value if baseline else None,
        **({"rankings": " ".join(rankings_in_words(summary.rankings))} if summary.rankings else {}),
        **({"preference": summary.preference.text} if summary.preference else {}),
        "num_trials": summary.n_trials,
        "num_ended": summary.num_ended,
    }
