"""Hyperband and the median rule: against slow versions, and by the study."""

from collections import Counter
from fractions import Fraction
from statistics import median

from hypothesis import given
from hypothesis import strategies as st

from csm_ft.sweep.asha import Rungs, may_continue
from csm_ft.sweep.pruning import asha_continues, bracket_of, median_continues
from tests.unit.sweep.test_study import Opener, complete, opener, validated

__all__ = ["opener"]  # the fixture

RUNGS = Rungs([Fraction(1, 9), Fraction(1, 3)], Fraction(1, 9), 900)
POINTS = [100 * k for k in range(1, 10)]
losses = st.lists(st.floats(0.5, 4), min_size=1, max_size=9)


def as_curve(values: list[float]) -> dict[int, float]:
    return dict(zip(POINTS, values, strict=False))


def slow_median_continues(own: list[float], others: list[list[float]]) -> bool:
    seen = [min(other[: len(own)]) for other in others if len(other) >= len(own)]
    return len(own) == 9 or len(seen) < 5 or min(own) <= median(seen)


@given(own=losses, others=st.lists(losses, max_size=12))
def test_median_equals_slow_version(own: list[float], others: list[list[float]]) -> None:
    found = median_continues(as_curve(own), [as_curve(other) for other in others], RUNGS)
    assert found == slow_median_continues(own, others)


@given(own=losses, others=st.lists(losses, max_size=12))
def test_later_brackets_ignore_the_first_rung(own: list[float], others: list[list[float]]) -> None:
    curve, rivals = as_curve(own), [as_curve(other) for other in others]
    at_first = asha_continues(curve, rivals, RUNGS, 3)
    assert at_first == may_continue(curve, rivals, RUNGS, 3)
    at_second = asha_continues(curve, rivals, RUNGS, 3, first_rung=1)
    if len(own) == 3:  # the value is the lowest from the bracket's own first rung on
        seen = sorted([own[2], *(other[2] for other in others if len(other) >= 3)])
        assert at_second == (len(seen) < 3 or own[2] <= seen[len(seen) // 3 - 1])
    else:
        assert at_second
    assert asha_continues(curve, rivals, RUNGS, 3, first_rung=2)


def test_brackets_are_drawn_in_proportion() -> None:
    """Of two rungs with eta 3: 9 : 4.5 : 3, the sizes of Hyperband's brackets before rounding."""
    found = Counter(bracket_of(number, 2, 3, 0) for number in range(20_000))
    for first, share in enumerate((9 / 16.5, 4.5 / 16.5, 3 / 16.5)):
        assert abs(found[first] / 20_000 - share) < 0.02
    assert [bracket_of(n, 2, 3, 0) for n in range(9)] == [bracket_of(n, 2, 3, 0) for n in range(9)]
    assert [bracket_of(n, 2, 3, 0) for n in range(50)] != [
        bracket_of(n, 2, 3, 1) for n in range(50)
    ]


def test_hyperband_compares_within_a_bracket(opener: Opener) -> None:
    study = opener("--pruner", "hyperband")
    study.set_baseline({"val_loss": 9.0})
    bracket = [bracket_of(number, 2, 3, 0) for number in range(30)]
    stopped = []
    for place in range(30):  # each worse than all before
        number = study.ask()
        if validated(study, number, 100, 2 + place / 10):
            complete(study, number, 2 + place / 10)
        else:
            study.finish(number, "stopped")
            stopped.append(place)
    first = [n for n in range(30) if bracket[n] == 0]
    assert stopped == [n for place, n in enumerate(first) if place >= 2 and n]
    assert {bracket[n] for n in stopped} == {0}
    assert "behind the best 1/3" in (study.record(stopped[0]).reason or "")


def test_median_stops_and_says_so(opener: Opener) -> None:
    study = opener("--pruner", "median")
    study.set_baseline({"val_loss": 9.0})
    for place in range(6):
        number = study.ask()
        assert validated(study, number, 100, 2 + place / 10), "five are needed"
        complete(study, number, 2 + place / 10)
        if place == 4:
            break
    number = study.ask()
    assert not validated(study, number, 100, 2.3)
    study.finish(number, "stopped")
    assert study.record(number).reason == "behind the median after 100 examples"
    number = study.ask()
    assert validated(study, number, 100, 2.1)
    assert validated(study, number, 200, 2.5), "its best so far is ahead of the median"
