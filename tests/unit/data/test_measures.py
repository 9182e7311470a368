"""What is measured on a clip: the same however it is read, and right for speech, tones and harm."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from csm_ft.data import sound_file
from csm_ft.data.audio import load, load_measured, mix_name
from csm_ft.data.measures import Measures

ROOT = Path(__file__).resolve().parents[3]
SPEECH = [ROOT / f"demo/speech/{name}/0000.flac" for name in ("nora", "ben", "diego", "lucia")]
RATE_HZ = 16000


def speech(number: int = 0) -> NDArray[np.float32]:
    wave, rate_hz = soundfile.read(SPEECH[number], dtype="float32")
    assert rate_hz == RATE_HZ
    return wave


def measured(folder: Path, wave: NDArray[np.floating], subtype: str = "PCM_16") -> Measures:
    """Measure a wave [N] or [N, channels] after it has been a file."""
    path = folder / "a.wav"
    soundfile.write(path, wave, RATE_HZ, subtype=subtype)
    return load_measured(path, sample_rate_hz=RATE_HZ)[1]


# Level and silence


@pytest.mark.parametrize("gain_db", [0.0, -20.0, -40.0])
def test_level_follows_gain_and_silence_does_not(tmp_path: Path, gain_db: float) -> None:
    loud = measured(tmp_path, speech(), "FLOAT")
    other = measured(tmp_path, speech() * 10 ** (gain_db / 20), "FLOAT")
    assert other.level_dbfs == pytest.approx(loud.level_dbfs + gain_db, abs=0.01)
    if other.level_dbfs > -55:
        assert other.silence_share == pytest.approx(loud.silence_share, abs=0.1)
    assert loud.silence_share < 0.4


@pytest.mark.parametrize("level", [0.0, 5e-6])
def test_silence_is_all_silent(tmp_path: Path, level: float) -> None:
    noise = np.random.default_rng(0).standard_normal(RATE_HZ) * level
    found = measured(tmp_path, noise, "FLOAT")
    assert found.level_dbfs == pytest.approx(-120 if not level else -106, abs=0.5)
    assert (found.silence_share, found.clipped_share) == (1.0, 0.0)


def test_speech_after_silence_is_mostly_silent(tmp_path: Path) -> None:
    word = speech()[: RATE_HZ // 2]
    found = measured(tmp_path, np.concatenate([word, np.zeros(4 * RATE_HZ)]))
    assert found.silence_share > 0.88


# Clipping


@pytest.mark.parametrize("gain", [1.0, 0.7, 0.3])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_flat_tops_are_clipped_at_any_gain(tmp_path: Path, gain: float, subtype: str) -> None:
    driven = np.clip(speech() * 12, -1, 1)
    share = np.mean(np.abs(driven) == 1)
    assert share > 0.1
    found = measured(tmp_path, driven * gain, subtype)
    assert found.clipped_share == pytest.approx(share, rel=0.3)


def test_one_clipped_channel_is_found(tmp_path: Path) -> None:
    stereo = np.stack([speech(), np.clip(speech() * 12, -1, 1)], axis=1)
    assert measured(tmp_path, stereo).clipped_share > 0.05
    left = load_measured(tmp_path / "a.wav", sample_rate_hz=RATE_HZ, channel="left")[1]
    assert left.clipped_share < 0.001


def test_clipping_on_one_side_is_found(tmp_path: Path) -> None:
    wave = speech() / np.abs(speech()).max()
    assert measured(tmp_path, np.minimum(wave, 0.3)).clipped_share > 0.01


@pytest.mark.parametrize("path", SPEECH, ids=lambda path: path.name)
def test_speech_is_not_clipped(tmp_path: Path, path: Path) -> None:
    wave = soundfile.read(path)[0]
    assert measured(tmp_path, wave / np.abs(wave).max()).clipped_share < 0.001


@pytest.mark.parametrize("frequency_hz", [300, 440, 1000, 3000])
@pytest.mark.parametrize("peak", [0.3, 0.9, 1.0])
def test_tones_are_not_clipped(tmp_path: Path, frequency_hz: int, peak: float) -> None:
    wave = peak * np.sin(2 * np.pi * frequency_hz * np.arange(RATE_HZ) / RATE_HZ)
    assert measured(tmp_path, wave).clipped_share == 0.0


@pytest.mark.parametrize("num_frames", [100, 5000])
def test_blocks_do_not_show_in_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_frames: int
) -> None:
    wave = np.stack([np.clip(speech() * 5, -0.9, 0.9), speech()], axis=1)
    whole = measured(tmp_path, wave)
    monkeypatch.setattr(sound_file, "BLOCK_FRAMES", num_frames)
    assert measured(tmp_path, wave) == pytest.approx(whole, rel=0.05)


# Channels


@pytest.mark.parametrize(
    ("gains", "at_least_db", "at_most_db"),
    [
        ((1, 1), -0.1, 0.1),
        ((1, 0), 2.9, 3.1),
        ((1, -1), 60, 200),
        ((1, -0.9), 20, 30),
        ((0.5, -0.5), 60, 200),
        ((0, 0), -0.1, 0.1),
        ((1, 1, -1, -1), 60, 200),
    ],
)
def test_mix_loss_shows_cancelling_sides(
    tmp_path: Path, gains: tuple[float, ...], at_least_db: float, at_most_db: float
) -> None:
    sides = np.stack([gain * speech() for gain in gains], axis=1)
    assert at_least_db <= measured(tmp_path, sides).mix_loss_db <= at_most_db


@pytest.mark.parametrize("channel", ["left", "right", "both"])
def test_nothing_mixed_has_no_loss(tmp_path: Path, channel: str) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.stack([speech(), -speech()], axis=1), RATE_HZ)
    found = load_measured(path, sample_rate_hz=RATE_HZ, channel=channel)[1]  # pyright: ignore
    assert np.isnan(found.mix_loss_db)
    assert found.level_dbfs > -40


WAV_ORDER = {6: "L R C LFE Ls Rs", 8: "L R C LFE Lb Rb Ls Rs"}
OGG_ORDER = {6: "L C R Ls Rs LFE", 8: "L C R Ls Rs Lb Rb LFE"}
LOSS_DB = {"C": 0.0, "L": 3.01, "R": 3.01}  # by ITU-R BS.775; 6.02 for the others


@pytest.mark.parametrize("num_channels", [6, 8])
@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
def test_surround_is_mixed_by_bs775(tmp_path: Path, suffix: str, num_channels: int) -> None:
    path, mono = tmp_path / f"a{suffix}", 0.5 * speech()[: RATE_HZ // 2]
    order = (OGG_ORDER if suffix == ".ogg" else WAV_ORDER)[num_channels].split()
    for place, name in enumerate(order):
        sound = np.zeros((len(mono), num_channels))
        sound[:, place] = mono
        soundfile.write(path, sound, RATE_HZ)
        rms = np.sqrt(np.mean(load(path, sample_rate_hz=RATE_HZ) ** 2))
        expected = 0 if name == "LFE" else 10 ** (-LOSS_DB.get(name, 6.02) / 20)
        assert rms / np.sqrt(np.mean(mono**2)) == pytest.approx(expected, abs=0.03), name


def test_surround_mix_stays_within_full_scale(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    wave = 0.9 * speech() / np.abs(speech()).max()
    soundfile.write(path, np.stack([wave] * 6, axis=1), RATE_HZ, subtype="FLOAT")
    mixed = load(path, sample_rate_hz=RATE_HZ)
    np.testing.assert_allclose(mixed, wave / 0.9, atol=1e-4)


@pytest.mark.parametrize("num_channels", [3, 4, 5, 7])
def test_other_channels_are_averaged(tmp_path: Path, num_channels: int) -> None:
    path = tmp_path / "a.wav"
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (RATE_HZ, num_channels))
    soundfile.write(path, sound, RATE_HZ, subtype="FLOAT")
    mixed = load(path, sample_rate_hz=RATE_HZ)
    np.testing.assert_allclose(mixed, sound.mean(axis=1), atol=1e-6)


def test_only_surround_mixes_have_new_ids() -> None:
    assert {n for n in range(1, 9) if mix_name(n) != "mix"} == {6, 8}
