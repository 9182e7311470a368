"""The broker keeps workers alive and busy, and brings a dead worker's trial to another one.

One thread, one loop; everything is written down through the study. A worker is noticed dead by the
end of its link, within milliseconds.
"""

import contextlib
import selectors
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from csm_ft.console import console
from csm_ft.errors import ConfigError, MachineError, SweepAborted, SweepError
from csm_ft.evaluate.metrics import METRICS
from csm_ft.sweep.constraints import check_measured
from csm_ft.sweep.faults import Faults
from csm_ft.sweep.link import LinkClosed, NotAMessage
from csm_ft.sweep.messages import (
    BASELINE,
    Alive,
    Answer,
    Done,
    Failed,
    FromWorker,
    Pause,
    Progress,
    Ready,
    Validated,
)
from csm_ft.sweep.records import Objective, TrialRecord, best_of
from csm_ft.sweep.slots import Slot
from csm_ft.sweep.study import SweepStudy
from csm_ft.sweep.trials import Configs
from csm_ft.sweep.watchdog import Watchdog, wake
from csm_ft.sweep.worker_process import Job, WorkerProcess, describe_exit

TICK_SEC = 0.5
PAUSE_SEC = 60  # for running trials to save; after that they resume from their last checkpoint
# Workers in a row that never got as far as importing the trainer, before the sweep ends: those that
# left by themselves, and all of them, the killed ones included.
FAILED_STARTS, KILLED_STARTS = 3, 30


class Watcher(Protocol):
    """Who follows the sweep: the terminal, the files of results, the page."""

    def ended(self, trial: TrialRecord, best: TrialRecord | None) -> None:
        """A trial has ended."""
        ...

    def update(self, num_running: int, best: TrialRecord | None) -> None:
        """Called now and then, and when something has changed."""
        ...


def has_run_well(record: TrialRecord) -> bool:
    """Tell whether the code ran to where a trial should end, whatever came of it."""
    return record.is_good or bool(record.violated)


class Broker:
    """Runs the study to its end on the machine's slots.

    `run` returns then; `stop` may be called from a signal handler.
    """

    def __init__(
        self,
        study: SweepStudy,
        configs: Configs,
        objective: Objective,
        *,
        trainer: str,
        watcher: Watcher,
        check_data: Callable[[], None],
    ) -> None:
        """`check_data` raises SweepError when the token file is not what the study is about."""
        self._study, self._configs, self._objective = study, configs, objective
        self._trainer, self._watcher, self._check_data = trainer, watcher, check_data
        self._sweep = configs.sweep
        self._faults = Faults(self._sweep.max_attempts, self._sweep.n_trials)
        self._watchdog = Watchdog(self._sweep.hang_sec)
        self._selector = selectors.DefaultSelector()
        self._workers: list[WorkerProcess] = []
        # Begun before: adopted from an earlier process, or taken from a dead worker.
        self._again: deque[int] = deque(study.running)
        # Ended by an exception while no trial has run well yet: new trials come first, since if
        # they end by the same line, it is the code.
        self._later: deque[int] = deque()
        self._failed_starts: list[int] = []  # exit codes, negative for signals
        self._num_good = sum(has_run_well(record) for record in study.records())
        self._best = best_of(study.records(), objective)
        self._stop_requests = 0

    def stop(self) -> None:
        """Ask for the end: the first time trials are saved, the second time it comes at once."""
        self._stop_requests += 1

    def run(self) -> Literal["finished", "interrupted"]:
        """Dispatch until all trials have ended or `stop` was called; no worker is alive afterwards.

        Raises SweepAborted or SweepError; running trials stay in the study and are resumed by the
        next run.
        """
        try:
            while not self._stop_requests:
                self._dispatch()
                if not self._has_work() and not any(worker.job for worker in self._workers):
                    return "finished"
                self._listen()
            self._pause()
            return "interrupted"
        finally:
            for worker in self._workers:
                worker.kill()
            self._selector.close()
            with contextlib.suppress(MachineError):  # a full disk: it is being told already
                for worker in self._workers:
                    self._add_seconds(worker)

    # Handing out work

    def _has_work(self) -> bool:
        return bool(self._study.baseline is None or self._num_open())

    def _num_open(self) -> int:
        """Return the number of trials that wait for a worker."""
        return len(self._again) + len(self._later) + self._study.num_new

    def _dispatch(self) -> None:
        """Start workers where they are needed, and give the ready ones something to do."""
        num_running = sum(worker.trial is not None for worker in self._workers)
        num_wanted = num_running + self._num_open()
        taken = {worker.slot.name for worker in self._workers}
        for slot in self._slots:
            if slot.name not in taken and len(self._workers) < num_wanted:
                self._start(slot)
        for worker in self._workers:
            if worker.is_ready and worker.job is None:
                self._check_data()
                self._give_job(worker)
        self._watcher.update(num_running, self._best)

    @property
    def _slots(self) -> Sequence[Slot]:
        return self._configs.machine.slots

    def _start(self, slot: Slot) -> None:
        log = self._configs.folder.workers / f"{slot.name}.log"
        worker = WorkerProcess(slot, self._trainer, log)
        self._workers.append(worker)
        self._selector.register(worker.link, selectors.EVENT_READ, worker)
        self._watchdog.began(worker)
        self._study.event("worker started", slot=slot.name, pid=worker.process.pid)

    def _give_job(self, worker: WorkerProcess) -> None:
        if self._study.baseline is None:
            if not any(w.job and w.job.trial == BASELINE for w in self._workers):
                config = self._configs.baseline().model_dump(mode="json")
                self._send_job(worker, Job(BASELINE, 1), config)
            return
        while worker.job is None and (number := self._next_trial()) is not None:
            attempt = self._study.begin_attempt(number, worker.slot.name)
            try:
                # The threads it began with: a resumed trial must compute the same numbers.
                threads = self._study.attribute(number, "threads", self._configs.machine.threads)
                params = {"seed": self._study.seed(number)} | self._study.params(number)
                config = self._configs.trial(number, params, threads=threads)
            except ConfigError as error:
                self._end(self._study.finish(number, "infeasible", reason=str(error)))
                continue
            self._send_job(worker, Job(number, attempt), config.model_dump(mode="json"))

    def _next_trial(self) -> int | None:
        """Return the next trial: one that has begun, then a new one, last those set back."""
        if self._again:
            return self._again.popleft()
        if self._study.num_new:
            return self._study.ask()
        return self._later.popleft() if self._later else None

    def _send_job(self, worker: WorkerProcess, job: Job, config: dict[str, object]) -> None:
        self._study.event("dispatched", trial=job.trial, attempt=job.attempt, slot=worker.slot.name)
        worker.start(job, config)
        self._watchdog.began(worker)

    # Taking in what workers report

    def _listen(self) -> None:
        for key, _ in self._selector.select(timeout=TICK_SEC):
            worker: WorkerProcess = key.data
            try:
                message = worker.link.receive()
            except LinkClosed:
                self._died(worker)
            except NotAMessage as error:
                event = {"slot": worker.slot.name, "error": str(error)[:500]}
                self._study.event("not a message", **event)
                self._died(worker)
            else:
                self._handle(worker, message)
        for worker in self._workers:
            self._watchdog.check(worker)

    def _handle(self, worker: WorkerProcess, message: FromWorker) -> None:
        if isinstance(message, Ready):
            worker.is_ready = True
            self._failed_starts.clear()
            return
        if worker.job != (message.trial, message.attempt):
            return  # of an attempt that is over
        self._watchdog.heard(worker, message)
        if isinstance(message, Alive):
            return
        if isinstance(message, Progress):
            self._faults.reached(message.trial, message.examples)
        elif isinstance(message, Validated):
            self._validated(worker, message)
        elif isinstance(message, Done):
            self._done(worker, message)
        else:
            self._failed(worker, message)

    def _validated(self, worker: WorkerProcess, message: Validated) -> None:
        number, examples = message.trial, message.examples
        self._faults.reached(number, examples)
        may_continue = self._study.validated(number, examples, message.metrics)
        worker.send(
            Answer(
                trial=number,
                attempt=message.attempt,
                examples=examples,
                may_continue=may_continue,
            )
        )

    def _done(self, worker: WorkerProcess, message: Done) -> None:
        number = message.trial
        self._release(worker)
        if number == BASELINE:
            self._measured_baseline(message)
        elif message.status == "interrupted":
            self._study.event("interrupted", trial=number)
            self._again.append(number)
        elif message.status == "completed" and not message.best:
            self._end(self._study.finish(number, "infeasible", reason=self._why_no_best()))
        else:
            final_value = message.metrics.get(self._objective.metric)
            record = self._study.finish(
                number,
                message.status,
                reason=message.reason,
                best=message.best,
                final_value=final_value,
            )
            self._again.extend(self._later)  # the code works, so these deserve another attempt
            self._later.clear()
            self._end(record)

    def _why_no_best(self) -> str:
        """Return why a trial that was trained to the end has no best validation."""
        metric = self._objective.metric
        if metric in METRICS:
            return f"{metric} could not be measured after the first rung: were the samples silent?"
        return (
            "no validation after the first rung: the run is too short; use more --n_epochs or a"
            " later rung"
        )

    def _measured_baseline(self, message: Done) -> None:
        metric = self._objective.metric
        value = message.metrics[metric]
        if value is None:
            raise SweepAborted(
                f"the untrained model's {self._objective.label} is not finite; see the log of the"
                f" worker in {self._configs.folder.workers}"
            )
        environment = self._configs.folder.baseline.read_environment()
        for line in environment.get("judges_missing", []):
            console.print(f"judges: {line}", style="yellow", markup=False)
        check_measured(self._sweep.constraints, message.metrics, environment)
        self._study.set_baseline(message.metrics)
        console.print(f"untrained model: {metric} {self._objective.write(value, digits=4)}")

    def _failed(self, worker: WorkerProcess, message: Failed) -> None:
        """Handle an exception: a state of the trial, a user's mistake, the machine, or a bug."""
        number = message.trial
        self._release(worker)
        self._study.event(
            "failed",
            trial=number,
            attempt=message.attempt,
            what=message.kind,
            error=message.reason,
            where=message.where,
        )
        if message.kind == "outside":
            console.print(
                "the sweep stops: this is not the trial's fault, and the others would meet it too."
                " Trials that have not ended stay open; the same command continues after the repair"
            )
            raise SweepError(message.message)
        if number == BASELINE:
            if message.kind == "infeasible":
                raise SweepError(message.message)
            raise SweepAborted(f"the untrained model cannot be measured:\n{message.trace}")
        if message.kind != "diverged" and not self._num_good:
            num_trials = self._faults.add_bug(number, message.where)
            if num_trials:
                raise SweepAborted(
                    f"{num_trials} trials ended by the same line, none has run"
                    f" well:\n{message.trace}"
                )
        if message.kind != "error":
            self._end(self._study.finish(number, message.kind, reason=message.reason))
            return
        self._retire(worker)  # what raised may have left anything behind
        self._retry_or_set_aside(
            number, worker.slot.name, message.reason, is_urgent=self._num_good > 0
        )

    def _died(self, worker: WorkerProcess) -> None:
        job, was_ready = worker.job, worker.is_ready
        self._release(worker)
        code = self._retire(worker)
        how = describe_exit(code)
        trial = job.trial if job else None
        self._study.event("worker died", slot=worker.slot.name, how=how, trial=trial)
        if not was_ready:
            self._failed_starts.append(code)
            # Whoever kills workers while they import says nothing about the trainer.
            num_by_themselves = sum(code >= 0 for code in self._failed_starts)
            if num_by_themselves >= FAILED_STARTS or len(self._failed_starts) >= KILLED_STARTS:
                raise SweepAborted(
                    f"no worker gets as far as importing the trainer ({how}). The end of its"
                    f" log:\n{worker.log_end()}"
                )
        if job is None:
            return
        if job.trial != BASELINE:
            self._retry_or_set_aside(job.trial, worker.slot.name, f"worker {how}")
        elif self._faults.add_death(BASELINE, worker.slot.name):
            raise SweepAborted(
                f"workers die measuring the untrained model ({how}). The end of a"
                f" log:\n{worker.log_end()}"
            )

    def _retry_or_set_aside(
        self, number: int, slot: str, reason: str, *, is_urgent: bool = True
    ) -> None:
        if self._faults.add_death(number, slot):
            reason = f"{reason}; {self._faults.describe(number)}"
            self._end(self._study.finish(number, "poison", reason=reason))
        elif is_urgent:
            self._again.appendleft(number)
        else:
            self._later.append(number)

    def _end(self, record: TrialRecord) -> None:
        self._study.event(
            "ended",
            trial=record.number,
            state=record.state,
            value=record.value,
            reason=record.reason,
        )
        self._num_good += has_run_well(record)
        self._best = best_of(self._study.records(), self._objective)
        self._watcher.ended(record, self._best)

    # Ending workers

    def _release(self, worker: WorkerProcess) -> None:
        """Take the job off a worker, counting its time."""
        self._add_seconds(worker)
        worker.job = None

    def _add_seconds(self, worker: WorkerProcess) -> None:
        if worker.trial is not None:
            self._study.add_seconds(worker.trial, worker.seconds())

    def _retire(self, worker: WorkerProcess) -> int:
        """Let go of a worker; return its exit code, negative for a signal."""
        self._selector.unregister(worker.link)
        self._workers.remove(worker)
        return worker.kill()

    def _pause(self) -> None:
        """Let running trials save; a second request, or the deadline, ends the wait."""
        deadline_sec = time.monotonic() + PAUSE_SEC
        for worker in self._workers:
            if worker.trial is not None:
                wake(worker)  # a stopped one could not save
                worker.send(Pause())
        while self._stop_requests < 2 and time.monotonic() < deadline_sec:
            if all(worker.trial is None for worker in self._workers):
                return
            self._listen()
