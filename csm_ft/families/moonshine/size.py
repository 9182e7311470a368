"""The sizes of a Moonshine, and how options choose them. Imports no torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from csm_ft.errors import ConfigError

if TYPE_CHECKING:
    from csm_ft.families.moonshine.config import MoonshineConfig

SAMPLE_RATE_HZ = 16000
START, END = 1, 2  # ids of <s> and </s> in every Moonshine tokenizer
DEFAULT_TOKENS_PER_SEC = 6.5  # of speech; what transformers' configs and the C++ library allow
LEAST_TOKENS_PER_SEC = 6.0  # of a cap that a training set suggests; that of the paper
TRAINED_SEC = 30  # of sound, for the most tokens that transformers' generate writes by default
# (kernel, stride) of the three convolutions of the front end
CONVOLUTIONS = ((127, 64), (7, 3), (3, 2))
FRAME_SAMPLES = 384  # product of the strides
MIN_SAMPLES = 895  # fewer give no frame


@dataclass(frozen=True)
class MoonshineSize:
    """Everything that decides the shapes of a checkpoint."""

    dim: int
    ffn_dim: int
    encoder_layers: int
    decoder_layers: int
    heads: int  # of encoder and decoder: transformers merges two numbers into one
    rotary_share: float  # of a head's dimensions
    vocab_size: int = 32768

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.dim // self.heads

    @property
    def rotary_dim(self) -> int:
        """Dimensions of a head that carry the position."""
        return int(self.head_dim * self.rotary_share)

    def check(self, where: str) -> Self:
        """Return self; raise ConfigError if the numbers do not fit together."""
        numbers = (self.dim, self.ffn_dim, self.heads, self.vocab_size)
        layers = (self.encoder_layers, self.decoder_layers)
        if min(*numbers, *layers) <= 0:
            raise ConfigError(f"{where}: every size must be above 0, got {self}")
        if self.dim % self.heads:
            raise ConfigError(f"{where}: dim {self.dim} is not a multiple of heads {self.heads}")
        if self.rotary_dim % 2 or not 0 < self.rotary_dim <= self.head_dim:
            raise ConfigError(
                f"{where}: {self.rotary_dim} rotary dimensions per head (head_dim {self.head_dim} *"
                f" partial_rotary_factor {self.rotary_share}) must be even and above 0"
            )
        return self

    def to_json(self) -> dict[str, Any]:
        """Return config.json as transformers' MoonshineConfig reads it."""
        return {
            "architectures": ["MoonshineForConditionalGeneration"],
            "model_type": "moonshine",
            "vocab_size": self.vocab_size,
            "hidden_size": self.dim,
            "intermediate_size": self.ffn_dim,
            "encoder_num_hidden_layers": self.encoder_layers,
            "decoder_num_hidden_layers": self.decoder_layers,
            "encoder_num_attention_heads": self.heads,
            "decoder_num_attention_heads": self.heads,
            "encoder_num_key_value_heads": self.heads,
            "decoder_num_key_value_heads": self.heads,
            "partial_rotary_factor": self.rotary_share,
            "rope_theta": 10000.0,
            "max_position_embeddings": 512,
            "bos_token_id": START,
            "decoder_start_token_id": START,
            "eos_token_id": END,
            "pad_token_id": END,
            "tie_word_embeddings": True,
            "is_encoder_decoder": True,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str) -> Self:
        """Read transformers' config.json; ConfigError for another model, or one we cannot run."""
        if values.get("model_type") != "moonshine":
            raise ConfigError(
                f"{where}: model_type {values.get('model_type')!r} is not moonshine; name a"
                " checkpoint such as UsefulSensors/moonshine-tiny"
            )
        heads = {
            name: values.get(name, values["decoder_num_attention_heads"])
            for name in (
                "encoder_num_attention_heads",
                "encoder_num_key_value_heads",
                "decoder_num_key_value_heads",
            )
        }
        odd = [f"{name} {n}" for name, n in heads.items() if n not in (None, _heads(values))]
        if odd:
            raise ConfigError(
                f"{where}: {', '.join(odd)} beside decoder_num_attention_heads {_heads(values)};"
                " all head counts must be equal, as transformers runs no other"
            )
        rope = values.get("rope_parameters") or values
        return cls(
            dim=int(values["hidden_size"]),
            ffn_dim=int(values["intermediate_size"]),
            encoder_layers=int(values["encoder_num_hidden_layers"]),
            decoder_layers=int(values["decoder_num_hidden_layers"]),
            heads=_heads(values),
            rotary_share=float(rope.get("partial_rotary_factor", 0.9)),
            vocab_size=int(values["vocab_size"]),
        ).check(where)


def _heads(values: Mapping[str, Any]) -> int:
    return int(values["decoder_num_attention_heads"])


PRESETS: Mapping[str, MoonshineSize] = {
    "tiny": MoonshineSize(288, 1152, 6, 6, 8, 0.9),
    "base": MoonshineSize(416, 1664, 8, 8, 8, 0.62),
}


def chosen_size(config: "MoonshineConfig", vocab_size: int) -> MoonshineSize:
    """Return the size that the flags choose; ConfigError for an impossible one."""
    size = replace(PRESETS[config.model_size], vocab_size=vocab_size, **_overrides(config))
    where = f"model_size {config.model_size}"
    if size.dim % size.heads == 0 and size.rotary_dim % 2:
        # Positions turn pairs of dimensions; rounded up, so that int() finds the number again.
        share = math.nextafter((size.rotary_dim - 1) / size.head_dim, 1)
        size = replace(size, rotary_share=share)
    return size.check(where)


def check_flags(config: "MoonshineConfig", size: MoonshineSize, where: str) -> None:
    """Raise ConfigError for size flags that contradict the checkpoint they are given with."""
    wrong = {
        name: value for name, value in _overrides(config).items() if value != getattr(size, name)
    }
    if wrong:
        raise ConfigError(
            f"the flags say {wrong}, the checkpoint {where} has {size}; drop the size flags, or add"
            " --train_from_scratch"
        )


def num_frames(num_samples: int) -> int:
    """Return the encoder frames of so many samples; 0 if they are too few."""
    return conv_lengths(num_samples)[-1]


def conv_lengths(num_samples: int) -> tuple[int, int, int]:
    """Return the output lengths of the three convolutions."""
    lengths = []
    length = num_samples
    for kernel, stride in CONVOLUTIONS:
        length = max(0, (length - kernel) // stride + 1)
        lengths.append(length)
    return tuple(lengths)


def _overrides(config: "MoonshineConfig") -> dict[str, int]:
    names = ("dim", "ffn_dim", "encoder_layers", "decoder_layers", "heads")
    values = {name: getattr(config, f"model_{name}") for name in names}
    return {name: value for name, value in values.items() if value}
