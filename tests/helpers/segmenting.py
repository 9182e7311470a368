"""Recordings of tones, which stand for words, and who hears them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from csm_ft.data.audio import Wave
from csm_ft.evaluate.recognise import RECOGNISER_HZ, Heard, Word
from csm_ft.segment.speech import MIN_SILENCE_SEC, Span

_WINDOW_SEC = 0.01
_WORD_SEC = 0.5


def write_tones(
    path: Path, tones: Sequence[tuple[int, float, float]], lead_sec: float = 0.5
) -> Path:
    """Write silence, and (hz, seconds, seconds of silence after it)."""
    parts = [np.zeros(round(lead_sec * RECOGNISER_HZ), np.float32)]
    for hz, sec, silence_sec in tones:
        time = np.arange(round(sec * RECOGNISER_HZ)) / RECOGNISER_HZ
        parts.append((0.3 * np.sin(2 * np.pi * hz * time)).astype(np.float32))
        parts.append(np.zeros(round(silence_sec * RECOGNISER_HZ), np.float32))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.concatenate(parts), RECOGNISER_HZ)
    return path


def find_tones(wave: Wave) -> list[Span]:
    """Return where the tones are, as `find_speech` does for speech."""
    size = round(_WINDOW_SEC * RECOGNISER_HZ)
    windows = wave[: len(wave) // size * size].reshape(-1, size)
    spans: list[Span] = []
    for place in np.flatnonzero(np.abs(windows).max(axis=1, initial=0.0) > 0.05):
        start_sec, end_sec = place * _WINDOW_SEC, (place + 1) * _WINDOW_SEC
        if spans and start_sec - spans[-1].end_sec < MIN_SILENCE_SEC:
            spans[-1] = Span(spans[-1].start_sec, end_sec)
        else:
            spans.append(Span(start_sec, end_sec))
    return spans


class ToneRecogniser:
    """Hears each half second of a tone as a word that names its frequency, with late times."""

    name = "tones 1"
    languages: tuple[str, ...] = ()

    def __init__(self, *, stop_after: int | None = None, probability: float | None = 0.9) -> None:
        self.num_calls = 0
        self.stop_after = stop_after  # calls, then Ctrl-C
        self.probability = probability

    def hear(self, wave: Wave) -> str:
        return "".join(word.text for word in self.hear_words(wave).words).strip()

    def hear_words(self, wave: Wave) -> Heard:
        if self.num_calls == self.stop_after:
            raise KeyboardInterrupt
        self.num_calls += 1
        words: list[Word] = []
        for span in find_tones(wave):
            tone = wave[round(span.start_sec * RECOGNISER_HZ) : round(span.end_sec * RECOGNISER_HZ)]
            hz = round(np.abs(np.fft.rfft(tone)).argmax() * RECOGNISER_HZ / len(tone) / 10) * 10
            count = max(1, round((span.end_sec - span.start_sec) / _WORD_SEC))
            edges = np.linspace(span.start_sec, span.end_sec, count + 1) + 0.15
            texts = [f" {hz}"] * (count - 1) + [f" {hz}."]
            words += [
                Word(text, float(start), float(end), self.probability)
                for text, start, end in zip(texts, edges, edges[1:], strict=False)
            ]
        return Heard(words, "en")
