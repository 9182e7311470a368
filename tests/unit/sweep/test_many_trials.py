"""A study of many trials: what one costs does not grow with their number, by exact counts."""

import io
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages.journal import _file

from csm_ft.sweep import asha, study
from tests.unit.sweep.test_study import Opener, complete, opener, validated

__all__ = ["opener"]  # the fixture


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What is done once for each trial: whoever does it for all of them after each is slow."""
    found = Counter[str]()

    def count(place: Any, name: str, what: str) -> None:
        function: Callable[..., Any] = getattr(place, name)

        def counting(*arguments: Any, **options: Any) -> Any:
            found[what] += 1
            return function(*arguments, **options)

        monkeypatch.setattr(place, name, counting)

    count(optuna.Study, "get_trials", "listings of all trials")
    count(study, "record_of", "records made")
    count(asha.Rungs, "_value", "curves looked through")
    count(os, "fsync", "waits for the disk")

    class Lines(io.BufferedReader):
        def __next__(self) -> bytes:
            line = super().__next__()
            found["lines of the journal read"] += 1
            return line

    def opened(path: str, mode: str) -> Any:
        return Lines(io.FileIO(path)) if mode == "rb" else Path(path).open(mode)

    monkeypatch.setattr(_file, "open", opened, raising=False)
    return found


def run_trial(study: Any) -> None:
    """Run one trial to its end, asking as often as the broker does."""
    number = study.ask()
    study.params(number)
    study.begin_attempt(number, "cpu0")
    for examples in (100, 300, 900):
        assert study.num_new > 0
        assert validated(study, number, examples, 1.0), "as good as the others"
    complete(study, number, 1.0)
    assert len(study.records()) == number + 1


def test_a_trial_costs_the_same_late_as_early(opener: Opener, counts: Counter[str]) -> None:
    """TPE, which looks at all trials for each suggestion, is left out."""
    study = opener("--sampler", "random", "--n_trials", "1000")
    cost = list[Counter[str]]()
    for _ in range(60):
        before = counts.copy()
        run_trial(study)
        cost.append(counts - before)
    assert cost[10] == cost[30] == cost[59]
    assert cost[59]["listings of all trials"] == 0
    assert cost[59]["records made"] <= 4
    assert cost[59]["lines of the journal read"] == 0, "what was written together is known"
    assert cost[59]["waits for the disk"] == 6, (
        "to begin, for the attempt, each of three reports, to end"
    )
    assert 2 <= cost[59]["curves looked through"] <= 8


def test_a_restart_reads_each_trial_once(opener: Opener, counts: Counter[str]) -> None:
    study = opener("--sampler", "random", "--n_trials", "1000")
    for _ in range(20):
        run_trial(study)
    num_lines = study.folder.journal.read_bytes().count(b"\n")
    study.close()
    counts.clear()
    study = opener("--sampler", "random", "--n_trials", "1000", close=False)
    assert study.num_new == 980
    assert len(study.records()) == 20
    assert counts["lines of the journal read"] == num_lines
    assert counts["listings of all trials"] == 1
    assert counts["records made"] == 20
    assert counts["curves looked through"] == 0
