"""Moshi's checkpoints: the hub's layout, the moshi package's, and the folders of kyutai's trainer.

The hub's layout keeps the projections of attention in one tensor for all steps of the depth
transformer (`in_proj_weight`, `out_proj.weight`); the package, and this program, in one for each
(`in_projs.0.weight`).
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from csm_ft.errors import WeightsError, first_line
from csm_ft.families import lora
from csm_ft.families.checkpoint_files import Checkpoint, locate
from csm_ft.families.model import check_tensors
from csm_ft.families.moshi.model import MoshiModel, empty_model
from csm_ft.families.moshi.size import MoshiSize

_JOINED = re.compile(r"(.+\.self_attn\.)(in|out)_proj(_weight|\.weight)")
_SPLIT = re.compile(r"(.+\.self_attn\.)(in|out)_projs\.(\d+)\.weight")
ADAPTERS, MERGED = "lora.safetensors", "consolidated.safetensors"  # of kyutai's trainer
HUB_NAMES_WITHOUT_CONFIG = ("kyutai/moshiko-pytorch-bf16", "kyutai/moshika-pytorch-bf16")


def load_model(name: str) -> MoshiModel:
    """Load a checkpoint as fp32 on the CPU; adapters are merged into the base that they name.

    Raises WeightsError for a missing or foreign file, and for tensors that are missing, unknown or
    of another shape.
    """
    model = empty_model(size_of(name))
    load_weights(model, name)
    return model


def size_of(name: str) -> MoshiSize:
    """Return the size of a checkpoint by its config.json; ConfigError, WeightsError."""
    found = locate(_file_of(name))
    if found.is_adapter:
        return size_of(_adapters(found).base)
    return _size(found, name)


def load_weights(model: MoshiModel, name: str) -> None:
    """Load a checkpoint into an empty model of its size; raises WeightsError as load_model does."""
    found = locate(_file_of(name))
    if found.is_adapter:
        adapters = _adapters(found)
        load_weights(model, adapters.base)
        lora.merge(adapters, model)
        return
    tensors: dict[str, Tensor] = {}
    for file in found.files:
        tensors |= _read(file)
    if any(".lora_A." in key or ".lora_B." in key for key in tensors):
        raise WeightsError(
            f"{found.where}: holds adapters of kyutai's trainer, not a model; merge them first (its"
            " save_adapters: false writes consolidated.safetensors)"
        )
    tensors = to_modules(tensors, model.size)
    way_out = "fetch the checkpoint again, with the config.json that belongs to it"
    check_tensors(model.state_dict(), tensors, found.where, way_out=way_out)
    loaded = {key: tensor.to(torch.float32).contiguous() for key, tensor in tensors.items()}
    model.load_state_dict(loaded, assign=True)
    model.requires_grad_(True)


def to_modules(tensors: Mapping[str, Tensor], size: MoshiSize) -> dict[str, Tensor]:
    """Return tensors of either layout under the names of this program's modules."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = _JOINED.fullmatch(name)
        if not match:
            found[name] = tensor
            continue
        # Steps stand one behind another in the first dimension.
        steps = max(size.steps) + 1 if name.startswith("depformer") else 1
        if tensor.shape[0] % steps:
            raise WeightsError(f"{name} {tuple(tensor.shape)} is not of {steps} steps")
        for step, part in enumerate(tensor.chunk(steps)):
            found[f"{match[1]}{match[2]}_projs.{step}.weight"] = part
    return found


def to_hub(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of this program's modules under the hub's names."""
    found: dict[str, Tensor] = {}
    steps: dict[str, dict[int, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _SPLIT.fullmatch(name)
        if match:
            suffix = "_weight" if match[2] == "in" else ".weight"
            joined = f"{match[1]}{match[2]}_proj{suffix}"
            steps.setdefault(joined, {})[int(match[3])] = tensor
        else:
            found[name] = tensor
    for name, parts in steps.items():
        found[name] = torch.cat([parts[step] for step in sorted(parts)])
    return found


def _file_of(name: str) -> str:
    """Return the file of a folder of kyutai's trainer, or the name as it is."""
    for folder in (Path(name), Path(name) / "consolidated"):
        for file in (MERGED, ADAPTERS):
            if folder.is_dir() and (folder / file).is_file():
                return str(folder / file)
    return name


def _size(found: Checkpoint, name: str) -> MoshiSize:
    if found.config is None:
        if name in HUB_NAMES_WITHOUT_CONFIG:
            return MoshiSize.from_json({}, name)
        raise WeightsError(
            f"{found.where}: its size is in config.json, which is not beside it; fetch it from"
            " where the weights came"
        )
    try:
        values: Any = json.loads(found.config.read_text(encoding="utf-8"))
        if not isinstance(values, dict) or "n_q" not in values:
            raise WeightsError(
                f"{found.config}: not the config of a Moshi (it has no n_q); name a folder in the"
                " layout of kyutai/moshiko-pytorch-bf16"
            )
        return MoshiSize.from_json(values, str(found.config))
    except (TypeError, ValueError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(
            f"{found.config}: not the config of a Moshi ({error}); fetch it again"
        ) from error


def _adapters(found: Checkpoint) -> lora.Adapters:
    return lora.read_adapters(found.files[0].parent)


def _read(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"{file}: not readable as tensors ({first_line(error)[:200]}); fetch it again"
        ) from error


def linear_names(model: MoshiModel) -> Sequence[str]:
    """Return the modules that adapters of the moshi package have pairs for: every linear one."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and ".lora_" not in name
    ]
