"""When trials stop, against an obvious slow version."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from csm_ft.sweep.asha import Rungs, may_continue

RUNGS = Rungs([Fraction(1, 9), Fraction(1, 3)], Fraction(1, 9), 900)
POINTS = [100 * k for k in range(1, 10)]


def slow_may_continue(losses: list[float], others: list[list[float]], eta: int) -> bool:
    """Losses of validations 1..9; rungs are validations 1 and 3.

    Count, at a rung, how many trials are strictly better.
    """
    if len(losses) not in (1, 3):
        return True
    rung = len(losses)
    rivals = [min(other[:rung]) for other in others if len(other) >= rung]
    if len(rivals) + 1 < eta:
        return True
    better = sum(rival < min(losses) for rival in rivals)
    return better < (len(rivals) + 1) // eta


curves = st.lists(
    st.sampled_from([1.0, 1.5, 2.0, 2.5, 3.0]) | st.floats(0.5, 4), min_size=1, max_size=9
)


@given(own=curves, others=st.lists(curves, max_size=12), eta=st.integers(2, 5))
def test_decisions_equal_slow_version(
    own: list[float], others: list[list[float]], eta: int
) -> None:
    def as_curve(losses: list[float]) -> dict[int, float]:
        return dict(zip(POINTS, losses, strict=False))

    assert may_continue(
        as_curve(own), [as_curve(o) for o in others], RUNGS, eta
    ) == slow_may_continue(own, others, eta)


def test_fewer_than_eta_decide_nothing() -> None:
    assert may_continue({100: 9.0}, [{100: 1.0}], RUNGS, 3)
    assert not may_continue({100: 9.0}, [{100: 1.0}, {100: 2.0}], RUNGS, 3)
    assert may_continue({100: 0.5}, [{100: 1.0}, {100: 2.0}], RUNGS, 3)


def test_behind_by_the_margin_continues() -> None:
    others = [{100: 1.0}, {100: 2.0}]
    assert may_continue({100: 1.25}, others, RUNGS, 3, margin=0.25)
    assert not may_continue({100: 1.26}, others, RUNGS, 3, margin=0.25)


def test_best_so_far_counts() -> None:
    others = [{100: 2.0, 200: 1.9, 300: 1.8}, {100: 2.0, 200: 2.0, 300: 2.0}]
    assert may_continue({100: 1.5, 200: 1.7, 300: 2.5}, others, RUNGS, 3)


def test_rung_is_reached_at_next_validation() -> None:
    assert (
        RUNGS.reached({96: 1.0, 128: 0.9}, 0) == 96
    )  # a share of an epoch rounded to steps may end a little early
    assert RUNGS.reached({64: 1.0, 128: 0.9}, 0) == 128
    assert RUNGS.value({128: 1.0, 224: 0.8, 320: 0.9}, 1) == 0.8
    assert RUNGS.best({40: 0.1, 128: 1.0, 500: 0.9}) == 0.9  # before the first rung nothing counts
    assert RUNGS.best({40: 0.1}) is None
