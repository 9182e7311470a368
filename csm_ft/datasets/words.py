"""Words with times: in a column of a row, or in a .json for each sound, of several programs.

Read are {"alignments": [["word", [start, end], "SPEAKER_MAIN"], ...]}, and lists of objects with
word (or text), start, end and speaker. The first speaker is on the left channel. A text of several
words is a turn, whose words share its time by their letters.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csm_ft.data.rows import Word
from csm_ft.datasets.tables import show
from csm_ft.datasets.values import Reason
from csm_ft.errors import MetadataError
from csm_ft.text_file import nfc, read_text

COLUMNS = ("words", "alignments")
SIDES = ("SPEAKER_MAIN", "SPEAKER_OTHER")  # as kyutai's tools name the left and the right one
_MAIN, _OTHER = SIDES
_SPEAKERS: Mapping[str, int] = {
    **dict.fromkeys(("A", "LEFT", "L", "0", _MAIN), 0),
    **dict.fromkeys(("B", "RIGHT", "R", "1", _OTHER), 1),
}
SPEAKER_NAMES = "A or B (left or right, SPEAKER_MAIN or SPEAKER_OTHER)"
_FORM = '[["word", [start, end], "SPEAKER_MAIN"], ...] or [{"word": ..., "start": ..., ...}, ...]'


@dataclass(frozen=True)
class WordLists:
    """Where the words of a sound are found."""

    folder: Path | None = None  # of files named after the sounds; None = beside each
    are_needed: bool = True  # False: a row may have a text alone

    def find(self, value: Any, sound: Path, base: Path) -> tuple[Word, ...] | Reason:
        """Return the words of a row, or why they cannot be used; () = there are none.

        `value` is its column: a list, JSON, or a path relative to `base`; None = a file.
        """
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        if isinstance(value, str) and value.strip():
            if value.lstrip()[:1] in "[{":
                return _parse(value, "words")
            return _read(base / value)
        if value is not None and not isinstance(value, str):
            return _words(value.tolist() if hasattr(value, "tolist") else value, "words")
        place = (self.folder or sound.parent) / f"{sound.stem}.json"
        if not place.is_file():
            if not self.are_needed:
                return ()
            return Reason(
                f"its words with times are not there: no column {' or '.join(COLUMNS)}, and no"
                f" {place}; add one of them"
            )
        return _read(place)


def side_of(speaker: Any) -> int | None:
    """Return the channel of a speaker's name, 0 = left, 1 = right; None = no known name."""
    return _SPEAKERS.get(str(speaker).strip().upper())


def spread_turns(words: Iterable[Word]) -> tuple[tuple[Word, ...], int]:
    """Return words, those of whole turns by themselves, and how many turns these were."""
    found: list[Word] = []
    num_turns = 0
    for word in words:
        is_turn = " " in word.text
        num_turns += is_turn
        found += spread_words(*word) if is_turn else [word]
    return tuple(found), num_turns


def spread_words(text: str, start_sec: float, end_sec: float, speaker: int) -> tuple[Word, ...]:
    """Return the words of a text over a stretch of sound, each with the blank behind it."""
    words = text.split()
    num_letters = sum(len(word) + 1 for word in words)
    letter_sec = (end_sec - start_sec) / max(1, num_letters)
    found: list[Word] = []
    time_sec = start_sec
    for word in words:
        next_sec = min(end_sec, time_sec + letter_sec * (len(word) + 1))
        found.append(Word(word, time_sec, next_sec, speaker))
        time_sec = next_sec
    return tuple(found)


def _read(path: Path) -> tuple[Word, ...] | Reason:
    try:
        return _parse(read_text(path, MetadataError), str(path))
    except (MetadataError, OSError) as error:
        return Reason(f"its words cannot be read: {error}")


def _parse(text: str, where: str) -> tuple[Word, ...] | Reason:
    try:
        return _words(json.loads(text), where)
    except (ValueError, RecursionError) as error:
        return Reason(f"{where}: not JSON: {error}; write {_FORM}")


def _words(value: Any, where: str) -> tuple[Word, ...] | Reason:
    if isinstance(value, dict):
        if "alignments" not in value:
            return Reason(f"{where}: has no alignments; write {_FORM} there")
        value = value["alignments"]
    if not isinstance(value, list):
        return Reason(f"{where}: is {show(value)}, not a list of words; write {_FORM}")
    found: list[Word] = []
    for number, one in enumerate(value, start=1):
        word = _word(one)
        if isinstance(word, Reason):
            return Reason(f"{where} word {number}: {word}")
        found.append(word)
    if not any(word.text for word in found):
        return Reason(f"{where}: holds no word; drop the row")
    return tuple(word for word in found if word.text)


def _word(value: Any) -> Word | Reason:
    """Read one word; an empty one is dropped by the caller."""
    if isinstance(value, dict):
        parts = [value.get(name) for name in ("word", "start", "end", "speaker")]
        parts[0] = value.get("text") if parts[0] is None else parts[0]
    elif isinstance(value, list | tuple) and len(value) in (2, 3):
        times = value[1]
        is_pair = isinstance(times, list | tuple) and len(times) == 2
        parts = [value[0], *(times if is_pair else (None, None)), *value[2:], _MAIN][:4]
    else:
        return Reason(f"{show(value)} is no word with times; write {_FORM}")
    text, start, end, speaker = parts
    if not isinstance(text, str):
        return Reason(f"{show(text)} is no text; put it in quotes")
    times = []
    for name, time in (("start", start), ("end", end)):
        if isinstance(time, bool) or not isinstance(time, int | float):
            return Reason(f"{show(text)}: {name} {show(time)} is not a number of seconds")
        if not math.isfinite(time) or time < 0:
            return Reason(f"{show(text)}: {name} {time} is not 0 or more seconds")
        times.append(float(time))
    if times[1] < times[0]:
        return Reason(f"{show(text)}: end {times[1]:g} is before start {times[0]:g}; fix the times")
    side = side_of(speaker)
    if side is None:
        return Reason(f"{show(text)}: speaker {show(speaker)} is not {SPEAKER_NAMES}; rename it")
    return Word(nfc(" ".join(text.split())), times[0], times[1], side)
