"""Which prompts are judged: fixed, seeded, and disjoint from training, or it is said."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from csm_ft.console import console, shorten
from csm_ft.data.split import Store
from csm_ft.data.tags import count_tags
from csm_ft.data.text import normalise
from csm_ft.errors import PromptError
from csm_ft.evaluate.judge import EMOTION
from csm_ft.families.prompts import read_prompts


@dataclass(frozen=True)
class ChosenPrompts:
    """Prompts as they go into a file for csm_ft.generate, and what to know of them."""

    entries: Sequence[Mapping[str, Any]]
    notes: Sequence[str] = ()  # for the results and the page
    rows: Sequence[int] = ()  # the validation clips of the same texts
    columns: Sequence[str] = field(default=())

    def write(self, path: Path) -> None:
        """Write the file."""
        path.write_text(json.dumps(list(self.entries), ensure_ascii=False, indent=1), "utf-8")


def from_file(path: Path, store: Store | None) -> ChosenPrompts:
    """Check a file of the user's own; prompts whose text was trained on are named."""
    asked = read_prompts(path)
    entries = json.loads(path.read_text(encoding="utf-8"))
    for entry in entries:
        for clip in entry.get("context", ()) if isinstance(entry, dict) else ():
            clip["path"] = str((path.parent / clip["path"]).resolve())
    trained = _texts(store) if store is not None else set[str]()
    known = [f"{one.where} {one.text[:40]!r}" for one in asked if normalise(one.text) in trained]
    notes = []
    if known:
        notes.append(
            f"{len(known)} of {len(asked)} prompts stand in training: {shorten(known, 3)}; their"
            " numbers say how well the model repeats, not how well it reads"
        )
    texts = {normalise(one.text) for one in asked}
    return _told(ChosenPrompts(entries, notes, _rows(store, texts)))


def from_validation(
    store: Store, columns: Sequence[str], num_prompts: int, seed: int
) -> ChosenPrompts:
    """Choose texts of the validation split that stand in no training clip, by seed.

    Where the model reads emotions, every text is asked for in each of them: words must not tell
    the emotion. PromptError without a validation clip that has a text.
    """
    split, trained, notes = store.splits["val"], _texts(store), list[str]()
    by_text: dict[tuple[str, str], int] = {}
    for row in range(len(split)):
        text = normalise(split.clip(row).text)
        if text:
            by_text.setdefault((split.speaker(row), text), row)
    rows = [row for (_, text), row in by_text.items() if text not in trained]
    if not by_text:
        raise PromptError(f"{store.path}: no validation clip has a text; name prompts: --prompts")
    if not rows:
        rows = list(by_text.values())
        notes.append(
            "all texts of the validation split stand in training, too: the numbers say how well the"
            " model repeats, not how well it reads; name other texts with --prompts"
        )
    elif len(rows) < min(num_prompts, len(by_text)):
        notes.append(
            f"{len(rows)} of {len(by_text)} validation texts stand in no training clip; the others"
            " are not asked for"
        )
    order = np.random.default_rng(seed).permutation(len(rows))
    values = count_tags(store.splits["train"]).get(EMOTION, {}) if EMOTION in columns else {}
    num_texts = max(1, num_prompts // max(1, len(values)))
    chosen = [rows[place] for place in order[:num_texts].tolist()]
    entries = [entry for row in chosen for entry in _entries(store, row, columns, list(values))]
    return _told(ChosenPrompts(entries, notes, chosen, columns))


def _entries(
    store: Store, row: int, columns: Sequence[str], emotions: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the prompts of one validation clip: one, or one for each emotion."""
    clip = store.splits["val"].clip(row)
    entry: dict[str, Any] = {"text": clip.text}
    if clip.speaker:
        entry["speaker"] = clip.speaker
    entry |= {name: value for name, value in clip.tags.items() if name in columns}
    return [{**entry, EMOTION: value} for value in emotions] or [entry]


def _texts(store: Store) -> set[str]:
    split = store.splits["train"]
    return {normalise(split.clip(row).text) for row in range(len(split))}


def _rows(store: Store | None, texts: set[str]) -> list[int]:
    """Return the validation clips that say one of the texts."""
    if store is None:
        return []
    split = store.splits["val"]
    return [row for row in range(len(split)) if normalise(split.clip(row).text) in texts]


def _told(chosen: ChosenPrompts) -> ChosenPrompts:
    for note in chosen.notes:
        console.print(f"warning: {note}", style="yellow", markup=False)
    return chosen
