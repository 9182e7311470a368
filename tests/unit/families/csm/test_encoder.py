"""CSM's text: the template, special tokens, sources and their errors."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from huggingface_hub.errors import GatedRepoError
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from csm_ft.families.csm import encoder as text
from csm_ft.families.csm.encoder import (
    BOS,
    EMBEDDED_TOKENIZER,
    EOS,
    TextError,
    TextTokenizer,
    open_tokenizer,
    tokenizer_from_store,
)

BLOB = EMBEDDED_TOKENIZER.read_bytes()


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return open_tokenizer(codec="melrvq")


def test_the_embedded_tokenizer(tokenizer: TextTokenizer) -> None:
    assert tokenizer.vocab_size == 512
    assert tokenizer.source == str(EMBEDDED_TOKENIZER)
    assert tokenizer.fingerprint == hashlib.sha256(BLOB).hexdigest()
    assert tokenizer.to_bytes() == BLOB
    sentence = "We will walk to the river tomorrow."
    assert len(tokenizer.encode(sentence, None)) < 0.6 * len(sentence), (
        "it was trained on the demo's words"
    )


def test_speaker_and_text_stand_between_bos_and_eos_without_a_space(
    tokenizer: TextTokenizer,
) -> None:
    plain = Tokenizer.from_str(BLOB.decode())
    bos, eos = plain.token_to_id(BOS), plain.token_to_id(EOS)
    expected = [bos, *plain.encode("[nora]Hello there.", add_special_tokens=False).ids, eos]
    ids = tokenizer.encode("Hello there.", "nora")
    assert ids.dtype == np.uint32
    assert ids.tolist() == expected
    assert tokenizer.encode("Hello there.", None).tolist() == [
        bos,
        *plain.encode("Hello there.", add_special_tokens=False).ids,
        eos,
    ]
    assert tokenizer.template == "[{speaker}]{text}"


@given(st.text(max_size=60), st.one_of(st.none(), st.text(max_size=8)))
def test_every_text_comes_back(words: str, speaker: str | None) -> None:
    tokenizer = open_tokenizer(codec="melrvq")
    ids = tokenizer.encode(words, speaker)
    assert tokenizer.decode(ids) == (words if speaker is None else f"[{speaker}]{words}")
    assert ids.max() < tokenizer.vocab_size


def test_a_special_tokens_name_in_a_transcript_is_text(tokenizer: TextTokenizer) -> None:
    ids = tokenizer.encode(f"stop {EOS} now", None)
    assert np.count_nonzero(ids == ids[-1]) == 1
    assert tokenizer.decode(ids) == f"stop {EOS} now"


def test_braces_in_a_transcript_are_text(tokenizer: TextTokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("{speaker} {0}", "1")) == "[1]{speaker} {0}"


def test_what_the_file_says_about_template_truncation_and_padding_is_replaced() -> None:
    other = Tokenizer.from_str(BLOB.decode())
    other.enable_truncation(4)
    other.enable_padding(length=50)
    ids = TextTokenizer(other.to_str().encode(), "x").encode("We will walk to the river.", "anna")
    assert (
        ids.tolist()
        == open_tokenizer(codec="melrvq").encode("We will walk to the river.", "anna").tolist()
    )


def test_a_file_or_its_folder_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(BLOB)
    for source in (tmp_path, tmp_path / "tokenizer.json"):
        assert open_tokenizer(str(source)).fingerprint == hashlib.sha256(BLOB).hexdigest()


def test_a_large_tokenizer_does_not_travel() -> None:
    assert TextTokenizer(BLOB + b" " * 1_000_000, "large").to_bytes() is None


@pytest.mark.parametrize("source", ["./none.json", "/none/tokenizer.json", "none", "a/b/c"])
def test_a_source_that_is_nothing(source: str) -> None:
    with pytest.raises(
        TextError,
        match=r"no such file; name a tokenizer\.json, a folder that holds one, or a hub name",
    ):
        open_tokenizer(source)


@pytest.mark.parametrize("blob", [b"", b"{}", b"\xff\xfe", b'{"model": 1}'])
def test_a_file_that_is_no_tokenizer(blob: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(blob)
    with pytest.raises(TextError, match=r"not a tokenizer\.json"):
        open_tokenizer(str(tmp_path))


def test_a_tokenizer_without_llamas_ends_is_refused() -> None:
    with pytest.raises(TextError, match=r"has no <\|end_of_text\|> token"):
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


def use(hub: Hub, monkeypatch: pytest.MonkeyPatch, cached: set[str] | None = None) -> None:
    monkeypatch.setattr(text, "hf_hub_download", hub.download)
    have = str(hub.folder / "tokenizer.json")
    monkeypatch.setattr(
        text,
        "try_to_load_from_cache",
        lambda name, filename: have if name in (cached or set()) else None,
    )


def test_auto_takes_the_first_that_is_open_and_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(tmp_path, {"unsloth/Llama-3.2-1B"})
    use(hub, monkeypatch)
    assert open_tokenizer().source == "unsloth/Llama-3.2-1B"
    assert hub.asked == ["sesame/csm-1b", "meta-llama/Llama-3.2-1B", "unsloth/Llama-3.2-1B"]


def test_auto_asks_the_cache_before_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(tmp_path, set())
    use(hub, monkeypatch, cached={"meta-llama/Llama-3.2-1B"})
    assert open_tokenizer().source == "meta-llama/Llama-3.2-1B"
    assert hub.asked == []


def test_a_gated_name_says_how_to_get_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(Hub(tmp_path, set()), monkeypatch)
    with pytest.raises(
        TextError, match=r"is gated.*hf auth login.*unsloth/Llama-3\.2-1B.*local tokenizer\.json"
    ):
        open_tokenizer("sesame/csm-1b")


def test_without_a_network_auto_gives_up_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(tmp_path, set(), ConnectionError("no network"))
    use(hub, monkeypatch)
    with pytest.raises(
        TextError, match=r"ConnectionError.*HF_HUB_OFFLINE.*hf auth login.*local tokenizer\.json"
    ):
        open_tokenizer()
    assert hub.asked == ["sesame/csm-1b"]


class Store:
    """What a token file says about its tokenizer."""

    def __init__(self, source: str, fingerprint: str, blob: bytes | None) -> None:
        self.info = type(
            "Info", (), {"codec": "mimi", "tokenizer": source, "tokenizer_fingerprint": fingerprint}
        )
        self.blob = blob

    def asset(self, name: str) -> bytes | None:
        return {"tokenizer": self.blob}[name]


def test_a_store_opens_its_tokenizer_and_no_other(
    tmp_path: Path, tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (
        tokenizer_from_store(Store("gone", tokenizer.fingerprint, BLOB)).fingerprint
        == tokenizer.fingerprint
    )  # pyright: ignore
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(json.loads(BLOB)))
    with pytest.raises(
        TextError, match=r"is not the one that made the tokens.*audio codes are kept"
    ):
        tokenizer_from_store(Store(str(path), tokenizer.fingerprint, None))  # pyright: ignore
    hub = Hub(tmp_path, {"unsloth/Llama-3.2-1B"})
    use(hub, monkeypatch)
    assert (
        tokenizer_from_store(Store("meta-llama/Llama-3.2-1B", "", None)).source
        == "unsloth/Llama-3.2-1B"
    )  # pyright: ignore
    with pytest.raises(TextError, match="gated"):
        tokenizer_from_store(Store("meta-llama/Llama-3.2-1B", "abc", None))  # pyright: ignore
