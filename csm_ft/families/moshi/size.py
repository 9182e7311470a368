"""The sizes of a Moshi, as config.json of the moshi package has them. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from csm_ft.errors import ConfigError

if TYPE_CHECKING:
    from csm_ft.data.split import Store
    from csm_ft.families.moshi.config import MoshiConfig

ZERO = -1  # id of a token that is no input and no target
HOLE = -2  # of a token that is to be generated
# What these models are: a value of config.json that differs is another architecture.
_FIXED: Mapping[str, Any] = {
    "causal": True,
    "layer_scale": None,
    "gating": "silu",
    "norm": "rms_norm_f32",
    "positional_embedding": "rope",
    "depformer_layer_scale": None,
    "depformer_multi_linear": True,
    "depformer_gating": "silu",
    "depformer_pos_emb": "none",
    "depformer_weights_per_step": True,
}
# What other models of the package have; absent, or this value, here.
_ABSENT: Mapping[str, Any] = {
    "conditioners": {},
    "fuser": None,
    "quantize": False,
    "cross_attention": False,
    "kv_repeat": 1,
    "norm_emb": False,
    "bias_proj": False,
    "depformer_norm": None,
    "depformer_low_rank_embeddings": None,
    "demux_second_stream": False,
    "demux_second_text_stream": False,
    "extra_heads_num_heads": 0,
    "tts_config": {},
    "stt_config": {},
    "model_type": "moshi",
}
# For loaders, and without effect on the model.
_IGNORED = (
    *("moshi_name", "mimi_name", "mimi_config_name", "tokenizer_name", "lora_name"),
    *("lm_gen_config", "model_id", "lora", "lora_rank", "lora_scaling", "extra_heads_dim"),
    *("depformer_causal", "depformer_context", "depformer_max_period", "gradient_checkpointing"),
    *("device", "dtype"),
)
_NAMES: Mapping[str, str] = {  # of a field -> in config.json
    "dim": "dim",
    "layers": "num_layers",
    "heads": "num_heads",
    "hidden_scale": "hidden_scale",
    "context": "context",
    "max_period": "max_period",
    "num_streams": "n_q",
    "num_predicted": "dep_q",
    "card": "card",
    "text_card": "text_card",
    "text_padding_id": "existing_text_padding_id",
    "text_end_id": "existing_text_end_padding_id",
    "depth_dim": "depformer_dim",
    "depth_ffn_dim": "depformer_dim_feedforward",
    "depth_heads": "depformer_num_heads",
    "depth_layers": "depformer_num_layers",
}


@dataclass(frozen=True)
class MoshiSize:
    """Everything that decides the shapes of a checkpoint, and what its tokens mean."""

    dim: int = 4096
    layers: int = 32
    heads: int = 32
    hidden_scale: float = 4.125
    context: int = 3000  # positions that attention reaches back
    max_period: float = 10000.0
    num_streams: int = 16  # codebooks of both speakers
    num_predicted: int = 8  # the first of them, which the depth transformer predicts
    card: int = 2048  # codes per codebook; the next id begins every sequence
    text_card: int = 32000  # text ids; the next id begins every sequence
    text_padding_id: int = 3
    text_end_id: int = 0  # of the padding before a word
    depth_dim: int = 1024
    depth_ffn_dim: int = 4224
    depth_heads: int = 16
    depth_layers: int = 6
    delays: tuple[int, ...] = field(default=())  # frames, of text and every codebook
    schedule: tuple[int, ...] = ()  # codebook -> weights of the depth transformer; () = its own

    @property
    def num_rows(self) -> int:
        """Rows of a sequence: text and all codebooks."""
        return 1 + self.num_streams

    @property
    def num_own(self) -> int:
        """Codebooks of Moshi's own voice."""
        return min(self.num_predicted, self.num_streams // 2)

    @property
    def max_delay(self) -> int:
        """The largest delay, in frames."""
        return max(self.delays)

    @property
    def steps(self) -> tuple[int, ...]:
        """The weights of the depth transformer for each codebook."""
        return self.schedule or tuple(range(self.num_predicted))

    @property
    def ffn_dim(self) -> int:
        """Nominal feed-forward width of the temporal transformer."""
        return int(self.hidden_scale * self.dim)

    def check(self, where: str) -> Self:
        """Return self; raise ConfigError if the numbers do not fit together."""
        numbers = {name: getattr(self, name) for name in _NAMES}
        low = {name: value for name, value in numbers.items() if value <= 0 and "_id" not in name}
        if low:
            raise ConfigError(f"{where}: every size must be above 0, got {low}")
        for dim, heads, what in (
            (self.dim, 2 * self.heads, "dim"),
            (self.depth_dim, self.depth_heads, "depformer_dim"),
        ):
            if dim % heads:
                raise ConfigError(f"{where}: {what} {dim} is not a multiple of {heads}")
        if self.num_predicted > self.num_streams:
            raise ConfigError(
                f"{where}: dep_q {self.num_predicted} is above n_q {self.num_streams}"
            )
        if len(self.delays) != self.num_rows or min(self.delays) < 0:
            raise ConfigError(
                f"{where}: delays {list(self.delays)} are not one of 0 or more for text and each of"
                f" the n_q {self.num_streams} codebooks"
            )
        if self.schedule and len(self.schedule) != self.num_predicted:
            raise ConfigError(
                f"{where}: depformer_weights_per_step_schedule has {len(self.schedule)} entries,"
                f" dep_q is {self.num_predicted}"
            )
        wrong = [i for i in (self.text_padding_id, self.text_end_id) if not 0 <= i < self.text_card]
        if wrong:
            raise ConfigError(f"{where}: padding ids {wrong} are not below {self.text_card}")
        return self

    def to_json(self) -> dict[str, Any]:
        """Return the keyword arguments of the moshi package's LMModel."""
        values = {theirs: getattr(self, ours) for ours, theirs in _NAMES.items()}
        values |= {**_FIXED, "delays": list(self.delays)}
        if self.schedule:
            values["depformer_weights_per_step_schedule"] = list(self.schedule)
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str) -> Self:
        """Read config.json of the moshi package; ConfigError for a model that is none of these."""
        for name, wanted in {**_FIXED, **_ABSENT}.items():
            found = values.get(name, wanted)
            if found != wanted and not (found is None and not wanted):
                raise ConfigError(
                    f"{where}: {name} {found!r} is of another model (here it is {wanted!r});"
                    " name a dialogue model such as kyutai/moshiko-pytorch-bf16"
                )
        known = {*_NAMES.values(), *_FIXED, *_ABSENT, *_IGNORED, "delays", "text_card_out"}
        unknown = sorted(values.keys() - known - {"depformer_weights_per_step_schedule"})
        if unknown:
            raise ConfigError(f"{where}: {', '.join(unknown)} is not known of Moshi's configs")
        out = values.get("text_card_out")
        if out not in (None, values.get("text_card", cls.text_card)):
            raise ConfigError(f"{where}: text_card_out {out} differs from text_card")
        sizes = {ours: values[theirs] for ours, theirs in _NAMES.items() if theirs in values}
        depth_dim = sizes.get("depth_dim", cls.depth_dim)
        if not sizes.get("depth_ffn_dim"):
            sizes["depth_ffn_dim"] = int(sizes.get("hidden_scale", cls.hidden_scale) * depth_dim)
        streams = sizes.get("num_streams", cls.num_streams)
        delays = tuple(values.get("delays") or published_delays(streams // 2))
        schedule = tuple(values.get("depformer_weights_per_step_schedule") or ())
        return cls(**sizes, delays=delays, schedule=schedule).check(where)


def published_delays(num_codebooks: int) -> tuple[int, ...]:
    """Return the delays of the published models: all codebooks but the first by one frame."""
    of_speaker = (0, *(1 for _ in range(num_codebooks - 1)))
    return (0, *of_speaker, *of_speaker)


def gating_dim(dim: int, ffn_dim: int) -> int:
    """Return the inner width of a gated layer of the nominal width `ffn_dim`."""
    return (21 * dim) // 8 if ffn_dim == 4 * dim else (2 * ffn_dim) // 3


def size_from_scratch(config: "MoshiConfig", facts: Mapping[str, Any]) -> MoshiSize:
    """Return the size that the flags choose for the tokens of a store; ConfigError."""
    num_codebooks = int(facts["num_codebooks"])
    size = MoshiSize(
        dim=config.model_dim,
        layers=config.model_layers,
        heads=config.model_heads,
        context=config.model_context,
        num_streams=2 * num_codebooks,
        num_predicted=num_codebooks,
        card=int(facts["card"]),
        text_card=int(facts["text_vocab_size"]),
        text_padding_id=int(facts["text_padding_id"]),
        text_end_id=int(facts["end_of_text_padding_id"]),
        depth_dim=config.model_depth_dim,
        depth_ffn_dim=int(4.125 * config.model_depth_dim),
        depth_heads=config.model_depth_heads,
        depth_layers=config.model_depth_layers,
        delays=tuple(config.delays) or published_delays(num_codebooks),
    )
    return (with_user(size) if config.user_stream else size).check("model size")


def with_user(size: MoshiSize) -> MoshiSize:
    """Return the size of a model that predicts the user's codes, too; ConfigError."""
    if size.num_predicted == size.num_streams:
        return size
    if 2 * size.num_predicted != size.num_streams or size.schedule:
        raise ConfigError(
            f"user_stream: weights for {size.num_predicted} of {size.num_streams} codebooks"
            f" (schedule {list(size.schedule)}) have no counterpart for the user; leave it out"
        )
    return replace(size, num_predicted=size.num_streams)


def delays_of(config_delays: Sequence[int], num_codebooks: int) -> tuple[int, ...]:
    """Return the delays of a resolved config, or the published ones."""
    return tuple(config_delays) or published_delays(num_codebooks)


def check_fit(size: MoshiSize, config: "MoshiConfig", store: "Store") -> None:
    """Raise ConfigError if a model of this size cannot be trained on a store as options say."""
    facts, where = store.info.facts, config.model_name_or_checkpoint_path
    num_codebooks = int(facts["num_codebooks"])
    if size.num_streams != 2 * num_codebooks:
        raise ConfigError(
            f"{store.path} has {num_codebooks} codebooks for each of two speakers, {where} reads"
            f" {size.num_streams} (n_q); pretokenise with --num_codebooks {size.num_streams // 2}"
        )
    for name, fact, limit in (
        ("codes", "card", size.card),
        ("text ids", "text_vocab_size", size.text_card),
    ):
        if int(facts[fact]) > limit:
            raise ConfigError(
                f"{store.path} has {facts[fact]} {name}, {where} has {limit}; pretokenise with the"
                " model's codec and tokenizer, name another model, or --train_from_scratch"
            )
    for fact, wanted in (
        ("text_padding_id", size.text_padding_id),
        ("end_of_text_padding_id", size.text_end_id),
    ):
        if int(facts[fact]) != wanted:
            raise ConfigError(
                f"{store.path} has {fact} {facts[fact]}, {where} has {wanted}; pretokenise with"
                f" --{fact} {wanted} (no sound is encoded again)"
            )
    for name in ("window_sec", "val_window_sec"):
        longest_sec = size.context * float(facts["frame_sec"])
        if getattr(config, name) > longest_sec:
            raise ConfigError(
                f"{name} {getattr(config, name):g} s is over the context of the model,"
                f" {size.context} frames or {longest_sec:g} s; give --{name} {longest_sec:g} or"
                " less"
            )
