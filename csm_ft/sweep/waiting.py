"""The trials that wait for a worker, in the order in which they get one."""

from collections import deque

from csm_ft.sweep.study import SweepStudy


class Waiting:
    """First the trials that have begun, then new ones, last those that were set back."""

    def __init__(self, study: SweepStudy) -> None:
        self._study = study
        # Begun before: adopted from an earlier process, or taken from a dead worker.
        self._again: deque[int] = deque(study.running)
        self._later: deque[int] = deque()
        self._barred: dict[int, str] = {}  # trial -> the slot where it has failed

    def __len__(self) -> int:
        return len(self._again) + len(self._later) + self._study.num_new

    @property
    def num_barred(self) -> int:
        """How many trials wait that one slot must not take."""
        return sum(number in self._barred for number in (*self._again, *self._later))

    def next(self, slot: str) -> int | None:
        """Return the next trial for a slot and take it out; None if there is none."""
        number = self._take(self._again, slot)
        if number is None and self._study.num_new:
            return self._study.ask()
        return self._take(self._later, slot) if number is None else number

    def put_first(self, number: int) -> None:
        """Let a trial continue as soon as a worker is free."""
        self._again.appendleft(number)

    def put_back(self, number: int) -> None:
        """Let a trial continue after those that have begun."""
        self._again.append(number)

    def put_last(self, number: int) -> None:
        """Let a trial continue after all new ones."""
        self._later.append(number)

    def forgive(self) -> None:
        """Let those that were put last continue before new ones."""
        self._again.extend(self._later)
        self._later.clear()

    def bar(self, number: int, slot: str) -> None:
        """Give a trial to other slots only: where it failed, the slot may be at fault."""
        self._barred[number] = slot

    def lift_bars(self) -> None:
        """Give all trials to any slot: there is one slot left."""
        self._barred.clear()

    def _take(self, trials: deque[int], slot: str) -> int | None:
        number = next((one for one in trials if self._barred.get(one) != slot), None)
        if number is not None:
            trials.remove(number)
        return number
