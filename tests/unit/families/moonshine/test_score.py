"""What is told of transcripts beside their error rates, and what options answer."""

import itertools
import re

import pytest

from csm_ft import cli
from csm_ft.errors import ConfigError
from csm_ft.families.moonshine.config import MoonshineConfig, lora_modules
from csm_ft.families.moonshine.score import repeats


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one two three four", False),
        ("one one one two", False),
        ("so one one one one", True),
        ("to be or not to be or not to be or not", False),
        ("he to be or not to be or not to be or not to be or not", True),
        ("", False),
    ],
)
def test_repeated_phrases_are_found(text: str, *, expected: bool) -> None:
    assert repeats(text) is expected


@pytest.mark.parametrize(
    ("flag", "answer"),
    [
        ("--resume_from", "--resume_from: not needed: the same command resumes"),
        ("--train_manifest", "python pretokenize.py --family moonshine --train_manifest"),
    ],
)
def test_flags_of_the_training_guide_are_answered(flag: str, answer: str) -> None:
    with pytest.raises(ConfigError, match=answer):
        cli.parse_args(MoonshineConfig, [flag, "x"], program="train.py", description="")


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("q_proj", {"self_attn.q_proj", "encoder_attn.q_proj"}),
        ("self_attn.q_proj,mlp", {"self_attn.q_proj", "mlp.fc1", "mlp.fc2"}),
        ("encoder_attn.attention", {f"encoder_attn.{letter}_proj" for letter in "qkvo"}),
    ],
)
def test_adapters_of_one_kind_of_attention(targets: str, expected: set[str]) -> None:
    pattern = lora_modules(MoonshineConfig(method="lora", lora_targets=targets))
    layer = "model.decoder.layers.3"
    attentions = itertools.product(("self_attn", "encoder_attn"), "qkvo")
    names = [f"{block}.{letter}_proj" for block, letter in attentions]
    names += ["mlp.fc1", "mlp.fc2", "input_layernorm"]
    assert {name for name in names if re.fullmatch(pattern, f"{layer}.{name}")} == expected


def test_unknown_kind_of_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="cross_attn"):
        MoonshineConfig(method="lora", lora_targets="cross_attn.q_proj")
