"""Transcripts as text, subtitles and JSON."""

import json
from pathlib import Path

from csm_ft.transcribe.results import Segment, Transcript, write

TRANSCRIPT = Transcript(
    Path("talk.wav"),
    3725.0,
    [
        Segment(0.5, 2.25, "Hello there.", True),
        Segment(3.0, 4.0, "", True),
        Segment(3723.4567, 3725.0, "Ça va ?", False),
    ],
)


def test_formats_are_written_beside_each_other(tmp_path: Path) -> None:
    write(TRANSCRIPT, tmp_path / "a.b", ["txt", "srt", "json"], "run")
    assert (tmp_path / "a.b.txt").read_text() == "Hello there. Ça va ?\n"
    assert (tmp_path / "a.b.srt").read_text() == (
        "1\n00:00:00,500 --> 00:00:02,250\nHello there.\n\n"
        "2\n01:02:03,457 --> 01:02:05,000\nÇa va ?\n"
    )
    values = json.loads((tmp_path / "a.b.json").read_text())
    assert (values["model"], len(values["segments"])) == ("run", 3)
    assert values["segments"][2]["is_complete"] is False


def test_only_the_wanted_formats_are_written(tmp_path: Path) -> None:
    write(TRANSCRIPT, tmp_path / "a", ["srt"], "run")
    assert [path.name for path in tmp_path.iterdir()] == ["a.srt"]
