"""What a sweep leaves behind, brought up to date after every trial.

Best.yaml, best/, trials.csv, summary.json; each whole or not there.
"""

import csv
import io
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import yaml

from csm_ft.atomic import recover, whole_folder, write_whole
from csm_ft.sweep.slots import Machine
from csm_ft.sweep.study import SweepStudy, TrialRecord, best_of
from csm_ft.sweep.trials import Configs
from csm_ft.sweep.verdict import Verdict, judge, read_clips

KEEP_WEIGHTS = 3  # trials
OBJECTIVE = (
    "lowest validation loss (nats per frame, all frames, no swept weight) from the first rung on"
)


class Results:
    """Writes the results of one study into its folder."""

    def __init__(self, study: SweepStudy, configs: Configs, machine: Machine) -> None:
        self._study, self._configs, self._machine = study, configs, machine
        self._out = configs.out

    def write(self, state: Literal["running", "finished", "unfinished"]) -> Verdict | None:
        """Bring all files up to date and return the verdict so far.

        Weights that can no longer be the best are dropped.
        """
        records = self._study.records()
        best = best_of(records)
        self._keep_clips(records)
        self._write_best_weights(best)
        self._write_best_config(best, records)
        self._drop_weights(records)
        clips = {
            r.number: read_clips(self._configs.folder(r.number) / "val_clips.json")
            for r in (best, records[0] if records else None)
            if r
        }
        verdict = judge(best, records[0] if records else None, self._study.baseline, clips)
        write_whole(self._out / "trials.csv", _table(records))
        write_whole(
            self._out / "summary.json",
            json.dumps(self._summary(state, records, best, verdict), indent=1, allow_nan=False),
        )
        return verdict

    def _keep_clips(self, records: Sequence[TrialRecord]) -> None:
        """Keep each ended trial's validation clips beside its metrics.

        Where they outlive its weights.
        """
        for record in records:
            folder = self._configs.folder(record.number)
            source = folder / "checkpoints" / "best" / "val_clips.json"
            if record.has_ended and source.is_file() and not (folder / "val_clips.json").is_file():
                write_whole(folder / "val_clips.json", source.read_text(encoding="utf-8"))

    def _write_best_weights(self, best: TrialRecord | None) -> None:
        """Make best/ the best trial's best checkpoint.

        By hard links where the file system has them.
        """
        target = self._out / "best"
        recover(target)
        source = self._configs.folder(best.number) / "checkpoints" / "best" if best else None
        if source is None or not source.is_dir() or _is_same(source, target):
            return
        with whole_folder(target) as draft:
            shutil.copytree(source, draft, copy_function=_link, dirs_exist_ok=True)

    def _write_best_config(self, best: TrialRecord | None, records: Sequence[TrialRecord]) -> None:
        """Write best.yaml.

        The best trial's complete, resolved config, which train.py takes as it is.
        """
        ranked = sorted((r for r in records if r.value is not None), key=lambda r: r.value or 0.0)
        trial = best or (ranked[0] if ranked else None)
        path = self._configs.folder(trial.number) / "config.yaml" if trial else None
        if path is not None and path.is_file():
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        else:
            values = self._configs.trial(
                0, trial.params if trial else {}, threads=self._machine.threads
            ).model_dump(mode="json")
        values |= {"output_dir": "auto", "wandb_group": "", "wandb_name": ""}
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        write_whole(
            self._out / "best.yaml", self._header(best, trial, str(values["device"])) + text
        )

    def _header(self, best: TrialRecord | None, trial: TrialRecord | None, device: str) -> str:
        study = json.dumps(self._configs.sweep.study_name)  # one line, whatever the name
        if best is None:
            what = (
                f"the settings of trial {trial.number}, the best seen so far"
                if trial
                else "the settings without a sweep"
            )
            return f"# UNFINISHED: no trial of study {study} has completed yet; these are {what}.\n"
        exact = (
            "bit for bit on the same machine with the same threads"
            if device == "cpu"
            else "to about 1e-4 on the same kind of GPU (not bit for bit)"
        )
        at = f" at epoch {best.best_epoch:.2f}" if best.best_epoch is not None else ""
        return (
            f"# Study {study}, trial {best.number}: val_loss {best.value!r} nats per frame{at}.\n"
            f"# `python train.py --config {self._out / 'best.yaml'}` reproduces it {exact}.\n"
        )

    def _drop_weights(self, records: Sequence[TrialRecord]) -> None:
        """Keep the weights of the best few trials and of those that run.

        Metrics and samples stay.
        """
        ranked = sorted(
            (r for r in records if r.is_good and r.value is not None),
            key=lambda r: (r.state != "completed", r.value),
        )
        kept = {r.number for r in ranked[:KEEP_WEIGHTS]}
        for record in records:
            if record.has_ended and record.number not in kept:
                shutil.rmtree(
                    self._configs.folder(record.number) / "checkpoints", ignore_errors=True
                )

    def _summary(
        self,
        state: str,
        records: Sequence[TrialRecord],
        best: TrialRecord | None,
        verdict: Verdict | None,
    ) -> dict[str, Any]:
        sweep, study = self._configs.sweep, self._study
        explained, importance = study.importance() if state != "running" else ("", {})
        waiting = [_row(None, number) for number in range(len(records), sweep.n_trials)]
        return {
            "study": sweep.study_name,
            "created": study.created,
            "updated": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "state": state,
            "data": self._configs.base.data,
            "objective": OBJECTIVE,
            "n_trials": max(sweep.n_trials, len(records)),
            "n_workers": len(self._machine.slots),
            "device": self._machine.device,
            "horizon_examples": study.rungs.horizon_examples,
            "rungs": study.rungs.examples,
            "baseline": (
                None if study.baseline is None else {"value": study.baseline, "dir": "baseline"}
            ),
            "trials": [_row(r, r.number) for r in records] + waiting,
            "best": best.number if best else None,
            "verdict": asdict(verdict) if verdict else None,
            "importance": importance,
            "importance_of": explained,
        }


def _row(record: TrialRecord | None, number: int) -> dict[str, Any]:
    return {
        "number": number,
        "state": record.state if record else "waiting",
        "reason": record.reason if record else "",
        "value": record.value if record else None,
        "final_value": record.final_value if record else None,
        "best_examples": record.best_examples if record else None,
        "best_epoch": record.best_epoch if record else None,
        "params": dict(record.params) if record else {},
        "attempts": record.attempts if record else 0,
        "seconds": round(record.seconds, 3) if record else 0.0,
        "slot": record.slot if record else "",
        "dir": f"trials/{number:04d}",
        "is_default": number == 0,
    }


def _table(records: Sequence[TrialRecord]) -> str:
    """Return trials.csv: one row per trial, one column per searched option.

    Text cannot become a spreadsheet's formula.
    """
    names = list(dict.fromkeys(name for record in records for name in record.params))
    rows = [
        {k: v for k, v in _row(r, r.number).items() if k != "params"}
        | {f"params.{n}": r.params.get(n, "") for n in names}
        for r in records
    ]
    columns = [k for k in _row(None, 0) if k != "params"] + [f"params.{n}" for n in names]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {
            k: f"'{v}" if isinstance(v, str) and v[:1] in ("=", "+", "-", "@") else v
            for k, v in row.items()
        }
        for row in rows
    )
    return text.getvalue()


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


def _is_same(source: Path, target: Path) -> bool:
    """Tell whether `target` already holds links to, or copies of, all files of `source`."""
    return target.is_dir() and {_identity(p) for p in source.iterdir()} == {
        _identity(p) for p in target.iterdir()
    }


def _identity(path: Path) -> tuple[str, int, int]:
    facts = path.stat()
    return path.name, facts.st_size, facts.st_mtime_ns
