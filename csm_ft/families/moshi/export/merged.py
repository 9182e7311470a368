"""Moshi for the moshi package: a folder with the tensor names of the hub, adapters merged in."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from csm_ft.atomic import write_whole
from csm_ft.errors import CheckError
from csm_ft.families.exporter import Exportable, Exporter, Proof
from csm_ft.families.model import save_tensors
from csm_ft.families.moshi.encoder import TOKENIZER_ASSET as TOKENIZER
from csm_ft.families.moshi.export import package
from csm_ft.families.moshi.model import MoshiModel, empty_model
from csm_ft.families.moshi.weights import load_model, to_hub, to_modules, without_user

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
WEIGHTS = "model.safetensors"
MIMI = "hf://kyutai/moshiko-pytorch-bf16/tokenizer-e351c8d8-checkpoint125.safetensors"


class MoshiExporter(Exporter):
    """What both layouts share."""

    library = "moshi"
    tags: Sequence[str] = ("moshi", "speech", "full-duplex")
    pipeline_tag = "audio-to-audio"

    def __init__(self, source: Exportable) -> None:
        super().__init__(source)
        self.dtype = DTYPES[source.dtype]

    @property
    def licence(self) -> str:
        """Licence of the export, where that of its base says so; "" = not chosen."""
        return "cc-by-4.0" if self.base.startswith("kyutai/moshi") else ""

    def write_config(self, folder: Path, model: MoshiModel, **more: Any) -> None:
        """Write config.json and the tokenizer."""
        values = {**model.size.to_json(), "model_type": "moshi", **more}
        store = self.source.store
        blob = store.asset(TOKENIZER) if store is not None else None
        if blob is not None:
            write_whole(folder / TOKENIZER, blob)
            values["tokenizer_name"] = TOKENIZER
        if store is not None and store.info.facts["codec"] == "mimi":
            values["mimi_name"] = MIMI
        write_whole(folder / "config.json", json.dumps(values, indent=2))

    def rounded(self, name: str) -> MoshiModel:
        """Load weights as the export has them: rounded to its precision."""
        model = load_model(name)
        for parameter in model.parameters():
            parameter.data = parameter.data.to(self.dtype).float()
        return model


class MergedExporter(MoshiExporter):
    """Weights, config and tokenizer."""

    summary = "Moshi full-duplex dialogue, weights for the moshi package"

    def write(self, folder: Path) -> None:
        """Write the weights under the hub's names, without the user's half."""
        self.model = without_user_half(self.rounded(self.source.weights))
        tensors = to_hub({k: t.to(self.dtype) for k, t in self.model.state_dict().items()})
        save_tensors(tensors, folder / WEIGHTS, format="pt")
        # Without adapters: a config that says otherwise would load random ones.
        self.write_config(folder, self.model, moshi_name=WEIGHTS, lora=False)

    def read_back(self, folder: Path) -> Proof:
        """Compare logits and greedy dialogue, or names and values where the package is missing."""
        if package.is_installed():
            config = package.read_config(folder)
            return package.proof(package.compare(self.model, folder / WEIGHTS, config))
        found = to_modules(load_file(folder / WEIGHTS), self.model.size)
        own = self.model.state_dict()
        is_same = found.keys() == own.keys() and all(
            torch.equal(found[name].float(), own[name]) for name in own
        )
        if not is_same:
            raise CheckError(f"{WEIGHTS} holds other weights than were written; nothing was kept")
        line = f"read back by this program: all {len(own)} tensors are equal"
        return Proof("this program", [line], package.NOT_CHECKED)

    def snippet(self) -> str:
        """Show how the package's server takes it."""
        return server_command(f"--moshi-weight THIS_FOLDER/{WEIGHTS}")


def without_user_half(model: MoshiModel) -> MoshiModel:
    """Return a model that predicts Moshi's codes alone: the package's server reads no other."""
    size = model.size
    if size.num_predicted != size.num_streams:
        return model
    cut = empty_model(replace(size, num_predicted=size.num_own))
    cut.load_state_dict(without_user(model.state_dict(), size.num_own), assign=True)
    return cut


def server_command(weights: str) -> str:
    """Return Markdown with the command line of the package's server."""
    return (
        "```sh\n"
        "python -m moshi.server --config-path THIS_FOLDER/config.json \\\n"
        f"    {weights} --tokenizer THIS_FOLDER/{TOKENIZER}\n"
        "```\n\n"
        "A codec other than Mimi has no server; `--mimi-weight` names a local file of Mimi."
    )
