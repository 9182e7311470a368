"""What stands beside exported weights.

Enough to speak with, and never another tokenizer than the run's.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from csm_ft.data.token_file import open_store
from csm_ft.runs.encoder_record import copy_processor, write_speech
from csm_ft.runs.source import Origin
from tests.helpers.hub import ROOT

RUN = Origin("nowhere")


def test_what_travels_is_named_by_its_file(tokens: Path, tmp_path: Path) -> None:
    store = open_store(tokens)
    write_speech(tmp_path, store, RUN)
    facts = json.loads((tmp_path / "speech.json").read_text())
    assert facts == {
        "codec": "melrvq",
        "codec_source": "codec.safetensors",
        "codec_fingerprint": store.info.codec_fingerprint,
        "num_codebooks": 8,
        "codec_vocab_size": 256,
        "sample_rate_hz": 16000,
        "frame_samples": 1280,
        "tokenizer": "tokenizer.json",
        "tokenizer_fingerprint": store.info.tokenizer_fingerprint,
        "template": "[{speaker}]{text}",
        "speakers": ["nora"],
    }
    assert (tmp_path / "codec.safetensors").read_bytes() == store.asset("codec")
    assert (
        hashlib.sha256((tmp_path / "tokenizer.json").read_bytes()).hexdigest()
        == store.info.tokenizer_fingerprint
    )


def test_what_is_too_large_to_travel_is_named_by_its_source(tokens: Path, tmp_path: Path) -> None:
    store = open_store(tokens)
    info = replace(
        store.info, codec="mimi", codec_source="kyutai/mimi", tokenizer="meta-llama/Llama-3.2-1B"
    )
    write_speech(tmp_path, replace(store, info=info, assets={}), RUN)
    facts = json.loads((tmp_path / "speech.json").read_text())
    assert (facts["codec_source"], facts["tokenizer"]) == ("kyutai/mimi", "meta-llama/Llama-3.2-1B")
    assert [p.name for p in tmp_path.iterdir()] == ["speech.json"]


def test_an_export_of_an_export_can_speak_too(tokens: Path, tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    for folder in (first, second, third):
        folder.mkdir()
    write_speech(first, open_store(tokens), RUN)
    write_speech(second, None, Origin(str(first)))
    assert {p.name: p.read_bytes() for p in second.iterdir()} == {
        p.name: p.read_bytes() for p in first.iterdir()
    }
    (first / "speech.json").unlink()
    write_speech(third, None, Origin(str(first)))
    assert list(third.iterdir()) == [], "a tokenizer beside foreign weights may be anybody's"


def test_the_processor_comes_from_where_training_began(tokens: Path, tmp_path: Path) -> None:
    base, own, other = (tmp_path / name for name in ("base", "own", "other"))
    for folder in (base, own, other):
        folder.mkdir()
    (base / "tokenizer.json").write_text("another one")
    (base / "chat_template.jinja").write_text("{{ template }}")
    (base / "preprocessor_config.json").write_text("{}")
    (base / "weights.safetensors").write_text("not for a processor")
    copy_processor(own, open_store(tokens), Origin(str(base)))
    assert {p.name for p in own.iterdir()} == {"chat_template.jinja", "preprocessor_config.json"}, (
        "not another tokenizer"
    )
    (other / "chat_template.jinja").write_text("mine")
    copy_processor(other, None, Origin(str(base)))
    assert {p.name for p in other.iterdir()} == {
        "chat_template.jinja",
        "preprocessor_config.json",
        "tokenizer.json",
    }
    assert (other / "chat_template.jinja").read_text() == "mine", "what is there stays"


@pytest.mark.parametrize("base", ["", "somebody/unknown", "/nowhere/at/all"])
def test_a_base_without_a_processor(tmp_path: Path, base: str, hub: Path) -> None:
    copy_processor(tmp_path, None, Origin(base))
    assert list(tmp_path.iterdir()) == []


def test_the_processor_of_a_hub_name_comes_from_the_cache(tmp_path: Path, hub: Path) -> None:
    copy_processor(tmp_path, None, Origin("sesame/csm-1b"))
    assert (tmp_path / "tokenizer.json").read_bytes() == (ROOT / "demo/tokenizer.json").read_bytes()
