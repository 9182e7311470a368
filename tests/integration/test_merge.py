"""Sets merged, encoded and opened: speakers, splits, tags and weights arrive in the token file."""

import json
from pathlib import Path

import numpy as np
import pytest

from csm_ft.datasets.__main__ import main
from tests.helpers.pretokenizing import FakeEncoder, Work, use_fake_family, write_wave


def write_set(folder: Path, source: str, speakers: int, emotions: tuple[str, ...]) -> Path:
    rows = []
    for speaker in range(speakers):
        for number, emotion in enumerate(emotions):
            path = write_wave(
                folder / f"{speaker}_{number}.wav", 0.5, seed=hash_of(source, speaker, number)
            )
            facts = {"speaker": f"{speaker:02d}", "emotion": emotion, "source": source}
            rows.append({"path": path.name, "text": f"Sentence {number}.", **facts})
    table = folder / "rows.jsonl"
    table.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return table


def hash_of(source: str, speaker: int, number: int) -> int:
    return sum(map(ord, source)) * 1000 + speaker * 10 + number


def test_merged_sets_are_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_fake_family(FakeEncoder(), monkeypatch.setattr)
    one = write_set(tmp_path / "one", "acted", 5, ("sad", "sad", "sad", "angry"))
    two = write_set(tmp_path / "two", "other", 5, ("sad", "calm"))
    merged = tmp_path / "merged/all.jsonl"
    options = ["--output", str(merged), "--balance", "emotion", "--val_fraction", "0.2"]
    assert main(["merge", str(one), str(two), *options]) == 0
    work = Work(tmp_path)
    assert work.run([], None, "--train_data", str(merged)) == 0
    store = work.store()
    train, val = store.splits["train"], store.splits["val"]
    assert (len(train), len(val)) == (24, 6)
    assert {train.speaker(i) for i in range(24)}.isdisjoint(val.speaker(i) for i in range(6))
    assert {val.tags(i)["source"] for i in range(6)} == {"acted", "other"}
    drawn: dict[str, float] = {}
    for index, weight in enumerate(train.weights):
        emotion = train.tags(index)["emotion"]
        drawn[emotion] = drawn.get(emotion, 0.0) + weight
    assert drawn == pytest.approx({"sad": 8.0, "angry": 8.0, "calm": 8.0}, rel=1e-4)
    np.testing.assert_array_equal(val.weights, 1.0)
    assert "0 of 2 speakers that are held out stand in training" in capsys.readouterr().out
