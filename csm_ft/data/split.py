"""What a token file holds, once it is open.

Splits of clips with codes and text tokens, and what made them. Knows no file format.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

SCHEMA_VERSION = 2
READABLE_VERSIONS = (1, 2)  # files of version 1 know no conversations
SPLITS = ("train", "val")
# flag of a clip: the same audio with the same text, speaker and conversation came earlier in this
# split
DUPLICATE = 1
TEXT_COLUMNS = ("id", "text", "speaker", "source", "conversation")  # of the clip table, as UTF-8
NUMBER_COLUMNS = {
    "start_sec": "<f8",
    "end_sec": "<f8",
    "duration_sec": "<f8",
    "flags": "|u1",
    "turn": "<i4",
}
RAGGED = {
    "codes": "<u2",
    "text_tokens": "<u4",
    **dict.fromkeys(TEXT_COLUMNS, "|u1"),
}  # each X has its X_offsets, [n+1]
BLOCK_ROWS = 1 << 20  # frames or tokens hashed and checked at a time


class StoreError(ValueError):
    """A token file that is missing, damaged, foreign or of another version.

    The message says which, and the way out.
    """


@dataclass(frozen=True)
class StoreInfo:
    """What made the tokens; the root attributes of the file."""

    family: str
    codec: str
    codec_source: str  # hub name, folder or file
    codec_fingerprint: str  # "" = not known
    num_codebooks: int
    codec_vocab_size: int  # ids per codebook in the model's tables
    sample_rate_hz: int
    frame_samples: int
    tokenizer: str  # hub name, folder or file
    tokenizer_fingerprint: str  # "" = not known
    text_vocab_size: int
    template: str  # how a text becomes tokens: "[{speaker}]{text}" or "{text}"
    content_fingerprint: str = (
        ""  # hash over ids, codes and text tokens of all splits; write_store fills it in
    )
    schema_version: int = SCHEMA_VERSION

    @property
    def frame_sec(self) -> float:
        """Length of a frame in seconds."""
        return self.frame_samples / self.sample_rate_hz


@dataclass(frozen=True)
class Clip:
    """One row of metadata as it was encoded."""

    # hash of audio, span, channel and codec; the same audio with another text has the same id
    id: str
    text: str
    speaker: str  # "" = none
    source: str  # path of the audio file
    start_sec: float
    end_sec: float
    duration_sec: float
    flags: int = 0  # DUPLICATE
    conversation: str = ""  # "" = none
    # place in the conversation, from 0; numbers that are missing are turns that were rejected
    turn: int = 0


class ClipTable(Protocol):
    """What can be written as a split.

    A Split, or anything of its shape that makes codes and text tokens as they are asked for.
    """

    def __len__(self) -> int: ...

    @property
    def num_frames(self) -> NDArray[np.int64]:
        """Frames of each clip, [n]."""
        ...

    @property
    def num_text_tokens(self) -> NDArray[np.int64]:
        """Text tokens of each clip, [n]."""
        ...

    def codes(self, index: int) -> NDArray[np.uint16]:
        """[T, K]."""
        ...

    def text_tokens(self, index: int) -> NDArray[np.uint32]:
        """[L]."""
        ...

    def clip(self, index: int) -> Clip:
        """The row of the clip table."""
        ...


class Split:
    """One split, in memory or mapped; arrays are read-only views."""

    def __init__(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take all arrays of RAGGED, their offsets, and NUMBER_COLUMNS.

        ValueError if the ids are not UTF-8.
        """
        self.name = name
        self._arrays = arrays
        ids, at = arrays["id"].tobytes(), arrays["id_offsets"].tolist()
        self.ids: list[str] = [ids[start:end].decode() for start, end in pairwise(at)]
        self.num_frames: NDArray[np.int64] = np.diff(arrays["codes_offsets"])
        self.num_text_tokens: NDArray[np.int64] = np.diff(arrays["text_tokens_offsets"])
        self.turns: NDArray[np.int32] = arrays["turn"]
        self.has_conversations = len(arrays["conversation"]) > 0

    def __len__(self) -> int:
        return len(self.ids)

    def codes(self, index: int) -> NDArray[np.uint16]:
        """Return the codes of one clip, [T, K]."""
        return self._ragged("codes", index)

    def text_tokens(self, index: int) -> NDArray[np.uint32]:
        """Return the text tokens of one clip, [L], template and BOS/EOS included."""
        return self._ragged("text_tokens", index)

    def conversation(self, index: int) -> str:
        """Return the name of the conversation that a clip is a turn of, or ""."""
        return self._ragged("conversation", index).tobytes().decode(errors="replace")

    def clip(self, index: int) -> Clip:
        """Return the row of the clip table."""
        texts = {
            name: self._ragged(name, index).tobytes().decode(errors="replace")
            for name in TEXT_COLUMNS
        }
        return Clip(**texts, **{name: self._arrays[name][index].item() for name in NUMBER_COLUMNS})

    def blocks(self, name: str) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield all `codes` (or `text_tokens`) in large pieces, whatever the clips.

        (first row, rows).
        """
        for start in range(0, len(self._arrays[name]), BLOCK_ROWS):
            yield start, self._arrays[name][start : start + BLOCK_ROWS]

    def clip_at(self, row: int) -> int:
        """Return the clip that owns a row of all codes."""
        return int(np.searchsorted(self._arrays["codes_offsets"], row, side="right")) - 1

    def _ragged(self, name: str, index: int) -> NDArray[Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index} of split {self.name}, which has {len(self)}")
        at = self._arrays[f"{name}_offsets"]
        return self._arrays[name][at[index] : at[index + 1]]


def clip_columns(clips: Sequence[Clip]) -> dict[str, NDArray[Any]]:
    """Return the clip table as arrays.

    ValueError for a text that is not valid Unicode (a lone surrogate).
    """
    arrays = {
        name: np.array([getattr(clip, name) for clip in clips], kind)
        for name, kind in NUMBER_COLUMNS.items()
    }
    for name in TEXT_COLUMNS:
        texts = [getattr(clip, name).encode() for clip in clips]
        arrays[name] = np.frombuffer(b"".join(texts), RAGGED[name])
        arrays[f"{name}_offsets"] = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    return arrays


@dataclass(frozen=True)
class Store:
    """An open token file.

    Holds no file handle, so it can be used from forked processes and threads.
    """

    path: Path
    info: StoreInfo
    splits: Mapping[str, Split]  # train, val
    assets: Mapping[str, bytes] = field(default_factory=dict)
    notes: Sequence[str] = ()  # what opening had to leave out, for people

    def asset(self, name: str) -> bytes | None:
        """Return a small file that travels inside the token file ("codec", "tokenizer").

        Or None.
        """
        return self.assets.get(name)


class ContentHash:
    """Running hash of one split, independent of how it is cut into blocks."""

    def __init__(self) -> None:
        self.clips, self.codes, self.text = (hashlib.blake2b(digest_size=32) for _ in range(3))

    def add_clips(
        self, ids: Sequence[str], num_frames: NDArray[np.int64], num_text_tokens: NDArray[np.int64]
    ) -> None:
        """Add ids and lengths of the next clips."""
        for id_, frames, tokens in zip(
            ids, num_frames.tolist(), num_text_tokens.tolist(), strict=True
        ):
            self.clips.update(f"{id_} {frames} {tokens}\n".encode())

    def add_conversations(self, places: Iterable[tuple[str, int]]) -> None:
        """Add the (conversation, turn) of all clips; those without one change nothing."""
        for row, (conversation, turn) in enumerate(places):
            if conversation:
                self.clips.update(f"{row} {conversation} {turn}\n".encode())

    def digest(self) -> bytes:
        """Return the hash of what was added."""
        return self.clips.digest() + self.codes.digest() + self.text.digest()


def combine(hashes: Sequence[ContentHash]) -> str:
    """Return the content fingerprint of the splits in the order of SPLITS, 32 hex digits."""
    return hashlib.blake2b(b"".join(h.digest() for h in hashes), digest_size=16).hexdigest()


def content_fingerprint(splits: Mapping[str, Split]) -> str:
    """Read all splits and return their content fingerprint.

    The same for the same ids, codes and text tokens in the same order.
    """
    hashes = []
    for split in (splits[name] for name in SPLITS):
        content = ContentHash()
        content.add_clips(split.ids, split.num_frames, split.num_text_tokens)
        if split.has_conversations:
            content.add_conversations(
                (split.conversation(i), int(split.turns[i])) for i in range(len(split))
            )
        for name, part in (("codes", content.codes), ("text_tokens", content.text)):
            for _, block in split.blocks(name):
                part.update(block.tobytes())
        hashes.append(content)
    return combine(hashes)
