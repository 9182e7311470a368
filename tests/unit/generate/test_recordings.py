"""What a model answered, as files."""

import json
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import soundfile

from csm_ft.data.rows import Row
from csm_ft.data.split import ArrayKind, Arrays
from csm_ft.families.base import Prompt, Sample, Turn
from csm_ft.families.encoder import Encoder
from csm_ft.generate.recordings import Recorder, measure

CODES = np.full((10, 1), 7, np.uint16)
QUESTION = Turn("Well?", "ben", {"codes": CODES}, seconds=1.0, path="q.wav")


class Steady(Encoder):
    """Each frame of 100 ms is a constant."""

    arrays = MappingProxyType({"codes": ArrayKind("<u2", 1)})
    sample_rate_hz, frame_sec = 1000, 0.1
    audio_fingerprint = text_fingerprint = ""
    facts = assets = MappingProxyType({})

    def encode_audio(self, waves: Any) -> list[Arrays | str]:
        raise NotImplementedError

    def encode_text(self, row: Row) -> Arrays:
        raise NotImplementedError

    def decode(self, arrays: Arrays) -> np.ndarray:
        return np.full(len(arrays["codes"]) * 100, 0.5, np.float32)


def test_sound_is_written_with_its_facts(tmp_path: Path) -> None:
    prompt = Prompt("id", "Hello.", "anna", (QUESTION,))
    sample = Sample(prompt, {"codes": CODES}, is_complete=False, turns_left_out=1)
    facts = Recorder(Steady()).write(tmp_path / "a", sample, {"step": 1})
    assert json.loads((tmp_path / "a.json").read_text()) == facts
    assert facts == {
        "step": 1,
        "prompt": "id",
        "text": "Hello.",
        "speaker": "anna",
        "context": [{"path": "q.wav", "text": "Well?", "speaker": "ben", "seconds": 1.0}],
        "turns_left_out": 1,
        "is_complete": False,
        "stopped_by_eos": False,
        "seconds": 1.0,
        "sec_per_char": pytest.approx(1 / 6),
        "silence_share": 0.0,
        "peak": 0.5,
    }
    wave, rate = soundfile.read(tmp_path / "a.wav")
    assert (len(wave), rate) == (1000, 1000)


def test_empty_sound_is_a_silent_frame(tmp_path: Path) -> None:
    sample = Sample(Prompt("id", "Hello."), {"codes": CODES[:0]})
    facts = Recorder(Steady()).write(tmp_path / "a", sample, {})
    wave, _ = soundfile.read(tmp_path / "a.wav")
    assert (len(wave), np.abs(wave).max()) == (100, 0)
    assert (facts["seconds"], facts["silence_share"]) == (0.0, 1.0)


def test_text_is_written_without_sound(tmp_path: Path) -> None:
    sample = Sample(Prompt("id", "The reference."), text="The answer.")
    facts = Recorder(Steady()).write(tmp_path / "a", sample, {"take": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert facts == {
        "take": 1,
        "prompt": "id",
        "text": "The reference.",
        "answer": "The answer.",
        "is_complete": True,
    }


def test_answers_in_sound_and_text_have_both(tmp_path: Path) -> None:
    sample = Sample(Prompt("id", ""), {"codes": CODES}, text="The answer.")
    facts = Recorder(Steady()).write(tmp_path / "a", sample, {})
    assert (facts["answer"], facts["seconds"]) == ("The answer.", 1.0)
    assert (tmp_path / "a.wav").is_file()


def test_measurements_of_sound() -> None:
    wave = np.concatenate([np.zeros(500), np.full(500, 0.25)]).astype(np.float32)
    assert measure(wave, 1000, "ten chars.") == {
        "seconds": 1.0,
        "sec_per_char": 0.1,
        "silence_share": 0.5,
        "peak": 0.25,
    }
