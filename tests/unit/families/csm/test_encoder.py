"""CSM's encoder: its text with template, special tokens and sources; and its codec's frames."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from huggingface_hub.errors import GatedRepoError
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from csm_ft import codecs, hub
from csm_ft.data.rows import Row
from csm_ft.data.split import Store, StoreInfo
from csm_ft.errors import CodecError, GatedError, HubError, TokenizerError
from csm_ft.families.csm.encoder import (
    BOS,
    EMBEDDED_TOKENIZER,
    EOS,
    CsmEncoder,
    TextTokenizer,
    open_tokenizer,
    tokenizer_from_store,
)
from csm_ft.families.template import DEFAULT_TEMPLATE
from tests.helpers.splits import INFO

BLOB = EMBEDDED_TOKENIZER.read_bytes()


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return open_tokenizer(codec="melrvq")


def test_the_embedded_tokenizer_is_small(tokenizer: TextTokenizer) -> None:
    assert tokenizer.vocab_size == 512
    assert tokenizer.source == str(EMBEDDED_TOKENIZER)
    assert tokenizer.fingerprint == hashlib.sha256(BLOB).hexdigest()
    assert tokenizer.to_bytes() == BLOB
    sentence = "We will walk to the river tomorrow."
    assert len(tokenizer.encode(sentence)) < 0.6 * len(sentence), (
        "it was trained on the demo's words"
    )


def test_text_stands_between_bos_and_eos(
    tokenizer: TextTokenizer,
) -> None:
    plain = Tokenizer.from_str(BLOB.decode())
    bos, eos = plain.token_to_id(BOS), plain.token_to_id(EOS)
    expected = [bos, *plain.encode("[nora]Hello there.", add_special_tokens=False).ids, eos]
    ids = tokenizer.encode("[nora]Hello there.")
    assert ids.dtype == np.uint32
    assert ids.tolist() == expected
    assert tokenizer.encode("Hello there.").tolist() == [
        bos,
        *plain.encode("Hello there.", add_special_tokens=False).ids,
        eos,
    ]


@given(st.text(max_size=60))
def test_every_text_comes_back(words: str) -> None:
    tokenizer = open_tokenizer(codec="melrvq")
    ids = tokenizer.encode(words)
    assert tokenizer.decode(ids) == words
    assert ids.max() < tokenizer.vocab_size


def test_a_special_tokens_name_is_text(tokenizer: TextTokenizer) -> None:
    ids = tokenizer.encode(f"stop {EOS} now")
    assert np.count_nonzero(ids == ids[-1]) == 1
    assert tokenizer.decode(ids) == f"stop {EOS} now"


def test_braces_in_a_transcript_are_text(tokenizer: TextTokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("[1]{speaker} {0}")) == "[1]{speaker} {0}"


def test_the_files_own_processing_is_replaced() -> None:
    other = Tokenizer.from_str(BLOB.decode())
    other.enable_truncation(4)
    other.enable_padding(length=50)
    ids = TextTokenizer(other.to_str().encode(), "x").encode("We will walk to the river.")
    assert (
        ids.tolist() == open_tokenizer(codec="melrvq").encode("We will walk to the river.").tolist()
    )


def test_a_folder_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(BLOB)
    for source in (tmp_path, tmp_path / "tokenizer.json"):
        assert open_tokenizer(str(source)).fingerprint == hashlib.sha256(BLOB).hexdigest()


def test_a_large_tokenizer_does_not_travel() -> None:
    assert TextTokenizer(BLOB + b" " * 1_000_000, "large").to_bytes() is None


@pytest.mark.parametrize("source", ["./none.json", "/none/tokenizer.json", "none", "a/b/c"])
def test_a_source_that_is_nothing(source: str) -> None:
    with pytest.raises(
        TokenizerError,
        match=r"no such file; name a tokenizer\.json, a folder that holds one, or a hub name",
    ):
        open_tokenizer(source)


@pytest.mark.parametrize("blob", [b"", b"{}", b"\xff\xfe", b'{"model": 1}'])
def test_a_file_that_is_no_tokenizer(blob: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(blob)
    with pytest.raises(TokenizerError, match=r"not a tokenizer\.json"):
        open_tokenizer(str(tmp_path))


def test_a_tokenizer_without_llamas_ends_is_refused() -> None:
    with pytest.raises(TokenizerError, match=r"has no <\|end_of_text\|> token"):
        TextTokenizer(BLOB.replace(EOS.encode(), b"</s>"), "other")


def gated(name: str) -> GatedRepoError:
    answer: Any = SimpleNamespace(status_code=403, headers={}, request=None)
    return GatedRepoError(f"{name} is gated", response=answer)


class Hub:
    """A hub that has some names, refuses others, and remembers who asked for what."""

    def __init__(self, folder: Path, open_names: set[str], error: Exception | None = None) -> None:
        self.folder, self.open_names, self.error = folder, open_names, error
        self.asked: list[str] = []
        (folder / "tokenizer.json").write_bytes(BLOB)

    def download(self, name: str, filename: str) -> str:
        self.asked.append(name)
        if name not in self.open_names:
            raise self.error or gated(name)
        return str(self.folder / filename)


def use(fake: Hub, monkeypatch: pytest.MonkeyPatch, cached: set[str] | None = None) -> None:
    have = str(fake.folder / "tokenizer.json")

    def from_cache(name: str, filename: str) -> str | None:
        return have if name in (cached or set()) else None

    monkeypatch.setattr(hub, "hf_hub_download", fake.download)
    monkeypatch.setattr(hub, "try_to_load_from_cache", from_cache)


def test_auto_names_the_first_open_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Hub(tmp_path, {"unsloth/Llama-3.2-1B"})
    use(fake, monkeypatch)
    assert open_tokenizer().source == "unsloth/Llama-3.2-1B"
    assert fake.asked == ["sesame/csm-1b", "meta-llama/Llama-3.2-1B", "unsloth/Llama-3.2-1B"]


def test_auto_asks_the_cache_before_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Hub(tmp_path, set())
    use(fake, monkeypatch, cached={"meta-llama/Llama-3.2-1B"})
    assert open_tokenizer().source == "meta-llama/Llama-3.2-1B"
    assert fake.asked == []


def test_a_gated_name_tells_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(Hub(tmp_path, set()), monkeypatch)
    with pytest.raises(
        GatedError,
        match=r"is gated.*hf auth login.*unsloth/Llama-3\.2-1B.*local tokenizer\.json",
    ):
        open_tokenizer("sesame/csm-1b")


def test_without_network_auto_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Hub(tmp_path, set(), ConnectionError("no network"))
    use(fake, monkeypatch)
    with pytest.raises(
        HubError,
        match=r"ConnectionError.*HF_HUB_OFFLINE.*hf auth login.*local tokenizer\.json",
    ):
        open_tokenizer()
    assert fake.asked == ["sesame/csm-1b"]


def store_of(source: str, fingerprint: str, blob: bytes | None) -> Store:
    """A token file without clips, by what it says about its tokenizer."""
    facts = {"codec": "mimi", "tokenizer": source, "tokenizer_fingerprint": fingerprint}
    assets = {"tokenizer": blob} if blob is not None else {}
    return Store(Path("tokens.hdf5"), replace(INFO, facts=facts), {}, assets)


def test_a_store_opens_its_own_tokenizer(
    tmp_path: Path, tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tokenizer.fingerprint
    assert tokenizer_from_store(store_of("gone", own, BLOB)).fingerprint == own
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(json.loads(BLOB)))
    with pytest.raises(
        TokenizerError, match=r"is not the one that made the tokens.*audio codes are kept"
    ):
        tokenizer_from_store(store_of(str(path), own, None))
    use(Hub(tmp_path, {"unsloth/Llama-3.2-1B"}), monkeypatch)
    open_one = tokenizer_from_store(store_of("meta-llama/Llama-3.2-1B", "", None))
    assert open_one.source == "unsloth/Llama-3.2-1B"
    with pytest.raises(GatedError, match="gated"):
        tokenizer_from_store(store_of("meta-llama/Llama-3.2-1B", "abc", None))


# The encoder


@pytest.fixture(scope="module")
def encoder(tokenizer: TextTokenizer) -> CsmEncoder:
    return CsmEncoder(codecs.open_codec("melrvq", num_codebooks=3), tokenizer)


def row_of(text: str, speaker: str | None) -> Row:
    return Row("train.json row 1", Path("a.wav"), text, speaker, None, None)


def test_a_clip_keeps_codes_and_tokens(encoder: CsmEncoder, tokenizer: TextTokenizer) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    assert (encoder.sample_rate_hz, encoder.frame_sec) == (16000, 0.08)
    assert dict(encoder.arrays) == {"codes": ("<u2", 3), "text_tokens": ("<u4", 0)}
    (heard,) = encoder.encode_audio([noise])
    assert not isinstance(heard, str)
    assert (heard["codes"].shape, heard["codes"].dtype) == ((13, 3), np.uint16)
    assert encoder.decode(heard).shape == (13 * 1280,)
    for speaker, prefix in (("nora", "[nora]"), (None, "[]")):
        (tokens,) = encoder.encode_text(row_of("Hello there.", speaker)).values()
        assert tokenizer.decode(tokens) == f"{prefix}Hello there."


def test_without_speakers_text_stands_alone(encoder: CsmEncoder, tokenizer: TextTokenizer) -> None:
    plain = CsmEncoder(encoder.codec, tokenizer, "{text}")
    (tokens,) = plain.encode_text(row_of("Hello there.", "nora")).values()
    assert tokenizer.decode(tokens) == "Hello there."
    assert (encoder.facts["template"], plain.facts["template"]) == ("[{speaker}]{text}", "{text}")
    assert plain.text_fingerprint == encoder.text_fingerprint == tokenizer.fingerprint


def test_too_long_a_clip_is_rejected(tokenizer: TextTokenizer) -> None:
    encoder = CsmEncoder(codecs.open_codec("melrvq"), tokenizer)
    row = row_of("Hello.", None)
    assert encoder.rejects(row, {"text_tokens": 5, "codes": 5000}) == "", "no limit was asked for"
    encoder.max_positions = 20
    assert encoder.rejects(row, {"text_tokens": 5, "codes": 14}) == ""
    reason = encoder.rejects(row, {"text_tokens": 5, "codes": 15})
    assert reason == (
        "5 text tokens + 15 frames + 1 are more than --max_positions 20; cut the clip (1.2 s) into"
        " shorter ones"
    )


def test_an_all_zero_frame_is_rejected(tokenizer: TextTokenizer) -> None:
    codec: Any = SimpleNamespace(**vars(FakeCodec))
    heard, ended = CsmEncoder(codec, tokenizer).encode_audio([np.ones(8), np.zeros(8)])
    assert not isinstance(heard, str)
    assert heard["codes"].tolist() == [[1, 1], [1, 1]]
    assert "all zero, which means end of speech" in str(ended)


class FakeCodec:
    """Two codes for each four samples: whether there is any sound."""

    name, source, fingerprint = "fake", "none", "f"
    sample_rate_hz, frame_samples, num_codebooks, vocab_size = 8, 4, 2, 16

    @staticmethod
    def encode(waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [np.repeat(wave[::4, None], 2, axis=1).astype(np.uint16) for wave in waves]

    @staticmethod
    def to_bytes() -> None:
        return None


def test_a_store_opens_its_encoder_again(encoder: CsmEncoder) -> None:
    info = StoreInfo(
        "csm",
        encoder.arrays,
        encoder.sample_rate_hz,
        encoder.frame_sec,
        encoder.audio_fingerprint,
        encoder.text_fingerprint,
        encoder.facts,
    )
    again = CsmEncoder.from_store(Store(Path("t.hdf5"), info, {}, encoder.assets), "cpu")
    assert again.facts == encoder.facts
    assert again.audio_fingerprint == encoder.codec.fingerprint
    assert again.template.pattern == DEFAULT_TEMPLATE
    changed = replace(info, facts={**info.facts, "codec_fingerprint": "0" * 64})
    with pytest.raises(CodecError, match=r"is not the one that made the tokens \(000000000000\)"):
        CsmEncoder.from_store(Store(Path("t.hdf5"), changed, {}, encoder.assets), "cpu")
