"""The program: rows that pretokenize.py reads, resuming, and a reason for all that is left out."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from csm_ft.datasets.__main__ import main
from csm_ft.datasets.metadata import read_metadata
from csm_ft.evaluate.recognise import Heard
from csm_ft.segment import hear, hearing, run
from tests.helpers.segmenting import ToneRecogniser, find_tones, write_tones

# A clip each: silences of two seconds are longer than a clip may have.
TALK = [(300, 2.5, 2.0), (400, 3.0, 2.0), (500, 2.0, 2.0)]


class HzEmbedder:
    """Embeds a tone as one of two voices: below 600 Hz, or above."""

    name = "hz 1"

    def embed(self, wave: np.ndarray) -> np.ndarray:
        hz = np.abs(np.fft.rfft(wave)).argmax() * 16000 / len(wave)
        return np.array([hz < 600, hz >= 600, hz / 1e5], np.float32)


@pytest.fixture
def recogniser(monkeypatch: pytest.MonkeyPatch) -> ToneRecogniser:
    found = ToneRecogniser()
    monkeypatch.setattr(run, "find_speech", find_tones)
    monkeypatch.setattr(hearing, "open_recogniser", lambda *_: found)
    monkeypatch.setattr(run, "open_embedder", lambda *_: HzEmbedder())
    return found


def segment(folder: Path, *argv: str) -> int:
    output = folder.parent / "meta.jsonl"
    return main(["segment", str(folder), "--output", str(output), *argv])


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder.parent / "meta.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def reasons(folder: Path) -> dict[str, str]:
    lines = (folder.parent / "meta.jsonl.rejected.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return {Path(one["where"]).name: one["reason"] for one in found}


def test_rows_are_spans_of_the_recordings(tmp_path: Path, recogniser: ToneRecogniser) -> None:
    folder = tmp_path / "talks"
    write_tones(folder / "b.wav", TALK[:1])
    write_tones(folder / "a.wav", TALK)
    assert segment(folder) == 0
    texts = ["300 300 300 300 300.", "400 400 400 400 400 400.", "500 500 500 500."]
    starts = [0.35, 4.85, 9.85]
    assert rows(folder)[0] == {
        "path": "talks/a.wav",
        "start_sec": 0.35,
        "end_sec": 3.15,
        "text": texts[0],
        "speaker": "a",
        "language": "en",
        "confidence": 0.9,
        "source": "talks",
    }
    read, rejections = read_metadata(tmp_path / "meta.jsonl")
    assert rejections == []
    assert [(row.path.name, row.start_sec, row.text) for row in read] == [
        *(("a.wav", start, text) for start, text in zip(starts, texts, strict=True)),
        ("b.wav", starts[0], texts[0]),
    ]
    assert read[0].tags["source"] == "talks"


def test_ctrl_c_and_the_same_command_lose_a_block_at_most(
    tmp_path: Path,
    recogniser: ToneRecogniser,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(hear, "BLOCK_SEC", 6.0)
    folder = tmp_path / "talks"
    for name in "abc":
        write_tones(folder / f"{name}.wav", [(hz + 10 * ord(name), *times) for hz, *times in TALK])
    assert segment(folder) == 0
    wanted, whole = rows(folder), recogniser.num_calls
    for path in (tmp_path / "meta.jsonl.parts").glob("*.jsonl"):
        path.unlink()
    (tmp_path / "meta.jsonl").unlink()
    recogniser.stop_after = whole + 4
    assert segment(folder) == 130
    assert "interrupted; the same command continues" in capsys.readouterr().out
    assert not (tmp_path / "meta.jsonl").exists()
    recogniser.stop_after = None
    assert segment(folder) == 0
    assert "were heard before" in capsys.readouterr().out
    assert rows(folder) == wanted
    assert recogniser.num_calls == 2 * whole


def test_only_what_changed_is_heard_again(tmp_path: Path, recogniser: ToneRecogniser) -> None:
    folder = tmp_path / "talks"
    for name, hz in (("a", 300), ("b", 700)):
        write_tones(folder / f"{name}.wav", [(hz, 2.5, 2.0), (hz, 1.0, 0.5)])
    assert segment(folder) == 0
    calls = recogniser.num_calls
    assert len(rows(folder)) == 2
    assert segment(folder, "--min_sec", "1", "--speakers", "2") == 0
    assert recogniser.num_calls == calls
    assert [row["speaker"][-1] for row in rows(folder)] in (list("1122"), list("2211"))
    os.utime(folder / "b.wav", ns=(1, 1))
    assert segment(folder) == 0
    assert recogniser.num_calls == calls * 3 // 2
    assert segment(folder, "--language", "en") == 0
    assert recogniser.num_calls == calls * 5 // 2


def test_recordings_that_give_nothing_say_why(
    tmp_path: Path, recogniser: ToneRecogniser, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "talks"
    write_tones(folder / "a.wav", [*TALK, (600, 1.0, 2.0)])
    soundfile.write(folder / "silent.wav", np.zeros(32000), 16000)
    soundfile.write(folder / "hum.wav", np.full(32000, 0.04), 16000)
    (folder / "broken.ogg").write_bytes(b"nonsense")
    assert segment(folder) == 0
    out = capsys.readouterr().out
    found = reasons(folder)
    assert found.pop("a.wav 13.850-15.150 s").startswith(
        "too short: 1.300 s; --min_sec is 2; lower"
    )
    assert {name: reason.split(";")[0].split(" (")[0] for name, reason in found.items()} == {
        "silent.wav": "is silent: below -60 dBFS",
        "hum.wav": "has no speech that voice activity finds",
        "broken.ogg": "cannot be decoded: Format not recognised",
    }
    assert all(reason in out for reason in found.values())
    assert "rejected, too short: 1 clip, 0:00:01; lower --min_sec" in out


def test_what_was_read_before_a_fault_is_used(
    tmp_path: Path, recogniser: ToneRecogniser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hear, "BLOCK_SEC", 6.0)
    folder = tmp_path / "talks"
    path = write_tones(folder / "a.wav", TALK)
    load = hear.load_block

    def fails(recording: hear.Recording, start_sec: float, end_sec: float) -> np.ndarray:
        if start_sec > 0:
            path.unlink(missing_ok=True)
        return load(recording, start_sec, end_sec)

    monkeypatch.setattr(hear, "load_block", fails)
    assert segment(folder) == 0
    assert [row["text"][:3] for row in rows(folder)] == ["300"]
    assert reasons(folder)["a.wav"].startswith("used up to 0:00:0")


def test_no_usable_clip_writes_nothing(
    tmp_path: Path, recogniser: ToneRecogniser, capsys: pytest.CaptureFixture[str]
) -> None:
    recogniser.probability = 0.2
    folder = tmp_path / "talks"
    write_tones(folder / "a.wav", TALK)
    assert segment(folder) == 2
    printed = capsys.readouterr()
    assert "rejected, not trusted: 3 clips" in printed.out
    assert "no clip can be used, of 3 clips in 1 recording" in printed.err
    assert not (tmp_path / "meta.jsonl").exists()
    recogniser.probability = None  # not known: nothing to reject by
    os.utime(folder / "a.wav", ns=(1, 1))
    assert segment(folder) == 0
    assert "this recogniser gives none" in capsys.readouterr().out
    assert "confidence" not in rows(folder)[0]


def test_sides_of_a_call_are_speakers_and_turns(tmp_path: Path, recogniser: ToneRecogniser) -> None:
    folder = tmp_path / "calls"
    folder.mkdir()
    left = [(300, 2.5, 4.0), (300, 1.0, 8.5)]  # its second turn is too short
    right = [(700, 2.5, 4.0), (700, 2.5, 4.0)]
    write_tones(tmp_path / "left.wav", left)
    write_tones(tmp_path / "right.wav", right, lead_sec=3.5)
    sides = [soundfile.read(tmp_path / f"{side}.wav")[0] for side in ("left", "right")]
    size = max(map(len, sides))
    call = np.stack([np.pad(side, (0, size - len(side))) for side in sides], axis=1)
    soundfile.write(folder / "call.wav", call, 16000)
    assert segment(folder, "--speakers", "channel", "--conversations") == 0
    found = [
        (row["speaker"], row["channel"], row["conversation"][-1], row["turn"])
        for row in rows(folder)
    ]
    assert found == [
        ("call-left", "left", "1", 1),
        ("call-right", "right", "1", 2),
        ("call-right", "right", "2", 1),
    ]
    read, rejections = read_metadata(tmp_path / "meta.jsonl")
    assert (len(read), rejections) == (3, [])


def test_speakers_within_each_file(
    tmp_path: Path, recogniser: ToneRecogniser, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "calls"
    write_tones(folder / "a.wav", [(300, 2.5, 0.4), (700, 2.5, 0.4), (300, 2.5, 0.4)])
    write_tones(folder / "b.wav", [(800, 2.5, 0.5)])
    assert segment(folder, "--speakers", "2/file") == 0
    assert [row["speaker"] for row in rows(folder)] == ["a-1", "a-2", "a-1"]
    assert "1 of the stretches of speech are 1.6 s or longer" in reasons(folder)["b.wav"]
    assert "a: 2 speakers, silhouette" in capsys.readouterr().out


class Untimed:
    name, languages = "a run of our own", ()

    def hear(self, wave: np.ndarray) -> str:
        return ""


class Wordless(ToneRecogniser):
    def hear_words(self, wave: np.ndarray) -> Heard:
        return Heard([], "en")


@pytest.mark.parametrize(
    ("opened", "argv", "message"),
    [
        (None, ["--output", "meta.csv"], "name a file .jsonl"),
        (None, ["--speakers", "many"], "give off, channel, auto, or how many people speak"),
        (None, ["--min_sec", "9"], "--min_sec 9 is more than half of --max_sec 15"),
        (None, ["--max_pause_sec", "0.2"], "--max_pause_sec 0.2 is below --min_pause_sec 0.3"),
        ("--asr none", [], "--asr none; segment cannot do without one"),
        (Untimed(), [], "a run of our own does not tell when words are said; name a model"),
        (Wordless(), [], "no clip can be used, of 0 clips in 1 recording"),
    ],
)
def test_mistakes_name_the_way_out(
    tmp_path: Path,
    recogniser: ToneRecogniser,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    opened: object,
    argv: list[str],
    message: str,
) -> None:
    if opened is not None:
        monkeypatch.setattr(hearing, "open_recogniser", lambda *_: opened)
    folder = tmp_path / "talks"
    write_tones(folder / "a.wav", TALK)
    assert segment(folder, *argv) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "meta.jsonl").exists()
