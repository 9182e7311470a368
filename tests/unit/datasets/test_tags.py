"""Tests of further columns and weights in metadata."""

import json
from pathlib import Path

import pytest

from csm_ft.datasets.__main__ import DatasetsConfig, convert
from csm_ft.datasets.metadata import read_metadata
from tests.helpers.metadata import make, read

ROW = {"path": "a.wav", "text": "A."}


def write(folder: Path, **more: object) -> Path:
    make(folder, **{"t.jsonl": json.dumps(ROW | more)})
    return folder / "t.jsonl"


def test_known_columns_become_tags(tmp_path: Path) -> None:
    path = write(tmp_path, Emotion=" angry ", intensity=2.0, gender=None, mood="x", style="nan")
    (row,), rejections, told = read(path)
    assert (row.tags, rejections) == ({"emotion": "angry", "intensity": "2"}, [])
    assert "mood" in told
    assert "emotion" not in told


def test_columns_of_the_caller_become_tags(tmp_path: Path) -> None:
    path = write(tmp_path, Mood="怒り", emotion="angry")
    (row,), _ = read_metadata(path, keep=("mood",))
    assert row.tags == {"mood": "怒り"}
    (row,), _ = read_metadata(path, keep=None)
    assert row.tags == {"mood": "怒り", "emotion": "angry"}


def test_values_that_are_no_words_are_no_tags(tmp_path: Path) -> None:
    (row,), _, _ = read(write(tmp_path, emotion=["sad", "angry"], style="a\nb", source={"a": 1}))
    assert row.tags == {}


def test_turns_inherit_tags_of_their_conversation(tmp_path: Path) -> None:
    turns = [ROW, ROW | {"style": "whisper"}]
    make(tmp_path, **{"t.json": json.dumps([{"style": "calm", "gender": "f", "turns": turns}])})
    rows, _, _ = read(tmp_path / "t.json")
    assert [row.tags["style"] for row in rows] == ["calm", "whisper"]
    assert {row.tags["gender"] for row in rows} == {"f"}


@pytest.mark.parametrize(("value", "weight"), [(2, 2.0), ("0,5", 0.5), (None, 1.0), ("", 1.0)])
def test_weight_of_a_row(tmp_path: Path, value: object, weight: float) -> None:
    (row,), _, _ = read(write(tmp_path, weight=value))
    assert row.weight == weight


@pytest.mark.parametrize(
    ("value", "rule"), [(0, "not above 0"), (-1, "not above 0"), ("much", "not a number")]
)
def test_bad_weight_is_rejected(tmp_path: Path, value: object, rule: str) -> None:
    _, (rejection,), _ = read(write(tmp_path, weight=value))
    assert rule in rejection.reason
    assert "weight" in rejection.reason


def test_tags_survive_the_datasets_command(tmp_path: Path) -> None:
    source = write(tmp_path / "in", emotion="angry", weight=1.5)
    output = tmp_path / "out.jsonl"
    convert(DatasetsConfig(corpus="auto", path=str(source), output=str(output)))
    (row,), _, _ = read(output)
    assert (row.tags, row.weight) == ({"emotion": "angry"}, 1.5)
