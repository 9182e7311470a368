"""Sound files opened and hashed once."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from csm_ft.data import audio, inspect
from csm_ft.data.inspect import SoundFile, inspect_files, read_known


def test_files_are_inspected_once_each(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.wav", "b.wav", "broken.wav", "none.wav")]
    for path in paths[:2]:
        soundfile.write(path, np.zeros(800), 8000)
    paths[2].write_text("sound")
    found = inspect_files([*paths, paths[0]], num_workers=2)
    assert list(found) == paths
    one, copy, broken, missing = found.values()
    assert isinstance(one, SoundFile)
    assert isinstance(copy, SoundFile)
    assert (one.info, one.digest) == (copy.info, copy.digest)
    assert one.info.duration_sec == 0.1
    assert isinstance(broken, str)
    assert "cannot be decoded" in broken
    assert isinstance(missing, str)
    assert missing.endswith("no such file; paths are relative to the metadata file")


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "files.json"


def write_old(path: Path, value: float) -> None:
    """Write a file of 800 samples that was last changed long ago."""
    soundfile.write(path, np.full(800, value), 8000)
    os.utime(path, (1e9, 1e9))


def inspect_known(path: Path, kept: Path) -> SoundFile | str:
    return inspect_files([path], 1, known=read_known([kept]), keep=kept)[path]


def test_unchanged_file_is_not_read_again(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspect, "_SETTLED_SEC", -1e9)
    path = tmp_path / "a.wav"
    write_old(path, 0.1)
    found = inspect_known(path, kept)
    monkeypatch.setattr(audio, "digest", lambda path: pytest.fail("read again"))
    assert inspect_known(path, kept) == found


def test_changed_file_is_read_again(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspect, "_SETTLED_SEC", -1e9)
    path = tmp_path / "a.wav"
    write_old(path, 0.1)
    found = inspect_known(path, kept)
    time.sleep(0.02)  # longer than the system's clock ticks
    write_old(path, 0.2)  # of the same size and time
    assert inspect_known(path, kept) != found


def test_file_that_changed_just_now_is_not_trusted(tmp_path: Path, kept: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(800), 8000)
    inspect_known(path, kept)
    assert read_known([kept]) == {}


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"a": [[1, 2, 3], [4], "x"]}'])
def test_damaged_list_is_no_harm(tmp_path: Path, kept: Path, text: str) -> None:
    kept.write_text(text)
    assert read_known([kept, tmp_path / "missing.json"]) == {}
