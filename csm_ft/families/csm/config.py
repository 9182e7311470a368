"""Options of CSM, and which weights they train. Imports no torch."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import field_validator, model_validator

from csm_ft.codecs import CodecName
from csm_ft.config.base import option
from csm_ft.config.generate import SpokenGenerateConfig
from csm_ft.config.pretokenize import PretokenizeConfig
from csm_ft.config.train import TrainConfig
from csm_ft.data.rows import SPEAKER
from csm_ft.errors import ConfigError
from csm_ft.families.csm.size import MAX_POSITIONS
from csm_ft.families.template import DEFAULT_TEMPLATE, TextTemplate
from csm_ft.text_file import nfc, read_text

Preset = Literal["auto", "llama-1B", "llama-100M", "tiny"]
_AUTO_SIZE = (
    "auto = as the checkpoint says (from scratch: BACKBONE_FLAVOR / DECODER_FLAVOR, else llama-1B /"
    " llama-100M; melrvq: tiny)."
)


class CsmConfig(TrainConfig):
    """Options of train.py for CSM."""

    aliases: ClassVar[Mapping[str, str]] = {"gen_sentence": "gen_sentences"}
    methods: ClassVar[Sequence[str]] = (
        *("full", "lora", "backbone_only", "depth_only", "embeddings_only", "heads_only"),
    )
    not_searchable: ClassVar[Mapping[str, str]] = {
        **TrainConfig.not_searchable,
        "context_positions": "it changes what an example is; give it as a flag for all trials",
        "val_turns": "trials validated on other turns cannot be compared; give it as a flag for all"
        " trials",
        "val_depth_fraction": "trials validated on other frames cannot be compared; give it as a"
        " flag for all trials",
    }
    measured_by: ClassVar[Mapping[str, Any]] = {
        **TrainConfig.measured_by,
        "val_depth_fraction": 1.0,
        "text_embeddings": "all",
    }

    family: str = option("csm", "Model family; auto = that of the token file.", group="run")
    model_name_or_checkpoint_path: str = option(
        "auto",
        "Weights to start from: hub name, folder, run folder or file; auto = by the codec of the"
        " token file (mimi: sesame/csm-1b, melrvq: the embedded tiny base).",
        group="run",
        path=True,
    )
    method: str = option(
        "full",
        "Which weights are trained: full = all; lora = low-rank adapters, with all other weights"
        " frozen (learning_rate then defaults to 1.5e-4); backbone_only = the backbone and the head"
        " of codebook 0; depth_only = the depth decoder and its heads (codebook 0 does not change);"
        " embeddings_only; heads_only.",
        group="what is trained",
    )

    backbone: Preset = option("auto", f"Size of the backbone: {_AUTO_SIZE}", group="model size")
    backbone_layers: int = option(
        0, "Layers of the backbone; 0 = those of the preset.", group="model size", ge=0
    )
    backbone_dim: int = option(0, "Width of the backbone.", group="model size", ge=0)
    backbone_heads: int = option(0, "Query heads of the backbone.", group="model size", ge=0)
    backbone_kv_heads: int = option(0, "Key/value heads of the backbone.", group="model size", ge=0)
    backbone_ffn_dim: int = option(
        0, "Feed-forward width of the backbone.", group="model size", ge=0
    )
    decoder: Preset = option("auto", f"Size of the depth decoder: {_AUTO_SIZE}", group="model size")
    decoder_layers: int = option(
        0, "Layers of the depth decoder; 0 = those of the preset.", group="model size", ge=0
    )
    decoder_dim: int = option(0, "Width of the depth decoder.", group="model size", ge=0)
    decoder_heads: int = option(0, "Query heads of the depth decoder.", group="model size", ge=0)
    decoder_kv_heads: int = option(
        0, "Key/value heads of the depth decoder.", group="model size", ge=0
    )
    decoder_ffn_dim: int = option(
        0, "Feed-forward width of the depth decoder.", group="model size", ge=0
    )
    decoder_loss_weight: float = option(
        0.5,
        "Weight w of the depth decoder in the training loss, 0..1: 2*((1-w)*codebook 0 +"
        " w*depth decoder).",
        group="optimisation",
        ge=0,
        le=1,
    )
    depth_fraction: float = option(
        1 / 16,
        "Share of each clip's frames, the EOS frame among them, that train the depth decoder, drawn"
        " anew each epoch. The gradient is unbiased.",
        group="optimisation",
        gt=0,
        le=1,
    )

    packing: Literal["auto", "on", "off"] = option(
        "auto",
        "Lay the sequences of a micro-batch one after another instead of padding them; each attends"
        " to itself alone, so the loss is the same (but for what lora_dropout draws). auto = on a"
        " CPU without lora_dropout, where more than 5 % of it would be padding.",
        group="optimisation",
        trains=False,
    )
    val_depth_fraction: float = option(
        0.0,
        "Share of each validation clip's frames whose depth codebooks are scored while a run goes"
        " on, the same ones in every validation of every trial; codebook 0 and the EOS frame always"
        " are. The best weights are measured on all frames at the end. 1 = always all; 0 = a tenth,"
        " and at least 500 frames.",
        group="schedule",
        trains=False,
        ge=0,
        le=1,
    )

    tag_dropout: float = option(
        0.0,
        "Share of clips that are read without the tags of --text_template, drawn anew each epoch,"
        " so that the untagged voice stays.",
        group="optimisation",
        ge=0,
        le=1,
    )

    backbone_lr_factor: float = option(
        1.0,
        "Learning rate of the backbone as a multiple of learning_rate; 0 = frozen.",
        group="what is trained",
        ge=0,
    )
    decoder_lr_factor: float = option(
        1.0,
        "The same for the depth decoder and the projection into it.",
        group="what is trained",
        ge=0,
    )
    embeddings_lr_factor: float = option(
        1.0, "The same for the text and audio embeddings.", group="what is trained", ge=0
    )
    heads_lr_factor: float = option(
        1.0,
        "The same for the head of codebook 0 and those of the depth decoder.",
        group="what is trained",
        ge=0,
    )
    text_embeddings: Literal["used", "all"] = option(
        "used",
        "Text embeddings that are trained: used = those of the tokens in the training data, which"
        " is the same training as all in less memory, as no others have a gradient (with decay_all:"
        " all). A resumed run keeps its own.",
        group="what is trained",
        trains=False,
    )

    # Conversations: metadata with the columns conversation and turn
    loss_turns: str = option(
        "all",
        "Target turns of a conversation: all, last or speaker:NAME; the others are context.",
        group="conversation",
    )
    val_turns: str = option(
        "all",
        "Target turns of validation (as loss_turns); the same for all trials.",
        group="conversation",
    )
    context_positions: int = option(
        MAX_POSITIONS,
        "Longest example in positions (text tokens + frames); longer conversations are cut between"
        " turns.",
        group="conversation",
        gt=0,
        le=MAX_POSITIONS,
    )

    # Samples
    gen_sentences: list[str] = option(
        [],
        "Sentences to sample, or a .txt file with one per line; none = the texts of the first two"
        " validation clips, each after its previous turns.",
        group="samples",
        path=True,
        trains=False,
    )
    gen_prompts: str = option(
        "",
        "JSON file of further prompts, with speakers and context clips.",
        group="samples",
        path=True,
        trains=False,
    )
    gen_speaker: str = option("999", "Speaker id of the samples.", group="samples", trains=False)
    gen_max_sec: float = option(
        10.0, "Maximum length of a sample in seconds.", group="samples", trains=False, gt=0
    )
    gen_temperature: float = option(
        0.9, "Sampling temperature; 0 = greedy.", group="samples", trains=False, ge=0
    )
    gen_topk: int = option(
        50, "Sample from the k most likely codes; 0 = all.", group="samples", trains=False, ge=0
    )

    @field_validator("gen_sentences", mode="before")
    @classmethod
    def _sentences(cls, value: Any) -> Any:
        sentences = [value] if isinstance(value, str) else list(value)
        if len(sentences) == 1 and str(sentences[0]).endswith(".txt"):
            path = Path(sentences[0])
            if not path.is_file():
                raise ValueError(
                    f"{path}: no such file; give a sentence, or a .txt file with one sentence per"
                    " line"
                )
            sentences = read_text(path, ConfigError).splitlines()
        return [nfc(str(s)).strip() for s in sentences if str(s).strip()]

    @field_validator("loss_turns", "val_turns")
    @classmethod
    def _turns(cls, value: str) -> str:
        names_speaker = value.startswith(SPEAKER) and value != SPEAKER
        if value not in ("all", "last") and not names_speaker:
            raise ValueError(f"{value!r} is none of all, last, speaker:NAME")
        return value

    @model_validator(mode="after")
    def _what_is_trained(self) -> Self:
        if self.method == "lora":
            lora_modules(self)
        if not any(learning_rate_factor(self, name) for name in _TENSORS):
            raise ValueError(
                f"method {self.method}: every part it would train has an lr_factor of 0; nothing is"
                " left to train"
            )
        if self.method == "depth_only" and self.decoder_loss_weight == 0:
            raise ValueError(
                "method depth_only trains the depth decoder alone, and decoder_loss_weight 0 gives"
                " it no loss"
            )
        return self

    @property
    def can_compile(self) -> bool:
        """Whether the other options let layers be compiled."""
        return super().can_compile and self.packing != "on"

    @model_validator(mode="after")
    def _compiles_padded_layers(self) -> Self:
        if self.packing == "on" and self.compile == "on":
            raise ValueError(
                "packing on: layers would be compiled again for each micro-batch; use --packing off"
                " or --compile off"
            )
        return self

    @classmethod
    def refuse_search(cls, name: str, values: Sequence[Any]) -> str:
        """Return why a sweep cannot search `name`; also refuses what changes the examples seen."""
        if name == "loss_turns" and any(str(value).startswith(SPEAKER) for value in values):
            return "trials of one speaker's turns see fewer examples; give it as a flag for all"
        return super().refuse_search(name, values)


class CsmPretokenizeConfig(PretokenizeConfig):
    """Options of pretokenize.py for CSM."""

    family: str = option("csm", "Model family that the tokens are for.", group="data")
    default_speaker: str = option(
        "999", "Speaker of rows without a speaker.", group="codec and text"
    )
    codec: CodecName = option(
        "mimi", "Audio codec; melrvq is embedded and needs no download.", group="codec and text"
    )
    codec_source: str = option(
        "auto",
        "Weights of the codec: hub name, folder or file; auto = kyutai/mimi, or the embedded one.",
        group="codec and text",
        path=True,
    )
    num_codebooks: int = option(
        0, "Codebooks to keep; 0 = all (32 of Mimi).", group="codec and text", ge=0
    )
    fit_codec: bool = option(
        False,
        "melrvq: first fit a new codec on the training clips; it is kept when rows are added.",
        group="codec and text",
    )
    refit_codec: bool = option(
        False,
        "With fit_codec: fit the codec again and re-encode all clips.",
        group="codec and text",
    )
    tokenizer: str = option(
        "auto",
        "Text tokenizer: hub name, folder or tokenizer.json; auto = that of Llama 3.2, or for"
        " melrvq the embedded one.",
        group="codec and text",
        path=True,
    )
    text_template: str = option(
        DEFAULT_TEMPLATE,
        "What the model reads of a row: any columns of the metadata, as '[{speaker}]<{emotion}>?"
        "{text}'; ? = optional, left out of rows without that column.",
        group="codec and text",
    )
    omit_speaker_id: bool = option(
        False,
        "Leave the [speaker] prefix out of the text: the template {text}.",
        group="codec and text",
    )
    max_positions: int = option(
        MAX_POSITIONS,
        "Longest clip in positions (text tokens + frames + 1); the default is the model's limit.",
        group="checks",
        gt=0,
    )

    @property
    def template(self) -> str:
        """The template of the text."""
        return "{text}" if self.omit_speaker_id else self.text_template

    @model_validator(mode="after")
    def _check_template(self) -> Self:
        if self.omit_speaker_id and self.text_template != DEFAULT_TEMPLATE:
            raise ValueError(
                "omit_speaker_id and text_template exclude each other; leave {speaker} out of the"
                " template"
            )
        TextTemplate(self.text_template)
        return self

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.fit_codec and self.codec != "melrvq":
            raise ValueError(
                "fit_codec fits the embedded codec: add --codec melrvq (Mimi comes trained)"
            )
        if self.fit_codec and self.codec_source != "auto":
            raise ValueError(
                f"fit_codec makes a codec of its own, codec_source {self.codec_source!r} names"
                " another; give one of the two"
            )
        if self.refit_codec and not self.fit_codec:
            raise ValueError("refit_codec goes with --fit_codec")
        return self


class CsmGenerateConfig(SpokenGenerateConfig):
    """Options of `python -m csm_ft.generate` for CSM."""

    family: str = option("csm", "Model family; auto = that of the weights.", group="model")
    speaker: str = option(
        "", "Speaker (default: the one with the most training clips, or 0).", group="prompts"
    )
    context: list[str] = option(
        [],
        "A turn that precedes --text, as WAV:TEXT:SPEAKER; repeatable, oldest first.",
        group="prompts",
        path=True,
        repeatable=True,
    )
    temperature: float = option(0.9, "Sampling temperature; 0 = greedy.", group="sampling", ge=0)
    topk: int = option(50, "Sample from the k most likely codes; 0 = all.", group="sampling", ge=0)
    max_sec: float = option(
        10.0, "Maximum length of a recording in seconds.", group="sampling", ge=0.08
    )
    codec: Literal["auto", "mimi", "melrvq"] = option(
        "auto", "Audio codec; auto = that of the model's training data.", group="model"
    )
    codec_source: str = option(
        "", "Weights of the codec: hub name, folder or file.", group="model", path=True
    )
    tokenizer: str = option(
        "",
        "Text tokenizer: hub name, folder or tokenizer.json; empty = that of the model's training"
        " data.",
        group="model",
        path=True,
    )


# First word of a tensor's name -> the part of the model whose lr_factor applies.
_PARTS = {
    "backbone": "backbone",
    "decoder": "decoder",
    "projection": "decoder",
    "text_embeddings": "embeddings",
    "audio_embeddings": "embeddings",
    "codebook0_head": "heads",
    "audio_head": "heads",
}
_TENSORS = tuple(_PARTS)
_TRAINED = {
    "full": _TENSORS,
    "lora": _TENSORS,
    "backbone_only": ("backbone", "codebook0_head"),
    "depth_only": ("decoder", "projection", "audio_head"),
    "embeddings_only": ("text_embeddings", "audio_embeddings"),
    "heads_only": ("codebook0_head", "audio_head"),
}
_ADAPTED = {  # in a layer of either transformer
    "q_proj": "attn.q_proj",
    "k_proj": "attn.k_proj",
    "v_proj": "attn.v_proj",
    "output_proj": "attn.output_proj",
    "w1": "mlp.w1",
    "w2": "mlp.w2",
    "w3": "mlp.w3",
}
_OTHER_NAMES = {  # of the same modules, in the layout of transformers
    "o_proj": "output_proj",
    "gate_proj": "w1",
    "down_proj": "w2",
    "up_proj": "w3",
    "inputs_embeds_projector": "projection",
    "lm_head": "codebook0_head",
}
_WORDS = {"attention": ("q_proj", "k_proj", "v_proj", "output_proj"), "mlp": ("w1", "w2", "w3")}
_ADAPTED_ALONE = ("projection", "codebook0_head")


def learning_rate_factor(config: CsmConfig, tensor_name: str) -> float:
    """Return the learning rate of a tensor as a multiple of `learning_rate`; 0 = frozen."""
    first = tensor_name.split(".")[0]
    if first not in _TRAINED[config.method]:
        return 0.0
    factor = getattr(config, f"{_PARTS[first]}_lr_factor")
    return factor * config.lora_lr_factor if config.method == "lora" else factor


def lora_modules(config: CsmConfig) -> str:
    """Return a regular expression of the modules that get adapters.

    These are the modules of `lora_targets` in parts that are not frozen. Raises ValueError for an
    unknown word, and when no module is left.
    """
    wanted: list[str] = []
    for word in config.lora_targets.replace(" ", "").split(","):
        own = word.removeprefix("self_attn.").removeprefix("attn.").removeprefix("mlp.")
        own = _OTHER_NAMES.get(own, own)
        names = _WORDS.get(own, (own,))
        if not set(names) <= {*_ADAPTED, *_ADAPTED_ALONE}:
            raise ValueError(
                f"lora_targets: {word!r} is none of"
                f" {', '.join((*_WORDS, *_ADAPTED, *_ADAPTED_ALONE, *_OTHER_NAMES))}; write e.g."
                " attention,mlp or q_proj,v_proj"
            )
        wanted += [name for name in names if name not in wanted]
    stacks = [name for name in ("backbone", "decoder") if getattr(config, f"{name}_lr_factor")]
    in_layers = [re.escape(_ADAPTED[name]) for name in wanted if name in _ADAPTED]
    patterns: list[str] = []
    if stacks and in_layers:
        patterns.append(rf"({'|'.join(stacks)})\.layers\.\d+\.({'|'.join(in_layers)})")
    patterns += [
        name
        for name in wanted
        if name in _ADAPTED_ALONE and getattr(config, f"{_PARTS[name]}_lr_factor")
    ]
    if not patterns:
        raise ValueError(
            f"lora_targets {config.lora_targets!r}: all of it is in parts with an lr_factor of 0;"
            " nothing is left to adapt"
        )
    return "|".join(patterns)
