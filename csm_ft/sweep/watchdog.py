"""A worker that hangs is noticed by its silence, asked where it stands, and killed.

The end of its link then tells the broker, as after any other death.
"""

import signal
import statistics
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from csm_ft.console import console
from csm_ft.sweep.messages import Alive, Doing, FromWorker, Progress
from csm_ft.sweep.worker_process import Job, Worker

LEAST_SEC = 120.0
TIMES_MEDIAN = 10.0
# What reports nothing before it is done: the first step, which compiles, belongs to loading.
OPAQUE: Sequence[Doing] = ("loading", "judging", "saving")
OPAQUE_SEC = 1800.0
DUMP_SEC = 1.0  # for the worker to write its stacks
_NUM_GAPS = 200  # the latest times between steps that the median is taken of


def longest_silence_sec(gaps_sec: Sequence[float], hang_sec: float, doing: Doing) -> float:
    """Return after how many seconds without a message a worker hangs.

    `gaps_sec` are the times between its progress messages, without what comes between steps.
    `hang_sec` 0 means 10 times their median, at least LEAST_SEC; what is opaque may take longer.
    """
    if doing in OPAQUE:
        return max(OPAQUE_SEC, hang_sec)
    median_sec = statistics.median(gaps_sec) if gaps_sec else 0.0
    return hang_sec or max(LEAST_SEC, TIMES_MEDIAN * median_sec)


@dataclass
class _Watch:
    """What is known of one attempt."""

    job: Job | None  # None: the worker is importing the trainer
    heard_sec: float
    doing: Doing = "loading"
    step_sec: float | None = None  # when the step that is being done began
    gaps_sec: deque[float] = field(default_factory=lambda: deque(maxlen=_NUM_GAPS))
    kill_sec: float | None = None  # when it is killed, once it hangs


class Watchdog:
    """Knows of each worker, by its slot, when it was heard of last."""

    def __init__(self, hang_sec: float) -> None:
        self._hang_sec = hang_sec
        self._watches: dict[str, _Watch] = {}

    def began(self, worker: Worker) -> None:
        """Begin to watch a new process, or its attempt at a job."""
        self._watches[worker.slot.name] = _Watch(worker.job, time.monotonic())

    def heard(self, worker: Worker, message: FromWorker) -> None:
        """Take note of a message."""
        watch, now_sec = self._watches[worker.slot.name], time.monotonic()
        watch.heard_sec = now_sec
        if isinstance(message, Progress):
            if watch.step_sec is not None:
                watch.gaps_sec.append(now_sec - watch.step_sec)
            watch.doing, watch.step_sec = "training", now_sec
            return
        watch.doing = message.doing if isinstance(message, Alive) else "training"
        if watch.doing != "training":
            watch.step_sec = None

    def check(self, worker: Worker) -> None:
        """Have a worker that was silent for too long dump its stacks, and kill it a second later.

        Returns at once. One that is ready for a job is not watched.
        """
        watch, now_sec = self._watches[worker.slot.name], time.monotonic()
        if watch.job != worker.job or (worker.job is None and worker.is_ready):
            return
        if watch.kill_sec is not None:
            if now_sec >= watch.kill_sec:
                worker.signal(signal.SIGKILL)
            return
        silent_sec = now_sec - watch.heard_sec
        doing = "training" if worker.is_stopped() else watch.doing  # stopped, it does nothing
        if silent_sec > longest_silence_sec(watch.gaps_sec, self._hang_sec, doing):
            console.print(
                f"{worker.describe()} hangs ({watch.doing}): silent for {silent_sec:.0f} s. Its"
                f" worker is killed and begins again; stacks in {worker.log}",
                style="yellow",
                markup=False,
            )
            worker.hangs = True
            dump(worker)
            watch.kill_sec = now_sec + DUMP_SEC


def dump(worker: Worker) -> None:
    """Have a worker write the stacks of all threads to its log."""
    wake(worker)
    worker.signal(signal.SIGUSR1)


def wake(worker: Worker) -> None:
    """Let a stopped worker go on."""
    worker.signal(signal.SIGCONT)
