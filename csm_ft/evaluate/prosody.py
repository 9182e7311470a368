"""How something is said: pitch, energy, rate and pauses of one clip.

F0 by pyworld's Harvest (M. Morise, "Harvest: A high-performance fundamental frequency estimator
from speech signals", Interspeech 2017), refined by StoneMask, over voiced frames, in semitones.
"""

from collections.abc import Mapping
from functools import cache
from importlib.machinery import PathFinder
from importlib.metadata import version
from importlib.util import find_spec, module_from_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csm_ft.data.audio import Wave
from csm_ft.data.silence import WINDOW_SEC, window_power
from csm_ft.evaluate.sound import is_silent

REFERENCE_HZ = 100.0  # 0 semitones
_FLOOR_HZ, _CEILING_HZ = 55.0, 880.0
_FRAME_MS = 10.0
_OCTAVE = 12.0
_JUMP = 9.0  # semitones from the clip's median beyond which a frame may be an octave error
_PAUSE_SEC = 0.15
_LEAST_FRAMES = 5  # voiced frames below which a clip has no pitch to speak of


@cache
def pyworld() -> Any | None:
    """Return pyworld's compiled module, or None where it is not installed.

    The package around it imports pkg_resources, which current setuptools lacks, for its version.
    """
    package = find_spec("pyworld")
    if package is None:
        return None
    spec = PathFinder.find_spec("pyworld.pyworld", package.submodule_search_locations)
    if spec is None or spec.loader is None:
        return None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    if len(semitones) < _LEAST_FRAMES:
        return {}
    low, high = np.percentile(semitones, [5, 95])
    return {
        "f0_mean_st": float(semitones.mean()),
        "f0_range_st": float(high - low),
        "f0_variance_st2": float(semitones.var()),
    }


def pitch(wave: Wave, sample_rate_hz: int) -> NDArray[np.float64]:
    """Return F0 of the voiced frames, in semitones over 100 Hz; empty without pyworld."""
    world = pyworld()
    if world is None or not len(wave):
        return np.empty(0)
    samples = wave.astype(np.float64)
    found, times = world.harvest(
        samples, sample_rate_hz, f0_floor=_FLOOR_HZ, f0_ceil=_CEILING_HZ, frame_period=_FRAME_MS
    )
    refined = world.stonemask(samples, found, times, sample_rate_hz)
    silent = is_silent(wave, sample_rate_hz)
    window = np.minimum((times / WINDOW_SEC).astype(int), len(silent) - 1)
    voiced = refined[(refined > 0) & ~silent[window]]
    return without_octave_errors(12 * np.log2(voiced / REFERENCE_HZ))


def without_octave_errors(semitones: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move frames that lie about an octave from their neighbours' median by that octave.

    Only where most of the clip lies elsewhere: a voice that rises by an octave and stays is kept.
    """
    if len(semitones) < _LEAST_FRAMES:
        return semitones
    half = 15  # frames on either side: 150 ms
    padded = np.pad(semitones, half, mode="reflect" if len(semitones) > half else "edge")
    local = np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1), axis=1)
    jump = semitones - local
    return np.where(np.abs(jump) > _JUMP, semitones - _OCTAVE * np.sign(jump), semitones)


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
