"""The sizes of CSM's two transformers, and how options choose them. Imports no torch."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from csm_ft.errors import ConfigError

if TYPE_CHECKING:
    from csm_ft.families.csm.config import CsmConfig


@dataclass(frozen=True)
class TransformerSize:
    """Shape of one Llama-3.2 transformer."""

    layers: int
    heads: int
    kv_heads: int
    dim: int
    ffn_dim: int

    def check(self, name: str) -> Self:
        """Return self; raise ConfigError if the numbers do not fit together."""
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
        """Return Sesame's five keys of config.json, and in full the sizes it has no name for."""
        flavours = {"backbone": _preset_name(self.backbone), "decoder": _preset_name(self.decoder)}
        return {
            "backbone_flavor": flavours["backbone"] or "custom",
            "decoder_flavor": flavours["decoder"] or "custom",
            "text_vocab_size": self.text_vocab_size,
            "audio_vocab_size": self.audio_vocab_size,
            "audio_num_codebooks": self.num_codebooks,
            **{
                name: asdict(getattr(self, name))
                for name, flavour in flavours.items()
                if flavour not in ("llama-1B", "llama-100M")
            },
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str) -> Self:
        """Read the values of a checkpoint's config.json, ignoring further keys.

        Raises ConfigError, with `where` to name the file, for missing keys and impossible sizes.
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
    config: "CsmConfig",
    *,
    default: str,
    text_vocab_size: int,
    audio_vocab_size: int,
    num_codebooks: int,
) -> CsmSize:
    """Return the size by flags, else by .env, else by `default` ("llama-1B" or "tiny").

    .env does not apply to "tiny". Raises ConfigError for an unknown preset or an impossible size.
    """
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


def check_flags(config: "CsmConfig", size: CsmSize, where: str) -> None:
    """Raise ConfigError for size flags that contradict the checkpoint they are given with."""
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


def _overrides(config: "CsmConfig", name: str) -> dict[str, int]:
    values = {
        key: getattr(config, f"{name}_{key}")
        for key in ("layers", "heads", "kv_heads", "dim", "ffn_dim")
    }
    return {key: value for key, value in values.items() if value}


def _preset_name(size: TransformerSize) -> str | None:
    return next((name for name, preset in PRESETS.items() if preset == size), None)
