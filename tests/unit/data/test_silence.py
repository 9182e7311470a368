"""Where speech begins and ends: soft sounds are no silence, noise is."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from csm_ft.data.silence import find_silence

ROOT = Path(__file__).resolve().parents[3]
SPEECH = sorted((ROOT / "demo/speech").glob("*/*.flac"))[::40][:6]
RATE_HZ = 16000
Wave = NDArray[np.float64]


def noise(seconds: float, level_dbfs: float, seed: int = 0) -> Wave:
    random = np.random.default_rng(seed)
    return random.standard_normal(round(seconds * RATE_HZ)) * 10 ** (level_dbfs / 20)


def vowel(seconds: float, level_dbfs: float = -15.0, pitch_hz: float = 120.0) -> Wave:
    """Return a buzz with a stop (60 ms of nothing) in the middle."""
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    wave = sum(np.sin(2 * np.pi * pitch_hz * k * time) / k for k in range(1, 20))
    wave = wave / np.sqrt(np.mean(wave**2)) * 10 ** (level_dbfs / 20)
    middle = len(wave) // 2
    wave[middle : middle + round(0.06 * RATE_HZ)] = 0
    return wave


def fricative(seconds: float, level_dbfs: float) -> Wave:
    """Return an f or s: noise of which the high frequencies stand out."""
    return np.diff(noise(seconds, level_dbfs - 3, seed=5), prepend=0.0)


def nasal(seconds: float, level_dbfs: float) -> Wave:
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return np.sin(2 * np.pi * 150 * time) * 10 ** (level_dbfs / 20) * 2**0.5


@pytest.mark.parametrize("room_dbfs", [-120.0, -80.0, -65.0])
@pytest.mark.parametrize("pad_sec", [0.0, 0.3, 2.0])
def test_silence_around_a_vowel_is_measured(room_dbfs: float, pad_sec: float) -> None:
    pad = np.zeros(round(pad_sec * RATE_HZ))
    wave = np.concatenate([pad, vowel(0.6), pad])
    found = find_silence(wave + noise(len(wave) / RATE_HZ, room_dbfs), RATE_HZ)
    assert found.leading_sec == pytest.approx(pad_sec, abs=0.021)
    assert found.trailing_sec == pytest.approx(pad_sec, abs=0.021)
    assert found.noise_floor_dbfs == pytest.approx(room_dbfs, abs=2.0)


@pytest.mark.parametrize("sound", [fricative, nasal])
@pytest.mark.parametrize(
    ("soft_dbfs", "room_dbfs"), [(-45.0, -70.0), (-55.0, -75.0), (-60.0, -120.0)]
)
def test_soft_onsets_are_speech(sound: object, soft_dbfs: float, room_dbfs: float) -> None:
    soft = sound(0.12, soft_dbfs)  # type: ignore[operator]
    pad = np.zeros(RATE_HZ)
    wave = np.concatenate([pad, soft, vowel(0.6), soft, pad])
    found = find_silence(wave + noise(len(wave) / RATE_HZ, room_dbfs), RATE_HZ)
    assert 0.95 <= found.leading_sec <= 1.0001
    assert 0.95 <= found.trailing_sec <= 1.0001


@pytest.mark.parametrize("hum_dbfs", [-50.0, -40.0])
def test_hum_hides_no_fricative(hum_dbfs: float) -> None:
    wave = np.concatenate(
        [np.zeros(RATE_HZ), fricative(0.15, -48.0), vowel(0.6), np.zeros(RATE_HZ)]
    )
    time = np.arange(len(wave)) / RATE_HZ
    hum = np.sin(2 * np.pi * 50 * time) * 10 ** (hum_dbfs / 20)
    assert find_silence(wave + hum + noise(len(wave) / RATE_HZ, -75), RATE_HZ).leading_sec <= 1.0001


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(SPEECH),
    st.floats(-90, -40),
    st.tuples(st.floats(0, 1.5), st.floats(0, 1.5)),
    st.floats(-30, 0),
)
def test_added_silence_is_all_that_is_found(
    path: Path, room_dbfs: float, pads: tuple[float, float], gain_db: float
) -> None:
    speech, rate_hz = soundfile.read(path)
    assert rate_hz == RATE_HZ
    speech *= 10 ** (gain_db / 20)
    before = find_silence(speech, RATE_HZ)
    wave = np.concatenate(
        [np.zeros(round(pads[0] * RATE_HZ)), speech, np.zeros(round(pads[1] * RATE_HZ))]
    )
    wave += noise(len(wave) / RATE_HZ, room_dbfs + gain_db)
    found = find_silence(wave, RATE_HZ)
    # Up to 0.1 s of the softest sounds drown in the noise; the margin of a trim is larger.
    assert found.leading_sec <= pads[0] + before.leading_sec + 0.1
    assert found.trailing_sec <= pads[1] + before.trailing_sec + 0.1


def test_loud_noise_is_not_silence() -> None:
    wave = np.concatenate([np.zeros(RATE_HZ), vowel(0.6), np.zeros(RATE_HZ)]) + noise(2.6, -35)
    found = find_silence(wave, RATE_HZ)
    assert (found.leading_sec, found.trailing_sec) == (0.0, 0.0)


@pytest.mark.parametrize("level", [0.0, 1e-5])
def test_a_clip_of_nothing_is_all_silence(level: float) -> None:
    found = find_silence(np.full(RATE_HZ, level), RATE_HZ)
    assert (found.leading_sec, found.trailing_sec) == (1.0, 0.0)


def test_either_channel_may_speak() -> None:
    silent, said = np.zeros(2 * RATE_HZ), np.zeros(2 * RATE_HZ)
    said[RATE_HZ : RATE_HZ + 8000] = vowel(0.5)
    found = find_silence(np.stack([silent, said]), RATE_HZ)
    assert (found.leading_sec, found.trailing_sec) == pytest.approx((1.0, 0.5), abs=0.021)
