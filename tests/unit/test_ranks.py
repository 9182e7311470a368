"""The share of a rank: equally many passes for all, every item once."""

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_ft.ranks import ALONE, Ranks


class Rank(Ranks):
    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


@given(st.lists(st.integers(), min_size=1, max_size=30), st.integers(1, 8))
def test_every_item_is_somebodys_once(items: list[int], size: int) -> None:
    shares = [Rank(rank, size).share(items) for rank in range(size)]
    assert len({len(share) for share in shares}) == 1
    owned = [item for item, is_own in chain.from_iterable(shares) if is_own]
    assert sorted(owned) == sorted(items)


@pytest.mark.parametrize("rank", range(3))
def test_filler_is_nobodys_own(rank: int) -> None:
    assert Rank(rank, 3).share(["a"]) == [("a", rank == 0)]


def test_alone_does_everything() -> None:
    assert ALONE.share("abc") == [("a", True), ("b", True), ("c", True)]
    assert ALONE.tell(lambda: {"a": 1}) == {"a": 1}
    assert ALONE.any(value=True)
    assert not ALONE.any(value=False)
