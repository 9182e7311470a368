"""Options that only CSM has, and the sizes its two transformers come in. Imports no torch."""

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

from pydantic import model_validator

from csm_ft.config import ConfigError, TrainConfig, option

Preset = Literal["auto", "llama-1B", "llama-100M", "tiny"]
_AUTO_SIZE = (
    "auto = as the checkpoint says (from scratch: BACKBONE_FLAVOR / DECODER_FLAVOR, else llama-1B /"
    " llama-100M; melrvq: tiny)."
)


class CsmConfig(TrainConfig):
    """train.py's options for CSM."""

    backbone: Preset = option("auto", f"Size of the backbone: {_AUTO_SIZE}", group="model size")
    backbone_layers: int = option(
        0, "Layers of the backbone; 0 = the preset's (so below, too).", group="model size"
    )
    backbone_dim: int = option(0, "Width of the backbone.", group="model size")
    backbone_heads: int = option(0, "Query heads of the backbone.", group="model size")
    backbone_kv_heads: int = option(0, "Key/value heads of the backbone.", group="model size")
    backbone_ffn_dim: int = option(0, "Feed-forward width of the backbone.", group="model size")
    decoder: Preset = option("auto", f"Size of the depth decoder: {_AUTO_SIZE}", group="model size")
    decoder_layers: int = option(
        0, "Layers of the depth decoder; 0 = the preset's.", group="model size"
    )
    decoder_dim: int = option(0, "Width of the depth decoder.", group="model size")
    decoder_heads: int = option(0, "Query heads of the depth decoder.", group="model size")
    decoder_kv_heads: int = option(0, "Key/value heads of the depth decoder.", group="model size")
    decoder_ffn_dim: int = option(0, "Feed-forward width of the depth decoder.", group="model size")
    decoder_loss_weight: float = option(
        0.5,
        "w in 2*((1-w)*codebook 0 + w*depth decoder): how much the depth decoder's loss counts in"
        " training, 0..1.",
        group="optimisation",
    )
    depth_fraction: float = option(
        1 / 16,
        "Share of a clip's frames, drawn anew each epoch, that train the depth decoder (unbiased;"
        " the EOS frame always does).",
        group="optimisation",
    )

    backbone_lr_factor: float = option(
        1.0,
        "Learning rate of the backbone as a multiple of learning_rate; 0 = frozen (so below, too).",
        group="what is trained",
    )
    decoder_lr_factor: float = option(
        1.0, "Of the depth decoder and the projection into it.", group="what is trained"
    )
    embeddings_lr_factor: float = option(
        1.0, "Of text and audio embeddings.", group="what is trained"
    )
    heads_lr_factor: float = option(
        1.0, "Of codebook 0's head and the depth decoder's heads.", group="what is trained"
    )

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

    @model_validator(mode="after")
    def _csm_ranges(self) -> Self:
        if self.context_positions > MAX_POSITIONS:
            raise ValueError(
                f"context_positions {self.context_positions} is above {MAX_POSITIONS}, the model's"
                " length"
            )
        if not 0 <= self.decoder_loss_weight <= 1:
            raise ValueError(f"decoder_loss_weight {self.decoder_loss_weight} is not in [0, 1]")
        if not 0 < self.depth_fraction <= 1:
            raise ValueError(
                f"depth_fraction {self.depth_fraction} is not in (0, 1]; 0.0625 trains on 1 frame"
                " in 16"
            )
        for name in type(self).model_fields:
            if name.endswith("_lr_factor") and getattr(self, name) < 0:
                raise ValueError(f"{name} {getattr(self, name)} is below 0 (0 = frozen)")
            if (
                name.startswith(("backbone_", "decoder_"))
                and name != "decoder_loss_weight"
                and getattr(self, name) < 0
            ):
                raise ValueError(f"{name} {getattr(self, name)} is below 0 (0 = the preset's)")
        return self


# The parts of the model by the first word of a tensor's name.
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
_WORDS = {"attention": ("q_proj", "k_proj", "v_proj", "output_proj"), "mlp": ("w1", "w2", "w3")}
_ADAPTED_ALONE = ("projection", "codebook0_head")


def learning_rate_factor(config: CsmConfig, tensor_name: str) -> float:
    """Return the learning rate of a tensor as a multiple of `learning_rate`; 0 = frozen."""
    first = tensor_name.split(".")[0]
    factor = (
        getattr(config, f"{_PARTS[first]}_lr_factor") if first in _TRAINED[config.method] else 0.0
    )
    return factor * config.lora_lr_factor if config.method == "lora" else factor


def lora_modules(config: CsmConfig) -> str:
    """Return a regular expression of the modules that get adapters.

    Those of `lora_targets` in parts that are not frozen.

    Raises ValueError for an unknown word, and when no module is left.
    """
    wanted: list[str] = []
    for word in config.lora_targets.replace(" ", "").split(","):
        names = _WORDS.get(word, (word,))
        if not set(names) <= {*_ADAPTED, *_ADAPTED_ALONE}:
            raise ValueError(
                f"lora_targets: {word!r} is none of"
                f" {', '.join((*_WORDS, *_ADAPTED, *_ADAPTED_ALONE))}; write e.g. attention,mlp or"
                " q_proj,v_proj"
            )
        wanted += [name for name in names if name not in wanted]
    stacks = [name for name in ("backbone", "decoder") if getattr(config, f"{name}_lr_factor")]
    in_layers = [re.escape(_ADAPTED[name]) for name in wanted if name in _ADAPTED]
    patterns = (
        [rf"({'|'.join(stacks)})\.layers\.\d+\.({'|'.join(in_layers)})"]
        if stacks and in_layers
        else []
    )
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


@dataclass(frozen=True)
class TransformerSize:
    """Shape of one Llama-3.2 transformer."""

    layers: int
    heads: int
    kv_heads: int
    dim: int
    ffn_dim: int

    def check(self, name: str) -> Self:
        """Raise ConfigError where the numbers do not fit together."""
        if min(asdict(self).values()) <= 0:
            raise ConfigError(f"{name}: every size must be above 0, got {asdict(self)}")
        if self.dim % self.heads or self.heads % self.kv_heads or (self.dim // self.heads) % 2:
            raise ConfigError(
                f"{name}: dim {self.dim} must be heads {self.heads} times an even head size, "
                f"and heads a multiple of kv_heads {self.kv_heads}"
            )
        return self


PRESETS: Mapping[str, TransformerSize] = {
    "llama-1B": TransformerSize(layers=16, heads=32, kv_heads=8, dim=2048, ffn_dim=8192),
    "llama-100M": TransformerSize(layers=4, heads=8, kv_heads=2, dim=1024, ffn_dim=8192),
    "tiny": TransformerSize(layers=4, heads=4, kv_heads=2, dim=192, ffn_dim=512),
}
MAX_POSITIONS = 2048


@dataclass(frozen=True)
class CsmSize:
    """Everything that decides the shapes of a checkpoint: 187 tensors for csm-1b."""

    backbone: TransformerSize
    decoder: TransformerSize
    text_vocab_size: int
    audio_vocab_size: int
    num_codebooks: int

    def to_json(self) -> dict[str, Any]:
        """Return Sesame's five keys of config.json.

        Sizes that are not a preset stand beside them in full.
        """
        flavours = {"backbone": _preset_name(self.backbone), "decoder": _preset_name(self.decoder)}
        return {
            "backbone_flavor": flavours["backbone"] or "custom",
            "decoder_flavor": flavours["decoder"] or "custom",
            "text_vocab_size": self.text_vocab_size,
            "audio_vocab_size": self.audio_vocab_size,
            "audio_num_codebooks": self.num_codebooks,
            **(
                {}
                if flavours["backbone"] in ("llama-1B", "llama-100M")
                else {"backbone": asdict(self.backbone)}
            ),
            **(
                {}
                if flavours["decoder"] in ("llama-1B", "llama-100M")
                else {"decoder": asdict(self.decoder)}
            ),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str) -> Self:
        """Read a checkpoint's config.json (further keys, as the hub's file has, are left alone).

        ConfigError names what is missing.
        """
        try:
            sizes = {
                name: (
                    TransformerSize(**values[name])
                    if name in values
                    else PRESETS[values[f"{name}_flavor"]]
                )
                for name in ("backbone", "decoder")
            }
            return cls(
                sizes["backbone"].check(f"{where}: backbone"),
                sizes["decoder"].check(f"{where}: decoder"),
                int(values["text_vocab_size"]),
                int(values["audio_vocab_size"]),
                int(values["audio_num_codebooks"]),
            )
        except (KeyError, TypeError) as error:
            keys = (
                "backbone_flavor, decoder_flavor, text_vocab_size, audio_vocab_size,"
                " audio_num_codebooks"
            )
            raise ConfigError(
                f"{where}: not the config of a CSM checkpoint in Sesame's layout ({error}); it"
                f" needs {keys}"
            ) from error


def chosen_size(
    config: CsmConfig,
    *,
    default: str,
    text_vocab_size: int,
    audio_vocab_size: int,
    num_codebooks: int,
) -> CsmSize:
    """Return the size that flags, then .env, then `default` ("llama-1B" or "tiny") describe."""
    small = "tiny" if default == "tiny" else "llama-100M"
    fallbacks = {
        "backbone": default if default == "tiny" else os.environ.get("BACKBONE_FLAVOR", default),
        "decoder": small if default == "tiny" else os.environ.get("DECODER_FLAVOR", small),
    }
    sizes = {}
    for name, fallback in fallbacks.items():
        preset = getattr(config, name) if getattr(config, name) != "auto" else fallback
        if preset not in PRESETS:
            raise ConfigError(
                f"{name.upper()}_FLAVOR={preset!r} is not one of {', '.join(PRESETS)}; correct it"
                " in .env"
            )
        sizes[name] = replace(PRESETS[preset], **_overrides(config, name)).check(name)
    return CsmSize(
        sizes["backbone"], sizes["decoder"], text_vocab_size, audio_vocab_size, num_codebooks
    )


def check_flags(config: CsmConfig, size: CsmSize, where: str) -> None:
    """Refuse size flags that contradict the checkpoint they are given with."""
    for name in ("backbone", "decoder"):
        actual: TransformerSize = getattr(size, name)
        preset = getattr(config, name)
        wanted = replace(
            PRESETS[preset] if preset != "auto" else actual, **_overrides(config, name)
        )
        if wanted != actual:
            raise ConfigError(
                f"{name}: the flags say {asdict(wanted)}, the checkpoint {where} has"
                f" {asdict(actual)}; drop the size flags, or add --train_from_scratch"
            )


def _overrides(config: CsmConfig, name: str) -> dict[str, int]:
    values = {
        key: getattr(config, f"{name}_{key}")
        for key in ("layers", "heads", "kv_heads", "dim", "ffn_dim")
    }
    return {key: value for key, value in values.items() if value}


def _preset_name(size: TransformerSize) -> str | None:
    return next((name for name, preset in PRESETS.items() if preset == size), None)
