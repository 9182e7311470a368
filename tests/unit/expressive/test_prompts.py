"""Tests of what is spoken at the end of the expressive command."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from csm_ft.data.token_file import write_store
from csm_ft.expressive import prompts as prompts_module
from csm_ft.expressive.prompts import SENTENCES, write_prompts
from tests.helpers.tables import INFO, make_table

TEMPLATE = "[{speaker}]<{emotion}>?{text}"


def prompts_of(folder: Path, emotions: list[str], text: str = "Hi.") -> list[dict[str, Any]]:
    table = make_table([2] * len(emotions))
    table.clips = [
        replace(clip, speaker="anna", text=text, tags={"emotion": emotion, "gender": "f"})
        for clip, emotion in zip(table.clips, emotions, strict=True)
    ]
    write_store(folder / "t.hdf5", INFO, {"train": table, "val": table})
    write_prompts(folder / "t.hdf5", TEMPLATE, 2, folder / "prompts.json")
    return json.loads((folder / "prompts.json").read_text())


def test_each_sentence_is_asked_with_every_tag(tmp_path: Path) -> None:
    prompts = prompts_of(tmp_path, ["angry", "calm", "angry"])
    expected = [
        {"text": text, "speaker": "anna", **tags}
        for text in SENTENCES[:2]
        for tags in ({}, {"emotion": "angry"}, {"emotion": "calm"})
    ]
    assert prompts == expected


def test_trained_sentences_are_not_spoken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = prompts_of(tmp_path, ["angry"], text=SENTENCES[0].upper())
    assert {one["text"] for one in prompts} == set(SENTENCES[1:3])
    assert "are not spoken" in capsys.readouterr().out


def test_where_all_sentences_were_trained_on_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prompts_module, "SENTENCES", ("One.",))
    assert [one["text"] for one in prompts_of(tmp_path, ["angry"], text="one.")] == ["One."] * 2
    assert "how well the model repeats" in " ".join(capsys.readouterr().out.split())


def test_rare_tags_are_left_out(tmp_path: Path) -> None:
    prompts = prompts_of(tmp_path, [f"mood {i}" for i in range(12)])
    assert len(prompts) == 2 * 9
