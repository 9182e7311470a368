"""The same sound twice: copies of a file, and files that decode to the same samples.

Rows are compared by their part of a file. First by the bytes of the files; then, for rows of one
sample rate and length, by their samples as 16-bit mono, so that a FLAC and a WAV file, or a mono
and a two-channel one, are found to be the same recording. Recordings that were resampled, cut
otherwise or compressed with loss are not.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from csm_ft.console import track
from csm_ft.data import audio
from csm_ft.data.inspect import SoundFile
from csm_ft.data.rows import Row
from csm_ft.data.text import normalise
from csm_ft.errors import AudioError

_FULL_SCALE = 32768  # of 16-bit samples


class Part(NamedTuple):
    """The part of a sound file that a row names, in samples of the file."""

    path: Path
    digest: str  # of the bytes of the file
    channel: audio.Channel
    sample_rate_hz: int
    start: int
    end: int

    @property
    def duration_sec(self) -> float:
        """Length in seconds."""
        return (self.end - self.start) / self.sample_rate_hz


def part_of(row: Row, file: SoundFile) -> Part | None:
    """Return the part of a file that a row names, up to its end; None where it lies past that."""
    info = file.info
    start = round((row.start_sec or 0.0) * info.sample_rate_hz)
    end = info.num_samples
    if row.end_sec is not None:
        end = min(round(row.end_sec * info.sample_rate_hz), end)
    channel = row.channel or "mix"
    if info.num_channels == 1 and channel == "left":
        channel = "mix"
    if start >= end:
        return None
    return Part(row.path, file.digest, channel, info.sample_rate_hz, start, end)


def find_twins(parts: Sequence[Part], num_workers: int) -> dict[int, int]:
    """Return for each part with the same sound as an earlier one the first of these.

    Parts that cannot be decoded are compared by the bytes of their files only.
    """
    twins: dict[int, int] = {}
    firsts: dict[tuple[object, ...], int] = {}
    by_length: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, part in enumerate(parts):
        first = firsts.setdefault(part[1:], index)  # all but the path
        if first != index:
            twins[index] = first
        else:
            by_length[part.sample_rate_hz, part.end - part.start].append(index)
    alike = [index for indices in by_length.values() if len(indices) > 1 for index in indices]
    first_of_sound: dict[str, int] = {}
    for index, sound in _hash_sounds(parts, sorted(alike), num_workers).items():
        first = first_of_sound.setdefault(sound, index)
        if first != index:
            twins[index] = first
    return {index: twins.get(first, first) for index, first in twins.items()}


def describe_twin(row: Row, twin: Row) -> tuple[str, bool]:
    """Return why a row that repeats the sound of `twin` is rejected, and whether they conflict."""
    differing = [
        f"{name} {one!r} against {other!r}"
        for name, one, other in _labels(row, twin)
        if normalise(one) != normalise(other)
    ]
    same = f"the same sound as {twin.where} ({twin.path})"
    if differing:
        reason = f"{same}, but {', '.join(differing)}; find out which is right, and fix or drop one"
        return reason, True
    return f"{same}, which is kept; nothing needs to be done", False


def _labels(row: Row, twin: Row) -> Iterator[tuple[str, str, str]]:
    """Yield what must not differ between rows of one sound; an absent label is no other one.

    Speakers of two sources have other names anyway.
    """
    yield "text", row.text, twin.text
    emotion, other = row.tags.get("emotion", ""), twin.tags.get("emotion", "")
    if emotion and other:
        yield "emotion", emotion, other
    if row.speaker and twin.speaker and row.tags.get("source") == twin.tags.get("source"):
        yield "speaker", row.speaker, twin.speaker


def _hash_sounds(parts: Sequence[Part], indices: Sequence[int], num_workers: int) -> dict[int, str]:
    """Return a hash of the samples of each part that can be decoded, in the order of `indices`."""
    with ThreadPoolExecutor(num_workers) as pool:
        sounds = pool.map(_hash_sound, (parts[index] for index in indices))
        progress = track(sounds, "comparing sounds", len(indices))
        found: Mapping[int, str] = dict(zip(indices, progress, strict=True))
    return {index: sound for index, sound in found.items() if sound}


def _hash_sound(part: Part) -> str:
    rate_hz = part.sample_rate_hz
    span = {"start_sec": part.start / rate_hz, "end_sec": part.end / rate_hz}
    try:
        wave = audio.load(part.path, sample_rate_hz=rate_hz, channel=part.channel, **span)
    except AudioError:
        return ""  # pretokenize.py rejects it, with its reason
    samples = np.round(wave * _FULL_SCALE).astype("<i4")
    return hashlib.blake2b(samples.tobytes(), digest_size=20).hexdigest()
