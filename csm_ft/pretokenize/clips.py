"""Rows of metadata checked against their sound files, and the clips that are held out.

What can become a clip, what cannot and why.
"""

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from csm_ft.config.pretokenize import PretokenizeConfig
from csm_ft.console import console
from csm_ft.data import audio
from csm_ft.data.groups import joined
from csm_ft.data.inspect import SoundFile
from csm_ft.data.measures import Measures
from csm_ft.data.references import SourceFile
from csm_ft.data.rows import Row
from csm_ft.data.split import Arrays
from csm_ft.device import collector_paused
from csm_ft.errors import ConfigError
from csm_ft.families.encoder import Encoder
from csm_ft.pretokenize.labels import Labels
from csm_ft.pretokenize.level import set_level

_ROWS_PER_CALL = 1024  # of a thread


@dataclass(frozen=True)
class Span:
    """One checked row: where its sound is, and the arrays of its text."""

    row: Row  # with its speaker resolved
    file: SourceFile
    key: str  # hash of the file, span in samples and channel; names the sound, not the encoder
    start_sec: float
    end_sec: float
    num_rows: int  # of the first array, as expected; the resampler may give one more or less
    text: Arrays
    parts: tuple["Span", ...] = ()  # rows that it was joined from; () = it is one row

    @property
    def file_digest(self) -> str:
        """Name of the bytes of its file."""
        return self.file.digest

    @property
    def rows(self) -> list[Row]:
        """The rows of metadata that it comes from."""
        return [part.row for part in self.parts] or [self.row]

    @property
    def duration_sec(self) -> float:
        """Length in seconds."""
        return self.end_sec - self.start_sec

    def clip_id(self, audio_fingerprint: str) -> str:
        """Return the id of the clip: the same for the same sound and encoder, whatever its text."""
        name = f"{self.key} {audio_fingerprint}"
        return hashlib.blake2b(name.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Job:
    """What rows are checked and encoded by: the options, and the encoder of a family."""

    config: PretokenizeConfig
    family: str
    encoder: Encoder
    device: str = "cpu"  # of the encoder

    def channel(self, row: Row) -> audio.Channel:
        """Return what is read of a stereo file."""
        if self.encoder.channels == "both":
            return "both"
        return row.channel or self.config.channel

    @property
    def frame_samples(self) -> int:
        """Samples of sound per row of the first array."""
        return round(self.encoder.frame_sec * self.encoder.sample_rate_hz)

    @property
    def first_array(self) -> str:
        """Name of the array that comes from the sound and that examples are cut from."""
        return next(iter(self.encoder.arrays))

    def load(self, span: Span) -> tuple[audio.Wave, Measures]:
        """Read and measure the sound of a span, [N] or [2, N]; AudioError."""
        channel = self.channel(span.row)
        is_filled = channel == "both" and self.encoder.fills_channels
        is_filled = is_filled and audio.probe(span.row.path).num_channels == 1
        wave, measures = audio.load_measured(
            span.row.path,
            sample_rate_hz=self.encoder.sample_rate_hz,
            start_sec=span.row.start_sec,
            end_sec=span.row.end_sec,
            channel="mix" if is_filled else channel,
        )
        if channel == "both" and self.encoder.fills_channels and wave.ndim == 2:
            is_filled = np.array_equal(*wave)  # one speaker, copied to both channels
            wave = wave[0] if is_filled else wave
        wave = np.stack([wave, np.zeros_like(wave)]) if is_filled else wave
        if self.config.level_dbfs:
            rate = self.encoder.sample_rate_hz
            return set_level(wave, rate, measures, self.config.level_dbfs)
        return wave, measures

    def rejects(self, span: Span, audio_lengths: Mapping[str, int]) -> str:
        """Return why the encoder cannot use a clip with arrays of these lengths, or ""."""
        lengths = {**audio_lengths, **{name: len(array) for name, array in span.text.items()}}
        return self.encoder.rejects(span.row, lengths)


@collector_paused()
def check_rows(
    job: Job, labels: Labels, rows: Sequence[Row], files: Mapping[Path, SoundFile | str]
) -> list[Span | str]:
    """Return the span of each row, or why the row cannot be used.

    By two threads: half of the work are tokenizers, which let another thread run.
    """

    def check(start: int) -> list[Span | str]:
        return [
            labels.rejects(row) or check_row(job, labels.take(row), files[row.path])
            for row in rows[start : start + _ROWS_PER_CALL]
        ]

    with ThreadPoolExecutor(min(2, job.config.num_workers)) as pool:
        checked = pool.map(check, range(0, len(rows), _ROWS_PER_CALL))
        return list(itertools.chain.from_iterable(checked))


def check_row(job: Job, row: Row, file: SoundFile | str) -> Span | str:
    """Return the span of a row, or why the row cannot be used."""
    if isinstance(file, str):
        return file
    reason = _channel_problem(job, row, file.info)
    if reason:
        return reason
    duration_sec = file.info.duration_sec
    start_sec = row.start_sec or 0.0
    end_sec = duration_sec if row.end_sec is None else row.end_sec
    tolerance_sec = max(audio.TOLERANCE_SEC, job.config.end_tolerance_sec)
    reason = _span_problem(row, start_sec, end_sec - tolerance_sec, duration_sec)
    if reason:
        return reason
    end_sec = min(end_sec, duration_sec)
    if end_sec - start_sec < job.config.min_sec:
        return (
            f"{end_sec - start_sec:.3f} s is shorter than --min_sec {job.config.min_sec:g}; drop"
            " the row, or lower it"
        )
    row = replace(
        row,
        speaker=row.speaker or job.config.default_speaker,
        end_sec=None if row.end_sec is None else end_sec,
    )
    text = job.encoder.encode_text(row)
    if isinstance(text, str):
        return text
    span = make_span(job, row, file, (start_sec, end_sec), text)
    return job.rejects(span, {job.first_array: span.num_rows}) or span


def make_span(
    job: Job, row: Row, file: SoundFile, times_sec: tuple[float, float], text: Arrays
) -> Span:
    """Return the span of a row that lies within its file; at another level it is another one."""
    start_sec, end_sec = times_sec
    start_sample = round(start_sec * file.info.sample_rate_hz)
    end_sample = round(end_sec * file.info.sample_rate_hz)
    num_samples = round((end_sec - start_sec) * job.encoder.sample_rate_hz)
    channel = job.channel(row)
    channel_name = audio.mix_name(file.info.num_channels) if channel == "mix" else channel
    if channel == "both" and file.info.num_channels == 1:
        channel_name = "left beside silence"
    level_dbfs = job.config.level_dbfs
    at_level = f" {level_dbfs:g} dBFS" if level_dbfs else ""
    return Span(
        row,
        SourceFile(file.digest, file.size, file.mtime_ns),
        f"{file.digest} {start_sample}-{end_sample} {channel_name}{at_level}",
        start_sec,
        end_sec,
        math.ceil(num_samples / job.frame_samples),
        text,
    )


def report_early_ends(spans: Iterable[Span], files: Mapping[Path, SoundFile | str]) -> None:
    """Say where rows end a little before their files: a rounded duration cuts words off."""
    left_sec: list[float] = []
    for span in spans:
        file = files[span.row.path]
        if (
            span.row.start_sec is None
            and span.row.end_sec is not None
            and isinstance(file, SoundFile)
        ):
            left_sec.append(file.info.duration_sec - span.end_sec)
    short = [sec for sec in left_sec if audio.TOLERANCE_SEC < sec < 1]
    if short:
        console.print(
            f"{len(short)} rows end before their files do, by up to {max(short):.2f} s; if their"
            " durations are rounded ones, leave them out"
        )
    parts = [sec for sec in left_sec if sec >= 1]
    if parts:
        console.print(
            f"{len(parts)} rows name no start, and end up to {max(parts):.1f} s before their files"
            " do: that sound is left out; where a text is of the whole file, leave its duration out"
        )


def choose_rows(split: str, rows: Sequence[Row], *, is_alone: bool) -> dict[str, list[Row]]:
    """Return the rows of a split, by what the data say of them; what is left out is told.

    Of training data without validation data beside them (`is_alone`) those for validation, too.
    Data without a row for the split are taken as they are: the user has named them.
    """
    chosen = {split: [row for row in rows if row.split == split]}
    if split == "train":
        chosen[split] = [row for row in rows if row.split in ("", split)]
        val = [row for row in rows if row.split == "val"]
        chosen |= {"val": val} if is_alone and val else {}
    if not chosen[split]:
        return {split: list(rows)}
    if "val" in chosen and split == "train":
        console.print(f"{len(chosen['val'])} rows are of the split val: they are the validation")
    used = {row.split for one in chosen.values() for row in one}
    left_out = Counter(row.split or "none" for row in rows if row.split not in used)
    if left_out:
        counts = ", ".join(f"{count} of the split {name}" for name, count in left_out.items())
        console.print(f"rows left out of {split}: {counts}")
    return chosen


def hold_out(spans: Sequence[Span], fraction: float, seed: int) -> tuple[list[Span], list[Span]]:
    """Split clips into training and validation without splitting a source file or a conversation.

    Files of the same bytes are one. Files, or sets of files that conversations join, are taken in
    the order of a seeded hash of their bytes, each that still fits into `fraction` of the clips, or
    else the one with the fewest. ConfigError when there is only one.
    """
    set_of = _joined_files(spans)
    clips = Counter(set_of[span.file_digest] for span in spans)
    if len(clips) < 2:
        raise ConfigError(_nothing_to_hold_out(len(spans), len(set_of)))
    order = sorted(clips, key=lambda digest: hashlib.blake2b(f"{seed} {digest}".encode()).digest())
    held: set[str] = set()
    num_held = 0
    for digest in order:
        if num_held + clips[digest] <= fraction * len(spans):
            held.add(digest)
            num_held += clips[digest]
    held = held or {min(order, key=clips.__getitem__)}
    train = [span for span in spans if set_of[span.file_digest] not in held]
    val = [span for span in spans if set_of[span.file_digest] in held]
    num_files = sum(first in held for first in set_of.values())
    parts = [f"{len(val)} of {len(spans)} clips", f"{num_files} of {len(set_of)} files"]
    conversations = _conversations(spans)
    if conversations:
        parts.append(f"{len(_conversations(val))} of {len(conversations)} conversations")
    console.print(f"no --val_data: held out {', '.join(parts)} (--val_fraction, --seed)")
    return train, val


def _channel_problem(job: Job, row: Row, info: audio.AudioInfo) -> str:
    name, num_channels = row.path.name, info.num_channels
    channel = job.channel(row)
    if channel == "right" and num_channels == 1:
        way_out = "write mix in its row" if row.channel else "use --channel mix"
        return f"{name} is mono, there is no right channel; {way_out}"
    if channel == "both" and row.channel:
        return (
            f"channel {row.channel}: the family {job.family} needs both sides of a stereo file;"
            " leave the column out"
        )
    if channel == "both" and num_channels != 2:
        if num_channels == 1 and job.encoder.fills_channels:
            return ""
        noun = "channel" if num_channels == 1 else "channels"
        hint = f"; {job.encoder.mono_hint}" if num_channels == 1 and job.encoder.mono_hint else ""
        return (
            f"{name} has {num_channels} {noun}; the family {job.family} needs both sides of a"
            f" stereo file{hint}"
        )
    return ""


def _span_problem(row: Row, start_sec: float, end_sec: float, duration_sec: float) -> str:
    """Return why a span does not lie in its file, or ""."""
    file = f"is past the end of {row.path.name} ({duration_sec:.3f} s)"
    if start_sec >= duration_sec:
        return f"start_sec {row.start_sec or 0.0:g} {file}; fix the span or drop the row"
    if end_sec > duration_sec:  # many manifests have durations, and no ends
        return (
            f"end_sec (or start + duration) {row.end_sec:g} {file}; fix the span, drop the row, or"
            " raise --end_tolerance_sec"
        )
    return ""


def _nothing_to_hold_out(num_spans: int, num_files: int) -> str:
    if num_files > 1:
        return (
            f"all {num_spans} usable rows hang together: conversations join their {num_files}"
            " sound files, and neither a conversation nor a file can be on both sides; give"
            " --val_data, or more than one conversation with sound files of its own"
        )
    return (
        f"all {num_spans} usable rows are of one sound file, which cannot be on both sides; give"
        " --val_data, or cut the file"
    )


def _conversations(spans: Iterable[Span]) -> set[str]:
    return {span.row.conversation for span in spans} - {""}


def _joined_files(spans: Sequence[Span]) -> dict[str, str]:
    """Return for every file the first, by digest, of those that conversations join to it.

    So what is held out does not depend on the order of the rows.
    """
    in_order = sorted(spans, key=lambda span: span.file_digest)
    firsts = joined([_joining(span) for span in in_order])
    return {
        span.file_digest: in_order[first].file_digest
        for span, first in zip(in_order, firsts, strict=True)
    }


def _joining(span: Span) -> list[tuple[str, str]]:
    """Return what a clip shares with others on its side of the split."""
    of_file, conversation = ("file", span.file_digest), span.row.conversation
    return [of_file, ("conversation", conversation)] if conversation else [of_file]
