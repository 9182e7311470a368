"""Counts of the tags of a split: how often each emotion, style, ... was heard."""

from collections import Counter

from csm_ft.data.split import Split

MAX_VALUES = 200  # more different values are descriptions, not tags


def count_tags(split: Split) -> dict[str, dict[str, int]]:
    """Return {column: {value: clips}}, the most frequent value first.

    Columns with more than 200 values are left out.
    """
    counts: dict[str, Counter[str]] = {}
    for row in range(len(split) if split.has_tags else 0):
        for column, value in split.tags(row).items():
            counts.setdefault(column, Counter())[value] += 1
    return {
        column: dict(values.most_common())
        for column, values in counts.items()
        if len(values) <= MAX_VALUES
    }
