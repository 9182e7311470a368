"""Sounds as they stand in a page."""

import base64
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from csm_ft.report import sound
from tests.helpers.sweep_folder import SAMPLE_RATE_HZ, speech


@pytest.mark.parametrize(
    ("rate_hz", "kind"), [(24000, "audio/mpeg"), (16000, "audio/mpeg"), (24001, "audio/wav")]
)
def test_recordings_survive_compression(tmp_path: Path, rate_hz: int, kind: str) -> None:
    wave = speech(2.0, 1.0, np.random.default_rng(0))
    soundfile.write(tmp_path / "a.wav", wave, rate_hz)
    loaded = sound.load(tmp_path / "a.wav")
    head, body = loaded.uri.split(",")
    assert head == f"data:{kind};base64"
    (tmp_path / "b").write_bytes(base64.b64decode(body))
    back, back_hz = soundfile.read(tmp_path / "b")
    assert back_hz == rate_hz
    assert loaded.seconds == pytest.approx(len(wave) / rate_hz)
    assert len(back) / rate_hz == pytest.approx(loaded.seconds, abs=0.15)
    spectra = [np.abs(np.fft.rfft(w, 65536))[:8000] for w in (wave, back)]
    assert np.corrcoef(*spectra)[0, 1] > 0.98
    if kind == "audio/mpeg":
        assert len(base64.b64decode(body)) < 8_500 * loaded.seconds


@given(st.lists(st.floats(-1, 1, width=32), max_size=400))
def test_outline_is_peak_per_part(values: list[float]) -> None:
    wave = np.array(values, dtype=np.float32)[:, None]
    heights = [float(bar) for bar in re.findall(r"V([\d.]+)", sound.outline(wave))]
    peaks = [
        max((abs(float(x)) for x in part[:, 0]), default=0.0)
        for part in np.array_split(wave, sound.NUM_BARS)
    ]
    top = max([*peaks, 0.05])
    assert heights == pytest.approx([max(0.04, p / top) for p in peaks], abs=0.0051)


def test_empty_recording_is_no_error(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(0, np.float32), SAMPLE_RATE_HZ)
    assert sound.load(tmp_path / "a.wav").seconds == 0


def test_both_sides_of_a_dialogue_stay_apart(tmp_path: Path) -> None:
    left = speech(2.0, 1.0, np.random.default_rng(0))
    wave = np.stack([left, np.zeros_like(left)], axis=1)
    soundfile.write(tmp_path / "a.wav", wave, 24000)
    loaded = sound.load(tmp_path / "a.wav")
    (tmp_path / "b").write_bytes(base64.b64decode(loaded.uri.split(",")[1]))
    back, _ = soundfile.read(tmp_path / "b")
    assert np.abs(back[:, 0]).max() > 0.3 > 0.01 > np.abs(back[:, 1]).max()
    heights = re.findall(r"M\S+ -([\d.]+)V([\d.]+)", loaded.outline)
    assert max(float(above) for above, _ in heights) == 1.0
    assert {below for _, below in heights} == {"0.04"}
