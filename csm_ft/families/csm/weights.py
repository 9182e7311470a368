"""Loading CSM checkpoints from a hub name, a folder, a run folder or a file.

Reads Sesame's layout and that of transformers, and adapters of either.
"""

import argparse
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PosixPath
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from csm_ft.errors import ConfigError, WeightsError, first_line
from csm_ft.families import lora
from csm_ft.families.checkpoint_files import Checkpoint, locate
from csm_ft.families.csm.export import layouts
from csm_ft.families.csm.model import CsmModel, empty_model
from csm_ft.families.csm.size import PRESETS, CsmSize, TransformerSize
from csm_ft.families.model import check_tensors

# Sesame's setup_caches leaves these in the state dict.
_CACHE_MASKS = ("backbone_causal_mask", "decoder_causal_mask")


# What safetensors and torch.load raise for a damaged file.
_UNREADABLE = (
    *(SafetensorError, UnpicklingError, zipfile.BadZipFile),
    *(RuntimeError, EOFError, OSError, ValueError),
)


def load_model(name: str) -> CsmModel:
    """Load a checkpoint as fp32 on the CPU; adapters are merged into the base that they name.

    Raises WeightsError for a missing or foreign file, and for tensors that are missing, unknown or
    of another shape.
    """
    model = empty_model(size_of(name))
    load_weights(model, name)
    model.join_weights()
    return model


def size_of(name: str) -> CsmSize:
    """Return the size of a checkpoint, by its config.json or else by the shapes of its tensors.

    Raises WeightsError as load_model does.
    """
    found = locate(name)
    if found.is_adapter:
        adapters = _adapters(found)
        try:
            return size_of(adapters.base)
        except ConfigError as error:
            raise WeightsError(_unusable_base(adapters, error)) from error
    if found.config is None:
        weights = _read(found.files)
        if layouts.is_transformers_layout(weights):
            raise WeightsError(
                f"{found.where}: its size is in config.json, which is not beside it; fetch it from"
                " where the weights came"
            )
        return _size_of(weights, found.where)
    config = _read_config(found.config)
    # The published config.json describes both layouts; Sesame's keys are asked first.
    if "depth_decoder_config" in config and "backbone_flavor" not in config:
        return layouts.size_of_transformers(config, str(found.config))
    return CsmSize.from_json(config, str(found.config))


def load_weights(model: CsmModel, name: str) -> None:
    """Load a checkpoint into an empty model of its size; raises WeightsError as load_model does."""
    found = locate(name)
    if found.is_adapter:
        _load_merged(model, _adapters(found))
        return
    weights = _read(found.files)
    if layouts.is_transformers_layout(weights):
        weights = layouts.from_transformers(weights, model.size)
    way_out = "fetch the checkpoint again, with the config.json that belongs to it"
    check_tensors(model.state_dict(), weights, found.where, way_out=way_out)
    # Each old tensor is dropped as it is converted, so six gigabytes are never held twice.
    tensors = {
        name: weights.pop(name).to(torch.float32, copy=True).contiguous() for name in list(weights)
    }
    model.load_state_dict(tensors, assign=True)
    model.requires_grad_(True)


def _adapters(found: Checkpoint) -> lora.Adapters:
    return lora.read_adapters(found.files[0].parent)


def _load_merged(model: CsmModel, adapters: lora.Adapters) -> None:
    """Load the base of adapters and merge the adapters into it."""
    try:
        load_weights(model, adapters.base)
    except ConfigError as error:
        raise WeightsError(_unusable_base(adapters, error)) from error
    if layouts.is_transformers_adapter(adapters.tensors):
        tensors, config = layouts.adapter_from_transformers(
            adapters.tensors, adapters.config, model.size
        )
        adapters = replace(adapters, tensors=tensors, config=config)
    lora.merge(adapters, model)


def _unusable_base(adapters: lora.Adapters, error: ConfigError) -> str:
    return (
        f"{adapters.folder}: adapters for the base {adapters.base!r}, which {lora.CONFIG} names and"
        f" cannot be loaded; put it there, or correct base_model_name_or_path. {error}"
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"{path}: not JSON ({error}); fetch the checkpoint again") from error


def _read(files: Sequence[Path]) -> dict[str, Tensor]:
    """Read the named tensors of all files.

    A sweep's worker reads them again for each trial, which the system's page cache makes cheap.
    """
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            values: Any = load_file(file) if file.suffix == ".safetensors" else _read_pickle(file)
        except ConfigError:
            raise
        except _UNREADABLE as error:
            raise WeightsError(
                f"{file}: not readable as tensors ({first_line(error)[:200]}); a whole, plain"
                " checkpoint is needed: fetch it again"
            ) from error
        if not isinstance(values, dict):
            raise WeightsError(
                f"{file}: holds a {type(values).__name__}, not named tensors; give a checkpoint of"
                " weights"
            )
        # Checkpoints of the public trainer also hold the optimiser's state.
        values = values.get("model", values)
        tensors |= {
            name: value
            for name, value in values.items()
            if isinstance(value, Tensor) and name not in _CACHE_MASKS
        }
    return tensors


def _read_pickle(file: Path) -> Any:
    """Read a file of torch.save without running anything in it.

    torch's restricted unpickler builds tensors and plain values, and here also argparse.Namespace
    and Path, in which the public trainer keeps its options: neither runs code when it is built.
    Raises WeightsError that names what else the file would import.
    """
    with torch.serialization.safe_globals([argparse.Namespace, PosixPath]):
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except UnpicklingError as error:
            foreign = _foreign_imports(file)
            if not foreign:
                raise
            copy = str(file.with_suffix(".tensors.pt"))
            raise WeightsError(
                f"{file}: besides tensors it holds {', '.join(foreign)}, and reading that could run"
                " code of the file, so nothing was read. If you trust where it comes from, save its"
                " tensors alone, with the program that wrote it installed:\n"
                f"  state = torch.load({str(file)!r}, map_location='cpu', weights_only=False)\n"
                f"  torch.save(state.get('model', state), {copy!r})\n"
                "and name that file"
            ) from error


def _foreign_imports(file: Path) -> list[str]:
    """Return what unpickling a file would import and is not allowed; nothing is imported."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file))
    except (*_UNREADABLE, AttributeError, IndexError, KeyError):
        return []


def _size_of(weights: Mapping[str, Tensor], where: str) -> CsmSize:
    """Return the size by the shapes of the tensors alone.

    It must be made of presets, because shapes do not tell the number of heads.
    """
    try:
        vocab, width = weights["text_embeddings.weight"].shape
        heads, decoder_width, audio_vocab = weights["audio_head"].shape
    except (KeyError, ValueError) as error:
        raise WeightsError(
            f"{where}: not a CSM checkpoint in Sesame's layout (no text_embeddings.weight and"
            " audio_head)"
        ) from error
    transformers = {
        name: _preset(weights, name, dim, where)
        for name, dim in (("backbone", width), ("decoder", decoder_width))
    }
    return CsmSize(transformers["backbone"], transformers["decoder"], vocab, audio_vocab, heads + 1)


def _preset(weights: Mapping[str, Tensor], name: str, dim: int, where: str) -> TransformerSize:
    layers = len({key.split(".")[2] for key in weights if key.startswith(f"{name}.layers.")})
    first = weights.get(f"{name}.layers.0.mlp.w1.weight")
    ffn_dim = len(first) if first is not None else 0
    for preset in PRESETS.values():
        if (preset.layers, preset.dim, preset.ffn_dim) == (layers, dim, ffn_dim):
            return preset
    raise WeightsError(
        f"{where}: its {name} ({layers} layers, width {dim}, feed-forward {ffn_dim}) is none of"
        f" {', '.join(PRESETS)}, and shapes do not tell the number of heads; put the checkpoint's"
        " config.json beside it"
    )
