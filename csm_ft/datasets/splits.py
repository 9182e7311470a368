"""Splits of which no speaker, or no sentence, stands on two sides."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from csm_ft.data.groups import joined
from csm_ft.data.rows import Row
from csm_ft.data.text import normalise

_FAR_ABOVE = 2.0  # times the share that was asked for, from which the share of a split is told


@dataclass(frozen=True)
class SplitPlan:
    """What is held out."""

    by: Literal["speaker", "sentence"]
    fractions: Mapping[str, float]  # split -> share of the rows of each set, in order: val, test
    seed: int


@dataclass(frozen=True)
class Parting:
    """Splits of rows, and what could not be done as it was asked for."""

    splits: list[str]  # of every row
    whole: Mapping[str, int]  # sets with a single speaker (or sentence), with their rows; no split
    notes: Sequence[str]


def split_rows(rows: Sequence[Row], files: Sequence[str], plan: SplitPlan) -> Parting:
    """Split rows so that what hangs together is on one side; `files` name the sound of each.

    Rows of one speaker (or one sentence), one conversation or one sound file hang together, and
    with them whatever these join. Each set (`source`) is split by itself, with both genders on each
    side as far as there are enough speakers. The choice depends on the data and the seed, not on
    the order of the rows. In a set where all hangs together, the rows get no split.
    """
    names = [_name(row, plan.by) for row in rows]
    # A row without a conversation has its number as one of its own.
    keys = [
        [("name", name), ("file", file), ("conversation", row.conversation or index)]
        for index, (row, file, name) in enumerate(zip(rows, files, names, strict=True))
    ]
    members: dict[int, list[int]] = defaultdict(list)
    for index, first in enumerate(joined(keys)):
        members[first].append(index)
    by_set: dict[str, list[_Group]] = defaultdict(list)
    for indices in members.values():
        source = min(rows[index].tags.get("source", "") for index in indices)
        by_set[source].append(_Group(rows, names, indices, plan.seed))
    splits = [""] * len(rows)
    whole: dict[str, int] = {}
    notes: list[str] = []
    for source, groups in by_set.items():
        if len(groups) == 1:
            whole[source] = len(groups[0])
            continue
        sides = _sides(groups, plan)
        notes += _far_above(source, sides, plan)
        for name, side in sides.items():
            for index in (index for group in side for index in group.indices):
                splits[index] = name
    return Parting(splits, whole, notes)


class _Group:
    """Rows that hang together."""

    def __init__(
        self, rows: Sequence[Row], names: Sequence[str], indices: Sequence[int], seed: int
    ) -> None:
        """Take some of the rows; `names` are the speakers, or the sentences, of all of them."""
        self.indices = indices
        genders = Counter(rows[index].tags.get("gender", "") for index in indices)
        self.gender = max(sorted(genders), key=genders.__getitem__)
        name = min(names[index] for index in indices)
        self.rank = hashlib.blake2b(f"{seed} {name}".encode(errors="replace")).digest()

    def __len__(self) -> int:
        return len(self.indices)


def _name(row: Row, by: str) -> str:
    """Return the speaker or the sentence of a row."""
    return normalise(row.text) if by == "sentence" else row.speaker or ""


def _sides(groups: Sequence[_Group], plan: SplitPlan) -> dict[str, list[_Group]]:
    """Choose the groups of each split, train among them, which keeps at least one."""
    left = _in_order(groups)
    num_rows = sum(map(len, groups))
    sides: dict[str, list[_Group]] = {}
    for split, fraction in plan.fractions.items():
        chosen, others = _take(left, fraction * num_rows)
        if fraction and not chosen and len(left) > 1:
            smallest = min(left, key=len)
            chosen, others = [smallest], [group for group in left if group is not smallest]
        sides[split], left = chosen, others
    return {**sides, "train": left}


def _take(groups: Sequence[_Group], num_wanted: float) -> tuple[list[_Group], list[_Group]]:
    """Take each group that brings the number of rows nearer to what is wanted; leave one."""
    chosen: list[_Group] = []
    others: list[_Group] = []
    num_chosen = 0
    for group in groups:
        is_nearer = num_chosen + len(group) / 2 <= num_wanted
        if is_nearer and len(chosen) + 1 < len(groups):
            chosen.append(group)
            num_chosen += len(group)
        else:
            others.append(group)
    return chosen, others


def _in_order(groups: Sequence[_Group]) -> list[_Group]:
    """Return groups in a seeded order in which every gender is spread evenly."""
    by_gender: dict[str, list[_Group]] = defaultdict(list)
    for group in sorted(groups, key=lambda group: group.rank):
        by_gender[group.gender].append(group)
    places = [
        ((place + 0.5) / len(of_gender), group.rank, group)
        for of_gender in by_gender.values()
        for place, group in enumerate(of_gender)
    ]
    return [group for _, _, group in sorted(places, key=lambda place: place[:2])]


def _far_above(
    source: str, sides: Mapping[str, Sequence[_Group]], plan: SplitPlan
) -> Iterator[str]:
    num_rows = sum(len(group) for side in sides.values() for group in side)
    way_out = "; --split_by sentence may hold out fewer" if plan.by == "speaker" else ""
    for split, fraction in plan.fractions.items():
        share = sum(map(len, sides[split])) / num_rows
        if fraction and share > _FAR_ABOVE * fraction:
            yield (
                f"{source}: {split} is {share:.0%} of its rows, not {fraction:.0%}, as no"
                f" {plan.by} is split{way_out}"
            )
        if fraction and not sides[split]:
            yield f"{source}: has too few {plan.by}s for a split {split}"
