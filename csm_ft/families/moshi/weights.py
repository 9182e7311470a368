"""Moshi's checkpoints: the hub's layout, the moshi package's, and the folders of kyutai's trainer.

Adapters of that trainer are named with their base, BASE+FOLDER; without one it is moshiko.

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

from csm_ft import hub
from csm_ft.errors import WeightsError, first_line
from csm_ft.families import lora
from csm_ft.families.checkpoint_files import Checkpoint, locate
from csm_ft.families.model import check_tensors
from csm_ft.families.moshi.model import MoshiModel, empty_model
from csm_ft.families.moshi.size import MoshiSize
from csm_ft.families.moshi.text_tables import renew

_JOINED = re.compile(r"(.+\.self_attn\.)(in|out)_proj(_weight|\.weight|\.lora_[AB]\.weight)")
_SPLIT = re.compile(r"(.+\.self_attn\.)(in|out)_projs\.(\d+)\.weight")
# What a step of the depth transformer has of its own.
_STEP = re.compile(
    r"((?:depformer\.layers\.\d+\.(?:gating|self_attn\.(?:in|out)_projs)"
    r"|depformer_in|depformer_emb|linears)\.)(\d+)(\..+)"
)
KWARGS = "moshi_lm_kwargs.json"  # of J-Moshi: config.json
ADAPTERS, MERGED = "lora.safetensors", "consolidated.safetensors"  # of kyutai's trainer
DEFAULT_BASE = "kyutai/moshiko-pytorch-bf16"
HUB_NAMES_WITHOUT_CONFIG = (DEFAULT_BASE, "kyutai/moshika-pytorch-bf16")


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
    pairs = _pairs_of(name)
    if pairs is not None:
        return size_of(pairs[0])
    found = locate(_file_of(name))
    # Adapters of a run have its config.json: with user_stream it predicts more than its base.
    if found.is_adapter and found.config is None:
        return size_of(_adapters(found).base)
    return _size(found, name)


def load_weights(
    model: MoshiModel, name: str, renewal: tuple[Sequence[int], int] | None = None
) -> None:
    """Load a checkpoint into an empty model of its size; raises WeightsError as load_model does.

    A model that predicts the user, too, gets copies of Moshi's half for that. With a `renewal`
    (ids to keep, seed) it gets new text embeddings, for as many ids as it has.
    """
    size = size_of(name)
    is_grown = model.size.num_predicted == 2 * size.num_predicted
    if not is_grown and renewal is None:
        _load(model, name)
        return
    base = empty_model(size)
    _load(base, name)
    tensors = base.state_dict()
    if renewal is not None:
        tensors = renew(tensors, size, model.size, *renewal)
    if is_grown:
        tensors = grown(tensors, size.num_predicted)
    model.load_state_dict(tensors, assign=True)
    model.requires_grad_(True)


def _load(model: MoshiModel, name: str) -> None:
    pairs = _pairs_of(name)
    if pairs is not None:
        base, file = pairs
        load_weights(model, base)
        _merge_pairs(model, file)
        return
    found = locate(_file_of(name))
    if found.is_adapter:
        adapters = _adapters(found)
        load_weights(model, adapters.base)
        lora.merge(adapters, model)
        return
    tensors: dict[str, Tensor] = {}
    for file in found.files:
        tensors |= _read(file)
    tensors = to_modules(tensors, model.size)
    way_out = "fetch the checkpoint again, with the config.json that belongs to it"
    check_tensors(model.state_dict(), tensors, found.where, way_out=way_out)
    loaded = {key: tensor.to(torch.float32).contiguous() for key, tensor in tensors.items()}
    model.load_state_dict(loaded, assign=True)
    model.requires_grad_(True)


def _pairs_of(name: str) -> tuple[str, Path] | None:
    """Return the base and the file of adapters of kyutai's trainer; None for other weights."""
    base, plus, folder = name.rpartition("+")
    if Path(name).exists() or not plus:
        base, folder = DEFAULT_BASE, name
    for file in (Path(folder), Path(folder) / ADAPTERS, Path(folder) / "consolidated" / ADAPTERS):
        if file.name == ADAPTERS and file.is_file() and not file.with_name(MERGED).is_file():
            return base, file
    if plus and folder != name:
        raise WeightsError(
            f"{folder}: holds no {ADAPTERS}; name weights, or BASE+FOLDER_OF_ADAPTERS"
        )
    return None


@torch.no_grad()
def _merge_pairs(model: MoshiModel, file: Path) -> None:
    """Add adapters of kyutai's trainer to the weights of their base; WeightsError."""
    try:
        config: Any = json.loads((file.parent / "config.json").read_text(encoding="utf-8"))
        scaling = float(config.get("lora_scaling", 2.0))
    except (OSError, ValueError, AttributeError) as error:
        raise WeightsError(
            f"{file}: its scaling is in config.json beside it, which cannot be read ({error}); copy"
            " it from where the adapters came"
        ) from error
    tensors = to_modules(_read(file), model.size)
    weights, used = model.state_dict(), set[str]()
    for name in linear_names(model):
        down, up = (f"{name}.lora_{matrix}.weight" for matrix in "AB")
        weight = weights[f"{name}.weight"]
        if down not in tensors or up not in tensors:
            continue
        used |= {down, up}
        if (tensors[up].shape[0], tensors[down].shape[1]) != tuple(weight.shape):
            raise WeightsError(
                f"{file}: {name} is of another size than in the base; name the base that it was"
                " trained on, as BASE+FOLDER"
            )
        weight += scaling * (tensors[up].float() @ tensors[down].float())
    whole = {key: tensor for key, tensor in tensors.items() if key in weights}  # ft_embed
    expected = {key: weights[key] for key in whole}
    way_out = "name the base that these adapters were trained on, as BASE+FOLDER"
    check_tensors(expected, whole, str(file), way_out=way_out)
    for key, tensor in whole.items():
        weights[key].copy_(tensor)
    unknown = sorted(tensors.keys() - used - whole.keys())
    if unknown:
        raise WeightsError(f"{file}: {len(unknown)} tensors are no adapters, e.g. {unknown[0]}")


def grown(tensors: Mapping[str, Tensor], half: int) -> dict[str, Tensor]:
    """Return weights that predict 2 * `half` codebooks: those of the second half are copies.

    The rule of J-Moshi. The input of codebook `half` follows the last one of the first half, for
    which there was no embedding: it gets that of codebook 0.
    """
    found = dict(tensors)
    for name, tensor in tensors.items():
        match = _STEP.fullmatch(name)
        if match:
            found[f"{match[1]}{int(match[2]) + half}{match[3]}"] = tensor.clone()
    found[f"depformer_emb.{half - 1}.weight"] = tensors["depformer_emb.0.weight"].clone()
    return found


def without_user(tensors: Mapping[str, Tensor], half: int) -> dict[str, Tensor]:
    """Return weights that predict the first `half` codebooks only."""
    found = {}
    for name, tensor in tensors.items():
        match = _STEP.fullmatch(name)
        last = half - 1 if name.startswith("depformer_emb") else half
        if not match or int(match[2]) < last:
            found[name] = tensor
    return found


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
            rest = match[3].removeprefix("_weight").removeprefix(".") or "weight"
            found[f"{match[1]}{match[2]}_projs.{step}.{rest}"] = part
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
        if folder.is_dir() and (folder / MERGED).is_file():
            return str(folder / MERGED)
    return name


def _size(found: Checkpoint, name: str) -> MoshiSize:
    config = _j_moshi_config(found, name) or found.config
    if config is None:
        if name in HUB_NAMES_WITHOUT_CONFIG:
            return MoshiSize.from_json({}, name)
        raise WeightsError(
            f"{found.where}: its size is in config.json, which is not beside it; fetch it from"
            " where the weights came"
        )
    try:
        values: Any = json.loads(config.read_text(encoding="utf-8"))
        if not isinstance(values, dict) or "n_q" not in values:
            raise WeightsError(
                f"{config}: not the config of a Moshi (it has no n_q); name a folder in the"
                " layout of kyutai/moshiko-pytorch-bf16"
            )
        return MoshiSize.from_json(values, str(config))
    except (TypeError, ValueError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(
            f"{config}: not the config of a Moshi ({error}); fetch it again"
        ) from error


def _j_moshi_config(found: Checkpoint, name: str) -> Path | None:
    """Return the config that J-Moshi's tools write beside weights, here or on the hub."""
    beside = found.files[0].parent / KWARGS
    if beside.is_file():
        return beside
    if found.config is not None or not hub.is_hub_name(name) or name in HUB_NAMES_WITHOUT_CONFIG:
        return None
    otherwise = "name a folder that has it beside the weights"
    return hub.cached(name, KWARGS) or hub.fetch_if_present(name, KWARGS, otherwise=otherwise)


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
