"""Several sources of training clips with weights: `a.jsonl:2,b.jsonl:1`.

Weights are shares of what is drawn, whatever the sizes of the sources, as in kyutai's trainer: of
`a.jsonl:2,b.jsonl:1`, two in three draws are rows of a.jsonl.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from csm_ft.config.base import expand_home
from csm_ft.data.rows import Row
from csm_ft.errors import ConfigError


class Source(NamedTuple):
    """A metadata file or folder, and its share of the draws; None where none is given."""

    path: Path
    weight: float | None = None


def parse_sources(names: str) -> list[Source]:
    """Return the sources that an option names; a path that exists is that path, commas or not.

    Raises ConfigError for a name that is empty or given twice, and for a weight of 0 or less.
    """
    if "," not in names or _exists(names):
        return [_source(names)]
    pieces, sources = names.split(","), list[Source]()
    while pieces:
        lengths = range(len(pieces), 0, -1)  # the longest name that exists may hold commas
        joined = [_source(",".join(pieces[:length])) for length in lengths]
        taken = next((i for i, one in enumerate(joined) if one.path.exists()), len(joined) - 1)
        sources.append(joined[taken])
        pieces = pieces[lengths[taken] :]
    paths = [source.path for source in sources]
    for path in paths:
        if path == Path() or paths.count(path) > 1:
            problem = "an empty name" if path == Path() else f"{path} twice"
            raise ConfigError(f"{names}: holds {problem}; the form is a.jsonl:2,b.jsonl:1")
    return sources


def weigh_sources(sources: Sequence[Source], found: Sequence[Sequence[Row]]) -> list[list[Row]]:
    """Return the rows of each source with weights that give every source its share of the draws.

    Within a source the weights of its rows keep their ratios, and over all training rows the mean
    is 1. A source without a weight beside others has 1; without any, all rows stay as they are.
    """
    if all(source.weight is None for source in sources):
        return [list(rows) for rows in found]
    training = [[row for row in rows if row.is_training] for rows in found]
    totals = [math.fsum(row.weight for row in rows) for rows in training]
    factors = weight_factors(sources, totals, sum(map(len, training)))
    return [
        [replace(row, weight=round(row.weight * factor, 6)) for row in rows]
        for rows, factor in zip(found, factors, strict=True)
    ]


def weight_factors(
    sources: Sequence[Source], totals: Sequence[float], num_rows: int
) -> list[float]:
    """Return what the weights of each source's rows are multiplied by.

    `totals` are their sums as they are, `num_rows` the training rows of all sources.
    """
    shares = [1.0 if source.weight is None else source.weight for source in sources]
    whole = math.fsum(share for share, total in zip(shares, totals, strict=True) if total)
    return [
        share / whole * num_rows / total if total else 1.0
        for share, total in zip(shares, totals, strict=True)
    ]


def _exists(name: str) -> bool:
    return bool(name) and Path(expand_home(name)).exists()


def _source(name: str) -> Source:
    path, colon, number = name.rpartition(":")
    if _exists(name) or not colon:
        return Source(Path(expand_home(name)))
    try:
        weight = float(number)
    except ValueError:
        return Source(Path(expand_home(name)))
    if not 0 < weight < math.inf:
        raise ConfigError(f"{name}: the weight of a source is above 0, this is {number}")
    return Source(Path(expand_home(path)), weight)
