"""The dialogues of the Moshi demo: what is bundled, and that its base never met the questions."""

import json
import shutil
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from csm_ft.families.moshi.tokenizer import open_tokenizer

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts/moshi_demo"))

import dialogues  # noqa: E402
import pairs  # noqa: E402

DEMO = ROOT / "demo/moshi"
CHANNELS = {"SPEAKER_MAIN": dialogues.MOSHI, "SPEAKER_OTHER": dialogues.USER}


def sounds(split: str) -> list[Path]:
    lines = (DEMO / f"{split}.jsonl").read_text().splitlines()
    return [DEMO / json.loads(line)["path"] for line in lines]


def words_of(sound: Path) -> list[Any]:
    return json.loads(sound.with_suffix(".json").read_text())["alignments"]


def test_word_times_are_exact() -> None:
    for sound in [*sounds("train"), *sounds("val")]:
        wave, rate_hz = soundfile.read(sound)
        assert (rate_hz, wave.shape[1]) == (dialogues.SAMPLE_RATE_HZ, 2)
        for _, (start_sec, end_sec), speaker in words_of(sound):
            start, stop = (round(time_sec * rate_hz) for time_sec in (start_sec, end_sec))
            word = wave[start:stop, CHANNELS[speaker]]
            assert 0.02 < np.sqrt(np.mean(word**2)) < 0.2
            word[:] = 0
        assert not wave.any()


def test_every_pair_is_asked() -> None:
    for split, copies in (("train", 3), ("val", 1)):
        said = [" ".join(word for word, _, _ in words_of(sound)) for sound in sounds(split)]
        heard = [
            " ".join(word for word, _, speaker in words_of(sound) if speaker == "SPEAKER_OTHER")
            for sound in sounds(split)
        ]
        assert len(said) >= (12 if split == "train" else 4)
        for question, _ in (*pairs.ENGLISH, *pairs.JAPANESE):
            assert sum(text.count(question) for text in heard) >= copies


def test_speakers_overlap_listen_and_pause() -> None:
    overlaps, signs, silences = 0, 0, 0
    for sound in sounds("train"):
        words = words_of(sound)
        spans = [(start, end, who) for _, (start, end), who in words]
        for (_, end, who), (start, _, next_who) in pairwise(spans):
            overlaps += start < end and who != next_who
            silences += start > end + 2
        signs += sum(word in ("okay", "はい") for word, _, _ in words)
    assert min(overlaps, signs, silences) >= 3


def test_the_bundle_is_small() -> None:
    dialogue_bytes = sum(path.stat().st_size for path in (DEMO / "dialogues").iterdir())
    assert dialogue_bytes < 4_500_000
    assert (DEMO / "base/model.safetensors").stat().st_size <= 10_000_000


def test_the_tokenizer_knows_every_word() -> None:
    tokenizer = open_tokenizer(str(DEMO / "tokenizer.model"))
    words = pairs.words_of((*pairs.ENGLISH, *pairs.JAPANESE))
    assert all(tokenizer.decode(tokenizer.encode(word)) == word for word in words)
    assert np.mean([len(tokenizer.encode(word)) for word in words]) < 1.5


def test_the_base_never_hears_the_questions() -> None:
    talks = pairs.corpus_talks(200, 5, "corpus")
    corpus = {text for talk in talks for pair in talk.pairs for text in pair}
    demo = {text for pair in (*pairs.ENGLISH, *pairs.JAPANESE) for text in pair}
    assert not [text for text in demo if any(text in other for other in corpus)]
    assert {talk.language for talk in talks} == {"en", "ja"}


@pytest.mark.skipif(
    shutil.which("espeak-ng") is None,
    reason="needs espeak-ng (apt-get install espeak-ng), only to make the dialogues again",
)
def test_the_script_makes_the_bundled_words_again() -> None:
    sound = sounds("train")[0]
    wave, rate_hz = soundfile.read(sound, dtype="float32")
    word, (start_sec, end_sec), speaker = words_of(sound)[0]
    bundled = wave[round(start_sec * rate_hz) : round(end_sec * rate_hz), CHANNELS[speaker]]
    again = dialogues.spoken(word, CHANNELS[speaker], "en")
    shared = min(len(again), len(bundled))
    assert abs(len(again) - len(bundled)) < 200  # another espeak-ng may differ by a little
    assert np.corrcoef(again[:shared], bundled[:shared])[0, 1] > 0.9
