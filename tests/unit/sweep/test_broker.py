"""The broker: whatever ends it, no worker is alive afterwards."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from csm_ft.errors import MachineError, SweepError
from csm_ft.runs.folder import SweepFolder
from csm_ft.sweep.broker import Broker
from csm_ft.sweep.records import Objective


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


def test_workers_are_ended_on_a_full_disk(tmp_path: Path) -> None:
    killed: list[int] = []
    configs: Any = SimpleNamespace(
        sweep=SimpleNamespace(max_attempts=3, n_trials=9, hang_sec=0, is_packing=False),
        machine=SimpleNamespace(slots=[]),
        folder=SweepFolder(tmp_path),
    )
    study: Any = FullDisk()
    broker = Broker(study, configs, Objective(), trainer="", watcher=study, check_data=lambda: None)
    for number in range(2):
        kill = lambda number=number: killed.append(number)  # noqa: E731
        worker: Any = SimpleNamespace(trial=number, job=number, seconds=lambda: 1.0, kill=kill)
        broker._workers.append(worker)
    with pytest.raises(SweepError, match="what ended the sweep"):
        broker.run()
    assert killed == [0, 1]
