"""The bundled speech: what is in it, and that the large corpus never meets the new voice."""

import json
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pocketsphinx
import pytest
import soundfile

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import demo_sentences  # noqa: E402
import make_demo_speech  # noqa: E402

DEMO = ROOT / "demo"
METADATA = ("new_voice/train.json", "new_voice/val.json", "voices/train.jsonl", "voices/val.jsonl")


def rows(path: Path) -> list[dict[str, str]]:
    text = path.read_text(encoding="utf-8")
    return (
        json.loads(text)
        if path.suffix == ".json"
        else [json.loads(line) for line in text.splitlines()]
    )


@pytest.mark.parametrize("name", METADATA)
def test_every_bundled_clip_is_short_mono_speech(name: str) -> None:
    for row in rows(DEMO / name):
        wave, rate_hz = soundfile.read((DEMO / name).parent / row["path"])
        assert (rate_hz, wave.ndim) == (16000, 1)
        assert 1.2 < len(wave) / rate_hz < 4
        assert 0.03 < np.sqrt(np.mean(wave**2)) < 0.1
        assert np.abs(wave).max() < 1


def test_the_bundle_is_small_and_complete() -> None:
    speech = sorted((DEMO / "speech").rglob("*.flac"))
    named = {
        ((DEMO / name).parent / row["path"]).resolve()
        for name in METADATA
        for row in rows(DEMO / name)
    }
    assert set(speech) == named
    assert sum(path.stat().st_size for path in speech) < 4_000_000


def test_validation_sentences_are_not_trained_on() -> None:
    for folder, suffix in (("new_voice", "json"), ("voices", "jsonl")):
        train, val = (
            [row["text"] for row in rows(DEMO / f"{folder}/{split}.{suffix}")]
            for split in ("train", "val")
        )
        assert not set(train) & set(val)
        assert len(set(train)) == len(train)


def test_two_languages_and_five_voices() -> None:
    assert {row["speaker"] for name in METADATA for row in rows(DEMO / name)} == {
        "nora",
        "anna",
        "ben",
        "lucia",
        "diego",
    }


def test_a_recogniser_knows_every_english_word() -> None:
    decoder = pocketsphinx.Decoder(lm=None, loglevel="FATAL")
    grammar = demo_sentences.ENGLISH
    phrases = [
        *grammar.templates,
        *(phrase for phrases in grammar.slots.values() for phrase in phrases),
    ]
    words = {
        word.strip(".?,{}").lower()
        for phrase in phrases
        for word in phrase.split()
        if not word.startswith("{")
    }
    assert [word for word in sorted(words) if decoder.lookup_word(word) is None] == []
    assert len(words) > 100


@pytest.mark.parametrize("grammar", [demo_sentences.ENGLISH, demo_sentences.SPANISH])
def test_sentences_are_new_and_reproducible(grammar: demo_sentences.Grammar) -> None:
    taken = set(grammar.draw_new(50, random.Random(0), set()))
    sentences = grammar.draw_new(300, random.Random(0), set(taken))
    assert len(set(sentences)) == 300
    assert not taken & set(sentences)
    assert sentences == grammar.draw_new(300, random.Random(0), set(taken))
    for sentence in sentences:
        assert "{" not in sentence
        assert sentence[-1] in ".?"
        assert not sentence[0].islower()


def test_the_corpus_never_meets_the_new_voice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spoken: list[tuple[str, str]] = []
    monkeypatch.setattr(
        make_demo_speech,
        "speak",
        lambda voice, texts, folder: spoken.extend((voice.speaker, text) for text in texts),
    )
    make_demo_speech.make_corpus(tmp_path, 1000)
    train, val = rows(tmp_path / "train.jsonl"), rows(tmp_path / "val.jsonl")
    new_voice = {row["text"] for row in rows(DEMO / "new_voice/val.json")}
    assert not new_voice & {text for _, text in spoken}
    assert make_demo_speech.NORA.speaker not in {speaker for speaker, _ in spoken}
    assert make_demo_speech.NORA.espeak not in {voice.espeak for voice in make_demo_speech.OTHERS}
    assert not {row["text"] for row in train} & {row["text"] for row in val}
    assert {(row["speaker"], row["text"]) for row in [*train, *val]} <= set(spoken)
    assert 900 < len(train) + len(val) <= 1000


@pytest.mark.skipif(
    shutil.which("espeak-ng") is None,
    reason="needs espeak-ng (apt-get install espeak-ng), only to make the speech again",
)
def test_the_script_makes_the_bundled_clip_again() -> None:
    row = rows(DEMO / "new_voice/train.json")[3]
    bundled, _ = soundfile.read(DEMO / "new_voice" / row["path"], dtype="float32")
    again = make_demo_speech.synthesise(make_demo_speech.NORA, row["text"])
    assert abs(len(again) - len(bundled)) < 200  # another espeak-ng may differ by a little
    shared = min(len(again), len(bundled))
    assert np.corrcoef(again[:shared], bundled[:shared])[0, 1] > 0.9
