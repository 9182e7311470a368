"""The Moonshine demo: what is bundled, and that its base never met the new voice's sentences."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from csm_ft.families.moonshine.encoder import open_tokenizer

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "demo/moonshine"
sys.path.insert(0, str(ROOT / "scripts/moonshine_demo"))

import make_clips  # noqa: E402
import speech  # noqa: E402


def rows(voices: str, split: str) -> list[dict[str, str]]:
    return [
        json.loads(line) for line in (DEMO / voices / f"{split}.jsonl").read_text().splitlines()
    ]


def test_clips_are_there_and_their_sentences_apart() -> None:
    for voices in ("new_voice", "old_voices"):
        texts = {split: {row["text"] for row in rows(voices, split)} for split in ("train", "val")}
        assert not texts["train"] & texts["val"]
        for split, bundled in make_clips.bundled_sentences().items():
            assert [row["text"] for row in rows(voices, split)] == bundled
            sounds = [soundfile.info(DEMO / voices / row["path"]) for row in rows(voices, split)]
            assert {sound.samplerate for sound in sounds} == {16000}
            assert all(0.5 < sound.duration < 6 for sound in sounds)


def test_new_voice_is_no_old_one() -> None:
    speakers = {
        voices: {row["speaker"] for row in rows(voices, "train") + rows(voices, "val")}
        for voices in ("new_voice", "old_voices")
    }
    assert speakers["new_voice"] == {speech.NEW_VOICE.speaker}
    assert speakers["old_voices"] == {voice.speaker for voice in speech.BASE_VOICES}
    variants = {voice.variant for voice in speech.BASE_VOICES}
    assert speech.NEW_VOICE.variant not in variants


def test_base_never_reads_the_bundled_sentences() -> None:
    bundled = [
        row["text"]
        for voices in ("new_voice", "old_voices")
        for split in ("train", "val")
        for row in rows(voices, split)
    ]
    corpus = speech.sentences(500, "corpus train", bundled)
    assert not set(corpus) & set(bundled)
    assert {word for text in corpus for word in text.split()} == set(speech.WORDS)


def test_the_bundle_is_small() -> None:
    base = sum(path.stat().st_size for path in (DEMO / "base").iterdir())
    assert base <= 6_000_000
    assert sum(path.stat().st_size for path in DEMO.rglob("*") if path.is_file()) < 8_000_000


def test_the_tokenizer_gives_the_sentences_back() -> None:
    tokenizer = open_tokenizer(str(DEMO / "base"))
    for row in rows("new_voice", "val"):
        assert tokenizer.decode(tokenizer.encode(row["text"]).tolist()) == row["text"]


@pytest.mark.skipif(
    shutil.which("espeak-ng") is None,
    reason="needs espeak-ng (apt-get install espeak-ng), only to make the clips again",
)
def test_the_script_makes_the_bundled_clips_again() -> None:
    row = rows("new_voice", "train")[0]
    bundled, _ = soundfile.read(DEMO / "new_voice" / row["path"], dtype="float32")
    again = speech.say(row["text"], speech.NEW_VOICE, make_clips.dice("train", 0))
    assert abs(len(again) - len(bundled)) < 500  # another espeak-ng may differ by a little
    assert np.corrcoef(again[: len(bundled)], bundled[: len(again)])[0, 1] > 0.9
