"""How something is said: pitch, energy, rate and pauses of one clip.

F0 by Harvest (csm_ft/data/pitch.py) over voiced frames, in semitones.
"""

from collections.abc import Mapping
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from csm_ft.data.audio import Wave
from csm_ft.data.pitch import LEAST_FRAMES, find_voiced, without_octave_errors
from csm_ft.data.silence import WINDOW_SEC, window_power
from csm_ft.evaluate.sound import is_silent

_PAUSE_SEC = 0.15


def pyworld_version() -> str:
    """Return the version of pyworld, which is installed."""
    return version("pyworld")


def measure_prosody(wave: Wave, sample_rate_hz: int, text: str) -> Mapping[str, float]:
    """Measure a wave [N] of a text; what cannot be measured (no voiced frame) is left out.

    Pitch is left out where pyworld is not installed.
    """
    if not len(wave) or is_silent(wave, sample_rate_hz).all():
        return {}
    return {
        **measure_pitch(wave, sample_rate_hz),
        **measure_energy(wave, sample_rate_hz),
        **measure_rate(wave, sample_rate_hz, text),
    }


def measure_pitch(wave: Wave, sample_rate_hz: int) -> Mapping[str, float]:
    """Return mean, 5-95 % range (semitones) and variance (semitones squared) of F0."""
    semitones = pitch(wave, sample_rate_hz)
    if len(semitones) < LEAST_FRAMES:
        return {}
    low, high = np.percentile(semitones, [5, 95])
    return {
        "f0_mean_st": float(semitones.mean()),
        "f0_range_st": float(high - low),
        "f0_variance_st2": float(semitones.var()),
    }


def pitch(wave: Wave, sample_rate_hz: int) -> NDArray[np.float64]:
    """Return F0 of the voiced frames, in semitones over 100 Hz; empty without pyworld."""
    voiced = find_voiced(wave, sample_rate_hz, "harvest")
    silent = is_silent(wave, sample_rate_hz) if len(wave) else np.ones(1, bool)
    window = np.minimum((voiced.times_sec / WINDOW_SEC).astype(int), len(silent) - 1)
    return without_octave_errors(voiced.semitones[~silent[window]])


def measure_energy(wave: Wave, sample_rate_hz: int) -> Mapping[str, float]:
    """Return mean and 5-95 % range of the level of windows that are not silent, in dB."""
    power = window_power(wave, sample_rate_hz)[~is_silent(wave, sample_rate_hz)]
    if not len(power):
        return {}
    levels = 10 * np.log10(np.maximum(power, 1e-12))
    low, high = np.percentile(levels, [5, 95])
    return {"energy_mean_db": float(levels.mean()), "energy_range_db": float(high - low)}


def measure_rate(wave: Wave, sample_rate_hz: int, text: str) -> Mapping[str, float]:
    """Return letters per second between first and last sound, and the share that is pauses.

    A pause is silence of 150 ms or more between sounds.
    """
    loud = np.flatnonzero(~is_silent(wave, sample_rate_hz))
    num_letters = sum(letter.isalnum() for letter in text)
    if not len(loud) or not num_letters:
        return {}
    spoken_sec = (loud[-1] - loud[0] + 1) * WINDOW_SEC
    gaps_sec = (np.diff(loud) - 1) * WINDOW_SEC
    pauses_sec = gaps_sec[gaps_sec >= _PAUSE_SEC].sum()
    return {
        "letters_per_sec": num_letters / spoken_sec,
        "pause_share": float(pauses_sec / spoken_sec),
    }
