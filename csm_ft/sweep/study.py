"""The study and its only writer: an Optuna journal, the rungs, and what became of every trial.

Private corners of Optuna 5 that are used, all here: `optuna.trial.Trial(study, id)` to adopt a
RUNNING trial, ids of trials, the storage by them, and `TPESampler._search_space`.

This process is the only writer, so it knows every trial: what has ended is never read again, and
the cost of a trial does not grow with their number.
"""

import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Self

import optuna
from optuna.samplers import TPESampler
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial, Trial, TrialState

from csm_ft.atomic import append_line, exclusive
from csm_ft.runs.folder import RunFolder, SweepFolder
from csm_ft.sweep import asha, pruning
from csm_ft.sweep.artifacts import add_recordings
from csm_ft.sweep.constraints import Constraint, violated
from csm_ft.sweep.facts import Facts
from csm_ft.sweep.importance import explain
from csm_ft.sweep.journal import open_journal, written_together
from csm_ft.sweep.noise import Noise, measure_noise
from csm_ft.sweep.optuna_trials import (
    Curves,
    costs_of,
    metrics_key,
    record_of,
)
from csm_ft.sweep.points import Points
from csm_ft.sweep.records import (
    FAILED,
    VAL_LOSS,
    Outcome,
    TrialRecord,
)
from csm_ft.sweep.samplers import make_sampler
from csm_ft.sweep.trials import Plan
from csm_ft.sweep.verdict import Clips, compare, read_clips
from csm_ft.sweep.warm import keep_warm_settings

WORST_FACTOR = 2.0  # a failed trial counts as this many times the untrained model's value


class SweepStudy:
    """The study in a sweep's folder, locked for this process.

    Every method writes through to the journal before it returns.
    """

    def __init__(self, folder: SweepFolder, plan: Plan, study: optuna.Study) -> None:
        self.folder, self.plan, self._study = folder, plan, study
        self._objective, self.facts = plan.objective, Facts(study)
        self.why_ended = ""  # by a limit, in words
        self.seconds = 0.0  # that all attempts took which have ended
        self._closing = ExitStack()
        self._curves = Curves(self._objective, self._group_of)
        self._common = IntersectionSearchSpace(include_pruned=True)
        self._running: dict[int, Trial] = {}
        self._records: list[TrialRecord] = []  # by number; those of running trials change
        self._num_changes = 0  # trials that have begun or ended since
        self.points = Points(study, plan, self.records, self.noise, lambda: self._num_changes)
        self._adopt()

    def _adopt(self) -> None:
        """Take over the trials of an earlier process: later on nothing but new ones is read."""
        trials = self._study.get_trials(deepcopy=False)
        begun = [trial for trial in trials if trial.state != TrialState.WAITING]
        self._records = [self._record(trial) for trial in begun]
        self.seconds = sum(record.seconds or 0.0 for record in self._records)
        for frozen in begun:
            number = frozen.number
            if frozen.state.is_finished():
                self._curves.ended(frozen)
                continue
            self._study.sampler = self._sampler(number)
            self._running[number] = Trial(self._study, frozen._trial_id)
            if "outcome" in frozen.user_attrs:  # killed between deciding and telling
                self._tell(number)
            else:
                self.params(number)  # what a kill left undrawn

    @classmethod
    def open(cls, folder: SweepFolder, plan: Plan) -> Self:
        """Open or create the study.

        Raises ConfigError when another sweep is running there, and SweepError when the folder holds
        a study of something else.
        """
        message = (
            f"{folder.path}: another sweep is running there; wait for it, or choose another"
            " --output_dir"
        )
        with ExitStack() as stack:
            stack.enter_context(exclusive(folder.lock, message))
            journal = open_journal(folder, plan)
            keep_warm_settings(journal, plan)
            study = cls(folder, plan, journal)
            study._closing = stack.pop_all()
        return study

    def close(self) -> None:
        """Let another process have the folder."""
        self._closing.close()

    @property
    def created(self) -> str:
        """When the study began, ISO 8601."""
        return self._study.user_attrs["created"]

    @property
    def baseline(self) -> float | None:
        """Objective of the untrained model, or None while it is not measured."""
        return self._study.user_attrs.get("baseline")

    @property
    def baseline_metrics(self) -> dict[str, float | None]:
        """All metrics of the untrained model; empty for studies that did not keep them."""
        return self._study.user_attrs.get("baseline_metrics", {})

    def set_baseline(self, metrics: Mapping[str, float | None]) -> None:
        """Keep the untrained model's metrics, and with them the value of failed trials."""
        value = metrics[self.plan.metric]
        assert value is not None, "a baseline that is not finite ends the sweep"
        # Other metrics than a loss may have costs of 0 or below, where a multiple is not worse.
        cost = self._objective.cost(value)
        worst = WORST_FACTOR * cost if cost > 0 else cost + 1
        self._study.set_user_attr("worst", self._objective.cost(worst))
        self._study.set_user_attr("baseline_metrics", dict(metrics))
        self._study.set_user_attr("baseline", value)  # last: it says that all is there

    @property
    def num_started(self) -> int:
        """Trials that count: every one that was ever asked for."""
        return len(self._records)

    @property
    def num_new(self) -> int:
        """Trials that can begin now."""
        return self.points.num_new

    @property
    def num_planned(self) -> int:
        """All trials, those that are still to come included."""
        return self.num_started + self.num_new + self.points.num_later

    @property
    def running(self) -> list[int]:
        """Trials that have begun and not ended."""
        return sorted(self._running)

    @written_together
    def ask(self) -> int:
        """Begin a new trial and return its number.

        The default first, its neighbours in learning rate, then what the sampler finds.
        """
        number = self.num_started
        if not self._is_enqueued(number):
            self._enqueue(number)
        self._study.sampler = self._sampler(number)
        trial = self._study.ask()
        assert trial.number == number, (
            f"expected trial {number}, got {trial.number}: is another program writing to it?"
        )
        self._running[number] = trial
        self.plan.space.suggest(trial)
        self._records.append(self.record(number))
        self._num_changes += 1
        return number

    def params(self, number: int) -> dict[str, Any]:
        """Return the parameters of a running trial.

        What a kill left undrawn is drawn now, from the same seed.
        """
        self._study.sampler = self._sampler(number)
        return self.plan.space.suggest(self._running[number])

    def seed(self, number: int) -> int:
        """Return the seed of a running trial: that of the study, or its own if it repeats one."""
        return self._running[number].user_attrs.get("seed", self.plan.space.base.seed)

    @written_together
    def begin_attempt(self, number: int, slot: str) -> int:
        """Count one more attempt at a trial and return its number, from 1."""
        trial = self._running[number]
        attempt = trial.user_attrs.get("attempts", 0) + 1
        trial.set_user_attr("attempts", attempt)
        trial.set_user_attr("slot", slot)
        return attempt

    def add_seconds(self, number: int, seconds: float) -> None:
        """Add the time of an attempt."""
        trial = self._running[number]
        trial.set_user_attr("seconds", trial.user_attrs.get("seconds", 0.0) + seconds)
        self.seconds += seconds

    def attribute(self, number: int, name: str, value: Any) -> Any:
        """Return a fact kept with a running trial; `value` is kept if there is none yet."""
        trial = self._running[number]
        if name not in trial.user_attrs:
            trial.set_user_attr(name, value)
        return trial.user_attrs[name]

    @written_together
    def validated(self, number: int, examples: int, metrics: Mapping[str, float | None]) -> bool:
        """Keep a validation and decide whether the trial continues.

        Given the same again, after a restart, it answers the same. The default trial is never
        stopped: the verdict compares with its full run.
        """
        trial, value = self._running[number], metrics[self.plan.metric]
        assert value is not None, "a worker reports finite objectives only"
        curve = costs_of(_frozen(trial), self._objective)
        stop_at = trial.user_attrs.get("stop_at")
        is_new = examples > 0 and examples not in curve
        if is_new:
            # Both before the report, which says that all is there.
            trial.set_user_attr(metrics_key(examples), dict(metrics))
            longer = {**curve, examples: self._objective.cost(value)}
            if stop_at is None and not self._may_continue(number, longer):
                stop_at = examples
                trial.set_user_attr("stop_at", stop_at)
            trial.report(value, examples)
        return stop_at is None or examples < stop_at

    @written_together
    def finish(
        self,
        number: int,
        outcome: Outcome,
        *,
        reason: str = "",
        best: Mapping[str, Any] | None = None,
        final_value: float | None = None,
    ) -> TrialRecord:
        """End a trial and return its record.

        `best` holds the metrics of the best validation, and its step, examples and epoch;
        `final_value` is the objective of the last one. Failed trials get a worst value and never
        count as best; one that was trained to the end and violates a constraint keeps its own
        value, and is infeasible.
        """
        trial, broken = self._running[number], list[Constraint]()
        if outcome == "completed" and best:
            broken = violated(self.plan.sweep.constraints, best)
        if broken:
            outcome, reason = "infeasible", "; ".join(one.describe(best or {}) for one in broken)
        if outcome == "stopped":
            after = f"after {trial.user_attrs['stop_at']} {self.plan.rungs.unit}"
            cut = f"best 1/{self.plan.sweep.eta}"
            reason = f"behind the {'median' if self.plan.sweep.pruner == 'median' else cut} {after}"
        facts = {
            "state": outcome,
            "reason": reason,
            "best": dict(best) if best else None,
            "final_value": final_value,
            "violated": [str(one) for one in broken],
        }
        examples = best.get("examples") if best else None
        add_recordings(trial, self.folder.trial(number), self.folder, examples)
        trial.set_user_attr("outcome", facts)
        self._tell(number)
        return self.record(number)

    def record(self, number: int) -> TrialRecord:
        """Return one trial."""
        if number in self._running:
            return self._record(_frozen(self._running[number]))
        return self._records[number]

    def records(self) -> list[TrialRecord]:
        """Return all trials that count, by number."""
        for number in self._running:
            self._records[number] = self.record(number)
        return list(self._records)

    def importance(self) -> tuple[str, dict[str, dict[str, float]]]:
        """Return (which values it explains, {method: {parameter: share}})."""
        return explain(self._study.get_trials(deepcopy=False), self.plan)

    def event(self, kind: str, **facts: Any) -> None:
        """Append to events.jsonl what happened, for people."""
        append_line(self.folder.events, json.dumps({"time": time.time(), "event": kind, **facts}))

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        sampler = make_sampler(self.plan.sweep, self.plan.space, number)
        if isinstance(sampler, TPESampler):
            sampler._search_space = self._common  # it compares only what is new since the last
        return sampler

    def _enqueue(self, number: int) -> None:
        """Fix the setting of a new trial, and the seed of one that runs again, or leave it open."""
        point = self.points.next(number)
        if point.params is None:
            return
        attrs: dict[str, Any] = {} if point.seed is None else {"seed": point.seed}
        if point.purpose != "search":
            attrs["purpose"] = point.purpose
        self._study.enqueue_trial(point.params, user_attrs=attrs)

    def noise(self) -> Noise:
        """Return what differences between trials are ties, by all trials so far."""
        return measure_noise(self.records(), self._objective, self._clips)

    def _clips(self, record: TrialRecord) -> Clips | None:
        run = self._run(record.number)
        return read_clips(run.val_clips) or read_clips(run.best_val_clips)

    def _may_continue(self, number: int, curve: asha.Curve) -> bool:
        sweep, rungs = self.plan.sweep, self.plan.rungs
        if self._runs_to_its_end(number) or self.plan.is_learning_curve:
            return True
        if not pruning.is_decided_at(sweep, rungs, curve):
            return True
        own = _frozen(self._running[number])
        rivals = self._curves.rivals(own, map(_frozen, self._running.values()))
        margin = self._stop_margin(number)
        return pruning.may_continue(sweep, rungs, number, curve, rivals, margin=margin)

    def _stop_margin(self, number: int) -> float:
        """Return by how much a trial may be behind at a rung.

        With auto one standard error of its difference to the default over the validation clips;
        nothing where that is not known, as for a metric that is not scored clip by clip.
        """
        if self.plan.sweep.stop_margin != "auto":
            return float(self.plan.sweep.stop_margin)
        ours, default = (read_clips(self._run(n).best_val_clips) for n in (number, 0))
        if self.plan.metric != VAL_LOSS or not ours or not default or ours.keys() != default.keys():
            return 0.0
        return compare(ours, default).standard_error or 0.0

    def _runs_to_its_end(self, number: int) -> bool:
        """Tell whether it is never stopped early: the default, and runs with other seeds."""
        return number == 0 or "purpose" in self._running[number].user_attrs

    def _tell(self, number: int) -> None:
        """Tell Optuna the outcome that is written down.

        A failed trial completes with the worst value and a violated constraint: TPE then ranks it
        behind every other trial, the stopped ones included, and Optuna never calls it best. (FAIL
        or NaN would teach TPE nothing; the worst value alone still ranks before all stopped
        trials.) Constraints on metrics are kept with every trial that was trained to the end.
        """
        trial = self._running.pop(number)
        facts = trial.user_attrs["outcome"]
        if facts["state"] in FAILED and not facts.get("violated"):
            if not trial.constraints:  # set already when a kill came before the telling
                trial.set_constraint("failed", 1.0)
            self._study.tell(trial, self._study.user_attrs["worst"])
        elif facts["state"] == "stopped":
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            for one in self.plan.sweep.constraints:
                if str(one) not in trial.constraints:
                    trial.set_constraint(str(one), one.violation(facts["best"]))
            self._study.tell(trial, facts["best"][self.plan.metric])
        frozen = _frozen(trial)
        self._curves.ended(frozen)
        self._records[number] = self._record(frozen)
        self._num_changes += 1

    def _is_enqueued(self, number: int) -> bool:
        """Tell whether a trial was enqueued that has not begun: a kill came in between."""
        try:
            self._study._storage.get_trial_id_from_study_id_trial_number(
                self._study._study_id, number
            )
        except KeyError:
            return False
        return True

    def _group_of(self, number: int) -> int:
        return pruning.group_of(self.plan.sweep, self.plan.rungs, number)

    def _record(self, frozen: FrozenTrial) -> TrialRecord:
        return record_of(frozen, self.plan, self.run_dir(frozen.number))

    def _run(self, number: int) -> RunFolder:
        return self.folder.trial(number)

    def run_dir(self, number: int) -> str:
        """Return the run folder of a trial, relative to the sweep's."""
        return f"{self.folder.trials.name}/{self.folder.trial_name(number)}"


def _frozen(trial: Trial) -> FrozenTrial:
    """Return a trial as the journal has it; `FrozenTrial`s of running ones are soon out of date."""
    return trial.storage.get_trial(trial._trial_id)
