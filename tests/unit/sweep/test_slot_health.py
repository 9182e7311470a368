"""When a slot counts as bad."""

import signal

import pytest

from csm_ft.sweep.slot_health import SlotHealth


@pytest.fixture
def health() -> SlotHealth:
    return SlotHealth(["gpu0", "gpu1"])


def test_three_different_trials_in_a_row(health: SlotHealth) -> None:
    health.works("gpu1")
    assert [health.trial_failed("gpu0", n) for n in (1, 1, 1, 2)] == [False] * 4
    health.works("gpu0")
    assert [health.trial_failed("gpu0", n) for n in (3, 4, 5)] == [False, False, True]
    assert health.others_work("gpu0")
    assert not health.others_work("gpu1")


def test_trial_that_fails_everywhere_counts_for_no_slot(health: SlotHealth) -> None:
    for number in (1, 2):
        assert not health.trial_failed("gpu0", number)
        assert not health.trial_failed("gpu1", number)
    assert [health.trial_failed("gpu0", n) for n in (3, 4, 5)] == [False, False, True]
    assert not health.others_work("gpu0"), "gpu1 has taken no step since"


def test_kills_say_little_of_a_slot(health: SlotHealth) -> None:
    assert not any(health.start_failed("gpu0", -signal.SIGKILL) for _ in range(29))
    assert health.start_failed("gpu0", -signal.SIGKILL)
    health.is_ready("gpu0")
    found = [health.start_failed("gpu0", code) for code in (1, -signal.SIGSEGV, -signal.SIGTERM, 1)]
    assert found == [False, False, False, True]
    assert not health.others_are_ready("gpu0")


def test_slot_set_aside_helps_nobody(health: SlotHealth) -> None:
    health.is_ready("gpu1")
    health.works("gpu1")
    health.set_aside("gpu1")
    assert health.usable == ["gpu0"]
    assert not health.others_are_ready("gpu0")
    assert not health.others_work("gpu0")
