"""Rows of metadata, and the rejected ones that cannot be used."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

SPEAKER = "speaker:"  # speaker:NAME, where options choose turns


class Word(NamedTuple):
    """A word with its times, in seconds of its file."""

    text: str
    start_sec: float
    end_sec: float
    speaker: int  # 0 = on the left channel, 1 = on the right one


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a metadata file: a clip and its transcript."""

    where: str  # "val.json row 17", counted from 1
    path: Path  # absolute; relative ones are relative to the metadata file
    text: str  # stripped, never empty
    speaker: str | None  # as text: 3, 3.0 and "3" are all "3"
    start_sec: float | None  # None = from the start of the file
    end_sec: float | None  # None = to its end
    conversation: str = ""  # "" = none; else as text, like speaker
    turn: int = 0  # place in the conversation, from 0; rejected rows count
    channel: Literal["", "mix", "left", "right"] = ""  # of a stereo file; "" = as the options say
    split: str = ""  # train, val, test or another word, where the data say so
    tags: Mapping[str, str] = field(default_factory=dict)  # further columns: emotion, style, ...
    weight: float = 1.0  # how often the clip is drawn in training, relative to the others
    words: tuple[Word, ...] = ()  # with times, where the encoder asks for them

    @property
    def is_training(self) -> bool:
        """Whether the row is trained on where metadata say what is validation."""
        return self.split in ("", "train")


@dataclass(frozen=True, slots=True)
class Rejection:
    """A row that cannot be used, with the file's own spelling of path and text ("" = none)."""

    where: str
    path: str
    text: str
    reason: str
    split: str = ""  # as of Row
    conversation: str = ""
    turn: int = 0
    start_sec: float | None = None  # where its sound is, if that could be read
    end_sec: float | None = None

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"

    def to_json(self) -> str:
        """Return one line of rejected.jsonl."""
        facts = {name: getattr(self, name) for name in ("where", "path", "text", "reason")}
        text = json.dumps(facts, ensure_ascii=False)
        return text.encode(errors="backslashreplace").decode()  # file names that are not UTF-8
