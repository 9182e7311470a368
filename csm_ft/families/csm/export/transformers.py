"""CSM for transformers.

A folder that `CsmForConditionalGeneration.from_pretrained` reads, and that library as the judge of
it.

Adapters become a folder that peft's `PeftModel.from_pretrained` puts into such a model.
"""

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    CsmConfig,
    CsmForConditionalGeneration,
    GenerationConfig,
    MimiConfig,
    MimiModel,
)
from transformers.utils import logging as transformers_logging

from csm_ft.atomic import write_whole
from csm_ft.families import lora
from csm_ft.families.base import SamplingOptions
from csm_ft.families.csm.config import CsmSize
from csm_ft.families.csm.export import layouts
from csm_ft.families.csm.export.probe import CheckError, Logits, Probe
from csm_ft.families.csm.model import CsmModel
from csm_ft.families.csm.weights import load_model

_SMALL_CODEC: dict[str, Any] = {  # where there is no Mimi: the library insists on a codec
    "num_hidden_layers": 1,
    "hidden_size": 16,
    "num_filters": 2,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "codebook_dim": 8,
    "vector_quantization_hidden_dimension": 8,
    "upsample_groups": 16,
}
_CODEC = "codec_model."
_AUDIO_ID = 128_002  # of <|AUDIO|> in Llama 3's vocabulary; <|audio_eos|> is the next one


def write_model(
    folder: Path,
    model: CsmModel,
    codec: MimiModel | None,
    sampling: SamplingOptions,
    dtype: torch.dtype,
) -> None:
    """Write config, weights (in shards, if large) and generation config.

    Codec None = a small one of random weights.
    """
    with _quiet():
        theirs = _to_save(model, codec or random_codec(), dtype)
        theirs.generation_config = GenerationConfig(
            **_choice(sampling), max_new_tokens=sampling.max_frames
        )
        theirs.depth_decoder.generation_config = GenerationConfig(**_choice(sampling))
        theirs.save_pretrained(str(folder))


def _to_save(model: CsmModel, codec: MimiModel, dtype: torch.dtype) -> Any:
    """Return the library's model around our tensors, cast to `dtype`.

    The codec stays as it is, for rounding changes its codes.

    It can be saved, but does not run: what is not saved is on the meta device. (Loading by
    from_pretrained would make the library save the codec under names that its former versions do
    not know.)
    """
    with torch.device("meta"):
        theirs: Any = CsmForConditionalGeneration(_config(model.size, codec.config))
    theirs.codec_model = codec
    missing, unexpected = theirs.load_state_dict(_renamed(model, dtype), strict=False, assign=True)
    missing = [name for name in missing if not name.startswith(_CODEC)]
    assert not missing, f"our table of names lacks {missing[:3]}"
    assert not unexpected, f"the library does not know {unexpected[:3]}"
    theirs.tie_weights()
    return theirs


def _to_run(model: CsmModel) -> Any:
    """Return the library's model with our weights, ready to run.

    Its codec is a small random one.
    """
    config = _config(model.size, random_codec().config)
    theirs: Any = CsmForConditionalGeneration.from_pretrained(
        None, config=config, state_dict=_renamed(model, torch.float32)
    )
    return theirs.eval()


def _config(size: CsmSize, codec: MimiConfig) -> CsmConfig:
    sizes: dict[str, Any] = {**layouts.transformers_config(size), **_token_ids(size)}
    return CsmConfig(**sizes, codec_config=codec)


def _renamed(model: CsmModel, dtype: torch.dtype) -> dict[str, Tensor]:
    tensors = layouts.to_transformers(model.state_dict(), model.size)
    renamed = {name: tensor.to(dtype).contiguous() for name, tensor in tensors.items()}
    return renamed | {layouts.TIED: renamed[layouts.AUDIO_EMBEDDINGS]}


def write_adapter(folder: Path, adapters: lora.Adapters, size: CsmSize) -> None:
    """Write adapters under the library's names, in peft's format.

    ConfigError for those that have no counterpart there.
    """
    tensors, config = adapters.tensors, adapters.config
    if not layouts.is_transformers_adapter(tensors):
        tensors, config = layouts.adapter_to_transformers(tensors, config, size)
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        folder / lora.WEIGHTS,
        metadata={"format": "pt"},
    )
    write_whole(folder / lora.CONFIG, json.dumps(dict(config), indent=2))


def codec_of(folder: Path, files: Sequence[Path]) -> MimiModel | None:
    """Take the codec out of a checkpoint in the library's layout.

    None where there is none in it.
    """
    tensors: dict[str, Tensor] = {}
    for file in files:
        with safe_open(file, "pt") as opened:
            names = [name for name in opened.keys() if name.startswith(_CODEC)]  # noqa: SIM118 - not a dict
            tensors |= {
                name.removeprefix(_CODEC): opened.get_tensor(name).float() for name in names
            }
    if not tensors:
        return None
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    with _quiet():
        return MimiModel.from_pretrained(
            None, config=MimiConfig(**config["codec_config"]), state_dict=tensors
        )


def random_codec() -> MimiModel:
    """Return a Mimi of no use but its size."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MimiModel(MimiConfig(**_SMALL_CODEC))


def reload(folder: Path, probes: Sequence[Probe]) -> tuple[Logits, str]:
    """Read an export back by the library itself; return its logits and who read it.

    Raises CheckError when the library had to make up, leave out or resize any tensor.
    """
    with _quiet():
        loaded: Any = CsmForConditionalGeneration.from_pretrained(
            str(folder), dtype=torch.float32, output_loading_info=True, local_files_only=True
        )
    theirs, report = loaded
    wrong = {
        what: sorted(map(str, report[what]))
        for what in ("missing_keys", "unexpected_keys", "mismatched_keys")
    }
    if any(wrong.values()):
        raise CheckError(f"transformers does not read the export as it was written: {wrong}")
    return logits_of(theirs, probes), "transformers"


def reload_adapter(folder: Path, base: str, probes: Sequence[Probe]) -> tuple[Logits, str]:
    """Let peft put exported adapters into the library's model of the base.

    Return its logits and who read them.
    """
    model = load_model(base)
    with _quiet():
        theirs = _to_run(model)
        PeftModel.from_pretrained(theirs, str(folder))
    return logits_of(theirs, probes), "peft and transformers"


@torch.no_grad()
def logits_of(theirs: Any, probes: Sequence[Probe]) -> Logits:
    """Run the library's model over the probes, from its own embeddings to its own logits."""
    return Logits.join([_logits(theirs.eval(), probe) for probe in probes])


def _logits(theirs: Any, probe: Probe) -> tuple[Tensor, Tensor]:
    length = len(probe.text)
    text, frames = (
        theirs.embed_text_tokens(probe.text[None]),
        theirs.backbone_model.embed_tokens(probe.codes[None]),
    )
    labels = torch.full((1, length + len(probe.codes), probe.codes.shape[1]), -100)
    labels[0, length:] = probe.codes
    said = theirs(inputs_embeds=torch.cat([text, frames], dim=1), labels=labels)
    return said.logits[0, length - 1 : -1], said.depth_decoder_logits


def _token_ids(size: CsmSize) -> dict[str, int | None]:
    """Ids of Llama 3's special tokens for a model of its vocabulary.

    Another vocabulary has none of them.
    """
    ids = {"codebook_pad_token_id": size.audio_vocab_size - 1, "codebook_eos_token_id": 0}
    if size.text_vocab_size > _AUDIO_ID + 1:
        return {**ids, "audio_token_id": _AUDIO_ID, "audio_eos_token_id": _AUDIO_ID + 1}
    return {
        **ids,
        "audio_token_id": None,
        "audio_eos_token_id": None,
        "pad_token_id": None,
        "bos_token_id": None,
    }


def _choice(sampling: SamplingOptions) -> dict[str, Any]:
    """How a code is drawn.

    The library calls temperature 0 another mode, and topk 0 keeps all there, too.
    """
    if sampling.temperature == 0:
        return {"do_sample": False}
    return {"do_sample": True, "temperature": sampling.temperature, "top_k": sampling.topk}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's progress bars and its warnings about token ids off the console."""
    level, shows_progress = (
        transformers_logging.get_verbosity(),
        transformers_logging.is_progress_bar_enabled(),
    )
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", ".*is_gradient_checkpointing", FutureWarning
            )  # peft asks transformers by an old name
            warnings.filterwarnings(
                "ignore", ".*tie_word_embeddings", UserWarning
            )  # the tied ones are not those of the adapted head
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if shows_progress:
            transformers_logging.enable_progress_bar()
