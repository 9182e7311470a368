"""Clips brought to one level, where that is asked for: loudness is half of an emotion.

The level is the rms of the windows of 20 ms that are not silent, so that pauses do not count. A
plain level, not the loudness of ITU-R BS.1770, whose gates need more sound than many clips have.
"""

import math

import numpy as np

from csm_ft.data.audio import Wave
from csm_ft.data.measures import FLOOR_DBFS, SILENT_DBFS, Measures, to_dbfs
from csm_ft.data.silence import window_power

_HIGHEST_PEAK = 0.99
_BELOW_LOUDEST_DB = 30.0


def set_level(
    wave: Wave, sample_rate_hz: int, measures: Measures, level_dbfs: float
) -> tuple[Wave, Measures]:
    """Return a wave [N] or [2, N] at a level, and what was measured on it as it then is.

    Peaks stay below full scale: a clip is raised less where they would not. Silence stays silence.
    """
    power = window_power(wave, sample_rate_hz)
    loudest = to_dbfs(float(power.max()))
    if loudest < SILENT_DBFS:
        return wave, measures
    sounding = power[power >= 10 ** ((loudest - _BELOW_LOUDEST_DB) / 10)]
    gain_db = level_dbfs - to_dbfs(float(sounding.mean()))
    peak = float(np.abs(wave).max())
    gain_db = min(gain_db, 20 * math.log10(_HIGHEST_PEAK / peak))
    gain = 10 ** (gain_db / 20)
    return (wave * gain).astype(np.float32), measures._replace(
        level_dbfs=max(FLOOR_DBFS, measures.level_dbfs + gain_db),
        peak=measures.peak * gain,
        noise_floor_dbfs=max(FLOOR_DBFS, measures.noise_floor_dbfs + gain_db),
    )
