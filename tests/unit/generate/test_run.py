"""The small decisions of the command line: names, numbers, lengths, speakers.

What it speaks: tests/integration/test_generate.py.
"""

import fcntl
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_ft.config import ConfigError
from csm_ft.generate.run import _asked, _locked, _next_number, _options, _parser, _slug


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("Hello.", "hello"),
        ("Ça va, Marie ?", "ça-va-marie"),
        ("../../etc/passwd", "etc-passwd"),
        ("?!", "speech"),
        ("こんにちは。", "こんにちは"),
        (
            "The ferry to the village leaves in ten minutes.",
            "the-ferry-to-the-village-leaves-in-ten",
        ),
        ("x" * 100, "x" * 40),
    ],
)
def test_a_file_has_a_name_that_a_person_recognises(text: str, slug: str) -> None:
    assert _slug(text) == slug


@given(st.text())
def test_any_text_makes_a_name_of_one_short_file(text: str) -> None:
    slug = _slug(text)
    assert 1 <= len(slug) <= 40
    assert re.fullmatch(r"[\w-]+", slug)
    assert not slug.startswith("-")


def test_numbers_go_on_after_whatever_is_there(tmp_path: Path) -> None:
    assert _next_number(tmp_path) == 1
    for name in ("001-a.wav", "007-b.json", "index.html", "99-c.wav", "notes-100-.txt"):
        (tmp_path / name).touch()
    assert _next_number(tmp_path) == 8
    (tmp_path / "1200-d.wav").touch()
    assert _next_number(tmp_path) == 1201


def test_a_folder_that_another_process_speaks_into(tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with (
            pytest.raises(ConfigError, match="another process is speaking into this folder"),
            _locked(tmp_path),
        ):
            pass
    with _locked(tmp_path):
        pass


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file/out", Path("/proc/out")):
        with (
            pytest.raises(ConfigError, match=f"--output {folder}: .*; choose another folder"),
            _locked(folder),
        ):
            pass


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        ([], 'nothing to speak; give --text "Hello."'),
        (["--text", " "], "--text is empty"),
        (["--context", "a.wav:b:", "--prompts", "p.json"], "--context goes with --text"),
        (["--text", "a", "--context", "a.wav:b"], "has 1 colons"),
        (["--text", "a\udcff"], "is not UTF-8"),
        (["--text", "a", "--speaker", " "], "--speaker: speaker ' ' is empty"),
        (["--text", "a", "--speaker", "a]b"], "has brackets"),
    ],
)
def test_what_cannot_be_asked_for(argv: list[str], reason: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(reason)):
        _asked(_parser().parse_args(["--model", "m", *argv]))


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("temperature", "-0.1"),
        ("temperature", "nan"),
        ("topk", "-1"),
        ("num_takes", "0"),
        ("batch_size", "0"),
        ("max_sec", "0"),
        ("max_sec", "inf"),
    ],
)
def test_numbers_that_are_none(flag: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"--{flag} {value}"):
        _options(_parser().parse_args(["--model", "m", f"--{flag}", value]))


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"--device nowhere: .*use --device cpu"):
        _options(_parser().parse_args(["--model", "m", "--device", "nowhere"]))


def test_auto_is_what_this_machine_has() -> None:
    options = _options(_parser().parse_args(["--model", "m", "--device", "cpu"]))
    assert (options.device, options.dtype) == ("cpu", "fp32")
