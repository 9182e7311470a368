"""Every file of a folder is a recording, or is named with its reason."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from csm_ft.errors import ConfigError
from csm_ft.segment.recordings import find_recordings
from tests.helpers.segmenting import write_tones

TONES = [(300, 1.0, 0.5)]
OUTPUT = Path("meta.jsonl")


def write_sides(path: Path, left: float, right: float) -> None:
    time = np.arange(16000) / 16000
    sides = [0.3 * np.sin(2 * np.pi * hz * time) for hz in (left, right)]
    soundfile.write(path, np.stack(sides, axis=1), 16000)


def test_each_file_is_a_recording_or_has_a_reason(tmp_path: Path) -> None:
    write_tones(tmp_path / "a.wav", TONES)
    write_tones(tmp_path / "b/talk [1].flac", [(500, 1.0, 0.5)])
    (tmp_path / "b/again.wav").write_bytes((tmp_path / "a.wav").read_bytes())
    (tmp_path / "a.mp3").write_bytes(b"the same in another format")
    (tmp_path / "c.wav").touch()
    (tmp_path / "d.ogg").write_bytes(b"nonsense")
    (tmp_path / "e.mp4").write_bytes(b"film")
    (tmp_path / "f.txt").write_text("notes")
    (tmp_path / "._a.wav").write_bytes(b"a Mac's")
    found = find_recordings(tmp_path, OUTPUT, by_channel=False)
    assert [(one.path.name, one.name) for one in found.recordings] == [
        ("a.wav", "a"),
        ("talk [1].flac", "talk (1)"),
    ]
    assert {path.name: reason.split(";")[0] for path, reason in found.problems.items()} == {
        "a.mp3": f"is a copy of {tmp_path / 'a.wav'}, by its name or content",
        "again.wav": f"is a copy of {tmp_path / 'a.wav'}, by its name or content",
        "c.wav": "is empty (0 bytes)",
        "d.ogg": "cannot be decoded: Format not recognised",
        "e.mp4": "is not read",
    }
    assert found.notes == ["left out, as they are no sound files: 1 .txt"]


def test_names_are_unique(tmp_path: Path) -> None:
    for name in ("x/talk.wav", "y/talk.wav", "z.wav"):
        write_tones(tmp_path / name, [(300 + len(name) + ord(name[0]), 1.0, 0.5)])
    found = find_recordings(tmp_path, OUTPUT, by_channel=False)
    assert sorted(one.name for one in found.recordings) == ["x/talk", "y/talk", "z"]


def test_subtitles_are_pointed_out(tmp_path: Path) -> None:
    write_tones(tmp_path / "a.wav", TONES)
    (tmp_path / "a.srt").write_text("1")
    found = find_recordings(tmp_path, OUTPUT, by_channel=False)
    assert found.notes[0] == "left out, as they are no sound files: 1 .srt"
    assert found.notes[1].startswith("recordings with subtitles need no recogniser")


def test_own_output_is_no_recording(tmp_path: Path) -> None:
    write_tones(tmp_path / "a.wav", TONES)
    output = tmp_path / "meta.jsonl"
    for path in (output, tmp_path / "meta.jsonl.parts/x.words.jsonl"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")
    found = find_recordings(tmp_path, output, by_channel=False)
    assert (len(found.recordings), found.notes, found.problems) == (1, [], {})


def test_sides_are_recordings_where_they_differ(tmp_path: Path) -> None:
    write_sides(tmp_path / "call.wav", 300, 500)
    write_sides(tmp_path / "both.wav", 300, 300)
    write_tones(tmp_path / "mono.wav", TONES)
    found = find_recordings(tmp_path, OUTPUT, by_channel=True)
    assert [(one.name, one.channel) for one in found.recordings] == [
        ("call-left", "left"),
        ("call-right", "right"),
    ]
    assert {path.name: reason for path, reason in found.problems.items()} == {
        "both.wav": "has the same sound on both channels; cut it by --speakers off, or a number",
        "mono.wav": (
            "has 1 channel, not one for each of two speakers; cut it by --speakers off, or a number"
        ),
    }


def test_a_folder_without_sound_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder or file"):
        find_recordings(tmp_path / "nowhere", OUTPUT, by_channel=False)
    with pytest.raises(ConfigError, match="has no sound file that can be read; name a folder"):
        find_recordings(tmp_path, OUTPUT, by_channel=False)
    (tmp_path / "e.mp4").write_bytes(b"film")
    with pytest.raises(
        ConfigError, match=r"e\.mp4: is not read; convert it: ffmpeg -i e\.mp4 e\.wav"
    ):
        find_recordings(tmp_path, OUTPUT, by_channel=False)
