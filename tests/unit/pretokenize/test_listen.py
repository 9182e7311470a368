"""python -m csm_ft.data tokens.hdf5 --listen: the worst clips of each kind, on a page."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from csm_ft.data import __main__ as data_main
from tests.helpers.pretokenizing import FakeEncoder, Work, write_wave


@pytest.fixture
def noted(work: Work, encoder: FakeEncoder) -> Work:
    """A token file with a text that is too long, a quiet clip, a clip with both, and good ones."""
    rows = work.clips([1.0 + 0.1 * number for number in range(10)])
    rows[3]["text"] = "Far too long a text for so short a sound. " * 8
    for number in (5, 3):
        path = work.folder / f"audio/{number}.wav"
        wave, rate_hz = soundfile.read(write_wave(path, 1.5, seed=number))
        soundfile.write(path, wave * 1e-2, rate_hz)
    assert work.run(rows, work.clips([1.0], first=20)) == 0
    return work


def test_worst_clips_are_written_with_their_reasons(
    noted: Work, capsys: pytest.CaptureFixture[str]
) -> None:
    assert data_main.main([str(noted.output), "--listen", "12"]) == 0
    folder = Path(f"{noted.output}.listen")
    said = f"{folder / 'index.html'}: 11 clips, 2 of the 2 with notes among them"
    assert said in capsys.readouterr().out
    facts = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("*.json"))
    }
    assert [stem.split("-", 1)[1] for stem in facts][:2] == ["train-3", "train-5"]
    notes = facts["01-train-3"]["notes"]
    assert any("much too quiet" in note for note in notes)
    assert any("more text than fits" in note for note in notes)
    assert any("3.wav" in note for note in notes)
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert "more text than fits into the sound" in page
    assert page.count("<audio") == 11

    wave, rate_hz = soundfile.read(folder / "02-train-5.wav")
    assert rate_hz == FakeEncoder.sample_rate_hz
    np.testing.assert_array_equal(wave, 0.0)  # what the fake codec decodes to


def test_as_many_as_asked_and_never_over_other_folders(
    noted: Work, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = noted.folder / "page"
    argv = [str(noted.output), "--listen", "1", "--output", str(folder)]
    assert data_main.main(argv) == 0
    assert len([*folder.glob("*.wav")]) == 1
    assert data_main.main(argv) == 2
    assert "is not overwritten" in capsys.readouterr().err


def test_without_notes_the_most_unusual_pace_comes_first(
    work: Work, encoder: FakeEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = work.clips([1.0] * 9, speaker="anna")
    rows[4]["text"] = "Rather a short one"
    rows[6]["text"] = "No."
    assert work.run(rows[:8], rows[8:]) == 0
    capsys.readouterr()
    assert data_main.main([str(work.output), "--listen", "2"]) == 0
    assert "2 clips, 0 of the 0 with notes" in capsys.readouterr().out
    names = sorted(path.name for path in Path(f"{work.output}.listen").glob("*.wav"))
    assert names == ["01-train-6.wav", "02-train-4.wav"]
