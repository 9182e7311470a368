"""What is told of transcripts beside their error rates, and the cap on their tokens."""

import pytest

from csm_ft import cli
from csm_ft.errors import ConfigError
from csm_ft.families.moonshine.config import MoonshineConfig
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
