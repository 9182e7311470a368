"""Rows that are turns of a conversation in one sound file, as one dialogue with words."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from csm_ft.data.rows import Row, Word
from csm_ft.datasets.checked import Checked
from csm_ft.datasets.tables import show
from csm_ft.datasets.values import Reason
from csm_ft.datasets.words import SPEAKER_NAMES, side_of, spread_words

_SIDES = {"left": 0, "right": 1}


def is_turn(values: Mapping[str, Any], words: Sequence[Word] | Reason) -> bool:
    """Tell whether a row is a turn: of a conversation, with a span and a text, without words."""
    has_words = bool(words) and not isinstance(words, Reason)
    needed = ("conversation", "start", "end", "text")
    return not has_words and all(values.get(name) is not None for name in needed)


def join_turns(checked: Sequence[Checked]) -> Iterator[str]:
    """Make one row of the turns of each sound file, and yield what to say of them.

    The first turn gets the row; where a turn cannot be used, all of its dialogue are rejected.
    """
    dialogues: dict[Path, list[Checked]] = {}
    for item in checked:
        if item.is_turn and item.row:
            dialogues.setdefault(item.row.path, []).append(item)
    bad = {item.conversation: item for item in checked if item.is_turn and item.reason}
    for turns in dialogues.values():
        _join(turns, bad)
    if dialogues:
        count = sum(map(len, dialogues.values()))
        yield (
            f"{count} rows are turns of {len(dialogues)} dialogues; their words have no times of"
            " their own and are spread over the turn, by their letters"
        )


def _join(turns: Sequence[Checked], bad: Mapping[str | None, Checked]) -> None:
    first = turns[0]
    broken = next((bad[item.conversation] for item in turns if item.conversation in bad), None)
    words: list[Word] = []
    for item in turns:
        assert item.row is not None, "only rows that could be read"
        side = _side(item.row)
        if isinstance(side, Reason):
            item.reason = str(side)
            broken = broken or item
            continue
        start_sec, end_sec = item.row.start_sec or 0.0, item.row.end_sec or 0.0
        words += spread_words(item.row.text, start_sec, end_sec, side)
    if broken is not None:
        for item in turns:
            item.reason = item.reason or (
                f"another turn of its dialogue, {broken.record.where}, cannot be used; mend that"
                " one, or drop the dialogue"
            )
        return
    words.sort(key=lambda word: word.start_sec)
    assert first.row is not None, "only rows that could be read"
    text = " ".join(word.text for word in words)
    first.row = replace(
        first.row,
        text=text,
        speaker=None,
        start_sec=None,
        end_sec=None,
        conversation="",
        channel="",
        words=tuple(words),
    )
    for item in turns:
        item.conversation, item.turn = "", None
    for item in turns[1:]:
        item.row = None


def _side(row: Row) -> int | Reason:
    """Return the channel that a turn is on."""
    if row.channel in _SIDES:
        return _SIDES[row.channel]
    side = side_of(row.speaker)
    if side is not None:
        return side
    return Reason(
        f"speaker {show(row.speaker)} is not {SPEAKER_NAMES}: on which channel is this turn? Add a"
        " column channel with left or right"
    )
