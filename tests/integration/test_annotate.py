"""The demo's dialogues, whose times are exact, annotated by a real recogniser; then trained on."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import pretokenize
from csm_ft.annotate.__main__ import main
from csm_ft.data.token_file import open_store
from tests.conftest import ROOT

DIALOGUES = ROOT / "demo/moshi/dialogues"
NAMES = ("train-00", "train-01", "train-02")
SIDES = ("SPEAKER_MAIN", "SPEAKER_OTHER")


def words(path: Path, side: str) -> list[list]:
    found = json.loads(path.read_text(encoding="utf-8"))["alignments"]
    return [word for word in found if word[2] == side]


@pytest.mark.slow
def test_transcripts_get_the_times_of_the_sound(tmp_path: Path) -> None:
    calls, texts = tmp_path / "calls", tmp_path / "texts"
    calls.mkdir()
    texts.mkdir()
    for name in NAMES:
        shutil.copy(DIALOGUES / f"{name}.flac", calls)
        lines = (
            f"{side}: {' '.join(word for word, *_ in words(DIALOGUES / f'{name}.json', side))}"
            for side in SIDES
        )
        (texts / f"{name}.txt").write_text("\n".join(lines))
    assert main([str(calls), "--transcripts", str(texts)]) == 0
    late_sec: list[float] = []
    for name in NAMES:
        for side in SIDES:
            true = words(DIALOGUES / f"{name}.json", side)
            found = words(calls / f"{name}.json", side)
            assert [word for word, *_ in found] == [word for word, *_ in true]
            late_sec += [one[1][0] - other[1][0] for one, other in zip(found, true, strict=True)]
    assert np.median(np.abs(late_sec)) <= 0.12
    assert np.quantile(np.abs(late_sec), 0.9) <= 0.3
    tokens = tmp_path / "tokens.hdf5"
    argv = ["--family", "moshi", "--codec", "melrvq", "--tokenizer"]
    argv += [str(ROOT / "demo/moshi/tokenizer.model"), "--output", str(tokens)]
    argv += ["--train_data", str(calls), "--val_data", str(calls)]
    assert pretokenize.main(argv) == 0
    assert len(open_store(tokens).splits["train"]) == len(NAMES)
