"""A recording cut into parts that a recogniser can hear at once, where it is most silent.

Shapes: N samples of a wave, W windows of 20 ms.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from csm_ft.data.audio import SILENCE_DBFS, Wave
from csm_ft.data.silence import WINDOW_SEC, find_silence, window_power

MIN_SEC = 0.1  # a shorter part has no word
_PAUSE_SEC = 0.3  # cuts are in the middle of the quietest so many seconds
_MARGIN_SEC = 0.2  # of the silence around speech that stays
_EQUAL_POWER = 1e-12  # differences of digital silence, by rounding
_EARLIEST = 0.5  # share of the longest part after which a cut may be


@dataclass(frozen=True)
class Part:
    """Samples [start, stop) of a recording."""

    start: int
    stop: int


def cut(wave: Wave, sample_rate_hz: int, *, max_sec: float) -> list[Part]:
    """Return the parts of a wave [N] in which there is sound, in order.

    A part is no longer than `max_sec`; silence at its ends is cut but for 0.2 s.
    """
    longest = round(max_sec * sample_rate_hz)
    ends = list(_ends(wave, sample_rate_hz, longest))
    parts = (
        _without_silence(wave, Part(start, stop), sample_rate_hz)
        for start, stop in zip([0, *ends], ends, strict=False)
    )
    return [part for part in parts if part.stop - part.start >= MIN_SEC * sample_rate_hz]


def _ends(wave: Wave, sample_rate_hz: int, longest: int) -> Iterator[int]:
    """Yield the ends of all parts; the last one is the end of the wave."""
    powers = _smooth(window_power(wave, sample_rate_hz)) if len(wave) > longest else None
    start = 0
    while powers is not None and len(wave) - start > longest:
        window = round(WINDOW_SEC * sample_rate_hz)
        first = (start + round(_EARLIEST * longest)) // window
        last = max(first + 1, (start + longest) // window)
        start = (first + _quietest(powers[first:last])) * window
        yield start
    yield len(wave)


def _quietest(powers: NDArray[np.float64]) -> int:
    """Return the quietest window; of several in a row that are equal, the one in the middle."""
    is_louder = powers > powers.min() + _EQUAL_POWER
    first = int(np.argmin(is_louder))
    length = int(np.argmax(is_louder[first:])) or len(powers) - first
    return first + length // 2


def _smooth(powers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of _PAUSE_SEC around each window, [W]."""
    size = round(_PAUSE_SEC / WINDOW_SEC)
    return np.convolve(powers, np.full(size, 1 / size), mode="same")


def _without_silence(wave: Wave, part: Part, sample_rate_hz: int) -> Part:
    """Return a part without the silence at its ends; an empty one where nothing is heard."""
    sound = wave[part.start : part.stop]
    if not len(sound) or window_power(sound, sample_rate_hz).max() < 10 ** (SILENCE_DBFS / 10):
        return Part(part.start, part.start)
    silence = find_silence(sound, sample_rate_hz)
    before, after = (
        max(0, round((sec - _MARGIN_SEC) * sample_rate_hz))
        for sec in (silence.leading_sec, silence.trailing_sec)
    )
    return Part(part.start + before, part.stop - after) if before < len(sound) - after else part
