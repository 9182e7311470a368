"""Moonshine on packed clips, under the tensor names of transformers' checkpoints.

Clips lie one behind another in one waveform, so that the convolutions run once; norms, projections
and the head see real positions only, and no clip sees another: any batch equals its clips alone.
Attention alone is computed on a padded layout, with the padding masked.

Shapes: B clips, N samples of the packed waveform, G frames of the first convolution, F encoder
frames, L text tokens of the micro-batch (end tokens included), D width, H heads, V vocabulary.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from csm_ft.device import autocast
from csm_ft.families.base import Prompt, Sample, SamplingOptions
from csm_ft.families.model import EmptyEmbedding, JoinedBatch, Loss, SpeechModel
from csm_ft.families.moonshine.size import CONVOLUTIONS, MoonshineSize

if TYPE_CHECKING:
    from csm_ft.families.moonshine.data import MoonshineBatch
    from csm_ft.families.moonshine.encoder import MoonshineEncoder, TextTokenizer

_ROPE_THETA = 10000.0


class Layout(NamedTuple):
    """Where packed rows [R] stand in a padded layout [B, W]."""

    places: Tensor  # [R] int64, sequence * W + position
    num_sequences: int  # B
    width: int  # W

    def pad(self, rows: Tensor) -> Tensor:
        """[R, ...] -> [B, W, ...], padded with zeros."""
        flat = rows.new_zeros(self.num_sequences * self.width, *rows.shape[1:])
        flat = flat.index_copy(0, self.places, rows)
        return flat.view(self.num_sequences, self.width, *rows.shape[1:])

    def pack(self, padded: Tensor) -> Tensor:
        """[B, W, ...] -> [R, ...]."""
        return padded.flatten(0, 1).index_select(0, self.places)

    def positions(self) -> Tensor:
        """Return the position of each row in its sequence, [R]."""
        return self.places % self.width

    def mask(self) -> Tensor | None:
        """Return which places are real, [B, 1, 1, W]; None if all are."""
        if len(self.places) == self.num_sequences * self.width:
            return None
        real = torch.zeros(
            self.num_sequences * self.width, dtype=torch.bool, device=self.places.device
        )
        return real.index_fill(0, self.places, True).view(self.num_sequences, 1, 1, self.width)


class BlockSize(Protocol):
    """The shapes of a transformer layer."""

    @property
    def dim(self) -> int:
        """Width."""
        ...

    @property
    def ffn_dim(self) -> int:
        """Width of the feed-forward layer."""
        ...

    @property
    def heads(self) -> int:
        """Attention heads."""
        ...

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        ...


class Attention(nn.Module):
    """Multi-head attention without biases; queries and keys may be rotated by their positions."""

    def __init__(self, size: BlockSize) -> None:
        super().__init__()
        self.num_heads, width = size.heads, size.heads * size.head_dim
        self.q_proj = nn.Linear(size.dim, width, bias=False)
        self.k_proj = nn.Linear(size.dim, width, bias=False)
        self.v_proj = nn.Linear(size.dim, width, bias=False)
        self.o_proj = nn.Linear(width, size.dim, bias=False)

    def heads(self, rows: Tensor) -> Tensor:
        """[..., D] -> [..., H, D / H]."""
        return rows.unflatten(-1, (self.num_heads, -1))

    def keys_and_values(self, rows: Tensor, rotary: Tensor | None) -> tuple[Tensor, Tensor]:
        """[R, D] -> keys and values, [R, H, D / H] each."""
        keys, values = self.heads(self.k_proj(rows)), self.heads(self.v_proj(rows))
        return (rotate(keys, rotary) if rotary is not None else keys), values

    def queries(self, rows: Tensor, rotary: Tensor | None) -> Tensor:
        """[R, D] -> queries, [R, H, D / H]."""
        queries = self.heads(self.q_proj(rows))
        return rotate(queries, rotary) if rotary is not None else queries

    def forward(
        self,
        rows: Tensor,
        layout: Layout,
        rotary: Tensor | None = None,
        memory: tuple[Tensor, Layout] | None = None,
        *,
        is_causal: bool = False,
    ) -> Tensor:
        """Attend within each sequence, or to its `memory`; [R, D] -> [R, D]."""
        source, source_layout = memory or (rows, layout)
        keys, values = self.keys_and_values(source, rotary)
        # Causal attention needs no mask: padding is on the right, so no real row sees it.
        mask = None if is_causal else source_layout.mask()
        heads = F.scaled_dot_product_attention(
            layout.pad(self.queries(rows, rotary)).transpose(1, 2),
            source_layout.pad(keys).transpose(1, 2),
            source_layout.pad(values).transpose(1, 2),
            attn_mask=mask,
            is_causal=is_causal,
        )
        return self.o_proj(layout.pack(heads.transpose(1, 2)).flatten(1))


class EncoderMlp(nn.Module):
    """Two layers with GELU."""

    def __init__(self, size: BlockSize) -> None:
        super().__init__()
        self.fc1 = nn.Linear(size.dim, size.ffn_dim)
        self.fc2 = nn.Linear(size.ffn_dim, size.dim)

    def forward(self, rows: Tensor) -> Tensor:
        """[R, D] -> [R, D]."""
        return self.fc2(F.gelu(self.fc1(rows)))


class DecoderMlp(nn.Module):
    """SwiGLU: the first layer gives values and gates, in this order."""

    def __init__(self, size: BlockSize) -> None:
        super().__init__()
        self.fc1 = nn.Linear(size.dim, 2 * size.ffn_dim)
        self.fc2 = nn.Linear(size.ffn_dim, size.dim)

    def forward(self, rows: Tensor) -> Tensor:
        """[R, D] -> [R, D]."""
        values, gates = self.fc1(rows).chunk(2, dim=-1)
        return self.fc2(F.silu(gates) * values)


class EncoderLayer(nn.Module):
    """Self-attention in both directions, and an MLP; both with the norm in front."""

    def __init__(self, size: BlockSize) -> None:
        super().__init__()
        self.self_attn = Attention(size)
        self.mlp = EncoderMlp(size)
        self.input_layernorm = nn.LayerNorm(size.dim, bias=False)
        self.post_attention_layernorm = nn.LayerNorm(size.dim, bias=False)

    def forward(self, rows: Tensor, layout: Layout, rotary: Tensor) -> Tensor:
        """[F, D] -> [F, D]."""
        rows = rows + self.self_attn(self.input_layernorm(rows), layout, rotary)
        return rows + self.mlp(self.post_attention_layernorm(rows))


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the encoder, and an MLP; each with the norm in front."""

    def __init__(self, size: BlockSize) -> None:
        super().__init__()
        self.self_attn = Attention(size)
        self.encoder_attn = Attention(size)
        self.mlp = DecoderMlp(size)
        self.input_layernorm = nn.LayerNorm(size.dim, bias=False)
        self.post_attention_layernorm = nn.LayerNorm(size.dim, bias=False)
        self.final_layernorm = nn.LayerNorm(size.dim, bias=False)

    def forward(
        self, rows: Tensor, layout: Layout, rotary: Tensor, memory: tuple[Tensor, Layout]
    ) -> Tensor:
        """[L, D] -> [L, D]; `memory` are the encoder's states [F, D] and their layout."""
        rows = rows + self.self_attn(self.input_layernorm(rows), layout, rotary, is_causal=True)
        heard = self.encoder_attn(self.post_attention_layernorm(rows), layout, memory=memory)
        rows = rows + heard
        return rows + self.mlp(self.final_layernorm(rows))


class Encoder(nn.Module):
    """Three convolutions over raw sound, and a transformer over their frames."""

    def __init__(self, size: MoonshineSize) -> None:
        super().__init__()
        (kernel1, stride1), (kernel2, stride2), (kernel3, stride3) = CONVOLUTIONS
        self.conv1 = nn.Conv1d(1, size.dim, kernel1, stride1, bias=False)
        self.conv2 = nn.Conv1d(size.dim, 2 * size.dim, kernel2, stride2)
        self.conv3 = nn.Conv1d(2 * size.dim, size.dim, kernel3, stride3)
        self.groupnorm = nn.GroupNorm(1, size.dim, eps=1e-5)
        self.layers = nn.ModuleList(EncoderLayer(size) for _ in range(size.encoder_layers))
        self.layer_norm = nn.LayerNorm(size.dim, bias=False)
        self.rotary_dim = size.rotary_dim

    def forward(self, batch: "MoonshineBatch") -> Tensor:
        """Return the encoder's states of all real frames, [F, D]."""
        # In fp32 even under autocast: raw samples and group statistics lose too much in bf16.
        with autocast(batch.samples.device.type, "fp32"):
            rows = self.front_end(batch)
        layout = batch.frame_layout()
        rotary = rotation(layout.positions(), self.rotary_dim)
        for layer in self.layers:
            rows = layer(rows, layout, rotary)
        return self.layer_norm(rows)

    def front_end(self, batch: "MoonshineBatch") -> Tensor:
        """Return the frames of the convolutions, [F, D]; each clip is normalised by itself."""
        hidden = torch.tanh(convolve(batch.samples[:, None], self.conv1))  # [frames, D]
        rows = hidden.index_select(0, batch.conv_rows)  # [G, D], without those between two clips
        # GroupNorm with one group, over the channels and frames of each clip alone.
        clips, lengths = batch.conv_clips, batch.conv_lengths.to(rows.dtype)
        zeros = rows.new_zeros(len(lengths))
        means = zeros.index_add(0, clips, rows.mean(1)) / lengths
        rows = rows - means.index_select(0, clips)[:, None]
        squares = torch.linalg.vector_norm(rows, dim=1).square() / rows.shape[1]
        variances = zeros.index_add(0, clips, squares) / lengths
        scales = torch.rsqrt(variances + self.groupnorm.eps)
        rows = rows * scales.index_select(0, clips)[:, None]
        rows = torch.addcmul(self.groupnorm.bias, rows, self.groupnorm.weight)
        _, stride = CONVOLUTIONS[0]
        hidden = rows.new_zeros(len(batch.samples) // stride, rows.shape[1])
        hidden = hidden.index_copy(0, batch.conv_rows, rows)
        hidden = F.gelu(convolve(F.gelu(convolve(hidden, self.conv2)), self.conv3))
        return hidden.index_select(0, batch.frame_rows)


class Decoder(nn.Module):
    """A transformer over text tokens."""

    def __init__(self, size: BlockSize, layers: int, vocab_size: int, rotary_dim: int) -> None:
        super().__init__()
        self.embed_tokens = EmptyEmbedding(vocab_size, size.dim)
        self.layers = nn.ModuleList(DecoderLayer(size) for _ in range(layers))
        self.norm = nn.LayerNorm(size.dim, bias=False)
        self.rotary_dim = rotary_dim

    def forward(self, tokens: Tensor, layout: Layout, memory: tuple[Tensor, Layout]) -> Tensor:
        """Return the states after each of `tokens` [L], [L, D]."""
        rows = self.embed_tokens(tokens)
        rotary = rotation(layout.positions(), self.rotary_dim)
        for layer in self.layers:
            rows = layer(rows, layout, rotary, memory)
        return self.norm(rows)


class Size(Protocol):
    """What a model of either generation says of its size."""

    @property
    def vocab_size(self) -> int:
        """Text ids."""
        ...

    @property
    def rotary_dim(self) -> int:
        """Dimensions of a decoder head that carry the position."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return config.json as transformers reads it."""
        ...


class MoonshineModel(SpeechModel):
    """Encoder and decoder, as transformers names them; either generation."""

    block_classes: ClassVar[tuple[type[nn.Module], ...]] = (EncoderLayer, DecoderLayer)
    fp32_weights: ClassVar[tuple[str, ...]] = ("model.encoder.conv", "model.encoder.groupnorm")
    tokenizer: "TextTokenizer | None" = None  # of the token file, for the word error rate
    starts_at: ClassVar[Mapping[str, float]] = {}  # of random weights that are not zero

    def __init__(self, size: Size, encoder: nn.Module, decoder: Decoder) -> None:
        super().__init__()
        self.size = size
        self.model = nn.ModuleDict({"encoder": encoder, "decoder": decoder})

    @property
    def encoder(self) -> nn.Module:
        """The half that hears."""
        return self.model["encoder"]

    @property
    def decoder(self) -> Decoder:
        """The half that writes."""
        decoder = self.model["decoder"]
        assert isinstance(decoder, Decoder)
        return decoder

    def hear(self, batch: "MoonshineBatch") -> tuple[Tensor, Layout]:
        """Return what the decoder attends to, [F, D], and its layout."""
        return self.encoder(batch), batch.frame_layout()

    def join_batches(self, batches: Sequence["MoonshineBatch"]) -> JoinedBatch:
        """Return several micro-batches as one; see csm_ft.families.moonshine.data."""
        from csm_ft.families.moonshine.data import join

        joined, frames = join(batches), self.num_frames(batches)
        joined.frames_of_runs = frames
        tokens = [len(batch.inputs) for batch in batches]
        heard = {
            f"model.decoder.layers.{layer}.encoder_attn.{name}": frames
            for layer, name in product(range(len(self.decoder.layers)), ("k_proj", "v_proj"))
        }
        return JoinedBatch(joined, {"model.encoder": frames, "model.decoder": tokens, **heard})

    def num_frames(self, batches: Sequence["MoonshineBatch"]) -> list[int]:
        """Return the encoder frames of each batch."""
        return [len(batch.frame_rows) for batch in batches]

    @property
    def head_weight(self) -> Tensor:
        """Makes logits of the decoder's states, [V, D]; tied to the embeddings."""
        return self.decoder.embed_tokens.weight

    def forward(self, batch: "MoonshineBatch") -> Loss:
        """Return the nats of each clip's tokens, end token included, [B]."""
        nats = token_nats(self.logits(batch).float(), batch.targets, batch.label_smoothing)
        clips = torch.div(batch.token_places, batch.token_width, rounding_mode="floor")
        zeros = nats.new_zeros(batch.num_sequences)
        return {"tokens": zeros.index_add(0, clips, nats)}

    def logits(self, batch: "MoonshineBatch") -> Tensor:
        """Return the logits of every target, [L, V]."""
        states = self.decoder(batch.inputs, batch.token_layout(), self.hear(batch))
        return F.linear(states, self.head_weight)

    def sample(
        self, prompts: Sequence[Prompt], encoder: "MoonshineEncoder", options: SamplingOptions
    ) -> list[Sample]:
        """Transcribe all prompts as one batch; see csm_ft.families.moonshine.sample."""
        from csm_ft.families.moonshine.sample import sample

        return sample(self, prompts, encoder)


def token_nats(logits: Tensor, targets: Tensor, smoothing: float | Tensor) -> Tensor:
    """Return the cross-entropy of targets [L], with labels smoothed by a share or one for each."""
    if isinstance(smoothing, float):
        return F.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
    plain, even = (token_nats(logits, targets, share) for share in (0.0, 1.0))
    return plain.lerp(even, smoothing)


def convolve(rows: Tensor, convolution: nn.Conv1d) -> Tensor:
    """Return a convolution of rows [R, C], R a multiple of its stride; [frames, channels].

    As a product for every `stride` taps, which copies nothing: up to twice as fast on a CPU.
    """
    weight, (kernel,), (stride,) = convolution.weight, convolution.kernel_size, convolution.stride
    num_frames = (len(rows) - kernel) // stride + 1
    strides = rows.reshape(len(rows) // stride, -1)  # [R / stride, stride * C]
    taps = weight.permute(2, 1, 0).flatten(0, 1).split(strides.shape[1])
    start = rows.new_zeros(()) if convolution.bias is None else convolution.bias
    frames = torch.addmm(start, strides[:num_frames], taps[0])
    for place, part in enumerate(taps[1:], start=1):
        frames.addmm_(strides[place : place + num_frames, : len(part)], part)
    return frames


def rotation(positions: Tensor, rotary_dim: int) -> Tensor:
    """Return the rotation of each position as complex numbers' parts, [R, rotary_dim / 2, 2]."""
    exponents = torch.arange(0, rotary_dim, 2, device=positions.device).float() / rotary_dim
    angles = positions[:, None].float() * _ROPE_THETA**-exponents
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def rotate(heads: Tensor, rotary: Tensor) -> Tensor:
    """Rotate the first dimensions of heads [R, H, D / H] in neighbouring pairs."""
    width = 2 * rotary.shape[1]
    turned, kept = heads.split([width, heads.shape[-1] - width], dim=-1)
    is_pairs = heads.dtype == torch.float32 and heads.shape[-1] % 2 == 0
    if is_pairs and not torch.compiler.is_compiling():  # complex numbers are a view of fp32 alone
        numbers = torch.view_as_complex(turned.unflatten(-1, (-1, 2)))
        turned = torch.view_as_real(numbers * torch.view_as_complex(rotary)[:, None]).flatten(-2)
    else:
        turned = rotate_pairs(turned, rotary)
    return torch.cat([turned, kept], dim=-1)


def rotate_pairs(turned: Tensor, rotary: Tensor) -> Tensor:
    """Rotate neighbouring pairs [R, H, rotary_dim] without complex numbers, eight times slower."""
    cos, sin = rotary.to(turned.dtype)[:, None].unbind(-1)
    even, odd = turned[..., 0::2], turned[..., 1::2]
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)


def empty_model(size: MoonshineSize) -> MoonshineModel:
    """Build a model on the meta device, without memory for its weights."""
    with torch.device("meta"):
        decoder = Decoder(size, size.decoder_layers, size.vocab_size, size.rotary_dim)
        return MoonshineModel(size, Encoder(size), decoder)


def init_weights(model: MoonshineModel, seed: int) -> None:
    """Give an empty model random weights: ones in norms, zeros in biases, else N(0, 1/fan_in).

    Embeddings are N(0, 1/D), as they are the head, too. Drawn on the CPU from one generator.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, meta in list(model.named_parameters()):
        values = torch.zeros(meta.shape)
        if name in model.starts_at:
            values.fill_(model.starts_at[name])
        elif "norm" in name and name.endswith("weight"):
            values.fill_(1.0)
        elif meta.ndim > 1:
            fan_in = meta.shape[1] * math.prod(meta.shape[2:])
            values.normal_(0.0, fan_in**-0.5, generator=generator)
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, nn.Parameter(values))
