"""What a merge made: hours, clips and speakers per group, and what stands on both sides."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.table import Table

from csm_ft.atomic import write_whole
from csm_ft.data.overlap import Said, Shared, find_shared
from csm_ft.data.rows import Row

_FEW_DRAWN_OFTEN = 10.0  # mean weight of a group from which it is told
_COLUMNS = ("source", "emotion")  # that have a table of their own, where rows have them
_MAX_ROWS = 20  # of a table on the console


@dataclass(frozen=True)
class Merged:
    """The rows that were written, and how many were not."""

    rows: Sequence[Row]
    durations_sec: Sequence[float]
    left_out: Mapping[str, int]  # reason -> rows
    notes: Sequence[str]  # on the split

    @cached_property
    def shared(self) -> dict[str, Shared]:
        """Which speakers and sentences of validation and test stand in training, too."""
        return find_shared(Said(row.is_training, row.speaker or "", row.text) for row in self.rows)


@dataclass(frozen=True)
class Group:
    """The rows with one value of a column."""

    clips: int
    hours: float
    speakers: int
    val: int  # clips of validation and test
    share: float  # of the training clips
    drawn: float  # the same after weights


def group_of(row: Row, column: str) -> str:
    """Return the value of a column, as `--balance` names it; "" for none."""
    if column == "speaker":
        return row.speaker or ""
    return row.tags.get("source" if column == "hours" else column, "")


def groups_of(merged: Merged, column: str) -> dict[str, Group]:
    """Return the facts of each value of a column, the one with the most hours first."""
    rows = list(zip(merged.rows, merged.durations_sec, strict=True))
    training = [row for row, _ in rows if row.is_training]
    total = math.fsum(row.weight for row in training)
    by_value: dict[str, list[tuple[Row, float]]] = {}
    for row, duration_sec in rows:
        by_value.setdefault(group_of(row, column), []).append((row, duration_sec))
    found: dict[str, Group] = {}
    for value, of_value in by_value.items():
        trained = [row for row, _ in of_value if row.is_training]
        found[value] = Group(
            clips=len(of_value),
            hours=math.fsum(duration_sec for _, duration_sec in of_value) / 3600,
            speakers=len({row.speaker for row, _ in of_value}),
            val=len(of_value) - len(trained),
            share=len(trained) / max(1, len(training)),
            drawn=math.fsum(row.weight for row in trained) / max(total, 1e-9),
        )
    return dict(sorted(found.items(), key=lambda item: -item[1].hours))


def describe(merged: Merged, balance: str) -> Iterator[Table | str]:
    """Yield what the console shows."""
    for column in _columns(merged, balance):
        yield _table(column, groups_of(merged, column))
    counts = [f"{count} {reason}" for reason, count in merged.left_out.items() if count]
    left_out = f"; left out: {', '.join(counts)}" if counts else ""
    yield f"{len(merged.rows)} rows written{left_out}"
    yield from (shared.describe(what) for what, shared in merged.shared.items())
    yield from (f"note: {note}" for note in merged.notes)
    if balance:
        yield from _rare(groups_of(merged, balance), balance)


def write_report(path: Path, merged: Merged, balance: str) -> None:
    """Write the same facts as JSON, with all groups, speakers and sentences."""
    facts: dict[str, Any] = {
        "rows": len(merged.rows),
        "left_out": dict(merged.left_out),
        "notes": list(merged.notes),
    }
    for what, shared in merged.shared.items():
        facts[f"{what}_on_both_sides"] = shared.names
    for column in _columns(merged, balance):
        groups = groups_of(merged, column)
        facts[f"by_{column}"] = {value: vars(group) for value, group in groups.items()}
    write_whole(path, json.dumps(facts, indent=2, ensure_ascii=False))


def _columns(merged: Merged, balance: str) -> list[str]:
    """Return the columns that are shown."""
    wanted = dict.fromkeys((*_COLUMNS, "source" if balance == "hours" else balance))
    return [one for one in wanted if one and any(group_of(row, one) for row in merged.rows)]


def _table(column: str, groups: Mapping[str, Group]) -> Table:
    table = Table(column, *(("clips", "hours", "speakers", "held out", "share", "drawn")))
    for place in table.columns[1:]:
        place.justify = "right"
    for value, group in list(groups.items())[:_MAX_ROWS]:
        table.add_row(
            value or "(none)",
            *(str(group.clips), f"{group.hours:.2f}", str(group.speakers), str(group.val)),
            *(f"{group.share:.1%}", f"{group.drawn:.1%}"),
        )
    if len(groups) > _MAX_ROWS:
        table.add_row(f"and {len(groups) - _MAX_ROWS} more")
    return table


def _rare(groups: Mapping[str, Group], balance: str) -> Iterator[str]:
    """Say which groups are so rare that their clips are drawn over and over."""
    often = {
        value: group.drawn / group.share
        for value, group in groups.items()
        if group.share and group.drawn / group.share > _FEW_DRAWN_OFTEN
    }
    for value, times in often.items():
        yield (
            f"note: {balance} {value} has few clips: each is drawn {times:.0f} times as often as"
            " the average one; add clips, merge labels, or give --temperature 2"
        )
