"""LoRA adapters for the moshi package: lora.safetensors with a pair for every linear module.

The package replaces every linear module by one with adapters, so those without get zeros.
Embeddings that were trained beside adapters stand in the same file, as kyutai's trainer does.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from csm_ft.errors import CheckError, ConfigError
from csm_ft.families import lora
from csm_ft.families.checkpoint_files import locate
from csm_ft.families.exporter import Exportable, Proof
from csm_ft.families.model import save_tensors
from csm_ft.families.moshi.export import package
from csm_ft.families.moshi.export.merged import WEIGHTS, MoshiExporter, server_command
from csm_ft.families.moshi.model import MoshiModel
from csm_ft.families.moshi.weights import ADAPTERS, linear_names, load_model, to_hub
from csm_ft.hub import is_hub_name

_PREFIX = "base_model.model."  # of peft's names


class AdapterExporter(MoshiExporter):
    """Adapters and config."""

    summary = "Moshi full-duplex dialogue, LoRA adapters for the moshi package"
    tags = (*MoshiExporter.tags, "lora")

    def __init__(self, source: Exportable) -> None:
        super().__init__(source)
        found = locate(source.weights)
        if not found.is_adapter:
            raise ConfigError(
                f"{source.weights}: these are whole weights, not adapters; use --format moshi"
            )
        self._adapters = lora.read_adapters(found.files[0].parent)
        config = self._adapters.config
        unknown = [
            name for name in ("use_dora", "rank_pattern", "alpha_pattern") if config.get(name)
        ]
        if unknown:
            raise ConfigError(
                f"{source.weights}: {', '.join(unknown)} is nothing that the moshi package reads;"
                " use --format moshi, which merges the adapters"
            )
        self.rank = int(config["r"])
        divisor = self.rank**0.5 if config.get("use_rslora") else self.rank
        self.scaling = float(config["lora_alpha"]) / divisor

    @property
    def base(self) -> str:
        """Name of the weights that the adapters belong to."""
        return self._adapters.base

    def write(self, folder: Path) -> None:
        """Write a pair for every linear module."""
        self.model = load_model(self.source.weights)
        if self.model.size.num_predicted == self.model.size.num_streams:
            raise ConfigError(
                f"{self.source.weights}: these adapters predict the user, too, which the package's"
                " server cannot read; use --format moshi, which leaves that half out"
            )
        trained = {
            name.removeprefix(_PREFIX): tensor for name, tensor in self._adapters.tensors.items()
        }
        tensors = _pairs(self.model, trained, self.rank)
        tensors |= {name: one for name, one in trained.items() if not lora.is_adapter(name)}
        self.tensors = {name: tensor.to(self.dtype) for name, tensor in tensors.items()}
        save_tensors(self.tensors, folder / ADAPTERS, format="pt")
        more = {"lora": True, "lora_rank": self.rank, "lora_scaling": self.scaling}
        self.write_config(folder, self.model, **more)

    def read_back(self, folder: Path) -> Proof:
        """Compare logits and greedy dialogue, or names and values where the package is missing."""
        if package.is_installed() and self.dtype == torch.float32:
            base = folder / "base.safetensors"
            save_tensors(to_hub(load_model(self.base).state_dict()), base)
            try:
                config = package.read_config(folder)
                found = package.compare(self.model, base, config, folder / ADAPTERS)
            finally:
                base.unlink()
            return package.proof(found)
        found = load_file(folder / ADAPTERS)
        is_same = found.keys() == self.tensors.keys() and all(
            torch.equal(found[name], self.tensors[name]) for name in found
        )
        if not is_same:
            raise CheckError(f"{ADAPTERS} holds others than were written; nothing was kept")
        line = f"read back by this program: all {len(found)} tensors are equal"
        return Proof("this program", [line], package.NOT_CHECKED)

    def snippet(self) -> str:
        """Show how the package's server takes it."""
        base = f"--hf-repo {self.base}" if is_hub_name(self.base) else f"--moshi-weight {WEIGHTS}"
        return server_command(f"--lora-weight THIS_FOLDER/{ADAPTERS} {base}")


def _pairs(model: MoshiModel, trained: Mapping[str, Tensor], rank: int) -> dict[str, Tensor]:
    """Return both matrices of every linear module, zeros where nothing was trained."""
    tensors: dict[str, Tensor] = {}
    for name in linear_names(model):
        module = model.get_submodule(name)
        assert isinstance(module, torch.nn.Linear)
        shapes = {"lora_A": (rank, module.in_features), "lora_B": (module.out_features, rank)}
        for matrix, shape in shapes.items():
            key = f"{name}.{matrix}.weight"
            found = trained.get(key)
            tensors[key] = torch.zeros(shape) if found is None else found.float()
    return dict(sorted(tensors.items()))
