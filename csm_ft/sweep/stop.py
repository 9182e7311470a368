"""Ends a running sweep as Ctrl-C would, from another terminal: `python sweep.py --stop DIR`."""

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from csm_ft.atomic import is_locked, write_whole
from csm_ft.errors import MachineError
from csm_ft.runs.folder import SweepFolder

LONGEST_STOP_SEC = 90  # running trials have a minute to save, and the results are written
_LOOK_EVERY_SEC = 0.1


@contextmanager
def findable(folder: SweepFolder) -> Iterator[None]:
    """Record in the folder of a sweep which process runs it."""
    facts = {"pid": os.getpid(), "host": socket.gethostname()}
    write_whole(folder.process, json.dumps(facts))
    try:
        yield
    finally:
        folder.process.unlink(missing_ok=True)


def stop_sweep(path: Path) -> str:
    """Ask the sweep in a folder to save and end, wait for it, and return what happened.

    Raises MachineError where the process cannot be reached or does not end.
    """
    folder = SweepFolder(path)
    if not is_locked(folder.lock) or not folder.process.is_file():
        return f"no sweep is running in {path}"
    facts = json.loads(folder.process.read_text(encoding="utf-8"))
    pid, host = facts["pid"], facts["host"]
    if host != socket.gethostname():
        raise MachineError(f"the sweep in {path} runs on {host}; give the same command there")
    try:
        os.kill(pid, signal.SIGTERM)
    except OSError as error:
        raise MachineError(
            f"the sweep in {path} cannot be stopped: process {pid}: {error.strerror}; stop it as"
            " the user who started it"
        ) from error
    deadline_sec = time.monotonic() + LONGEST_STOP_SEC
    while is_locked(folder.lock):
        if time.monotonic() > deadline_sec:
            raise MachineError(
                f"process {pid} was asked to stop {LONGEST_STOP_SEC} s ago and still runs; the same"
                " command again ends it at once, and trials resume from their last checkpoint"
            )
        time.sleep(_LOOK_EVERY_SEC)
    return f"stopped the sweep in {path}; the command that began it resumes it"
