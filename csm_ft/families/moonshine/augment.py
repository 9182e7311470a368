"""Training sound made different each epoch: speed, silenced stretches, bands left out.

Everything is drawn from the key of the example (seed, epoch, clip), so that neighbours, workers and
order do not matter; validation has no key and hears the clips as they are. Imports no torch.
"""

import hashlib

import numpy as np
import soxr
from numpy.typing import NDArray

from csm_ft.families.moonshine.config import MoonshineConfig
from csm_ft.families.moonshine.size import MIN_SAMPLES, SAMPLE_RATE_HZ

Samples = NDArray[np.int16]


def augments(config: MoonshineConfig) -> bool:
    """Tell whether any option changes the sound."""
    return bool(config.speed_perturbation or config.time_mask_sec or config.band_mask_hz)


def augment(samples: Samples, config: MoonshineConfig, key: str) -> Samples:
    """Return the sound [n] of an example as training hears it under this key, [m]."""
    generator = _generator(key)
    if config.speed_perturbation:
        samples = change_speed(samples, config.speed_perturbation, generator)
    if config.band_mask_hz:
        samples = mask_band(samples, config.band_mask_hz, generator)
    if config.time_mask_sec:
        samples = mask_time(samples, config.time_mask_sec, generator)
    return samples


def change_speed(samples: Samples, most: float, generator: np.random.Generator) -> Samples:
    """Play the sound at 1 - most to 1 + most of its speed, as a tape does: pitch moves with it.

    A clip that would have no frame left stays as it is.
    """
    speed = generator.uniform(1 - most, 1 + most)
    changed = soxr.resample(samples, SAMPLE_RATE_HZ * speed, SAMPLE_RATE_HZ)
    return changed if len(changed) >= MIN_SAMPLES else samples


def mask_time(samples: Samples, longest_sec: float, generator: np.random.Generator) -> Samples:
    """Silence one stretch of each second, or of the whole clip if it is shorter."""
    samples = samples.copy()
    for start in range(0, len(samples), SAMPLE_RATE_HZ):
        room = min(SAMPLE_RATE_HZ, len(samples) - start)
        length = min(room, round(generator.uniform(0, longest_sec) * SAMPLE_RATE_HZ))
        first = start + int(generator.integers(0, room - length + 1))
        samples[first : first + length] = 0
    return samples


def mask_band(samples: Samples, widest_hz: float, generator: np.random.Generator) -> Samples:
    """Leave out one band of frequencies."""
    width_hz = generator.uniform(0, widest_hz)
    low_hz = generator.uniform(0, SAMPLE_RATE_HZ / 2 - width_hz)
    spectrum = np.fft.rfft(samples.astype(np.float32))
    frequencies_hz = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE_HZ)
    spectrum[(frequencies_hz >= low_hz) & (frequencies_hz < low_hz + width_hz)] = 0
    sound = np.fft.irfft(spectrum, len(samples))
    return np.clip(np.round(sound), -32768, 32767).astype(np.int16)


def _generator(key: str) -> np.random.Generator:
    digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, dtype=np.uint64)))
