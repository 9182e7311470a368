"""The program: words of both channels, resuming, shards, and a reason for all that fails."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from csm_ft.annotate import run
from csm_ft.annotate.__main__ import main
from csm_ft.datasets.metadata import read_metadata
from csm_ft.datasets.words import WordLists
from csm_ft.segment import hearing
from tests.helpers.segmenting import ToneRecogniser, find_tones, write_tones

LEFT = [(300, 1.0, 2.0), (400, 0.5, 2.0)]
RIGHT = [(500, 0.5, 0.3), (600, 1.0, 1.0)]


@pytest.fixture
def recogniser(monkeypatch: pytest.MonkeyPatch) -> ToneRecogniser:
    found = ToneRecogniser()
    monkeypatch.setattr(run, "find_speech", find_tones)
    monkeypatch.setattr(hearing, "open_recogniser", lambda *_: found)
    return found


def write_call(path: Path) -> Path:
    """Write LEFT on one channel, RIGHT, later, on the other."""
    left, rate = soundfile.read(write_tones(path.with_suffix(".l.wav"), LEFT))
    right, _ = soundfile.read(write_tones(path.with_suffix(".r.wav"), RIGHT, lead_sec=1.6))
    both = np.zeros((max(len(left), len(right)), 2), np.float32)
    both[: len(left), 0], both[: len(right), 1] = left, right
    soundfile.write(path, both, rate)
    path.with_suffix(".l.wav").unlink()
    path.with_suffix(".r.wav").unlink()
    return path


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    (tmp_path / "calls").mkdir()
    for name in "ab":
        write_call(tmp_path / "calls" / f"{name}.wav")
    return tmp_path / "calls"


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def test_words_of_both_channels_in_order(calls: Path, recogniser: ToneRecogniser) -> None:
    assert main([str(calls)]) == 0
    found = read(calls / "a.json")
    assert [(text, side) for text, _, side in found["alignments"]] == [
        *(("300", "SPEAKER_MAIN"), ("300.", "SPEAKER_MAIN")),
        *(("500.", "SPEAKER_OTHER"), ("600", "SPEAKER_OTHER")),
        *(("600.", "SPEAKER_OTHER"), ("400.", "SPEAKER_MAIN")),
    ]
    assert found["alignments"][0][1] == pytest.approx([0.5, 1.15], abs=0.02)
    assert found["made_by"]["recogniser"] == "tones 1"
    rows, rejections = read_metadata(calls, words=WordLists())
    assert rejections == []
    assert len(rows) == 2
    assert len(rows[0].words) == 6


def test_same_command_hears_nothing_again(calls: Path, recogniser: ToneRecogniser) -> None:
    assert main([str(calls)]) == 0
    before, num_calls = (calls / "a.json").stat().st_mtime_ns, recogniser.num_calls
    assert main([str(calls)]) == 0
    assert (calls / "a.json").stat().st_mtime_ns == before
    assert recogniser.num_calls == num_calls


def test_ctrl_c_keeps_what_was_heard(
    calls: Path, recogniser: ToneRecogniser, capsys: pytest.CaptureFixture[str]
) -> None:
    recogniser.stop_after = 3
    assert main([str(calls)]) == 130
    assert "the same command continues" in capsys.readouterr().out
    assert (calls / "a.json").exists()
    assert not (calls / "b.json").exists()
    recogniser.stop_after = None
    assert main([str(calls)]) == 0
    assert recogniser.num_calls == 4
    assert read(calls / "a.json")["alignments"] == read(calls / "b.json")["alignments"]


def test_words_of_others_are_kept_unless_asked(
    calls: Path, recogniser: ToneRecogniser, capsys: pytest.CaptureFixture[str]
) -> None:
    (calls / "a.json").write_text('{"alignments": [["hi", [0.1, 0.2], "SPEAKER_MAIN"]]}')
    assert main([str(calls)]) == 0
    assert "1 file had words that another program or a person made" in capsys.readouterr().out
    assert len(read(calls / "a.json")["alignments"]) == 1
    assert main([str(calls), "--overwrite"]) == 0
    assert len(read(calls / "a.json")["alignments"]) == 6


def test_other_options_make_words_again(
    calls: Path, recogniser: ToneRecogniser, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(calls)]) == 0
    assert main([str(calls), "--language", "en"]) == 0
    assert "2 were made with other options: they are made again" in capsys.readouterr().out
    assert read(calls / "b.json")["made_by"]["language"] == "en"


def test_shards_share_the_files(calls: Path, recogniser: ToneRecogniser, tmp_path: Path) -> None:
    words = tmp_path / "words"
    for number, names in ((1, ["a"]), (2, ["a", "b"])):
        argv = [str(calls), "--words_folder", str(words), "--shard", f"{number}/2"]
        assert main(argv) == 0
        assert sorted(path.stem for path in words.glob("*.json")) == names
    assert main([str(calls), "--shard", "3/2"]) == 2


def test_metadata_name_the_sounds(calls: Path, recogniser: ToneRecogniser, tmp_path: Path) -> None:
    metadata = tmp_path / "rows.jsonl"
    metadata.write_text('{"path": "calls/b.wav", "duration": 5.0}\n')
    assert main([str(metadata)]) == 0
    assert [path.name for path in calls.glob("*.json")] == ["b.json"]


def test_transcripts_are_aligned(calls: Path, recogniser: ToneRecogniser, tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text("A: 300 300\nB: 500, 600 600!\nA: Four 400\n")
    assert main([str(calls), "--transcripts", str(texts)]) == 0
    found = read(calls / "a.json")
    words = [text for text, *_ in found["alignments"]]
    assert sorted(words) == ["300", "300", "400", "500,", "600", "600!", "Four"]
    assert found["made_by"]["transcript"] == "a.txt"
    assert found["made_by"]["letters_heard"] == pytest.approx(18 / 22, abs=1e-3)
    assert read(calls / "b.json")["made_by"]["transcript"] == ""
    (texts / "a.txt").write_text("A: 300 300\nB: 500, 600 600!\nA: 400\n")
    assert main([str(calls), "--transcripts", str(texts)]) == 0
    assert "Four" not in [text for text, *_ in read(calls / "a.json")["alignments"]]


def failures(calls: Path) -> dict[str, str]:
    lines = Path(f"{calls}.failures.jsonl").read_text().splitlines()
    return {Path(one["path"]).name: one["reason"] for one in map(json.loads, lines)}


def test_reasons_for_failures_are_in_one_file(
    calls: Path, recogniser: ToneRecogniser, tmp_path: Path
) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "b.txt").write_text("A: an entirely different conversation\n")
    soundfile.write(calls / "silent.wav", np.zeros((48000, 2)), 16000)
    soundfile.write(calls / "six.wav", np.full((16000, 6), 0.1), 16000)
    left, rate = soundfile.read(calls / "a.wav")
    soundfile.write(calls / "twice.wav", left[:, [0, 0]], rate)
    (calls / "torn.wav").write_bytes(b"RIFF")
    assert main([str(calls), "--transcripts", str(texts)]) == 0
    found = failures(calls)
    assert found.keys() == {"b.wav", "silent.wav", "six.wav", "twice.wav", "torn.wav"}
    assert "of the letters of its transcript 0% are heard" in found["b.wav"]
    assert "is silent" in found["silent.wav"]
    assert "has 6 channels" in found["six.wav"]
    assert "same sound on both channels" in found["twice.wav"]
    assert [path.name for path in calls.glob("*.json")] == ["a.json"]
    (texts / "b.txt").unlink()
    assert main([str(calls), "--transcripts", str(texts)]) == 0
    assert "b.wav" not in failures(calls)


def test_words_that_no_longer_fit_are_removed(
    calls: Path, recogniser: ToneRecogniser, tmp_path: Path
) -> None:
    assert main([str(calls)]) == 0
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "b.txt").write_text("A: an entirely different conversation\n")
    assert main([str(calls), "--transcripts", str(texts)]) == 0
    assert [path.name for path in calls.glob("*.json")] == ["a.json"]


def test_mono_file_is_the_left_speaker(tmp_path: Path, recogniser: ToneRecogniser) -> None:
    write_tones(tmp_path / "one.wav", LEFT)
    assert main([str(tmp_path / "one.wav")]) == 0
    sides = {side for *_, side in read(tmp_path / "one.json")["alignments"]}
    assert sides == {"SPEAKER_MAIN"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "nothing to annotate"),
        (["nowhere"], "nowhere: no such folder or file"),
        (["calls", "--shard", "0/2"], "give i/n with i from 1 to n"),
    ],
)
def test_mistakes_are_named(
    argv: list[str],
    message: str,
    calls: Path,
    recogniser: ToneRecogniser,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(calls.parent)
    assert main(argv) == 2
    assert message in capsys.readouterr().err


def test_two_files_of_one_name_are_refused(
    calls: Path, recogniser: ToneRecogniser, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_call(calls / "a.flac")
    assert main([str(calls)]) == 2
    assert "would hold the words of" in capsys.readouterr().err


def test_a_folder_without_any_words_is_an_error(
    tmp_path: Path, recogniser: ToneRecogniser, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "calls").mkdir()
    soundfile.write(tmp_path / "calls/silent.wav", np.zeros((48000, 2)), 16000)
    assert main([str(tmp_path / "calls")]) == 2
    assert "no dialogue has words" in capsys.readouterr().err
