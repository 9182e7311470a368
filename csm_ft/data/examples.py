"""Examples made of clips: whole clips, turns of a conversation, or windows of a recording.

`join_turns` concatenates the turns of a conversation, as many as fit the model. A longer
conversation is cut between turns into several examples, oldest first, so that every turn is in one
of them. Turns are never joined across a rejected one.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from csm_ft.console import shorten
from csm_ft.data.rows import SPEAKER
from csm_ft.data.split import Split
from csm_ft.errors import ConfigError


class Piece(NamedTuple):
    """A part of a clip: rows [start, stop) of its main array."""

    row: int  # the clip
    start: int
    stop: int
    is_target: bool = True  # False: only context
    side: int = 0  # channel of a stereo clip that the example is about: 0 left, 1 right


@dataclass(frozen=True)
class Examples:
    """The examples of a split; number i has pieces[offsets[i]:offsets[i + 1]], oldest first."""

    split: Split
    pieces: NDArray[np.int64]  # [r, 5]: the fields of Piece
    offsets: NDArray[np.int64]  # [n + 1]
    costs: NDArray[np.int64]  # [n] positions that the model spends on each example
    notes: Sequence[str] = ()  # on what was left out, for people

    def __len__(self) -> int:
        return len(self.costs)

    @property
    def num_pieces(self) -> int:
        """Number of pieces of all examples."""
        return len(self.pieces)

    @cached_property
    def num_target_rows(self) -> int:
        """Rows of the first array in all target pieces."""
        targets = self.pieces[self.pieces[:, 3] > 0]
        return int((targets[:, 2] - targets[:, 1]).sum())

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """How often each is drawn in training, relative to the others, [n].

        The mean of the weights of its target clips.
        """
        if not len(self):
            return np.ones(0)
        is_target = self.pieces[:, 3].astype(np.float64)
        sums = np.add.reduceat(self.split.weights[self.pieces[:, 0]] * is_target, self.offsets[:-1])
        return sums / np.add.reduceat(is_target, self.offsets[:-1])

    @cached_property
    def audio_sec(self) -> NDArray[np.float64]:
        """Seconds of sound of each, [n]; context does not count."""
        if not len(self):
            return np.zeros(0)
        rows, start, stop, is_target, _ = self.pieces.T
        lengths = np.maximum(self.split.lengths(next(iter(self.split.kinds))), 1)
        seconds = self.split.durations_sec[rows] * (stop - start) / lengths[rows] * is_target
        return np.add.reduceat(seconds, self.offsets[:-1])

    @property
    def epoch_sec(self) -> float:
        """Seconds of sound that an epoch draws, expected where weights decide."""
        total = float(self.audio_sec @ self.weights)
        return total / float(self.weights.mean()) if len(self) else 0.0

    def of(self, index: int) -> Iterator[Piece]:
        """Yield the pieces of one example."""
        part = self.pieces[self.offsets[index] : self.offsets[index + 1]]
        for row, start, stop, is_target, side in part.tolist():
            yield Piece(row, start, stop, bool(is_target), side)

    def take(self, indices: NDArray[np.int64]) -> "Examples":
        """Return some of the examples."""
        kept = [list(self.of(index)) for index in indices.tolist()]
        taken = make_examples(self.split, kept, self.costs[indices])
        return replace(taken, notes=self.notes)

    def id(self, index: int) -> str:
        """Name an example by its first piece; unique within the split."""
        row, start, _, _, side = self.pieces[self.offsets[index]].tolist()
        # A clip's id does not depend on its text, so two clips may share it: add the row.
        name = f"{self.split.clip_id(row)}/{row}"
        name = f"{name}+{start}" if start else name
        return f"{name}~{side}" if side else name


def make_examples(
    split: Split, examples: Sequence[Sequence[Piece]], costs: Sequence[int] | NDArray[np.int64]
) -> Examples:
    """Build Examples from the pieces and the cost (in positions) of each example."""
    pieces = np.array(list(chain.from_iterable(examples)), dtype=np.int64)
    offsets = np.cumsum([0, *map(len, examples)], dtype=np.int64)
    return Examples(
        split, pieces.reshape(-1, len(Piece._fields)), offsets, np.asarray(costs, dtype=np.int64)
    )


def whole_clips(split: Split, costs: NDArray[np.int64]) -> Examples:
    """Return each clip as an example; `costs` are the positions of each clip, [n]."""
    lengths = split.lengths(next(iter(split.kinds))).tolist()
    return make_examples(split, [[Piece(row, 0, n)] for row, n in enumerate(lengths)], costs)


def join_turns(
    split: Split, costs: NDArray[np.int64], *, max_positions: int, loss_turns: str
) -> Examples:
    """Join the turns of each conversation into examples of at most `max_positions`.

    `costs` are the positions of each clip, [n]. `loss_turns` chooses the target turns: "all",
    "last" (of each example) or "speaker:NAME". Examples without a target are left out; raises
    ConfigError when none is left.
    """
    examples: list[list[int]] = [[row] for row in range(len(split))]
    if split.has_conversations:
        examples = list(_windows(split, costs, max_positions))
    lengths = split.lengths(next(iter(split.kinds)))
    kept: list[list[Piece]] = []
    sums: list[int] = []
    for rows in examples:
        targets = list(_targets(split, rows, loss_turns))
        if any(targets):
            turns = zip(rows, targets, strict=True)
            kept.append([Piece(row, 0, int(lengths[row]), is_target) for row, is_target in turns])
            sums.append(int(costs[rows].sum()))
    if examples and not kept:
        raise ConfigError(_no_targets(split, loss_turns))
    return make_examples(split, kept, sums)


def turns_before(split: Split, row: int) -> list[int]:
    """Return the turns before a clip in its conversation, oldest first.

    They go back as far as no turn is missing.
    """
    name = split.conversation(row) if split.has_conversations else ""
    if not name:
        return []
    others = (other for other in range(len(split)) if split.conversation(other) == name)
    by_turn = {int(split.turns[other]): other for other in others}
    before: list[int] = []
    turn = int(split.turns[row]) - 1
    while turn in by_turn:
        before.insert(0, by_turn[turn])
        turn -= 1
    return before


def _windows(split: Split, costs: NDArray[np.int64], max_positions: int) -> Iterator[list[int]]:
    """Yield the clips of each example, conversation by conversation."""
    conversations: dict[str, list[int]] = {}
    for row in range(len(split)):
        # A clip without a conversation is one by itself.
        conversations.setdefault(split.conversation(row) or f"\0{row}", []).append(row)
    for rows in conversations.values():
        in_order = sorted(rows, key=split.turns.__getitem__)
        yield from _cut(in_order, split.turns, costs, max_positions)


def _cut(
    rows: Sequence[int], turns: NDArray[np.int32], costs: NDArray[np.int64], max_positions: int
) -> Iterator[list[int]]:
    """Cut the turns of a conversation where one is missing or the next one does not fit."""
    window: list[int] = []
    for row in rows:
        follows = bool(window) and turns[row] == turns[window[-1]] + 1
        is_full = costs[[*window, row]].sum() > max_positions
        if window and (is_full or not follows):
            yield window
            window = []
        window.append(row)
    yield window


def _targets(split: Split, rows: Sequence[int], loss_turns: str) -> Iterable[bool]:
    if loss_turns == "all":
        return [True] * len(rows)
    if loss_turns == "last":
        return [row == rows[-1] for row in rows]
    speaker = loss_turns.removeprefix(SPEAKER)
    return [split.speaker(row) == speaker for row in rows]


def _no_targets(split: Split, loss_turns: str) -> str:
    speakers = sorted({split.speaker(row) for row in range(len(split))} - {""})
    option = "val_turns" if split.name == "val" else "loss_turns"
    known = "it has no speakers; name them in the metadata"
    if speakers:
        known = f"there are {shorten(speakers, 20)}; choose among them"
    return (
        f"--{option} {loss_turns}: no {split.name} clip is by this speaker; {known}, or"
        f" --{option} all"
    )
