"""Words with times: every form that is read, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from csm_ft.data.rows import Word
from csm_ft.datasets.metadata import read_metadata
from csm_ft.datasets.values import Reason
from csm_ft.datasets.words import WordLists, spread_turns

ALIGNMENTS = [["hello", [0.1, 0.4], "SPEAKER_MAIN"], ["hi", [1, 1.5], "SPEAKER_OTHER"]]
OBJECTS = [
    {"word": "hello", "start": 0.1, "end": 0.4, "speaker": "A"},
    {"word": "hi", "start": 1, "end": 1.5, "speaker": "B"},
]
WORDS = (Word("hello", 0.1, 0.4, 0), Word("hi", 1.0, 1.5, 1))


def find(value: Any, folder: Path = Path()) -> tuple[Word, ...] | Reason:
    return WordLists().find(value, folder / "a.wav", folder)


@pytest.mark.parametrize("value", [ALIGNMENTS, OBJECTS, {"alignments": ALIGNMENTS}])
def test_all_forms_and_places_give_the_same_words(value: Any, tmp_path: Path) -> None:
    assert find(value) == find(json.dumps(value)) == WORDS
    (tmp_path / "a.json").write_text(json.dumps(value))
    assert find(None, tmp_path) == find("a.json", tmp_path) == WORDS
    lists = WordLists(tmp_path)
    assert lists.find(None, Path("/elsewhere/a.wav"), Path("/elsewhere")) == WORDS


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([["a", ["0", 1], "A"]], "start '0' is not a number of seconds"),
        ([["a", [0, float("nan")], "A"]], "end nan is not 0 or more"),
        ([["a", [-1, 1], "A"]], "start -1 is not 0 or more"),
        ([["a", [2, 1], "A"]], "end 1 is before start 2"),
        ([["a", [0, 1], "C"]], "speaker 'C' is not A or B"),
        ([["a", 3, "A"]], "start None is not a number"),
        ([[7, [0, 1], "A"]], "7 is no text"),
        (["a"], "'a' is no word with times"),
        ({"segments": []}, "has no alignments"),
        ([["  ", [0, 1], "A"]], "holds no word"),
        ([], "holds no word"),
        (3, "not a list of words"),
        ("{", "not JSON"),
        ("gone.json", "cannot be read"),
    ],
)
def test_bad_words_are_named(value: Any, says: str) -> None:
    found = find(value)
    assert isinstance(found, Reason)
    assert says in found


def test_absent_words_name_the_place(tmp_path: Path) -> None:
    found = find(None, tmp_path)
    assert isinstance(found, Reason)
    assert str(tmp_path / "a.json") in found


def test_metadata_takes_texts_from_words(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    (tmp_path / "a.json").write_text(json.dumps({"alignments": ALIGNMENTS}))
    (tmp_path / "b.wav").touch()
    rows = [{"path": "a.wav", "duration": 3.5}, {"path": "b.wav", "words": OBJECTS, "text": "own"}]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    found, bad = read_metadata(tmp_path / "rows.jsonl", words=WordLists())
    assert bad == []
    assert [(row.text, row.words, row.end_sec) for row in found] == [
        ("hello hi", WORDS, 3.5),
        ("own", WORDS, None),
    ]


def test_folder_of_dialogues_and_folder_of_words(tmp_path: Path) -> None:
    for name in ("sounds", "lists"):
        (tmp_path / name).mkdir()
    for name in ("a", "b"):
        (tmp_path / "sounds" / f"{name}.wav").touch()
    (tmp_path / "lists/a.json").write_text(json.dumps(OBJECTS))
    found, bad = read_metadata(tmp_path / "sounds", words=WordLists(tmp_path / "lists"))
    assert [(row.path.name, row.words) for row in found] == [("a.wav", WORDS)]
    assert "lists/b.json" in bad[0].reason


TURNS = [
    {"speaker": "A", "start": 1.0, "end": 2.0, "text": "one three"},
    {"speaker": "B", "start": 2.5, "end": 3.0, "text": "yes"},
]


def test_words_of_a_turn_share_its_time() -> None:
    words = find(TURNS)
    assert not isinstance(words, Reason)
    spread, num_turns = spread_turns(words)
    assert num_turns == 1
    assert spread == (
        Word("one", 1.0, 1.4, 0),
        Word("three", 1.4, 2.0, 0),
        Word("yes", 2.5, 3.0, 1),
    )
    assert spread_turns(WORDS) == (WORDS, 0)


@pytest.mark.parametrize("column", ["turns", "words"])
def test_turns_of_a_dialogue_are_told(column: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"path": "a.wav", column: TURNS}))
    told: list[str] = []
    (row,), rejections = read_metadata(path, words=WordLists(), tell=told.append)
    assert not rejections
    assert (row.text, row.conversation) == ("one three yes", "")
    assert [word.speaker for word in row.words] == [0, 0, 1]
    assert any("1 turns of several words have times" in line for line in told)


def test_wrong_turn_is_rejected_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        json.dumps({"path": "a.wav", "turns": [TURNS[0], {**TURNS[1], "speaker": "C"}]})
    )
    rows, (rejection,) = read_metadata(path, words=WordLists())
    assert not rows
    assert "word 2: 'yes': speaker 'C' is not A or B" in rejection.reason
