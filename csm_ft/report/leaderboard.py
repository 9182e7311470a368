"""Who leads, what is a tie, and how each configuration differs from the default."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from csm_ft.runs.folder import SweepFolder
from csm_ft.sweep.noise import Noise, measure_noise
from csm_ft.sweep.records import Objective, Score, Summary, TrialRecord
from csm_ft.sweep.verdict import Clips, read_clips

MOST_PLACES = 10


@dataclass(frozen=True)
class Change:
    """A parameter that the default has another value of."""

    name: str
    default: Any
    own: Any


@dataclass(frozen=True)
class Place:
    """One row; places on the strip are percent of its width, the best at the left."""

    rank: int
    trial: TrialRecord
    behind: float  # the best, in costs
    noise: float | None  # the least difference from the best that is not a tie
    changes: Sequence[Change]
    score: Score | None
    at_percent: float
    noise_percent: float

    @property
    def is_tie(self) -> bool:
        """Whether its difference from the best may be chance."""
        return self.noise is not None and self.behind <= self.noise


@dataclass(frozen=True)
class Leaderboard:
    """The best completed trials of the search, and the default."""

    places: Sequence[Place]
    num_completed: int

    @property
    def knows_noise(self) -> bool:
        """Whether ties can be told."""
        return any(place.noise is not None for place in self.places[1:])


def make_leaderboard(summary: Summary, folder: SweepFolder) -> Leaderboard | None:
    """Return the leaders; None with fewer than two completed trials."""
    ranked = [
        (summary.cost(t.value), t)
        for t in summary.ranked
        if t.state == "completed" and t.purpose == "search" and t.value is not None
    ]
    if len(ranked) < 2:
        return None
    noise = _noise(summary, folder)
    (best_cost, best), places = ranked[0], list(enumerate(ranked, 1))
    shown = [one for one in places if one[0] <= MOST_PLACES or one[1][1].is_default]
    rows = [
        (rank, trial, cost - best_cost, _between(noise, best, trial))
        for rank, (cost, trial) in shown
    ]
    widest = max([row[2] for row in rows] + [row[3] or 0.0 for row in rows]) or 1.0
    made = [
        Place(
            rank=rank,
            trial=trial,
            behind=behind,
            noise=least,
            changes=changes_of(summary, trial),
            score=summary.preference.of(trial.number) if summary.preference else None,
            at_percent=100 * behind / widest,
            noise_percent=100 * (least or 0.0) / widest,
        )
        for rank, trial, behind, least in rows
    ]
    return Leaderboard(made, len(ranked))


def changes_of(summary: Summary, trial: TrialRecord) -> list[Change]:
    """Return the parameters of a trial that differ from the default's."""
    default = summary.default_trial
    before = default.params if default else {}
    return [
        Change(name, before.get(name), trial.params.get(name))
        for name in summary.parameters
        if default and before.get(name) != trial.params.get(name)
    ]


def _noise(summary: Summary, folder: SweepFolder) -> Noise:
    """Measure noise as the sweep does, from the files that it leaves."""
    objective = Objective(summary.objective_metric, summary.unit, summary.formula)

    def clips(trial: TrialRecord) -> Clips | None:
        run = folder.trial(trial.number)
        found = read_clips(run.val_clips) or read_clips(run.best_val_clips)
        return found if objective.is_loss else None

    return measure_noise(summary.trials, objective, clips)


def _between(noise: Noise, best: TrialRecord, trial: TrialRecord) -> float | None:
    """Return the least difference from the best that is not a tie, None where none is known."""
    if trial.number == best.number:
        return None
    return noise.between(best, trial) or None
