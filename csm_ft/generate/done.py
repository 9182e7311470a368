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


def is_done(written: Sequence[Facts], wanted: Facts) -> bool:
    """Tell whether one of the samples of a prompt was made as it is wanted now."""
    return any(all(facts.get(name) == wanted[name] for name in wanted) for facts in written)
