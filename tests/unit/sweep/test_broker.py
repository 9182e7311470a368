"""The broker: whatever ends it, no worker is alive afterwards."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from csm_ft.errors import MachineError, SweepError
from csm_ft.runs.folder import SweepFolder
from csm_ft.sweep.broker import Broker
from csm_ft.sweep.messages import Answer, Done, Validated
from csm_ft.sweep.records import Objective
from csm_ft.sweep.worker_process import Job, Slot


class FullDisk:
    """A study that can be read and not written."""

    running: tuple[int, ...] = ()
    baseline = 1.0

    def records(self) -> list[Any]:
        return []

    def add_seconds(self, number: int, seconds: float) -> None:
        raise MachineError("study.journal could not be written")

    @property
    def num_new(self) -> int:
        raise SweepError("what ended the sweep")


def make_broker(folder: Path, study: Any) -> Broker:
    configs: Any = SimpleNamespace(
        sweep=SimpleNamespace(max_attempts=3, n_trials=9, hang_sec=0, is_packing=False),
        machine=SimpleNamespace(slots=[]),
        folder=SweepFolder(folder),
    )
    return Broker(study, configs, Objective(), trainer="", watcher=study, check_data=lambda: None)


def test_workers_are_ended_on_a_full_disk(tmp_path: Path) -> None:
    killed: list[int] = []
    broker = make_broker(tmp_path, FullDisk())
    for number in range(2):
        kill = lambda number=number: killed.append(number)  # noqa: E731
        facts = {"slot": Slot("cpu0", {}), "trial": number, "job": number, "is_spent": False}
        worker: Any = SimpleNamespace(**facts, seconds=lambda: 1.0, kill=kill)
        broker._workers.append(worker)
    with pytest.raises(SweepError, match="what ended the sweep"):
        broker.run()
    assert killed == [0, 1]


class Deciding(FullDisk):
    """A study that stops every trial."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def validated(self, number: int, examples: int, metrics: dict[str, float]) -> bool:
        self.seen.append(examples)
        return False


def test_messages_of_an_earlier_attempt_are_dropped(tmp_path: Path) -> None:
    study, answers = Deciding(), list[Answer]()
    broker = make_broker(tmp_path, study)
    worker: Any = SimpleNamespace(
        job=Job(3, 2), slot=Slot("cpu0", {}), is_ready=True, send=answers.append
    )
    broker._watchdog.began(worker)
    for attempt, examples in ((1, 16), (2, 32)):
        message = {"trial": 3, "attempt": attempt, "metrics": {"val_loss": 1.0}}
        broker._handle(worker, Validated(**message, examples=examples))
        broker._handle(worker, Done(**{**message, "attempt": 1}, status="completed", best=None))
    assert study.seen == [32]
    assert [(answer.attempt, answer.may_continue) for answer in answers] == [(2, False)]
    assert worker.job == Job(3, 2)
