"""What the next trial is: a setting of the search, or one that runs again with another seed."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import optuna

from csm_ft.sweep.finalists import Rerun, due_reruns, num_planned_reruns
from csm_ft.sweep.noise import Noise
from csm_ft.sweep.optuna_trials import key_of
from csm_ft.sweep.records import Purpose, TrialRecord, best_of
from csm_ft.sweep.repeats import choose_repeat
from csm_ft.sweep.samplers import make_sampler
from csm_ft.sweep.space import MAX_SETTINGS
from csm_ft.sweep.trials import Plan

_Key = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Point:
    """The setting of a trial, None = the sampler draws it; and the seed of one that runs again."""

    params: dict[str, Any] | None
    seed: int | None = None
    purpose: Purpose = "search"


class Points:
    """Decides from what is written in the study, so a restart decides the same."""

    def __init__(
        self,
        study: optuna.Study,
        plan: Plan,
        records: Callable[[], Sequence[TrialRecord]],
        noise: Callable[[], Noise],
        num_changes: Callable[[], int],
    ) -> None:
        """`records` returns all trials that have begun, `noise` what differences are ties.

        `num_changes` counts the trials that have begun and ended: the answers change with it alone.
        """
        self._study, self._plan, self._records, self._noise = study, plan, records, noise
        self._objective, self._num_changes = plan.objective, num_changes
        warm = study.user_attrs.get("warm_settings", [])
        self._first_points = [*plan.space.first_points(), *filter(plan.space.has, warm)]
        settings = plan.space.settings(MAX_SETTINGS)
        # None: too many for a repetition to be likely.
        self._settings = None if settings is None else {key_of(one): one for one in settings}
        self._plateau = (0, "")  # of so many ended trials
        self._new = (-1, 0)  # the last answer of num_new, and after how many changes

    @property
    def num_settings(self) -> int | None:
        """Settings of the space; None if it has too many to be exhausted."""
        return None if self._settings is None else len(self._settings)

    @property
    def num_searched(self) -> int:
        """Trials that count towards --n_trials."""
        return sum(record.purpose == "search" for record in self._records())

    @property
    def num_new(self) -> int:
        """Trials that can begin now: of the search, and with other seeds."""
        num_changes = self._num_changes()
        if self._new[0] != num_changes:  # asked for with each message of a worker
            self._new = num_changes, self._num_left() + len(self._due())
        return self._new[1]

    @property
    def num_later(self) -> int:
        """Runs with other seeds that come after those, at most."""
        confirm = self._plan.sweep.seeds_to_confirm
        if confirm is None or self._is_over():
            return 0
        return num_planned_reruns(self._records(), confirm)

    def next(self, number: int) -> Point:
        """Return what trial `number` is; only where there is a new one."""
        due = self._due()
        if due:
            return Point(due[0].params, due[0].seed, due[0].purpose)
        if self._settings is not None and not self._untried():
            repeat = self._repeat()
            assert repeat is not None, "a trial is asked for only where there is a setting for it"
            return Point(*repeat)
        return Point(self._setting(number))

    def plateau(self) -> str:
        """Return in words why no more settings are tried, "" = the search goes on."""
        patience = self._plan.sweep.plateau
        if not patience:
            return ""
        searched = [r for r in self._records() if r.purpose == "search" and r.has_ended]
        if len(searched) <= patience:
            return ""
        if self._plateau[0] != len(searched):  # asked for often, and it reads files
            self._plateau = (len(searched), self._find_plateau(searched, patience))
        return self._plateau[1]

    def _find_plateau(self, searched: Sequence[TrialRecord], patience: int) -> str:
        before = best_of(searched[:-patience], self._objective)
        best = best_of(searched, self._objective)
        if before is None or best is None or before.value is None or best.value is None:
            return ""
        gain = self._objective.cost(before.value) - self._objective.cost(best.value)
        if gain > self._noise().between(before, best):
            return ""
        return (
            f"the search ended after {len(searched)} of {self._plan.sweep.n_trials} trials: the"
            f" last {patience} brought nothing beyond the noise; a larger --plateau, or 0, goes on"
        )

    def _num_left(self) -> int:
        """Return how many trials of the search are still to be asked for."""
        wanted = max(0, self._plan.sweep.n_trials - self.num_searched)
        if wanted and self.plateau():
            return 0
        if self._settings is None:
            return wanted
        num_untried = len(self._untried())
        if self._plan.sweep.repeat_seeds and (num_untried or self._repeat()):
            return wanted
        return min(wanted, num_untried)

    def _is_over(self) -> bool:
        """Tell whether all trials of the search have ended."""
        return not self._num_left() and all(
            r.has_ended for r in self._records() if r.purpose == "search"
        )

    def _due(self) -> list[Rerun]:
        """Return the runs with other seeds that can begin now.

        All after the search: the default, run three times, would draw the sampler to it.
        """
        confirm, seed = self._plan.sweep.seeds_to_confirm, self._plan.space.base.seed
        if confirm is None or not self._is_over():
            return []
        return due_reruns(self._records(), confirm, self._objective, seed)

    def _repeat(self) -> tuple[dict[str, Any], int] | None:
        return choose_repeat(self._records(), self._objective, self._plan.space.base.seed)

    def _setting(self, number: int) -> dict[str, Any] | None:
        """Return the setting of a new trial of the search; None leaves it to the sampler.

        Trials are deterministic, so a setting that was tried before would teach nothing. In a space
        with few settings the sampler proposes one, and an untried one takes the place of a
        repetition.
        """
        if self.num_searched < len(self._first_points):
            return self._first_points[self.num_searched]
        if self._settings is None:
            return None
        if self._plan.sweep.sampler == "grid":
            return self._draw_untried("grid")
        scratch = optuna.create_study(
            sampler=make_sampler(self._plan.sweep, self._plan.space, number),
            direction=self._objective.direction,
        )
        scratch.add_trials(self._study.get_trials(deepcopy=False))
        proposal = self._plan.space.suggest(scratch.ask())
        if key_of(proposal) in self._untried():
            return proposal
        return self._draw_untried(number)

    def _draw_untried(self, what: int | str) -> dict[str, Any]:
        generator = random.Random(f"{self._plan.sweep.seed} {what}")  # noqa: S311
        return generator.choice(list(self._untried().values()))

    def _untried(self) -> dict[_Key, dict[str, Any]]:
        """Return the settings of a finite space that no trial has, by key."""
        tried = {key_of(record.params) for record in self._records()}
        return {key: one for key, one in (self._settings or {}).items() if key not in tried}
