"""The journal of a study: opened, repaired after a kill, and checked against the command."""

import itertools
import json
import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend

from csm_ft.atomic import appending, write_whole
from csm_ft.config.base import build
from csm_ft.console import console
from csm_ft.errors import SweepError
from csm_ft.runs.folder import SweepFolder
from csm_ft.sweep.new_space import changes, differences, take_over
from csm_ft.sweep.trials import TRIAL_0, Plan

_BLOCK_BYTES = 65536
_K = TypeVar("_K", bound="_Keeper")
_P = ParamSpec("_P")
_R = TypeVar("_R")


def open_journal(folder: SweepFolder, plan: Plan) -> optuna.Study:
    """Open or create the study in a folder that this process has locked.

    Where the search space has changed, its trials go into a new study. Raises SweepError when the
    folder holds another study, or trials that do not fit into the plan.
    """
    journal = folder.journal.resolve()
    cut_torn_line(journal)
    cut_torn_line(folder.events)
    # This process has the folder, so whoever held these locks of Optuna's is dead.
    for stale in folder.path.glob(f"{journal.name}.lock*"):
        stale.unlink()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = _load_or_create(folder, plan)
    if "created" not in study.user_attrs:
        study.set_user_attr("created", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    agreement = json.loads(json.dumps(plan.agreement))  # as read back: tuples become lists
    if "agreement" not in study.user_attrs:
        study.set_user_attr("agreement", agreement)
    before = _complete(study.user_attrs["agreement"], agreement, plan)
    if before != agreement:
        _check_comparable(folder, before, agreement)
        _begin_anew(folder, study, plan, before)
        return _load_or_create(folder, plan)
    return study


def cut_torn_line(path: Path) -> None:
    """Cut a file of lines back to its last whole one: the rest was being written at a kill."""
    if not path.is_file():
        return
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - _BLOCK_BYTES)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                file.truncate(start + found + 1)
                return
            end = start
        file.truncate(0)


def _load_or_create(folder: SweepFolder, plan: Plan) -> optuna.Study:
    name = plan.sweep.study_name
    storage = JournalStorage(_Journal(str(folder.journal.resolve())))
    names = [study.study_name for study in storage.get_all_studies()]
    if not names:
        direction = plan.objective.direction
        return optuna.create_study(storage=storage, study_name=name, direction=direction)
    if names != [name]:
        raise SweepError(
            f"{folder.path} holds the study {names[0]!r}, not {name!r}; choose another"
            f" --output_dir, or --study_name {names[0]}"
        )
    return optuna.load_study(storage=storage, study_name=name)


def _complete(before: dict[str, Any], now: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """Add the options that did not exist yet when the study began: they had their defaults."""
    defaults = build(type(plan.space.base), {}).training_keys()
    known = {name.removeprefix(TRIAL_0) for name in before}
    asked = {name.removeprefix(TRIAL_0) for name in now}
    new = {name: defaults[name] for name in defaults if name in asked - known}
    return {**new, **before}


def _check_comparable(folder: SweepFolder, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Check that the study in the folder is the one that this command describes."""
    changed = differences(before, now)
    if changed:
        raise SweepError(
            f"{folder.path} holds a study whose trials cannot be compared with these:\n  "
            + "\n  ".join(changed)
            + "\nWays out: give the same options to resume it, or choose another --output_dir for"
            " a new study"
        )


def _begin_anew(
    folder: SweepFolder, study: optuna.Study, plan: Plan, before: dict[str, Any]
) -> None:
    """Replace the journal by that of a new study with the same trials in the space of the plan.

    A kill leaves the old study or the new one. The old journal is kept under another name.
    """
    agreement = json.loads(json.dumps(plan.agreement))
    try:
        trials = take_over(study.get_trials(), before, plan.space)
    except SweepError as error:
        raise SweepError(f"{folder.path}: {error}") from None
    lines = _Lines()
    new = optuna.create_study(
        storage=JournalStorage(lines), study_name=study.study_name, direction=study.direction
    )
    for name, value in (study.user_attrs | {"agreement": agreement}).items():
        new.set_user_attr(name, value)
    new.add_trials(trials)
    journal = folder.journal.resolve()
    old = _set_aside(folder, journal.read_bytes())
    write_whole(journal, "".join(f"{line}\n" for line in lines.lines))
    are_kept = "1 trial is kept" if len(trials) == 1 else f"{len(trials)} trials are kept"
    console.print(
        f"the search space has changed ({'; '.join(changes(before, agreement))}): {are_kept} in a"
        f" new study; the old journal is {old}",
        markup=False,
    )


def _set_aside(folder: SweepFolder, journal: bytes) -> Path:
    """Keep a copy of the journal under the first free name, and return its path."""
    for path in map(folder.old_journal, itertools.count(1)):
        # A copy that a kill left unused is the beginning of this journal; it is replaced.
        if not path.exists() or journal.startswith(path.read_bytes()):
            write_whole(path, journal)
            return path
    raise AssertionError("there is always a free name")


class _Keeper(Protocol):
    _study: optuna.Study


def written_together(
    method: Callable[Concatenate[_K, _P], _R],
) -> Callable[Concatenate[_K, _P], _R]:
    """Let a method write what it keeps in its study at its end: all or nothing, one wait."""

    @wraps(method)
    def together(self: _K, *arguments: _P.args, **options: _P.kwargs) -> _R:
        backend = getattr(self._study._storage, "_backend", None)
        with backend.together() if isinstance(backend, _Journal) else nullcontext():
            return method(self, *arguments, **options)

    return together


class _Journal(JournalFileBackend):
    """Optuna's file; on a full disk it stays whole, and the error names the disk."""

    def __init__(self, path: str) -> None:
        with appending(Path(path)):
            super().__init__(path)
        self._path = Path(path)
        self._held: list[dict[str, Any]] | None = None  # to be written together
        self._num_before: int | None = None  # lines of the file before the held ones

    @contextmanager
    def together(self) -> Iterator[None]:
        """Write what the block appends at its end. No other process writes in the meantime."""
        assert self._held is None, "a block within another one"
        self._held, self._num_before = [], None
        try:
            yield
        finally:
            held, self._held = self._held, None
            if held:
                self.append_logs(held)
                assert self._num_before is not None, "Optuna reads back what it has appended"
                # Optuna's own note of where the next reading begins.
                end = self._num_before + len(held)
                self._log_number_offset[end] = self._path.stat().st_size

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        if self._held is not None:
            self._held += json.loads(json.dumps(logs))  # as read from the file
            return
        with appending(self._path):
            super().append_logs(logs)

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        if not self._held:
            yield from super().read_logs(log_number_from)
            return
        if self._num_before is None:
            self._num_before = log_number_from
        yield from self._held[log_number_from - self._num_before :]


class _Lines(BaseJournalBackend):
    """A journal in memory, so that it can be written at once."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        return map(json.loads, self.lines[log_number_from:])

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.lines += [json.dumps(log, separators=(",", ":")) for log in logs]
