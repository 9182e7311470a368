"""The journal of a study: opened, repaired after a kill, and checked against the command."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from csm_ft.errors import SweepError
from csm_ft.runs.folder import SweepFolder

_BLOCK_BYTES = 65536


def open_journal(folder: SweepFolder, name: str, agreement: Mapping[str, Any]) -> optuna.Study:
    """Open or create the study in a folder that this process has locked.

    Raises SweepError when it holds another study, or one that differs in its `agreement`.
    """
    journal = folder.journal.resolve()
    cut_torn_line(journal)
    cut_torn_line(folder.events)
    # This process has the folder, so whoever held these locks of Optuna's is dead.
    for stale in folder.path.glob(f"{journal.name}.lock*"):
        stale.unlink()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(journal)))
    study = _load_or_create(folder, storage, name)
    # As it will be read back: tuples become lists.
    _agree(folder, study, json.loads(json.dumps(agreement)))
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


def _load_or_create(folder: SweepFolder, storage: JournalStorage, name: str) -> optuna.Study:
    names = [study.study_name for study in storage.get_all_studies()]
    if not names:
        return optuna.create_study(storage=storage, study_name=name, direction="minimize")
    if names != [name]:
        raise SweepError(
            f"{folder.path} holds the study {names[0]!r}, not {name!r}; choose another"
            f" --output_dir, or --study_name {names[0]}"
        )
    return optuna.load_study(storage=storage, study_name=name)


def _agree(folder: SweepFolder, study: optuna.Study, agreement: dict[str, Any]) -> None:
    """Check that the study in the folder is the one that this command describes."""
    if "created" not in study.user_attrs:
        study.set_user_attr("created", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    before = study.user_attrs.get("agreement")
    if before is None:
        study.set_user_attr("agreement", agreement)
        return
    names = sorted({*before, *agreement})
    changed = [
        f"{name}: {before.get(name)!r} there, {agreement.get(name)!r} now"
        for name in names
        if before.get(name) != agreement.get(name)
    ]
    if changed:
        raise SweepError(
            f"{folder.path} holds a study whose trials cannot be compared with these:\n  "
            + "\n  ".join(changed)
            + "\nWays out: give the same options to resume it, or choose another --output_dir for"
            " a new study"
        )
