"""Miniatures of DailyTalk: dialogues with gaps, labels that are missing or wrong."""

import json
from pathlib import Path

import pytest

from csm_ft.datasets.__main__ import main
from csm_ft.errors import MetadataError
from tests.helpers.metadata import POINTER, put, read, sound


def label(emotion: str) -> dict[str, object]:
    return {"emotion": emotion, "act": "inform", "topic": "work"}


@pytest.fixture
def dailytalk(tmp_path: Path) -> Path:
    folder = tmp_path / "dailytalk"
    said = {(2, 0): "Hi.", (2, 1): "Oh no!", (2, 2): "Why?", (10, 0): "One.\n", (10, 9): "Two."}
    for (dialogue, turn), text in said.items():
        stem = folder / f"data/{dialogue}/{turn}_{turn % 2}_d{dialogue}"
        sound(stem.with_suffix(".wav"), hz=200 + 10 * dialogue + turn)
        put(stem.with_suffix(".txt"), text.encode())
    metadata = {
        "2": {"0": label("no emotion"), "1": label("surprise"), "2": label("fear")},
        "10": {"0": label("happiness"), "9": label("anger"), "10": label("anger")},
        "11": {"0": label("sadness")},
    }
    put(folder / "metadata.json", json.dumps(metadata).encode())
    return folder


def test_dialogues_are_conversations(dailytalk: Path) -> None:
    rows, _, told = read(dailytalk)
    found = [(row.conversation, row.turn, row.speaker, row.text, row.tags) for row in rows]
    own = {"language": "en", "source": "dailytalk"}
    assert found == [
        ("2", 0, "0", "Hi.", {"emotion": "neutral", **own}),
        ("2", 1, "1", "Oh no!", {"emotion": "surprised", **own}),
        ("2", 2, "0", "Why?", {"emotion": "fearful", **own}),
        ("10", 0, "0", "One.", {"emotion": "happy", **own}),
        ("10", 1, "1", "Two.", {"emotion": "angry", **own}),
    ], "turns in the order of their numbers, not of their names"
    assert "is DailyTalk" in told
    assert "not the whole set: 1 dialogues of metadata.json have no sound: 11" in told


def test_turns_that_cannot_be_used_leave_gaps(dailytalk: Path) -> None:
    (dailytalk / "data/2/1_1_d2.txt").unlink()
    put(dailytalk / "data/10/0_0_d10.wav", POINTER)
    rows, rejections, _ = read(dailytalk)
    assert [(row.conversation, row.turn) for row in rows] == [("2", 0), ("2", 2), ("10", 0)]
    reasons = [one.reason for one in rejections]
    parts = ("1_1_d2.txt is missing", "git lfs pull", "but there is no sound")
    for part, reason in zip(parts, reasons, strict=True):
        assert part in reason, reasons


def test_missing_sound_within_a_dialogue_leaves_a_gap(dailytalk: Path) -> None:
    (dailytalk / "data/2/1_1_d2.wav").unlink()
    rows, rejections, _ = read(dailytalk)
    assert [row.turn for row in rows if row.conversation == "2"] == [0, 2]
    assert "turn 1 of dialogue 2: metadata.json lists it" in rejections[0].reason


def test_silent_and_endless_turns_are_rejected(dailytalk: Path) -> None:
    sound(dailytalk / "data/2/0_0_d2.wav", level=0.0)
    sound(dailytalk / "data/2/1_1_d2.wav", sec=25)
    sound(dailytalk / "data/2/2_0_d2.wav", sec=61)
    rows, rejections, _ = read(dailytalk)
    assert [row.text for row in rows if row.conversation == "2"] == ["Oh no!"]
    reasons = [one.reason for one in rejections[:2]]
    assert ["is silent" in reasons[0], "runs 61.0 s" in reasons[1]] == [True, True]


def test_labels_that_are_missing_or_unknown(dailytalk: Path) -> None:
    metadata = {"2": {"0": label("boredom"), "1": label("fear")}}
    put(dailytalk / "metadata.json", json.dumps(metadata).encode())
    rows, rejections, told = read(dailytalk)
    assert [row.tags.get("emotion") for row in rows] == ["fearful", None, None, None]
    assert "boredom" in rejections[0].reason
    assert "3 turns are not in metadata.json" in told


@pytest.mark.parametrize("text", ["{", "[]", '{"2": {"0": {"act": "x"}}}', '{"a": {"b": {}}}'])
def test_other_metadata_is_refused(dailytalk: Path, text: str) -> None:
    put(dailytalk / "metadata.json", text.encode())
    with pytest.raises(MetadataError, match=r"is not the metadata\.json of DailyTalk"):
        read(dailytalk)


def test_sounds_alone_have_no_emotion(dailytalk: Path) -> None:
    rows, _, told = read(dailytalk / "data")
    assert {row.tags.get("emotion") for row in rows} == {None}
    assert len(rows) == 5
    assert "there is no metadata.json below" in told


def test_importer_writes_conversations(dailytalk: Path, tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    assert main(["dailytalk", str(dailytalk), "--output", str(output)]) == 0
    before, after = read(dailytalk)[0], read(output)[0]
    assert [(row.conversation, row.turn, row.tags) for row in before] == [
        (row.conversation, row.turn, row.tags) for row in after
    ]
