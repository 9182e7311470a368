"""Rows whose text is far from what a recogniser heard."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.pretokenizing import FakeEncoder, Json, Work

HEARD = [
    "This\u00a0is\u202fsentence 0.",
    "this is, sentence one",
    "Bye.",
    None,
    "this is sentence 4",
]


def rows(work: Work) -> list[Json]:
    heard = [{"heard": text} if text else {} for text in HEARD]
    return [row | more for row, more in zip(work.clips([0.5] * 5), heard, strict=True)]


def distances(work: Work) -> list[dict[str, Any]]:
    path = Path(f"{work.output}.labels.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(work: Work, *more: str) -> int:
    val = [{**row, "heard": row["text"]} for row in work.clips([0.6], first=9)]
    return work.run(rows(work), val, "--heard_column", "heard", "--max_rejected", "50%", *more)


def test_far_texts_are_rejected_and_all_distances_kept(
    work: Work, encoder: FakeEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(work) == 0
    split = work.store().splits["train"]
    assert [split.clip(row).text[-2] for row in range(len(split))] == ["0", "1", "3", "4"]
    assert not split.has_tags, "what was heard is no tag"
    found = distances(work)
    assert found[0]["where"].endswith("train.json row 3")
    # By hand: "this is sentence 1" and "this is sentence one" differ by 3 letters of 20.
    assert [label["distance"] for label in found][1:] == [pytest.approx(3 / 20), 0, 0, 0]
    (rejected,) = work.rejected()
    assert "more than --max_heard_distance 0.3" in rejected["reason"]
    out = capsys.readouterr().out
    assert "text   This is sentence 2." in out
    assert "heard  Bye." in out
    assert "1 of 5 texts are more than 0.3 from what was heard; 1 rows say nothing of it" in out


def test_another_limit_encodes_only_what_it_adds(work: Work, encoder: FakeEncoder) -> None:
    assert run(work) == 0
    assert encoder.num_encoded == 5
    assert run(work, "--max_heard_distance", "0.1") == 0
    assert encoder.num_encoded == 5
    assert len(work.store().splits["train"]) == 3
    assert run(work, "--max_heard_distance", "1") == 0
    assert encoder.num_encoded == 7, "the two clips that it adds"


def test_column_that_no_row_has_is_a_mistake(
    work: Work, encoder: FakeEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert work.run(work.clips([0.5]), work.clips([0.6], first=9), "--heard_column", "asr") == 2
    assert "--heard_column asr: no row has a word in a column of that name" in (
        capsys.readouterr().err
    )


class FakeRecogniser:
    """Hears "This is sentence N.", where N is told, and counts how often it is asked."""

    name = "fake"
    languages = ()

    def __init__(self, texts: list[str]) -> None:
        self.texts, self.num_heard = texts, 0

    def hear(self, wave: np.ndarray) -> str:
        assert wave.ndim == 1
        self.num_heard += 1
        return self.texts[(self.num_heard - 1) % len(self.texts)]


def test_recogniser_hears_what_no_column_says(
    work: Work, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["This is sentence 0.", "Bye.", "", "This is sentence 9."]
    recogniser = FakeRecogniser(texts)
    monkeypatch.setattr(
        "csm_ft.evaluate.recognise.open_recogniser", lambda source, language, device: recogniser
    )
    train, val = work.clips([0.5] * 4), work.clips([0.6], first=9)
    train[1]["heard"] = train[1]["text"]
    argv = ("--heard_column", "heard", "--heard_by", "transformers:x", "--max_rejected", "60%")
    assert work.run(train, val, *argv) == 0
    assert recogniser.num_heard == 4, "three rows and the validation clip"
    split = work.store().splits["train"]
    assert [split.clip(row).text[-2] for row in range(len(split))] == ["0", "1"]
    assert [label["heard"] for label in distances(work)][:2] == ["", "Bye."]
    assert work.run(train, val, *argv, "--max_heard_distance", "1") == 0
    assert recogniser.num_heard == 4, "nothing is heard again"
    assert len(work.store().splits["train"]) == 4


def test_hearing_goes_on_after_a_line_that_was_cut_off(
    work: Work, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    recogniser = FakeRecogniser(["This is sentence 0."])
    monkeypatch.setattr(
        "csm_ft.evaluate.recognise.open_recogniser", lambda source, language, device: recogniser
    )
    train, val = work.clips([0.5] * 2), work.clips([0.6], first=9)
    argv = ("--heard_by", "tiny", "--max_heard_distance", "1")
    assert work.run(train, val, *argv) == 0
    path = Path(f"{work.output}.heard.jsonl")
    text = path.read_text()
    path.write_text(text[: len(text) - 10])
    before = recogniser.num_heard
    assert work.run(train, val, *argv) == 0
    assert recogniser.num_heard == before + 1


def test_no_recogniser_is_a_mistake(
    work: Work, encoder: FakeEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = work.clips([0.5]), work.clips([0.6], first=9)
    assert work.run(*clips, "--heard_by", "none") == 2
    assert "--heard_by none: --asr none; name a recogniser" in capsys.readouterr().err
    assert work.run(*clips, "--heard_by", f"transformers:{work.folder / 'gone'}") == 2
    assert "error: --heard_by transformers:" in capsys.readouterr().err
