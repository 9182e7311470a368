"""CSM checkpoints in Sesame's layout: from a hub name, a folder, a run folder or a .safetensors file; 187 tensors for csm-1b."""

import json
import struct
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from csm_ft.config import ConfigError
from csm_ft.families.csm.config import PRESETS, CsmSize, TransformerSize
from csm_ft.families.csm.model import CsmModel, empty_model

_CACHE_MASKS = ("backbone_causal_mask", "decoder_causal_mask")  # Sesame's setup_caches leaves them in the state dict


def locate(name: str) -> Path:
    """Return the local .safetensors file behind a hub name, checkpoint folder, run folder or file; ConfigError says what was looked for."""
    path = Path(name)
    if path.is_file():
        if path.suffix != ".safetensors":
            raise ConfigError(
                f"{path}: weights are read from .safetensors files only (no pickle); convert it, or name a folder with model.safetensors"
            )
        return path
    if path.is_dir():
        for candidate in (path, path / "checkpoints" / "best", path / "best"):
            if (candidate / "model.safetensors").is_file():
                return candidate / "model.safetensors"
        raise ConfigError(f"{path}: no model.safetensors in this folder, nor in its checkpoints/best")
    if path.is_absolute() or name.startswith(".") or name.count("/") != 1:
        raise ConfigError(f"{name}: no such file or folder, and not a hub name (owner/name)")
    return _download(name)


def load_model(name: str) -> CsmModel:
    """Load a checkpoint as fp32 on the CPU.

    Raises ConfigError for a missing or foreign file, and for tensors that are missing, unknown or of another shape.
    """
    path = locate(name)
    size = read_size(path)
    model = empty_model(size)
    weights = _read(str(path), path.stat().st_mtime_ns)
    _check(model.state_dict(), weights, path)
    model.load_state_dict({k: v.to(torch.float32, copy=True) for k, v in weights.items()}, assign=True)
    return model.requires_grad_(True)


def read_size(path: Path) -> CsmSize:
    """Return the size of a checkpoint from config.json beside it, else from its tensor shapes (known presets only)."""
    config = path.parent / "config.json"
    if config.is_file():
        try:
            return CsmSize.from_json(json.loads(config.read_text(encoding="utf-8")), str(config))
        except json.JSONDecodeError as error:
            raise ConfigError(f"{config}: not JSON ({error}); fetch the checkpoint again") from error
    shapes = _shapes(path)
    try:
        vocab, width = shapes["text_embeddings.weight"]
        heads, decoder_width, audio_vocab = shapes["audio_head"]
    except (KeyError, ValueError) as error:
        raise ConfigError(f"{path}: not a CSM checkpoint in Sesame's layout (no text_embeddings.weight and audio_head)") from error
    transformers = {name: _preset(shapes, name, dim, path) for name, dim in (("backbone", width), ("decoder", decoder_width))}
    return CsmSize(transformers["backbone"], transformers["decoder"], vocab, audio_vocab, heads + 1)


def _preset(shapes: Mapping[str, tuple[int, ...]], name: str, dim: int, path: Path) -> TransformerSize:
    layers = len({key.split(".")[2] for key in shapes if key.startswith(f"{name}.layers.")})
    ffn_dim = shapes.get(f"{name}.layers.0.mlp.w1.weight", (0,))[0]
    for preset in PRESETS.values():
        if (preset.layers, preset.dim, preset.ffn_dim) == (layers, dim, ffn_dim):
            return preset
    raise ConfigError(
        f"{path}: its {name} ({layers} layers, width {dim}, feed-forward {ffn_dim}) is none of {', '.join(PRESETS)}, "
        "and shapes do not tell the number of heads; put the checkpoint's config.json beside it"
    )


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read only the header of a safetensors file: 8 bytes of length, then JSON."""
    try:
        with path.open("rb") as file:
            header: dict[str, Any] = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    except (struct.error, ValueError, KeyError, MemoryError, OverflowError) as error:
        raise ConfigError(f"{path}: not a readable .safetensors file ({error}); fetch it again") from error


@lru_cache(maxsize=1)
def _read(path: str, _mtime_ns: int) -> Mapping[str, Tensor]:
    """Keep the last base weights: a sweep's worker starts every trial from the same ones."""
    try:
        return {name: tensor for name, tensor in load_file(path).items() if name not in _CACHE_MASKS}
    except SafetensorError as error:
        raise ConfigError(f"{path}: not a readable .safetensors file ({error}); fetch it again") from error


def _check(expected: Mapping[str, Tensor], actual: Mapping[str, Tensor], path: Path) -> None:
    missing, unknown = sorted(expected.keys() - actual.keys()), sorted(actual.keys() - expected.keys())
    if missing or unknown:
        raise ConfigError(
            f"{path}: not the tensors of a CSM checkpoint in Sesame's layout: {len(missing)} missing (e.g. {missing[:2]}), "
            f"{len(unknown)} unknown (e.g. {unknown[:2]})"
        )
    for name, tensor in expected.items():
        if tensor.shape != actual[name].shape:
            raise ConfigError(f"{path}: {name} is {tuple(actual[name].shape)}, its config.json says {tuple(tensor.shape)}")


def _download(name: str) -> Path:
    try:
        hf_hub_download(name, "config.json")
        return Path(hf_hub_download(name, "model.safetensors"))
    except GatedRepoError as error:
        raise ConfigError(f"{name} is gated: accept its licence on its hub page, then `hf auth login`; or give a local folder") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        raise ConfigError(
            f"{name}: not on this disk, and the hub cannot be reached ({type(error).__name__}). Ways out: check the name and the network; "
            "or download the repository elsewhere and give its folder; or train_from_scratch"
        ) from error
