"""The sizes of a streaming Moonshine, the second generation. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from csm_ft.errors import ConfigError
from csm_ft.families.moonshine.size import END, START

if TYPE_CHECKING:
    from csm_ft.families.moonshine.config import MoonshineConfig

MODEL_TYPE = "moonshine_streaming"
WINDOW_SAMPLES = 80  # 5 ms; what the front end takes at once
FRAME_SAMPLES = 320  # of an encoder frame: two convolutions of stride 2 follow
POSITIONS = 4096  # that the adapter has learned, 82 s
# Frames that a layer sees: itself and 15 before, and 3 ahead in the first and last two layers.
_AHEAD, _ALONE = (16, 4), (16, 0)
_OUTER_LAYERS = 2
Windows = tuple[tuple[int, int], ...]


class Block(NamedTuple):
    """The shapes of a transformer layer."""

    dim: int
    ffn_dim: int
    heads: int
    head_dim: int


@dataclass(frozen=True)
class StreamingSize:
    """Everything that decides the shapes of a checkpoint."""

    encoder: Block
    decoder: Block
    encoder_layers: int
    decoder_layers: int
    windows: Windows  # of each encoder layer: frames it sees, its own included, and those ahead
    rotary_share: float = 0.8  # of a decoder head's dimensions
    vocab_size: int = 32768

    @property
    def rotary_dim(self) -> int:
        """Dimensions of a decoder head that carry the position; an odd number is rounded up."""
        return int(self.decoder.head_dim * self.rotary_share)

    @property
    def lookahead_frames(self) -> int:
        """Encoder frames that must follow before a frame is final."""
        return sum(max(0, ahead - 1) for _, ahead in self.windows)

    def check(self, where: str) -> Self:
        """Return self; raise ConfigError if the numbers do not fit together."""
        numbers = (*self.encoder, *self.decoder, self.encoder_layers, self.decoder_layers)
        if min(*numbers, self.vocab_size) <= 0:
            raise ConfigError(f"{where}: every size must be above 0, got {self}")
        if len(self.windows) != self.encoder_layers:
            raise ConfigError(
                f"{where}: {len(self.windows)} sliding_windows for {self.encoder_layers} encoder"
                " layers; give one for each"
            )
        if not 0 < self.rotary_dim < self.decoder.head_dim:
            raise ConfigError(
                f"{where}: {self.rotary_dim} rotary dimensions of head_dim"
                f" {self.decoder.head_dim} (partial_rotary_factor {self.rotary_share}); it must be"
                " above 0 and below 1"
            )
        return self

    def to_json(self) -> dict[str, Any]:
        """Return config.json as transformers' MoonshineStreamingConfig reads it."""
        return {
            "architectures": ["MoonshineStreamingForConditionalGeneration"],
            "model_type": MODEL_TYPE,
            "vocab_size": self.vocab_size,
            **_block_to_json(self.decoder, self.decoder_layers),
            "encoder_config": {
                "model_type": f"{MODEL_TYPE}_encoder",
                **_block_to_json(self.encoder, self.encoder_layers),
                "sliding_windows": [list(window) for window in self.windows],
            },
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "partial_rotary_factor": self.rotary_share,
            },
            "max_position_embeddings": POSITIONS,
            "bos_token_id": START,
            "decoder_start_token_id": START,
            "eos_token_id": END,
            "pad_token_id": 0,
            "tie_word_embeddings": False,
            "is_encoder_decoder": True,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str) -> Self:
        """Read transformers' config.json; ConfigError for one that we cannot run."""
        encoder = values["encoder_config"]
        odd = {
            "frame_ms": encoder.get("frame_ms", 5.0) != 5.0,
            "attention_bias": encoder.get("attention_bias") or values.get("attention_bias"),
            "max_position_embeddings": values.get("max_position_embeddings", POSITIONS)
            != POSITIONS,
        }
        wrong = [name for name, is_odd in odd.items() if is_odd]
        if wrong:
            raise ConfigError(
                f"{where}: {', '.join(wrong)} differs from the published streaming models; name one"
                " such as UsefulSensors/moonshine-streaming-tiny"
            )
        rope = values.get("rope_parameters") or values
        layers = int(encoder["num_hidden_layers"])
        windows = encoder.get("sliding_windows") or default_windows(layers)
        return cls(
            encoder=_block_from_json(encoder, where),
            decoder=_block_from_json(values, where),
            encoder_layers=layers,
            decoder_layers=int(values["num_hidden_layers"]),
            windows=tuple((int(seen), int(ahead)) for seen, ahead in windows),
            rotary_share=float(rope.get("partial_rotary_factor", 0.8)),
            vocab_size=int(values["vocab_size"]),
        ).check(where)


def default_windows(layers: int) -> Windows:
    """Return the windows of a published encoder of so many layers."""
    places = range(layers)
    return tuple(
        _AHEAD if min(place, layers - 1 - place) < _OUTER_LAYERS else _ALONE for place in places
    )


def num_frames(num_samples: int) -> int:
    """Return the encoder frames of so many samples; a window that is not full is left out."""
    return -(-(num_samples // WINDOW_SAMPLES) // 4)


def _preset(
    encoder: tuple[int, int, int], decoder: tuple[int, int, int], layers: int
) -> StreamingSize:
    (width, heads, head_dim), (own_width, own_heads, own_head_dim) = encoder, decoder
    return StreamingSize(
        encoder=Block(width, 4 * width, heads, head_dim),
        decoder=Block(own_width, 4 * own_width, own_heads, own_head_dim),
        encoder_layers=layers,
        decoder_layers=layers,
        windows=default_windows(layers),
    )


STREAMING_PRESETS: Mapping[str, StreamingSize] = {
    "streaming-tiny": _preset((320, 8, 40), (320, 8, 40), 6),
    "streaming-small": _preset((620, 8, 64), (512, 8, 64), 10),
    "streaming-medium": _preset((768, 12, 64), (640, 10, 64), 14),
}


def chosen_streaming_size(config: "MoonshineConfig", vocab_size: int) -> StreamingSize:
    """Return the size that the flags choose; width, heads and feed-forward are of both halves."""
    size = replace(STREAMING_PRESETS[config.model_size], vocab_size=vocab_size)
    size = replace(
        size, encoder=_chosen(size.encoder, config), decoder=_chosen(size.decoder, config)
    )
    layers = config.model_encoder_layers or size.encoder_layers
    where = f"model_size {config.model_size}"
    return replace(
        size,
        encoder_layers=layers,
        decoder_layers=config.model_decoder_layers or size.decoder_layers,
        windows=default_windows(layers),
    ).check(where)


def check_streaming_flags(config: "MoonshineConfig", size: StreamingSize, where: str) -> None:
    """Raise ConfigError for size flags that contradict the checkpoint they are given with."""
    found = {
        "model_dim": (size.encoder.dim, size.decoder.dim),
        "model_ffn_dim": (size.encoder.ffn_dim, size.decoder.ffn_dim),
        "model_heads": (size.encoder.heads, size.decoder.heads),
        "model_encoder_layers": (size.encoder_layers,),
        "model_decoder_layers": (size.decoder_layers,),
    }
    wrong = [name for name, values in found.items() if _contradicts(getattr(config, name), values)]
    if wrong:
        raise ConfigError(
            f"the flags {', '.join(wrong)} contradict the checkpoint {where}, which has {size};"
            " drop the size flags, or add --train_from_scratch"
        )


def _contradicts(wanted: int, values: Sequence[int]) -> bool:
    return wanted > 0 and set(values) != {wanted}


def _chosen(block: Block, config: "MoonshineConfig") -> Block:
    dim, heads = config.model_dim or block.dim, config.model_heads or block.heads
    is_new = (dim, heads) != (block.dim, block.heads)
    if is_new and dim % heads:
        raise ConfigError(
            f"model_dim {dim} is not a multiple of model_heads {heads}; change one of them"
        )
    ffn_dim = config.model_ffn_dim or (4 * dim if is_new else block.ffn_dim)
    return Block(dim, ffn_dim, heads, dim // heads if is_new else block.head_dim)


def _block_to_json(block: Block, layers: int) -> dict[str, Any]:
    return {
        "hidden_size": block.dim,
        "intermediate_size": block.ffn_dim,
        "num_hidden_layers": layers,
        "num_attention_heads": block.heads,
        "num_key_value_heads": block.heads,
        "head_dim": block.head_dim,
    }


def _block_from_json(values: Mapping[str, Any], where: str) -> Block:
    dim, heads = int(values["hidden_size"]), int(values["num_attention_heads"])
    if values.get("num_key_value_heads") not in (None, heads):
        raise ConfigError(
            f"{where}: num_key_value_heads {values['num_key_value_heads']} beside"
            f" num_attention_heads {heads}; they must be equal, as transformers runs no other"
        )
    head_dim = int(values.get("head_dim") or dim // heads)
    return Block(dim, int(values["intermediate_size"]), heads, head_dim)
