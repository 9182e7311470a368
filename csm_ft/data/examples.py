"""From clips to examples.

A clip by itself, or the turns of a conversation one after another, as many as fit the model.

A conversation longer than that becomes several examples, cut between turns, oldest first, so that
every turn is in one of them; turns are never joined across one that was rejected. `loss_turns` says
which turns are learned; the others are context.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from csm_ft.config import ConfigError
from csm_ft.data.split import Split

SPEAKER = "speaker:"


@dataclass(frozen=True)
class Examples:
    """What batches are made of.

    Example i has the clips rows[offsets[i]:offsets[i + 1]] of `split`, oldest first.
    """

    split: Split
    rows: NDArray[np.int64]  # [r]
    is_target: NDArray[np.bool_]  # [r] whether the clip is learned, or only context
    offsets: NDArray[np.int64]  # [n + 1]
    costs: NDArray[np.int64]  # [n] positions

    def __len__(self) -> int:
        return len(self.costs)

    def turns(self, index: int) -> Iterator[tuple[int, bool]]:
        """Yield (clip, is it learned) of one example."""
        part = slice(self.offsets[index], self.offsets[index + 1])
        return zip(self.rows[part].tolist(), self.is_target[part].tolist(), strict=True)

    def id(self, index: int) -> str:
        """Name an example by its first clip; unique within the split."""
        first = int(self.rows[self.offsets[index]])
        return f"{self.split.ids[first]}/{first}"  # a clip may come twice, with another text

    @cached_property
    def num_frames(self) -> NDArray[np.int64]:
        """Audio frames of each example that are learned, [n]."""
        frames = np.where(self.is_target, self.split.num_frames[self.rows], 0)
        return np.add.reduceat(frames, self.offsets[:-1]) if len(self) else frames


def arrange(
    split: Split, costs: NDArray[np.int64], *, max_positions: int, loss_turns: str
) -> Examples:
    """Join the turns of each conversation within `max_positions`.

    `costs` are the positions of each clip, [n].

    loss_turns: "all", "last" (of each example) or "speaker:S". Examples without a learned turn are
    left out; ConfigError when none is left.
    """
    examples = (
        list(_windows(split, costs, max_positions))
        if split.has_conversations
        else [[row] for row in range(len(split))]
    )
    targets = [_targets(split, example, loss_turns) for example in examples]
    kept = [i for i, target in enumerate(targets) if any(target)]
    if examples and not kept:
        speakers = sorted({split.clip(row).speaker for row in range(len(split))} - {""})
        shown = ", ".join(speakers[:20]) + (
            f" and {len(speakers) - 20} more" if len(speakers) > 20 else ""
        )
        option = "val_turns" if split.name == "val" else "loss_turns"
        known = (
            f"there are {shown}; choose among them"
            if shown
            else "it has no speakers; name them in the metadata"
        )
        raise ConfigError(
            f"--{option} {loss_turns}: no {split.name} clip is by this speaker; {known}, or"
            f" --{option} all"
        )
    rows = np.array([row for i in kept for row in examples[i]], dtype=np.int64)
    is_target = np.array([t for i in kept for t in targets[i]], dtype=bool)
    offsets = np.cumsum([0, *(len(examples[i]) for i in kept)], dtype=np.int64)
    sums = np.add.reduceat(costs[rows], offsets[:-1]) if kept else np.zeros(0, dtype=np.int64)
    return Examples(split, rows, is_target, offsets, sums)


def turns_before(split: Split, row: int) -> list[int]:
    """Return the turns of a clip's conversation that lie before it without a hole, oldest first."""
    name = split.conversation(row) if split.has_conversations else ""
    if not name:
        return []
    by_turn = {
        int(split.turns[other]): other
        for other in range(len(split))
        if split.conversation(other) == name
    }
    before: list[int] = []
    turn = int(split.turns[row])
    while (turn := turn - 1) in by_turn:
        before.insert(0, by_turn[turn])
    return before


def _windows(split: Split, costs: NDArray[np.int64], max_positions: int) -> Iterator[list[int]]:
    conversations: dict[str, list[int]] = {}
    for row in range(len(split)):
        conversations.setdefault(split.conversation(row) or f"\0{row}", []).append(
            row
        )  # no conversation: a clip by itself
    for rows in conversations.values():
        yield from _cut(
            sorted(rows, key=split.turns.__getitem__), split.turns, costs, max_positions
        )


def _cut(
    rows: Sequence[int], turns: NDArray[np.int32], costs: NDArray[np.int64], max_positions: int
) -> Iterator[list[int]]:
    window: list[int] = []
    for row in rows:
        is_next = bool(window) and turns[row] == turns[window[-1]] + 1
        if window and (not is_next or costs[[*window, row]].sum() > max_positions):
            yield window
            window = []
        window.append(row)
    yield window


def _targets(split: Split, rows: Sequence[int], loss_turns: str) -> Iterable[bool]:
    if loss_turns == "all":
        return [True] * len(rows)
    if loss_turns == "last":
        return [row == rows[-1] for row in rows]
    return [split.clip(row).speaker == loss_turns.removeprefix(SPEAKER) for row in rows]
