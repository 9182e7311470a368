"""The encoder: channels, words to tokens, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from csm_ft.codecs import open_codec
from csm_ft.data.rows import Row, Word
from csm_ft.errors import TokenizerError
from csm_ft.families.moshi.config import MoshiPretokenizeConfig
from csm_ft.families.moshi.encoder import MoshiEncoder
from csm_ft.families.moshi.tokenizer import TextTokenizer, fit_tokenizer, open_tokenizer
from tests.conftest import ROOT
from tests.helpers.dialogues import WORDS

SETTINGS = {
    "interleave": "drop",
    "text_padding_id": 3,
    "end_of_text_padding_id": 0,
    "no_whitespace_before_word": False,
}
SAID = (Word("hello", 0.1, 0.5, 0), Word("today", 2.0, 2.4, 1), Word("fine", 0.9, 1.3, 0))


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return fit_tokenizer(WORDS * 3, 320)


def encoder_of(tokenizer: TextTokenizer, **settings: Any) -> MoshiEncoder:
    return MoshiEncoder(open_codec("melrvq"), tokenizer, {**SETTINGS, **settings})


def row_of(words: tuple[Word, ...], start: float | None = None, end: float | None = None) -> Row:
    return Row("rows.json row 1", Path("a.wav"), "text", None, start, end, words=words)


def arrays_of(encoder: MoshiEncoder, row: Row) -> dict[str, np.ndarray]:
    arrays = encoder.encode_text(row)
    assert not isinstance(arrays, str), arrays
    return dict(arrays)


def test_left_channel_comes_first(tokenizer: TextTokenizer) -> None:
    encoder = encoder_of(tokenizer)
    random = np.random.default_rng(0)
    wave = (0.1 * random.standard_normal((2, 16000))).astype(np.float32)
    (both,) = encoder.encode_audio([wave])
    assert not isinstance(both, str)
    left, right = encoder.codec.encode(list(wave))
    assert (both["codes"] == np.concatenate([left, right], axis=1)).all()
    decoded = encoder.decode(both)
    assert decoded.shape == (2, len(left) * encoder.codec.frame_samples)
    assert (decoded[1] == encoder.codec.decode(right)).all()


def test_one_sound_on_both_channels_is_refused(tokenizer: TextTokenizer) -> None:
    sound = (0.1 * np.random.default_rng(0).standard_normal(16000)).astype(np.float32)
    (reason, fine) = encoder_of(tokenizer).encode_audio(
        [np.stack([sound, sound]), np.stack([sound, 0 * sound])]
    )
    assert "both channels hold the same sound" in str(reason)
    assert not isinstance(fine, str)


def test_words_are_kept_by_their_start(tokenizer: TextTokenizer) -> None:
    arrays = arrays_of(encoder_of(tokenizer), row_of(SAID))
    assert arrays["words"][:, :3].tolist() == [[0.1, 0.5, 0], [0.9, 1.3, 0], [2.0, 2.4, 1]]
    ids = [tokenizer.encode(text) for text in ("hello", "fine", "today")]
    assert arrays["words"][:, 3].tolist() == [len(one) for one in ids]
    assert arrays["text_tokens"].tolist() == [i for one in ids for i in one]


def test_span_takes_the_words_in_it(tokenizer: TextTokenizer) -> None:
    arrays = arrays_of(encoder_of(tokenizer), row_of(SAID, 0.5, 2.0))
    np.testing.assert_allclose(arrays["words"][:, :3], [[0.4, 0.8, 0]])
    assert "no word begins" in str(encoder_of(tokenizer).encode_text(row_of(SAID, 3.0, 4.0)))


def test_characters_have_their_share_of_a_word(tokenizer: TextTokenizer) -> None:
    words = (Word("hello", 0.0, 0.5, 0), Word("today", 1.0, 1.6, 0))
    arrays = arrays_of(encoder_of(tokenizer, interleave="characters"), row_of(words))
    assert arrays["text_tokens"].tolist() == tokenizer.encode("hello today")
    assert (arrays["words"][:, 3] == 1).all()
    pieces = tokenizer.pieces("hello today")
    # The blank is a part of the second word: six letters in 0.6 s.
    starts = [0.1 * i for i in range(5)] + [1.0 + 0.1 * i for i in range(6)]
    np.testing.assert_allclose(arrays["words"][:, 0], [starts[piece.place] for piece in pieces])


@pytest.mark.parametrize("text", ["ñandú", "漢字", "é̂x", "🙂", "ﬁne"])
@pytest.mark.parametrize("rule", ["drop", "characters"])
def test_letters_that_no_piece_has_survive(tokenizer: TextTokenizer, text: str, rule: str) -> None:
    encoder = encoder_of(tokenizer, interleave=rule)
    arrays = arrays_of(encoder, row_of((Word("hello", 0.0, 0.2, 0), Word(text, 0.5, 0.9, 0))))
    assert encoder.text_of(arrays["text_tokens"].tolist()) == f"hello {text}"
    assert (np.diff(arrays["words"][:, 0]) >= 0).all()


def test_japanese_words_follow_each_other(tokenizer: TextTokenizer) -> None:
    settings = {"interleave": "characters", "no_whitespace_before_word": True}
    words = (Word("hel", 0.0, 0.2, 0), Word("lo", 0.5, 0.9, 0))
    arrays = arrays_of(encoder_of(tokenizer, **settings), row_of(words))
    assert arrays["text_tokens"].tolist() == tokenizer.encode("hello")


def test_word_past_the_sound_is_named(tokenizer: TextTokenizer) -> None:
    encoder = encoder_of(tokenizer)
    lengths = {"codes": 30, "words": 3, "text_tokens": 5}  # 2.4 s
    assert encoder.rejects(row_of(SAID), lengths) == ""
    assert encoder.rejects(row_of((*SAID, Word("nice", 2.3, 3.5, 0))), lengths) == ""
    late = encoder.rejects(row_of((*SAID, Word("nice", 3.0, 3.5, 0))), lengths)
    assert "'nice' begins at 3 s, past the sound (2.40 s)" in late
    assert "milliseconds" in encoder.rejects(row_of((Word("a", 1000.0, 1400.0, 0),)), lengths)


def test_other_tokenizers_are_refused(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    with pytest.raises(TokenizerError, match=r"is a tokenizer\.json"):
        open_tokenizer(str(ROOT / "demo/tokenizer.json"))
    with pytest.raises(TokenizerError, match="no such file"):
        open_tokenizer(str(tmp_path / "gone.model"))
    with pytest.raises(TokenizerError, match=r"none for a \.model"):
        open_tokenizer(str(tmp_path))
    with pytest.raises(TokenizerError, match="padding ids"):
        encoder_of(tokenizer, text_padding_id=999)


def test_text_is_keyed_apart_from_sound(tokenizer: TextTokenizer) -> None:
    one, other = encoder_of(tokenizer), encoder_of(tokenizer, interleave="shift")
    assert one.audio_fingerprint == other.audio_fingerprint
    assert one.text_fingerprint != other.text_fingerprint


def test_padding_ids_must_differ() -> None:
    with pytest.raises(ValueError, match="both 3"):
        MoshiPretokenizeConfig(train_data="x", end_of_text_padding_id=3)


def times(arrays: dict[str, np.ndarray]) -> list[float]:
    return arrays["words"][:, 0].round(6).tolist()


def test_template_is_a_word_at_the_start_of_the_left(tokenizer: TextTokenizer) -> None:
    encoder = encoder_of(tokenizer, text_template="<{emotion}>?{text}")
    assert list(encoder.columns) == ["emotion"]
    tagged = arrays_of(encoder, replace(row_of(SAID), tags={"emotion": "calm"}))
    tag = tokenizer.encode("<calm>")
    assert tagged["text_tokens"][: len(tag)].tolist() == tag
    assert tagged["words"][0].tolist() == [0.0, encoder.frame_sec, 0.0, len(tag)]
    plain = arrays_of(encoder, row_of(SAID))
    assert (tagged["words"][1:] == plain["words"]).all()
    assert (
        plain["words"].tolist() == arrays_of(encoder_of(tokenizer), row_of(SAID))["words"].tolist()
    )


def test_needed_tag_is_asked_for(tokenizer: TextTokenizer) -> None:
    encoder = encoder_of(tokenizer, text_template="<{emotion}>{text}")
    reason = encoder.encode_text(row_of(SAID))
    assert isinstance(reason, str)
    assert "emotion is missing" in reason


def test_lead_is_silence_before_words_but_not_before_tags(tokenizer: TextTokenizer) -> None:
    encoder = encoder_of(tokenizer, text_template="<{emotion}>?{text}", lead_sec=0.8)
    tagged = arrays_of(encoder, replace(row_of(SAID), tags={"emotion": "calm"}))
    assert times(tagged) == [0.0, 0.9, 1.7, 2.8]
    wave = (0.1 * np.random.default_rng(0).standard_normal((2, 16000))).astype(np.float32)
    (later,) = encoder.encode_audio([wave])
    assert not isinstance(later, str)
    assert len(later["codes"]) == 10 + 13
    assert len(np.unique(later["codes"][:9], axis=0)) == 1
    assert encoder.audio_fingerprint != encoder_of(tokenizer).audio_fingerprint


@pytest.mark.parametrize(
    ("delay_sec", "expected"),
    [(0.5, [0.6, 1.4, 2.5]), (-0.5, [0.0, 0.4, 1.5]), (0.0, [0.1, 0.9, 2.0])],
)
def test_text_is_written_before_or_behind_the_sound(
    tokenizer: TextTokenizer, delay_sec: float, expected: list[float]
) -> None:
    encoder = encoder_of(tokenizer, text_delay_sec=delay_sec)
    arrays = arrays_of(encoder, row_of(SAID))
    assert times(arrays) == expected
    lengths = arrays["words"][:, 1] - arrays["words"][:, 0]
    assert lengths == pytest.approx([0.4, 0.4, 0.4])
    is_same = encoder.text_fingerprint == encoder_of(tokenizer).text_fingerprint
    assert is_same == (delay_sec == 0)


@pytest.mark.parametrize("rule", ["drop", "characters"])
def test_script_has_the_tokens_of_the_clip(tokenizer: TextTokenizer, rule: str) -> None:
    encoder = encoder_of(tokenizer, text_template="<{emotion}>?{text}", interleave=rule)
    words = (Word("hello", 0.1, 0.5, 0), Word("today", 0.6, 0.9, 0))
    arrays = arrays_of(encoder, replace(row_of(words), tags={"emotion": "calm"}))
    script = encoder.script("hello today", "", {"emotion": "calm"})
    assert [id_ for word in script for id_ in word] == arrays["text_tokens"].tolist()
    assert [len(word) for word in script] == arrays["words"][:, 3].tolist()
