"""Where trials ran out of patience, or would have, marked on the learning curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from csm_ft.report import traces
from csm_ft.report.data import Run, Validation
from csm_ft.report.traces import Figure
from csm_ft.runs.stopping import stopping_point
from csm_ft.sweep.records import EXAMPLES, ComparedIn, Summary, TrialRecord

PATIENCE_SHARE = 0.2  # of the run, where no patience was given: what it would have done
_EARLY = 0.9  # a rung counts as reached this early, as runs end on whole steps


@dataclass(frozen=True)
class Stop:
    """The end of a trial by patience: a real one, or one that did not happen."""

    trial: TrialRecord
    at: Validation
    best_then: float  # value of the best validation until then
    best: float  # of all validations
    is_real: bool
    higher_is_better: bool = False
    unit: ComparedIn = EXAMPLES  # of `at`

    @property
    def words(self) -> str:
        """What happened, or would have."""
        number, when = self.trial.number, f"{self.at.examples:.0f} {self.unit}"
        extreme, more = ("highest", "higher") if self.higher_is_better else ("lowest", "lower")
        if self.is_real:
            best = f"{extreme} {self.best_then:.4f}"
            return f"Trial {number} ran out of patience after {when} ({best})."
        lost = abs(self.best_then - self.best)
        rest = f"its {extreme} came later and is {lost:.4f} {more}" if lost else "nothing lost"
        return (
            f"--patience {PATIENCE_SHARE:.0%} would have stopped trial {number} after {when}"
            f" ({extreme} {self.best_then:.4f}; {rest})."
        )


def find_stops(summary: Summary, runs: Mapping[int, Run]) -> list[Stop]:
    """Return where trials ran out of patience, and where default and best would have."""
    named = [trial.number for _, trial in traces.named_trials(summary)]
    stops = []
    for trial in summary.trials:
        validations = runs[trial.number].validations if trial.number in runs else ()
        # A completed trial has a reason only where patience ended it.
        is_real = trial.state == "completed" and bool(trial.reason)
        counted = _counted(summary, validations)
        at = counted[-1] if is_real and counted else None
        if not is_real and trial.number in named:
            at = _would_stop(summary, counted)
        if at is not None:
            until = [v.value for v in counted if v.examples <= at.examples]
            best = min((v.value for v in counted), key=summary.cost)
            best_then = min(until, key=summary.cost)
            how = summary.higher_is_better, summary.compared_in
            stops.append(Stop(trial, at, best_then, best, is_real, *how))
    return stops


def trace(stops: Sequence[Stop], *, is_real: bool) -> list[Figure]:
    """Return the marks of one kind as a list of one trace, or of none."""
    shown = [stop for stop in stops if stop.is_real == is_real]
    if not shown:
        return []
    name = "out of patience" if is_real else f"patience {PATIENCE_SHARE:.0%} would stop"
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": [stop.at.examples for stop in shown],
            "y": [round(stop.at.value, 5) for stop in shown],
            "text": [stop.words for stop in shown],
            "hovertemplate": "%{text}<extra></extra>",
            "marker": {
                "symbol": "diamond" if is_real else "diamond-open",
                "size": 11,
                "color": "--ink",
                "line": {"width": 1.8, "color": "--ink"},
            },
        }
    ]


def _counted(summary: Summary, validations: Sequence[Validation]) -> list[Validation]:
    """Return the validations that may be the best: those from the first rung on."""
    first = _EARLY * summary.rungs[0] if summary.rungs else 0.0
    return [v for v in validations if v.examples >= first]


def _would_stop(summary: Summary, counted: Sequence[Validation]) -> Validation | None:
    if not summary.horizon_examples:
        return None
    point = stopping_point(
        ((v.examples, summary.cost(v.value)) for v in counted),
        # Just below the share: validations are at whole steps.
        patience_examples=_EARLY * PATIENCE_SHARE * summary.horizon_examples,
    )
    last = counted[-1].examples if counted else None
    is_early = point is not None and point != last
    return next(v for v in counted if v.examples == point) if is_early else None
