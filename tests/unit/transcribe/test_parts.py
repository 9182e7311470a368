"""Recordings are cut in their pauses; what is silent is no part."""

from itertools import pairwise

import numpy as np
import pytest

from csm_ft.transcribe.parts import MIN_SEC, Part, cut

RATE_HZ = 16000


def speech(*spans: tuple[float, float], seconds: float) -> np.ndarray:
    """Noise within the spans, nothing between them."""
    wave = np.zeros(round(seconds * RATE_HZ), np.float32)
    for start, stop in spans:
        first, last = round(start * RATE_HZ), round(stop * RATE_HZ)
        wave[first:last] = np.random.default_rng(first).uniform(-0.3, 0.3, last - first)
    return wave


def times(parts: list[Part]) -> list[tuple[float, float]]:
    return [(part.start / RATE_HZ, part.stop / RATE_HZ) for part in parts]


def test_short_recording_is_one_part() -> None:
    assert times(cut(speech((0, 3), seconds=3), RATE_HZ, max_sec=30)) == [(0, 3)]


def test_cuts_are_in_pauses() -> None:
    wave = speech((0, 8), (9, 17), (18, 24), seconds=24)
    found = times(cut(wave, RATE_HZ, max_sec=10))
    expected = [(0, 8.2), (8.8, 17.2), (17.8, 24)]
    assert np.allclose(found, expected, atol=0.03)


@pytest.mark.parametrize("seed", range(4))
def test_parts_are_short_enough_and_lose_no_speech(seed: int) -> None:
    random = np.random.default_rng(seed)
    wave = random.normal(scale=0.1, size=round(random.uniform(20, 60) * RATE_HZ))
    parts = cut(wave.astype(np.float32), RATE_HZ, max_sec=7)
    assert all(MIN_SEC <= stop - start <= 7 for start, stop in times(parts))
    assert sum(part.stop - part.start for part in parts) >= len(wave) - MIN_SEC * RATE_HZ
    assert all(a.stop <= b.start for a, b in pairwise(parts))


@pytest.mark.parametrize("num_samples", [0, 10, 5 * RATE_HZ])
def test_silence_has_no_part(num_samples: int) -> None:
    assert cut(np.zeros(num_samples, np.float32), RATE_HZ, max_sec=2) == []
