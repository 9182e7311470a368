"""Rows of metadata against their sound files.

What can become a clip, what cannot and why, and which clips are held out.
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from csm_ft.atomic import write_whole
from csm_ft.config import ConfigError
from csm_ft.console import console, track
from csm_ft.data import audio
from csm_ft.families.csm.encoder import TextTokenizer
from csm_ft.pretokenize.metadata import Rejection, Row
from csm_ft.pretokenize_config import PretokenizeConfig

_SHOWN = 5  # rejected rows on the console; the file has them all


@dataclass(frozen=True)
class SoundFile:
    """A file that can be read."""

    info: audio.AudioInfo
    digest: str  # of its bytes


@dataclass(frozen=True)
class FrameRate:
    """How long a codec's frames are; known before a codec is fitted."""

    sample_rate_hz: int
    frame_samples: int


@dataclass(frozen=True)
class Span:
    """One checked row: where its audio is, and its text as tokens."""

    row: Row
    file_digest: str
    # hash of file bytes, span in samples and channel; with the codec's fingerprint it makes the
    # clip's id
    key: str
    start_sec: float
    end_sec: float
    num_frames: int  # as expected; the resampler may give a frame more or less
    speaker: str
    text_tokens: NDArray[np.uint32]

    @property
    def duration_sec(self) -> float:
        """Length in seconds."""
        return self.end_sec - self.start_sec

    def clip_id(self, codec_fingerprint: str) -> str:
        """Return the id of the clip.

        The same audio by the same codec has the same id, whatever its text.
        """
        return hashlib.blake2b(
            f"{self.key} {codec_fingerprint}".encode(), digest_size=16
        ).hexdigest()


class TooManyRejectedError(Exception):
    """More rows were rejected than allowed; nothing was written."""


class Rejections:
    """The rows that cannot be used, each with its split and reason.

    Kept in `<output>.rejected.jsonl`.
    """

    def __init__(self, config: PretokenizeConfig) -> None:
        self.path = Path(f"{config.output}.rejected.jsonl")
        self._config = config
        self._found: list[tuple[str, Rejection]] = []
        self._num_shown = 0

    def add(self, split: str, rejections: Iterable[Rejection]) -> None:
        """Add rows of a split."""
        self._found += [(split, rejection) for rejection in rejections]

    def add_row(self, split: str, row: Row, reason: str) -> None:
        """Add one row that was read well."""
        self._found.append((split, Rejection(row.where, str(row.path), row.text, reason)))

    def __len__(self) -> int:
        return len(self._found)

    def check(self, num_rows: int) -> None:
        """Write the list, show what is new in it.

        And raise TooManyRejectedError when it is longer than allowed.
        """
        lines = [
            json.dumps({"split": split, **json.loads(rejection.to_json())}, ensure_ascii=False)
            for split, rejection in self._found
        ]
        if lines:
            write_whole(self.path, "".join(f"{line}\n" for line in lines))
        else:
            self.path.unlink(missing_ok=True)  # of an earlier run
        new = self._found[self._num_shown :]
        for _, rejection in new[:_SHOWN]:
            console.print(f"rejected {rejection}", markup=False, style="yellow")
        if len(new) > _SHOWN:
            console.print(
                f"... and {len(new) - _SHOWN} more in {self.path}", markup=False, style="yellow"
            )
        self._num_shown = len(self._found)
        share, allowed = len(self) / max(1, num_rows), self._config.max_rejected_share
        if self._found and (self._config.strict or share > allowed):
            rule = (
                "--strict allows none"
                if self._config.strict
                else f"--max_rejected allows {allowed:.1%}"
            )
            raise TooManyRejectedError(
                f"{len(self)} of {num_rows} rows ({share:.1%}) are rejected, {rule}. The reasons"
                f" stand in {self.path}; mend the rows, or allow more. {self._config.output} was"
                " not written"
            )

    def by_reason(self) -> dict[str, int]:
        """Count the reasons, without the names and numbers in them, most frequent first."""
        return dict(Counter(_kind(rejection) for _, rejection in self._found).most_common())


def inspect_files(rows: Iterable[Row], num_workers: int) -> dict[Path, SoundFile | str]:
    """Read the header and hash the bytes of every file once.

    The reason, where one cannot be read.
    """
    paths = list(dict.fromkeys(row.path for row in rows))
    with ThreadPoolExecutor(num_workers) as pool:
        return dict(
            zip(paths, track(pool.map(_inspect, paths), "checking files", len(paths)), strict=True)
        )


def check_rows(
    config: PretokenizeConfig,
    split: str,
    rows: Sequence[Row],
    files: Mapping[Path, SoundFile | str],
    rate: FrameRate,
    tokenizer: TextTokenizer,
    rejections: Rejections,
) -> list[Span]:
    """Return the rows that can be encoded; the others are added to `rejections`."""
    spans = []
    for row in rows:
        file = files[row.path]
        try:
            if isinstance(file, str):
                raise ValueError(file)
            spans.append(check_row(config, row, file, rate, tokenizer))
        except ValueError as error:
            rejections.add_row(split, row, str(error))
    return spans


def check_row(
    config: PretokenizeConfig, row: Row, file: SoundFile, rate: FrameRate, tokenizer: TextTokenizer
) -> Span:
    """Return the span of a row; ValueError says why it cannot be used."""
    info, name = file.info, row.path.name
    if config.channel == "right" and info.num_channels == 1:
        raise ValueError(f"{name} is mono, there is no right channel; use --channel mix")
    start_sec = row.start_sec or 0.0
    end_sec = info.duration_sec if row.end_sec is None else row.end_sec
    for what, given, limit in (
        ("start_sec", start_sec, info.duration_sec),
        ("end_sec", end_sec, info.duration_sec + audio.TOLERANCE_SEC),
    ):
        if given > limit or start_sec == info.duration_sec:
            raise ValueError(
                f"{what} {given:g} is past the end of {name} ({info.duration_sec:.3f} s); fix the"
                " span or drop the row"
            )
    end_sec = min(end_sec, info.duration_sec)
    if end_sec - start_sec < config.min_sec:
        raise ValueError(
            f"{end_sec - start_sec:.3f} s is shorter than --min_sec {config.min_sec:g}; drop the"
            " row, or lower it"
        )
    speaker = row.speaker or config.default_speaker
    tokens = tokenizer.encode(row.text, None if config.omit_speaker_id else speaker)
    num_frames = math.ceil(round((end_sec - start_sec) * rate.sample_rate_hz) / rate.frame_samples)
    start_sample, end_sample = (
        round(at_sec * info.sample_rate_hz) for at_sec in (start_sec, end_sec)
    )
    key = f"{file.digest} {start_sample}-{end_sample} {config.channel}"
    span = Span(row, file.digest, key, start_sec, end_sec, num_frames, speaker, tokens)
    check_positions(config, span, num_frames)
    return span


def check_positions(config: PretokenizeConfig, span: Span, num_frames: int) -> None:
    """Raise ValueError when text and frames of a clip do not fit the model."""
    if len(span.text_tokens) + num_frames + 1 > config.max_positions:
        raise ValueError(
            f"{len(span.text_tokens)} text tokens + {num_frames} frames + 1 are more than"
            f" --max_positions {config.max_positions}; cut the clip ({span.duration_sec:.1f} s)"
            " into shorter ones"
        )


def hold_out(spans: Sequence[Span], fraction: float, seed: int) -> tuple[list[Span], list[Span]]:
    """Split clips into training and validation without splitting a source file or a conversation.

    Files of the same bytes are one.

    Files, or sets of files that conversations join, are taken in the order of a seeded hash of
    their bytes, each that still fits into `fraction` of the clips, or else the one with the fewest.
    ConfigError when there is only one.
    """
    set_of = _joined_files(spans)
    clips = Counter(set_of[span.file_digest] for span in spans)
    if len(clips) < 2 and len(set_of) > 1:
        raise ConfigError(
            f"all {len(spans)} usable rows hang together: conversations join their {len(set_of)}"
            " sound files, and neither a conversation nor a file can be on both sides; give"
            " --val_data, or more than one conversation with sound files of its own"
        )
    if len(clips) < 2:
        raise ConfigError(
            f"all {len(spans)} usable rows are of one sound file, which cannot be on both sides;"
            " give --val_data, or cut the file"
        )
    order = sorted(clips, key=lambda digest: hashlib.blake2b(f"{seed} {digest}".encode()).digest())
    held: set[str] = set()
    num_held = 0
    for digest in order:
        if num_held + clips[digest] <= fraction * len(spans):
            held.add(digest)
            num_held += clips[digest]
    held = held or {min(order, key=clips.__getitem__)}
    train, val = (
        [span for span in spans if (set_of[span.file_digest] in held) == is_val]
        for is_val in (False, True)
    )
    told = [
        f"{len(val)} of {len(spans)} clips",
        f"{sum(first in held for first in set_of.values())} of {len(set_of)} files",
    ]
    val_conversations, conversations = (
        {span.row.conversation for span in some} - {""} for some in (val, spans)
    )
    told += (
        [f"{len(val_conversations)} of {len(conversations)} conversations"] if conversations else []
    )
    console.print(f"no --val_data: held out {', '.join(told)} (--val_fraction, --seed)")
    return train, val


def _joined_files(spans: Sequence[Span]) -> dict[str, str]:
    """Return for every file the first, by digest, of those that conversations join to it.

    Directly or through others.
    """
    first = {span.file_digest: span.file_digest for span in spans}

    def find(digest: str) -> str:
        while first[digest] != digest:
            first[digest] = first[first[digest]]
            digest = first[digest]
        return digest

    file_of: dict[str, str] = {}  # conversation -> a file of it
    for span in spans:
        if span.row.conversation:
            one, other = sorted(
                (
                    find(span.file_digest),
                    find(file_of.setdefault(span.row.conversation, span.file_digest)),
                )
            )
            first[other] = one
    return {digest: find(digest) for digest in first}


def _inspect(path: Path) -> SoundFile | str:
    try:
        return SoundFile(audio.probe(path), audio.digest(path))
    except audio.AudioError as error:
        return str(error)


def _kind(rejection: Rejection) -> str:
    """Return a reason without its way out, file and numbers.

    `no such file`, `N s is shorter than --min_sec N`.
    """
    reason = rejection.reason.split(";")[0].removeprefix(f"{rejection.path}: ")
    name = Path(rejection.path).name
    return re.sub(r"\d+(\.\d+)?", "N", reason.replace(name, "the file") if name else reason)[:100]
