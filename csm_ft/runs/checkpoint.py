"""Checkpoints: folders that are there whole or not at all.

`step_000500/{model.safetensors, optimizer.safetensors, config.json, state.json}` to go on from, and
`best/` without the optimiser. With method lora, adapters in peft's format stand in the place of
model.safetensors.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file

from csm_ft.atomic import whole_folder, write_whole
from csm_ft.families import lora
from csm_ft.families.base import SpeechModel
from csm_ft.training.optim import load_optimizer_tensors, optimizer_tensors


@dataclass
class TrainState:
    """Where a run stands.

    Order and random choices are functions of seed, epoch and step, so no generator state needs
    saving.
    """

    step: int = 0
    examples: int = 0
    epoch: float = 0.0
    train_sec: float = 0.0  # time in optimiser steps, over all sessions
    best: dict[str, Any] | None = None  # val_loss, step, examples, epoch
    final_val_loss: float | None = None  # of the last validation
    stopped: bool = False  # ended by the reporter
    metrics_bytes: int = 0  # length of metrics.jsonl when this was saved
    window: dict[str, float] = field(
        default_factory=dict
    )  # sums since the last logged training row

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read state.json of a checkpoint."""
        return cls(**json.loads((folder / "state.json").read_text(encoding="utf-8")))


def save_checkpoint(
    root: Path,
    model: SpeechModel,
    optimizer: torch.optim.Optimizer,
    state: TrainState,
    config: Mapping[str, object],
    *,
    keep_last: int,
) -> None:
    """Save everything a run needs to go on.

    Then drop all but the last `keep_last`, by step number.
    """
    with whole_folder(root / f"step_{state.step:06d}") as folder:
        save_weights(folder, model, config)
        save_file(optimizer_tensors(model, optimizer), folder / "optimizer.safetensors")
        write_whole(folder / "state.json", json.dumps(asdict(state)))
    for old in checkpoints(root)[:-keep_last]:
        shutil.rmtree(old)


def save_best(
    root: Path,
    model: SpeechModel,
    state: TrainState,
    config: Mapping[str, object],
    val_clips: Mapping[str, tuple[float, int]],
) -> None:
    """Save the weights of the best validation so far.

    With each validation clip's share of it ([nats, frames]).
    """
    with whole_folder(root / "best") as folder:
        save_weights(folder, model, config)
        write_whole(folder / "state.json", json.dumps(asdict(state)))
        write_whole(folder / "val_clips.json", json.dumps(val_clips))


def save_weights(folder: Path, model: SpeechModel, config: Mapping[str, object]) -> None:
    """Write weights (or adapters) and config.json under the published names.

    Any folder of them is a base for another run.
    """
    if lora.has_adapters(model):
        lora.save_adapters(folder, model)
    else:
        tensors = {
            name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()
        }
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_whole(folder / "config.json", json.dumps(dict(config), indent=2))


def checkpoints(root: Path) -> list[Path]:
    """Return the complete checkpoints of a run, oldest first."""
    return sorted(root.glob("step_*"), key=lambda p: int(p.name.removeprefix("step_")))


def load_checkpoint(
    folder: Path, model: SpeechModel, optimizer: torch.optim.Optimizer
) -> TrainState:
    """Restore weights and optimiser in place and return where the run stood."""
    if lora.has_adapters(model):
        lora.put_back(lora.read_adapters(folder), model)
    else:
        model.load_state_dict(load_file(folder / "model.safetensors"))
    tensors = load_file(folder / "optimizer.safetensors")
    if tensors:
        load_optimizer_tensors(model, optimizer, tensors)
    return TrainState.read(folder)
