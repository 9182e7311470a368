"""The small decisions of `generate`: names, numbers, folders. What it generates: integration."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_ft.atomic import exclusive
from csm_ft.data.token_file import open_store, write_store
from csm_ft.errors import ConfigError
from csm_ft.generate.__main__ import main
from csm_ft.generate.run import _next_number, _opened, _slug
from tests.conftest import ROOT

MODEL = ["--model", str(ROOT / "demo/base"), "--text", "a"]


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("Hello.", "hello"),
        ("Ça va, Marie ?", "ça-va-marie"),
        ("../../etc/passwd", "etc-passwd"),
        ("?!", "sample"),
        ("こんにちは。", "こんにちは"),
        (
            "The ferry to the village leaves in ten minutes.",
            "the-ferry-to-the-village-leaves-in-ten",
        ),
        ("x" * 100, "x" * 40),
    ],
)
def test_file_names_are_readable(text: str, slug: str) -> None:
    assert _slug(text) == slug


@given(st.text())
def test_any_text_makes_a_short_name(text: str) -> None:
    slug = _slug(text)
    assert 1 <= len(slug) <= 40
    assert re.fullmatch(r"[\w-]+", slug)
    assert not slug.startswith("-")


def test_numbers_continue_after_existing_files(tmp_path: Path) -> None:
    assert _next_number(tmp_path) == 1
    for name in ("001-a.wav", "007-b.json", "index.html", "99-c.wav", "notes-100-.txt"):
        (tmp_path / name).touch()
    assert _next_number(tmp_path) == 8
    (tmp_path / "1200-d.wav").touch()
    assert _next_number(tmp_path) == 1201


def test_folder_in_use_is_refused(tmp_path: Path) -> None:
    busy = pytest.raises(ConfigError, match="another process is writing into this folder")
    with exclusive(tmp_path / ".lock", ""), busy, _opened(tmp_path):
        pass
    with _opened(tmp_path):
        pass


def test_impossible_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file/out", Path("/proc/out")):
        refused = pytest.raises(ConfigError, match=f"--output {folder}: .*; choose another folder")
        with refused, _opened(folder):
            pass


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
def test_bad_numbers_are_refused(flag: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*MODEL, f"--{flag}", value]) == 2
    assert re.search(rf"error: {flag}\b.*{value}", capsys.readouterr().err)


def test_missing_device_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*MODEL, "--device", "nowhere"]) == 2
    assert "device nowhere: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--model is missing"),
        (["--model", "m"], "nothing to speak"),
        (["--model", "m", "--text", "a", "--family", "x"], "family 'x' is not known"),
        (["--model", "m", "--txt", "a"], "did you mean --text?"),
    ],
)
def test_mistakes_are_usage_errors(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    assert message in capsys.readouterr().err


def test_token_file_of_another_family_is_refused(
    tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store(tokens)
    write_store(tmp_path / "t.hdf5", replace(store.info, family="toy"), store.splits, store.assets)
    assert main([*MODEL, "--data", str(tmp_path / "t.hdf5"), "--device", "cpu"]) == 2
    assert "t.hdf5 is of the family toy, base of csm" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["generate", "export"])
def test_help_is_light(package: str) -> None:
    code = (
        f"import sys; sys.argv = ['x', '--help']; from csm_ft.{package}.__main__ import main\n"
        "try: main(['--help'])\n"
        "finally: print([m for m in ('torch', 'transformers', 'peft', 'jinja2') if m in"
        " sys.modules])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
