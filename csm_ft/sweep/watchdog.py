"""A worker that hangs is noticed by its silence, asked where it stands, and killed.

The end of its link then tells the broker, as after any other death.
"""

import contextlib
import os
import signal
import statistics
import time
from collections import deque
from collections.abc import Sequence

from csm_ft.console import console
from csm_ft.sweep.worker_process import WorkerProcess

# Only steps are heard of, so that loading, validations, samples and checkpoints are silence, too.
LEAST_SEC = 1800.0
TIMES_MEDIAN = 10.0
DUMP_SEC = 1.0  # for the worker to write its stacks
_NUM_GAPS = 200  # the latest gaps between messages that the median is taken of


def longest_silence_sec(gaps_sec: Sequence[float], hang_sec: float) -> float:
    """Return after how many seconds without a message a worker hangs.

    `gaps_sec` are the times between its trial's progress messages, the first since the start; empty
    before the first one. `hang_sec` 0 means 10 times their median, at least LEAST_SEC, which
    is also the least before the first step.
    """
    if not gaps_sec:
        return max(LEAST_SEC, hang_sec)
    return hang_sec or max(LEAST_SEC, TIMES_MEDIAN * statistics.median(gaps_sec))


class Watchdog:
    """Knows of each slot when its worker was heard of last."""

    def __init__(self, hang_sec: float) -> None:
        self._hang_sec = hang_sec
        self._heard_sec: dict[str, float] = {}
        self._gaps_sec: dict[str, deque[float]] = {}

    def began(self, slot: str) -> None:
        """Begin to watch an attempt at a trial."""
        self._heard_sec[slot] = time.monotonic()
        self._gaps_sec[slot] = deque(maxlen=_NUM_GAPS)

    def heard(self, slot: str, *, is_progress: bool) -> None:
        """Take note of a message."""
        now_sec = time.monotonic()
        if is_progress:
            self._gaps_sec[slot].append(now_sec - self._heard_sec[slot])
        self._heard_sec[slot] = now_sec

    def check(self, worker: WorkerProcess) -> None:
        """Kill a worker whose trial has been silent for too long, and say so."""
        slot = worker.slot.name
        if worker.trial is None:
            return
        silent_sec = time.monotonic() - self._heard_sec[slot]
        if silent_sec <= longest_silence_sec(self._gaps_sec[slot], self._hang_sec):
            return
        console.print(
            f"trial {worker.trial} on {slot} hangs: silent for {silent_sec:.0f} s. Its worker is"
            f" killed, and the trial continues from its checkpoint; stacks in {worker.log}",
            style="yellow",
            markup=False,
        )
        self.began(slot)
        dump_and_kill(worker)


def dump_and_kill(worker: WorkerProcess) -> None:
    """Have a worker write the stacks of all threads to its log, then kill it and its children."""
    wake(worker)
    worker.process.send_signal(signal.SIGUSR1)
    time.sleep(DUMP_SEC)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker.process.pid, signal.SIGKILL)


def wake(worker: WorkerProcess) -> None:
    """Let a stopped worker go on."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker.process.pid, signal.SIGCONT)
