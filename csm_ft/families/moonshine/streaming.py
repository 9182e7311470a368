"""Streaming Moonshine, the second generation, under the names of transformers' checkpoints.

Windows of 5 ms, two causal convolutions, an encoder without positions whose layers see a few frames
to either side, and an adapter that adds learned positions for the decoder, which is that of the
first generation with a head of its own.

Everything before the encoder is causal and clips are padded on the right, so that no clip sees
its padding. Shapes as in model.py, and T windows of the longest clip, E width of the encoder.
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from csm_ft.device import autocast
from csm_ft.families.moonshine.model import (
    Attention,
    Decoder,
    EncoderMlp,
    Layout,
    MoonshineModel,
)
from csm_ft.families.moonshine.streaming_size import (
    POSITIONS,
    WINDOW_SAMPLES,
    Block,
    StreamingSize,
)

if TYPE_CHECKING:
    from csm_ft.families.moonshine.data import MoonshineBatch

_KERNEL, _STRIDE = 5, 2
_CMVN_EPS = 1e-6
_COMPRESSION = 0.75  # exp(log_k) at the start


class OffsetNorm(nn.Module):
    """LayerNorm without bias; what is learned is how far its weights are from one."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(dim))

    def forward(self, rows: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return F.layer_norm(rows, rows.shape[-1:], self.gamma + 1)


class Compression(nn.Module):
    """asinh(k x), with k learned."""

    def __init__(self) -> None:
        super().__init__()
        self.log_k = nn.Parameter(torch.tensor(math.log(_COMPRESSION)))

    def forward(self, windows: Tensor) -> Tensor:
        """Of any shape."""
        return torch.asinh(torch.exp(self.log_k) * windows)


class Embedder(nn.Module):
    """Windows of 80 samples to frames at 50 Hz."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.comp = Compression()
        self.linear = nn.Linear(WINDOW_SAMPLES, dim, bias=False)
        self.conv1 = nn.Conv1d(dim, 2 * dim, _KERNEL, _STRIDE)
        self.conv2 = nn.Conv1d(2 * dim, dim, _KERNEL, _STRIDE)

    def forward(self, windows: Tensor) -> Tensor:
        """[B, T, 80] -> [B, W, E]."""
        hidden = self.embed(windows).transpose(1, 2)
        hidden = F.silu(self.conv1(F.pad(hidden, (_KERNEL - 1, 0))))
        return self.conv2(F.pad(hidden, (_KERNEL - 1, 0))).transpose(1, 2)

    def embed(self, windows: Tensor) -> Tensor:
        """Normalise each window by itself, compress and project it; [B, T, 80] -> [B, T, E]."""
        centred = windows - windows.mean(-1, keepdim=True)
        rms = (centred.square().mean(-1, keepdim=True) + _CMVN_EPS).sqrt()
        return F.silu(self.linear(self.comp(centred / rms)))


class StreamingEncoderLayer(nn.Module):
    """Self-attention within a window, and an MLP; both with the norm in front."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.self_attn = Attention(block)
        self.mlp = EncoderMlp(block)
        self.input_layernorm = OffsetNorm(block.dim)
        self.post_attention_layernorm = OffsetNorm(block.dim)

    def forward(self, rows: Tensor, layout: Layout, mask: Tensor) -> Tensor:
        """[F, E] -> [F, E]; `mask` [B or 1, 1, W, W] says what each frame sees."""
        rows = rows + self.self_attn(self.input_layernorm(rows), layout, mask=mask)
        return rows + self.mlp(self.post_attention_layernorm(rows))


class StreamingEncoder(nn.Module):
    """Frames of the embedder, and a transformer over them."""

    def __init__(self, size: StreamingSize) -> None:
        super().__init__()
        self.embedder = Embedder(size.encoder.dim)
        self.layers = nn.ModuleList(
            StreamingEncoderLayer(size.encoder) for _ in range(size.encoder_layers)
        )
        self.final_norm = OffsetNorm(size.encoder.dim)
        self.windows = size.windows

    def forward(self, batch: "MoonshineBatch") -> Tensor:
        """Return the encoder's states of all real frames, [F, E]."""
        layout = frame_layout(batch)
        # In fp32 even under autocast, as the front end of the first generation.
        with autocast(batch.samples.device.type, "fp32"):
            rows = layout.pack(self.embedder(windows_of(batch)))
        masks = {window: _window_mask(layout, window) for window in set(self.windows)}
        for layer, window in zip(self.layers, self.windows, strict=True):
            rows = layer(rows, layout, masks[window])
        return self.final_norm(rows)


class StreamingDecoder(Decoder):
    """The decoder of the first generation, and the adapter from the encoder's states."""

    def __init__(self, size: StreamingSize) -> None:
        super().__init__(size.decoder, size.decoder_layers, size.vocab_size, size.rotary_dim)
        self.pos_emb = nn.Embedding(POSITIONS, size.encoder.dim)
        is_same = size.encoder.dim == size.decoder.dim
        self.proj = (
            nn.Identity() if is_same else nn.Linear(size.encoder.dim, size.decoder.dim, bias=False)
        )

    def adapt(self, states: Tensor, positions: Tensor) -> Tensor:
        """[..., F, E] and [F] -> [..., F, D]."""
        return self.proj(states + self.pos_emb(positions))


class StreamingModel(MoonshineModel):
    """Encoder, decoder and head, as MoonshineStreamingForConditionalGeneration names them."""

    block_classes = (*MoonshineModel.block_classes, StreamingEncoderLayer)
    starts_at = {"model.encoder.embedder.comp.log_k": math.log(_COMPRESSION)}  # noqa: RUF012

    def __init__(self, size: StreamingSize) -> None:
        super().__init__(size, StreamingEncoder(size), StreamingDecoder(size))
        self.proj_out = nn.Linear(size.decoder.dim, size.vocab_size, bias=False)

    def hear(self, batch: "MoonshineBatch") -> tuple[Tensor, Layout]:
        """Return what the decoder attends to, [F, D], and its layout."""
        decoder = self.decoder
        assert isinstance(decoder, StreamingDecoder)
        layout = frame_layout(batch)
        return decoder.adapt(self.encoder(batch), layout.positions()), layout

    def head(self, rows: Tensor) -> Tensor:
        """[R, D] -> [R, V]."""
        return self.proj_out(rows)


def frame_layout(batch: "MoonshineBatch") -> Layout:
    """Where the frames of each clip stand in a padded layout."""
    num_windows = torch.div(batch.clip_lengths, WINDOW_SAMPLES, rounding_mode="floor")
    lengths = torch.div(num_windows + 3, 4, rounding_mode="floor")
    width = int(lengths.max())
    real = torch.arange(width, device=lengths.device) < lengths[:, None]
    return Layout(real.flatten().nonzero()[:, 0], len(lengths), width)


def windows_of(batch: "MoonshineBatch") -> Tensor:
    """Return the clips' windows, padded on the right, [B, T, 80]."""
    num_windows = torch.div(batch.clip_lengths, WINDOW_SAMPLES, rounding_mode="floor")
    length = int(num_windows.max()) * WINDOW_SAMPLES
    places = batch.clip_starts[:, None] + torch.arange(length, device=batch.samples.device)
    sound = batch.samples[places.clamp(max=len(batch.samples) - 1)]
    return sound.view(len(num_windows), -1, WINDOW_SAMPLES)


def window_mask(width: int, window: tuple[int, int], device: torch.device) -> Tensor:
    """Return which frames each frame sees: itself and those before, and those ahead, [W, W]."""
    seen, ahead = window
    places = torch.arange(width, device=device)
    distance = places[:, None] - places
    return ((distance >= 0) & (distance < seen)) | ((distance < 0) & (-distance < ahead))


def _window_mask(layout: Layout, window: tuple[int, int]) -> Tensor:
    """Return the window, without padding for real frames, [B or 1, 1, W, W].

    Padded frames see padded ones: rows without any key would turn gradients into NaN.
    """
    near = window_mask(layout.width, window, layout.places.device)[None, None]
    real = layout.mask()
    return near if real is None else near & (real | ~real.transpose(2, 3))
