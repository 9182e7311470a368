"""Where speech is: voice activity, and stretches of speech with their words."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from csm_ft.data.audio import Wave
from csm_ft.data.measures import SILENT_DBFS
from csm_ft.data.silence import WINDOW_SEC, window_power
from csm_ft.errors import ConfigError
from csm_ft.evaluate.recognise import RECOGNISER_HZ, Word

MIN_SILENCE_SEC = 0.1  # what is shorter lies within words: the closure of a p or k
# Voice activity by energy: percentiles of the windows of a wave, and the shortest that is no click.
_FLOOR_PERCENTILE, _TOP_PERCENTILE = 10, 99
_LEAST_POWER = 1e-8  # -80 dBFS: digital silence is not lower than noise that nobody hears
_MIN_LOUD_SEC = 0.06
_NEEDED = ("faster_whisper", "onnxruntime")
_SENTENCE_ENDS = tuple(".?!…。？！؟।")
_PAUSES = tuple(",;:—、，；：،")
_CLOSING = "\"'”’»)]）」』 "


class Span(NamedTuple):
    """A part of a recording."""

    start_sec: float
    end_sec: float

    def moved(self, by_sec: float) -> "Span":
        """Return the part that much later."""
        return Span(self.start_sec + by_sec, self.end_sec + by_sec)


SpeechFinder = Callable[[Wave], list[Span]]  # voice activity of a wave [N] at 16 kHz


@dataclass(frozen=True)
class Stretch:
    """Speech between two silences, with the words that were heard in it."""

    start_sec: float
    end_sec: float
    words: tuple[Word, ...] = ()
    language: str = ""  # as it was heard; "" = not known
    speaker: str = ""

    @property
    def ends_sentence(self) -> bool:
        """Whether its last word ends a sentence, by the punctuation of the recogniser."""
        return bool(self.words) and ends_sentence(self.words[-1].text)

    def moved(self, by_sec: float) -> "Stretch":
        """Return it, and its words, that much later."""
        words = (
            word._replace(start_sec=word.start_sec + by_sec, end_sec=word.end_sec + by_sec)
            for word in self.words
        )
        start_sec, end_sec = self.start_sec + by_sec, self.end_sec + by_sec
        return replace(self, start_sec=start_sec, end_sec=end_sec, words=tuple(words))


def ends_sentence(text: str) -> bool:
    """Tell whether a text ends as a sentence does."""
    return text.rstrip(_CLOSING).endswith(_SENTENCE_ENDS)


def ends_phrase(text: str) -> bool:
    """Tell whether a text ends with a sign for a pause."""
    return text.rstrip(_CLOSING).endswith(_PAUSES)


def check_voice_activity() -> None:
    """Raise ConfigError where the voice activity detector is not installed."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"speech is found by Silero VAD, which comes with faster-whisper:"
            f" {', '.join(missing)} is not installed; pip install faster-whisper==1.2.1"
            " onnxruntime==1.32.0"
        )


def find_speech(wave: Wave) -> list[Span]:
    """Return where speech is in a wave [N] at 16 kHz, between silences of 0.1 s or more."""
    vad: Any = import_module("faster_whisper.vad")
    options = vad.VadOptions(min_silence_duration_ms=round(MIN_SILENCE_SEC * 1000), speech_pad_ms=0)
    found = vad.get_speech_timestamps(wave, options, RECOGNISER_HZ)
    spans = [(one["start"] / RECOGNISER_HZ, one["end"] / RECOGNISER_HZ) for one in found]
    return [Span(start, end) for start, end in spans if end > start]


def find_loud(wave: Wave) -> list[Span]:
    """Return where a wave [N] at 16 kHz is loud, between silences of 0.1 s or more.

    Loud is what is above a third of the way, in dB, from the noise floor to the loudest windows.
    """
    levels_db = 10 * np.log10(np.maximum(window_power(wave, RECOGNISER_HZ), _LEAST_POWER))
    floor_db, top_db = np.percentile(levels_db, (_FLOOR_PERCENTILE, _TOP_PERCENTILE))
    limit_db = max(floor_db + (top_db - floor_db) / 3, SILENT_DBFS)
    spans: list[Span] = []
    for place in np.flatnonzero(levels_db >= limit_db):
        start_sec, end_sec = place * WINDOW_SEC, (place + 1) * WINDOW_SEC
        if spans and start_sec - spans[-1].end_sec < MIN_SILENCE_SEC:
            spans[-1] = Span(spans[-1].start_sec, float(end_sec))
        else:
            spans.append(Span(float(start_sec), float(end_sec)))
    return [span for span in spans if span.end_sec - span.start_sec >= _MIN_LOUD_SEC]


def join_touching(stretches: Sequence[Stretch]) -> Iterator[Stretch]:
    """Yield stretches, those that no silence parts as one: the halves of one across two blocks."""
    held: Stretch | None = None
    for stretch in stretches:
        if held and stretch.start_sec <= held.end_sec:
            words = (*held.words, *stretch.words)
            language = held.language or stretch.language
            held = Stretch(held.start_sec, stretch.end_sec, words, language, held.speaker)
            continue
        if held:
            yield held
        held = stretch
    if held:
        yield held
