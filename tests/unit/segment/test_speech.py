"""Voice activity by energy."""

import numpy as np
import pytest

from csm_ft.evaluate.recognise import RECOGNISER_HZ
from csm_ft.segment.speech import find_loud
from tests.helpers.segmenting import find_tones


def tones(noise: float) -> np.ndarray:
    """Return noise with tones at 1 to 2 s and at 2.5 to 4 s."""
    time = np.arange(5 * RECOGNISER_HZ) / RECOGNISER_HZ
    is_tone = ((time >= 1) & (time < 2)) | ((time >= 2.5) & (time < 4))
    wave = np.random.default_rng(0).normal(0, noise, len(time))
    return (wave + 0.2 * np.sin(2 * np.pi * 300 * time) * is_tone).astype(np.float32)


@pytest.mark.parametrize("noise", [0.0, 1e-4, 3e-3])
def test_tones_stand_out_of_noise(noise: float) -> None:
    edges = [edge for span in find_loud(tones(noise)) for edge in span]
    assert edges == pytest.approx([1, 2, 2.5, 4], abs=0.03)
    if not noise:
        assert edges == pytest.approx(
            [edge for span in find_tones(tones(0)) for edge in span], abs=0.03
        )


def test_short_silence_lies_within_speech_and_clicks_are_none() -> None:
    wave = tones(0.0)
    wave[round(2.5 * RECOGNISER_HZ) : round(2.53 * RECOGNISER_HZ)] = 0
    wave[round(3.2 * RECOGNISER_HZ) : round(3.26 * RECOGNISER_HZ)] = 0
    wave[100] = 0.2
    assert len(find_loud(wave)) == 2


def test_silence_has_no_speech() -> None:
    assert find_loud(np.zeros(RECOGNISER_HZ, np.float32)) == []
    assert find_loud(np.full(RECOGNISER_HZ, 1e-4, np.float32)) == []
