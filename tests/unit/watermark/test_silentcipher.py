"""Watermarks with a stand-in for silentcipher: its weights cannot be had in tests."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from csm_ft.data import audio
from csm_ft.errors import ConfigError, HubError
from csm_ft.generate.__main__ import main as generate
from csm_ft.watermark.__main__ import main
from csm_ft.watermark.silentcipher import PUBLIC_KEY, Watermark, key_of_environment
from tests.conftest import ROOT

RATE_HZ = 24_000
LOWEST_HZ, HZ_OF_A_NUMBER = 1000, 20
LEVEL = 0.05


class FakeModel:
    """Writes a tone whose pitch tells the first number of the key."""

    def encode_wav(self, wave: Any, rate_hz: int, key: list[int], **options: Any) -> Any:
        assert options == {"calc_sdr": False, "message_sdr": 36}
        tone_hz = LOWEST_HZ + HZ_OF_A_NUMBER * key[0]
        return wave + LEVEL * np.sin(2 * np.pi * tone_hz * np.arange(len(wave)) / rate_hz), 0

    def decode_wav(self, wave: Any, rate_hz: int, phase_shift_decoding: bool) -> Any:
        spectrum = np.abs(np.fft.rfft(wave)) / len(wave) * 2
        frequencies_hz = np.fft.rfftfreq(len(wave), 1 / rate_hz)
        spectrum[frequencies_hz < LOWEST_HZ] = 0
        loudest = int(spectrum.argmax())
        if spectrum[loudest] < LEVEL / 2:
            return {"status": False, "messages": []}
        first = round((frequencies_hz[loudest] - LOWEST_HZ) / HZ_OF_A_NUMBER)
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


def test_generated_speech_is_marked(
    package: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CSM_WATERMARK_KEY", ",".join(map(str, PUBLIC_KEY)))
    asked = ["--model", str(ROOT / "demo/base"), "--text", "Hello there.", "--max_sec", "1.5"]
    for mark in ("on", "off"):
        out = tmp_path / mark
        argv = [*asked, "--watermark", mark, "--device", "cpu", "--output", str(out)]
        assert generate(argv) == 0
        (path,) = out.glob("*.wav")
        wave = audio.load(path, sample_rate_hz=RATE_HZ)
        assert Watermark(PUBLIC_KEY).is_in(wave, RATE_HZ) == (mark == "on")


def test_generate_without_the_package_says_how_to_get_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    argv = ["--model", str(ROOT / "demo/base"), "--text", "Hello.", "--watermark", "on"]
    assert generate([*argv, "--device", "cpu", "--output", str(out)]) != 0
    assert "silentcipher" in capsys.readouterr().err
    assert not list(out.glob("*.wav"))
