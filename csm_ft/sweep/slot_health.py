"""Which slots can be used: one whose workers fail again and again, while others work, cannot."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass, field

# In a row on one slot: workers that left by themselves before they had imported the trainer, all
# such workers, the killed ones included, and trials that ended before their first step.
FAILED_STARTS, KILLED_STARTS, FAILED_TRIALS = 3, 30, 3


def is_killed(code: int) -> bool:
    """Tell whether somebody killed a process: that says nothing about it or its slot."""
    return code in (-signal.SIGKILL, -signal.SIGTERM)


@dataclass
class _Health:
    is_ready: bool = False  # its last worker imported the trainer
    works: bool = False  # its last trial took a step
    exit_codes: list[int] = field(default_factory=list)  # since a worker was ready
    failed_trials: set[int] = field(default_factory=set)  # since a trial took a step


class SlotHealth:
    """Counts faults of each slot in a row."""

    def __init__(self, names: Sequence[str]) -> None:
        self._slots = {name: _Health() for name in names}
        self._set_aside: set[str] = set()

    @property
    def usable(self) -> list[str]:
        """The slots that there are and that have not been set aside."""
        return list(self._slots)

    def update(self, names: Sequence[str]) -> None:
        """Take note of which slots there are now."""
        before = self._slots
        usable = [name for name in names if name not in self._set_aside]
        self._slots = {name: before.get(name) or _Health() for name in usable}

    def set_aside(self, name: str) -> None:
        """Use a slot no more."""
        self._set_aside.add(name)
        self._slots.pop(name, None)

    def is_ready(self, name: str) -> None:
        """Note that a worker has imported the trainer."""
        slot = self._of(name)
        slot.is_ready = True
        slot.exit_codes.clear()

    def works(self, name: str) -> None:
        """Note that a trial took a step."""
        slot = self._of(name)
        slot.works = True
        slot.failed_trials.clear()

    def start_failed(self, name: str, code: int) -> bool:
        """Count a worker that ended before it was ready; return whether these are too many."""
        slot = self._of(name)
        slot.is_ready = slot.works = False
        slot.exit_codes.append(code)
        num_by_themselves = sum(not is_killed(code) for code in slot.exit_codes)
        return num_by_themselves >= FAILED_STARTS or len(slot.exit_codes) >= KILLED_STARTS

    def trial_failed(self, name: str, number: int) -> bool:
        """Count a trial that ended before its first step; return whether these are too many.

        One that has failed so on another slot, too, is at fault itself, and counts for neither.
        """
        slot = self._of(name)
        slot.works = False
        others = [other for other in self._slots.values() if number in other.failed_trials]
        if others and others != [slot]:
            for other in others:
                other.failed_trials.discard(number)
            return False
        slot.failed_trials.add(number)
        return len(slot.failed_trials) >= FAILED_TRIALS

    def others_are_ready(self, name: str) -> bool:
        """Tell whether workers of another slot can import the trainer."""
        return any(slot.is_ready for other, slot in self._slots.items() if other != name)

    def others_work(self, name: str) -> bool:
        """Tell whether trials take steps on another slot."""
        return any(slot.works for other, slot in self._slots.items() if other != name)

    def _of(self, name: str) -> _Health:
        """Return what is known of a slot; of one that is gone, something that nobody keeps."""
        return self._slots.get(name) or _Health()
