"""Which samples a folder has already: told by their facts, which are written last."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Facts = Mapping[str, Any]


def read_facts(folder: Path) -> dict[str, list[Facts]]:
    """Return the facts of all samples in a folder, by the id of their prompt."""
    found: defaultdict[str, list[Facts]] = defaultdict(list)
    for path in folder.glob("*.json"):
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # of somebody else
        if isinstance(facts, dict) and "prompt" in facts:
            found[str(facts["prompt"])].append(facts)
    return dict(found)


def find_done(written: Sequence[Facts], wanted: Facts) -> Facts | None:
    """Return the facts of a sample of a prompt that was made as it is wanted now, or None.

    Of several the first one that has anything in it.
    """
    found = [facts for facts in written if all(facts.get(name) == wanted[name] for name in wanted)]
    return min(found, key=is_empty, default=None)


def is_empty(facts: Facts) -> bool:
    """Tell whether the model stopped at once, in place of speaking."""
    return facts.get("seconds") == 0  # answers in text alone have no such fact
