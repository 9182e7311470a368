"""Metrics of a run: metrics.jsonl is the record; the console and Weights & Biases mirror it."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from csm_ft.atomic import append_line, disk_errors, fsync
from csm_ft.config.train import TrainConfig
from csm_ft.console import clock
from csm_ft.families.base import Term, parts_of, weighted_loss
from csm_ft.runs.folder import RunFolder
from csm_ft.runs.samples_table import references_table, samples_table
from csm_ft.runs.wandb_mirror import RunFacts, Table, start_mirror

# Fields that differ from run to run.
CLOCKS = ("time", "sec", "data_sec", "compute_sec", "update_sec", "audio_sec_per_sec", "eta_sec")
_TIMES = ("micro_batches", "sec", "data_sec", "compute_sec", "update_sec")  # logged per step

Totals = dict[str, float]  # sums since the last logged row; kept in checkpoints


def add(totals: Totals, sums: Mapping[str, float]) -> None:
    """Add the sums of one optimiser step to the totals."""
    for name, value in sums.items():
        totals[name] = totals.get(name, 0.0) + value


def training_row(totals: Totals, terms: Sequence[Term]) -> dict[str, Any]:
    """Return the means: the loss, nats per target of each part, times per step, and rates."""
    parts, steps = parts_of(terms), totals["steps"]
    nats = {part: totals[f"nats_{part}"] for part in parts}
    counts = {part: totals[f"count_{part}"] for part in parts}
    return {
        "loss": weighted_loss(terms, nats, counts),
        **{part: nats[part] / max(1, counts[part]) for part in parts},
        "grad_norm": totals["grad_norm"] / steps,
        "padding_share": 1 - totals["positions"] / totals["padded"],
        **{name: totals[name] / steps for name in _TIMES},
        "audio_sec_per_sec": totals["audio_sec"] / totals["sec"],
    }


def training_line(
    step: int, total_steps: int, row: Mapping[str, Any], terms: Sequence[Term]
) -> str:
    """Return a training row as a line for the console."""
    parts = " ".join(f"{part} {row[part]:.3f}" for part in parts_of(terms))
    return (
        f"step {step}/{total_steps}  epoch {row['epoch']:.2f}  loss {row['loss']:.4f}"
        f" ({parts})  lr {row['learning_rate']:.2e}  {row['audio_sec_per_sec']:.0f}x real time,"
        f" padding {row['padding_share']:.1%}, {clock(row['eta_sec'])} left"
    )


class Tracker:
    """Writes the metrics of one run; a context manager."""

    def __init__(
        self, folder: RunFolder, config: TrainConfig, *, keep_bytes: int, resumed_at_step: int = 0
    ) -> None:
        """Open metrics.jsonl, truncated to `keep_bytes`, its length at the last checkpoint.

        `resumed_at_step` is the step of that checkpoint, 0 in a new run.
        """
        self._folder, self._path = folder, folder.metrics
        with disk_errors(self._path):
            self._path.touch()
            os.truncate(self._path, min(keep_bytes, self._path.stat().st_size))
        self._mirror = start_mirror(_wandb_facts(folder, config, resumed_at_step), config.wandb)
        self._mirror.tables(lambda: {"references": references_table(folder)}, resumed_at_step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Each version of the table has copies of all its recordings until it is uploaded.
        if self._mirror.is_offline:
            self._mirror.tables(self._samples)
        self._mirror.finish(is_good=kind is None)

    @property
    def num_bytes(self) -> int:
        """Length of metrics.jsonl, all of which is on disk when this returns."""
        with disk_errors(self._path):
            fsync(self._path)
        return self._path.stat().st_size

    def row(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Write one row, of the kind train, val, sample or best; MachineError on a full disk."""
        append_line(self._path, json.dumps({"kind": kind, "step": step, **values}))
        numbers = {
            f"{kind}/{name}": value
            for name, value in values.items()
            if isinstance(value, int | float)
        }
        if numbers and kind != "sample":
            self._mirror.log(numbers, step)

    def samples(self, step: int) -> None:
        """Show the samples of a step, whose rows are written, in W&B."""
        for row in self._folder.rows("sample"):
            wav = self._folder.sample_stem(row["prompt"], step).with_suffix(".wav")
            if row["step"] == step and wav.is_file():
                self._mirror.sound(f"speech/{row['prompt']}", wav, caption=row["text"], step=step)
        if not self._mirror.is_offline:
            self._mirror.tables(self._samples, step)

    def page(self, key: str, make: Callable[[], str], step: int) -> None:
        """Show an HTML page in W&B, if there is one; it is not made without W&B."""
        self._mirror.page(key, make, step)

    def summary(self, values: Mapping[str, Any]) -> None:
        """Set the summary values of the W&B run."""
        self._mirror.summary(values)

    def _samples(self) -> dict[str, Table]:
        return {"samples": samples_table(self._folder)}


def _wandb_facts(folder: RunFolder, config: TrainConfig, resumed_at_step: int) -> RunFacts:
    has_begun = folder.metrics.stat().st_size > 0
    resumed = {"resumed_at_step": resumed_at_step} if resumed_at_step else {}
    return RunFacts(
        folder=folder.path,
        id_file=folder.wandb_id,
        # Runs of older versions had an id made of their settings, and go on with it.
        old_id=f"{folder.path.name}-{config.fingerprint()}" if has_begun else "",
        project=config.wandb_project,
        name=config.wandb_name,
        group=config.wandb_group,
        config={**config.model_dump(mode="json"), **resumed},
        is_apart=config.wandb_reinit,
        record="metrics.jsonl has everything",
    )
