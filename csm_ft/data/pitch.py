"""Pitch (F0) of voiced frames by pyworld, where it is installed.

Two estimators, both refined by StoneMask: Harvest (M. Morise, "Harvest: A high-performance
fundamental frequency estimator from speech signals", Interspeech 2017) for judging samples, and DIO
(M. Morise, H. Kawahara, H. Katayose, "Fast and reliable F0 estimation method based on the period
extraction of vocal fold vibration of singing voice and speech", AES 35th International Conference,
2009) for whole corpora: about 50 times faster, with the same median of a clip.
"""

from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from threading import Lock
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

REFERENCE_HZ = 100.0  # 0 semitones
LEAST_FRAMES = 5  # voiced frames below which a clip has no pitch to speak of
NOT_INSTALLED = "pyworld is not installed (pip install pyworld==0.3.5; it takes a C++ compiler)"

_FLOOR_HZ, _CEILING_HZ = 55.0, 880.0
_FRAME_MS = 10.0
_DIO_SPEED = 4  # DIO looks at every fourth sample, which is enough below 880 Hz
_ONE_IMPORT = Lock()
_OCTAVE = 12.0
_JUMP = 9.0  # semitones from the clip's median beyond which a frame may be an octave error


class Voiced(NamedTuple):
    """The voiced frames of a wave, n of them."""

    times_sec: NDArray[np.float64]  # [n]
    semitones: NDArray[np.float64]  # [n], over 100 Hz


def pyworld() -> Any | None:
    """Return pyworld's compiled module, or None where it is not installed; from any thread."""
    with _ONE_IMPORT:  # a compiled module cannot be initialised twice
        return _import_pyworld()


@cache
def _import_pyworld() -> Any | None:
    """Import the compiled part alone.

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


def find_voiced(
    wave: NDArray[np.floating], sample_rate_hz: int, method: Literal["harvest", "dio"]
) -> Voiced:
    """Return the voiced frames of a wave [N], one each 10 ms; none without pyworld."""
    world = pyworld()
    if world is None or not len(wave):
        return Voiced(np.empty(0), np.empty(0))
    samples = wave.astype(np.float64)
    limits = {"f0_floor": _FLOOR_HZ, "f0_ceil": _CEILING_HZ, "frame_period": _FRAME_MS}
    if method == "harvest":
        found, times_sec = world.harvest(samples, sample_rate_hz, **limits)
    else:
        found, times_sec = world.dio(samples, sample_rate_hz, speed=_DIO_SPEED, **limits)
    f0_hz = world.stonemask(samples, found, times_sec, sample_rate_hz)
    is_voiced = f0_hz > 0
    return Voiced(times_sec[is_voiced], 12 * np.log2(f0_hz[is_voiced] / REFERENCE_HZ))


def without_octave_errors(semitones: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move frames that lie about an octave from their neighbours' median by that octave.

    Only where most of the clip lies elsewhere: a voice that rises by an octave and stays is kept.
    """
    if len(semitones) < LEAST_FRAMES:
        return semitones
    half = 15  # frames on either side: 150 ms
    padded = np.pad(semitones, half, mode="reflect" if len(semitones) > half else "edge")
    local = np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1), axis=1)
    jump = semitones - local
    return np.where(np.abs(jump) > _JUMP, semitones - _OCTAVE * np.sign(jump), semitones)
