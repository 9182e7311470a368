"""Samples are kept as they are; any text comes back from its tokens."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_ft.data.rows import Row
from csm_ft.errors import TokenizerError
from csm_ft.families.moonshine.encoder import (
    MoonshineEncoder,
    TextTokenizer,
    fit_tokenizer,
    open_tokenizer,
)

TEXTS = ["the bus leaves at noon", "a red lamp", "there are four flowers in the kitchen"] * 4
TOKENIZER = fit_tokenizer(TEXTS, 320)


def make_encoder(**options: str) -> MoonshineEncoder:
    return MoonshineEncoder(TOKENIZER, **{"amplitude": "none", "text_case": "keep", **options})


def make_row(text: str) -> Row:
    return Row("row 1", Path("a.wav"), text, None, None, None)


@given(st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="▁"), min_size=1))
def test_every_word_comes_back(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert ids[-1] == 2
    assert TOKENIZER.decode(ids[:-1].tolist()) == text


def test_same_texts_fit_the_same_tokenizer() -> None:
    assert fit_tokenizer(TEXTS, 320).fingerprint == TOKENIZER.fingerprint
    assert TOKENIZER.vocab_size <= 320


def test_names_of_special_tokens_are_plain_text() -> None:
    ids = TOKENIZER.encode("a </s> b").tolist()
    assert ids.count(2) == 1
    assert TOKENIZER.decode(ids[:-1]) == "a </s> b"


def test_16_bit_samples_are_kept_exactly() -> None:
    samples = np.array([-32768, -1, 0, 1, 32767, 12345], np.int16)
    (arrays,) = make_encoder().encode_audio([samples.astype(np.float32) / 32768])
    assert not isinstance(arrays, str)
    assert np.array_equal(arrays["samples"], samples)


def test_peak_amplitude_is_full_scale() -> None:
    wave = np.array([0.1, -0.2, 0.05], np.float32)
    (arrays,) = make_encoder(amplitude="peak").encode_audio([wave])
    assert not isinstance(arrays, str)
    assert np.abs(arrays["samples"].astype(int)).max() >= 32766


@pytest.mark.parametrize(
    ("case", "expected"),
    [("keep", "A RED Lamp"), ("lower", "a red lamp"), ("sentence", "A red lamp")],
)
def test_case_of_texts_is_an_option(case: str, expected: str) -> None:
    encoder = make_encoder(text_case=case)
    ids = encoder.encode_text(make_row("A RED Lamp"))["text_tokens"]
    assert TOKENIZER.decode(ids[:-1].tolist()) == expected


def test_amplitude_and_case_change_the_fingerprints() -> None:
    plain, other = make_encoder(), make_encoder(amplitude="peak", text_case="lower")
    assert plain.audio_fingerprint != other.audio_fingerprint
    assert plain.text_fingerprint != other.text_fingerprint


@pytest.mark.parametrize(
    ("num_samples", "num_tokens", "reason"),
    [(894, 5, "894 samples are fewer"), (895, 5, ""), (16000, 1, "the text has no token")],
)
def test_impossible_clips_are_rejected(num_samples: int, num_tokens: int, reason: str) -> None:
    lengths = {"samples": num_samples, "text_tokens": num_tokens}
    assert make_encoder().rejects(make_row("a"), lengths).startswith(reason)
    assert bool(make_encoder().rejects(make_row("a"), lengths)) == bool(reason)


@pytest.mark.parametrize("blob", [b"", b"{}", b"\xff", b'{"model": 1}'])
def test_other_files_are_no_tokenizers(blob: bytes) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        TextTokenizer(blob, "here/tokenizer.json")


def test_tokenizer_of_another_model_is_refused() -> None:
    blob = TOKENIZER.blob.replace(b'"</s>"', b'"<end>"')
    with pytest.raises(TokenizerError, match=r"Moonshine wants .*--fit_tokenizer"):
        TextTokenizer(blob, "llama")


def test_missing_tokenizer_names_the_ways_out(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"no such file; name a tokenizer\.json"):
        open_tokenizer(str(tmp_path / "nothing.json"))
