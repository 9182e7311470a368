"""Loading CSM checkpoints from a hub name, a folder, a run folder or a file.

Reads Sesame's layout and that of transformers, and adapters of either.
"""

import argparse
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PosixPath
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from csm_ft import hub
from csm_ft.errors import ConfigError, HubError, WeightsError, first_line
from csm_ft.families import lora
from csm_ft.families.csm.export import layouts
from csm_ft.families.csm.model import CsmModel, empty_model
from csm_ft.families.csm.size import PRESETS, CsmSize, TransformerSize
from csm_ft.families.model import check_tensors
from csm_ft.runs.folder import RunFolder, SweepFolder

# Sesame's setup_caches leaves these in the state dict.
_CACHE_MASKS = ("backbone_causal_mask", "decoder_causal_mask")
_SHARDED = ("model.safetensors.index.json", "transformers.safetensors.index.json")
# In order of preference: Sesame's repository has the first, third and fourth.
_NAMES = ("model.safetensors", *_SHARDED, "ckpt.pt", lora.WEIGHTS)
_OTHERWISE = (
    "download the repository elsewhere and give its folder, or train from random weights with"
    " --train_from_scratch"
)


# What safetensors and torch.load raise for a damaged file.
_UNREADABLE = (
    *(SafetensorError, UnpicklingError, zipfile.BadZipFile),
    *(RuntimeError, EOFError, OSError, ValueError),
)


@dataclass(frozen=True)
class Checkpoint:
    """The local files behind a name."""

    files: tuple[Path, ...]
    config: Path | None  # config.json beside them

    @property
    def is_adapter(self) -> bool:
        """Whether these are adapters, whose base has the weights."""
        return self.files[0].name == lora.WEIGHTS

    @property
    def where(self) -> str:
        """The file, or the folder of several, for messages."""
        return str(self.files[0] if len(self.files) == 1 else self.files[0].parent)


def locate(name: str) -> Checkpoint:
    """Find the files of a hub name, checkpoint folder, run folder or file.

    Raises WeightsError, which names what was looked for, when there are none, and HubError when the
    hub cannot be reached.
    """
    path = Path(name)
    if path.is_file():
        if path.suffix not in (".safetensors", ".pt"):
            raise WeightsError(
                f"{path}: weights are read from .safetensors, or from ckpt.pt (tensors only); name"
                " such a file or its folder"
            )
        return Checkpoint((path,), _beside(path))
    if path.is_dir():
        best = RunFolder(path).best
        for folder in (path, best, SweepFolder(path).best):
            found = next((folder / file for file in _NAMES if (folder / file).is_file()), None)
            if found is not None:
                files = _shards(found) if found.name in _SHARDED else (found,)
                return Checkpoint(files, _beside(found))
        raise WeightsError(
            f"{path}: none of {', '.join(_NAMES)} in this folder, nor in its"
            f" {best.relative_to(path)}"
        )
    if not hub.is_hub_name(name):
        raise WeightsError(f"{name}: no such file or folder, and not a hub name (owner/name)")
    return _download(name)


def load_model(name: str) -> CsmModel:
    """Load a checkpoint as fp32 on the CPU; adapters are merged into the base that they name.

    Raises WeightsError for a missing or foreign file, and for tensors that are missing, unknown or
    of another shape.
    """
    model = empty_model(size_of(name))
    load_weights(model, name)
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


def _beside(path: Path) -> Path | None:
    config = path.parent / "config.json"
    return config if config.is_file() else None


def _shards(index: Path) -> tuple[Path, ...]:
    """Return the files that an index names; raises WeightsError when one is missing."""
    names = _shard_names(index)
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise WeightsError(
            f"{index}: {len(missing)} of {len(names)} shards are missing, e.g. {missing[0]}; fetch"
            " the checkpoint again"
        )
    return tuple(index.parent / name for name in names)


def _shard_names(index: Path) -> list[str]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise WeightsError(
            f"{index}: not an index of shards ({error!r}); fetch it again"
        ) from error
    if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise WeightsError(
            f"{index}: names no files, or files outside of its folder: {names[:3]}; fetch it again"
        )
    return names


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


def _download(name: str) -> Checkpoint:
    """Return the files of a hub repository, in any layout, from the local cache or the hub."""
    # A layout that is cached goes first: it works offline, and no second one is downloaded.
    found = next(filter(None, (hub.cached(name, file) for file in _NAMES)), None)
    for file in () if found else _NAMES:
        found = hub.fetch_if_present(name, file, otherwise=_OTHERWISE)
        if found is not None:
            break
    if found is None:
        raise WeightsError(
            f"{name}: this repository has none of {', '.join(_NAMES)}; name one with the weights of"
            " a CSM"
        )
    if found.name == lora.WEIGHTS:
        _fetch_config(name, lora.CONFIG)
    files = (found,)
    if found.name in _SHARDED:
        shards = _shard_names(found)
        files = tuple(
            hub.cached(name, shard) or hub.fetch(name, shard, otherwise=_OTHERWISE)
            for shard in shards
        )
    return Checkpoint(files, _fetch_config(name, "config.json"))


def _fetch_config(name: str, file: str) -> Path | None:
    """Return a small file from the repository of weights that were found; None if it has none."""
    try:
        return hub.cached(name, file) or hub.fetch_if_present(name, file, otherwise=_OTHERWISE)
    except HubError:
        # The weights are cached, so a file that is not cached was never in the repository.
        return None
