"""What is said in a recording, beside it: .srt and .vtt subtitles, and the .json of whisper."""

import html
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import webvtt
from webvtt.errors import MalformedCaptionError, MalformedFileError

from csm_ft.datasets.tables import Unreadable
from csm_ft.errors import MetadataError
from csm_ft.text_file import read_text

CAPTION_SUFFIXES = (".srt", ".vtt", ".json")  # the first that can be read counts
_TIMES = "-->"  # between start and end of a caption
_VOICE = re.compile(r"<v(?:\.[^ >]*)?\s+([^>]+)>")  # of WebVTT: <v Anna>


def read_captions(path: Path) -> list[dict[str, Any]]:
    """Return the text, start and end (seconds) of each caption, and its speaker where it has one.

    For a .json without segments, the columns that it gives for the whole recording; none for a
    .json that is something else. MetadataError for a file, or captions in it, that cannot be read.
    """
    text = read_text(path, MetadataError)
    if path.suffix.lower() == ".json":
        return _read_json(path, text)
    kind = path.suffix.lower()[1:]
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    try:
        captions = webvtt.WebVTT.from_buffer(io.StringIO(lines), format=kind).captions
    except (MalformedFileError, MalformedCaptionError, ValueError) as error:
        raise MetadataError(f"{path}: not readable as {kind}: {error}; write it again") from error
    num_wanted = sum(_TIMES in line for line in lines.split("\n"))
    if len(captions) < num_wanted:
        raise MetadataError(
            f"{path}: {num_wanted - len(captions)} of {num_wanted} captions cannot be read; write"
            " times like 00:00:01,500 --> 00:00:03,000, and a blank line after each caption"
        )
    return list(_columns(captions))


def _columns(captions: list[Any]) -> Iterator[dict[str, Any]]:
    for caption in captions:
        voices = {name.strip() for name in _VOICE.findall(caption.raw_text)}
        text = " ".join(html.unescape(caption.text).split())
        if text:
            row = {"text": text, "start": _seconds(caption.start), "end": _seconds(caption.end)}
            yield row | ({"speaker": voices.pop()} if len(voices) == 1 else {})


def _seconds(time: str) -> float:
    hours, minutes, seconds = time.split(":")
    return round(3600 * int(hours) + 60 * int(minutes) + float(seconds), 3)


def _read_json(path: Path, text: str) -> list[dict[str, Any]]:
    try:
        top = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MetadataError(f"{path}: not JSON: {error}; write it again") from error
    if not isinstance(top, dict):
        return []
    segments = top["segments"] if isinstance(top.get("segments"), list) else []
    if isinstance(top.get("transcription"), list):  # of whisper.cpp, in milliseconds
        segments = [_of_whisper_cpp(one) for one in top["transcription"]]
    if segments:
        return [_segment(one) for one in segments]
    return [{name: top[name] for name in ("text", "speaker") if name in top}] * ("text" in top)


def _of_whisper_cpp(one: Any) -> dict[str, Any]:
    offsets = (one.get("offsets") or {}) if isinstance(one, dict) else {}
    times = {
        name: offsets[key] / 1000
        for name, key in (("start", "from"), ("end", "to"))
        if isinstance(offsets.get(key), int | float)
    }
    return {**one, **times} if isinstance(one, dict) else {}


def _segment(one: Any) -> dict[str, Any]:
    if not isinstance(one, Mapping):
        return {}
    return {name: one[name] for name in ("text", "start", "end", "speaker") if name in one}


def records_of(sound: Path, path: str, captions: Path) -> Iterator[tuple[str, Any]]:
    """Yield where each caption stands, and its columns with the `path` of the sound."""
    try:
        rows = read_captions(captions)
    except (MetadataError, OSError) as error:
        yield str(sound), Unreadable(f"its captions cannot be read: {error}", path)
        return
    if not rows:
        reason = f"{captions.name} holds neither captions nor a text"
        yield str(sound), Unreadable(f"{reason}; write {sound.stem}.txt beside it", path)
    for number, row in enumerate(rows, start=1):
        yield f"{captions} caption {number}", {"path": path, **row}
