"""Prolonging a finished run: which lengths it had before, and the schedule from their ends on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from csm_ft.atomic import write_whole
from csm_ft.ranks import ALONE, Ranks
from csm_ft.runs.folder import RunFolder

Schedule = Literal["constant", "stretch"]
LENGTH = ("n_epochs", "max_steps")


@dataclass(frozen=True)
class Extension:
    """A length that a run had, and the learning rates after it.

    constant = the last one; stretch = those of a run that was planned with the new length.
    """

    n_epochs: float
    max_steps: int
    schedule: Schedule


def is_longer(then: Mapping[str, Any], now: Mapping[str, Any], changed: Sequence[str]) -> bool:
    """Tell whether the changed options only make a run longer."""
    by_steps = bool(then["max_steps"])
    name = "max_steps" if by_steps else "n_epochs"
    return list(changed) == [name] and now[name] > then[name]


def read_extensions(folder: RunFolder, ranks: Ranks = ALONE) -> list[Extension]:
    """Return the extensions of a run, the first one first; collective."""
    file = folder.extensions
    found = ranks.tell(
        lambda: json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    )
    return [Extension(**one) for one in found]


def add_extension(folder: RunFolder, then: Mapping[str, Any], schedule: Schedule) -> None:
    """Record the length that the run had until now.

    Once, also when a kill came before the new length was written.
    """
    new = Extension(then["n_epochs"], then["max_steps"], schedule)
    known = read_extensions(folder)
    earlier = [
        one for one in known if (one.n_epochs, one.max_steps) != (new.n_epochs, new.max_steps)
    ]
    write_whole(folder.extensions, json.dumps([asdict(one) for one in (*earlier, new)]))
