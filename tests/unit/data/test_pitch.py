"""Pitch by the fast estimator, as it is measured on whole corpora."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from csm_ft.data.audio import load_measured
from csm_ft.data.pitch import find_voiced
from tests.conftest import ROOT

RATE_HZ = 16000


def glide(low_hz: float, high_hz: float, sec: float = 2.0) -> np.ndarray:
    """A harmonic sound that rises evenly in semitones."""
    f0_hz = low_hz * (high_hz / low_hz) ** np.linspace(0, 1, round(sec * RATE_HZ))
    phase = 2 * np.pi * np.cumsum(f0_hz) / RATE_HZ
    return 0.05 * sum(np.sin(k * phase) / k for k in range(1, 12))


@pytest.mark.parametrize("f0_hz", [90.0, 140.0, 220.0, 400.0])
@pytest.mark.parametrize("channels", [1, 2])
def test_median_of_a_tone(tmp_path: Path, f0_hz: float, channels: int) -> None:
    path = tmp_path / "tone.wav"
    soundfile.write(path, np.stack([glide(f0_hz, f0_hz)] * channels, axis=1), RATE_HZ)
    _, measures = load_measured(path, sample_rate_hz=RATE_HZ)
    assert measures.f0_median_hz == pytest.approx(f0_hz, rel=0.02)
    assert measures.f0_range_st < 0.3


def test_range_of_a_glide(tmp_path: Path) -> None:
    path = tmp_path / "glide.wav"
    soundfile.write(path, glide(120.0, 240.0), RATE_HZ)
    _, measures = load_measured(path, sample_rate_hz=RATE_HZ)
    assert measures.f0_median_hz == pytest.approx(120 * 2**0.5, rel=0.02)
    assert measures.f0_range_st == pytest.approx(0.9 * 12, abs=0.4)


def test_noise_and_silence_have_no_pitch(tmp_path: Path) -> None:
    path = tmp_path / "silence.wav"
    soundfile.write(path, np.zeros(RATE_HZ), RATE_HZ)
    _, measures = load_measured(path, sample_rate_hz=RATE_HZ)
    assert np.isnan([measures.f0_median_hz, measures.f0_range_st]).all()


@pytest.mark.parametrize("num_samples", [1, 2, 10, 100, 500])
def test_short_waves_do_no_harm(num_samples: int) -> None:
    noise = np.random.default_rng(0).standard_normal(num_samples)
    found = find_voiced(noise, RATE_HZ, "dio")
    assert np.isfinite(found.semitones).all()
    assert found.times_sec.shape == found.semitones.shape


def test_first_use_from_many_threads_imports_once() -> None:
    # A process of its own: here, pyworld may have been imported already.
    script = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from csm_ft.data.pitch import pyworld\n"
        "with ThreadPoolExecutor(16) as pool:\n"
        "    found = list(pool.map(lambda _: pyworld(), range(64)))\n"
        "print(len({id(module) for module in found}))\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert run.stdout == "1\n", run.stderr
