"""Splits whose sound is not in the token file: spans of the source files, decoded when read.

The split keeps, beside the clip table, what names each source file and how it is read. Decoding is
deterministic, so batches and content hash are those of a token file that keeps the sound.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from csm_ft.data import audio
from csm_ft.data.split import ArrayKind, ClipTable, Split
from csm_ft.errors import AudioError, MachineError, StoreError

# Columns of a split with references; the texts are UTF-8 bytes with offsets, as in the clip table.
SOURCE_NUMBERS = {"source_size": "<i8", "source_mtime_ns": "<i8"}
SOURCE_TEXTS = ("source_digest", "channel")
WAY_OUT = "put it back, or pretokenise again"
Encode = Callable[[audio.Wave], NDArray[Any]]  # importable by name, for worker processes


class SourceFile(NamedTuple):
    """What a sound file was when it was encoded."""

    digest: str  # of its bytes
    size: int
    mtime_ns: int


class Reference(NamedTuple):
    """Where the sound of a clip comes from, beside the path and times of the clip table."""

    file: SourceFile
    channel: audio.Channel


class ReferencedTable(ClipTable, Protocol):
    """A table that knows where its sound comes from."""

    def reference(self, index: int) -> Reference:
        """Where the sound of a clip comes from."""
        ...


class Span(NamedTuple):
    """What a worker decodes."""

    path: Path
    start_sec: float
    end_sec: float
    channel: audio.Channel
    sample_rate_hz: int
    num_rows: int  # that it must have


class ReferencedSplit(Split):
    """A split whose array `referenced` is decoded from its source files whenever it is read."""

    def __init__(
        self,
        name: str,
        columns: Mapping[str, NDArray[Any]],
        kinds: Mapping[str, ArrayKind],
        facts: Mapping[str, Any],
        referenced: str,
    ) -> None:
        super().__init__(name, columns, kinds, facts)
        self.referenced = referenced
        self._encode: Encode | None = None
        self._sample_rate_hz = 0

    def read_with(self, encode: Encode, sample_rate_hz: int) -> None:
        """Name what makes the array of a wave at that rate; nothing can be read before."""
        self._encode, self._sample_rate_hz = encode, sample_rate_hz

    def many(self, name: str, rows: Sequence[int], num_workers: int = 0) -> dict[int, NDArray[Any]]:
        """Return one array of several clips, decoded by so many processes; 0 = by this one."""
        if name != self.referenced or not num_workers:
            return super().many(name, rows)
        distinct = sorted(set(rows))
        try:
            decoded = self._pool(num_workers).map(
                _decode, [self._span(row) for row in distinct], [self._reader] * len(distinct)
            )
            return dict(zip(distinct, decoded, strict=True))
        except BrokenProcessPool as error:
            raise MachineError(
                "a process that decodes sound was killed, as for want of memory; start again, with"
                " fewer --decode_workers"
            ) from error

    def blocks(self, array: str) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield an array of all clips in pieces: (first row, rows)."""
        if array != self.referenced:
            yield from super().blocks(array)
            return
        for row in range(len(self)):
            yield int(self._columns[f"{array}_offsets"][row]), self.array(array, row)

    def check_sources(self) -> None:
        """Raise StoreError, with its name, for a source file that is missing or has changed."""
        checked: set[str] = set()
        for row in range(len(self)):
            source = self._text("source", row)
            if source not in checked:
                checked.add(source)
                self._check_source(Path(source), row)

    def _check_source(self, path: Path, row: int) -> None:
        try:
            stat = path.stat()
        except OSError as error:
            raise StoreError(
                f"{path}: {error.strerror}; the token file keeps references to it"
                f" (--keep_audio reference): {WAY_OUT}"
            ) from error
        is_same = stat.st_size == self._columns["source_size"][row]
        if is_same and stat.st_mtime_ns != self._columns["source_mtime_ns"][row]:
            is_same = audio.digest(path) == self._text("source_digest", row)
        if not is_same:
            raise StoreError(
                f"{path}: has changed since it was pretokenised, and the token file keeps"
                f" references to it (--keep_audio reference): {WAY_OUT}"
            )

    def _ragged(self, name: str, index: int) -> NDArray[Any]:
        if name != self.referenced:
            return super()._ragged(name, index)
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index} of split {self.name}, which has {len(self)}")
        return _decode(self._span(index), self._reader)

    @property
    def _reader(self) -> Encode:
        assert self._encode is not None, "opened by families.stores"
        return self._encode

    def _span(self, row: int) -> Span:
        start_sec, end_sec = (self._columns[name][row].item() for name in ("start_sec", "end_sec"))
        return Span(
            Path(self._text("source", row)),
            start_sec,
            end_sec,
            cast("audio.Channel", self._text("channel", row)),
            self._sample_rate_hz,
            int(self.lengths(self.referenced)[row]),
        )

    def _pool(self, num_workers: int) -> ProcessPoolExecutor:
        pools = self._pools
        if num_workers not in pools:
            # Not forked: this process has threads, and torch's.
            context = multiprocessing.get_context("spawn")
            pools[num_workers] = ProcessPoolExecutor(num_workers, context, _end_with_parent)
        return pools[num_workers]

    @cached_property
    def _pools(self) -> dict[int, ProcessPoolExecutor]:
        return {}


def source_columns(references: Sequence[Reference]) -> dict[str, NDArray[Any]]:
    """Return the columns of references as arrays."""
    files = [reference.file for reference in references]
    columns: dict[str, NDArray[Any]] = {
        "source_size": np.array([file.size for file in files], "<i8"),
        "source_mtime_ns": np.array([file.mtime_ns for file in files], "<i8"),
    }
    texts = {
        "source_digest": [file.digest for file in files],
        "channel": [reference.channel for reference in references],
    }
    for name, column in texts.items():
        encoded = [text.encode() for text in column]
        columns[name] = np.frombuffer(b"".join(encoded), "|u1")
        columns[f"{name}_offsets"] = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return columns


def _decode(span: Span, encode: Encode) -> NDArray[Any]:
    """Return the array of a span; StoreError if it is not what it was."""
    try:
        wave = audio.load(
            span.path,
            sample_rate_hz=span.sample_rate_hz,
            start_sec=span.start_sec,
            end_sec=span.end_sec,
            channel=span.channel,
        )
    except AudioError as error:
        raise StoreError(f"{error}; the token file keeps references to it: {WAY_OUT}") from error
    array = encode(wave)
    if len(array) != span.num_rows:
        raise StoreError(
            f"{span.path}: {span.start_sec:g} to {span.end_sec:g} s are {len(array)} samples where"
            f" they were {span.num_rows}; the file has changed: {WAY_OUT}"
        )
    return array


def _end_with_parent() -> None:
    """End this worker when its parent does, were it by kill -9."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
