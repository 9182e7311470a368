"""CSM for transformers: a folder that `CsmForConditionalGeneration.from_pretrained` reads.

That library reads it back as the reference implementation.
"""

import hashlib
import json
import math
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import CsmConfig as TheirConfig
from transformers import CsmForConditionalGeneration, GenerationConfig, MimiConfig, MimiModel
from transformers.utils import logging as transformers_logging

from csm_ft import codecs, hub
from csm_ft.codecs.mimi import Mimi
from csm_ft.errors import CheckError, ConfigError, EncoderError, HubError
from csm_ft.families.base import SamplingOptions
from csm_ft.families.csm.config import CsmConfig
from csm_ft.families.csm.export import layouts, snippets
from csm_ft.families.csm.export.exporter import CsmExporter
from csm_ft.families.csm.export.probe import Logits, Probe
from csm_ft.families.csm.model import CsmModel
from csm_ft.families.csm.size import CsmSize
from csm_ft.families.exporter import Exportable

PROCESSOR = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "preprocessor_config.json",
    "processor_config.json",
)
# A placeholder where there is no Mimi: the library insists on a codec.
_SMALL_CODEC: dict[str, Any] = {
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
_FRAME_SEC = 0.08  # of both codecs


class MergedExporter(CsmExporter):
    """All weights for transformers, with those of adapters merged in."""

    library = "transformers"
    summary = "Conversational Speech Model, weights for transformers"

    def write_weights(self, folder: Path, model: CsmModel) -> None:
        """Write weights, codec, configs, and what the library's processor needs."""
        codec = self._mimi() if self.has_mimi else None
        write_model(folder, model, codec, self._sampling(), self.dtype)
        copy_processor(folder, self.source)

    def read(self, folder: Path, probes: Sequence[Probe]) -> tuple[Logits, str]:
        """Read the folder by the library itself."""
        return reload(folder, probes)

    def code(self) -> str:
        """Show how the library loads it."""
        return snippets.transformers(has_mimi=self.has_mimi)

    def _mimi(self) -> MimiModel:
        """Return Mimi: from the weights themselves, or that of the token file, or the published."""
        store, config = self.source.store, self.files.config
        if store is None and config is not None and not self.files.is_adapter:
            files = [file for file in self.files.files if file.suffix == ".safetensors"]
            inside = codec_of(config.parent, files)
            if inside is not None:
                return inside
        try:
            if store is not None:
                codec = codecs.from_facts(store.info.facts, store.asset("codec"))
            else:
                codec = codecs.open_codec("mimi", num_codebooks=self.size.num_codebooks)
        except (EncoderError, HubError) as error:
            raise ConfigError(
                f"transformers keeps Mimi beside the weights, and it is not found: {error};"
                " --format sesame needs none"
            ) from error
        assert isinstance(codec, Mimi), "the weights are for Mimi's codes"
        return codec.model

    def _sampling(self) -> SamplingOptions:
        """Let the library generate as the run did."""
        config = self.source.config
        config = config if isinstance(config, CsmConfig) else CsmConfig()
        return SamplingOptions(
            config.seed, config.gen_temperature, config.gen_topk, config.gen_max_sec
        )


def write_model(
    folder: Path,
    model: CsmModel,
    codec: MimiModel | None,
    sampling: SamplingOptions,
    dtype: torch.dtype,
) -> None:
    """Write config, weights (in shards, if large) and generation config.

    Codec None = a small codec with random weights as a placeholder.
    """
    max_frames = math.ceil(sampling.max_sec / _FRAME_SEC)
    with quiet():
        theirs = _to_save(model, codec or random_codec(), dtype)
        theirs.generation_config = GenerationConfig(**_choice(sampling), max_new_tokens=max_frames)
        theirs.depth_decoder.generation_config = GenerationConfig(**_choice(sampling))
        theirs.save_pretrained(str(folder))


def _choice(sampling: SamplingOptions) -> dict[str, Any]:
    """Return how a code is drawn.

    The library calls temperature 0 another mode; topk 0 keeps all there, too.
    """
    if sampling.temperature == 0:
        return {"do_sample": False}
    return {"do_sample": True, "temperature": sampling.temperature, "top_k": sampling.topk}


def copy_processor(folder: Path, source: Exportable) -> None:
    """Copy what the library's processor needs from the base, if it is there.

    Never another tokenizer than the run's.
    """
    wanted = source.store.info.facts["tokenizer_fingerprint"] if source.store is not None else ""
    for name in PROCESSOR:
        file = _beside(source.base, name)
        if file is None or (folder / name).exists():
            continue
        is_other = bool(wanted) and hashlib.sha256(file.read_bytes()).hexdigest() != wanted
        if name != "tokenizer.json" or not is_other:
            shutil.copyfile(file, folder / name)


def _beside(weights: str, name: str) -> Path | None:
    """Find a file in a folder of weights, or in the hub's cache on this disk."""
    if hub.is_hub_name(weights):
        return hub.cached(weights, name)
    path = Path(weights)
    file = (path if path.is_dir() else path.parent) / name
    return file if weights and file.is_file() else None


def _to_save(model: CsmModel, codec: MimiModel, dtype: torch.dtype) -> Any:
    """Return the library's model around our tensors, cast to `dtype`, to be saved.

    The codec stays as it is, for rounding changes its codes. The model does not run: what is not
    saved is on the meta device. (Loading by from_pretrained would make the library save the codec
    under names that its former versions do not know.)
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


def to_run(model: CsmModel) -> Any:
    """Return the library's model with our weights, ready to run, and a placeholder as codec."""
    config = _config(model.size, random_codec().config)
    theirs: Any = CsmForConditionalGeneration.from_pretrained(
        None, config=config, state_dict=_renamed(model, torch.float32)
    )
    return theirs.eval()


def _config(size: CsmSize, codec: MimiConfig) -> TheirConfig:
    sizes: dict[str, Any] = {**layouts.transformers_config(size), **_token_ids(size)}
    return TheirConfig(**sizes, codec_config=codec)


def _renamed(model: CsmModel, dtype: torch.dtype) -> dict[str, Tensor]:
    tensors = layouts.to_transformers(model.state_dict(), model.size)
    renamed = {name: tensor.to(dtype).contiguous() for name, tensor in tensors.items()}
    return renamed | {layouts.TIED: renamed[layouts.AUDIO_EMBEDDINGS]}


def codec_of(folder: Path, files: Sequence[Path]) -> MimiModel | None:
    """Take the codec out of a checkpoint in the library's layout; None where there is none."""
    tensors: dict[str, Tensor] = {}
    for file in files:
        with safe_open(file, "pt") as opened:
            names = [name for name in opened.keys() if name.startswith(_CODEC)]  # noqa: SIM118
            tensors |= {
                name.removeprefix(_CODEC): opened.get_tensor(name).float() for name in names
            }
    if not tensors:
        return None
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    with quiet():
        return MimiModel.from_pretrained(
            None, config=MimiConfig(**config["codec_config"]), state_dict=tensors
        )


def random_codec() -> MimiModel:
    """Return a small codec with random weights as a placeholder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MimiModel(MimiConfig(**_SMALL_CODEC))


def reload(folder: Path, probes: Sequence[Probe]) -> tuple[Logits, str]:
    """Read an export back by the library itself: its logits, and by whom.

    Raises CheckError when the library had to make up, leave out or resize any tensor.
    """
    with quiet():
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


@torch.no_grad()
def logits_of(theirs: Any, probes: Sequence[Probe]) -> Logits:
    """Run the library's model over the probes, from its own embeddings to its own logits."""
    return Logits.join([_logits(theirs.eval(), probe) for probe in probes])


def _logits(theirs: Any, probe: Probe) -> tuple[Tensor, Tensor]:
    length = len(probe.text)
    text = theirs.embed_text_tokens(probe.text[None])
    frames = theirs.backbone_model.embed_tokens(probe.codes[None])
    labels = torch.full((1, length + len(probe.codes), probe.codes.shape[1]), -100)
    labels[0, length:] = probe.codes
    output = theirs(inputs_embeds=torch.cat([text, frames], dim=1), labels=labels)
    return output.logits[0, length - 1 : -1], output.depth_decoder_logits


def _token_ids(size: CsmSize) -> dict[str, int | None]:
    """Return the ids of Llama 3's special tokens; a model of another vocabulary has none."""
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


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the library's progress bars and its warnings about token ids off the console."""
    level = transformers_logging.get_verbosity()
    shows_progress = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # peft asks transformers by an old name; the tied weights are not the adapted head's.
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
            warnings.filterwarnings("ignore", ".*tie_word_embeddings", UserWarning)
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if shows_progress:
            transformers_logging.enable_progress_bar()
