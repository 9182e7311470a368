"""The rows that cannot be used: listed in a file, shown, counted, and how many are too many."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from csm_ft.atomic import write_whole
from csm_ft.config.pretokenize import PretokenizeConfig
from csm_ft.console import console
from csm_ft.data.rows import Rejection, Row
from csm_ft.errors import TooManyRejectedError

_MAX_SHOWN = 5  # rejected rows on the console; the file has them all


class Rejections:
    """The rows that cannot be used, each with its split and reason.

    Kept in `<output>.rejected.jsonl`, or wherever `path` is set to.
    """

    def __init__(self, config: PretokenizeConfig) -> None:
        self.path = Path(f"{config.output}.rejected.jsonl")
        self.num_rows = 0  # of all metadata, good and bad
        self._config = config
        self._found: list[tuple[str, Rejection]] = []
        self._num_shown = 0

    def add(self, split: str, rejections: Iterable[Rejection]) -> None:
        """Add rows of a split."""
        self._found += [(split, rejection) for rejection in rejections]

    def add_row(self, split: str, row: Row, reason: str) -> None:
        """Add one row that was read, but cannot be used."""
        facts = (row.where, str(row.path), row.text, reason)
        rejection = Rejection(*facts, start_sec=row.start_sec, end_sec=row.end_sec)
        self._found.append((split, rejection))

    def spans_of(self, path: Path) -> list[tuple[float, float]]:
        """Return the times in seconds of the rejected rows of a sound file.

        A row without times stands for the whole file.
        """
        return [
            (one.start_sec or 0.0, math.inf if one.end_sec is None else one.end_sec)
            for _, one in self._found
            if Path(one.path.replace("\\", "/")).name == path.name
        ]

    def __len__(self) -> int:
        return len(self._found)

    def write(self) -> None:
        """Write the list beside the output, and show what is new in it."""
        lines = [
            json.dumps({"split": split, **json.loads(rejection.to_json())}, ensure_ascii=False)
            for split, rejection in self._found
        ]
        if lines:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            text = "".join(f"{line}\n" for line in lines)
            write_whole(self.path, text.encode(errors="backslashreplace"))  # rows in broken UTF-8
        else:
            self.path.unlink(missing_ok=True)  # of an earlier run
        new = self._found[self._num_shown :]
        for _, rejection in new[:_MAX_SHOWN]:
            console.print(f"rejected {rejection}", markup=False, style="yellow")
        if len(new) > _MAX_SHOWN:
            more = f"... and {len(new) - _MAX_SHOWN} more in {self.path}"
            console.print(more, markup=False, style="yellow")
        self._num_shown = len(self._found)

    def check(self) -> None:
        """Raise TooManyRejectedError when the list is longer than the options allow."""
        config, share = self._config, len(self) / max(1, self.num_rows)
        if not self._found or not (config.strict or share > config.max_rejected_share):
            return
        rule = f"--max_rejected allows {config.max_rejected_share:.1%}"
        if config.strict:
            rule = "--strict allows none"
        raise TooManyRejectedError(
            f"{len(self)} of {self.num_rows} rows ({share:.1%}) are rejected, {rule}. The reasons"
            f" are in {self.path}; fix the rows, or allow more. {config.output} was not written"
        )

    def by_reason(self) -> dict[str, int]:
        """Count the reasons, without the names and numbers in them, most frequent first."""
        return dict(Counter(_kind(rejection) for _, rejection in self._found).most_common())


def _kind(rejection: Rejection) -> str:
    """Return a reason without its way out, file and numbers.

    `no such file`, `N s is shorter than --min_sec N`.
    """
    reason = rejection.reason.removeprefix(f"{rejection.path}: ")
    name = Path(rejection.path).name
    if name:  # as a word: a file may be called a, or 1
        reason = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "the file", reason)
    reason = reason.split(";")[0]
    return re.sub(r"\d+(\.\d+)?", "N", reason)[:100]
