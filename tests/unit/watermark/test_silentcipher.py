"""Watermarks with a stand-in for silentcipher: its weights cannot be had in tests."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from csm_ft.data import audio
from csm_ft.errors import ConfigError, HubError
from csm_ft.watermark.__main__ import main
from csm_ft.watermark.silentcipher import PUBLIC_KEY, Watermark, key_of_environment

RATE_HZ, TONE_HZ = 24_000, 9000


class FakeModel:
    """Writes a tone whose level tells the first number of the key."""

    def encode_wav(self, wave: Any, rate_hz: int, key: list[int], **options: Any) -> Any:
        assert options == {"calc_sdr": False, "message_sdr": 36}
        tone = np.sin(2 * np.pi * TONE_HZ * np.arange(len(wave)) / rate_hz)
        return wave + tone * key[0] / 10_000, 0

    def decode_wav(self, wave: Any, rate_hz: int, phase_shift_decoding: bool) -> Any:
        spectrum = np.abs(np.fft.rfft(wave)) / len(wave) * 2
        first = round(spectrum[round(TONE_HZ * len(wave) / rate_hz)] * 10_000)
        if first < 5:
            return {"status": False, "messages": []}
        return {"status": True, "messages": [[first, *PUBLIC_KEY[1:]]]}


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    fake = ModuleType("silentcipher")
    fake.get_model = lambda model_type: FakeModel()  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "silentcipher", fake)
    return fake


def speech(sec: float = 2.0) -> audio.Wave:
    noise = np.random.default_rng(0).normal(size=round(RATE_HZ * sec))
    return (np.convolve(noise, np.ones(24) / 24, "same") * 0.1).astype(np.float32)


def test_marked_wave_is_found(package: ModuleType) -> None:
    watermark, wave = Watermark(PUBLIC_KEY), speech()
    marked = watermark.apply(wave, RATE_HZ)
    assert (marked.shape, marked.dtype) == (wave.shape, np.float32)
    assert watermark.is_in(marked, RATE_HZ)
    assert not watermark.is_in(wave, RATE_HZ)
    assert not Watermark((100, 1, 2, 3, 4)).is_in(marked, RATE_HZ)


def test_detect_says_which_files(
    package: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marked, plain = tmp_path / "marked.wav", tmp_path / "plain.wav"
    audio.save(marked, Watermark(PUBLIC_KEY).apply(speech(), RATE_HZ), RATE_HZ)
    audio.save(plain, speech(), RATE_HZ)
    assert main(["detect", str(marked)]) == 0
    assert main(["detect", str(marked), str(plain)]) == 1
    assert f"{plain}: no watermark of Sesame's public key" in capsys.readouterr().out
    assert main(["detect", str(tmp_path / "none.wav")]) == 2
    assert main([]) == 2


def test_missing_package_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "silentcipher", None)
    with pytest.raises(ConfigError, match="silentcipher") as caught:
        Watermark(PUBLIC_KEY)
    assert "--watermark off" in str(caught.value)


def test_missing_weights_name_the_way_out(package: ModuleType) -> None:
    def unreachable(model_type: str) -> None:
        raise ConnectionError("no route")

    package.get_model = unreachable  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(HubError, match="no route"):
        Watermark(PUBLIC_KEY)


def test_key_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CSM_WATERMARK_KEY", raising=False)
    assert key_of_environment() == PUBLIC_KEY
    monkeypatch.setenv("CSM_WATERMARK_KEY", "1, 2,3 4,255")
    assert key_of_environment() == (1, 2, 3, 4, 255)


@pytest.mark.parametrize("value", ["1,2,3,4", "1,2,3,4,256", "a,b,c,d,e", "1,2,3,4,-5"])
def test_bad_key_is_refused_unseen(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("CSM_WATERMARK_KEY", value)
    with pytest.raises(ConfigError, match="CSM_WATERMARK_KEY") as caught:
        key_of_environment()
    assert value not in str(caught.value)
