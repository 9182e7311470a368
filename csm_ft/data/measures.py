"""What is measured on a clip while its file is read: what tokens do not show any more."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from csm_ft.data.pitch import (
    LEAST_FRAMES,
    REFERENCE_HZ,
    find_voiced,
    without_octave_errors,
)
from csm_ft.data.silence import find_silence, window_power

FLOOR_DBFS = -120.0  # what digital silence is given as: JSON has no infinity
SILENT_DBFS = -60.0  # rms below which nothing can be heard in a recording of speech
CLIPPED = 0.999  # absolute value from which a sample counts as clipped

_SILENT_BELOW_LOUDEST_DB = 30.0  # between a vowel and a pause
# A flat top: samples as high as the highest one of their side. Tops of quiet waves are flat anyway.
_FLAT_SHARE, _FLAT_SAMPLES, _FLAT_FROM = 0.9995, 3, 0.25


class Measures(NamedTuple):
    """Levels of one clip; NaN = not measured."""

    level_dbfs: float = math.nan  # rms of the wave that is encoded; -120 for digital silence
    peak: float = math.nan  # largest absolute sample of that wave
    # Share of 20 ms windows that are 30 dB below the loudest one, or below -60 dBFS.
    silence_share: float = math.nan
    clipped_share: float = math.nan  # samples in flat tops, in the worst channel of the file
    mix_loss_db: float = math.nan  # mean level of the channels over their mix; NaN = none is mixed
    noise_floor_dbfs: float = math.nan  # level below which 5 % of the 20 ms windows are
    leading_silence_sec: float = math.nan
    trailing_silence_sec: float = math.nan
    f0_median_hz: float = math.nan  # of voiced frames; NaN also where nothing is voiced
    f0_range_st: float = math.nan  # between 5 and 95 % of them, in semitones

    @property
    def are_known(self) -> bool:
        """Whether the clip was measured."""
        return not math.isnan(self.level_dbfs)


class Meter:
    """Level and clipping of the channels of a file, which is read block by block."""

    def __init__(self) -> None:
        self._num_samples = 0
        self._power: NDArray[np.float64] | float = 0.0  # sum of squares, [channels]
        self._tops: NDArray[np.float32] | float = 0.0  # [2 * channels]: upper and lower sides
        self._num_flat: NDArray[np.int64] | float = 0.0  # samples as high as these, [2 * channels]

    def add(self, block: NDArray[Any]) -> None:
        """Add the next samples, [frames, channels]."""
        self._num_samples += len(block)
        self._power = self._power + np.einsum("nc,nc->c", block, block, dtype=np.float64)
        sides = np.concatenate([block, -block], axis=1)
        tops = np.maximum(self._tops, sides.max(axis=0))
        grown = tops * _FLAT_SHARE > self._tops  # what was counted was no top
        num_flat = _num_flat(sides, np.minimum(tops * _FLAT_SHARE, CLIPPED))
        self._num_flat = np.where(grown, 0, self._num_flat) + num_flat * (tops >= _FLAT_FROM)
        self._tops = tops

    @property
    def clipped_share(self) -> float:
        """Share of samples in flat tops, in the worst channel."""
        upper, lower = np.reshape(self._num_flat, (2, -1))
        return float((upper + lower).max() / self._num_samples)

    def mix_loss_db(self, mix: NDArray[np.float32]) -> float:
        """Return how much lower the level of the mix [N] is than the mean level of the channels."""
        channels = float(np.mean(self._power)) / self._num_samples
        return to_dbfs(channels) - to_dbfs(mean_power(mix))


def measure(
    wave: NDArray[np.float32], sample_rate_hz: int, *, clipped_share: float, mix_loss_db: float
) -> Measures:
    """Measure the wave that is encoded, [N] or [2, N]; the rest comes from the Meter of its file.

    A window of two channels is silent when both are.
    """
    windows = window_power(wave, sample_rate_hz)
    loudest = float(windows.max()) / 10 ** (_SILENT_BELOW_LOUDEST_DB / 10)
    silent_below = max(loudest, 10 ** (SILENT_DBFS / 10))
    silence = find_silence(wave, sample_rate_hz)
    f0_median_hz, f0_range_st = _pitch(wave, sample_rate_hz)
    return Measures(
        level_dbfs=to_dbfs(mean_power(wave)),
        peak=float(np.abs(wave).max()),
        silence_share=float(np.mean(windows < silent_below)),
        clipped_share=clipped_share,
        mix_loss_db=mix_loss_db,
        noise_floor_dbfs=silence.noise_floor_dbfs,
        leading_silence_sec=silence.leading_sec,
        trailing_silence_sec=silence.trailing_sec,
        f0_median_hz=f0_median_hz,
        f0_range_st=f0_range_st,
    )


def _pitch(wave: NDArray[np.float32], sample_rate_hz: int) -> tuple[float, float]:
    """Return the median F0 (Hz) and its 5-95 % range (semitones) of a wave [N] or [2, N], mixed.

    NaN without pyworld, and where nothing is voiced.
    """
    mono = wave if wave.ndim == 1 else wave.mean(axis=0)
    semitones = without_octave_errors(find_voiced(mono, sample_rate_hz, "dio").semitones)
    if len(semitones) < LEAST_FRAMES:
        return math.nan, math.nan
    low, high = np.percentile(semitones, [5, 95])
    return float(REFERENCE_HZ * 2 ** (np.median(semitones) / 12)), float(high - low)


def mean_power(wave: NDArray[np.floating]) -> float:
    """Return the mean square of a wave."""
    return float(np.square(wave, dtype=np.float64).mean())


def to_dbfs(power: float) -> float:
    """Return a mean square as dBFS, -120 or more."""
    return max(FLOOR_DBFS, 10 * math.log10(max(power, 1e-30)))


def _num_flat(sides: NDArray[np.float32], limits: NDArray[np.float32]) -> NDArray[np.int64]:
    """Count samples at or above the limit, at least three in a row, for each side [frames, 2C].

    A single sample is the peak of a wave; tones and voices hardly have three there.
    """
    is_top = sides >= limits
    num_runs = max(0, len(is_top) - _FLAT_SAMPLES + 1)
    in_run = np.zeros_like(is_top)
    starts = np.ones_like(is_top[:num_runs])
    for shift in range(_FLAT_SAMPLES):
        starts &= is_top[shift : shift + num_runs]
    for shift in range(_FLAT_SAMPLES):
        in_run[shift : shift + num_runs] |= starts
    return in_run.sum(axis=0)
