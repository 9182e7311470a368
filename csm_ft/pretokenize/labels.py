"""Noisy labels: rows whose text is far from what a recogniser heard, by a column or --heard_by.

The distance is the Levenshtein distance of the letters of both, normalised by
csm_ft.data.text.normalise, divided by the length of the longer one (0 = the same, 1 = nothing in
common).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rapidfuzz.distance import Levenshtein

from csm_ft.atomic import write_whole
from csm_ft.config.pretokenize import PretokenizeConfig
from csm_ft.console import console
from csm_ft.data.rows import Row
from csm_ft.data.text import normalise
from csm_ft.errors import ConfigError

MOST_SHOWN = 20  # on the console; the file has all


@dataclass(frozen=True)
class Label:
    """A row with what was heard of it."""

    where: str
    split: str
    path: str
    text: str
    heard: str
    distance: float


class Labels:
    """The distances of all rows; kept in `<output>.labels.jsonl`, the worst first."""

    def __init__(
        self,
        config: PretokenizeConfig,
        rows: Mapping[str, Sequence[Row]],
        heard_now: Mapping[str, str],
    ) -> None:
        """Measure all rows by their column, or else by `heard_now` (by Row.where).

        ConfigError when no row has the column that options name.
        """
        self.path = Path(f"{config.output}.labels.jsonl")
        self._column, self._limit = config.heard_column.lower(), config.max_heard_distance
        self._found: dict[str, Label] = {}  # by Row.where
        for split, of_split in rows.items():
            for row in of_split:
                heard = row.tags.get(self._column) or heard_now.get(row.where)
                if heard is not None:  # "" = nothing was heard
                    facts = (row.where, split, str(row.path), row.text, heard)
                    self._found[row.where] = Label(*facts, distance(row.text, heard))
        self._num_unheard = sum(map(len, rows.values())) - len(self._found)
        if self._column and not self._found:
            raise ConfigError(
                f"--heard_column {config.heard_column}: no row has a word in a column of that name;"
                " correct the name, or leave the option out"
            )

    def take(self, row: Row) -> Row:
        """Return a row without what was heard, which is no tag of the clip."""
        if self._column not in row.tags:
            return row
        return replace(row, tags={k: v for k, v in row.tags.items() if k != self._column})

    def rejects(self, row: Row) -> str:
        """Return why a row cannot be used, or ""."""
        label = self._found.get(row.where)
        if label is None or label.distance <= self._limit:
            return ""
        return (
            f"the text is {label.distance:.2f} from what was heard, more than --max_heard_distance"
            f" {self._limit:g}; correct it, or raise the limit"
        )

    def report(self) -> None:
        """Write all distances, and show the worst with both texts."""
        worst = sorted(self._found.values(), key=lambda label: -label.distance)
        if not worst:
            self.path.unlink(missing_ok=True)  # of an earlier run
            return
        lines = [json.dumps(asdict(label), ensure_ascii=False) for label in worst]
        write_whole(self.path, "".join(f"{line}\n" for line in lines))
        over = sum(label.distance > self._limit for label in worst)
        console.print(
            f"labels     {over} of {len(worst)} texts are more than {self._limit:g} from what was"
            f" heard; {self._num_unheard} rows say nothing of it. All distances are in {self.path}",
            markup=False,
        )
        for label in [label for label in worst[:MOST_SHOWN] if label.distance]:
            console.print(f"    {label.distance:.2f}  {label.where}", markup=False)
            console.print(f"          text   {label.text}", markup=False)
            console.print(f"          heard  {label.heard}", markup=False)


def distance(text: str, heard: str) -> float:
    """Return the normalised Levenshtein distance of a text and what was heard."""
    return Levenshtein.normalized_distance(normalise(text), normalise(heard))
