"""Tells what a run would need, before weights are loaded: `python train.py ... --dry_run`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from csm_ft.atomic import describe_disk
from csm_ft.config.train import TrainConfig
from csm_ft.data.examples import Examples
from csm_ft.families import open_family
from csm_ft.families.base import Draw, Family
from csm_ft.families.model import Batch
from csm_ft.families.stores import open_tokens
from csm_ft.training.memory import CARDS_GB, StepMemory, measure_step, prepare
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


def describe_run(config: TrainConfig) -> str:
    """Return what a run would need, one fact per line; UserError as for the run itself."""
    store = open_tokens(Path(config.data), config.family, in_memory=False)
    family = open_family(config.family)
    config = resolve(config, store, family)
    train = family.arrange(store.splits["train"], config, evaluate=False)
    plan = RunPlan(config, train, only_measure=False)
    batch = _longest_batch(family, train, config)
    lines = [f"{plan.total_steps} optimiser steps, {len(train)} examples an epoch"]
    model = family.empty_model(config, store)
    prepare(model, family, config)
    sizes, disk = sizes_of(model, config), describe_disk(Path(config.output_dir))
    lines.append(
        f"disk: {_gb(config.keep_last * (sizes.weights_bytes + sizes.optimizer_bytes))} for"
        f" checkpoints, {_gb(sizes.weights_bytes)} for the best weights,"
        f" {_gb(sizes.draft_bytes)} more while one is saved ({disk})"
    )
    lines += _memory(
        measure_step(model, batch, family.loss_terms(config), config), batch, config.dtype
    )
    for words, options in RECIPES.items():
        other = _changed(config, options)
        if other is not None:
            model = family.empty_model(other, store)
            prepare(model, family, other)
            found = measure_step(model, batch, family.loss_terms(other), other)
            lines.append(f"  {_gb(found.total):>9}  {describe_card(found)}  {words}")
    return "\n".join([*lines, "nothing was started or written"])


def _changed(config: TrainConfig, options: Mapping[str, Any]) -> TrainConfig | None:
    """Return the config with these options; None if it has them, or they do not fit its others."""
    if all(getattr(config, name) == value for name, value in options.items()):
        return None
    try:
        return config.replace(**options)
    except ValidationError:  # adapters of a run from scratch
        return None


def describe_card(memory: StepMemory) -> str:
    """Return the smallest card that has room, for people."""
    card = memory.smallest_card_gb
    return f"{card} GB card" if card else f"more than {CARDS_GB[-1]} GB"


def _longest_batch(family: Family, train: Examples, config: TrainConfig) -> Batch:
    """Return the micro-batch of the first epoch with the most positions, padding included."""
    plan = RunPlan(config, train, only_measure=False)
    longest = max(plan.first_epoch(), key=lambda rows: len(rows) * int(train.costs[rows].max()))
    return family.collate(train, longest, config, draw=Draw(config.seed, 0))


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
