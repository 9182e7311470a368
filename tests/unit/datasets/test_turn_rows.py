"""Rows of a conversation in one stereo file become a dialogue with words."""

import json
from pathlib import Path
from typing import Any

from csm_ft.data.rows import Rejection, Row
from csm_ft.datasets.metadata import read_metadata
from csm_ft.datasets.words import WordLists

TURNS = [
    {"speaker": "A", "start": 0.0, "end": 1.0, "text": "How are you?"},
    {"speaker": "B", "start": 0.8, "end": 1.6, "text": "Fine."},
    {"speaker": "A", "start": 2.0, "end": 3.0, "text": "Good to hear"},
]


def read(
    folder: Path, rows: list[dict[str, Any]], told: list[str] | None = None, **options: Any
) -> tuple[list[Row], list[Rejection]]:
    (folder / "call.wav").write_bytes(b"")
    path = folder / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    tell = (told if told is not None else []).append
    return read_metadata(path, words=WordLists(**options), tell=tell)


def rows_of(conversation: str, **more: Any) -> list[dict[str, Any]]:
    return [{"path": "call.wav", "conversation": conversation, **turn, **more} for turn in TURNS]


def test_turns_are_one_dialogue(tmp_path: Path) -> None:
    told: list[str] = []
    (row,), rejections = read(tmp_path, rows_of("c1"), told)
    assert rejections == []
    assert [(word.text, word.speaker) for word in row.words] == [
        *(("How", 0), ("are", 0), ("you?", 0), ("Fine.", 1)),
        *(("Good", 0), ("to", 0), ("hear", 0)),
    ]
    assert (row.start_sec, row.end_sec, row.conversation, row.speaker) == (None, None, "", None)
    assert row.words[0].start_sec == 0.0
    assert row.words[3][1:3] == (0.8, 1.6)
    assert any("3 rows are turns of 1 dialogues" in line for line in told)


def test_channels_say_whose_turn_it_is(tmp_path: Path) -> None:
    rows = rows_of("c1")
    for row, (speaker, channel) in zip(
        rows, (("anna", "right"), ("ben", "left"), ("anna", "right")), strict=True
    ):
        row |= {"speaker": speaker, "channel": channel}
    (row,), _ = read(tmp_path, rows)
    assert [word.speaker for word in row.words] == [1, 1, 1, 0, 1, 1, 1]


def test_unknown_speaker_names_the_way_out(tmp_path: Path) -> None:
    found, rejections = read(tmp_path, [*rows_of("c1")[:2], {**rows_of("c1")[2], "speaker": "C"}])
    assert found == []
    assert "speaker 'C' is not A or B" in rejections[2].reason
    assert "another turn of its dialogue" in rejections[0].reason
    assert rejections[2].where in rejections[0].reason


def test_turn_that_cannot_be_read_costs_its_dialogue_only(tmp_path: Path) -> None:
    (tmp_path / "other.wav").write_bytes(b"")
    other = [{**row, "path": "other.wav"} for row in rows_of("c2")]
    broken = rows_of("c1")
    broken[1]["end"] = 0.1
    (row,), rejections = read(tmp_path, [*broken, *other])
    assert row.path.name == "other.wav"
    assert len(rejections) == 3
    assert "is not after start_sec" in rejections[1].reason


def test_clips_of_one_speaker_stay_clips(tmp_path: Path) -> None:
    rows = [{name: row[name] for name in row if name != "conversation"} for row in rows_of("c1")]
    found, _ = read(tmp_path, rows, are_needed=False)
    assert [row.text for row in found] == [turn["text"] for turn in TURNS]
