"""What becomes of trials and the sweep after a fault."""

from types import SimpleNamespace
from typing import Any

import pytest

from csm_ft.config.train import TrainConfig
from csm_ft.errors import SweepError
from csm_ft.sweep.messages import BASELINE, Failed, Kind
from csm_ft.sweep.outcomes import Outcomes
from csm_ft.sweep.records import Objective
from csm_ft.sweep.worker_process import Slot

WORKER: Any = SimpleNamespace(slot=Slot("gpu0", {}), has_stepped=True, has_company=False)


class Facts:
    def __init__(self) -> None:
        self.fits: dict[int, int] = {}
        self.notes: list[str] = []

    def micro_batch_tokens(self, asked: int) -> int:
        return self.fits.get(asked, asked)

    def lower_micro_batch(self, asked: int, fits: int) -> None:
        self.fits[asked] = fits

    def add_note(self, note: str) -> None:
        self.notes.append(note)


class Study:
    running: tuple[int, ...] = ()
    num_new = 0

    def __init__(self) -> None:
        self.facts, self.finished = Facts(), dict[int, tuple[str, str]]()

    def records(self) -> list[Any]:
        return []

    def event(self, kind: str, **facts: Any) -> None: ...

    def finish(self, number: int, outcome: str, *, reason: str) -> Any:
        self.finished[number] = (outcome, reason)
        return SimpleNamespace(
            number=number, state=outcome, value=None, reason=reason, is_good=False, violated=[]
        )


def outcomes_of(study: Any) -> Outcomes:
    configs: Any = SimpleNamespace(
        sweep=SimpleNamespace(max_attempts=3, n_trials=9),
        base=TrainConfig(),
        longest_positions=300,
        machine=SimpleNamespace(slots=[Slot("gpu0", {})]),
    )
    watcher: Any = SimpleNamespace(ended=lambda *_: None)
    return Outcomes(study, configs, Objective(), watcher)


def failed(number: int, kind: Kind, positions: int = 0) -> Failed:
    texts = {"name": "OutOfMemoryError", "message": "no room", "where": "there", "trace": "trace"}
    return Failed(trial=number, attempt=1, kind=kind, positions=positions, **texts)


def test_two_at_once_halve_only_once() -> None:
    study = Study()
    outcomes = outcomes_of(study)
    for number in (4, 5):
        assert not outcomes.failed(failed(number, "out_of_memory", 16384), WORKER)
    assert study.facts.fits == {16384: 8192}
    assert len(study.facts.notes) == 1
    assert [outcomes.waiting.next("gpu0") for _ in range(3)] == [5, 4, None]
    assert not study.finished


def test_micro_batch_of_one_example_cannot_be_halved() -> None:
    study = Study()
    outcomes = outcomes_of(study)
    outcomes.failed(failed(4, "out_of_memory", 301), WORKER)
    assert study.facts.fits == {16384: 150}
    outcomes.failed(failed(4, "out_of_memory", 150), WORKER)
    state, reason = study.finished[4]
    assert state == "infeasible"
    assert "Micro-batches of 150 positions cannot be halved: the longest example has 300" in reason
    assert "--method lora, --dtype bf16, shorter clips" in reason


def test_untrained_model_without_memory_ends_the_sweep() -> None:
    with pytest.raises(SweepError, match="no room"):
        outcomes_of(Study()).failed(failed(BASELINE, "infeasible"), WORKER)
