"""The broker keeps workers alive and busy, and brings a dead worker's trial to another one.

One thread, one loop; everything is written down through the study. A worker is noticed dead by the
end of its link, within milliseconds.
"""

import contextlib
import selectors
import time
from collections.abc import Callable, Sequence
from typing import Literal

from csm_ft.console import console
from csm_ft.errors import ConfigError, MachineError, SweepError
from csm_ft.sweep.link import LinkClosed, NotAMessage
from csm_ft.sweep.messages import (
    BASELINE,
    Alive,
    Answer,
    Done,
    FromWorker,
    Pause,
    Progress,
    Ready,
    Validated,
)
from csm_ft.sweep.outcomes import Outcomes, Watcher
from csm_ft.sweep.packing import Packing
from csm_ft.sweep.records import Objective
from csm_ft.sweep.study import SweepStudy
from csm_ft.sweep.trials import Configs
from csm_ft.sweep.watchdog import Watchdog, wake
from csm_ft.sweep.worker_process import Job, Slot, Worker, describe_exit

TICK_SEC = 0.5
PAUSE_SEC = 60  # for running trials to save; after that they resume from their last checkpoint


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
        limit: Callable[[float], str] = lambda _running_sec: "",
    ) -> None:
        """`check_data` raises SweepError when the token file is not what the study is about.

        `limit` is given the seconds of running attempts, and returns why the sweep has to end.
        """
        self._study, self._configs = study, configs
        self._trainer, self._watcher, self._check_data = trainer, watcher, check_data
        self._limit = limit
        self._outcomes = Outcomes(study, configs, objective, watcher)
        self._watchdog = Watchdog(configs.sweep.hang_sec)
        machine, sweep = configs.machine, configs.sweep
        self._packing = Packing(machine.slots, is_auto=sweep.is_packing)
        self._selector = selectors.DefaultSelector()
        self._workers: list[Worker] = []
        self._stop_requests = 0

    def stop(self) -> None:
        """Ask for the end: the first time trials are saved, the second time it comes at once."""
        self._stop_requests += 1

    def run(self) -> Literal["finished", "interrupted", "limited"]:
        """Dispatch until all trials have ended, or until `stop` or a limit; no worker is left.

        Raises SweepAborted or SweepError; running trials stay in the study and are resumed by the
        next run.
        """
        try:
            if self._study.baseline is not None:
                self._outcomes.check_disk()
            while not self._stop_requests:
                self._dispatch()
                if not self._has_work() and not any(worker.job for worker in self._workers):
                    return "finished"
                self._listen()
                running_sec = sum(w.seconds() for w in self._workers if w.trial is not None)
                if reason := self._limit(running_sec):
                    self._study.why_ended = reason
                    self._pause()
                    return "interrupted" if self._stop_requests else "limited"
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
        return self._study.baseline is None or len(self._outcomes.waiting) > 0

    def _dispatch(self) -> None:
        """Start workers where they are needed, and give the ready ones something to do."""
        if not self._outcomes.may_dispatch():
            return
        self._share_gpus()
        slots = self._slots()
        num_running = sum(worker.trial is not None for worker in self._workers)
        waiting = self._outcomes.waiting
        num_wanted = num_running + len(waiting) + waiting.num_barred
        taken = {worker.slot.name for worker in self._workers}
        spent = {worker.slot.process for worker in self._workers if worker.is_spent}
        for slot in slots:
            is_free = slot.name not in taken and slot.process not in spent
            if is_free and len(self._workers) < num_wanted:
                self._start(slot)
        for worker in self._workers:
            if worker.is_ready and worker.job is None:
                self._check_data()
                self._give_job(worker)
        self._watcher.update(num_running, self._outcomes.best)

    def _slots(self) -> Sequence[Slot]:
        """Return the slots that can be used now, and let the bookkeeping know of them."""
        slots = [slot for slot in self._configs.machine.slots if self._packing.admits(slot)]
        self._outcomes.slots_are(slots)
        usable = self._outcomes.health.usable
        return [slot for slot in slots if slot.process in usable]

    def _share_gpus(self) -> None:
        """Raise or lower the number of workers that share a GPU, where that is to be found out."""
        self._note(self._packing.update())
        for worker in list(self._workers):
            is_wanted = self._packing.admits(worker.slot) and not worker.is_spent
            if worker.job is None and not is_wanted:
                self._retire(worker)

    def _note(self, text: str) -> None:
        if text:
            self._study.event("note", text=text)
            console.print(text, markup=False)

    def _start(self, slot: Slot) -> None:
        log = self._configs.folder.workers / f"{slot.process}.log"
        worker = self._configs.machine.start(slot, self._trainer, log)
        self._workers.append(worker)
        self._selector.register(worker.link, selectors.EVENT_READ, worker)
        self._watchdog.began(worker)
        self._study.event("worker started", slot=slot.name, **worker.identity())

    def _give_job(self, worker: Worker) -> None:
        if self._study.baseline is None:
            if not any(w.job and w.job.trial == BASELINE for w in self._workers):
                config = self._configs.baseline().model_dump(mode="json")
                self._send_job(worker, Job(BASELINE, 1), config)
            return
        slot, waiting = worker.slot, self._outcomes.waiting
        shared = [w for w in self._workers if w.slot.process == slot.process]
        beside = [w.trial for w in shared if w.trial is not None]
        while worker.job is None and (number := waiting.next(slot.process, beside)) is not None:
            attempt = self._study.begin_attempt(number, slot.name)
            try:
                # The threads it began with: a resumed trial must compute the same numbers.
                threads = self._study.attribute(number, "threads", self._configs.machine.threads)
                params = {"seed": self._study.seed(number)} | self._study.params(number)
                config = self._configs.trial(number, params, threads=threads)
                fits = self._study.facts.micro_batch_tokens(config.micro_batch_tokens)
                config = config.replace(micro_batch_tokens=fits)
            except ConfigError as error:
                record = self._study.finish(number, "infeasible", reason=str(error))
                self._outcomes.end(record)
                continue
            self._send_job(worker, Job(number, attempt), config.model_dump(mode="json"))

    def _send_job(self, worker: Worker, job: Job, config: dict[str, object]) -> None:
        self._study.event("dispatched", trial=job.trial, attempt=job.attempt, slot=worker.slot.name)
        worker.start(job, config)
        self._watchdog.began(worker)

    # Taking in what workers report

    def _listen(self) -> None:
        for key, _ in self._selector.select(timeout=TICK_SEC):
            worker: Worker = key.data
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

    def _handle(self, worker: Worker, message: FromWorker) -> None:
        if isinstance(message, Ready):
            worker.is_ready = True
            self._outcomes.health.is_ready(worker.slot.process)
            return
        if worker.job != (message.trial, message.attempt):
            return  # of an attempt that is over
        self._watchdog.heard(worker, message)
        if isinstance(message, Alive):
            return
        if isinstance(message, Progress):
            self._outcomes.stepped(worker, message.trial, message.examples)
            self._packing.stepped(worker.slot, message.trial, message.examples)
        elif isinstance(message, Validated):
            self._validated(worker, message)
        elif isinstance(message, Done):
            self._release(worker)
            self._outcomes.done(message)
        else:
            self._release(worker)
            crowded = message.kind == "out_of_memory" and self._packing.out_of_memory()
            if crowded:
                self._note(crowded)
                self._outcomes.waiting.put_first(message.trial)
            elif self._outcomes.failed(message, worker) or message.is_leaving:
                self._retire(worker)

    def _validated(self, worker: Worker, message: Validated) -> None:
        number, examples = message.trial, message.examples
        self._outcomes.stepped(worker, number, examples)
        may_continue = self._study.validated(number, examples, message.metrics)
        worker.send(
            Answer(
                trial=number,
                attempt=message.attempt,
                examples=examples,
                may_continue=may_continue,
            )
        )

    def _died(self, worker: Worker) -> None:
        job, was_ready, worker.is_dead = worker.job, worker.is_ready, True
        self._release(worker)
        code = self._retire(worker)
        how = describe_exit(code)
        trial = job.trial if job else None
        self._study.event("worker died", slot=worker.slot.name, how=how, trial=trial)
        if worker.problem:
            raise SweepError(worker.problem)
        if worker.is_lost:
            self._outcomes.lost(worker, trial)
            return
        if not was_ready and not any(w.slot.process == worker.slot.process for w in self._workers):
            self._outcomes.start_failed(worker, code)
        if job is not None:
            self._outcomes.died(worker, job.trial, code)

    # Ending workers

    def _release(self, worker: Worker) -> None:
        """Take the job off a worker, counting its time."""
        self._add_seconds(worker)
        worker.job = None

    def _add_seconds(self, worker: Worker) -> None:
        if worker.trial is not None:
            self._study.add_seconds(worker.trial, worker.seconds())

    def _retire(self, worker: Worker) -> int:
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
