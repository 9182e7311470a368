"""Which examples an epoch draws, how often; and which stay when only a part of the data is used.

Shapes: n examples.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from csm_ft.console import shorten
from csm_ft.data.examples import Examples

_GOLDEN = (5**0.5 - 1) / 2
# Parts of the generators' keys, so that no other choice has the same numbers.
_DRAWS, _PLACES = 1, 2
SMALLEST_CHANGE = 0.005  # of a share: smaller ones are not told
MOST_VALUES = 12  # of a tag, in one line


def draw_counts(weights: NDArray[np.float64], *, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return how often an epoch of n draws has each example, [n]; `weights` are above 0.

    With the weights scaled to mean 1, an example occurs floor(w) or ceil(w) times, and examples of
    equal weight together occur within one of the sum of their weights. This is systematic sampling
    (Madow, Annals of Mathematical Statistics 20, 1949): intervals of length w are laid end to end
    on [0, n), and the points u, u + 1, ... fall into them. The expected count over u is w exactly.

    u moves by the golden ratio from epoch to epoch (a low-discrepancy sequence: Kuipers and
    Niederreiter, Uniform Distribution of Sequences, 1974, ch. 2.3). So after E epochs counts differ
    from E * w by O(log E), where independent draws would differ by O(sqrt(E)).
    """
    if is_even(weights):
        return np.ones(len(weights), dtype=np.int64)
    random = np.random.default_rng([seed, _DRAWS])
    order = random.permutation(len(weights))
    # Stable: examples of equal weight lie together, in random order.
    order = order[np.argsort(weights[order], kind="stable")]
    ends = np.cumsum(weights[order] / weights.mean())
    ends[-1] = len(weights)  # not one draw more or less by rounding
    start = (random.random() + epoch * _GOLDEN) % 1
    # ceil(x - u) of the points lie below x.
    counts = np.diff(np.ceil(ends - start), prepend=0.0)
    by_example = np.empty(len(weights), dtype=np.int64)
    by_example[order] = counts
    return by_example


def is_even(weights: NDArray[np.float64]) -> bool:
    """Tell whether all weights are equal, so that an epoch has every example once."""
    return bool((weights == weights[:1]).all())


def take_fraction(examples: Examples, fraction: float, *, seed: int) -> Examples:
    """Return a share of the examples, that share of each speaker's; at least one of all.

    Every share is a part of each larger one of the same seed. The examples of a conversation stay
    together, and count as those of all its speakers.
    """
    if fraction >= 1 or not len(examples):
        return examples
    places = _places(examples, seed)
    return examples.take(np.flatnonzero(places <= max(fraction, places.min())))


def _places(examples: Examples, seed: int) -> NDArray[np.float64]:
    """Return the place of each example in (0, 1), [n]; a share has all places up to it.

    The groups of one speaker (conversations, or single clips) lie in random order from 0 to 1, as
    long as they have clips. Each stands for a point inside, that of speaker k of K at (k + 0.5) / K
    of its length: so no more speakers are rounded up than down.
    """
    groups: dict[str, list[int]] = {}
    for index in range(len(examples)):
        row = next(examples.of(index)).row
        groups.setdefault(examples.split.conversation(row) or f"\0{index}", []).append(index)
    members = list(groups.values())
    by_speaker: dict[tuple[str, ...], list[list[int]]] = {}
    for number in np.random.default_rng([seed, _PLACES]).permutation(len(members)).tolist():
        by_speaker.setdefault(_speakers(examples, members[number]), []).append(members[number])
    places = np.empty(len(examples))
    for k, of_speaker in enumerate(by_speaker.values()):
        sizes = np.array([_num_clips(examples, group) for group in of_speaker], dtype=np.float64)
        ends = np.cumsum(sizes)
        points = (ends - sizes + sizes * (k + 0.5) / len(by_speaker)) / ends[-1]
        for group, point in zip(of_speaker, points, strict=True):
            places[group] = point
    return places


def _speakers(examples: Examples, group: Sequence[int]) -> tuple[str, ...]:
    rows = {piece.row for index in group for piece in examples.of(index)}
    return tuple(sorted({examples.split.speaker(row) for row in rows}))


def _num_clips(examples: Examples, group: Sequence[int]) -> int:
    return int(sum(examples.offsets[index + 1] - examples.offsets[index] for index in group))


def describe_weights(examples: Examples) -> list[str]:
    """Return a line for each tag whose share in the draws is not its share of the clips."""
    if is_even(examples.weights):
        return []
    before: dict[str, Counter[str]] = {}
    after: dict[str, Counter[str]] = {}
    scale = examples.weights.mean()
    for index, weight in enumerate((examples.weights / scale).tolist()):
        for column, value in _tags(examples, index):
            before.setdefault(column, Counter())[value] += 1
            after.setdefault(column, Counter())[value] += weight
    lines = [_line(column, before[column], after[column]) for column in before]
    return [line for line in lines if line]


def _tags(examples: Examples, index: int) -> Iterator[tuple[str, str]]:
    """Yield (column, value) of every target clip of an example; the speaker is one, too."""
    for piece in examples.of(index):
        if piece.is_target:
            yield from examples.split.tags(piece.row).items()
            yield "speaker", examples.split.speaker(piece.row) or "none"


def _line(column: str, before: Counter[str], after: Counter[str]) -> str:
    then, now = before.total(), after.total()
    shares = {value: (count / then, after[value] / now) for value, count in before.most_common()}
    changed = [
        f"{value} {old:.1%} -> {new:.1%}"
        for value, (old, new) in shares.items()
        if abs(new - old) >= SMALLEST_CHANGE
    ]
    return f"{column}: {shorten(changed, MOST_VALUES)}" if changed else ""
