"""A warm worker.

Imports the trainer once and runs trial after trial through the `run` that train.py uses.

Started by the orchestrator as `python -m csm_ft.sweep.worker --link FD --trainer MODULE`, with its
GPU and threads set in the environment before anything is imported. It dies with the orchestrator,
whatever kills that.
"""

import argparse
import ctypes
import gc
import importlib
import math
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from csm_ft.config import ConfigError, build
from csm_ft.data.split import StoreError
from csm_ft.families import config_class
from csm_ft.sweep.messages import (
    BASELINE,
    TO_WORKER,
    Answer,
    Done,
    Failed,
    Pause,
    Progress,
    Ready,
    RunTrial,
    Validated,
    send,
)

PROGRESS_EVERY_SEC = 0.2
LONGEST_TRACE = 20_000  # characters of a traceback that are sent on
PR_SET_PDEATHSIG = 1


class Orchestrator:
    """The other end of the link.

    A thread reads it, so that its end is noticed in the middle of a step.
    """

    def __init__(self, link: socket.socket) -> None:
        self.link = link
        self.paused = threading.Event()
        self._messages: queue.SimpleQueue[RunTrial | Answer] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True, name="orchestrator").start()

    def receive(self) -> RunTrial | Answer:
        """Return the next message; waits for it."""
        return self._messages.get()

    def _read(self) -> None:
        try:
            with self.link.makefile("rb") as lines:
                for line in lines:
                    message = TO_WORKER.validate_json(line)
                    if isinstance(message, Pause):
                        self.paused.set()
                    else:
                        self._messages.put(message)
        except OSError:
            pass  # a broken link is the same as a closed one
        os._exit(
            0
        )  # the orchestrator is gone, or wants this worker gone; checkpoints are whole or not there


class TrialReporter:
    """Speaks for one attempt at one trial (train.Reporter)."""

    def __init__(self, orchestrator: Orchestrator, trial: int, attempt: int) -> None:
        self._orchestrator, self._trial, self._attempt = orchestrator, trial, attempt
        self._last_sec = 0.0

    def progress(self, step: int, examples: int) -> None:
        """Tell how far the trial is, a few times a second at most."""
        if time.monotonic() - self._last_sec >= PROGRESS_EVERY_SEC:
            self._last_sec = time.monotonic()
            self._send(
                Progress(trial=self._trial, attempt=self._attempt, step=step, examples=examples)
            )

    def validated(self, examples: int, metrics: Mapping[str, float]) -> bool:
        """Tell a validation and wait until the study has written it down and decided."""
        if not math.isfinite(metrics["val_loss"]):
            raise FloatingPointError(f"the validation loss after {examples} examples is not finite")
        self._send(
            Validated(
                trial=self._trial,
                attempt=self._attempt,
                examples=examples,
                val_loss=metrics["val_loss"],
            )
        )
        answer = self._orchestrator.receive()
        assert isinstance(answer, Answer), f"expected an answer, got {answer}"
        assert answer.examples == examples, (
            f"expected an answer for {examples} examples, got {answer}"
        )
        return answer.go_on

    def _send(self, message: Progress | Validated) -> None:
        send(self._orchestrator.link, message)


def work(orchestrator: Orchestrator, trainer: Any) -> None:
    """Run what comes, for ever; the link's end is the end of the process."""
    send(orchestrator.link, Ready())
    while True:
        job = orchestrator.receive()
        assert isinstance(job, RunTrial), f"expected a trial, got {job}"
        print(f"\n== trial {job.trial}, attempt {job.attempt}", flush=True)
        send(orchestrator.link, _run(orchestrator, trainer, job))
        _clean()


def _run(orchestrator: Orchestrator, trainer: Any, job: RunTrial) -> Done | Failed:
    try:
        config = build(config_class(job.config["family"]), job.config)
        if job.trial == BASELINE:
            result = trainer.run_baseline(config)
        else:
            reporter = TrialReporter(orchestrator, job.trial, job.attempt)
            result = trainer.run(config, reporter, should_pause=orchestrator.paused.is_set)
        return Done(
            trial=job.trial,
            attempt=job.attempt,
            status=result.status,
            best=result.best,
            final_val_loss=result.final_val_loss,
        )
    except Exception as error:  # whatever it is, the orchestrator decides what becomes of the trial
        traceback.print_exc()
        where = traceback.extract_tb(error.__traceback__)[-1]
        return Failed(
            trial=job.trial,
            attempt=job.attempt,
            kind=_kind(error),
            error=f"{type(error).__name__}: {error}",
            where=f"{type(error).__name__} at {where.filename}:{where.lineno}",
            trace="".join(traceback.format_exception(error))[-LONGEST_TRACE:],
        )


def _kind(error: Exception) -> Any:
    if isinstance(error, ConfigError | StoreError) or type(error).__name__ == "OutOfMemoryError":
        return "infeasible"
    return (
        "diverged"
        if isinstance(error, FloatingPointError) or type(error).__name__ == "Diverged"
        else "error"
    )


def _clean() -> None:
    """Leave nothing of a trial behind but the imports.

    `run` itself sets seeds and threads, and builds its own model.
    """
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def die_with_parent() -> None:
    """Ask Linux for SIGKILL when the orchestrator dies; elsewhere the end of the link does it."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main(argv: Sequence[str]) -> None:
    """Entry point; returns never."""
    die_with_parent()
    parser = argparse.ArgumentParser(prog="csm_ft.sweep.worker")
    parser.add_argument(
        "--link", type=int, required=True, help="file descriptor of the socket to the orchestrator"
    )
    parser.add_argument("--trainer", required=True, help="module with run and run_baseline")
    arguments = parser.parse_args(argv)
    link = socket.socket(fileno=arguments.link)
    link.set_inheritable(False)
    orchestrator = Orchestrator(link)
    work(orchestrator, importlib.import_module(arguments.trainer))


if __name__ == "__main__":
    main(sys.argv[1:])
