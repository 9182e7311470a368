"""Repetitions of the best settings with other seeds."""

from typing import Any

import pytest

from csm_ft.sweep.records import Objective, State, TrialRecord
from csm_ft.sweep.repeats import choose_repeat


def trial(number: int, rate: float, value: float | None, state: State = "completed") -> TrialRecord:
    params = {"learning_rate": rate}
    return TrialRecord(number=number, state=state, value=value, params=params, dir="d")


SIX = [trial(n, n / 10, value) for n, value in enumerate((6.0, 2.0, 5.0, 1.0, 4.0, 3.0))]


def test_the_best_third_is_repeated_in_turn() -> None:
    records = list(SIX)
    chosen: list[tuple[Any, int]] = []
    for number in range(6, 11):
        repeat = choose_repeat(records, Objective(), seed=7)
        assert repeat is not None
        rate, seed = repeat[0]["learning_rate"], repeat[1]
        chosen.append((rate, seed))
        records.append(trial(number, rate, {0.3: 1.1, 0.1: 1.9}[rate]))
    assert chosen == [(0.3, 8), (0.1, 8), (0.3, 9), (0.1, 9), (0.3, 10)]


def test_one_lucky_seed_does_not_make_a_setting_the_best() -> None:
    lucky = [*SIX, trial(6, 0.1, 0.5), trial(7, 0.1, 6.0), trial(8, 0.3, 1.0), trial(9, 0.3, 1.0)]
    assert choose_repeat([*lucky, trial(10, 0.1, 6.0)], Objective(), seed=0) == (
        {"learning_rate": 0.5},
        1,
    )


@pytest.mark.parametrize("state", ["diverged", "infeasible", "poison"])
def test_failed_settings_are_not_repeated(state: State) -> None:
    failed = [trial(n, n / 10, None, state) for n in range(4)]
    assert choose_repeat(failed, Objective(), seed=0) is None
    stopped, running = trial(5, 0.5, 1.0, "stopped"), trial(6, 0.6, None, "running")
    assert choose_repeat([*failed, running], Objective(), seed=0) == ({"learning_rate": 0.6}, 1)
    assert choose_repeat([*failed, running, stopped], Objective(), seed=0) == (
        {"learning_rate": 0.5},
        1,
    )
    assert choose_repeat([*failed, stopped, trial(7, 0.7, 9.0)], Objective(), 0) == (
        {"learning_rate": 0.7},
        1,
    )
