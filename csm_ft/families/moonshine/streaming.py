"""Streaming Moonshine, the second generation, under the names of transformers' checkpoints.

Windows of 5 ms, two causal convolutions, an encoder without positions whose layers see a few frames
to either side, and an adapter that adds learned positions for the decoder, which is that of the
first generation with a head of its own.

Everything before the encoder is causal and clips are padded on the right, so that no clip sees
its padding. Shapes as in model.py, and T windows of the longest clip, E width of the encoder.
"""

import math
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from csm_ft.device import autocast
from csm_ft.families.model import EmptyEmbedding
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
    num_frames,
)

if TYPE_CHECKING:
    from csm_ft.families.moonshine.data import MoonshineBatch

_KERNEL, _STRIDE = 5, 2
_BLOCK_FRAMES = 32
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
        scaled = torch.exp(self.log_k) * windows
        is_frozen = not (scaled.requires_grad or torch.compiler.is_compiling())
        return asinh(scaled) if is_frozen and scaled.device.type == "cpu" else torch.asinh(scaled)


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


class Blocks(NamedTuple):
    """Packed frames in blocks of Q, each beside the K frames that one of the block may see.

    A frame sees a few to either side, so that there is no need for a padded layout, nor for
    products of all frames with each other. No block sees frames of two runs: one that masks numbers
    that are not finite is not finite itself.
    """

    mask: Tensor  # [N, 1, Q, K], which of them each frame sees
    before: int  # frames, how far back a block sees
    after: int  # frames, how far ahead
    places: Tensor | None  # [F], of frames among the N * Q; None: they follow each other

    @classmethod
    def of(cls, layout: Layout, window: tuple[int, int], runs: Sequence[int] = ()) -> Self:
        """Cut the frames of a layout, so many of each run; `window` as in `window_mask`."""
        clips = torch.div(layout.places, layout.width, rounding_mode="floor")
        before, after = (max(0, min(frames, layout.width) - 1) for frames in window)
        places, length = None, len(clips)
        if len(runs) > 1:
            own_places, length = _apart(runs, before, after)
            places = torch.from_numpy(own_places).to(clips.device)
            clips = clips.new_full((length,), -1).index_copy(0, places, clips)
        clips = F.pad(clips, (before, -length % _BLOCK_FRAMES + after), value=-1)
        seen = clips.unfold(0, before + _BLOCK_FRAMES + after, _BLOCK_FRAMES)  # [N, K]
        near_places = torch.arange(seen.shape[1], device=clips.device)
        distance = near_places[before : before + _BLOCK_FRAMES, None] - near_places
        near = (distance <= before) & (distance >= -after)
        own = seen[:, before : before + _BLOCK_FRAMES, None]
        return cls((near & (own == seen[:, None]))[:, None], before, after, places)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend from each frame to those near it in its clip, [F, H, D / H] -> the same."""
        size = self.mask.shape[-1]
        blocks = self._spread(queries, 0, 0).unflatten(0, (-1, _BLOCK_FRAMES))
        near = [
            self._spread(rows, self.before, self.after).unfold(0, size, _BLOCK_FRAMES)
            for rows in (keys, values)
        ]  # [N, H, D / H, K], views
        heads = F.scaled_dot_product_attention(
            blocks.transpose(1, 2), *(rows.transpose(2, 3) for rows in near), attn_mask=self.mask
        )
        heads = heads.transpose(1, 2).flatten(0, 1)
        if self.places is None:
            return heads[: len(queries)]
        return heads.index_select(0, self.places)

    def _spread(self, rows: Tensor, before: int, after: int) -> Tensor:
        """Put [F, ...] where they stand among the blocks, [before + N * Q + after, ...]."""
        length = len(self.mask) * _BLOCK_FRAMES
        if self.places is None:
            return F.pad(rows, (0, 0, 0, 0, before, length - len(rows) + after))
        spread = rows.new_zeros(before + length + after, *rows.shape[1:])
        return spread.index_copy(0, self.places + before, rows)


def _apart(runs: Sequence[int], before: int, after: int) -> tuple[NDArray[np.int64], int]:
    """Return places for the frames of runs, and their number, so that no block sees two runs.

    Each begins with a block, behind what the last block sees that sees the one before.
    """
    places, start = [], 0
    for length in runs:
        places.append(np.arange(start, start + length))
        start = _up_to_block(_up_to_block(start + length + before) + after)
    return np.concatenate(places), start


def _up_to_block(frames: int) -> int:
    return frames + -frames % _BLOCK_FRAMES


class StreamingEncoderLayer(nn.Module):
    """Self-attention within a window, and an MLP; both with the norm in front."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.self_attn = Attention(block)
        self.mlp = EncoderMlp(block)
        self.input_layernorm = OffsetNorm(block.dim)
        self.post_attention_layernorm = OffsetNorm(block.dim)

    def forward(self, rows: Tensor, blocks: Blocks) -> Tensor:
        """[F, E] -> [F, E]."""
        normed, attention = self.input_layernorm(rows), self.self_attn
        keys, values = attention.keys_and_values(normed, None)
        heads = blocks.attend(attention.queries(normed, None), keys, values)
        rows = rows + attention.o_proj(heads.flatten(1))
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
        runs = batch.frames_of_runs
        blocks = {window: Blocks.of(layout, window, runs) for window in set(self.windows)}
        for layer, window in zip(self.layers, self.windows, strict=True):
            rows = layer(rows, blocks[window])
        return self.final_norm(rows)


class StreamingDecoder(Decoder):
    """The decoder of the first generation, and the adapter from the encoder's states."""

    def __init__(self, size: StreamingSize) -> None:
        super().__init__(size.decoder, size.decoder_layers, size.vocab_size, size.rotary_dim)
        self.pos_emb = EmptyEmbedding(POSITIONS, size.encoder.dim)
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

    def num_frames(self, batches: Sequence["MoonshineBatch"]) -> list[int]:
        """Return the encoder frames of each batch."""
        lengths = torch.cat([batch.clip_lengths for batch in batches]).tolist()  # one host read
        clips, sizes = iter(map(num_frames, lengths)), [batch.num_sequences for batch in batches]
        return [sum(islice(clips, size)) for size in sizes]

    @property
    def head_weight(self) -> Tensor:
        """Makes logits of the decoder's states, [V, D]."""
        return self.proj_out.weight


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
    ahead = torch.arange(int(num_windows.max()), device=batch.samples.device) * WINDOW_SAMPLES
    places = batch.clip_starts[:, None] + ahead
    windows = batch.samples.unfold(0, WINDOW_SAMPLES, 1)  # one from each sample on, a view
    return windows[places.clamp(max=len(windows) - 1)]


def asinh(values: Tensor) -> Tensor:
    """Return torch.asinh of fp32 values within two units in the last place, five times as fast."""
    size, squares = values.abs(), values.square()
    return torch.log1p(size + squares / (1 + (squares + 1).sqrt())).copysign(values)


def window_mask(width: int, window: tuple[int, int], device: torch.device) -> Tensor:
    """Return which frames each frame sees: itself and those before, and those ahead, [W, W]."""
    seen, ahead = window
    places = torch.arange(width, device=device)
    distance = places[:, None] - places
    return ((distance >= 0) & (distance < seen)) | ((distance < 0) & (-distance < ahead))
