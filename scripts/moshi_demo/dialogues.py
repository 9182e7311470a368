"""Stereo dialogues out of questions and answers, spoken word by word, so that times are exact.

Left is Moshi, right the user. Words begin with a frame of the codec, so that a word nearly always
has the same codes: a tiny model then knows it after a few minutes of training.
"""

import random
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from pairs import BACKCHANNELS, Talk

Wave = NDArray[np.float32]
SAMPLE_RATE_HZ, FRAME_SAMPLES = 16000, 1280
MOSHI, USER = 0, 1  # channels
VOICES = {MOSHI: ("f5", 180, 50), USER: ("m3", 200, 40)}  # variant, words per minute, pitch
DIALECTS = {"en": "en-us", "ja": "ja"}
LEVEL = 0.07  # root mean square of every word
AMPLITUDE_STEPS = 1024  # 11 bits: small FLAC files, noise 60 dB below the peak
SILENCE = 0.01  # share of the peak below which either end of a word is cut off
GAP_SEC = 0.03  # between words, at least


@dataclass(frozen=True)
class Spoken:
    """A word of a dialogue."""

    text: str
    channel: int
    start: int  # samples
    wave: Wave

    @property
    def stop(self) -> int:
        """The sample behind it."""
        return self.start + len(self.wave)


@dataclass
class Dialogue:
    """Words on two channels."""

    language: str
    words: list[Spoken] = field(default_factory=list)

    def say(self, channel: int, text: str, start_sec: float) -> float:
        """Add a sentence, and return the time of its end."""
        start = round(start_sec * SAMPLE_RATE_HZ)
        for word in text.split():
            start = -(-start // FRAME_SAMPLES) * FRAME_SAMPLES
            self.words.append(Spoken(word, channel, start, spoken(word, channel, self.language)))
            start = self.words[-1].stop + round(GAP_SEC * SAMPLE_RATE_HZ)
        return self.words[-1].stop / SAMPLE_RATE_HZ

    def sound(self, tail_sec: float = 0.8) -> Wave:
        """Return both channels, [N, 2]."""
        last = max(word.stop for word in self.words)
        wave = np.zeros((last + round(tail_sec * SAMPLE_RATE_HZ), 2), dtype=np.float32)
        for word in self.words:
            wave[word.start : word.stop, word.channel] += word.wave
        steps = np.round(wave * AMPLITUDE_STEPS).clip(-AMPLITUDE_STEPS, AMPLITUDE_STEPS - 1)
        return (steps / AMPLITUDE_STEPS).astype(np.float32)

    def alignments(self) -> list[tuple[str, tuple[float, float], str]]:
        """Return the words as kyutai's tools write them, by their start."""
        names = {MOSHI: "SPEAKER_MAIN", USER: "SPEAKER_OTHER"}
        return [
            (word.text, (_seconds(word.start), _seconds(word.stop)), names[word.channel])
            for word in sorted(self.words, key=lambda word: word.start)
        ]


def converse(talk: Talk, random_source: random.Random) -> Dialogue:
    """Speak a dialogue: answers after a short gap, some overlap, some backchannels and silences."""
    dialogue = Dialogue(talk.language)
    time_sec = random_source.uniform(0.2, 0.8)
    for question, answer in talk.pairs:
        asked_sec = dialogue.say(USER, question, time_sec)
        gap_sec = -0.15 if random_source.random() < 0.1 else random_source.uniform(0.2, 0.4)
        start_sec = asked_sec + gap_sec
        end_sec = dialogue.say(MOSHI, answer, start_sec)
        heard_sec = asked_sec
        if random_source.random() < 0.25:
            sign = random_source.choice(BACKCHANNELS[talk.language])
            middle_sec = (max(asked_sec, start_sec) + end_sec) / 2
            heard_sec = dialogue.say(USER, sign, middle_sec)
        # Mostly a pause; sometimes a long one, sometimes the next question begins too early.
        pause_sec = random_source.choices((-0.2, 2.5, random_source.uniform(0.4, 1.0)), (1, 1, 8))
        time_sec = max(heard_sec + 0.1, end_sec + pause_sec[0])
    return dialogue


@cache
def spoken(word: str, channel: int, language: str) -> Wave:
    """Return a word as espeak-ng says it: 16 kHz mono, silence cut off, level normalised."""
    variant, words_per_min, pitch = VOICES[channel]
    voice = ["-v", f"{DIALECTS[language]}+{variant}", "-s", str(words_per_min), "-p", str(pitch)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "word.wav"
        subprocess.run(["espeak-ng", *voice, "-w", str(path), "--", word], check=True)
        wave, rate_hz = soundfile.read(path, dtype="float32")
    wave = soxr.resample(wave, rate_hz, SAMPLE_RATE_HZ)
    loud = np.flatnonzero(np.abs(wave) > SILENCE * np.abs(wave).max())
    wave = wave[loud[0] : loud[-1] + 1]
    return wave * (LEVEL / np.sqrt(np.mean(wave**2)))


def texts(talks: Sequence[Talk]) -> list[str]:
    """Return every sentence of both speakers."""
    return [text for talk in talks for pair in talk.pairs for text in pair]


def _seconds(samples: int) -> float:
    return round(samples / SAMPLE_RATE_HZ, 5)
