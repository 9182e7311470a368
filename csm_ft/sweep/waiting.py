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

    def __len__(self) -> int:
        return len(self._again) + len(self._later) + self._study.num_new

    def next(self) -> int | None:
        """Return the next trial and take it out; None if there is none."""
        if self._again:
            return self._again.popleft()
        if self._study.num_new:
            return self._study.ask()
        return self._later.popleft() if self._later else None

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
