"""CSM checkpoints from a hub name, a folder, a run folder or a file.

In Sesame's layout or in that of transformers.
"""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
)
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from csm_ft.config import ConfigError
from csm_ft.families import lora
from csm_ft.families.csm.config import PRESETS, CsmSize, TransformerSize
from csm_ft.families.csm.export import layouts
from csm_ft.families.csm.model import CsmModel, empty_model

_CACHE_MASKS = (
    "backbone_causal_mask",
    "decoder_causal_mask",
)  # Sesame's setup_caches leaves them in the state dict
_SHARDED = ("model.safetensors.index.json", "transformers.safetensors.index.json")
_NAMES = (
    "model.safetensors",
    *_SHARDED,
    "ckpt.pt",
    lora.WEIGHTS,
)  # in this order: Sesame's repository has the first, third and fourth


@dataclass(frozen=True)
class Checkpoint:
    """The local files behind a name."""

    files: tuple[Path, ...]
    config: Path | None  # config.json beside them

    @property
    def is_adapter(self) -> bool:
        """Whether these are adapters, and the weights are somewhere else."""
        return self.files[0].name == lora.WEIGHTS

    @property
    def where(self) -> str:
        """Name for messages."""
        return str(self.files[0] if len(self.files) == 1 else self.files[0].parent)


def locate(name: str) -> Checkpoint:
    """Find the files of a hub name, checkpoint folder, run folder or file.

    ConfigError says what was looked for.
    """
    path = Path(name)
    if path.is_file():
        if path.suffix not in (".safetensors", ".pt"):
            raise ConfigError(
                f"{path}: weights are read from .safetensors, or from ckpt.pt (tensors only); name"
                " such a file or its folder"
            )
        return Checkpoint((path,), _beside(path))
    if path.is_dir():
        for folder in (path, path / "checkpoints" / "best", path / "best"):
            found = next((folder / file for file in _NAMES if (folder / file).is_file()), None)
            if found is not None:
                return Checkpoint(
                    _shards(found) if found.name in _SHARDED else (found,), _beside(found)
                )
        raise ConfigError(
            f"{path}: none of {', '.join(_NAMES)} in this folder, nor in its checkpoints/best"
        )
    if path.is_absolute() or name.startswith(".") or name.count("/") != 1:
        raise ConfigError(f"{name}: no such file or folder, and not a hub name (owner/name)")
    return _download(name)


def load_model(name: str) -> CsmModel:
    """Load a checkpoint as fp32 on the CPU; adapters are merged into the base that they name.

    Raises ConfigError for a missing or foreign file, and for tensors that are missing, unknown or
    of another shape.
    """
    found = locate(name)
    if found.is_adapter:
        return _merged(found.files[0].parent)
    weights = _read(found.files)
    if layouts.is_transformers_layout(weights):
        size = layouts.size_of_transformers(_config(found.config, found.where), str(found.config))
        weights = layouts.from_transformers(weights, size)
    else:
        size = (
            CsmSize.from_json(_config(found.config, found.where), str(found.config))
            if found.config
            else _size_of(weights, found.where)
        )
    model = empty_model(size)
    _check(model.state_dict(), weights, found.where)
    # Tensor by tensor, and away with the old one: a second copy of six gigabytes would be held
    # otherwise.
    model.load_state_dict(
        {
            name: weights.pop(name).to(torch.float32, copy=True).contiguous()
            for name in list(weights)
        },
        assign=True,
    )
    return model.requires_grad_(True)


def _merged(folder: Path) -> CsmModel:
    adapters = lora.read_adapters(folder)
    try:
        model = load_model(adapters.base)
    except ConfigError as error:
        raise ConfigError(
            f"{folder}: adapters for the base {adapters.base!r}, which {lora.CONFIG} names and"
            f" cannot be loaded; put it there, or correct base_model_name_or_path. {error}"
        ) from error
    if layouts.is_transformers_adapter(adapters.tensors):
        tensors, config = layouts.adapter_from_transformers(
            adapters.tensors, adapters.config, model.size
        )
        adapters = replace(adapters, tensors=tensors, config=config)
    lora.merge(adapters, model)
    return model


def _config(path: Path | None, where: str) -> dict[str, Any]:
    if path is None:
        raise ConfigError(
            f"{where}: its size stands in config.json, which is not beside it; fetch it from where"
            " the weights came"
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON ({error}); fetch the checkpoint again") from error


def _beside(path: Path) -> Path | None:
    config = path.parent / "config.json"
    return config if config.is_file() else None


def _shards(index: Path) -> tuple[Path, ...]:
    """Return the files that an index names; all of them must be there."""
    names = _shard_names(index)
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise ConfigError(
            f"{index}: {len(missing)} of {len(names)} shards are missing, e.g. {missing[0]}; fetch"
            " the checkpoint again"
        )
    return tuple(index.parent / name for name in names)


def _shard_names(index: Path) -> list[str]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ConfigError(f"{index}: not an index of shards ({error!r}); fetch it again") from error
    if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise ConfigError(
            f"{index}: names no files, or files outside of its folder: {names[:3]}; fetch it again"
        )
    return names


def _read(files: Sequence[Path]) -> dict[str, Tensor]:
    """Read all named tensors.

    A sweep's worker reads them again for each trial, which the system's page cache makes cheap.
    """
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            values: Any = (
                load_file(file)
                if file.suffix == ".safetensors"
                else torch.load(file, map_location="cpu", weights_only=True)
            )
        except (
            SafetensorError,
            UnpicklingError,
            zipfile.BadZipFile,
            RuntimeError,
            EOFError,
            OSError,
            ValueError,
        ) as error:
            first = (
                str(error).strip().splitlines()[0][:200]
                if str(error).strip()
                else type(error).__name__
            )
            raise ConfigError(
                f"{file}: not readable as tensors ({first}); a whole, plain checkpoint is needed:"
                " fetch it again"
            ) from error
        if not isinstance(values, dict):
            raise ConfigError(
                f"{file}: holds a {type(values).__name__}, not named tensors; give a checkpoint of"
                " weights"
            )
        values = values.get(
            "model", values
        )  # checkpoints of the public trainer keep optimiser state besides
        tensors |= {
            name: value
            for name, value in values.items()
            if isinstance(value, Tensor) and name not in _CACHE_MASKS
        }
    return tensors


def _size_of(weights: Mapping[str, Tensor], where: str) -> CsmSize:
    """Return the size from tensor shapes alone.

    Known presets only, for shapes do not tell the number of heads.
    """
    try:
        vocab, width = weights["text_embeddings.weight"].shape
        heads, decoder_width, audio_vocab = weights["audio_head"].shape
    except (KeyError, ValueError) as error:
        raise ConfigError(
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
    raise ConfigError(
        f"{where}: its {name} ({layers} layers, width {dim}, feed-forward {ffn_dim}) is none of"
        f" {', '.join(PRESETS)}, and shapes do not tell the number of heads; put the checkpoint's"
        " config.json beside it"
    )


def _check(expected: Mapping[str, Tensor], actual: Mapping[str, Tensor], where: str) -> None:
    missing, unknown = (
        sorted(expected.keys() - actual.keys()),
        sorted(actual.keys() - expected.keys()),
    )
    if missing or unknown:
        raise ConfigError(
            f"{where}: not the tensors of a CSM checkpoint: {len(missing)} missing (e.g."
            f" {missing[:2]}), {len(unknown)} unknown (e.g. {unknown[:2]})"
        )
    for name, tensor in expected.items():
        if tensor.shape != actual[name].shape:
            raise ConfigError(
                f"{where}: {name} is {tuple(actual[name].shape)}, its config.json says"
                f" {tuple(tensor.shape)}"
            )


def _download(name: str) -> Checkpoint:
    """Fetch the files of a hub repository, in any layout.

    Or take them from the hub's cache on this disk.
    """
    try:
        cached = [file for file in _NAMES if isinstance(try_to_load_from_cache(name, file), str)]
        found = next(
            (path for file in cached[:1] or _NAMES if (path := _fetch(name, file)) is not None),
            None,
        )
        if found is None:
            raise ConfigError(
                f"{name}: this repository has none of {', '.join(_NAMES)}; name one with the"
                " weights of a CSM"
            )
        if found.name == lora.WEIGHTS:
            _fetch(name, lora.CONFIG)
        files = (
            tuple(Path(hf_hub_download(name, shard)) for shard in _shard_names(found))
            if found.name in _SHARDED
            else (found,)
        )
        return Checkpoint(files, _fetch(name, "config.json"))
    except GatedRepoError as error:
        raise ConfigError(
            f"{name} is gated: accept its licence on its hub page, then `hf auth login`; or give a"
            " local folder"
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"{name}: not on this disk, and the hub cannot be reached ({type(error).__name__})."
            " Ways out: check the name and the network; or download the repository elsewhere and"
            " give its folder; or train_from_scratch"
        ) from error


def _fetch(name: str, file: str) -> Path | None:
    """Return the local path of one file of a repository.

    None if the repository is known not to have it.
    """
    try:
        return Path(hf_hub_download(name, file))
    except LocalEntryNotFoundError:
        if file in (
            "config.json",
            lora.CONFIG,
        ):  # the weights were found, so what is missing was never there
            return None
        raise
    except EntryNotFoundError:
        return None
