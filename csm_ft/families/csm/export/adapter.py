"""LoRA adapters for peft: a folder that `PeftModel.from_pretrained` puts into a base model."""

import json
from collections.abc import Sequence
from pathlib import Path

from peft import PeftModel

from csm_ft.atomic import write_whole
from csm_ft.errors import ConfigError
from csm_ft.families import lora
from csm_ft.families.csm.export import layouts, snippets
from csm_ft.families.csm.export.exporter import CsmExporter
from csm_ft.families.csm.export.probe import Logits, Probe
from csm_ft.families.csm.export.transformers import (
    MergedExporter,
    copy_processor,
    logits_of,
    quiet,
    to_run,
)
from csm_ft.families.csm.model import CsmModel
from csm_ft.families.csm.size import CsmSize
from csm_ft.families.csm.weights import load_model, locate
from csm_ft.families.exporter import Exportable, Exporter, Proof
from csm_ft.families.model import save_tensors
from csm_ft.hub import is_hub_name


class TransformersExporter(Exporter):
    """What transformers' users expect: adapters of a LoRA run for peft, other weights whole."""

    def __init__(self, source: Exportable) -> None:
        super().__init__(source)
        is_adapter = locate(source.weights).is_adapter
        self._chosen = AdapterExporter(source) if is_adapter else MergedExporter(source)
        self.library, self.summary = self._chosen.library, self._chosen.summary
        self.tags, self.pipeline_tag = self._chosen.tags, self._chosen.pipeline_tag

    @property
    def base(self) -> str:
        """Name of the weights that these belong to, or are based on."""
        return self._chosen.base

    @property
    def licence(self) -> str:
        """Licence of the export."""
        return self._chosen.licence

    def write(self, folder: Path) -> None:
        """Write adapters or weights."""
        self._chosen.write(folder)

    def read_back(self, folder: Path) -> Proof:
        """Compare the logits."""
        return self._chosen.read_back(folder)

    def snippet(self) -> str:
        """Show how they are loaded."""
        return self._chosen.snippet()


class AdapterExporter(CsmExporter):
    """Adapters under the library's names, in peft's format."""

    library = "peft"
    summary = "Conversational Speech Model, LoRA adapters for peft"
    tags = (*CsmExporter.tags, "lora")

    def __init__(self, source: Exportable) -> None:
        super().__init__(source)
        if source.dtype != "fp32":
            raise ConfigError(
                f"--dtype {source.dtype}: adapters are small and stay fp32; leave the flag out, or"
                " use --format merged"
            )
        self._adapters = lora.read_adapters(self.files.files[0].parent)

    @property
    def base(self) -> str:
        """Name of the weights that the adapters belong to."""
        return self._adapters.base

    def write_weights(self, folder: Path, model: CsmModel) -> None:
        """Write the adapters, and what the library's processor needs."""
        write_adapter(folder, self._adapters, model.size)
        copy_processor(folder, self.source)

    def read(self, folder: Path, probes: Sequence[Probe]) -> tuple[Logits, str]:
        """Let peft put them into the library's model of the base."""
        return reload_adapter(folder, self.base, probes)

    def code(self) -> str:
        """Show how peft loads them."""
        return snippets.adapter(
            self.base, is_published=is_hub_name(self.base), has_mimi=self.has_mimi
        )


def write_adapter(folder: Path, adapters: lora.Adapters, size: CsmSize) -> None:
    """Write adapters under the library's names; ConfigError for those without a counterpart."""
    tensors, config = adapters.tensors, adapters.config
    if not layouts.is_transformers_adapter(tensors):
        tensors, config = layouts.adapter_to_transformers(tensors, config, size)
    save_tensors(tensors, folder / lora.WEIGHTS, format="pt")
    write_whole(folder / lora.CONFIG, json.dumps(dict(config), indent=2))


def reload_adapter(folder: Path, base: str, probes: Sequence[Probe]) -> tuple[Logits, str]:
    """Put exported adapters into the library's model of the base: its logits, and by whom."""
    model = load_model(base)
    with quiet():
        theirs = to_run(model)
        PeftModel.from_pretrained(theirs, str(folder))
    return logits_of(theirs, probes), "peft and transformers"
