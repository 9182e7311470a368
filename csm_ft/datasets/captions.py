"""What is said in a recording, beside it: .srt and .vtt subtitles, and the .json of whisper."""

import html
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pysubs2
from pysubs2.exceptions import Pysubs2Error

from csm_ft.datasets.tables import Unreadable
from csm_ft.errors import MetadataError
from csm_ft.text_file import read_text

CAPTION_SUFFIXES = (".srt", ".vtt", ".json")  # the first that can be read counts
_TAG = re.compile(r"</?[a-zA-Z][^>]*>")  # <i>, <c.loud>, <v Anna>
_VOICE = re.compile(r"<v(?:\.[^ >]*)?\s+([^>]+)>")  # of WebVTT: <v Anna>


def read_captions(path: Path) -> list[dict[str, Any]]:
    """Return the text, start and end (seconds) of each caption, and its speaker where it has one.

    For a .json without segments, the columns that it gives for the whole recording; none for a
    .json that is something else. MetadataError for a file that cannot be read.
    """
    text = read_text(path, MetadataError)
    if path.suffix.lower() == ".json":
        return _read_json(path, text)
    format_name = path.suffix.lower()[1:]
    try:
        captions = pysubs2.SSAFile.from_string(
            "\n".join(text.splitlines()), format_name, keep_html_tags=True
        )
    except (Pysubs2Error, ValueError) as error:
        raise MetadataError(f"{path}: not readable as {format_name}: {error}") from error
    return list(_columns(captions))


def _columns(captions: pysubs2.SSAFile) -> Iterator[dict[str, Any]]:
    for caption in captions:
        voice = _VOICE.search(caption.text)
        text = " ".join(html.unescape(_TAG.sub("", caption.plaintext)).split())
        if text and not caption.is_comment:
            row: dict[str, Any] = {"text": text}
            row |= {"start": caption.start / 1000, "end": caption.end / 1000}
            yield row | ({"speaker": voice[1].strip()} if voice else {})


def _read_json(path: Path, text: str) -> list[dict[str, Any]]:
    try:
        top = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MetadataError(f"{path}: not JSON: {error}; write it again") from error
    if not isinstance(top, dict):
        return []
    segments = top.get("segments") or []
    if isinstance(top.get("transcription"), list):  # of whisper.cpp, in milliseconds
        segments = [_of_whisper_cpp(one) for one in top["transcription"]]
    if segments:
        return [_segment(one) for one in segments]
    return [{name: top[name] for name in ("text", "speaker") if name in top}] * ("text" in top)


def _of_whisper_cpp(one: Any) -> dict[str, Any]:
    offsets = one.get("offsets", {}) if isinstance(one, dict) else {}
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
