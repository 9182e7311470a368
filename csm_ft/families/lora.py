"""Low-rank adapters through peft: add them to a model, save, load and merge them.

A checkpoint of adapters is `adapter_model.safetensors` and `adapter_config.json` as peft writes
them (`PeftModel.from_pretrained` reads them onto the same base), with the fingerprint of the base
in the tensors' metadata. Weights that are trained whole beside them (modules_to_save) stand in the
same file under their own names. peft is imported only in the functions that need it: the import
takes seconds, and most runs have no adapters.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from csm_ft.config.train import TrainConfig
from csm_ft.device import random_state
from csm_ft.errors import ConfigError, WeightsError
from csm_ft.families.model import SpeechModel, check_tensors, save_tensors

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."  # peft's files name modules as seen from its wrapper
ADAPTER_NAME = "default"
_FINGERPRINT = "base_fingerprint"
_HASHED_VALUES = 4096  # per tensor; any training changes all values of a tensor


def add_adapters(model: SpeechModel, modules: str, config: TrainConfig) -> None:
    """Freeze the model and add new adapters to the modules whose names match `modules`.

    A new adapter has no effect on the outputs, as its second matrix is zero.
    """
    from peft import LoraConfig, LoraModel

    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,  # pyright: ignore[reportArgumentType] - peft only divides it
        lora_dropout=config.lora_dropout,
        use_rslora=config.lora_rslora,
        use_dora=config.lora_dora,
        target_modules=modules,
        base_model_name_or_path=config.model_name_or_checkpoint_path,
    )
    # Before the adapters are there: it identifies the weights that they are trained on.
    weights = model.state_dict()
    is_empty = any(tensor.is_meta for tensor in weights.values())  # to be measured only
    model.base_fingerprint = "no weights" if is_empty else fingerprint(weights)
    with random_state, torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)  # the first matrices are random
        LoraModel(model, lora, ADAPTER_NAME, low_cpu_mem_usage=is_empty)


def seed_dropout(seed: int, step: int, micro_batch: int) -> None:
    """Seed the dropout of one forward pass from these three numbers.

    A resumed run then drops the same units as an uninterrupted one.
    """
    torch.manual_seed(int(np.random.SeedSequence([seed, step, micro_batch]).generate_state(1)[0]))


def is_adapter(parameter: str) -> bool:
    """Tell whether a parameter, by its name, belongs to an adapter."""
    return ".lora_" in parameter


def has_adapters(model: SpeechModel) -> bool:
    """Tell whether the model has adapters."""
    return bool(model.base_fingerprint)


def save_adapters(folder: Path, model: SpeechModel, adapters: Mapping[str, Tensor]) -> None:
    """Write adapters, and what was trained whole, as `tensors_of` named them; configuration."""
    tensors = {f"{_PREFIX}{name}": tensor for name, tensor in adapters.items()}
    metadata = {"format": "pt", _FINGERPRINT: model.base_fingerprint}
    save_tensors(tensors, folder / WEIGHTS, **metadata)
    config: Any = model.peft_config[ADAPTER_NAME]  # pyright: ignore
    modules = sorted(name.rpartition(".")[0] for name in _whole(model))
    replace(config, modules_to_save=modules or None).save_pretrained(str(folder))


@dataclass(frozen=True)
class Adapters:
    """What a folder of adapters holds."""

    folder: Path
    config: Mapping[str, Any]  # adapter_config.json
    tensors: Mapping[str, Tensor]  # by the names in peft's files
    base_fingerprint: str = ""  # "" = not known: adapters of other programs

    @property
    def base(self) -> str:
        """Name of the weights they were trained on."""
        return str(self.config.get("base_model_name_or_path") or "")


def read_adapters(folder: Path) -> Adapters:
    """Read the adapters in a folder.

    Raises WeightsError for a file that is missing or damaged, and for adapters other than LoRA's.
    """
    path, config = folder / WEIGHTS, folder / CONFIG
    try:
        values = json.loads(config.read_text(encoding="utf-8"))
        kind = values["peft_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{config}: not readable as a LoRA configuration ({error!r}); fetch the adapter again"
        ) from error
    if kind != "LORA":
        raise WeightsError(f"{config}: adapters of the kind {kind!r}; only LORA can be read")
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return Adapters(folder, values, tensors, (file.metadata() or {}).get(_FINGERPRINT, ""))
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not readable as adapters ({error}); fetch it again") from error


def read_named(folder: Path) -> dict[str, Tensor]:
    """Read the adapters in a folder by the names of `tensors_of`; raises as read_adapters."""
    return _named(read_adapters(folder))


def _named(adapters: Adapters) -> dict[str, Tensor]:
    return {name.removeprefix(_PREFIX): tensor for name, tensor in adapters.tensors.items()}


def put_back(adapters: Adapters, model: SpeechModel) -> None:
    """Load saved adapters into a model that already has adapters of the same shape.

    Raises ConfigError for tensors that are missing, unknown or of another shape, and for adapters
    of another base.
    """
    path = adapters.folder / WEIGHTS
    if adapters.base_fingerprint and adapters.base_fingerprint != model.base_fingerprint:
        raise ConfigError(
            f"{path}: these adapters were trained on other base weights"
            f" ({adapters.base_fingerprint[:12]}, not {model.base_fingerprint[:12]}); give the base"
            f" that {CONFIG} names, {adapters.base}, as it was then"
        )
    tensors = _named(adapters)
    expected = tensors_of(model)
    way_out = (
        f"{CONFIG} describes other adapters, or the base is of another size: fetch both files"
        " again, or name the right base"
    )
    check_tensors(expected, tensors, str(path), way_out=way_out)
    from peft import set_peft_model_state_dict

    whole = _whole(model)
    with torch.no_grad():
        for name, parameter in whole.items():
            parameter.copy_(tensors.pop(name))
    set_peft_model_state_dict(model, tensors, adapter_name=ADAPTER_NAME)


def merge(adapters: Adapters, model: SpeechModel) -> None:
    """Merge adapters, in place, into the weights of the base they were trained on.

    Modules that were trained whole (modules_to_save) replace those of the base. Raises ConfigError
    as `put_back` does, and for a configuration that does not fit the base.
    """
    from peft import LoraConfig, LoraModel

    model.base_fingerprint = fingerprint(model.state_dict())
    adapters = _replace_whole(adapters, model)
    try:
        config: Any = LoraConfig.from_peft_type(**adapters.config)
        tuner = LoraModel(model, config, ADAPTER_NAME)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{adapters.folder / CONFIG}: does not fit the base {adapters.base}: {error}"
        ) from error
    put_back(adapters, model)
    tuner.merge_and_unload()
    model.requires_grad_(True)  # peft froze it
    model.base_fingerprint = ""


def _replace_whole(adapters: Adapters, model: SpeechModel) -> Adapters:
    """Load the tensors that are whole weights into the model, and return the others."""
    whole = {
        name.removeprefix(_PREFIX): tensor
        for name, tensor in adapters.tensors.items()
        if not is_adapter(name)
    }
    weights = model.state_dict()
    expected = {name: weights[name] for name in whole if name in weights}
    way_out = f"{CONFIG} names modules_to_save that the base does not have; name the right base"
    check_tensors(expected, whole, str(adapters.folder / WEIGHTS), way_out=way_out)
    with torch.no_grad():
        for name, tensor in whole.items():
            weights[name].copy_(tensor)
    others = {name: tensor for name, tensor in adapters.tensors.items() if is_adapter(name)}
    return replace(adapters, tensors=others, config={**adapters.config, "modules_to_save": None})


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """Return a hash over names, shapes and the first values of all tensors."""
    content = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(weights.items()):
        content.update(f"{name} {tuple(tensor.shape)}\n".encode())
        content.update(tensor.detach().flatten()[:_HASHED_VALUES].float().cpu().numpy().tobytes())
    return content.hexdigest()


def tensors_of(model: SpeechModel) -> dict[str, Tensor]:
    """Return the tensors of the adapters, and the weights that are trained whole, by name."""
    from peft import get_peft_model_state_dict

    found = get_peft_model_state_dict(model, adapter_name=ADAPTER_NAME, save_embedding_layers=False)
    return {**found, **{name: weight.detach() for name, weight in _whole(model).items()}}


def _whole(model: SpeechModel) -> dict[str, Tensor]:
    """Return the weights that are trained whole, beside adapters."""
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and not is_adapter(name)
    }
