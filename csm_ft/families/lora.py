"""Low-rank adapters by the peft library: put into a model, saved in its format, taken back, merged.

A checkpoint of adapters is `adapter_model.safetensors` and `adapter_config.json` as peft writes
them (`PeftModel.from_pretrained` reads them onto the same base), with the fingerprint of the base
in the tensors' metadata. The library is imported where it is needed: that takes seconds, and most
runs have no adapters.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from csm_ft.config import ConfigError, TrainConfig
from csm_ft.families.base import SpeechModel

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."  # peft's files name modules as seen from its wrapper
_NAME = "default"
_FINGERPRINT = "base_fingerprint"
_HASHED_VALUES = 4096  # per tensor: another training changes all of them


def add_adapters(model: SpeechModel, modules: str, config: TrainConfig) -> None:
    """Freeze the model and put new adapters beside the modules whose names match `modules`.

    They change nothing at first.
    """
    from peft import LoraConfig, LoraModel

    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,  # pyright: ignore[reportArgumentType] - a float is fine, says its code
        lora_dropout=config.lora_dropout,
        use_rslora=config.lora_rslora,
        use_dora=config.lora_dora,
        target_modules=modules,
        base_model_name_or_path=config.model_name_or_checkpoint_path,
    )
    model.base_fingerprint = fingerprint(model.state_dict())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        LoraModel(model, lora, _NAME)


def seed_dropout(seed: int, step: int, micro_batch: int) -> None:
    """Make the dropout of one forward pass a function of these three.

    So that a resumed run drops the same.
    """
    torch.manual_seed(int(np.random.SeedSequence([seed, step, micro_batch]).generate_state(1)[0]))


def has_adapters(model: SpeechModel) -> bool:
    """Tell whether the model has adapters beside its weights."""
    return bool(model.base_fingerprint)


def save_adapters(folder: Path, model: SpeechModel) -> None:
    """Write adapters and their configuration."""
    tensors = {
        f"{_PREFIX}{name}": tensor.detach().contiguous() for name, tensor in _tensors(model).items()
    }
    save_file(
        tensors, folder / WEIGHTS, metadata={"format": "pt", _FINGERPRINT: model.base_fingerprint}
    )
    lora: Any = model.peft_config[_NAME]  # pyright: ignore[reportArgumentType, reportAssignmentType, reportIndexIssue]
    lora.save_pretrained(str(folder))


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
    """Read adapters.

    ConfigError for a file that is missing or damaged, and for adapters other than LoRA's.
    """
    path, config = folder / WEIGHTS, folder / CONFIG
    try:
        values = json.loads(config.read_text(encoding="utf-8"))
        kind = values["peft_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{config}: not readable as a LoRA configuration ({error!r}); fetch the adapter again"
        ) from error
    if kind != "LORA":
        raise ConfigError(f"{config}: adapters of the kind {kind!r}; only LORA can be read")
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            return Adapters(folder, values, tensors, (file.metadata() or {}).get(_FINGERPRINT, ""))
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{path}: not readable as adapters ({error}); fetch it again") from error


def put_back(adapters: Adapters, model: SpeechModel) -> None:
    """Put saved adapters into a model that has some of the same shape.

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
    tensors = {name.removeprefix(_PREFIX): tensor for name, tensor in adapters.tensors.items()}
    expected = _tensors(model)
    missing, unknown = (
        sorted(expected.keys() - tensors.keys()),
        sorted(tensors.keys() - expected.keys()),
    )
    if missing or unknown:
        raise ConfigError(
            f"{path}: not the adapters that {CONFIG} describes on this model: {len(missing)}"
            f" tensors missing (e.g. {missing[:2]}), {len(unknown)} unknown (e.g. {unknown[:2]});"
            " fetch both files again, or name the right base"
        )
    for name, tensor in expected.items():
        if tensor.shape != tensors[name].shape:
            raise ConfigError(
                f"{path}: {name} is {tuple(tensors[name].shape)}, the base wants"
                f" {tuple(tensor.shape)}: adapters of a model of another size"
            )
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(model, tensors, adapter_name=_NAME)


def merge(adapters: Adapters, model: SpeechModel) -> None:
    """Add adapters into the weights of the base they were trained on, in place.

    ConfigError as put_back.
    """
    from peft import LoraConfig, LoraModel

    model.base_fingerprint = fingerprint(model.state_dict())
    try:
        tuner = LoraModel(model, LoraConfig.from_peft_type(**adapters.config), _NAME)  # pyright: ignore[reportArgumentType]
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{adapters.folder / CONFIG}: does not fit the base {adapters.base}: {error}"
        ) from error
    put_back(adapters, model)
    tuner.merge_and_unload()
    model.requires_grad_(True)
    model.base_fingerprint = ""


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """Return a hash over names, shapes and the first values of all tensors."""
    content = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(weights.items()):
        content.update(f"{name} {tuple(tensor.shape)}\n".encode())
        content.update(tensor.detach().flatten()[:_HASHED_VALUES].float().cpu().numpy().tobytes())
    return content.hexdigest()


def _tensors(model: SpeechModel) -> dict[str, Tensor]:
    from peft import get_peft_model_state_dict

    return get_peft_model_state_dict(model, adapter_name=_NAME, save_embedding_layers=False)
