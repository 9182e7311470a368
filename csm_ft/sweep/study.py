"""The study and its only writer: an Optuna journal, the rungs, and what became of every trial.

Private corners of Optuna 5 that are used, all here: `optuna.trial.Trial(study, id)` to adopt a
RUNNING trial, and `FrozenTrial._trial_id`.
"""

import fcntl
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TextIO

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from csm_ft.sweep import asha
from csm_ft.sweep.config import SweepConfig
from csm_ft.sweep.space import Space

Outcome = Literal["completed", "stopped", "diverged", "infeasible", "poison"]
FAILED = ("diverged", "infeasible", "poison")
WORST_FACTOR = 2.0  # a failed trial is told this many times the untrained model's loss


class SweepError(ValueError):
    """A sweep that cannot start or go on like this; the message says why and the way out."""


@dataclass(frozen=True)
class TrialRecord:
    """One trial as the study knows it; values in nats per frame."""

    number: int
    state: Outcome | Literal["running"]
    reason: str
    value: float | None  # the objective: lowest validation from the first rung on
    final_value: float | None
    best_examples: int | None
    best_epoch: float | None
    params: Mapping[str, Any]
    attempts: int
    seconds: float
    slot: str
    curve: Mapping[int, float]  # examples -> validation loss

    @property
    def has_ended(self) -> bool:
        """Whether a value or a failure was told."""
        return self.state != "running"

    @property
    def is_good(self) -> bool:
        """Whether it ended as trials should: at the end of the run, or at a rung."""
        return self.state in ("completed", "stopped")


class SweepStudy:
    """The study in `<folder>`, locked for this process.

    Every method writes through to the journal before it returns.
    """

    def __init__(
        self,
        folder: Path,
        study: optuna.Study,
        lock: TextIO,
        sweep: SweepConfig,
        space: Space,
        rungs: asha.Rungs,
    ) -> None:
        self.folder, self.rungs, self._study, self._lock = folder, rungs, study, lock
        self._sweep, self._space = sweep, space
        self._first_points = space.first_points()
        self._running: dict[int, Trial] = {}
        for frozen in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self._study.sampler = self._sampler(frozen.number)
            self._running[frozen.number] = Trial(study, frozen._trial_id)
            if "outcome" in frozen.user_attrs:  # killed between deciding and telling
                self._tell(frozen.number)

    @classmethod
    def open(
        cls,
        folder: Path,
        sweep: SweepConfig,
        space: Space,
        rungs: asha.Rungs,
        agreement: Mapping[str, Any],
    ) -> Self:
        """Open or create the study.

        SweepError if another sweep is running there, or another kind of sweep lives there.

        `agreement` is everything that must stay the same while the study grows.
        """
        folder.mkdir(parents=True, exist_ok=True)
        lock = _lock(folder)
        try:
            journal = folder.resolve() / "study.journal"
            cut_torn_line(journal)
            cut_torn_line(folder / "events.jsonl")
            for stale in folder.glob(
                "study.journal.lock*"
            ):  # we hold the folder, so whoever held these is dead
                stale.unlink()
            optuna.logging.set_verbosity(optuna.logging.WARNING)
            storage = JournalStorage(JournalFileBackend(str(journal)))
            study = _load_or_create(folder, storage, sweep.study_name)
            _agree(folder, study, json.loads(json.dumps(agreement)))
            return cls(folder, study, lock, sweep, space, rungs)
        except BaseException:
            lock.close()
            raise

    def close(self) -> None:
        """Let another process have the folder."""
        self._lock.close()

    @property
    def created(self) -> str:
        """When the study began, ISO 8601."""
        return self._study.user_attrs["created"]

    @property
    def baseline(self) -> float | None:
        """Validation loss of the untrained model, or None while it is not measured."""
        return self._study.user_attrs.get("baseline")

    def set_baseline(self, value: float) -> None:
        """Keep the untrained model's loss, and with it the value that failed trials are told."""
        self._study.set_user_attr("worst", WORST_FACTOR * value)
        self._study.set_user_attr("baseline", value)

    @property
    def num_started(self) -> int:
        """Trials that count: every one that was ever asked for."""
        return sum(t.state != TrialState.WAITING for t in self._study.get_trials(deepcopy=False))

    @property
    def running(self) -> list[int]:
        """Trials that are begun and have not ended."""
        return sorted(self._running)

    def ask(self) -> int:
        """Begin a new trial and return its number.

        The default first, its neighbours in learning rate, then what the sampler finds.
        """
        number = self.num_started
        if number < len(self._first_points) and not self._study.get_trials(
            deepcopy=False, states=(TrialState.WAITING,)
        ):
            self._study.enqueue_trial(self._first_points[number])
        self._study.sampler = self._sampler(number)
        trial = self._study.ask()
        assert trial.number == number, (
            f"expected trial {number}, got {trial.number}: does another program write to this study?"
        )
        self._running[number] = trial
        self._space.suggest(trial)
        return number

    def params(self, number: int) -> dict[str, Any]:
        """Return the parameters of a running trial.

        What a kill left undrawn is drawn now, from the same seed.
        """
        self._study.sampler = self._sampler(number)
        return self._space.suggest(self._running[number])

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

    def attribute(self, number: int, name: str, value: Any) -> Any:
        """Return a fact kept with a running trial; `value` is kept if there is none yet."""
        trial = self._running[number]
        if name not in trial.user_attrs:
            trial.set_user_attr(name, value)
        return trial.user_attrs[name]

    def validated(self, number: int, examples: int, val_loss: float) -> bool:
        """Keep a validation and decide whether the trial goes on.

        Told the same again, after a re-dispatch, it answers the same.

        The default trial is never stopped: the verdict compares with its full run.
        """
        trial = self._running[number]
        curve = _curve(self._frozen(number))
        stop_at = trial.user_attrs.get("stop_at")
        is_new = examples > 0 and examples not in curve
        if is_new and stop_at is None and number != 0 and self._sweep.pruner == "asha":
            others = [
                _curve(t)
                for t in self._study.get_trials(deepcopy=False)
                if t.number != number and _state(t) not in FAILED
            ]
            if not asha.go_on({**curve, examples: val_loss}, others, self.rungs, self._sweep.eta):
                stop_at = examples
                trial.set_user_attr(
                    "stop_at", stop_at
                )  # before the report: a kill in between must not let it slip through
        if is_new:
            trial.report(val_loss, examples)
        return stop_at is None or examples < stop_at

    def finish(
        self,
        number: int,
        outcome: Outcome,
        *,
        reason: str = "",
        best: Mapping[str, Any] | None = None,
        final_value: float | None = None,
    ) -> TrialRecord:
        """End a trial.

        `best` is {val_loss, step, examples, epoch}; failed trials are told a worst value and never
        count as best.
        """
        trial = self._running[number]
        if outcome == "stopped":
            reason = (
                f"behind the best 1/{self._sweep.eta} after {trial.user_attrs['stop_at']} examples"
            )
        facts = {
            "state": outcome,
            "reason": reason,
            "best": dict(best) if best else None,
            "final_value": final_value,
        }
        trial.set_user_attr("outcome", facts)
        self._tell(number)
        return self.record(number)

    def record(self, number: int) -> TrialRecord:
        """Return one trial."""
        return _record(self._frozen(number), self.rungs)

    def records(self) -> list[TrialRecord]:
        """Return all trials that count, by number."""
        return [
            _record(t, self.rungs)
            for t in self._study.get_trials(deepcopy=False)
            if t.state != TrialState.WAITING
        ]

    def importance(self) -> tuple[str, dict[str, dict[str, float]]]:
        """Return (which values it explains, {method: {parameter: share}}).

        Empty below four comparable trials.

        Where most trials were stopped early, the value at the first rung stands in: there all
        trials are compared at equal examples.
        """
        good = [
            t
            for t in self._study.get_trials(deepcopy=False)
            if t.state.is_finished() and _state(t) in ("completed", "stopped")
        ]
        completed = [t for t in good if _state(t) == "completed"]
        if 2 * len(completed) >= len(good):
            return "lowest validation loss", _importance(completed, [t.value for t in completed])
        return f"loss at {self.rungs.shares[0]} of the run", _importance(
            good, [self.rungs.value(_curve(t), 0) for t in good]
        )

    def event(self, kind: str, **facts: Any) -> None:
        """Append to events.jsonl what happened, for people."""
        with (self.folder / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": time.time(), "event": kind, **facts}) + "\n")

    def _tell(self, number: int) -> None:
        """Tell Optuna the outcome that is written down.

        A failed trial completes with the worst value and a violated constraint: TPE then ranks it
        behind every other trial, the stopped ones included, and Optuna never calls it best. (FAIL
        or NaN would teach TPE nothing; the worst value alone still ranks before all stopped
        trials.)
        """
        trial = self._running.pop(number)
        facts = trial.user_attrs["outcome"]
        if facts["state"] in FAILED:
            trial.set_constraint("failed", 1.0)
            self._study.tell(trial, self._study.user_attrs["worst"])
        elif facts["state"] == "stopped":
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, facts["best"]["val_loss"])

    def _frozen(self, number: int) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[number]

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """Return the sampler of one trial.

        A restarted seeded sampler would repeat its draws, one per trial cannot.
        """
        seed = self._sweep.seed * 1_000_003 + number
        if self._sweep.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(
            seed=seed,
            n_startup_trials=self._sweep.startup_trials,
            multivariate=True,
            constant_liar=True,
        )


def best_of(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """Return the completed trial with the lowest value, or None."""
    return min(
        (r for r in records if r.state == "completed" and r.value is not None),
        key=lambda r: (r.value, r.number),
        default=None,
    )


def cut_torn_line(path: Path) -> None:
    """Cut a file of lines back to its last whole one.

    What follows was being written when something was killed.
    """
    if not path.is_file():
        return
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 65536)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                file.truncate(start + found + 1)
                return
            end = start
        file.truncate(0)


def _lock(folder: Path) -> TextIO:
    """Take the folder; the kernel gives it back on any death."""
    lock = (folder / ".lock").open("a+", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        holder = lock.read().strip()
        lock.close()
        raise SweepError(
            f"{folder}: another sweep is running there (process {holder}); wait for it, or choose"
            " another --output_dir"
        ) from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def _load_or_create(folder: Path, storage: JournalStorage, name: str) -> optuna.Study:
    names = [study.study_name for study in storage.get_all_studies()]
    if not names:
        return optuna.create_study(storage=storage, study_name=name, direction="minimize")
    if names != [name]:
        raise SweepError(
            f"{folder} holds the study {names[0]!r}, not {name!r}; choose another --output_dir, or"
            f" --study_name {names[0]}"
        )
    return optuna.load_study(storage=storage, study_name=name)


def _agree(folder: Path, study: optuna.Study, agreement: dict[str, Any]) -> None:
    """Check that the study in the folder is the one that this command describes."""
    if "created" not in study.user_attrs:
        study.set_user_attr("created", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    before = study.user_attrs.get("agreement")
    if before is None:
        study.set_user_attr("agreement", agreement)
        return
    names = sorted({*before, *agreement})
    changed = [
        f"{n}: {before.get(n)!r} there, {agreement.get(n)!r} now"
        for n in names
        if before.get(n) != agreement.get(n)
    ]
    if changed:
        raise SweepError(
            f"{folder} holds a study whose trials cannot be compared with these:\n  "
            + "\n  ".join(changed)
            + "\nWays out: give the same options to go on with it, or choose another --output_dir"
            " for a new study"
        )


def _curve(frozen: FrozenTrial) -> dict[int, float]:
    return {
        examples: value for examples, value in frozen.intermediate_values.items() if examples > 0
    }


def _state(frozen: FrozenTrial) -> Any:
    return (
        frozen.user_attrs["outcome"]["state"] if frozen.state.is_finished() else "running"
    )  # WAITING: asked for in a moment


def _record(frozen: FrozenTrial, rungs: asha.Rungs) -> TrialRecord:
    attrs, curve = frozen.user_attrs, _curve(frozen)
    outcome = attrs["outcome"] if frozen.state.is_finished() else {}
    best = outcome.get("best") or {}
    value = best.get("val_loss", rungs.best(curve))
    return TrialRecord(
        number=frozen.number,
        state=_state(frozen),
        reason=outcome.get("reason", ""),
        value=None if outcome.get("state") in FAILED else value,
        final_value=outcome.get("final_value"),
        best_examples=best.get("examples"),
        best_epoch=best.get("epoch"),
        params=dict(frozen.params),
        attempts=attrs.get("attempts", 0),
        seconds=attrs.get("seconds", 0.0),
        slot=attrs.get("slot", ""),
        curve=curve,
    )


def _importance(
    trials: Sequence[FrozenTrial], values: Sequence[float | None]
) -> dict[str, dict[str, float]]:
    study = optuna.create_study(direction="minimize")
    for trial, value in zip(trials, values, strict=True):
        if value is not None:
            study.add_trial(
                optuna.create_trial(
                    params=trial.params, distributions=trial.distributions, value=value
                )
            )
    shared = set.intersection(*(set(t.params) for t in study.trials)) if study.trials else set()
    varied = sorted(name for name in shared if len({t.params[name] for t in study.trials}) > 1)
    if len(study.trials) < 4 or not varied or len({t.value for t in study.trials}) < 2:
        return {}
    from optuna.importance import (
        MeanDecreaseImpurityImportanceEvaluator,
        PedAnovaImportanceEvaluator,
        get_param_importances,
    )

    methods = {
        "PED-ANOVA": PedAnovaImportanceEvaluator(),
        "MDI": MeanDecreaseImpurityImportanceEvaluator(seed=0),
    }
    return {
        name: {
            p: float(share)
            for p, share in get_param_importances(study, evaluator=method, params=varied).items()
        }
        for name, method in methods.items()
    }
