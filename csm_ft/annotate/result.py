"""The .json of a dialogue: words with times, and what made them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from csm_ft.atomic import write_whole
from csm_ft.data.rows import Word
from csm_ft.datasets.words import SIDES

MADE_BY = "made_by"
PROGRAM = "csm_ft.annotate"
Kept = Literal["ours", "ours, other options", "theirs", "none"]


def write_words(path: Path, words: Sequence[Word], made_by: Mapping[str, Any]) -> None:
    """Write the words of both speakers in the order of their starts."""
    ordered = sorted(words, key=lambda word: (word.start_sec, word.speaker))
    alignments = [
        [word.text, [round(word.start_sec, 3), round(word.end_sec, 3)], SIDES[word.speaker]]
        for word in ordered
    ]
    value = {"alignments": alignments, MADE_BY: made_by}
    write_whole(path, json.dumps(value, ensure_ascii=False) + "\n")


def what_is_there(path: Path, made_by: Mapping[str, Any]) -> Kept:
    """Tell who made a .json: this program with the same options, or others, or somebody else."""
    if not path.exists():
        return "none"
    found = _read_made_by(path)
    if not found:
        return "theirs"
    is_same = all(found.get(name) == fact for name, fact in made_by.items())
    return "ours" if is_same else "ours, other options"


def remove_own(path: Path) -> None:
    """Remove words that this program wrote before, with options by which there are none."""
    if path.exists() and _read_made_by(path):
        path.unlink()


def _read_made_by(path: Path) -> Mapping[str, Any]:
    """Return what made a .json, if this program did; else nothing."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    found = value.get(MADE_BY) if isinstance(value, dict) else None
    if not isinstance(found, dict) or found.get("program") != PROGRAM:
        return {}
    return found
