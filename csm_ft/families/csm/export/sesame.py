"""CSM in Sesame's layout: model.safetensors + config.json, read back by Sesame's own models.py.

Sesame's code is not part of this program: it is taken from where CSM_REPO_PATH points, or from an
installed `csm` package (requirements-sesame.txt).
"""

import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from importlib.metadata import packages_distributions
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torchtune.models.llama3_2 import llama3_2
from torchtune.modules import TransformerDecoder
from torchtune.modules.common_utils import disable_kv_cache

from csm_ft.atomic import write_whole
from csm_ft.config.base import expand_home
from csm_ft.errors import CheckError, ConfigError
from csm_ft.families.csm.export import snippets
from csm_ft.families.csm.export.exporter import CsmExporter
from csm_ft.families.csm.export.probe import TOLERANCE, Logits, Probe, logits_of
from csm_ft.families.csm.layers import NORM_EPS, ROPE_BASE, ROPE_SCALE
from csm_ft.families.csm.model import CsmModel
from csm_ft.families.csm.size import MAX_POSITIONS, CsmSize, TransformerSize
from csm_ft.families.csm.weights import load_model
from csm_ft.families.exporter import Proof
from csm_ft.families.model import save_tensors

REFERENCE = "Sesame's models.py"
NOT_CHECKED = (
    "Sesame's own code did not check this export, only this program's loader: get it with"
    " requirements-sesame.txt (or a checkout of github.com/SesameAILabs/csm), put"
    " CSM_REPO_PATH=<its folder> into .env, and export again"
)


class SesameExporter(CsmExporter):
    """Weights for Sesame's code."""

    library = "csm"
    summary = "Conversational Speech Model, weights in Sesame's layout"

    def write_weights(self, folder: Path, model: CsmModel) -> None:
        """Write the files that Sesame's `Model.from_pretrained` reads."""
        write_model(folder, model, self.dtype)

    def read(self, folder: Path, probes: Sequence[Probe]) -> tuple[Logits, str]:
        """Read them by Sesame's code, or else by our own loader."""
        return reload(folder, probes)

    def read_back(self, folder: Path) -> Proof:
        """Compare the logits, and say so when Sesame's code was not there to give them."""
        proof = super().read_back(folder)
        return proof if proof.read_by == REFERENCE else replace(proof, warning=NOT_CHECKED)

    def code(self) -> str:
        """Show how Sesame's code loads them."""
        return snippets.sesame(self.size, sesame_config(self.size), has_mimi=self.has_mimi)


def write_model(folder: Path, model: CsmModel, dtype: torch.dtype = torch.float32) -> None:
    """Write the model.safetensors and config.json that Sesame's `Model.from_pretrained` reads."""
    weights = model.state_dict().items()
    tensors = {name: tensor.to(dtype) for name, tensor in weights}
    save_tensors(tensors, folder / "model.safetensors", format="pt")
    write_whole(folder / "config.json", json.dumps(sesame_config(model.size), indent=2))


def sesame_config(size: CsmSize) -> dict[str, Any]:
    """Return config.json; sizes that Sesame's FLAVORS lacks get a name each, to be told apart."""
    config = size.to_json()
    for name in ("backbone", "decoder"):
        if name in config:
            config[f"{name}_flavor"] = f"{name}-{config[name]['layers']}x{config[name]['dim']}"
    return config


def find_sesame() -> ModuleType | None:
    """Import Sesame's models.py, or return None; ConfigError when CSM_REPO_PATH is wrong."""
    folder = os.environ.get("CSM_REPO_PATH")
    if folder:
        return _import_file(Path(expand_home(folder)) / "models.py")
    if find_spec("csm") and find_spec("csm.models"):
        return importlib.import_module("csm.models")
    # A module of such a general name is Sesame's only if its package is.
    if any("csm" in distribution for distribution in packages_distributions().get("models", ())):
        return importlib.import_module("models")
    return None


@torch.no_grad()
def reload(folder: Path, probes: Sequence[Probe]) -> tuple[Logits, str]:
    """Read an export back by Sesame's code, or else by our own loader: its logits, and by whom.

    Raises CheckError when Sesame's own generation, with its caches, does not give what these logits
    rank first, and ConfigError when CSM_REPO_PATH is wrong.
    """
    module = find_sesame()
    if module is None:
        return logits_of(load_model(str(folder)), probes), "this program's own loader"
    model = _load(module, folder)
    logits = Logits.join([_logits(model, probe) for probe in probes])
    model.setup_caches(1)
    for probe in probes:
        _check_generation(model, probe)
    return logits, REFERENCE


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(
            f"CSM_REPO_PATH={path.parent}: no models.py in this folder; correct it in .env, or"
            " leave it empty"
        )
    spec = spec_from_file_location("sesame_csm_models", path)
    assert spec is not None
    assert spec.loader is not None, "a .py file has a loader"
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever foreign code raises
        raise ConfigError(
            f"CSM_REPO_PATH={path.parent}: its models.py cannot be imported ({error}); correct"
            " that, or leave it empty"
        ) from error
    return module


def _load(module: ModuleType, folder: Path) -> Any:
    """Load an export as Sesame's users do, after telling FLAVORS the sizes that it lacks."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    size = CsmSize.from_json(config, str(folder))
    for name, transformer in (("backbone", size.backbone), ("decoder", size.decoder)):
        flavours: dict[str, Callable[[], TransformerDecoder]] = module.FLAVORS
        flavours.setdefault(config[f"{name}_flavor"], partial(llama, transformer))
    with redirect_stdout(StringIO()):  # the hub's library prints where it reads from
        return module.Model.from_pretrained(str(folder)).eval()


def _logits(model: Any, probe: Probe) -> tuple[Tensor, Tensor]:
    """Teacher-forced logits by the parts of Sesame's model."""
    length, num_codebooks = len(probe.text), probe.codes.shape[1]
    tokens, mask = _rows(probe)
    embedded = (model._embed_tokens(tokens) * mask.unsqueeze(-1)).sum(dim=2)
    hidden = model.backbone(embedded, mask=_causal(embedded))[0, length - 1 : -1]
    frames = [model._embed_audio(k, probe.codes[:, k]) for k in range(num_codebooks - 1)]
    inputs = model.projection(torch.stack([hidden, *frames], dim=1))
    outputs = model.decoder(inputs, mask=_causal(inputs))
    return model.codebook0_head(hidden), torch.stack(
        [outputs[:, k + 1] @ head for k, head in enumerate(model.audio_head)], dim=1
    )


def _check_generation(model: Any, probe: Probe) -> None:
    """Let the model generate the frame after the probe, likeliest code first.

    Its own logits must rank each of these codes first.
    """
    model.reset_caches()
    tokens, mask = _rows(probe)
    positions = torch.arange(tokens.shape[1])[None]
    frame = model.generate_frame(tokens, mask, positions, temperature=1.0, topk=1)
    with disable_kv_cache(model.backbone), disable_kv_cache(model.decoder):
        c0, depth = _logits(model, Probe(probe.text, torch.cat([probe.codes, frame.long()])))
    for k, logits in enumerate([c0[-1], *depth[-1]]):
        if logits[frame[0, k]] < logits.max() - TOLERANCE * logits.std():
            raise CheckError(
                f"Sesame's generate_frame gives code {int(frame[0, k])} in codebook {k}, its"
                f" logits rank {int(logits.argmax())} first"
            )


def _causal(inputs: Tensor) -> Tensor:
    """Return a causal mask, [B, S, S]: torchtune leaves it out by itself once there were caches."""
    positions = torch.arange(inputs.shape[1])
    return (positions <= positions[:, None]).expand(len(inputs), -1, -1)


def _rows(probe: Probe) -> tuple[Tensor, Tensor]:
    """Return a probe as Sesame's rows of K codes and a text token, and their mask.

    Both are [1, L + T, K + 1]; the mask is true where they count.
    """
    length, num_codebooks = len(probe.text), probe.codes.shape[1]
    tokens = torch.zeros(length + len(probe.codes), num_codebooks + 1, dtype=torch.int64)
    tokens[:length, -1], tokens[length:, :-1] = probe.text, probe.codes
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    mask[:length, -1], mask[length:, :-1] = True, True
    return tokens[None], mask[None]


def llama(size: TransformerSize) -> TransformerDecoder:
    """Build torchtune's Llama 3.2 of any size, with the constants of Sesame's code."""
    return llama3_2(
        vocab_size=1,
        num_layers=size.layers,
        num_heads=size.heads,
        num_kv_heads=size.kv_heads,
        embed_dim=size.dim,
        max_seq_len=MAX_POSITIONS,
        intermediate_dim=size.ffn_dim,
        attn_dropout=0.0,
        norm_eps=NORM_EPS,
        rope_base=ROPE_BASE,
        scale_factor=ROPE_SCALE,
    )
