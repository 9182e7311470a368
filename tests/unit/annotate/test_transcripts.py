"""Transcripts as people keep them, and what is wrong with others."""

import json
from pathlib import Path

import pytest

from csm_ft.annotate.align import Turn
from csm_ft.annotate.transcripts import find_transcript, read_transcript
from csm_ft.errors import MetadataError


def write(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")
    return path


def test_lines_name_their_speaker(tmp_path: Path) -> None:
    path = write(tmp_path, "call.txt", "A: good morning\n\nRIGHT:  hello: who is it?\n")
    turns = read_transcript(path, is_mono=False)
    assert turns == [Turn("good morning", 0), Turn("hello: who is it?", 1)]


def test_lines_of_a_mono_file_need_no_speaker(tmp_path: Path) -> None:
    path = write(tmp_path, "call.txt", "good morning\nB: hello\n12: 30 it is\n")
    assert read_transcript(path, is_mono=True) == [
        Turn("good morning", 0),
        Turn("hello", 1),
        Turn("12: 30 it is", 0),
    ]


def test_json_has_turns_with_or_without_times(tmp_path: Path) -> None:
    turns = [{"speaker": "A", "text": "hi"}, {"speaker": "B", "text": "yes", "start": 1, "end": 2}]
    expected = [Turn("hi", 0), Turn("yes", 1, 1.0, 2.0)]
    assert read_transcript(write(tmp_path, "a.json", turns), is_mono=False) == expected
    assert read_transcript(write(tmp_path, "b.json", {"turns": turns}), is_mono=False) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "A: hi\nand then\n", "a.txt line 2: 'and then' does not begin with its speaker"),
        ("a.txt", "\n \n", "holds no word"),
        ("a.json", "{", "not JSON"),
        ("a.json", "{}", "write \\["),
        ("a.json", ["hi"], "turn 1: is 'hi', not an object"),
        ("a.json", [{"speaker": "A", "text": 3}], "turn 1: its text is 3; put it in quotes"),
        ("a.json", [{"speaker": "C", "text": "x"}], "turn 1: speaker 'C' is not A or B"),
        ("a.json", [{"speaker": "A", "text": "x", "start": 1}], "None is not a number of seconds"),
        (
            "a.json",
            [{"speaker": "A", "text": "x", "start": 2, "end": 1}],
            "end 1 is before start 2",
        ),
        ("a.json", [{"speaker": "A", "text": "x", "start": "1", "end": 2}], "'1' is not a number"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, name: str, content: object, message: str) -> None:
    with pytest.raises(MetadataError, match=message):
        read_transcript(write(tmp_path, name, content), is_mono=False)


def test_transcript_is_named_after_its_sound(tmp_path: Path) -> None:
    path = write(tmp_path, "call.txt", "A: hi")
    assert find_transcript(tmp_path, Path("sounds/call.flac")) == path
    assert find_transcript(tmp_path, Path("sounds/other.flac")) is None
