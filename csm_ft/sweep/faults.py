"""What went wrong so far: worker deaths per trial, and bugs that end trial after trial."""

from dataclasses import dataclass, field

SAME_BUG_TRIALS = 3  # so many trials ended by the same line, none of them well: it is the code


@dataclass
class Deaths:
    """Worker deaths of one trial since its last progress."""

    slots: list[str] = field(default_factory=list)
    furthest_examples: int = -1  # when the last of them happened
    reached_examples: int = -1  # ever

    def add(self, slot: str) -> None:
        """Count a death; progress since the last one forgives those before."""
        if self.reached_examples > self.furthest_examples:
            self.slots.clear()
        self.furthest_examples = self.reached_examples
        self.slots.append(slot)


class Faults:
    """Counts faults and decides when there are too many of them."""

    def __init__(self, max_attempts: int, n_trials: int) -> None:
        self._max_attempts, self._n_trials = max_attempts, n_trials
        self._deaths: dict[int, Deaths] = {}
        self._bugs: dict[str, set[int]] = {}

    def reached(self, trial: int, examples: int) -> None:
        """Record how far a trial is."""
        deaths = self._of(trial)
        deaths.reached_examples = max(deaths.reached_examples, examples)

    def add_death(self, trial: int, slot: str) -> bool:
        """Count a death and return whether the trial has had too many without progress.

        The slots make no difference: two deaths in two slots prove little, as someone may have
        killed all workers.
        """
        deaths = self._of(trial)
        deaths.add(slot)
        return len(deaths.slots) >= self._max_attempts

    def forgive(self, trial: int) -> None:
        """Forget the deaths of a trial."""
        self._of(trial).slots.clear()

    def describe(self, trial: int) -> str:
        """Return how often and where a trial's workers died."""
        slots = self._of(trial).slots
        where = ", ".join(dict.fromkeys(slots))
        return f"{len(slots)} times without progress, on {where}"

    def add_bug(self, trial: int, where: str) -> int:
        """Count a trial that ended at this line of code.

        Return the number of such trials once there are enough to call it a bug, before that 0.
        """
        trials = self._bugs.setdefault(where, set())
        trials.add(trial)
        enough = min(SAME_BUG_TRIALS, self._n_trials)
        return len(trials) if len(trials) >= enough else 0

    def _of(self, trial: int) -> Deaths:
        return self._deaths.setdefault(trial, Deaths())
