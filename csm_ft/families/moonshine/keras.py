"""Reading the first weights of Moonshine: three Keras files, preprocessor, encoder and decoder.

They are told apart by what is in them. Keras keeps matrices transposed, the heads of an attention
on an axis of their own, and names layers by their class and number; transformers' names are given.
"""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from csm_ft.data.token_file import hdf5
from csm_ft.errors import WeightsError
from csm_ft.families.moonshine.size import PRESETS, MoonshineSize

SUFFIX = ".weights.h5"
_Arrays = Mapping[str, NDArray[np.generic]]
_TABLE = "layers.reversible_embedding.vars.0"
_FREQUENCIES = "layers.rotary_embedding.vars.0"  # of the positions, [rotary_dim / 2]
_QUERIES = r"layers\.functional\.layers\.mha_(?:with|causal_with)_rope\.query_dense\.vars\.0"
# What a part is known by.
_PARTS = {"preprocessor": "conv1d", "decoder": "reversible_embedding", "encoder": "mha_with_rope"}
_LAYER = re.compile(r"layers\.functional(?:_(\d+))?\.layers\.(.*)")
_NAMES = (  # within a part or a layer; the first that fits
    (r"layers\.sequential\.layers\.conv1d\.", "conv1."),
    (r"layers\.sequential\.layers\.conv1d_(\d)\.", lambda m: f"conv{int(m[1]) + 1}."),
    (r"layers\.sequential\.layers\.group_normalization\.", "groupnorm."),
    (r"layers\.reversible_embedding\.", "embed_tokens."),
    (r"mha_(?:with|causal_with)_rope\.", "self_attn."),
    (r"mha_precomputed_kv\.", "encoder_attn."),
    (r"functional\.layers\.(?:sequential\.layers\.)?dense\.", "mlp.fc1."),
    (r"functional\.layers\.(?:sequential\.layers\.)?dense_1\.", "mlp.fc2."),
    (r"layer_normalization\.", "input_layernorm."),
    (r"layer_normalization_1\.", "post_attention_layernorm."),
    (r"layer_normalization_2\.", "final_layernorm."),
)
_PROJECTIONS = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"}


def find(name: str) -> list[Path]:
    """Return the Keras files of a folder, or those beside one; [] where there are none."""
    path = Path(name)
    folder = path.parent if path.is_file() and path.name.endswith(SUFFIX) else path
    return sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []


def read(files: list[Path]) -> tuple[MoonshineSize, dict[str, Tensor]]:
    """Return the size of three files and their tensors by transformers' names.

    Raises WeightsError for a file of another kind, and when one of the three is missing.
    """
    parts: dict[str, _Arrays] = {}
    for file in files:
        arrays = _arrays_of(file)
        joined = " ".join(arrays)
        kind = next((name for name, mark in _PARTS.items() if mark in joined), None)
        if kind is None:
            raise WeightsError(
                f"{file}: holds no part of a Moonshine ({', '.join(list(arrays)[:3])}); move it"
                " out of this folder"
            )
        if kind in parts:
            raise WeightsError(
                f"{file}: is a second {kind} in this folder; give each model a folder of its own"
            )
        parts[kind] = arrays
    missing = sorted(set(_PARTS) - set(parts))
    if missing:
        raise WeightsError(
            f"{files[0].parent}: no *{SUFFIX} here holds the {' or the '.join(missing)}; the three"
            " files of a Keras checkpoint belong into one folder"
        )
    tensors: dict[str, Tensor] = {}
    for kind, arrays in parts.items():
        owner = "decoder" if kind == "decoder" else "encoder"
        for name, values in arrays.items():
            if name != _FREQUENCIES:
                tensors[f"model.{owner}.{_name(name, owner)}"] = _tensor(name, values)
    return _size(parts["decoder"], parts["encoder"], tensors, files[0].parent), tensors


def _arrays_of(file: Path) -> _Arrays:
    def walk(group: Any, prefix: str) -> Iterator[tuple[str, NDArray[np.generic]]]:
        for key, item in group.items():
            name = f"{prefix}.{key}" if prefix else key
            if hasattr(item, "items"):
                yield from walk(item, name)
            else:
                yield name, np.asarray(item)

    try:
        with hdf5(file) as group:
            return dict(walk(group, ""))
    except OSError as error:
        raise WeightsError(f"{file}: not readable as HDF5 ({error}); fetch it again") from error


def _name(name: str, owner: str) -> str:
    """Return transformers' name of a tensor within encoder or decoder."""
    in_layer = _LAYER.fullmatch(name)
    prefix, rest = (f"layers.{in_layer[1] or 0}.", in_layer[2]) if in_layer else ("", name)
    if rest == "layers.layer_normalization.vars.0":
        return "norm.weight" if owner == "decoder" else "layer_norm.weight"
    for pattern, replacement in _NAMES:
        rest, count = re.subn(rf"^{pattern}", replacement, rest)
        if count:
            break
    rest = re.sub(r"(query|key|value|output)_dense", lambda m: _PROJECTIONS[m[1]], rest)
    return prefix + rest.replace("vars.0", "weight").replace("vars.1", "bias")


def _tensor(name: str, values: NDArray[np.generic]) -> Tensor:
    """Return the values as torch lays them out."""
    if "mha_" in name:  # [D, H, D / H], and [H, D / H, D] of the output
        width = values.shape[-1] if "output_dense" in name else values.shape[0]
        values = values.reshape(-1, width) if "output_dense" in name else values.reshape(width, -1)
    if values.ndim > 1 and name != _TABLE:
        values = values.swapaxes(0, -1)
    return torch.from_numpy(np.ascontiguousarray(values))


def _size(
    decoder: _Arrays, encoder: _Arrays, tensors: Mapping[str, Tensor], folder: Path
) -> MoonshineSize:
    vocab_size, dim = tensors["model.decoder.embed_tokens.weight"].shape
    heads = next(a.shape[1] for name, a in decoder.items() if re.fullmatch(_QUERIES, name))
    layers = {
        owner: 1 + max(int(m[1]) for name in tensors if (m := re.match(pattern, name)))
        for owner, pattern in (
            ("encoder", r"model\.encoder\.layers\.(\d+)"),
            ("decoder", r"model\.decoder\.layers\.(\d+)"),
        )
    }
    share = next((size.rotary_share for size in PRESETS.values() if size.dim == dim), None)
    frequencies = decoder.get(_FREQUENCIES, encoder.get(_FREQUENCIES))
    if frequencies is not None:
        # Rounded up, so that int() finds the number of dimensions again.
        share = math.nextafter(2 * len(frequencies) / (dim // heads), 1)
    if share is None:
        raise WeightsError(
            f"{folder}: nothing here says how many dimensions carry the position of a model of"
            f" width {dim}; convert it to transformers' layout"
        )
    return MoonshineSize(
        dim=dim,
        ffn_dim=tensors["model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        encoder_layers=layers["encoder"],
        decoder_layers=layers["decoder"],
        heads=heads,
        rotary_share=min(share, 1.0),
        vocab_size=vocab_size,
    ).check(str(folder))
