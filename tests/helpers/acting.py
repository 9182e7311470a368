"""Acts recordings: WORLD analyses a clip once and speaks it with another pitch, rate and level.

M. Morise, F. Yokomori, K. Ozawa, "WORLD: A vocoder-based high-quality speech synthesis system for
real-time applications", IEICE Transactions on Information and Systems, 2016.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from csm_ft.data.audio import Wave
from csm_ft.data.pitch import NOT_INSTALLED, pyworld


class Manner(NamedTuple):
    """How a clip is changed."""

    semitones: float
    rate: float  # above 1 is faster
    level_db: float

    def vary(self, generator: np.random.Generator) -> "Manner":
        """Return a manner near this one: 1 semitone, 8 % of the rate and 1 dB at most."""
        semitones, rate, level_db = generator.uniform(-1, 1, 3)
        return Manner(
            self.semitones + semitones, self.rate * np.exp(0.08 * rate), self.level_db + level_db
        )


class Analysis(NamedTuple):
    """What WORLD finds in a clip, a frame each 5 ms."""

    f0_hz: NDArray[np.float64]  # [T]
    envelope: NDArray[np.float64]  # [T, bins]
    aperiodicity: NDArray[np.float64]  # [T, bins]


def analyse(wave: Wave, sample_rate_hz: int) -> Analysis:
    world = pyworld()
    assert world is not None, NOT_INSTALLED
    samples = wave.astype(np.float64)
    found, times_sec = world.dio(samples, sample_rate_hz, f0_floor=70.0, f0_ceil=500.0)
    f0_hz = world.stonemask(samples, found, times_sec, sample_rate_hz)
    envelope = world.cheaptrick(samples, f0_hz, times_sec, sample_rate_hz)
    return Analysis(f0_hz, envelope, world.d4c(samples, f0_hz, times_sec, sample_rate_hz))


def act(clip: Analysis, sample_rate_hz: int, manner: Manner) -> Wave:
    world = pyworld()
    assert world is not None, NOT_INSTALLED
    places = np.arange(0, len(clip.f0_hz) - 1, manner.rate).round().astype(int)
    f0_hz = clip.f0_hz[places] * 2 ** (manner.semitones / 12)
    frames = (np.ascontiguousarray(part[places]) for part in (clip.envelope, clip.aperiodicity))
    wave = world.synthesize(f0_hz, *frames, sample_rate_hz)
    return np.clip(wave * 10 ** (manner.level_db / 20), -1, 1).astype(np.float32)
