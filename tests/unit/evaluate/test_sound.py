"""Level, clipping, bandwidth and silences of sounds that are known."""

import numpy as np
import pytest

from csm_ft.evaluate.sound import bandwidth_hz, measure_sound, silences

RATE_HZ = 16000


def tone(hz: float, sec: float = 1.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(int(sec * RATE_HZ)) / RATE_HZ)).astype("f4")


def test_silences_are_where_they_are() -> None:
    parts = [0.5, 1.0, 0.3, 1.0, 0.7]
    wave = np.concatenate([tone(300, sec) * (place % 2) for place, sec in enumerate(parts)])
    found = silences(wave, RATE_HZ)
    assert found["silence_start_sec"] == pytest.approx(0.5, abs=0.02)
    assert found["longest_pause_sec"] == pytest.approx(0.3, abs=0.02)
    assert found["silence_end_sec"] == pytest.approx(0.7, abs=0.02)


@pytest.mark.parametrize("hz", [500.0, 3000.0, 7000.0])
def test_bandwidth_reaches_the_tone(hz: float) -> None:
    assert bandwidth_hz(tone(hz), RATE_HZ) == pytest.approx(hz, abs=40)


def test_level_of_a_sine() -> None:
    found = measure_sound(tone(440), RATE_HZ)
    assert found["level_dbfs"] == pytest.approx(-9.03, abs=0.05)
    assert found["clipped_share"] == 0


def test_clipped_samples_are_counted() -> None:
    wave = np.clip(4 * tone(440), -1, 1)
    assert measure_sound(wave, RATE_HZ)["clipped_share"] == pytest.approx(2 / 3, abs=0.01)


@pytest.mark.parametrize("num_samples", [0, 1, 319, 320, 1023])
def test_short_sounds_are_measured(num_samples: int) -> None:
    found = measure_sound(np.zeros(num_samples, np.float32), RATE_HZ)
    assert found["seconds"] == num_samples / RATE_HZ
