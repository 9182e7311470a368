"""When a worker counts as hanging, and what happens then."""

import signal
import time
from types import SimpleNamespace
from typing import Any

import pytest

from csm_ft.sweep import watchdog
from csm_ft.sweep.messages import Alive, Doing, Progress
from csm_ft.sweep.watchdog import Watchdog, longest_silence_sec
from csm_ft.sweep.worker_process import Job, Slot


@pytest.mark.parametrize(
    ("gaps_sec", "hang_sec", "doing", "expected_sec"),
    [
        ([], 0.0, "loading", 1800.0),
        ([], 2.0, "loading", 1800.0),
        ([20.0], 2.0, "saving", 1800.0),
        ([], 3600.0, "judging", 3600.0),
        ([], 0.0, "validation", 120.0),  # of the untrained model: no steps
        ([0.2, 0.3, 0.2], 0.0, "training", 120.0),
        ([300.0, 20.0, 21.0, 20.0], 0.0, "samples", 205.0),  # a long first step does not count
        ([20.0], 2.0, "training", 2.0),
    ],
)
def test_longest_silence(
    gaps_sec: list[float], hang_sec: float, doing: Doing, expected_sec: float
) -> None:
    assert longest_silence_sec(gaps_sec, hang_sec, doing) == pytest.approx(expected_sec)


class Watched:
    """A worker with a clock of its own, and what was done to it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_sec, self.done = 1000.0, list[str]()
        clock = SimpleNamespace(monotonic=lambda: self.now_sec)
        monkeypatch.setattr(watchdog, "time", clock)
        monkeypatch.setattr(watchdog, "dump", lambda _: self.done.append("dump"))
        self.slot, self.log, self.is_ready = Slot("gpu0", {}), "gpu0.log", True
        self.job: Job | None = Job(3, 1)
        self.stopped = False

    def signal(self, number: int) -> None:
        assert number == signal.SIGKILL
        self.done.append("kill")

    def is_stopped(self) -> bool:
        return self.stopped

    def describe(self) -> str:
        return "trial 3 on gpu0"

    def after(self, dog: Watchdog, sec: float) -> list[str]:
        """Return what a check in `sec` does."""
        self.done.clear()
        self.now_sec += sec
        worker: Any = self
        dog.check(worker)
        return list(self.done)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Any:
    return Watched(monkeypatch)


def progress(step: int) -> Progress:
    return Progress(trial=3, attempt=1, step=step, examples=8 * step)


def alive(doing: Doing) -> Alive:
    return Alive(trial=3, attempt=1, doing=doing)


def test_kill_follows_dump_without_waiting(worker: Any) -> None:
    dog = Watchdog(0)
    dog.began(worker)
    assert worker.after(dog, 1799) == []
    dog.heard(worker, progress(1))
    assert worker.after(dog, 119) == []
    assert worker.after(dog, 2) == ["dump"]
    assert worker.after(dog, 0.5) == []
    assert worker.after(dog, 0.6) == ["kill"]


def test_worker_that_finished_while_it_dumped_is_spared(worker: Any) -> None:
    dog = Watchdog(5)
    dog.began(worker)
    dog.heard(worker, progress(1))
    assert worker.after(dog, 6) == ["dump"]
    worker.job = None
    assert worker.after(dog, 2) == []
    worker.job = Job(4, 1)
    dog.began(worker)
    assert worker.after(dog, 2) == []


def test_signs_of_life_and_opaque_work(worker: Any) -> None:
    dog = Watchdog(0)
    dog.began(worker)
    dog.heard(worker, progress(1))
    for _ in range(5):
        dog.heard(worker, alive("validation"))
        assert worker.after(dog, 100) == []
    dog.heard(worker, alive("saving"))
    assert worker.after(dog, 1000) == []
    dog.heard(worker, progress(2))  # what lies between the two is no step
    assert worker.after(dog, 121) == ["dump"]


def test_long_steps_raise_the_limit(worker: Any) -> None:
    dog = Watchdog(0)
    dog.began(worker)
    for step in range(4):
        dog.heard(worker, progress(step))
        assert worker.after(dog, 20) == []
        dog.heard(worker, alive("training"))  # one of several micro-batches
        assert worker.after(dog, 20) == []
    dog.heard(worker, progress(5))
    assert worker.after(dog, 399) == []
    assert worker.after(dog, 2) == ["dump"]


def test_worker_that_never_gets_ready(worker: Any) -> None:
    worker.job, worker.is_ready = None, False
    dog = Watchdog(0)
    dog.began(worker)
    assert worker.after(dog, 1801) == ["dump"]
    worker.is_ready = True
    assert worker.after(dog, 2) == []


def test_stopped_process_is_not_loading(worker: Any) -> None:
    dog = Watchdog(0)
    dog.began(worker)
    assert worker.after(dog, 600) == []
    worker.stopped = True
    assert worker.after(dog, 1) == ["dump"]


def test_check_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_sec: float) -> None:
        raise AssertionError("the broker's loop waits")

    monkeypatch.setattr(time, "sleep", fail)
    worker = Watched(monkeypatch)
    dog = Watchdog(1)
    watched: Any = worker
    dog.began(watched)
    dog.heard(watched, progress(1))
    assert worker.after(dog, 2) == ["dump"]
