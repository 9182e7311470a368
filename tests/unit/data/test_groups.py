"""Items that hang together, against the obvious slow version."""

from hypothesis import given
from hypothesis import strategies as st

from csm_ft.data.groups import joined

KEYS = st.lists(st.lists(st.integers(0, 6), max_size=3), max_size=12)


def slow(keys: list[list[int]]) -> list[int]:
    """Spread the lowest number over shared keys until nothing changes."""
    first = list(range(len(keys)))
    for _ in keys:
        for i, one in enumerate(keys):
            for j, other in enumerate(keys):
                if set(one) & set(other):
                    first[i] = first[j] = min(first[i], first[j])
    return first


@given(KEYS)
def test_joined_items_share_keys(keys: list[list[int]]) -> None:
    assert joined(keys) == slow(keys)
