"""Transcripts as files: text, subtitles, and JSON with the times of all parts."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from csm_ft.atomic import write_whole


@dataclass(frozen=True)
class Segment:
    """What was said in a part of a recording."""

    start_sec: float
    end_sec: float
    text: str
    is_complete: bool  # False: the model did not end by itself, so its text may be cut or repeat


@dataclass(frozen=True)
class Transcript:
    """What was said in a recording."""

    path: Path
    duration_sec: float
    segments: Sequence[Segment]  # in order

    @property
    def text(self) -> str:
        """The text of all parts."""
        return " ".join(segment.text for segment in self.segments if segment.text)

    def to_json(self, model: str) -> str:
        """Return the transcript with its times, and the name of the model."""
        values = {
            "file": str(self.path),
            "duration_sec": round(self.duration_sec, 3),
            "model": model,
            "text": self.text,
            "segments": [asdict(segment) for segment in self.segments],
        }
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"

    def to_srt(self) -> str:
        """Return the parts with text as subtitles."""
        spoken = [segment for segment in self.segments if segment.text]
        blocks = [
            f"{number}\n{_time(segment.start_sec)} --> {_time(segment.end_sec)}\n{segment.text}\n"
            for number, segment in enumerate(spoken, start=1)
        ]
        return "\n".join(blocks)


def write(transcript: Transcript, stem: Path, formats: Sequence[str], model: str) -> None:
    """Write a transcript as stem.txt, stem.srt and stem.json, each whole or not at all."""
    contents = {
        "txt": lambda: f"{transcript.text}\n",
        "srt": transcript.to_srt,
        "json": lambda: transcript.to_json(model),
    }
    for name in formats:
        write_whole(stem.with_name(f"{stem.name}.{name}"), contents[name]())


def _time(seconds: float) -> str:
    """Write a time as subtitles do: 01:02:03,450."""
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02},{milliseconds % 1000:03}"
