"""Several sets as one: speakers kept apart, duplicates left out, split by speaker, balanced.

In this order, as duplicates must not stand on two sides of a split, and weights are those of the
training rows that are left.
"""

import math
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple, Self

from pydantic import model_validator

from csm_ft.config.base import Options, option
from csm_ft.console import console, shorten
from csm_ft.data.inspect import inspect_files
from csm_ft.data.rows import Rejection, Row
from csm_ft.datasets.duplicates import Part, describe_twin, find_twins, part_of
from csm_ft.datasets.labels import merge_labels, read_map
from csm_ft.datasets.sets import read_sets
from csm_ft.datasets.splits import SplitPlan, split_rows
from csm_ft.datasets.summary import Merged, describe, group_of, write_report
from csm_ft.datasets.weights import Cap, weigh
from csm_ft.datasets.write import write_metadata
from csm_ft.errors import ConfigError, MetadataError


class MergeConfig(Options):
    """Options of `python -m csm_ft.datasets merge`."""

    paths: list[str] = option(
        [],
        "Metadata files, folders or corpora to merge.",
        group="data",
        path=True,
        positional=True,
    )
    output: str = option("", "Metadata to write, .jsonl.", group="data", path=True)
    map: list[str] = option(
        [],
        "Merge emotions of all sets, OLD=NEW, as calm=neutral; repeat for more.",
        group="data",
        repeatable=True,
    )
    balance: str = option(
        "",
        "Column whose values are drawn alike in training (emotion, speaker, source, or another);"
        " hours = the sources, measured by hours rather than clips.",
        group="balance",
    )
    temperature: float = option(
        0.0,
        "Temperature of the balance, as for languages: 1 leaves the shares as they are, 5 draws"
        " rare groups more often; 0 = no limit, all groups alike.",
        group="balance",
        ge=0,
    )
    cap_hours: float = option(
        0.0,
        "Hours of training that a group (of balance, else a source) may have at most; the rest is"
        " left out. 0 = no limit.",
        group="balance",
        ge=0,
    )
    split_by: Literal["official", "speaker", "sentence", "none"] = option(
        "official",
        "official = by speaker where a set has no split of its own; speaker or sentence = anew for"
        " all; none = as the sets say.",
        group="split",
    )
    val_fraction: float = option(
        0.1, "Share of each set to validate on.", group="split", ge=0, lt=1
    )
    test_fraction: float = option(
        0.0, "Share of each set to keep as a test.", group="split", ge=0, lt=1
    )
    seed: int = option(0, "Seed of the split, and of what a cap leaves out.", group="split")
    num_workers: int = option(4, "Threads that read and hash sound.", group="speed", gt=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.paths:
            raise ValueError(
                "nothing to merge: python -m csm_ft.datasets merge A.jsonl B.jsonl --output"
                " all.jsonl"
            )
        if not self.output.endswith(".jsonl"):
            raise ValueError(f"--output {self.output or '(none)'}: name a file .jsonl")
        if 0 < self.temperature < 1:
            raise ValueError(
                f"--temperature {self.temperature:g} is below 1: frequent groups would become more"
                " frequent; give 1 or more, or 0 for no limit"
            )
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"--val_fraction {self.val_fraction:g} and --test_fraction {self.test_fraction:g}"
                " leave nothing to train on"
            )
        return self


class Entry(NamedTuple):
    """A row and its sound."""

    row: Row
    part: Part

    @property
    def source(self) -> str:
        """The set that the row is of."""
        return self.row.tags["source"]


def reject(row: Row, reason: str) -> Rejection:
    """Return a row as one that is left out."""
    facts = (row.where, str(row.path), row.text, reason)
    return Rejection(*facts, row.split, row.conversation, row.turn)


def merge(config: MergeConfig) -> None:
    """Write the merged rows, those that are left out, and a report; print a summary.

    Raises ConfigError or MetadataError, and then writes nothing.
    """
    output = Path(config.output)
    paths = [Path(name) for name in config.paths]
    rows, rejections = read_sets(paths, output, _tell)
    rows = merge_labels(rows, read_map(config.map))
    entries, unreadable = _with_sounds(rows, config.num_workers)
    entries, repeated, num_conflicts = _without_twins(entries, config.num_workers)
    entries, notes = _split(entries, config)
    entries, over = _capped(entries, config)
    entries = _weighted(entries, config)
    merged = Merged(
        rows=[entry.row for entry in entries],
        durations_sec=[entry.part.duration_sec for entry in entries],
        left_out={
            "that cannot be read": len(rejections) + len(unreadable),
            "with the sound of another row": len(repeated) - num_conflicts,
            "with the sound of another row and other labels": num_conflicts,
            "over --cap_hours": len(over),
        },
        notes=notes,
    )
    left_out = [*rejections, *unreadable, *repeated, *over]
    rejected = write_metadata(output, merged.rows, left_out)
    write_report(Path(f"{output}.report.json"), merged, config.balance)
    for line in describe(merged, config.balance):
        console.print(line, markup=False)
    if left_out:
        _tell(f"{rejected}: {len(left_out)} rows that are left out, each with its reason")
    _tell(f"next: python pretokenize.py --train_data {shlex.quote(config.output)}")


def _tell(line: str) -> None:
    console.print(line, markup=False)


def _with_sounds(rows: Sequence[Row], num_workers: int) -> tuple[list[Entry], list[Rejection]]:
    """Return the rows with the parts of sound files that they name, and those that have none."""
    files = inspect_files((row.path for row in rows), num_workers)
    entries: list[Entry] = []
    unreadable: list[Rejection] = []
    for row in rows:
        file = files[row.path]
        part = None if isinstance(file, str) else part_of(row, file)
        if isinstance(file, str):
            unreadable.append(reject(row, file))
        elif part is None:
            problem = f"start_sec {row.start_sec} is past the end of {row.path.name}"
            reason = f"{problem} ({file.info.duration_sec:.3f} s); fix the span or drop the row"
            unreadable.append(reject(row, reason))
        else:
            entries.append(Entry(row, part))
    lost = Counter(row.tags["source"] for row in rows)
    readable = {entry.source for entry in entries}
    for source in (source for source in lost if source not in readable):
        first = next(row for row in rows if row.tags["source"] == source)
        reason = next(one for one in unreadable if one.where == first.where)
        raise MetadataError(
            f"{source}: none of its sounds can be read, of {lost[source]}; the first: {reason}"
        )
    return entries, unreadable


def _without_twins(
    entries: Sequence[Entry], num_workers: int
) -> tuple[list[Entry], list[Rejection], int]:
    """Return the first of each sound, the others with their reason, how many of these conflict."""
    twins = find_twins([entry.part for entry in entries], num_workers)
    repeated: list[Rejection] = []
    num_conflicts = 0
    for index, first in sorted(twins.items()):
        reason, is_conflict = describe_twin(entries[index].row, entries[first].row)
        repeated.append(reject(entries[index].row, reason))
        num_conflicts += is_conflict
    kept = [entry for index, entry in enumerate(entries) if index not in twins]
    return kept, repeated, num_conflicts


def _split(entries: list[Entry], config: MergeConfig) -> tuple[list[Entry], list[str]]:
    """Return the entries with their splits, and notes on what could not be done as asked for."""
    if config.split_by == "none":
        return entries, []
    by = "sentence" if config.split_by == "sentence" else "speaker"
    fractions = {"val": config.val_fraction, "test": config.test_fraction}
    kept = {entry.source for entry in entries if entry.row.split}
    kept = kept if config.split_by == "official" else set()
    chosen = [index for index, entry in enumerate(entries) if entry.source not in kept]
    parting = split_rows(
        [entries[index].row for index in chosen],
        [entries[index].part.digest for index in chosen],
        SplitPlan(by, fractions, config.seed),
    )
    notes = list(parting.notes)
    for source, num_rows in parting.whole.items():
        problem = (
            f"{source}: its {num_rows} rows cannot be split by {by}, as one {by}, conversation or"
            " file joins them all"
        )
        way_out = "" if by == "sentence" else "--split_by sentence, or "
        if config.split_by != "official":
            raise ConfigError(f"{problem}; give {way_out}--split_by none")
        notes.append(f"{problem}: they are for training. --split_by sentence holds out some")
    split = list(entries)
    for index, name in zip(chosen, parting.splits, strict=True):
        entry = entries[index]
        split[index] = entry._replace(row=replace(entry.row, split=name))
    return split, notes


def _capped(entries: list[Entry], config: MergeConfig) -> tuple[list[Entry], list[Rejection]]:
    """Return the entries that a cap leaves, and the others; only training rows are capped."""
    if not config.cap_hours:
        return entries, []
    training = [entry for entry in entries if entry.row.is_training]
    groups = _groups(training, config.balance or "source")
    units = [entry.row.conversation or str(entry.part[1:]) for entry in training]
    durations_sec = [entry.part.duration_sec for entry in training]
    cap = Cap(config.cap_hours, config.seed)
    left_out = cap.left_out(units, groups, durations_sec)
    lost = set(groups) - {group for index, group in enumerate(groups) if index not in left_out}
    if lost:
        raise ConfigError(
            f"--cap_hours {cap.hours:g}: no clip or conversation of {shorten(sorted(lost))} is so"
            " short; raise it"
        )
    reason = f"has more training than --cap_hours {cap.hours:g}; raise it to keep the row"
    rejections = [
        reject(training[index].row, f"{groups[index]} {reason}") for index in sorted(left_out)
    ]
    places = [index for index, entry in enumerate(entries) if entry.row.is_training]
    over = {places[index] for index in left_out}
    return [entry for index, entry in enumerate(entries) if index not in over], rejections


def _weighted(entries: list[Entry], config: MergeConfig) -> list[Entry]:
    """Return the entries with the weights of a balance; those not for training have none."""
    if not config.balance:
        return entries
    training = [entry for entry in entries if entry.row.is_training]
    groups = _groups(training, config.balance)
    is_by_hours = config.balance == "hours"
    sizes = [entry.part.duration_sec if is_by_hours else 1.0 for entry in training]
    weights = iter(weigh(groups, sizes, config.temperature or math.inf))
    return [
        entry._replace(
            row=replace(entry.row, weight=next(weights) if entry.row.is_training else 1.0)
        )
        for entry in entries
    ]


def _groups(entries: Sequence[Entry], column: str) -> list[str]:
    """Return the value of a column in each row; MetadataError, with the first row, if it lacks."""
    if not entries:
        raise MetadataError(
            f"--balance {column}: no row is for training, all are of other splits; merge training"
            " data, or give --split_by speaker"
        )
    groups = [group_of(entry.row, column) for entry in entries]
    lacking = [entry.row for entry, group in zip(entries, groups, strict=True) if not group]
    if lacking:
        sources = shorten(dict.fromkeys(row.tags["source"] for row in lacking))
        raise MetadataError(
            f"--balance {column}: {len(lacking)} training rows have no {column}, the first is"
            f" {lacking[0].where} (of {sources}); fill in the column, leave the set out, or balance"
            " by another column, as source"
        )
    return groups
