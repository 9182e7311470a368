"""Tells what a run would need, before weights are loaded: `python train.py ... --dry_run`."""

import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from csm_ft.atomic import describe_disk
from csm_ft.config.train import TrainConfig
from csm_ft.data.batches import Indices
from csm_ft.data.examples import Examples
from csm_ft.data.sampling import take_fraction
from csm_ft.data.split import Store
from csm_ft.errors import ConfigError
from csm_ft.families import open_family
from csm_ft.families.base import Draw, Family
from csm_ft.families.model import Batch, SpeechModel
from csm_ft.families.stores import open_tokens
from csm_ft.runs.folder import RunFolder
from csm_ft.training.duration import Work, describe_hours
from csm_ft.training.launch import check_fits_fsdp
from csm_ft.training.memory import (
    CARDS_GB,
    LiveBytes,
    StepMemory,
    measure_pass,
    memory_of,
    prepare,
    sharded,
)
from csm_ft.training.plan import RunPlan
from csm_ft.training.resolve import resolve
from csm_ft.training.sizes import sizes_of

# From the fastest to the smallest; the gradient of the first three is the same.
RECIPES: dict[str, dict[str, Any]] = {
    "--activation_checkpointing selective": {"activation_checkpointing": "selective"},
    "--activation_checkpointing full": {"activation_checkpointing": "full"},
    "--optimizer adamw8bit --activation_checkpointing full": {
        "optimizer": "adamw8bit",
        "activation_checkpointing": "full",
    },
    "--dtype bf16_pure --optimizer adamw8bit --activation_checkpointing full": {
        "dtype": "bf16_pure",
        "optimizer": "adamw8bit",
        "activation_checkpointing": "full",
    },
    "--method lora": {"method": "lora"},
    "--method lora --dtype bf16_pure --activation_checkpointing full": {
        "method": "lora",
        "dtype": "bf16_pure",
        "activation_checkpointing": "full",
    },
}


class Measurer:
    """Measures the step of one micro-batch with different options, each pass only once."""

    def __init__(self, family: Family, store: Store, batch: Batch, num_ranks: int) -> None:
        self._family, self._store, self._batch, self._num_ranks = family, store, batch, num_ranks
        self._passes: dict[tuple[str, ...], tuple[SpeechModel, LiveBytes]] = {}

    def counted(self, config: TrainConfig) -> tuple[SpeechModel, LiveBytes]:
        """Return the model, with shapes, and what a pass of it makes and computes."""
        # Nothing else in RECIPES changes a pass.
        key = (config.activation_checkpointing, config.dtype, config.method)
        if key not in self._passes:
            model = self._family.empty_model(config, self._store)
            prepare(model, self._family, config)
            terms = self._family.loss_terms(config)
            self._passes[key] = (model, measure_pass(model, self._batch, terms, config))
        return self._passes[key]

    def memory(self, config: TrainConfig) -> StepMemory:
        """Return the memory on one device."""
        model, counted = self.counted(config)
        found = memory_of(model, counted, config)
        is_sharded = config.parallel == "fsdp" and self._num_ranks > 1
        return sharded(found, model, self._num_ranks) if is_sharded else found


def describe_run(config: TrainConfig) -> Iterator[str]:
    """Yield what a run would need, one fact per line; UserError as for the run itself.

    What is asked for comes first: each other recipe may take seconds of its own.
    """
    num_ranks = config.dry_run_gpus or int(os.environ.get("WORLD_SIZE", "1"))
    check_fits_fsdp(config)
    store = open_tokens(Path(config.data), config.family, in_memory=False)
    family = open_family(config.family)
    config = resolve(config, store, family)
    train = family.arrange(store.splits["train"], config, evaluate=False)
    train = take_fraction(train, config.data_fraction, seed=config.seed)
    plan = RunPlan(config, train, only_measure=False, ranks=num_ranks)
    steps = plan.first_epoch()
    longest = max(itertools.chain.from_iterable(steps), key=lambda rows: _padded(train, rows))
    on_card = config.replace(device="cuda")  # where micro-batches are padded that a CPU packs
    batch = family.collate(train, longest, on_card, draw=Draw(config.seed, 0))
    measurer = Measurer(family, store, batch, num_ranks)
    model, counted = measurer.counted(config)
    sizes, folder = sizes_of(model, config), Path(config.output_dir)
    padded = sum(_padded(train, rows) for step in steps for rows in step)
    work = Work(
        plan.total_steps,
        counted.flops / batch.num_padded * padded / len(steps),
        num_ranks,
        config.dtype != "fp32",
    )
    yield (
        f"{plan.total_steps} optimiser steps, {len(train)} examples an epoch"
        + _ranks(config, num_ranks)
    )
    yield describe_hours(work, RunFolder(folder))
    yield (
        f"disk: {_gb(config.keep_last * (sizes.weights_bytes + sizes.optimizer_bytes))} for"
        f" checkpoints, {_gb(sizes.weights_bytes)} for the best weights,"
        f" {_gb(sizes.draft_bytes)} more while one is saved ({describe_disk(folder)})"
    )
    yield from _memory(measurer.memory(config), batch, config.dtype)
    for words, options in RECIPES.items():
        other = _changed(config, options)
        if other is not None:
            found = measurer.memory(other)
            yield f"  {_gb(found.total):>9}  {describe_card(found)}  {words}"
    yield "nothing was started or written"


def _ranks(config: TrainConfig, num_ranks: int) -> str:
    """Return by how many ranks a run is shared, and how."""
    if num_ranks == 1:
        return ""
    mode = "fsdp" if config.parallel == "fsdp" else "ddp"
    return f", on {num_ranks} GPUs ({mode}); memory is that of each"


def _padded(train: Examples, rows: Indices) -> int:
    """Return the positions of a micro-batch, padding included."""
    return len(rows) * int(train.costs[rows].max())


def _changed(config: TrainConfig, options: Mapping[str, Any]) -> TrainConfig | None:
    """Return the config with these options; None if it has them, or they do not fit its others."""
    if all(getattr(config, name) == value for name, value in options.items()):
        return None
    try:
        other = config.replace(**options)
        check_fits_fsdp(other)
    except (ValidationError, ConfigError):  # adapters of a run from scratch
        return None
    return other


def describe_card(memory: StepMemory) -> str:
    """Return the smallest card that has room, for people."""
    card = memory.smallest_card_gb
    return f"{card} GB card" if card else f"more than {CARDS_GB[-1]} GB"


def _memory(found: StepMemory, batch: Batch, dtype: str) -> Iterator[str]:
    sequences = len(next(iter(batch.counts.values())))
    yield (
        f"memory in {dtype}: {_gb(found.total)} = weights {_gb(found.weights)}, gradients"
        f" {_gb(found.gradients)}, optimiser {_gb(found.optimizer)}, activations of the longest"
        f" micro-batch ({sequences} x {batch.num_padded // sequences} positions)"
        f" {_gb(found.activations)}"
    )
    yield f"as asked: {describe_card(found)}; a smaller --micro_batch_tokens takes less. Others:"


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.3g} MB"
