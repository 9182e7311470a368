"""The rows of each split, out of the metadata that the options name."""

import itertools
from dataclasses import replace

from csm_ft.console import console
from csm_ft.data.rows import Rejection, Row
from csm_ft.data.split import SPLITS
from csm_ft.datasets.metadata import read_metadata
from csm_ft.datasets.sources import Source, parse_sources, weigh_sources
from csm_ft.datasets.tables import TAGS, Columns
from csm_ft.device import collector_paused
from csm_ft.pretokenize.clips import Job, choose_rows
from csm_ft.pretokenize.columns import check_columns
from csm_ft.pretokenize.rejections import Rejections


@collector_paused()
def read_rows(job: Job, rejections: Rejections) -> dict[str, list[Row]]:
    """Read the rows of each split; without `val_data` there may be none but train."""
    config = job.config
    rows: dict[str, list[Row]] = {}
    for split, name in zip(SPLITS, (config.train_data, config.val_data), strict=True):
        if name:
            wanted = SPLITS if split == "train" and not config.val_data else (split,)
            found, bad = _read_sources(job, parse_sources(name), wanted)
            chosen = choose_rows(split, found, is_alone=not config.val_data)
            used = set(wanted) if any(row.split in wanted for row in found) else set()
            for one in bad:
                if not used or one.split in {"", *used}:
                    rejections.add("val" if one.split == "val" else split, [one])
            rows |= chosen
    if config.level_dbfs and any(row.tags.get("emotion") for row in rows.get("train", [])):
        console.print(
            f"--level_dbfs {config.level_dbfs:g}: these rows have emotions, and how loud they are"
            " said is taken away; leave the option out to keep it",
            style="yellow",
        )
    check_columns(job.encoder.columns, [row.tags for row in rows.get("train", [])])
    return rows


def _read_sources(
    job: Job, sources: list[Source], splits: tuple[str, ...]
) -> tuple[list[Row], list[Rejection]]:
    """Read every source; conversations of several are kept apart by the name of their source."""
    config = job.config
    found: list[list[Row]] = []
    rejected: list[Rejection] = []
    for source in sources:
        rows, bad = read_metadata(
            source.path,
            sql_table=config.sql_table,
            columns=Columns(config.column_of),
            splits=splits,
            keep={*TAGS, *job.encoder.columns} | ({config.heard_column.lower()} - {""}),
            words=job.encoder.word_lists,
            tell=lambda line: console.print(line, markup=False),
        )
        found.append(rows if len(sources) == 1 else [_of_source(source, row) for row in rows])
        rejected += bad
    if len(sources) > 1:
        found = weigh_sources(sources, found)
        for source, rows in zip(sources, found, strict=True):
            weight = "" if source.weight is None else f", weight {source.weight:g}"
            console.print(f"{source.path}: {len(rows)} rows{weight}", markup=False)
    return list(itertools.chain.from_iterable(found)), rejected


def _of_source(source: Source, row: Row) -> Row:
    if not row.conversation:
        return row
    return replace(row, conversation=f"{source.path}: {row.conversation}")
