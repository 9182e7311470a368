"""The journal: cut back to whole lines after a kill, and written in pieces."""

import errno
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

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


def use(study: optuna.Study) -> None:
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    trial.set_user_attr("facts", {"a": (1, 2)})
    trial.report(3.0, 10)
    study.tell(trial, 3.0)


def found(study: optuna.Study) -> list[tuple[Any, ...]]:
    return [
        (t.number, t.params, t.value, t.user_attrs, t.intermediate_values) for t in study.trials
    ]


def test_lines_written_together_read_as_those_written_one_by_one(tmp_path: Path) -> None:
    studies = {}
    for name, num_blocks in (("singly", 0), ("together", 3)):
        journal = _Journal(str(tmp_path / name))
        sampler = optuna.samplers.RandomSampler(seed=0)
        studies[name] = study = optuna.create_study(
            storage=JournalStorage(journal), study_name="s", sampler=sampler
        )
        for number in range(5):
            before = (tmp_path / name).read_bytes()
            with journal.together() if number < num_blocks else nullcontext():
                use(study)
                is_held = (tmp_path / name).read_bytes() == before
            assert is_held is (number < num_blocks)
    assert found(studies["together"]) == found(studies["singly"])
    for name in studies:
        storage = JournalStorage(JournalFileBackend(str(tmp_path / name)))
        again = optuna.load_study(storage=storage, study_name="s")
        assert found(again) == found(studies["singly"])
