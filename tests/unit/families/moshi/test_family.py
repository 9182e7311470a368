"""Which weights training begins with, and what of them is trained, where nothing is said."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from csm_ft.config.train import LORA_LEARNING_RATE
from csm_ft.families.moshi.config import MoshiConfig
from csm_ft.families.moshi.family import EMBEDDED_BASE, HUB_NAME, MoshiFamily

DEMO = json.loads((EMBEDDED_BASE / "speech.json").read_text())
MIMI = {**DEMO, "codec": "mimi", "codec_fingerprint": "mimi", "tokenizer": "kyutai"}


@pytest.mark.parametrize(
    ("facts", "base"),
    [
        (DEMO, str(EMBEDDED_BASE)),
        (MIMI, HUB_NAME),
        ({**MIMI, "tokenizer": "fitted"}, ""),
        ({**DEMO, "tokenizer_fingerprint": "other"}, ""),
        ({**DEMO, "codec_fingerprint": "other"}, ""),
    ],
)
def test_base_is_the_one_that_knows_the_tokens(facts: dict[str, Any], base: str) -> None:
    store: Any = SimpleNamespace(info=SimpleNamespace(facts=facts))
    assert MoshiFamily().default_base(store) == base


@pytest.mark.parametrize(
    ("options", "method"),
    [
        ({}, "lora"),
        ({"train_from_scratch": True}, "full"),
        ({"init_text_embeddings": True}, "full"),
        ({"train_from_scratch": True, "method": "depth_only"}, "depth_only"),
    ],
)
def test_adapters_are_the_default_where_weights_are_known(
    options: dict[str, Any], method: str
) -> None:
    config = MoshiConfig(**options)
    assert config.method == method
    assert (config.learning_rate == LORA_LEARNING_RATE) is (method == "lora")
