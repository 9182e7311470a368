"""What is measured on a sound without knowing its words: level, clipping, bandwidth, silences."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from csm_ft.data.audio import Wave
from csm_ft.data.measures import CLIPPED, SILENT_DBFS, mean_power, to_dbfs
from csm_ft.data.silence import WINDOW_SEC, window_power

_BELOW_LOUDEST_DB = 40.0  # a window this much below the loudest one is silent
_ROLL_OFF = 0.99  # share of the energy below the bandwidth
_SPECTRUM_SAMPLES = 1024


def measure_sound(wave: Wave, sample_rate_hz: int) -> Mapping[str, float]:
    """Measure a wave [N]; an empty one has no level or bandwidth, and all of it is silent.

    Silences are windows of 20 ms that are 40 dB below the loudest one, or below -60 dBFS: at the
    start, at the end, and the longest one within.
    """
    if not len(wave):
        return {"seconds": 0.0, "silence_start_sec": 0.0, "silence_end_sec": 0.0}
    return {
        "seconds": len(wave) / sample_rate_hz,
        "level_dbfs": to_dbfs(mean_power(wave)),
        "clipped_share": float(np.mean(np.abs(wave) >= CLIPPED)),
        "bandwidth_hz": bandwidth_hz(wave, sample_rate_hz),
        **silences(wave, sample_rate_hz),
    }


def bandwidth_hz(wave: Wave, sample_rate_hz: int) -> float:
    """Return the frequency below which 99 % of the energy lies, from windows of 1024 samples."""
    length = min(_SPECTRUM_SAMPLES, len(wave))
    starts = np.arange(0, len(wave) - length + 1, max(1, length // 2))
    windows = np.lib.stride_tricks.sliding_window_view(wave, length)[starts]
    power = np.square(np.abs(np.fft.rfft(windows * np.hanning(length), axis=1))).sum(axis=0)
    total = np.cumsum(power)
    if not total[-1]:
        return 0.0
    place = int(np.searchsorted(total, _ROLL_OFF * total[-1]))
    return place * sample_rate_hz / length


def silences(wave: Wave, sample_rate_hz: int) -> Mapping[str, float]:
    """Return the seconds of silence at the start and the end, and of the longest pause between."""
    loud = np.flatnonzero(~is_silent(wave, sample_rate_hz))
    if not len(loud):
        seconds = len(wave) / sample_rate_hz
        return {"silence_start_sec": seconds, "silence_end_sec": seconds, "longest_pause_sec": 0.0}
    num_windows = -(-len(wave) // max(1, round(WINDOW_SEC * sample_rate_hz)))
    gaps = np.diff(loud) - 1
    return {
        "silence_start_sec": float(loud[0] * WINDOW_SEC),
        "silence_end_sec": float((num_windows - 1 - loud[-1]) * WINDOW_SEC),
        "longest_pause_sec": float(gaps.max(initial=0) * WINDOW_SEC),
    }


def is_silent(wave: Wave, sample_rate_hz: int) -> NDArray[np.bool_]:
    """Tell which windows of 20 ms are silent."""
    power = window_power(wave, sample_rate_hz)
    loudest = float(power.max(initial=0.0)) / 10 ** (_BELOW_LOUDEST_DB / 10)
    return power < max(loudest, 10 ** (SILENT_DBFS / 10))
