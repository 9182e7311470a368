"""Sounds small enough for one page: MP3 as a data URI, and an outline to see before listening."""

import base64
import functools
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from csm_ft.data.measures import to_dbfs
from csm_ft.data.silence import window_power
from csm_ft.evaluate.sound import is_silent

NUM_BARS = 72
MP3_RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
# libsndfile's 0..1; constant bit rate: 48 kbit/s at 24 kHz, more than a voice needs.
MP3_COMPRESSION = 0.7
_MOST_MEASURED = 10_000  # sounds that are remembered: a page that is watched is made many times


@dataclass(frozen=True)
class Sound:
    """A sound as it stands in a page."""

    uri: str  # data URI
    outline: str  # SVG path of its loudness, NUM_BARS wide and 2 high around 0
    seconds: float  # as decoded


@dataclass(frozen=True)
class Look:
    """What one sees of a sound before listening, and how loud it is."""

    outline: str
    level_dbfs: float | None  # rms of the windows that are not silent; None = nothing sounds


def load(wav: Path, gain: float = 1.0) -> Sound:
    """Compress one sound file, mono or stereo, `gain` times as loud.

    Raises OSError or soundfile.LibsndfileError if it cannot be read.
    """
    wave, sample_rate_hz = _read(wav)
    wave = (gain * wave).clip(-1, 1)
    file = io.BytesIO()
    if sample_rate_hz in MP3_RATES_HZ and len(wave):
        kind = "audio/mpeg"
        soundfile.write(
            file,
            wave,
            sample_rate_hz,
            format="MP3",
            bitrate_mode="CONSTANT",
            compression_level=MP3_COMPRESSION,
        )
    else:
        kind = "audio/wav"
        soundfile.write(file, wave, sample_rate_hz, format="WAV", subtype="PCM_16")
    uri = f"data:{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
    return Sound(uri, outline(wave), len(wave) / sample_rate_hz)


def look(wav: Path) -> Look:
    """Measure one sound file, again only when it has changed; errors as of `load`."""
    facts = wav.stat()
    return _look(wav, facts.st_mtime_ns, facts.st_size)


@functools.lru_cache(maxsize=_MOST_MEASURED)
def _look(wav: Path, _changed_ns: int, _num_bytes: int) -> Look:
    wave, sample_rate_hz = _read(wav)
    sounding = np.empty(0)
    if len(wave):
        mixed = wave.mean(axis=1)
        power = window_power(mixed, sample_rate_hz)
        sounding = power[~is_silent(mixed, sample_rate_hz)]
    return Look(outline(wave), to_dbfs(float(sounding.mean())) if len(sounding) else None)


def _read(wav: Path) -> tuple[np.ndarray, int]:
    """Return the sound [N, C] of a file, C at most 2, and its rate."""
    wave, sample_rate_hz = soundfile.read(wav, dtype="float32", always_2d=True)
    if wave.shape[1] > 2:
        wave = wave.mean(axis=1, keepdims=True)
    return np.nan_to_num(wave).clip(-1, 1), sample_rate_hz


def outline(wave: np.ndarray) -> str:
    """Return one bar per NUM_BARS-th of a wave [N, C], as high as its peak, as an SVG path.

    Of two channels, the left one is the upper half. The page stretches it to the width of the
    player.
    """
    parts = np.array_split(wave, NUM_BARS)
    peaks = np.array([np.abs(p).max(axis=0) if len(p) else np.zeros(wave.shape[1]) for p in parts])
    top = max(peaks.max(initial=0.0), 0.05)  # so that near-silence looks like silence
    heights = np.maximum(0.04, peaks / top)
    return "".join(f"M{i + 0.5:g} {-h[0]:.2f}V{h[-1]:.2f}" for i, h in enumerate(heights))
