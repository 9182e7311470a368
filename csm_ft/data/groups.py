"""Items that hang together because they share something."""

from collections.abc import Hashable, Iterable, Sequence


def joined(keys: Sequence[Iterable[Hashable]]) -> list[int]:
    """Return for every item the first one that it hangs together with: a union-find.

    Items hang together that share a key, directly or through others.
    """
    first = list(range(len(keys)))

    def find(item: int) -> int:
        while first[item] != item:
            first[item] = first[first[item]]
            item = first[item]
        return item

    owner: dict[Hashable, int] = {}  # key -> an item that has it
    for item, of_item in enumerate(keys):
        for key in of_item:
            one, other = sorted((find(item), find(owner.setdefault(key, item))))
            first[other] = one
    return [find(item) for item in range(len(keys))]
