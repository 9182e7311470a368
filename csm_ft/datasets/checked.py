"""Rows between file and Row: as they stand there, as they were read, and what they are together.

Together, rows number their channels and turns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import groupby
from pathlib import Path
from typing import Any

from csm_ft.data.rows import Rejection, Row
from csm_ft.datasets.tables import Columns, Unreadable, show
from csm_ft.datasets.values import SPLIT_OF, Reason


@dataclass(frozen=True, slots=True)
class Record:
    """A row as it stands in the file, or a turn of one."""

    where: str
    columns: dict[str, Any] | Unreadable
    folder: Path  # that paths are relative to, as the user sees it, not where a link leads
    split: str = ""  # of the file, for rows that name none
    defaults: Mapping[str, Any] = field(default_factory=dict)  # for what a turn does not say
    conversation: str = ""  # where neither names one: "row 17" for a turn of a list, "" for a row
    names: Columns = field(default_factory=Columns)  # of its columns, as the user has them


@dataclass(slots=True)
class Checked:
    """A row after reading: good if it has no reason."""

    record: Record
    conversation: str | None  # "" = none, None = cannot be read
    turn: Decimal | None
    split: str = ""
    row: Row | None = None
    reason: str = ""
    place: int = 0  # in its conversation
    num_turns: int = 0  # whose words were spread over them
    is_turn: bool = False  # of a dialogue: it has a span, and no words of its own
    start_sec: float | None = None
    end_sec: float | None = None

    def set_span(self, span: tuple[float | None, float | None] | Reason) -> None:
        """Keep where the sound of a rejected row is, if that can be read."""
        if not isinstance(span, Reason):
            self.start_sec, self.end_sec = span

    def rejection(self) -> Rejection:
        """Return why the row cannot be used."""
        record, defaults, columns = self.record.columns, self.record.defaults, self.record.names
        path, text = getattr(record, "path", ""), ""
        if not isinstance(record, Unreadable):
            path, text = (
                _spelling(record, name, columns) or _spelling(defaults, name, columns)
                for name in ("path", "text")
            )
        where, talk = self.record.where, self.conversation or ""
        return Rejection(
            where,
            path,
            text,
            self.reason,
            self.split,
            talk,
            self.place,
            start_sec=self.start_sec,
            end_sec=self.end_sec,
        )


def number_channels(checked: Sequence[Checked]) -> None:
    """Replace numbers of channels by their names; they count from 0 if any is 0."""
    numbers = {item.row.channel for item in checked if item.row} & {"0", "1", "2"}
    if not numbers:
        return
    name_of = {"0": "left", "1": "right"} if "0" in numbers else {"1": "left", "2": "right"}
    is_open = numbers == {"1"}
    for item in checked:
        channel = item.row.channel if item.row else ""
        if item.row is None or channel not in numbers:
            continue
        item.row = replace(item.row, channel=name_of.get(channel, ""))
        if is_open or channel not in name_of:
            item.reason = item.reason or (
                f"channel {channel} may count from 0 or from 1; write left or right"
            )


def find_splits_in_paths(checked: Sequence[Checked]) -> list[str]:
    """Take the folders that the paths name for splits; returns these, none where they are not.

    They are where no row says its split, each path has such a folder, and train is one of several.
    """
    if any(item.split for item in checked):
        return []
    splits: list[str] = []
    for item in checked:
        splits.append(_split_in_path(item))
        if not splits[-1]:
            return []
    if not {"train"} < set(splits):
        return []
    for item, split in zip(checked, splits, strict=True):
        item.split = split
        item.row = replace(item.row, split=split) if item.row else None
    return sorted(set(splits))


def _split_in_path(item: Checked) -> str:
    record, columns = item.record.columns, item.record.names
    is_row = not isinstance(record, Unreadable)
    path = _spelling(record, "path", columns) if is_row else record.path
    folders = Path(path.replace("\\", "/")).parent.parts
    return next((SPLIT_OF[one.lower()] for one in reversed(folders) if one.lower() in SPLIT_OF), "")


def place_turns(checked: Sequence[Checked]) -> None:
    """Give every turn its place in its conversation; what cannot be placed gets its reason."""
    runs = groupby(range(len(checked)), key=lambda i: checked[i].conversation is None)
    for is_unknown, run in runs:
        places = list(run)
        before, after = places[0] - 1, places[-1] + 1
        if not is_unknown or before < 0 or after >= len(checked):
            continue
        if checked[before].conversation == checked[after].conversation:
            for i in places:  # a torn line between two turns of a conversation is one, too
                checked[i].conversation = checked[before].conversation
    conversations: dict[str, list[Checked]] = {}
    for item in checked:
        if item.conversation:
            conversations.setdefault(item.conversation, []).append(item)
    for turns in conversations.values():
        _place(turns)


def _place(turns: Sequence[Checked]) -> None:
    """Place the turns of one conversation by their numbers.

    A row without one, where others have one, stands after the row before it.
    """
    name = f"conversation {show(turns[0].conversation)}"
    is_numbered = any(item.turn is not None for item in turns)
    first_with: dict[Decimal, str] = {}
    order: list[Decimal] = []
    last = Decimal("-Infinity")
    for item in turns:
        reason = ""
        if item.turn is not None:
            last = item.turn
            first = first_with.setdefault(item.turn, item.record.where)
            if first != item.record.where:
                reason = (
                    f"the place of an earlier turn; {first} is turn {item.turn} of {name}, too:"
                    " number them apart"
                )
        elif is_numbered:
            reason = (
                "no number, but other turns of its conversation have one; number all turns of"
                f" {name}, or none"
            )
        item.reason = item.reason or reason
        order.append(last)
    for rank, i in enumerate(sorted(range(len(turns)), key=order.__getitem__)):
        row, turns[i].place = turns[i].row, rank
        turns[i].row = replace(row, turn=rank) if row else None


def _spelling(record: Mapping[str, Any], name_of_field: str, columns: Columns) -> str:
    """Return a field as the file spells it, or "" if it has none."""
    for name, value in record.items():
        if columns.field_of(name) == name_of_field and value is not None:
            return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return ""
