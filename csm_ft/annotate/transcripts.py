"""Transcripts of dialogues: turns of two speakers, with or without times."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from csm_ft.annotate.align import Turn
from csm_ft.datasets.tables import show
from csm_ft.datasets.words import SPEAKER_NAMES, side_of
from csm_ft.errors import MetadataError
from csm_ft.text_file import read_text

_LINE = re.compile(r"\s*([^\s:]+)\s*:\s*(.*)")


def find_transcript(folder: Path, sound: Path) -> Path | None:
    """Return the transcript of a sound file, NAME.json or NAME.txt."""
    places = (folder / f"{sound.stem}{suffix}" for suffix in (".json", ".txt"))
    return next((one for one in places if one.is_file()), None)


def read_transcript(path: Path, *, is_mono: bool) -> list[Turn]:
    """Read the turns of a transcript; of a mono file, lines of text need no speaker.

    MetadataError names the line or turn that cannot be used.
    """
    try:
        text = read_text(path, MetadataError)
    except OSError as error:
        raise MetadataError(f"{path}: {error.strerror}; make it readable") from error
    lines = path.suffix == ".txt"
    turns = list(_of_lines(path, text, is_mono) if lines else _of_json(path, text))
    if not any(turn.text.split() for turn in turns):
        raise MetadataError(f"{path}: holds no word; remove it, so that the sound is recognised")
    return turns


def _of_lines(path: Path, text: str, is_mono: bool) -> Iterator[Turn]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        found = _LINE.match(line)
        side = side_of(found[1]) if found else None
        if found and side is not None:
            yield Turn(found[2].strip(), side)
        elif is_mono:
            yield Turn(line.strip(), 0)
        else:
            raise MetadataError(
                f"{path} line {number}: {show(line.strip())} does not begin with its speaker;"
                f" write `A: ...` or `B: ...` ({SPEAKER_NAMES})"
            )


def _of_json(path: Path, text: str) -> Iterator[Turn]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MetadataError(f"{path}: not JSON: {error}") from error
    turns = value.get("turns") if isinstance(value, dict) else value
    if not isinstance(turns, list):
        raise MetadataError(
            f'{path}: holds {show(value)}; write [{{"speaker": "A", "text": "..."}}, ...], with'
            " start and end in seconds where they are known"
        )
    for number, turn in enumerate(turns, start=1):
        yield _turn(f"{path} turn {number}", turn)


def _turn(where: str, turn: Any) -> Turn:
    if not isinstance(turn, dict):
        raise MetadataError(f"{where}: is {show(turn)}, not an object with speaker and text")
    text = turn.get("text", turn.get("word"))
    if not isinstance(text, str):
        raise MetadataError(f"{where}: its text is {show(text)}; put it in quotes")
    side = side_of(turn.get("speaker"))
    if side is None:
        raise MetadataError(
            f"{where}: speaker {show(turn.get('speaker'))} is not {SPEAKER_NAMES}; rename it"
        )
    times = (turn.get("start"), turn.get("end"))
    if times == (None, None):
        return Turn(text, side)
    start_sec, end_sec = (_seconds(where, time) for time in times)
    if end_sec < start_sec:
        raise MetadataError(f"{where}: end {end_sec:g} is before start {start_sec:g}")
    return Turn(text, side, start_sec, end_sec)


def _seconds(where: str, value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value < math.inf:
        raise MetadataError(
            f"{where}: {show(value)} is not a number of seconds; give start and end, or neither"
        )
    return float(value)
