"""Copies the study to a database that other programs watch: `--storage URL`.

The journal stays the truth. A thread compares the two and brings the database up to date, so an
outage costs nothing but a warning, and what it missed is caught up with. `FrozenTrial._trial_id`,
a private corner of Optuna, is used here.
"""

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from csm_ft.console import console
from csm_ft.errors import ConfigError, first_line

COPY_EVERY_SEC = 2.0
LAST_COPY_SEC = 15.0  # for the copy at the end of the sweep
_CONNECT_SEC = 5
_DRIVERS = {
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
}
_PASSWORD = re.compile(r"(?<=://)([^:/@\s]*):[^@\s]*@|(?<=[?&]password=)[^&\s]+")


def without_password(text: str) -> str:
    """Return text with the passwords of URLs left out."""
    return _PASSWORD.sub(lambda found: f"{found[1]}:***@" if found[1] is not None else "***", text)


@contextmanager
def mirrored(journal: Path, study_name: str, url: str) -> Iterator[None]:
    """Copy the study to the database while the block runs, and once more at its end.

    Raises ConfigError where the URL is none, its driver is missing, or the database has a study of
    another sweep by this name.
    """
    if not url:
        yield
        return
    mirror = _Mirror(journal, study_name, url)
    mirror.copy()
    thread = threading.Thread(target=mirror.run, daemon=True, name="storage")
    thread.start()
    try:
        yield
    finally:
        mirror.ended.set()
        thread.join(LAST_COPY_SEC)
        if thread.is_alive() or mirror.is_behind:
            console.print(
                "storage: the database is behind the study; the same command catches up",
                style="yellow",
            )


class _Mirror:
    """One study in two places."""

    def __init__(self, journal: Path, study_name: str, url: str) -> None:
        self._journal, self._name = journal, study_name
        self._url = _with_driver(url)
        self._storage: RDBStorage | None = None
        self._done: set[int] = set()  # trials that have ended in the database, too
        self.is_behind = False
        self.ended = threading.Event()

    def run(self) -> None:
        """Copy from time to time until the end, and then once more."""
        is_last = False
        while not is_last:
            is_last = self.ended.wait(COPY_EVERY_SEC)
            try:
                self.copy()
            except ConfigError as error:
                console.print(f"storage: {error}", style="yellow", markup=False)
                return

    def copy(self) -> None:
        """Bring the database up to date; a database that does not answer is a warning."""
        from sqlalchemy.exc import (
            SQLAlchemyError,
        )  # here, as in what follows: it takes half a second

        try:
            self._copy()
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            self._storage = None  # connect anew
            self._done.clear()
            if not self.is_behind:
                cause = error.__cause__ or error
                text = without_password(first_line(cause))
                console.print(
                    f"storage: the database does not answer ({text}). The sweep goes on; its"
                    " journal has everything, and the database is caught up with later",
                    style="yellow",
                    markup=False,
                )
            self.is_behind = True
        else:
            if self.is_behind:
                console.print("storage: the database is up to date again")
            self.is_behind = False

    def _copy(self) -> None:
        source = JournalStorage(JournalFileBackend(str(self._journal.resolve())))
        study = optuna.load_study(study_name=self._name, storage=source)
        storage = self._storage = self._storage or self._open()
        study_id = self._study_id(storage, study)
        there = {trial.number: trial for trial in storage.get_all_trials(study_id, deepcopy=False)}
        for trial in study.get_trials(deepcopy=False):
            if trial.number in self._done:
                continue
            if trial.number not in there:
                storage.create_new_trial(study_id, template_trial=trial)
            elif not there[trial.number].state.is_finished():
                _update(storage, there[trial.number], trial)
            if trial.state.is_finished():
                self._done.add(trial.number)

    def _open(self) -> RDBStorage:
        from sqlalchemy.exc import ArgumentError, NoSuchModuleError

        options: dict[str, Any] = {"pool_pre_ping": True}
        if not self._url.startswith("sqlite"):
            options["connect_args"] = {"connect_timeout": _CONNECT_SEC}
        try:
            return RDBStorage(self._url, engine_kwargs=options)
        except (ImportError, NoSuchModuleError, ArgumentError) as error:
            raise ConfigError(
                f"storage {without_password(self._url)}: {without_password(first_line(error))};"
                " PostgreSQL and MySQL need `pip install -r requirements-storage.txt`"
            ) from error

    def _study_id(self, storage: RDBStorage, study: optuna.Study) -> int:
        """Return the study in the database; it is made anew where its space has changed."""
        facts = study.user_attrs
        names = {one.study_name: one._study_id for one in storage.get_all_studies()}
        if self._name in names:
            study_id = names[self._name]
            before = storage.get_study_user_attrs(study_id)
            if before.get("created", facts["created"]) != facts["created"]:
                raise ConfigError(
                    f"storage {without_password(self._url)} has a study {self._name!r} of another"
                    " sweep; choose another --study_name"
                )
            if before.get("agreement", facts["agreement"]) != facts["agreement"]:
                storage.delete_study(study_id)
                self._done.clear()
                return self._study_id(storage, study)
        else:
            study_id = storage.create_new_study([study.direction], self._name)
            before = {}
        for name, value in facts.items():
            if before.get(name) != value:
                storage.set_study_user_attr(study_id, name, value)
        return study_id


def _update(storage: RDBStorage, there: FrozenTrial, trial: FrozenTrial) -> None:
    """Write what a trial has more than the one in the database; its state last."""
    number = there._trial_id
    for name in _changed(there.params, trial.params):
        distribution = trial.distributions[name]
        internal = distribution.to_internal_repr(trial.params[name])
        storage.set_trial_param(number, name, internal, distribution)
    for step in _changed(there.intermediate_values, trial.intermediate_values):
        storage.set_trial_intermediate_value(number, step, trial.intermediate_values[step])
    for name in _changed(there.user_attrs, trial.user_attrs):
        storage.set_trial_user_attr(number, name, trial.user_attrs[name])
    for name in _changed(there.system_attrs, trial.system_attrs):
        storage.set_trial_system_attr(number, name, trial.system_attrs[name])
    if trial.state != there.state and trial.state != TrialState.WAITING:
        storage.set_trial_state_values(number, trial.state, trial.values)


def _changed(before: dict[Any, Any], now: dict[Any, Any]) -> Sequence[Any]:
    return [name for name in now if name not in before or before[name] != now[name]]


def _with_driver(url: str) -> str:
    """Return a URL with the driver that requirements-storage.txt installs."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigError(
            "storage is not the URL of a database, such as"
            " postgresql://user@host/optuna (the password can stand in ~/.pgpass or PGPASSWORD)"
        ) from error
    driver = _DRIVERS.get(parsed.drivername, parsed.drivername)
    return parsed.set(drivername=driver).render_as_string(hide_password=False)
