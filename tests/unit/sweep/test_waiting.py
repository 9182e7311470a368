"""In which order trials get a worker."""

from typing import Any

import pytest

from csm_ft.sweep.waiting import Waiting


class Study:
    def __init__(self) -> None:
        self.running, self.num_new = [0, 1], 2

    def ask(self) -> int:
        self.num_new -= 1
        return 3 - self.num_new


@pytest.fixture
def waiting() -> Waiting:
    study: Any = Study()
    return Waiting(study)


def drain(waiting: Waiting, slot: str = "gpu0") -> list[int]:
    found = []
    while (number := waiting.next(slot)) is not None:
        found.append(number)
    return found


def test_begun_before_new_before_set_back(waiting: Waiting) -> None:
    waiting.put_last(7)
    waiting.put_back(8)
    waiting.put_first(9)
    assert drain(waiting) == [9, 0, 1, 8, 2, 3, 7]
    assert len(waiting) == 0


def test_forgiven_trials_come_before_new_ones(waiting: Waiting) -> None:
    waiting.put_last(7)
    waiting.forgive()
    assert drain(waiting) == [0, 1, 7, 2, 3]


def test_barred_trials_wait_for_another_slot(waiting: Waiting) -> None:
    waiting.bar(0, "gpu0")
    waiting.put_last(7)
    waiting.bar(7, "gpu0")
    assert waiting.num_barred == 2
    assert drain(waiting) == [1, 2, 3]
    assert len(waiting) == 2
    assert waiting.next("gpu1") == 0
    waiting.lift_bars()
    assert drain(waiting) == [7]


def test_an_isolated_trial_has_no_company(waiting: Waiting) -> None:
    waiting.isolate(7)
    assert waiting.next("gpu0", beside=[5]) == 0
    assert [waiting.next("gpu0", beside=[5]) for _ in range(4)] == [1, 2, 3, None]
    assert len(waiting) == 1
    waiting.forgive()  # first in line, and still alone
    assert waiting.next("gpu0", beside=[5]) is None
    assert waiting.next("gpu0") == 7
    waiting.put_first(8)
    assert waiting.next("gpu0", beside=[7]) is None  # nor does it get any
    assert waiting.next("gpu1", beside=[5]) == 8
