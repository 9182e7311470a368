"""The broker.

Keeps workers alive and busy, brings a dead worker's trial to another one, and writes everything
down through the study.

One thread, one loop. A worker is noticed dead by the end of its link, within milliseconds.
"""

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from csm_ft.config import ConfigError
from csm_ft.console import console
from csm_ft.sweep.display import Display
from csm_ft.sweep.messages import (
    BASELINE,
    FROM_WORKER,
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
from csm_ft.sweep.slots import Slot
from csm_ft.sweep.study import SweepError, SweepStudy, TrialRecord, best_of
from csm_ft.sweep.trials import Configs

ROOT = Path(__file__).resolve().parents[2]
TICK_SEC = 0.5
PAUSE_SEC = 60  # to save and come back; after that a trial goes on from its last checkpoint
SAME_BUG_TRIALS = (
    3  # so many trials ended by the same line, with none that ran well: it is the code
)
FAILED_STARTS = 3  # workers in a row that never got as far as importing the trainer


class SweepAborted(RuntimeError):
    """The sweep cannot go on, and not by a mistake in the options.

    The message holds the one traceback.
    """


class Worker:
    """One worker process in its slot, and what it is doing."""

    def __init__(self, slot: Slot, trainer: str, log: Path) -> None:
        self.slot = slot
        self.link, theirs = socket.socketpair()
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {
            **os.environ,
            **slot.environment,
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONUNBUFFERED": "1",
        }
        log.parent.mkdir(parents=True, exist_ok=True)
        with theirs, log.open("ab") as output:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "csm_ft.sweep.worker",
                    "--link",
                    str(theirs.fileno()),
                    "--trainer",
                    trainer,
                ],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self.is_ready = False
        self.job: tuple[int, int] | None = None  # (trial, attempt)
        self.began_sec = 0.0
        self._buffer = b""

    def lines(self) -> list[bytes] | None:
        """Return the messages that have arrived; None when the worker is gone."""
        try:
            received = self.link.recv(1 << 16)
        except ConnectionError:
            received = b""
        if not received:
            return None
        *lines, self._buffer = (self._buffer + received).split(b"\n")
        return lines

    def kill(self) -> str:
        """End the process and all it started; return how it ended, in words."""
        if self.process.poll() is None and self.job is None:
            with contextlib.suppress(OSError):
                self.link.shutdown(socket.SHUT_WR)  # idle: it leaves by itself, quietly
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=1)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        code = self.process.wait()
        self.link.close()
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


@dataclass
class Faults:
    """Worker deaths of one trial since it last got any further."""

    slots: list[str] = field(default_factory=list)
    furthest_examples: int = -1  # when the last of them happened
    reached_examples: int = -1  # ever

    def add(self, slot: str) -> None:
        """Count a death; progress since the last one forgives those before."""
        if self.reached_examples > self.furthest_examples:
            self.slots.clear()
        self.furthest_examples = self.reached_examples
        self.slots.append(slot)

    def is_poison(self, max_attempts: int) -> bool:
        """Tell whether the trial is to be set aside.

        Two deaths in two slots prove little, as someone may have killed all workers.
        """
        return len(self.slots) >= max_attempts


class Broker:
    """Runs the study to its end on the given slots.

    `run` returns, `stop` may be called from a signal handler.
    """

    def __init__(
        self,
        study: SweepStudy,
        configs: Configs,
        slots: Sequence[Slot],
        *,
        trainer: str,
        display: Display,
        on_ended: Callable[[TrialRecord], None],
    ) -> None:
        self._study, self._configs, self._slots, self._trainer = study, configs, slots, trainer
        self._display, self._on_ended = display, on_ended
        self._sweep = configs.sweep
        self._selector = selectors.DefaultSelector()
        self._workers: list[Worker] = []
        self._again: deque[int] = deque(
            study.running
        )  # begun before: adopted, or taken from a dead worker
        self._later: deque[int] = deque()  # ended by an exception while no trial has run well yet
        self._deaths: dict[int, Faults] = {}
        self._bugs: dict[str, set[int]] = {}
        self._failed_starts = 0
        self._num_good = sum(record.is_good for record in study.records())
        self._best = best_of(study.records())
        self._stop_requests = 0

    def stop(self) -> None:
        """Ask for the end: the first time trials save and come back, the second time at once."""
        self._stop_requests += 1

    def run(self) -> Literal["finished", "interrupted"]:
        """Dispatch until all trials have ended or `stop` was called; no worker is alive afterwards.

        Raises SweepAborted or SweepError; running trials stay in the study and are taken up again
        by the next run.
        """
        try:
            while not self._stop_requests:
                self._dispatch()
                if not any(worker.job for worker in self._workers) and not self._has_work():
                    return "finished"
                self._listen()
            self._pause()
            return "interrupted"
        finally:
            for worker in self._workers:
                self._add_seconds(worker)
                worker.kill()
            self._selector.close()

    def _has_work(self) -> bool:
        return bool(
            self._study.baseline is None
            or self._again
            or self._later
            or self._study.num_started < self._sweep.n_trials
        )

    def _dispatch(self) -> None:
        """Start workers where they are needed, and give the ready ones something to do."""
        num_jobs = sum(
            worker.job is not None and worker.job[0] != BASELINE for worker in self._workers
        )
        num_open = (
            num_jobs
            + len(self._again)
            + len(self._later)
            + max(0, self._sweep.n_trials - self._study.num_started)
        )
        taken = {worker.slot.name for worker in self._workers}
        for slot in self._slots:
            if slot.name not in taken and len(self._workers) < num_open:
                self._start(slot)
        for worker in self._workers:
            if worker.is_ready and worker.job is None:
                self._give_job(worker)
        self._display.update(num_jobs, self._best)

    def _start(self, slot: Slot) -> None:
        worker = Worker(slot, self._trainer, self._log(slot))
        self._workers.append(worker)
        self._selector.register(worker.link, selectors.EVENT_READ, worker)
        self._study.event("worker started", slot=slot.name, pid=worker.process.pid)

    def _give_job(self, worker: Worker) -> None:
        if self._study.baseline is None:
            if not any(w.job and w.job[0] == BASELINE for w in self._workers):
                self._send_job(
                    worker, BASELINE, 1, self._configs.baseline().model_dump(mode="json")
                )
            return
        while worker.job is None and (number := self._next_trial()) is not None:
            attempt = self._study.begin_attempt(number, worker.slot.name)
            try:
                threads = self._study.attribute(number, "threads", self._configs.threads)
                config = self._configs.trial(number, self._study.params(number), threads=threads)
            except ConfigError as error:
                self._end(self._study.finish(number, "infeasible", reason=str(error)))
                continue
            self._send_job(worker, number, attempt, config.model_dump(mode="json"))

    def _next_trial(self) -> int | None:
        """Return the next trial to run.

        First what was begun, then a new one, last what raised before any trial had run well.
        """
        if self._again:
            return self._again.popleft()
        if self._study.num_started < self._sweep.n_trials:
            return self._study.ask()
        return self._later.popleft() if self._later else None

    def _send_job(
        self, worker: Worker, number: int, attempt: int, config: dict[str, object]
    ) -> None:
        worker.job, worker.began_sec = (number, attempt), time.monotonic()
        self._study.event("dispatched", trial=number, attempt=attempt, slot=worker.slot.name)
        _send(worker, RunTrial(trial=number, attempt=attempt, config=config))

    def _listen(self) -> None:
        for key, _ in self._selector.select(timeout=TICK_SEC):
            worker: Worker = key.data
            lines = worker.lines()
            if lines is None:
                self._died(worker)
                continue
            for line in lines:
                try:
                    self._handle(worker, FROM_WORKER.validate_json(line))
                except ValidationError as error:
                    self._study.event(
                        "not a message", slot=worker.slot.name, error=str(error)[:500]
                    )
                    self._died(worker)
                    break

    def _handle(
        self, worker: Worker, message: Ready | Progress | Validated | Done | Failed
    ) -> None:
        if isinstance(message, Ready):
            worker.is_ready, self._failed_starts = True, 0
            return
        if worker.job != (message.trial, message.attempt):
            return  # of an attempt that is over
        number = message.trial
        if isinstance(message, Progress):
            self._reached(number, message.examples)
        elif isinstance(message, Validated):
            self._reached(number, message.examples)
            go_on = self._study.validated(number, message.examples, message.val_loss)
            _send(
                worker,
                Answer(
                    trial=number, attempt=message.attempt, examples=message.examples, go_on=go_on
                ),
            )
        elif isinstance(message, Done):
            self._done(worker, message)
        else:
            self._failed(worker, message)

    def _reached(self, number: int, examples: int) -> None:
        faults = self._deaths.setdefault(number, Faults())
        faults.reached_examples = max(faults.reached_examples, examples)

    def _done(self, worker: Worker, message: Done) -> None:
        number = message.trial
        self._release(worker)
        if number == BASELINE:
            if message.final_val_loss is None:
                raise SweepAborted(
                    "the untrained model's validation loss is not finite; see the log of the worker"
                    " in workers/"
                )
            self._study.set_baseline(message.final_val_loss)
            console.print(
                f"the untrained model: val_loss {message.final_val_loss:.4f} nats per frame"
            )
        elif message.status == "interrupted":
            self._study.event("interrupted", trial=number)
            self._again.append(number)
        elif message.status == "completed" and not message.best:
            reason = (
                "no validation after the first rung: the run is too short; use more --n_epochs or a"
                " later rung"
            )
            self._end(self._study.finish(number, "infeasible", reason=reason))
        else:
            record = self._study.finish(
                number, message.status, best=message.best, final_value=message.final_val_loss
            )
            self._again.extend(self._later)  # the code works, so these deserve another attempt
            self._later.clear()
            self._end(record)

    def _failed(self, worker: Worker, message: Failed) -> None:
        """A run raised: a state of the trial, a mistake in the options, or a bug."""
        number = message.trial
        self._release(worker)
        self._study.event(
            "failed",
            trial=number,
            attempt=message.attempt,
            what=message.kind,
            error=message.error,
            where=message.where,
        )
        if number == BASELINE:
            if message.kind == "infeasible":
                raise SweepError(message.error.partition(": ")[2])
            raise SweepAborted(f"the untrained model cannot be measured:\n{message.trace}")
        if message.kind != "diverged":
            self._bugs.setdefault(message.where, set()).add(number)
            if not self._num_good and len(self._bugs[message.where]) >= min(
                SAME_BUG_TRIALS, self._sweep.n_trials
            ):
                raise SweepAborted(
                    f"{len(self._bugs[message.where])} trials ended by the same line, none has run"
                    f" well:\n{message.trace}"
                )
        if message.kind != "error":
            self._end(self._study.finish(number, message.kind, reason=message.error))
            return
        self._retire(worker)  # what raised may have left anything behind
        self._again_or_poison(number, worker.slot.name, message.error, is_urgent=self._num_good > 0)

    def _died(self, worker: Worker) -> None:
        job, was_ready = worker.job, worker.is_ready
        self._release(worker)
        how = self._retire(worker)
        self._study.event(
            "worker died", slot=worker.slot.name, how=how, trial=job[0] if job else None
        )
        if not was_ready:
            self._failed_starts += 1
            if self._failed_starts >= FAILED_STARTS:
                raise SweepAborted(
                    f"no worker gets as far as importing the trainer ({how}). The end of its"
                    f" log:\n{self._log_end(worker.slot)}"
                )
        if job is None:
            return
        if job[0] == BASELINE:
            faults = self._deaths.setdefault(BASELINE, Faults())
            faults.add(worker.slot.name)
            if len(faults.slots) >= self._sweep.max_attempts:
                raise SweepAborted(
                    f"workers die measuring the untrained model ({how}). The end of a"
                    f" log:\n{self._log_end(worker.slot)}"
                )
        else:
            self._again_or_poison(job[0], worker.slot.name, f"worker {how}")

    def _again_or_poison(
        self, number: int, slot: str, reason: str, *, is_urgent: bool = True
    ) -> None:
        faults = self._deaths.setdefault(number, Faults())
        faults.add(slot)
        if faults.is_poison(self._sweep.max_attempts):
            where = ", ".join(dict.fromkeys(faults.slots))
            self._end(
                self._study.finish(
                    number,
                    "poison",
                    reason=f"{reason}; {len(faults.slots)} times without progress, on {where}",
                )
            )
        elif is_urgent:
            self._again.appendleft(number)
        else:
            self._later.append(
                number
            )  # new trials first: if they end by the same line, it is the code

    def _end(self, record: TrialRecord) -> None:
        self._study.event(
            "ended",
            trial=record.number,
            state=record.state,
            value=record.value,
            reason=record.reason,
        )
        self._num_good += record.is_good
        self._best = best_of(self._study.records())
        self._display.ended(record, self._best)
        self._on_ended(record)

    def _release(self, worker: Worker) -> None:
        """Take the job off a worker, counting its time."""
        self._add_seconds(worker)
        worker.job = None

    def _add_seconds(self, worker: Worker) -> None:
        if worker.job and worker.job[0] != BASELINE:
            self._study.add_seconds(worker.job[0], time.monotonic() - worker.began_sec)

    def _retire(self, worker: Worker) -> str:
        self._selector.unregister(worker.link)
        self._workers.remove(worker)
        return worker.kill()

    def _pause(self) -> None:
        """Let running trials save and come back; the second request, or patience, ends the wait."""
        deadline_sec = time.monotonic() + PAUSE_SEC
        for worker in self._workers:
            if worker.job and worker.job[0] != BASELINE:
                _send(worker, Pause())
        while (
            self._stop_requests < 2
            and time.monotonic() < deadline_sec
            and any(w.job and w.job[0] != BASELINE for w in self._workers)
        ):
            self._listen()

    def _log(self, slot: Slot) -> Path:
        return self._configs.out / "workers" / f"{slot.name}.log"

    def _log_end(self, slot: Slot) -> str:
        return "\n".join(
            self._log(slot).read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
        )


def _send(worker: Worker, message: RunTrial | Answer | Pause) -> None:
    with contextlib.suppress(OSError):  # it is dead: the end of its link says so in the next round
        send(worker.link, message)
