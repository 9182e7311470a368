"""A warm worker: imports the trainer once and runs trial after trial through train.py's `run`.

Started by the orchestrator as `python -m csm_ft.sweep.worker --trainer MODULE --links FD...`, with
its GPU and threads set in the environment before anything is imported. It dies with the
orchestrator, whatever kills that. With several links it runs several trials at a time, each in a
thread, a lane, of its own.
"""

import argparse
import contextlib
import faulthandler
import gc
import importlib
import math
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from csm_ft.atomic import disk_errors
from csm_ft.errors import (
    NEEDS_LESS_MEMORY,
    ConfigError,
    Diverged,
    OutOfMemoryError,
    UserError,
)
from csm_ft.evaluate.metrics import METRICS
from csm_ft.families import build_config
from csm_ft.sweep.link import Link, LinkClosed
from csm_ft.sweep.messages import (
    BASELINE,
    TO_WORKER,
    Alive,
    Answer,
    Doing,
    Done,
    Failed,
    FromWorker,
    Kind,
    Pause,
    Progress,
    Ready,
    RunTrial,
    ToWorker,
    Validated,
    as_metrics,
)
from csm_ft.sweep.team import Team, is_follower, is_leader

PROGRESS_EVERY_SEC = 0.2
ALIVE_EVERY_SEC = 1.0
LONGEST_TRACE = 20_000  # characters of a traceback that are sent on


class Orchestrator:
    """The other end of a link; a thread reads it, so that its end is noticed in mid-step."""

    def __init__(self, link: Link[ToWorker]) -> None:
        self.paused = threading.Event()
        self._link = link
        self._is_idle = False
        self._messages: queue.SimpleQueue[RunTrial | Answer | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True, name="orchestrator").start()

    def send(self, message: FromWorker) -> None:
        """Send one message."""
        self._link.send(message)

    def offer(self, message: Ready | Done | Failed) -> None:
        """Send a message after which the next job is waited for."""
        self._is_idle = True
        self._link.send(message)

    def receive(self) -> RunTrial | Answer | None:
        """Wait for the next message and return it; None when there will be no other job."""
        return self._messages.get()

    def _read(self) -> None:
        try:
            while True:
                message = self._link.receive()
                if isinstance(message, Pause):
                    self.paused.set()
                else:
                    self._is_idle = False
                    self._messages.put(message)
        except LinkClosed:
            # The orchestrator is gone, or wants this worker gone: leave at once, in the middle of
            # a step. Checkpoints are replaced as a whole, so none is torn.
            if not self._is_idle:
                os._exit(0)
            self._messages.put(None)  # other lanes may go on


class TrialReporter:
    """Reports one attempt at one run to the orchestrator (train.Reporter)."""

    def __init__(self, orchestrator: Orchestrator, job: RunTrial) -> None:
        self._orchestrator, self._job = orchestrator, job
        self._metric: str = job.config["best_by"]
        self._last_sec = 0.0
        self.doing: Doing = "loading"
        self._alive_sec = time.monotonic()

    def alive(self, doing: Doing | None = None) -> None:
        """Report what begins now, or from time to time that what has begun still runs."""
        if doing is None and time.monotonic() - self._alive_sec < ALIVE_EVERY_SEC:
            return
        self.doing, self._alive_sec = doing or self.doing, time.monotonic()
        trial, attempt = self._job.trial, self._job.attempt
        self._orchestrator.send(Alive(trial=trial, attempt=attempt, doing=self.doing))

    def progress(self, step: int, examples: int) -> None:
        """Report how far the trial is, a few times a second at most."""
        if time.monotonic() - self._last_sec >= PROGRESS_EVERY_SEC:
            self.doing, self._last_sec = "training", time.monotonic()
            trial, attempt = self._job.trial, self._job.attempt
            self._orchestrator.send(
                Progress(trial=trial, attempt=attempt, step=step, examples=examples)
            )

    def validated(self, examples: int, metrics: Mapping[str, float]) -> bool:
        """Report a validation and wait until the study has written it down and decided."""
        if self._job.trial == BASELINE:
            return True
        if self._metric in METRICS and self._metric not in metrics:
            return True  # a validation that was not judged: there is nothing to compare
        check_measured(self._metric, metrics)
        if not math.isfinite(metrics[self._metric]):
            raise FloatingPointError(f"{self._metric} after {examples} examples is not finite")
        self._orchestrator.send(
            Validated(
                trial=self._job.trial,
                attempt=self._job.attempt,
                examples=examples,
                metrics=as_metrics(metrics),
            )
        )
        answer = self._orchestrator.receive()
        assert isinstance(answer, Answer), f"expected an answer, got {answer}"
        assert answer.examples == examples, (
            f"expected an answer for {examples} examples, got {answer}"
        )
        self.doing = "training"
        return answer.may_continue


class FollowerReporter(TrialReporter):
    """Knows what the run does here: the first rank reports it."""

    def alive(self, doing: Doing | None = None) -> None:
        """Take note of what begins."""
        self.doing = doing or self.doing

    def progress(self, step: int, examples: int) -> None:
        """Take note that this is training."""
        self.doing = "training"

    def validated(self, examples: int, metrics: Mapping[str, float]) -> bool:
        """Let the first rank decide."""
        return True


def check_measured(metric: str, metrics: Mapping[str, float]) -> None:
    """Raise ConfigError when a validation does not measure what trials are compared by."""
    if metric not in metrics:
        raise ConfigError(
            f"best_by {metric!r} is not among the validation metrics; choose among"
            f" {', '.join(metrics)}"
        )


def work(
    orchestrator: Orchestrator, trainer: Any, *, team: Team | None = None, lanes: Any = None
) -> None:
    """Run one job after the other, with the other ranks or beside other lanes.

    Returns when the link ends between two jobs; in the middle of one that ends the process.
    """
    if team:
        team.wait_until_ready()
    orchestrator.offer(Ready())
    while job := orchestrator.receive():
        assert isinstance(job, RunTrial), f"expected a trial, got {job}"
        with contextlib.suppress(OSError):  # the log may be on a full disk, as may the trial
            print(f"\n== trial {job.trial}, attempt {job.attempt}", flush=True)
        if team:
            team.begin(job)
        outcome = _run(orchestrator, trainer, job, lanes)
        orchestrator.offer(team.end(outcome) if team else outcome)
        _clean()


def _run(orchestrator: Orchestrator, trainer: Any, job: RunTrial, lanes: Any) -> Done | Failed:
    reporter = (FollowerReporter if is_follower() else TrialReporter)(orchestrator, job)
    if job.port:
        os.environ["MASTER_PORT"] = str(job.port)
    try:
        config = build_config(job.config)
        with disk_errors(Path(config.output_dir)):
            if job.trial == BASELINE:
                result = trainer.run_baseline(config, reporter)
                check_measured(config.best_by, result.metrics)
            else:
                should_pause = orchestrator.paused.is_set
                result = trainer.run(config, reporter, should_pause=should_pause, lanes=lanes)
        return Done(
            trial=job.trial,
            attempt=job.attempt,
            status=result.status,
            best=result.best,
            metrics=as_metrics(result.metrics),
            reason=result.reason,
        )
    except Exception as error:  # whatever it is, the orchestrator decides what becomes of the trial
        with contextlib.suppress(OSError):
            traceback.print_exc()
        where = traceback.extract_tb(error.__traceback__)[-1]
        name = type(error).__name__
        kind, positions, message = _kind(error), 0, str(error)
        if _is_out_of_memory(error):
            positions = _positions(error, job, reporter.doing)
            kind = "out_of_memory"
            if not positions and not isinstance(error, OutOfMemoryError):
                message = f"{message} (in {reporter.doing}); {NEEDS_LESS_MEMORY}"
        return Failed(
            trial=job.trial,
            attempt=job.attempt,
            kind=kind,
            positions=positions,
            name=name,
            message=message,
            where=f"{name} at {where.filename}:{where.lineno}",
            trace="".join(traceback.format_exception(error))[-LONGEST_TRACE:],
        )


def _kind(error: Exception) -> Kind:
    if isinstance(error, UserError):
        return "infeasible" if error.fault == "options" else "outside"
    if isinstance(error, Diverged | FloatingPointError):
        return "diverged"
    return "error"


def _is_out_of_memory(error: Exception) -> bool:
    torch = sys.modules.get("torch")  # a trainer without torch cannot run out of its memory
    is_torchs = torch is not None and isinstance(error, torch.OutOfMemoryError)
    return is_torchs or isinstance(error, OutOfMemoryError)


def _positions(error: Exception, job: RunTrial, doing: Doing) -> int:
    """Return the size of the micro-batch that did not fit; 0 where a smaller one is no help."""
    if isinstance(error, OutOfMemoryError):
        return error.positions
    # Validations and samples have batches of their own.
    is_training = doing in ("loading", "training", "saving")
    return job.config["micro_batch_tokens"] if is_training else 0


def _clean() -> None:
    """Free what a trial leaves behind; `run` itself sets seeds and threads and builds its model."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _work_side_by_side(orchestrators: Sequence[Orchestrator], trainer: Any) -> None:
    """Run the lanes; return when all of their links have ended between two jobs."""
    lanes = trainer.make_lanes()

    def lane(orchestrator: Orchestrator) -> None:
        try:
            with contextlib.suppress(LinkClosed):
                work(orchestrator, trainer, lanes=lanes)
        except BaseException:
            traceback.print_exc()
            os._exit(1)  # a bug: the orchestrator would wait for this lane

    threads = [threading.Thread(target=lane, args=(one,)) for one in orchestrators]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main(argv: Sequence[str]) -> None:
    """Entry point; ends the process."""
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # to the log: see watchdog.py
    parser = argparse.ArgumentParser(prog="csm_ft.sweep.worker")
    parser.add_argument(
        "--links",
        type=int,
        nargs="+",
        required=True,
        help="file descriptors of the links to the orchestrator",
    )
    parser.add_argument("--trainer", required=True, help="module with run and run_baseline")
    arguments = parser.parse_args(argv)
    links = [Link[ToWorker].attach(one, TO_WORKER) for one in arguments.links]
    orchestrators = [Orchestrator(link) for link in links]
    first = orchestrators[0]
    team = Team(arguments.trainer, first.send) if is_leader() else None
    trainer = importlib.import_module(arguments.trainer)
    if len(orchestrators) > 1:
        _work_side_by_side(orchestrators, trainer)
    else:
        work(first, trainer, team=team)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
