"""An open token file in memory: splits of clips with their arrays, and the facts of the encoder.

Knows no file format and no model family: a family declares which arrays a clip keeps.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from csm_ft.data.measures import Measures

SCHEMA_VERSION = 3
SPLITS = ("train", "val")
DUPLICATE = 1  # flag of a clip that repeats an earlier one of its split: audio, text and speaker
TEXT_COLUMNS = ("id", "text", "speaker", "source", "conversation")  # of the clip table, as UTF-8
NUMBER_COLUMNS = {
    "start_sec": "<f8",
    "end_sec": "<f8",
    "duration_sec": "<f8",
    "flags": "|u1",
    "turn": "<i4",
}
# Columns that files of earlier versions lack: those of texts are empty there, others have a value.
LATER_TEXT_COLUMNS = ("tags",)  # a JSON object of each clip, "" = no tags
LATER_NUMBER_COLUMNS = {"weight": ("<f8", 1.0)}
MEASURE_COLUMNS = dict.fromkeys(Measures._fields, "<f4")  # NaN = not measured
BLOCK_ROWS = 1 << 20  # rows of an array hashed and checked at a time

Arrays = Mapping[str, NDArray[Any]]  # of one clip: name -> [T] or [T, width]


class ArrayKind(NamedTuple):
    """An array that every clip keeps: [T], or [T, width]; T differs from clip to clip."""

    dtype: str  # as numpy writes it, with its byte order: "<u2"
    width: int = 0  # 0 = one-dimensional


@dataclass(frozen=True)
class StoreInfo:
    """What made the tokens; the root attributes of the file."""

    family: str
    arrays: Mapping[str, ArrayKind]  # in order; examples are cut from the first one
    sample_rate_hz: int  # of the encoder's input
    frame_sec: float  # seconds of audio per row of the first array
    audio_fingerprint: str  # "" = not known
    text_fingerprint: str  # "" = not known
    facts: Mapping[str, Any] = field(default_factory=dict)  # of the encoder; only its family reads
    content_fingerprint: str = ""  # hash over ids and arrays of all splits; set by write_store
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class Clip:
    """One row of metadata as it was encoded."""

    id: str  # hash of sound, span, channel and encoder; another text has the same id
    text: str
    speaker: str  # "" = none
    source: str  # path of the audio file
    start_sec: float
    end_sec: float
    duration_sec: float
    flags: int = 0  # DUPLICATE
    conversation: str = ""  # "" = none
    turn: int = 0  # place in the conversation, from 0; missing numbers are rejected turns
    tags: Mapping[str, str] = field(default_factory=dict)  # further columns: emotion, style, ...
    weight: float = 1.0  # how often it is drawn in training, relative to the others
    measures: Measures = field(default=Measures(), compare=False)  # of its sound, as it was read


class ClipTable(Protocol):
    """What can be written as a split: a Split, or anything that makes arrays on demand."""

    def __len__(self) -> int: ...

    def lengths(self, array: str) -> NDArray[np.int64]:
        """Rows of an array for each clip, [n]."""
        ...

    def array(self, name: str, index: int) -> NDArray[Any]:
        """One array of one clip."""
        ...

    def clip(self, index: int) -> "Clip":
        """The row of the clip table."""
        ...


class Split:
    """One split, in memory or mapped; arrays are read-only views."""

    def __init__(
        self,
        name: str,
        columns: Mapping[str, NDArray[Any]],
        kinds: Mapping[str, ArrayKind],
        facts: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Wrap the columns of the clip table and the arrays `kinds`, each with its offsets.

        `facts` are those of the encoder. Raises ValueError if the ids are not UTF-8.
        """
        self.name, self.kinds, self.facts = name, kinds, facts
        self._columns, self._num_clips = columns, len(columns["id_offsets"]) - 1
        if not columns["id"].tobytes().isascii():
            _ = self.ids  # decodes them; else they are left until somebody asks
        self.turns: NDArray[np.int32] = columns["turn"]
        self.durations_sec: NDArray[np.float64] = columns["duration_sec"]
        self.weights: NDArray[np.float64] = columns["weight"]
        self.has_tags = len(columns["tags"]) > 0
        self.has_conversations = len(columns["conversation"]) > 0
        self._lengths = {array: np.diff(columns[f"{array}_offsets"]) for array in kinds}

    def __len__(self) -> int:
        return self._num_clips

    @cached_property
    def ids(self) -> list[str]:
        """The ids of all clips; `clip_id` reads a single one."""
        ids, offsets = self._columns["id"].tobytes(), self._columns["id_offsets"].tolist()
        return [ids[start:end].decode() for start, end in pairwise(offsets)]

    def clip_id(self, index: int) -> str:
        """Return the id of a clip."""
        return self._text("id", index)

    def lengths(self, array: str) -> NDArray[np.int64]:
        """Return the rows of an array for each clip, [n]."""
        return self._lengths[array]

    def array(self, name: str, index: int) -> NDArray[Any]:
        """Return one array of one clip, [T] or [T, width]."""
        return self._ragged(name, index)

    def many(self, name: str, rows: Sequence[int], num_workers: int = 0) -> dict[int, NDArray[Any]]:
        """Return one array of several clips, by row; processes help where it must be decoded."""
        return {row: self.array(name, row) for row in rows}

    def arrays(self, index: int) -> Arrays:
        """Return all arrays of one clip."""
        return {name: self._ragged(name, index) for name in self.kinds}

    def conversation(self, index: int) -> str:
        """Return the name of the conversation that a clip is a turn of, or ""."""
        return self._text("conversation", index)

    def speaker(self, index: int) -> str:
        """Return the speaker of a clip, or ""."""
        return self._text("speaker", index)

    def tags(self, index: int) -> Mapping[str, str]:
        """Return the further columns of a clip: emotion, style, ..."""
        text = self._text("tags", index)
        return json.loads(text) if text else {}

    def clip(self, index: int) -> "Clip":
        """Return the row of the clip table."""
        texts = {name: self._text(name, index) for name in TEXT_COLUMNS}
        numbers = {name: self._columns[name][index].item() for name in NUMBER_COLUMNS}
        measured = {name: self._columns[name][index].item() for name in MEASURE_COLUMNS}
        weight = float(self.weights[index])
        return Clip(
            **texts,
            **numbers,
            tags=self.tags(index),
            weight=weight,
            measures=Measures(**measured),
        )

    def blocks(self, array: str) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield an array of all clips in large pieces: (first row, rows)."""
        for start in range(0, len(self._columns[array]), BLOCK_ROWS):
            yield start, self._columns[array][start : start + BLOCK_ROWS]

    def clip_at(self, array: str, row: int) -> int:
        """Return the clip that owns a row of an array of all clips."""
        return int(np.searchsorted(self._columns[f"{array}_offsets"], row, side="right")) - 1

    def _text(self, name: str, index: int) -> str:
        return self._ragged(name, index).tobytes().decode(errors="replace")

    def _ragged(self, name: str, index: int) -> NDArray[Any]:
        if not 0 <= index < self._num_clips:
            raise IndexError(f"clip {index} of split {self.name}, which has {len(self)}")
        offsets = self._columns[f"{name}_offsets"]
        return self._columns[name][offsets[index] : offsets[index + 1]]


def clip_columns(clips: Sequence[Clip]) -> dict[str, NDArray[Any]]:
    """Return the clip table as arrays.

    Raises ValueError for a text that is not valid Unicode (a lone surrogate).
    """
    arrays = {
        name: np.array([getattr(clip, name) for clip in clips], kind)
        for name, kind in NUMBER_COLUMNS.items()
    }
    for name, kind in MEASURE_COLUMNS.items():
        arrays[name] = np.array([getattr(clip.measures, name) for clip in clips], kind)
    for name, (kind, _) in LATER_NUMBER_COLUMNS.items():
        arrays[name] = np.array([getattr(clip, name) for clip in clips], kind)
    texts = {name: [getattr(clip, name) for clip in clips] for name in TEXT_COLUMNS}
    texts["tags"] = [_to_json(clip.tags) for clip in clips]
    for name, column in texts.items():
        encoded = [text.encode() for text in column]
        arrays[name] = np.frombuffer(b"".join(encoded), "|u1")
        arrays[f"{name}_offsets"] = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return arrays


def _to_json(tags: Mapping[str, str]) -> str:
    return json.dumps(dict(tags), ensure_ascii=False, sort_keys=True) if tags else ""


@dataclass(frozen=True)
class Store:
    """An open token file.

    It holds no file handle, so forked processes and threads can use it.
    """

    path: Path
    info: StoreInfo
    splits: Mapping[str, Split]  # train, val
    assets: Mapping[str, bytes] = field(default_factory=dict)
    notes: Sequence[str] = ()  # what opening had to leave out, for people

    def asset(self, name: str) -> bytes | None:
        """Return a small file kept inside the token file ("codec", "tokenizer"), or None."""
        return self.assets.get(name)


class ContentHash:
    """Running hash of one split, independent of how it is cut into blocks."""

    def __init__(self, arrays: Iterable[str]) -> None:
        self._clips = hashlib.blake2b(digest_size=32)
        self._arrays = {name: hashlib.blake2b(digest_size=32) for name in arrays}

    def add_clips(self, ids: Sequence[str], lengths: Sequence[NDArray[np.int64]]) -> None:
        """Add the ids of all clips, and the rows of each of their arrays."""
        for id_, *rows in zip(ids, *(column.tolist() for column in lengths), strict=True):
            self._clips.update(f"{id_} {' '.join(map(str, rows))}\n".encode())

    def add_conversations(self, places: Iterable[tuple[str, int]]) -> None:
        """Add the (conversation, turn) of all clips; those without one change nothing."""
        for row, (conversation, turn) in enumerate(places):
            if conversation:
                self._clips.update(f"{row} {conversation} {turn}\n".encode())

    def add_weights(self, weights: Iterable[float]) -> None:
        """Add the weights of all clips; those of 1 change nothing."""
        for row, weight in enumerate(weights):
            if weight != 1:
                self._clips.update(f"{row} weight {weight}\n".encode())

    def add_block(self, array: str, block: NDArray[Any]) -> None:
        """Add the next rows of an array."""
        self._arrays[array].update(block.tobytes())

    def digest(self, without: str = "") -> bytes:
        """Return the hash of what was added, but for the array `without`."""
        arrays = [h.digest() for name, h in self._arrays.items() if name != without]
        return b"".join([self._clips.digest(), *arrays])


def combine(hashes: Sequence[ContentHash], without: str = "") -> str:
    """Return the content fingerprint of the splits in the order of SPLITS, 32 hex digits."""
    digests = b"".join(h.digest(without) for h in hashes)
    return hashlib.blake2b(digests, digest_size=16).hexdigest()


def content_fingerprint(splits: Mapping[str, Split], without: str = "") -> str:
    """Read all splits and return their content fingerprint, 32 hex digits.

    It is the same for the same ids, arrays, conversations and weights in the same order. The array
    `without` is not read, and not in it.
    """
    hashes = []
    for split in (splits[name] for name in SPLITS):
        content = ContentHash(split.kinds)
        content.add_clips(split.ids, [split.lengths(name) for name in split.kinds])
        if split.has_conversations:
            rows = range(len(split))
            content.add_conversations((split.conversation(i), int(split.turns[i])) for i in rows)
        content.add_weights(split.weights.tolist())
        for name in (name for name in split.kinds if name != without):
            for _, block in split.blocks(name):
                content.add_block(name, block)
        hashes.append(content)
    return combine(hashes, without)
