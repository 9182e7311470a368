"""The trials that wait for a worker, in the order in which they get one."""

from collections import deque
from collections.abc import Collection

from csm_ft.sweep.study import SweepStudy


class Waiting:
    """First the trials that have begun, then new ones, last those that were set back."""

    def __init__(self, study: SweepStudy) -> None:
        self._study = study
        # Begun before: adopted from an earlier process, or taken from a dead worker.
        self._again: deque[int] = deque(study.running)
        self._later: deque[int] = deque()
        self._barred: dict[int, str] = {}  # trial -> the process where it has failed
        self._loners: set[int] = set()

    def __len__(self) -> int:
        return len(self._again) + len(self._later) + self._study.num_new

    @property
    def num_barred(self) -> int:
        """How many trials wait that one worker process must not take."""
        return sum(number in self._barred for number in (*self._again, *self._later))

    def next(self, process: str, beside: Collection[int] = ()) -> int | None:
        """Return the next trial for a worker process and take it out; None if there is none.

        `beside` are those that it runs already.
        """
        if any(number in self._loners for number in beside):
            return None
        number = self._take(self._again, process, is_alone=not beside)
        if number is None and self._study.num_new:
            return self._study.ask()
        return self._take(self._later, process, is_alone=not beside) if number is None else number

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

    def bar(self, number: int, process: str) -> None:
        """Give a trial to other workers only: where it failed, the slot may be at fault."""
        self._barred[number] = process

    def lift_bars(self) -> None:
        """Give all trials to any worker: there is one left."""
        self._barred.clear()

    def isolate(self, number: int) -> None:
        """Let a trial continue after all new ones, with no other in its process."""
        self._loners.add(number)
        self.put_last(number)

    def _take(self, trials: deque[int], process: str, *, is_alone: bool) -> int | None:
        for number in trials:
            if self._barred.get(number) != process and (is_alone or number not in self._loners):
                trials.remove(number)
                return number
        return None
