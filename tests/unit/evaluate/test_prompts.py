"""Prompts: seeded, disjoint from training, the same words for all emotions."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from csm_ft.data.split import Clip, Split, Store, clip_columns
from csm_ft.errors import PromptError
from csm_ft.evaluate.prompts import from_file, from_validation
from tests.helpers.splits import INFO

EMOTIONS = ("neutral", "angry", "sad")


def split_of(name: str, texts: Sequence[str], emotions: Sequence[str] = ()) -> Split:
    clips = [
        Clip(f"{name}-{place}", text, "ann", "", 0.0, 1.0, 1.0, tags=tags)
        for place, text in enumerate(texts)
        for tags in [{"emotion": emotions[place % len(emotions)], "x": "1"} if emotions else {}]
    ]
    return Split(name, clip_columns(clips), {})


def store_of(train: Sequence[str], val: Sequence[str], emotions: Sequence[str] = ()) -> Store:
    splits = {"train": split_of("train", train, emotions), "val": split_of("val", val, emotions)}
    return Store(Path("tokens.hdf5"), INFO, splits)


def test_trained_texts_are_left_out() -> None:
    chosen = from_validation(store_of(["Hello, you!"], ["hello you", "Other."]), (), 8, 0)
    assert [entry["text"] for entry in chosen.entries] == ["Other."]
    assert "1 of 2 validation texts" in chosen.notes[0]


def test_training_on_all_texts_is_said() -> None:
    chosen = from_validation(store_of(["a b", "c d"], ["a b", "c d"]), (), 8, 0)
    assert len(chosen.entries) == 2
    assert "how well the model repeats" in chosen.notes[0]


def test_seed_chooses_the_texts() -> None:
    store = store_of(["x"], [f"text {place}" for place in range(40)])
    first, again, other = (from_validation(store, (), 5, seed).rows for seed in (1, 1, 2))
    assert first == again != other


def test_every_text_has_every_emotion() -> None:
    store = store_of([f"t{i}" for i in range(6)], ["one", "two", "three"], EMOTIONS)
    chosen = from_validation(store, ("emotion",), 6, 0)
    asked = {(entry["text"], entry["emotion"]) for entry in chosen.entries}
    assert len(asked) == 6
    assert {emotion for _, emotion in asked} == set(EMOTIONS)
    assert all("x" not in entry for entry in chosen.entries)


def test_trained_prompt_of_a_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(["Hello, YOU", {"text": "New."}]))
    chosen = from_file(path, store_of(["hello you"], ["new"]))
    assert f"1 of 2 prompts stand in training: {path} entry 1 'Hello, YOU'" in chosen.notes[0]
    assert chosen.rows == [0]


def test_context_of_a_file_is_found_from_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    turn = {"path": "clip.wav", "text": "Before."}
    path.write_text(json.dumps([{"text": "New.", "context": [turn]}]))
    (entry,) = from_file(path, None).entries
    assert entry["context"][0]["path"] == str(tmp_path / "clip.wav")


def test_validation_without_texts_is_refused() -> None:
    with pytest.raises(PromptError, match="no validation clip has a text"):
        from_validation(store_of(["a"], ["..."]), (), 4, 0)
