"""The scripts of the spoken demo: what is said, what is held out, and how it is judged."""

import random
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts/spoken_demo"))

import judge  # noqa: E402
import make_codec  # noqa: E402
import make_speech  # noqa: E402
import sentences  # noqa: E402
import torch  # noqa: E402
import voices  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

SECOND = np.zeros(voices.SAMPLE_RATE_HZ * 2, dtype=np.float32)


@pytest.mark.parametrize("grammar", [sentences.TELEPHONE, sentences.SPANISH])
def test_sentences_are_new_and_reproducible(grammar: sentences.Grammar) -> None:
    taken = set(grammar.draw_new(50, random.Random(0), set()))
    drawn = grammar.draw_new(1400, random.Random(0), set(taken))
    assert len(set(drawn)) == 1400
    assert not taken & set(drawn)
    assert drawn == grammar.draw_new(1400, random.Random(0), set(taken))
    assert not [text for text in drawn if "{" in text or text[-1] not in ".?" or text[0].islower()]


def test_phrases_are_of_frequent_words() -> None:
    known = sentences.frequent_words(sentences.TELEPHONE, 60, ["It's Goodbye, for now!"])
    assert len(known) == 60
    assert {"it's", "goodbye", "press", "the"} <= set(known)
    phrases = sentences.draw_phrases(known, 300, random.Random(0))
    assert {len(phrase.split()) for phrase in phrases} == set(range(1, 8))
    assert all(phrase[0].isupper() and phrase.endswith(".") for phrase in phrases)
    assert {word for phrase in phrases for word in sentences.words_of(phrase)} <= set(known)


def test_a_word_is_one_token_wherever_it_stands() -> None:
    texts = ["[joe]Please press four."] * 4 + ["[joe]Press four, please."] * 4
    tokenizer = Tokenizer.from_str(make_codec.train_tokenizer(texts).decode())
    first = tokenizer.encode("[joe]Please press four.").tokens
    second = tokenizer.encode("[joe]Press four, please.").tokens
    assert {"Ġplease", "Ġpress", "Ġfour"} <= set(first) & set(second)


@pytest.mark.parametrize(
    "voice", [*voices.VOICES, voices.NEW_VOICE], ids=lambda voice: voice.speaker
)
def test_corpus_has_few_words_and_no_held_out_sentence(voice: voices.Voice) -> None:
    said = make_speech.sentences_of(voice)
    assert len(said) > 0.99 * (voice.num_sentences + voice.num_phrases)
    held_out = {make_speech.words(text) for text in make_speech.HELD_OUT}
    assert not held_out & {make_speech.words(text) for text in said}
    assert len({word for text in said for word in sentences.words_of(text)}) == voice.num_words
    assert said == make_speech.sentences_of(voice)


@pytest.mark.parametrize(
    ("heard", "words"),
    [
        (" Press 7, please!", "press seven please"),
        ("It's 45 or 600.", "it's forty five or six hundred"),
        ("I'm at 7304", "i am at seven three zero four"),
        ("You cannot re-enter", "you can not re enter"),
    ],
)
def test_words_are_counted_without_spelling(heard: str, words: str) -> None:
    assert judge.normalised(heard) == words


def test_smooth_basis_is_orthonormal() -> None:
    basis = make_codec.smooth_basis()
    assert basis.shape == (60, 320)
    torch.testing.assert_close(basis @ basis.T, torch.eye(60), atol=1e-5, rtol=0)


def test_kmeans_finds_separate_clusters() -> None:
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    noise = torch.randn(300, 2, generator=torch.Generator().manual_seed(1)) * 0.1
    points = centres.repeat(100, 1) + noise
    found = make_codec.kmeans(points, 3, torch.Generator().manual_seed(3))
    assert (torch.cdist(centres, found).min(1).values < 0.1).all()


def test_clips_are_trimmed_and_levelled(tmp_path: Path) -> None:
    import soundfile

    tone = 0.3 * np.sin(np.arange(16000) * 0.1).astype(np.float32)
    make_speech.write_clip(tmp_path / "a/b.flac", np.concatenate([SECOND, tone, SECOND]))
    wave, rate_hz = soundfile.read(tmp_path / "a/b.flac", dtype="float32")
    assert rate_hz == 16000
    assert abs(len(wave) - 16000 - 2 * 960) < 50
