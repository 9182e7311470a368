"""Where speech begins and ends in a clip, with room for the softest sounds.

A window of 20 ms is silent when it is near the noise floor and far below the loudest window, both
in the wave and after pre-emphasis. The second makes f, s and h stand out against hum, the first
keeps m and v. Where noise is so loud that the two rules leave nothing, nothing counts as silent:
rather some silence too much than a word cut off.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

WINDOW_SEC = 0.02

_PRE_EMPHASIS = 0.97  # y[n] = x[n] - 0.97 x[n - 1]
_FLOOR_PERCENTILE = 5  # of the windows: pauses and stops, of which every sentence has some
_ABOVE_FLOOR_DB = 9.0
_BELOW_LOUDEST_DB = 30.0
_NOTHING_DBFS = -90.0  # dither


class Silence(NamedTuple):
    """Silence at the ends of a clip, and the noise in it."""

    leading_sec: float  # the whole clip where nothing is said
    trailing_sec: float
    noise_floor_dbfs: float  # level below which 5 % of the windows are


def find_silence(wave: NDArray[np.floating], sample_rate_hz: int) -> Silence:
    """Measure the silence before and after speech in a wave [N] or [2, N] that has samples."""
    plain = _levels(wave, sample_rate_hz)
    emphasised = np.copy(wave)
    emphasised[..., 1:] -= _PRE_EMPHASIS * wave[..., :-1]
    is_speech = _is_above(plain) | _is_above(_levels(emphasised, sample_rate_hz))
    duration_sec = wave.shape[-1] / sample_rate_hz
    floor_dbfs = float(np.percentile(plain, _FLOOR_PERCENTILE))
    windows = np.flatnonzero(is_speech)
    if not len(windows):
        return Silence(duration_sec, 0.0, floor_dbfs)
    window_sec = _window_samples(sample_rate_hz) / sample_rate_hz
    trailing_sec = max(0.0, duration_sec - float(windows[-1] + 1) * window_sec)
    return Silence(float(windows[0]) * window_sec, trailing_sec, floor_dbfs)


def window_power(wave: NDArray[np.floating], sample_rate_hz: int) -> NDArray[np.float64]:
    """Return the mean square of every 20 ms of a wave [N] or [2, N]; the last may be shorter."""
    power = np.square(np.atleast_2d(wave), dtype=np.float64).mean(axis=0)
    starts = np.arange(0, len(power), _window_samples(sample_rate_hz))
    return np.add.reduceat(power, starts) / np.diff(starts, append=len(power))


def _window_samples(sample_rate_hz: int) -> int:
    return max(1, round(WINDOW_SEC * sample_rate_hz))


def _levels(wave: NDArray[np.floating], sample_rate_hz: int) -> NDArray[np.float64]:
    """Return the levels of the windows in dBFS, [windows], -120 or more."""
    return 10 * np.log10(np.maximum(window_power(wave, sample_rate_hz), 1e-12))


def _is_above(levels: NDArray[np.float64]) -> NDArray[np.bool_]:
    floor = float(np.percentile(levels, _FLOOR_PERCENTILE))
    silent_below = min(floor + _ABOVE_FLOOR_DB, float(levels.max()) - _BELOW_LOUDEST_DB)
    return levels >= max(silent_below, _NOTHING_DBFS)
