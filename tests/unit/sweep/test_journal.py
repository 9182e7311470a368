"""The journal: cut back to whole lines after a kill."""

import errno
import os
from pathlib import Path

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.storages import JournalStorage

from csm_ft.errors import MachineError
from csm_ft.sweep.journal import _Journal, cut_torn_line


@given(
    st.lists(st.binary(max_size=30).filter(lambda b: b"\n" not in b), max_size=6),
    st.binary(max_size=30).filter(lambda b: b"\n" not in b),
)
def test_cutting_keeps_whole_lines(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], torn: bytes
) -> None:
    path = tmp_path_factory.mktemp("j") / "lines"
    whole = b"".join(line + b"\n" for line in lines)
    path.write_bytes(whole + torn)
    cut_torn_line(path)
    assert path.read_bytes() == whole
    cut_torn_line(path)
    assert path.read_bytes() == whole


def test_torn_line_longer_than_block(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"a\n" + b"x" * 200_000)
    cut_torn_line(path)
    assert path.read_bytes() == b"a\n"


def test_a_full_disk_leaves_the_journal_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when a part of a line has gone in, and with room again the same study goes on."""
    path = tmp_path / "study.journal"
    study = optuna.create_study(storage=JournalStorage(_Journal(str(path))), study_name="s")
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)  # as late as it gets: all of the line is in the file
        with pytest.raises(MachineError, match=r"study\.journal could not be written: No space"):
            study.set_user_attr("lost", 1)
    assert path.read_bytes() == before
    study.set_user_attr("kept", 2)
    again = optuna.load_study(storage=JournalStorage(_Journal(str(path))), study_name="s")
    assert again.user_attrs == {"kept": 2}
