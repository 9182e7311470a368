"""What becomes of a trial, or of the sweep, when a run returns, fails, or its worker dies."""

from collections.abc import Sequence
from typing import Protocol

from csm_ft.console import console
from csm_ft.errors import NEEDS_LESS_MEMORY, SweepAborted, SweepError
from csm_ft.evaluate.metrics import METRICS
from csm_ft.runs.sizes import Sizes
from csm_ft.sweep.constraints import check_measured
from csm_ft.sweep.disk import check_disk, has_room, num_kept_weights
from csm_ft.sweep.faults import Faults
from csm_ft.sweep.messages import BASELINE, Done, Failed
from csm_ft.sweep.records import Objective, TrialRecord, best_of
from csm_ft.sweep.slot_health import FAILED_TRIALS, SlotHealth, is_killed
from csm_ft.sweep.study import SweepStudy
from csm_ft.sweep.trials import Configs
from csm_ft.sweep.waiting import Waiting
from csm_ft.sweep.worker_process import Slot, Worker, describe_exit


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


class Outcomes:
    """Decides, and writes down through the study what it decides.

    Raises SweepError where other trials would meet the same fault, and SweepAborted for bugs.
    """

    def __init__(
        self, study: SweepStudy, configs: Configs, objective: Objective, watcher: Watcher
    ) -> None:
        self._study, self._configs, self._objective = study, configs, objective
        self._watcher = watcher
        self._faults = Faults(configs.sweep.max_attempts, configs.sweep.n_trials)
        self._num_good = sum(has_run_well(record) for record in study.records())
        self.best = best_of(study.records(), objective)
        self._is_paused = False  # the disk was full
        self.waiting = Waiting(study)
        self.health = SlotHealth([slot.process for slot in configs.machine.slots])

    def slots_are(self, slots: Sequence[Slot]) -> None:
        """Take note of which slots there are now."""
        self.health.update([slot.process for slot in slots])
        if len(self.health.usable) == 1:
            self.waiting.lift_bars()

    def lost(self, worker: Worker, number: int | None) -> None:
        """Handle the loss of a node with its worker, which says nothing about the trial."""
        console.print(f"{worker.describe()}: its node is lost", style="yellow", markup=False)
        if number is not None and number != BASELINE:
            self.waiting.put_first(number)

    def stepped(self, worker: Worker, number: int, examples: int) -> None:
        """Record how far a trial is."""
        worker.has_stepped = True
        self.health.works(worker.slot.process)
        self._faults.reached(number, examples)

    def may_dispatch(self) -> bool:
        """Tell whether trials may be handed out: after a full disk once there is room again."""
        if self._is_paused and self._has_room():
            self._is_paused = False
            self._tell("the disk has room again: the sweep goes on")
        return not self._is_paused

    def check_disk(self) -> None:
        """Raise MachineError when the trials that are left would not find room for checkpoints."""
        sizes, usable = self._sizes(), self.health.usable
        if sizes and len(self.waiting):
            check_disk(
                self._configs.folder,
                sizes,
                num_workers=sum(s.process in usable for s in self._configs.machine.slots),
                num_trials=self._configs.sweep.n_trials,
                num_kept=num_kept_weights(self._configs.sweep.seeds_to_confirm),
            )

    def _sizes(self) -> Sizes | None:
        """Return what a trial keeps, as the baseline found; None if it has not."""
        baseline = self._configs.folder.baseline
        environment = baseline.read_environment() if baseline.environment.is_file() else {}
        return Sizes(**environment["sizes"]) if "sizes" in environment else None

    def _has_room(self) -> bool:
        sizes = self._sizes()
        return sizes is None or has_room(self._configs.folder, sizes)

    def _pause(self, message: Failed) -> None:
        """Hand out nothing until the disk has room again; running trials go on."""
        self.waiting.put_first(message.trial)
        if not self._is_paused:
            self._is_paused = True
            self._tell(
                f"paused, as the disk is full: {message.message}. The sweep goes on by itself once"
                " there is room for what a trial saves"
            )

    def _tell(self, note: str) -> None:
        self._study.event("note", text=note)
        console.print(note, style="yellow", markup=False)

    def end(self, record: TrialRecord) -> None:
        """Tell everybody that a trial has ended."""
        self._study.event(
            "ended",
            trial=record.number,
            state=record.state,
            value=record.value,
            reason=record.reason,
        )
        self._num_good += has_run_well(record)
        self.best = best_of(self._study.records(), self._objective)
        self._watcher.ended(record, self.best)

    def done(self, message: Done) -> None:
        """Handle the return of a run."""
        number = message.trial
        if number == BASELINE:
            self._measured_baseline(message)
        elif message.status == "interrupted":
            self._study.event("interrupted", trial=number)
            self.waiting.put_back(number)
        elif message.status == "completed" and not message.best:
            self.end(self._study.finish(number, "infeasible", reason=self._why_no_best()))
        else:
            final_value = message.metrics.get(self._objective.metric)
            record = self._study.finish(
                number,
                message.status,
                reason=message.reason,
                best=message.best,
                final_value=final_value,
            )
            self.waiting.forgive()  # the code works, so these deserve another attempt
            self.end(record)

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
        check_measured(self._configs.sweep.constraints, message.metrics, environment)
        self._study.set_baseline(message.metrics)
        self.check_disk()
        console.print(f"untrained model: {metric} {self._objective.write(value, digits=4)}")

    def failed(self, message: Failed, worker: Worker) -> bool:
        """Handle an exception: a state of the trial, a user's mistake, the machine, or a bug.

        Return whether the worker can no longer be used.
        """
        number = message.trial
        self._study.event(
            "failed",
            trial=number,
            attempt=message.attempt,
            what=message.kind,
            error=message.reason,
            where=message.where,
        )
        if message.kind == "outside" and number != BASELINE and not self._has_room():
            self._pause(message)
            return True
        if message.kind == "outside":
            console.print(
                "the sweep stops: this is not the trial's fault, and the others would meet it too."
                " Trials that have not ended stay open; the same command continues after the repair"
            )
            raise SweepError(message.message)
        if number == BASELINE:
            if message.kind in ("infeasible", "out_of_memory"):
                raise SweepError(message.message)
            raise SweepAborted(f"the untrained model cannot be measured:\n{message.trace}")
        if message.kind == "out_of_memory":
            self._out_of_memory(message, worker)
            return False
        is_slots = not worker.has_stepped and self.health.others_work(worker.slot.process)
        if message.kind != "diverged" and not self._num_good and not is_slots:
            self._check_bug(message)
        if message.kind != "error":
            self.end(self._study.finish(number, message.kind, reason=message.reason))
            return False
        self._blame_slot(worker, number, message.reason)
        is_urgent = is_slots or self._num_good > 0
        self._retry_or_set_aside(number, worker, message.reason, is_urgent=is_urgent)
        return True  # what raised may have left anything behind

    def _check_bug(self, message: Failed) -> None:
        num_trials = self._faults.add_bug(message.trial, message.where)
        if num_trials:
            raise SweepAborted(
                f"{num_trials} trials ended by the same line, none has run well:\n{message.trace}"
            )

    def _out_of_memory(self, message: Failed, worker: Worker) -> None:
        """Halve the micro-batches of all trials from now on; this one continues."""
        number, longest = message.trial, self._configs.longest_positions
        if message.positions <= longest and worker.has_company:
            self._isolate(number, f"smaller micro-batches are no help. {message.reason}")
            return
        if not message.positions:
            self.end(self._study.finish(number, "infeasible", reason=message.reason))
            return
        if message.positions <= longest:
            reason = (
                f"{message.reason}. Micro-batches of {message.positions} positions cannot be"
                f" halved: the longest example has {longest}; {NEEDS_LESS_MEMORY}"
            )
            self.end(self._study.finish(number, "infeasible", reason=reason))
            return
        asked = self._configs.base.micro_batch_tokens
        halved = message.positions // 2
        if halved < self._study.facts.micro_batch_tokens(asked):
            self._study.facts.lower_micro_batch(asked, halved)
            note = (
                f"trial {number} ran out of memory with micro-batches of {message.positions}"
                f" positions: micro_batch_tokens is {halved} for all trials from now on ({asked}"
                " asked for), which does not change the gradient"
            )
            self._study.facts.add_note(note)
            console.print(note, style="yellow", markup=False)
        self.waiting.put_first(number)

    def start_failed(self, worker: Worker, code: int) -> None:
        """Handle the end of a worker that had not imported the trainer."""
        slot, how = worker.slot.process, describe_exit(code)
        if not self.health.start_failed(slot, code):
            return
        if not self.health.others_are_ready(slot):
            raise SweepAborted(
                f"no worker gets as far as importing the trainer ({how}). The end of its"
                f" log:\n{worker.log_end()}"
            )
        self._set_slot_aside(worker, f"its workers do not get as far as the trainer ({how})")

    def _blame_slot(self, worker: Worker, number: int, reason: str) -> None:
        """Set a slot aside where trials end before their first step while others work.

        Not for a trial in company, which may have failed by that. Raises SweepError when it is the
        last one.
        """
        if worker.has_stepped or worker.has_company:
            return
        slot = worker.slot.process
        has_others = len(self.health.usable) > 1
        if has_others:
            self.waiting.bar(number, slot)
        if not self.health.trial_failed(slot, number):
            return
        what = (
            f"{FAILED_TRIALS} trials in a row ended there before their first step, the last by"
            f" {reason}"
        )
        if self.health.others_work(slot):
            self._set_slot_aside(worker, what)
        elif not has_others:
            raise SweepError(
                f"{slot}, the last slot, cannot be used: {what} (log: {worker.log}). Trials that"
                " have not ended stay open; the same command continues after the repair"
            )

    def _set_slot_aside(self, worker: Worker, why: str) -> None:
        slot = worker.slot.process
        self.health.set_aside(slot)
        if len(self.health.usable) == 1:
            self.waiting.lift_bars()
        note = (
            f"slot {slot} is set aside until the next start: {why}. See {worker.log}"
            " and, for a GPU, nvidia-smi"
        )
        self._study.facts.add_note(note)
        self._study.event("slot set aside", slot=slot, why=why)
        console.print(note, style="yellow", markup=False)

    def died(self, worker: Worker, number: int, code: int) -> None:
        """Handle the death of a worker that ran a trial."""
        how = describe_exit(code)
        if number != BASELINE:
            if worker.hangs or not is_killed(code):
                self._blame_slot(worker, number, f"the death of its worker ({how})")
            self._retry_or_set_aside(number, worker, f"worker {how}")
        elif self._faults.add_death(BASELINE, worker.slot.process):
            raise SweepAborted(
                f"workers die measuring the untrained model ({how}). The end of a"
                f" log:\n{worker.log_end()}"
            )

    def _retry_or_set_aside(
        self, number: int, worker: Worker, reason: str, *, is_urgent: bool = True
    ) -> None:
        has_too_many = self._faults.add_death(number, worker.slot.process)
        if has_too_many and worker.has_company:
            self._isolate(number, f"{reason}; {self._faults.describe(number)}, beside others")
        elif has_too_many:
            reason = f"{reason}; {self._faults.describe(number)}"
            self.end(self._study.finish(number, "poison", reason=reason))
        elif is_urgent:
            self.waiting.put_first(number)
        else:
            # No trial has run well yet: new trials come first, since if they end by the same
            # line, it is the code.
            self.waiting.put_last(number)

    def _isolate(self, number: int, why: str) -> None:
        """Let a trial continue with no other in its process: whose fault it is will show."""
        self._faults.forgive(number)
        self.waiting.isolate(number)
        self._tell(f"trial {number} continues alone in its process: {why}")
