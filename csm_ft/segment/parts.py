"""What was heard of recordings, kept beside the output, so that the same command continues.

`OUTPUT.parts/` holds a file for each recording, by a hash of all that decides what is heard: path,
size and time of the sound file, channel, recogniser, language. Each line is a block. A changed
option leads to another file, and what did not change is not heard again. A line that a kill left
half-written is cut off.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from csm_ft.atomic import append_line, disk_errors
from csm_ft.evaluate.recognise import Word
from csm_ft.segment.hear import Block, Recording
from csm_ft.segment.speech import Stretch

_VERSION = 1  # of what is heard and how: raised when that changes


class Part:
    """A file of lines of JSON that is appended to."""

    def __init__(self, folder: Path, kind: str, recording: Recording, facts: Sequence[str]) -> None:
        stat = recording.path.stat()
        key = [_VERSION, os.fspath(recording.path), stat.st_size, stat.st_mtime_ns]
        key += [recording.channel, *facts]
        digest = hashlib.blake2b(json.dumps(key).encode(), digest_size=12).hexdigest()
        self.path = folder / f"{digest}.{kind}.jsonl"

    def read(self) -> list[Any]:
        """Return the values of all lines; a last one that is not whole is cut off."""
        if not self.path.is_file():
            return []
        with disk_errors(self.path):
            data = self.path.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]
            if len(whole) < len(data):
                os.truncate(self.path, len(whole))
        return [json.loads(line) for line in whole.splitlines()]

    def append(self, value: Any) -> None:
        """Append a value; MachineError when the disk is full."""
        append_line(self.path, json.dumps(value))


def block_to_json(block: Block) -> Mapping[str, Any]:
    """Return a block as JSON."""
    return {
        "start_sec": block.start_sec,
        "end_sec": block.end_sec,
        "level_dbfs": block.level_dbfs,
        "stretches": [
            [stretch.start_sec, stretch.end_sec, stretch.language, stretch.words]
            for stretch in block.stretches
        ],
    }


def block_from_json(value: Mapping[str, Any]) -> Block:
    """Return a block that `block_to_json` wrote."""
    stretches = (
        Stretch(start_sec, end_sec, tuple(Word(*word) for word in words), language)
        for start_sec, end_sec, language, words in value["stretches"]
    )
    return Block(value["start_sec"], value["end_sec"], tuple(stretches), value["level_dbfs"])
