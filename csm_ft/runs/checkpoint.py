"""Checkpoints: folders of safetensors and JSON, written atomically, without pickle.

Runs resume from `step_000500/{model.safetensors, optimizer.safetensors, config.json, state.json}`;
`best/` has no optimiser. With a schedule-free optimiser or --ema_decay, model.safetensors holds the
averaged weights, and optimizer.safetensors those that training goes on at. With method lora,
adapters in peft's format replace model.safetensors. Of a run of several ranks the files are the
same, whole and written by one of them, so that any number of ranks resumes from them.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file
from torch import Tensor

from csm_ft.atomic import check_room, whole_folder, write_whole
from csm_ft.families import lora
from csm_ft.families.model import SpeechModel, save_tensors
from csm_ft.families.trained_rows import join_tensors, split_tensors, trained_tables
from csm_ft.ranks import ALONE, Ranks
from csm_ft.runs.averaging import AVERAGE, TRAINED, exchange, has_average
from csm_ft.runs.folder import RunFolder
from csm_ft.runs.loss_scale import LossScale
from csm_ft.runs.stopping import Improvement

_STATE, _WEIGHTS = "state.json", "model.safetensors"


@dataclass
class TrainState:
    """The progress of a run.

    Data order and random draws are functions of seed, epoch and step, so that no generator state
    is needed.
    """

    step: int = 0
    examples: int = 0
    epoch: float = 0.0
    train_sec: float = 0.0  # time in optimiser steps, over all sessions
    best: dict[str, Any] | None = None  # metrics of the best validation, step, examples, epoch
    metrics: dict[str, float] = field(default_factory=dict)  # of the last validation
    improvement: Improvement | None = None  # the last one, as --patience counts them
    stopped: bool = False  # ended by the reporter
    metrics_bytes: int = 0  # length of metrics.jsonl when this was saved
    window: dict[str, float] = field(default_factory=dict)  # sums since the last logged row
    loss_scale: LossScale = field(default_factory=LossScale)

    @classmethod
    def read(cls, folder: Path | None, ranks: Ranks = ALONE) -> Self:
        """Read the state.json of a checkpoint, also of earlier versions; None = a new run."""
        values = ranks.tell(
            lambda: json.loads((folder / _STATE).read_text(encoding="utf-8")) if folder else {}
        )
        last = values.pop("final_val_loss", None)  # before 0.3, instead of metrics
        if last is not None:
            values.setdefault("metrics", {"val_loss": last})
        if values.get("improvement") is not None:
            values["improvement"] = Improvement(*values["improvement"])
        values["loss_scale"] = LossScale(**values.get("loss_scale", {}))
        return cls(**values)

    @staticmethod
    def exists(folder: Path) -> bool:
        """Tell whether a folder is a checkpoint of a run."""
        return (folder / _STATE).is_file()


@dataclass(frozen=True)
class Trained:
    """What a checkpoint saves besides the TrainState."""

    model: SpeechModel
    optimizer: torch.optim.Optimizer
    config: Mapping[str, object]  # config.json
    ranks: Ranks = ALONE


def save_checkpoint(run: RunFolder, trained: Trained, state: TrainState, *, keep_last: int) -> None:
    """Save a checkpoint to resume from, then delete all but the last `keep_last`."""
    weights = weights_of(trained.model, trained.ranks)
    optimizer = optimizer_tensors(trained.model, trained.optimizer, trained.ranks)
    if not trained.ranks.is_writer:
        return
    target = run.step_folder(state.step)
    check_room(target, _num_bytes(weights.values()) + _num_bytes(optimizer.values()))
    with whole_folder(target) as folder:
        save_weights(folder, trained.model, trained.config, weights)
        save_tensors(optimizer, folder / "optimizer.safetensors")
        write_whole(folder / _STATE, json.dumps(asdict(state)))
    for old in run.step_folders()[:-keep_last]:
        shutil.rmtree(old)


def save_best(
    run: RunFolder,
    trained: Trained,
    state: TrainState,
    val_clips: Mapping[str, tuple[float, float]],
) -> None:
    """Save the weights of the best validation so far, and each example's share of its loss.

    `val_clips` maps the id of an example to (nats, targets).
    """
    weights = weights_of(trained.model, trained.ranks)
    if not trained.ranks.is_writer:
        return
    check_room(run.best, _num_bytes(weights.values()))
    with whole_folder(run.best) as folder:
        save_weights(folder, trained.model, trained.config, weights)
        write_whole(folder / _STATE, json.dumps(asdict(state)))
        write_whole(folder / run.best_val_clips.name, json.dumps(val_clips))


def update_best(
    run: RunFolder, best: Mapping[str, Any], val_clips: Mapping[str, tuple[float, float]]
) -> None:
    """Replace what is known of the best weights, once they have been measured again."""
    state = replace(TrainState.read(run.best), best=dict(best))
    write_whole(run.best_val_clips, json.dumps(val_clips))
    write_whole(run.best / _STATE, json.dumps(asdict(state)))  # last: it says that all is there


def load_best(run: RunFolder, model: SpeechModel, ranks: Ranks = ALONE) -> None:
    """Put the weights of the best validation into the model; only the writer has them; collective.

    Raises WeightsError for adapters that cannot be read.
    """
    saved: Mapping[str, Tensor] = {}
    if ranks.is_writer:
        has_adapters = lora.has_adapters(model)
        saved = lora.read_named(run.best) if has_adapters else _read_weights(run.best, model)
    with torch.no_grad():
        for name, tensor in _kept(model).items():
            tensor.copy_(ranks.spread(saved.get(name), tensor))


def weights_of(model: SpeechModel, ranks: Ranks = ALONE) -> dict[str, Tensor]:
    """Return the weights, or adapters, that a checkpoint keeps, whole on the writer; collective."""
    whole = {name: ranks.whole(tensor) for name, tensor in _kept(model).items()}
    return join_tensors(model, whole) if ranks.is_writer else whole


def _kept(model: SpeechModel) -> Mapping[str, Tensor]:
    return lora.tensors_of(model) if lora.has_adapters(model) else model.state_dict()


def save_weights(
    folder: Path,
    model: SpeechModel,
    config: Mapping[str, object],
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write weights (or adapters) and config.json; any such folder is a base for another run.

    `weights` are those of the model, where it has only a part of them.
    """
    weights = weights_of(model) if weights is None else weights
    if lora.has_adapters(model):
        lora.save_adapters(folder, model, weights)
    else:
        save_tensors(weights, folder / _WEIGHTS, format="pt")
    write_whole(folder / "config.json", json.dumps(dict(config), indent=2))


def weights_bytes(model: SpeechModel) -> int:
    """Return the bytes of the weights, or adapters, as they are saved."""
    if lora.has_adapters(model):
        return _num_bytes(p for p in model.parameters() if p.requires_grad)
    rows = [module.rows for _, module in trained_tables(model)]  # saved in their tables
    return _num_bytes(model.state_dict().values()) - _num_bytes(rows)


def _num_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def load_weights(folder: Path, model: SpeechModel) -> None:
    """Restore weights, or adapters, in place."""
    if lora.has_adapters(model):
        lora.put_back(lora.read_adapters(folder), model)
    else:
        model.load_state_dict(_read_weights(folder, model))


def _read_weights(folder: Path, model: SpeechModel) -> dict[str, Tensor]:
    return split_tensors(model, load_file(folder / _WEIGHTS))


def load_optimizer(
    folder: Path | None,
    model: SpeechModel,
    optimizer: torch.optim.Optimizer,
    ranks: Ranks = ALONE,
) -> None:
    """Restore the optimiser in place; only the writer knows the folder; collective."""
    tensors = load_file(folder / "optimizer.safetensors") if folder else {}
    if ranks.any(value=bool(tensors)):  # none in a checkpoint before the first step
        load_optimizer_tensors(model, optimizer, tensors, ranks)


def optimizer_tensors(
    model: SpeechModel, optimizer: torch.optim.Optimizer, ranks: Ranks = ALONE
) -> dict[str, Tensor]:
    """Return the optimiser's state as `<parameter name>.<entry>`, for safetensors; collective.

    The numbers that a schedule-free optimiser keeps of its groups are `group.<number>.<entry>`.
    """
    tensors = {}
    for name, parameter in model.named_parameters():
        for entry, value in optimizer.state.get(parameter, {}).items():
            for part, values in _parts(value.detach()):
                whole = ranks.whole(values)
                # A scalar is stored as [1]; loading restores its shape.
                tensors[f"{name}.{entry}{part}"] = whole.reshape(whole.shape or (1,)).contiguous()
    if tensors:
        for number, group, entry in _numbers(optimizer):
            value = torch.tensor([group[entry]], dtype=torch.float64)
            tensors[f"group.{number}.{entry}"] = value
    return tensors


def load_optimizer_tensors(
    model: SpeechModel,
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    ranks: Ranks = ALONE,
) -> None:
    """Restore the tensors of `optimizer_tensors`; raises KeyError when one is missing.

    With averaged weights, training goes on at those that they were saved beside.
    """
    numbers = list(_numbers(optimizer))
    entries = ("z", "exp_avg_sq", TRAINED) if numbers else ("step", "exp_avg", "exp_avg_sq")
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        state = _empty_state(optimizer, parameter, entries)
        if has_average(optimizer):
            state[TRAINED] = torch.zeros_like(parameter.detach())
        for entry, tensor in state.items():
            for part, values in _parts(tensor):
                found = tensors[f"{name}.{entry}{part}"] if ranks.is_writer else None
                whole = None if found is None else found.reshape(values.shape)
                values.copy_(ranks.spread(whole, values))
        optimizer.state[parameter] = state
    for number, group, entry in numbers:
        value = ranks.tell(lambda name=f"group.{number}.{entry}": tensors[name].item())
        group[entry] = type(group[entry])(value)
    if numbers:
        mode: Any = optimizer
        for group in optimizer.param_groups:
            group["train_mode"] = False  # the model was saved with the averaged weights
        mode.train()
    else:
        exchange(optimizer, TRAINED, AVERAGE)


def _empty_state(
    optimizer: torch.optim.Optimizer, parameter: Tensor, entries: Iterable[str]
) -> dict[str, Tensor]:
    """Return the state of a parameter, sharded as it is, to be filled in place."""
    own = getattr(optimizer, "empty_state", None)  # of one whose state has another form
    if own is not None:
        return own(parameter.detach())
    scalar = torch.zeros((), device=parameter.device)
    like = parameter.detach()
    return {
        entry: scalar if entry == "step" else torch.zeros_like(like, dtype=torch.float32)
        for entry in entries
    }


def _parts(value: Tensor) -> list[tuple[str, Tensor]]:
    """Return the plain tensors of an entry, by the end of their names: 8-bit codes have a scale."""
    codes: Any = value
    is_8bit = hasattr(value, "codes")
    return [(".codes", codes.codes), (".scale", codes.scale)] if is_8bit else [("", value)]


def _numbers(optimizer: torch.optim.Optimizer) -> Iterator[tuple[int, dict[str, Any], str]]:
    """Yield (number of a group, the group, an entry of it that a checkpoint keeps)."""
    for number, group in enumerate(optimizer.param_groups):
        for entry in getattr(optimizer, "saved_numbers", ()):
            yield number, group, entry
