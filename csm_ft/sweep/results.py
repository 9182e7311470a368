"""What a sweep leaves behind, brought up to date after every trial.

best.yaml, best/, trials.csv and summary.json; each is replaced as a whole.
"""

import json
import os
import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from pydantic import ValidationError

from csm_ft.atomic import recover, whole_folder, write_whole
from csm_ft.evaluate.metrics import ERROR, ESTIMATE
from csm_ft.sweep.data_curve import measure_curve
from csm_ft.sweep.disk import num_kept_weights
from csm_ft.sweep.finalists import choose_best, judge_finalists
from csm_ft.sweep.noise import Noise
from csm_ft.sweep.preference import with_preference
from csm_ft.sweep.ranking import measure_rankings
from csm_ft.sweep.records import (
    VAL_LOSS,
    Baseline,
    Confirmation,
    Objective,
    Summary,
    SweepState,
    TrialRecord,
    Verdict,
)
from csm_ft.sweep.study import SweepStudy
from csm_ft.sweep.table import to_csv
from csm_ft.sweep.trials import Configs
from csm_ft.sweep.verdict import Contest, reach_verdict, read_clips


class Results:
    """Writes the results of one study into its folder."""

    def __init__(self, study: SweepStudy, configs: Configs, objective: Objective) -> None:
        self._study, self._configs, self._objective = study, configs, objective
        self._folder = configs.folder
        # Trials whose clips are kept, and whose weights are dropped: looked at once.
        self._kept: set[int] = set()
        self._dropped: set[int] = set()
        self._before = _read(self._folder.summary)  # of an earlier command
        self._config_of: tuple[object, ...] | None = None  # what best.yaml was written for

    def write(self, state: SweepState) -> Summary:
        """Bring all files up to date and return the summary, with the verdict so far.

        Weights that can no longer be the best are removed.
        """
        records = self._study.records()
        self._keep_clips(records)
        noise, confirm = self._study.noise(), self._configs.sweep.seeds_to_confirm
        confirmation = judge_finalists(records, confirm, self._objective, noise)
        best = choose_best(records, confirmation, self._objective)
        self._write_best_weights(best)
        self._write_best_config(best, records)
        self._drop_weights(records, best)
        verdict = self._reach_verdict(best, records, noise, confirmation)
        curve = measure_curve(records, self._objective)
        if verdict and curve:
            verdict = verdict.model_copy(update={"text": f"{curve.text} {verdict.text}"})
        summary = self._summary(state, records, best).model_copy(
            update={"verdict": verdict, "data_curve": curve, "confirmation": confirmation}
        )
        summary = with_preference(summary, self._folder)
        write_whole(self._folder.table, to_csv(records, summary.preference))
        write_whole(self._folder.summary, summary.model_dump_json(indent=1))
        return summary

    def _reach_verdict(
        self,
        best: TrialRecord | None,
        records: Sequence[TrialRecord],
        noise: Noise,
        confirmation: Confirmation | None,
    ) -> Verdict | None:
        default = records[0] if records else None
        clips = {
            record.number: read_clips(self._folder.trial(record.number).val_clips)
            for record in (best, default)
            if record
        }
        excluded = [record for record in records if record.violated]
        contest = Contest(
            best,
            default,
            self._study.baseline,
            clips,
            excluded,
            least_by_seeds=noise.of_seeds(),
            confirmation=confirmation,
        )
        return reach_verdict(contest, self._objective)

    def _keep_clips(self, records: Sequence[TrialRecord]) -> None:
        """Keep each ended trial's validation clips beside its metrics: they outlive its weights."""
        for record in records:
            if not record.has_ended or record.number in self._kept:
                continue
            self._kept.add(record.number)
            run = self._folder.trial(record.number)
            if run.best_val_clips.is_file() and not run.val_clips.is_file():
                write_whole(run.val_clips, run.best_val_clips.read_text(encoding="utf-8"))

    def _write_best_weights(self, best: TrialRecord | None) -> None:
        """Make best/ the best trial's best checkpoint, by hard links where there are any."""
        target = self._folder.best
        recover(target)
        source = self._folder.trial(best.number).best if best else None
        if source is None or not source.is_dir() or _is_same(source, target):
            return
        with whole_folder(target) as draft:
            for file in source.iterdir():
                _link(file, draft / file.name)

    def _write_best_config(self, best: TrialRecord | None, records: Sequence[TrialRecord]) -> None:
        """Write best.yaml: the best trial's complete config, which train.py takes as it is."""
        valued = [(r.value, r) for r in records if r.value is not None]
        lowest = min(valued, key=lambda pair: self._objective.cost(pair[0]), default=(None, None))
        trial = best or lowest[1]
        path = self._folder.trial(trial.number).config if trial else None
        is_begun = path is not None and path.is_file()
        config_of = (best and best.number, trial and trial.number, is_begun)
        if config_of == self._config_of and self._folder.best_config.is_file():
            return
        self._config_of = config_of
        if path is not None and is_begun:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        else:
            params, threads = trial.params if trial else {}, self._configs.machine.threads
            values = self._configs.trial(0, params, threads=threads).model_dump(mode="json")
        values |= {"output_dir": "auto", "wandb_group": "", "wandb_name": ""}
        header = self._header(best, trial, str(values["device"]))
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        write_whole(self._folder.best_config, header + text)

    def _header(self, best: TrialRecord | None, trial: TrialRecord | None, device: str) -> str:
        study = json.dumps(self._configs.sweep.study_name)  # one line, whatever the name
        if best is None:
            what = "the settings without a sweep"
            if trial is not None:
                what = f"the settings of trial {trial.number}, the best so far"
            lacks = "has completed yet"
            if trial is not None and trial.violated:
                lacks = f"meets the constraints ({', '.join(trial.violated)})"
            return f"# UNFINISHED: no trial of study {study} {lacks}; these are {what}.\n"
        exact = "to about 1e-4 on the same kind of GPU (not bit for bit)"
        if device == "cpu":
            exact = "bit for bit on the same machine with the same threads"
        metric, unit = self._objective.metric, self._objective.unit
        value = f"{metric} {best.value!r} {unit}".rstrip()
        at = f" at epoch {best.best_epoch:.2f}" if best.best_epoch is not None else ""
        config = shlex.quote(str(self._folder.best_config))
        return (
            f"# Study {study}, trial {best.number}: {value}{at}.\n"
            f"# `python train.py --config {config}` reproduces it {exact}.\n"
        )

    def _drop_weights(self, records: Sequence[TrialRecord], best: TrialRecord | None) -> None:
        """Keep the weights of the best few trials and of those that run; metrics all stay.

        Of the default settings, the weights at their best stay, to be compared with.
        """
        searched = [r for r in records if r.is_good and r.purpose == "search"]
        good = [(r.value, r) for r in searched if r.value is not None]
        good.sort(key=lambda pair: (pair[1].state != "completed", self._objective.cost(pair[0])))
        num_kept = num_kept_weights(self._configs.sweep.seeds_to_confirm)
        kept = {record.number for _, record in good[:num_kept]} | {best.number if best else -1}
        for record in records:
            is_done = record.number in kept or record.number in self._dropped
            if is_done or not record.has_ended:
                continue
            self._dropped.add(record.number)
            run = self._folder.trial(record.number)
            for path in run.step_folders() if record.is_default else [run.checkpoints]:
                shutil.rmtree(path, ignore_errors=True)

    def _summary(
        self, state: SweepState, records: Sequence[TrialRecord], best: TrialRecord | None
    ) -> Summary:
        sweep, study, objective = self._configs.sweep, self._study, self._objective
        explained, importance = self._importance(records) if state != "running" else ("", {})
        unit = f" ({objective.unit})" if objective.unit else ""
        extreme = "highest" if objective.higher_is_better else "lowest"
        environment = self._environment()
        return Summary(
            study=sweep.study_name,
            created=study.created,
            updated=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            state=state,
            data=self._configs.base.data,
            objective=f"{extreme} {objective.label}{unit} from the first rung on",
            objective_metric=objective.metric,
            unit=objective.unit,
            formula=objective.formula + estimates_in_words(records),
            n_trials=study.num_planned,
            n_workers=len(self._configs.machine.slots),
            device=self._configs.machine.device,
            horizon_examples=study.plan.rungs.horizon_examples,
            compared_in=study.plan.rungs.unit,
            rungs=study.plan.rungs.examples,
            baseline=self._baseline(),
            trials=[*records, *self._waiting(len(records))],
            best=best.number if best else None,
            constraints=sweep.constraint,
            rankings=measure_rankings(records) if state != "running" else [],
            judges=environment.get("judges", {}),
            judges_missing=environment.get("judges_missing", []),
            notes=[*study.facts.notes, *filter(None, [study.why_ended, study.points.plateau()])],
            importance=importance,
            importance_of=explained,
        )

    def _importance(
        self, records: Sequence[TrialRecord]
    ) -> tuple[str, Mapping[str, Mapping[str, float | None]]]:
        """Return what each parameter explains; measured anew only when a trial has ended since.

        It takes seconds to import what measures it.
        """
        before, now = self._before, [record.model_dump() for record in records]
        if before and before.importance and [one.model_dump() for one in before.begun] == now:
            return before.importance_of, before.importance
        return self._study.importance()

    def _baseline(self) -> Baseline | None:
        if self._study.baseline is None:
            return None
        folder = self._folder.baseline.path.relative_to(self._folder.path).as_posix()
        metrics = self._study.baseline_metrics
        return Baseline(value=self._study.baseline, dir=folder, metrics=metrics)

    def _environment(self) -> Mapping[str, Any]:
        """Return what the run of the untrained model recorded: the judges are those of all runs."""
        baseline = self._folder.baseline
        return baseline.read_environment() if baseline.environment.is_file() else {}

    def _waiting(self, num_begun: int) -> list[TrialRecord]:
        """Return the trials that have not begun."""
        return [
            TrialRecord(
                number=number,
                state="waiting",
                reason="",
                seconds=0.0,
                slot="",
                dir=self._study.run_dir(number),
                is_default=number == 0,
            )
            for number in range(num_begun, self._study.num_planned)
        ]


def estimates_in_words(records: Sequence[TrialRecord]) -> str:
    """Say how near curves are, where runs went by estimates of the validation loss; or ""."""
    numbers = [(r.metrics.get(VAL_LOSS), r.metrics.get(ESTIMATE)) for r in records]
    off = [
        abs(whole - guess) for whole, guess in numbers if whole is not None and guess is not None
    ]
    errors = [error for r in records if (error := r.metrics.get(ERROR)) is not None]
    if not off or not errors:
        return ""
    return (
        ". Values of trials that have ended are on all targets; curves and early stopping are"
        f" estimates on a fixed share, with a standard error of {fmean(errors):.4f}, most of which"
        " all trials have in common (at the best of each trial they were off by"
        f" {fmean(off):.4f} in the mean, by {max(off):.4f} at most)"
    )


def _read(path: Path) -> Summary | None:
    """Return the summary that a sweep left, if this version can read it."""
    try:
        return Summary.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


def _is_same(source: Path, target: Path) -> bool:
    """Tell whether `target` already holds links to, or copies of, all files of `source`."""
    if not target.is_dir():
        return False
    return {_identity(p) for p in source.iterdir()} == {_identity(p) for p in target.iterdir()}


def _identity(path: Path) -> tuple[str, int, int]:
    facts = path.stat()
    return path.name, facts.st_size, facts.st_mtime_ns
