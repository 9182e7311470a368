"""Pitch, energy and rate against sounds whose values are known."""

import numpy as np
import pytest

from csm_ft.data.audio import Wave
from csm_ft.data.pitch import without_octave_errors
from csm_ft.evaluate.prosody import (
    measure_energy,
    measure_pitch,
    measure_prosody,
    measure_rate,
    pitch,
)

RATE_HZ = 16000
TEXT = "ten letters"  # 10 of them


def voice(f0_hz: np.ndarray, level: float = 0.3) -> Wave:
    """A harmonic sound whose F0 is known at every sample."""
    phase = 2 * np.pi * np.cumsum(f0_hz) / RATE_HZ
    sound = sum(np.sin(k * phase) / k for k in range(1, 12))
    return (level * sound / np.abs(sound).max()).astype(np.float32)


def semitones(hz: float) -> float:
    return 12 * float(np.log2(hz / 100))


def hertz(st: float) -> float:
    return 100 * 2 ** (st / 12)


@pytest.mark.parametrize("f0_hz", [90.0, 140.0, 220.0, 400.0])
def test_tone_has_its_pitch(f0_hz: float) -> None:
    found = measure_pitch(voice(np.full(RATE_HZ * 2, f0_hz)), RATE_HZ)
    assert hertz(found["f0_mean_st"]) == pytest.approx(f0_hz, rel=0.02)
    assert found["f0_range_st"] < 0.2


def test_chirp_has_its_range() -> None:
    f0_hz = 120 * 2 ** np.linspace(0, 1, RATE_HZ * 3)  # one octave, straight in semitones
    found = measure_pitch(voice(f0_hz), RATE_HZ)
    assert hertz(found["f0_mean_st"]) == pytest.approx(hertz(semitones(120) + 6), rel=0.02)
    assert found["f0_range_st"] == pytest.approx(0.9 * 12, rel=0.02)
    assert found["f0_variance_st2"] == pytest.approx(12**2 / 12, rel=0.05)


def test_noise_has_no_pitch() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, RATE_HZ).astype(np.float32)
    assert len(pitch(np.zeros(RATE_HZ, np.float32), RATE_HZ)) == 0
    assert len(pitch(noise, RATE_HZ)) < 20


def test_octave_errors_are_moved_back() -> None:
    true = np.full(200, 5.0)
    wrong = true.copy()
    wrong[40:45] += 12
    wrong[100:103] -= 12
    assert without_octave_errors(wrong) == pytest.approx(true)


def test_risen_voice_is_kept() -> None:
    risen = np.concatenate([np.full(100, 2.0), np.full(100, 14.0)])
    assert without_octave_errors(risen) == pytest.approx(risen)


def test_energy_follows_level() -> None:
    loud = measure_energy(voice(np.full(RATE_HZ, 150.0), 0.4), RATE_HZ)
    soft = measure_energy(voice(np.full(RATE_HZ, 150.0), 0.1), RATE_HZ)
    assert loud["energy_mean_db"] - soft["energy_mean_db"] == pytest.approx(12.04, rel=0.02)


def test_sine_has_its_level() -> None:
    wave = (0.5 * np.sin(2 * np.pi * 200 * np.arange(RATE_HZ) / RATE_HZ)).astype(np.float32)
    found = measure_energy(wave, RATE_HZ)
    assert found["energy_mean_db"] == pytest.approx(-9.03, rel=0.02)
    assert found["energy_range_db"] == pytest.approx(0, abs=0.1)


def test_rate_leaves_out_outer_silence() -> None:
    quiet = np.zeros(RATE_HZ // 2, np.float32)
    spoken = voice(np.full(RATE_HZ * 2, 150.0))
    found = measure_rate(np.concatenate([quiet, spoken, quiet]), RATE_HZ, TEXT)
    assert found["letters_per_sec"] == pytest.approx(5.0, rel=0.02)
    assert found["pause_share"] == 0


def test_pause_is_measured() -> None:
    spoken = voice(np.full(RATE_HZ, 150.0))
    wave = np.concatenate([spoken, np.zeros(RATE_HZ // 2, np.float32), spoken])
    assert measure_rate(wave, RATE_HZ, TEXT)["pause_share"] == pytest.approx(0.2, rel=0.02)


@pytest.mark.parametrize("num_samples", [0, 1, 100, RATE_HZ])
def test_silence_has_no_prosody(num_samples: int) -> None:
    assert measure_prosody(np.zeros(num_samples, np.float32), RATE_HZ, TEXT) == {}
