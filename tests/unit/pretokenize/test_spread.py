"""Words of texts without times: over the speech, each by its letters."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from csm_ft.data.inspect import inspect_files
from csm_ft.data.rows import Row, Word
from csm_ft.datasets.words import spread_words
from csm_ft.pretokenize.spread import spread_texts

RATE_HZ = 16000


def row_of(path: Path, text: str = "one three") -> Row:
    return Row("rows.json row 1", path, text, None, None, None)


def write(path: Path, *, silence_sec: float, speech_sec: float) -> Path:
    random = np.random.default_rng(0)
    parts = [
        np.zeros(round(silence_sec * RATE_HZ)),
        random.uniform(-0.3, 0.3, round(speech_sec * RATE_HZ)),
    ]
    wave = np.concatenate([*parts, parts[0]])
    soundfile.write(path, wave + 1e-4 * random.standard_normal(len(wave)), RATE_HZ)
    return path


def spread(*rows: Row) -> list[Row]:
    files = inspect_files([row.path for row in rows], 1)
    return spread_texts({"train": rows}, files, 1)["train"]


def test_speech_is_shared_by_letters(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", silence_sec=1.0, speech_sec=1.0)
    (row,) = spread(row_of(path))
    assert [word.text for word in row.words] == ["one", "three"]
    assert [word.speaker for word in row.words] == [0, 0]
    times = [time for word in row.words for time in (word.start_sec, word.end_sec)]
    assert times == pytest.approx([1.0, 1.4, 1.4, 2.0], abs=0.03)


def test_times_are_those_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", silence_sec=1.0, speech_sec=1.0)
    (row,) = spread(replace(row_of(path), start_sec=0.5, end_sec=2.5))
    assert row.words[0].start_sec == pytest.approx(1.0, abs=0.03)
    assert row.words[-1].end_sec == pytest.approx(2.0, abs=0.03)


def test_words_with_times_and_unreadable_sounds_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    timed = replace(row_of(tmp_path / "none.wav"), words=(Word("one", 0.0, 1.0, 1),))
    assert spread(timed) == [timed]
    assert "spread" not in capsys.readouterr().out
    assert spread(row_of(tmp_path / "none.wav"))[0].words == ()
    (tmp_path / "torn.wav").write_bytes(b"RIFF")
    assert spread(row_of(tmp_path / "torn.wav"))[0].words == ()


def test_silent_sound_takes_the_whole_length(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(RATE_HZ), RATE_HZ)
    (row,) = spread(row_of(tmp_path / "a.wav", "one"))
    assert (row.words[0].start_sec, row.words[0].end_sec) == (0.0, pytest.approx(1.0))


@given(st.text(max_size=60), st.floats(0, 100), st.floats(0, 100))
def test_words_follow_each_other(text: str, start_sec: float, length_sec: float) -> None:
    words = spread_words(text, start_sec, start_sec + length_sec, 0)
    assert [word.text for word in words] == text.split()
    for before, after in itertools.pairwise(words):
        assert before.end_sec == after.start_sec >= before.start_sec
    if words:
        assert words[0].start_sec == start_sec
        assert words[-1].end_sec == pytest.approx(start_sec + length_sec)
