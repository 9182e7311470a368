"""A recording to stretches of speech with words, in blocks, so that memory stays flat.

A block is five minutes of one channel at 16 kHz (19 MB) at most. It ends in a silence of its second
half, and the next one begins there. A block whose second half has none ends where it ends: speech
without a silence for so long is longer than any clip, and is rejected as a whole.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from csm_ft.data import audio
from csm_ft.data.audio import Channel, Wave
from csm_ft.data.measures import SILENT_DBFS, mean_power, to_dbfs
from csm_ft.evaluate.recognise import RECOGNISER_HZ, TimedRecogniser
from csm_ft.segment.align import place_words
from csm_ft.segment.speech import Span, SpeechFinder, Stretch

BLOCK_SEC = 300.0
_CHUNK_SEC = 28.0  # of speech that the recogniser hears at once: Whisper's window is 30 s
_REST_SEC = 0.05  # behind the last block, at most: too short for a word
_WIDE_SILENCE_SEC = 0.5  # no word reaches across it
_KEPT_SILENCE_SEC = 0.5  # at both sides of speech; longer silence is not given to the recogniser


@dataclass(frozen=True)
class Block:
    """A part of a recording, and the speech in it; all times are in seconds of the recording."""

    start_sec: float
    end_sec: float
    stretches: tuple[Stretch, ...]
    level_dbfs: float  # rms

    @property
    def is_silent(self) -> bool:
        """Whether nothing can be heard in it."""
        return self.level_dbfs < SILENT_DBFS

    @property
    def ends_in_speech(self) -> bool:
        """Whether no silence parts it from the next block."""
        return bool(self.stretches) and self.stretches[-1].end_sec == self.end_sec


@dataclass(frozen=True)
class Recording:
    """One speaker's or everybody's channel of a sound file."""

    path: Path  # absolute
    name: str  # unique, for speakers and messages
    duration_sec: float
    channel: Channel = "mix"


def hear(
    recording: Recording,
    recogniser: TimedRecogniser,
    before: Block | None,
    find_speech: SpeechFinder,
) -> Iterator[Block]:
    """Yield the blocks of a recording after the block `before`, or from its start.

    AudioError where the file cannot be read on.
    """
    while before is None or recording.duration_sec - before.end_sec > _REST_SEC:
        before = _hear_block(recording, recogniser, before, find_speech)
        yield before


def load_block(recording: Recording, start_sec: float, end_sec: float) -> Wave:
    """Return a part of a recording at 16 kHz, [N]; AudioError as `audio.load`."""
    return audio.load(
        recording.path,
        sample_rate_hz=RECOGNISER_HZ,
        start_sec=start_sec,
        # To the end, so that what an mp3's header hides is found.
        end_sec=end_sec if end_sec < recording.duration_sec else None,
        channel=recording.channel,
    )


def _hear_block(
    recording: Recording,
    recogniser: TimedRecogniser,
    before: Block | None,
    find_speech: SpeechFinder,
) -> Block:
    start_sec = before.end_sec if before else 0.0
    length_sec = min(BLOCK_SEC, recording.duration_sec - start_sec)
    end_sec = min(start_sec + BLOCK_SEC, recording.duration_sec)
    wave = load_block(recording, start_sec, end_sec)
    spans = find_speech(wave)
    if before and before.ends_in_speech and spans:
        spans[0] = Span(0.0, spans[0].end_sec)
    if end_sec < recording.duration_sec:
        spans, length_sec = end_in_silence(spans, length_sec)
        wave, end_sec = wave[: round(length_sec * RECOGNISER_HZ)], start_sec + length_sec
    stretches = tuple(stretch.moved(start_sec) for stretch in recognise(wave, spans, recogniser))
    return Block(start_sec, end_sec, stretches, to_dbfs(mean_power(wave)))


def end_in_silence(spans: Sequence[Span], length_sec: float) -> tuple[list[Span], float]:
    """Return the speech of a block up to a silence of its second half, and its length.

    The last one that is wide enough, else the widest. Without a silence there, all speech, and the
    last of it reaches to the end of the block.
    """
    starts = [*(span.start_sec for span in spans), length_sec]
    ends = [0.0, *(span.end_sec for span in spans)]
    # The number of spans before a silence, its start and its end.
    silences = [
        (place, max(end, length_sec / 2), start)
        for place, (end, start) in enumerate(zip(ends, starts, strict=True))
        if start - max(end, length_sec / 2) > 0
    ]
    if not silences:
        return [*spans[:-1], Span(spans[-1].start_sec, length_sec)], length_sec
    place, start, end = max(
        silences, key=lambda one: (min(one[2] - one[1], _WIDE_SILENCE_SEC), one[0])
    )
    return list(spans[:place]), (start + end) / 2


def into_chunks(spans: Sequence[Span], limit_sec: float = _CHUNK_SEC) -> Iterator[range]:
    """Yield the places of spans that are heard at once: up to a limit, parted at wide silences.

    A chunk of several spans ends with the widest silence of its second half.
    """
    first = 0
    while first < len(spans):
        start_sec, stop = spans[first].start_sec, first + 1
        while stop < len(spans) and spans[stop].end_sec - start_sec <= limit_sec:
            stop += 1
        if stop < len(spans):
            late = [
                place
                for place in range(first + 1, stop + 1)
                if spans[place - 1].end_sec - start_sec >= limit_sec / 2
            ]
            stop = max(late, key=lambda place: _silence_sec(spans, place), default=stop)
        yield range(first, stop)
        first = stop


def _silence_sec(spans: Sequence[Span], place: int) -> float:
    return spans[place].start_sec - spans[place - 1].end_sec


def recognise(wave: Wave, spans: Sequence[Span], recogniser: TimedRecogniser) -> Iterator[Stretch]:
    """Yield the spans of a wave with their words; times are in seconds of the wave."""
    middles = [(one.end_sec + other.start_sec) / 2 for one, other in itertools.pairwise(spans)]
    limits = [0.0, *middles, len(wave) / RECOGNISER_HZ]
    for chunk in into_chunks(spans):
        # The parts of the wave that are heard, one behind another: speech with silence around it.
        parts: list[Wave] = []
        shifts: list[float] = []  # from the times that are heard to those of the wave
        heard_sec = 0.0
        for place in chunk:
            span = spans[place]
            start = max(limits[place], span.start_sec - _KEPT_SILENCE_SEC)
            end = min(limits[place + 1], span.end_sec + _KEPT_SILENCE_SEC)
            parts.append(wave[round(start * RECOGNISER_HZ) : round(end * RECOGNISER_HZ)])
            shifts.append(start - heard_sec)
            heard_sec += len(parts[-1]) / RECOGNISER_HZ
        heard = recogniser.hear_words(np.concatenate(parts))
        own = [spans[place].moved(-shift) for place, shift in zip(chunk, shifts, strict=True)]
        placed = zip(own, place_words(heard.words, own), shifts, strict=True)
        for span, words, shift in placed:
            yield Stretch(span.start_sec, span.end_sec, words, heard.language).moved(shift)
