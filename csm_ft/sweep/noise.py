"""How far apart two trials must be to differ: the larger of the noise of data and of seeds."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from csm_ft.sweep.optuna_trials import Key, key_of
from csm_ft.sweep.records import Objective, TrialRecord
from csm_ft.sweep.verdict import TIE_BELOW, Clips, compare

_TAIL = 0.975  # of Student's distribution: differences beyond are seen by chance in 5 %


@dataclass(frozen=True)
class Noise:
    """What is known of both; values are in the unit of the objective."""

    deviation: float | None  # of one run over seeds; None = no setting was run with two
    degrees: int  # of freedom that it was estimated with
    clips: Callable[[TrialRecord], Clips | None]  # what a trial scored on each validation clip

    def of_seeds(self, num_first: int = 1, num_second: int = 1) -> float | None:
        """Return the least difference between means over so many seeds that is not a tie."""
        if self.deviation is None:
            return None
        from scipy.special import stdtrit  # here: few sweeps need it

        factor = float(stdtrit(self.degrees, _TAIL))
        return factor * self.deviation * math.sqrt(1 / num_first + 1 / num_second)

    def of_data(self, first: TrialRecord, second: TrialRecord) -> float | None:
        """Return the least difference over the validation clips that is not a tie."""
        ours, theirs = self.clips(first), self.clips(second)
        if first.number == second.number or not ours or not theirs or ours.keys() != theirs.keys():
            return None
        error = compare(ours, theirs).standard_error
        return None if error is None else TIE_BELOW * error

    def between(
        self, first: TrialRecord, second: TrialRecord, num_first: int = 1, num_second: int = 1
    ) -> float:
        """Return the larger of the two; 0 where neither is known."""
        seeds, data = self.of_seeds(num_first, num_second), self.of_data(first, second)
        return max(seeds or 0.0, data or 0.0)


def fresh_runs(records: Sequence[TrialRecord], params: dict[str, object]) -> list[TrialRecord]:
    """Return the completed runs of a setting whose values had no part in its being chosen.

    Of the default settings all; of another the search chose the first run for its value.
    """
    key = key_of(params)
    return _fresh([r for r in records if key_of(r.params) == key])


def _fresh(runs: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return those of the runs of one setting whose values had no part in its being chosen."""
    fresh = runs if runs and runs[0].is_default else runs[1:]
    return [r for r in fresh if r.state == "completed" and r.value is not None]


def measure_noise(
    records: Sequence[TrialRecord],
    objective: Objective,
    clips: Callable[[TrialRecord], Clips | None],
) -> Noise:
    """Pool the deviation over seeds of all settings that ran with several."""
    total, degrees = 0.0, 0
    settings: dict[Key, list[TrialRecord]] = {}
    for record in records:
        settings.setdefault(key_of(record.params), []).append(record)
    for runs in settings.values():
        costs = [objective.cost(r.value) for r in _fresh(runs) if r.value is not None]
        if len(costs) > 1:
            mean = fmean(costs)
            total += sum((cost - mean) ** 2 for cost in costs)
            degrees += len(costs) - 1
    return Noise(math.sqrt(total / degrees) if degrees else None, degrees, clips)
