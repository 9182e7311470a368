"""The five graphs of the moonshine-voice runtime, as modules around the trained weights.

One recording at a time: sound arrives in pieces, frontend and decoder carry their states from call
to call, and nothing that was computed is computed again. Shapes: N samples of a piece, W windows,
F frames, E and D widths of encoder and decoder, H heads, L decoder layers, T tokens.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F

from csm_ft.families.moonshine.export.graph_file import Graph
from csm_ft.families.moonshine.model import Attention, DecoderLayer, rotation
from csm_ft.families.moonshine.size import END, START
from csm_ft.families.moonshine.streaming import (
    Embedder,
    StreamingDecoder,
    StreamingEncoder,
    StreamingEncoderLayer,
    StreamingModel,
    window_mask,
)
from csm_ft.families.moonshine.streaming_size import WINDOW_SAMPLES, StreamingSize

_CARRIED = 4  # inputs that a convolution of 5 sees again with the next piece
_MOST = 2**16  # of every axis of any length
_FRAMES, _TOKENS = (Dim(name, min=1, max=_MOST) for name in ("frames", "tokens"))


class FrontendState(NamedTuple):
    """What the frontend carries from piece to piece, in the order of its inputs and outputs."""

    sample_buffer: Tensor  # [1, 79] the samples that did not fill a window, then zeros
    sample_len: Tensor  # [1] int64, how many
    conv1_buffer: Tensor  # [1, E, 4] the newest inputs of the first convolution
    conv2_buffer: Tensor  # [1, 2 E, 4] and of the second
    frame_count: Tensor  # [1] int64, windows so far

    @classmethod
    def start(cls, dim: int) -> "FrontendState":
        """Return the state before the first sample."""
        none = torch.zeros(1, dtype=torch.int64)
        buffers = torch.zeros(1, dim, _CARRIED), torch.zeros(1, 2 * dim, _CARRIED)
        return cls(torch.zeros(1, WINDOW_SAMPLES - 1), none, *buffers, none.clone())


class Frontend(nn.Module):
    """Samples [1, N] to frames [1, F, E], the same for any cut of a recording into pieces.

    Sizes follow from N alone and a window more than may be full is computed; how much of it is
    real depends on the state, and is cut off at the end.
    """

    def __init__(self, embedder: Embedder) -> None:
        super().__init__()
        self.embedder = embedder

    def forward(
        self,
        audio_chunk: Tensor,
        sample_buffer: Tensor,
        sample_len: Tensor,
        conv1_buffer: Tensor,
        conv2_buffer: Tensor,
        frame_count: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return the frames, and the state behind these samples."""
        kept = sample_buffer.shape[1]
        most = (kept + audio_chunk.shape[1]) // WINDOW_SAMPLES
        # A sample of the buffer, then those of the piece; places beyond the last read zeros.
        row = torch.cat([sample_buffer, audio_chunk, torch.zeros_like(sample_buffer)], dim=1)
        places = torch.arange(most * WINDOW_SAMPLES + kept)
        places = torch.where(places < sample_len, places, places + kept - sample_len)
        samples = row.index_select(1, places.clamp(max=row.shape[1] - 1))
        windows = samples[:, : most * WINDOW_SAMPLES].reshape(1, most, WINDOW_SAMPLES)
        embedded = self.embedder.embed(windows).transpose(1, 2)

        num_windows = (sample_len + audio_chunk.shape[1]) // WINDOW_SAMPLES
        first = F.silu(_convolve(self.embedder.conv1, conv1_buffer, embedded, frame_count))
        num_first = _num_outputs(frame_count, num_windows)
        count = (frame_count + 1) // 2  # outputs of the first convolution so far
        second = _convolve(self.embedder.conv2, conv2_buffer, first, count)
        num_frames = _num_outputs(count, num_first).item()
        torch._check(num_frames >= 0)
        torch._check(num_frames <= second.shape[2])

        rest = sample_len + audio_chunk.shape[1] - num_windows * WINDOW_SAMPLES
        tail = samples.index_select(1, num_windows * WINDOW_SAMPLES + torch.arange(kept))
        return (
            second[:, :, :num_frames].transpose(1, 2),
            torch.where(torch.arange(kept) < rest, tail, 0.0),
            rest,
            _newest(conv1_buffer, embedded, num_windows),
            _newest(conv2_buffer, first, num_first),
            frame_count + num_windows,
        )


class Encoder(nn.Module):
    """Frames [1, F, E] to states [1, F, E], each layer within its window."""

    def __init__(self, encoder: StreamingEncoder) -> None:
        super().__init__()
        self.layers, self.final_norm = encoder.layers, encoder.final_norm
        self.windows = encoder.windows

    def forward(self, features: Tensor) -> Tensor:
        """Return the states."""
        rows = features[0]
        for layer, window in zip(self.layers, self.windows, strict=True):
            assert isinstance(layer, StreamingEncoderLayer)
            attention, normed = layer.self_attn, layer.input_layernorm(rows)
            keys, values = attention.keys_and_values(normed, None)
            mask = window_mask(rows.shape[0], window, rows.device)
            rows = rows + _attend(attention, attention.queries(normed, None), keys, values, mask)
            rows = rows + layer.mlp(layer.post_attention_layernorm(rows))
        return self.final_norm(rows)[None]


class Adapter(nn.Module):
    """States [1, F, E] to what the decoder attends to, [1, F, D]."""

    def __init__(self, decoder: StreamingDecoder) -> None:
        super().__init__()
        self.pos_emb, self.proj = decoder.pos_emb, decoder.proj

    def forward(self, encoded: Tensor, pos_offset: Tensor) -> Tensor:
        """Return the states at their positions, which begin at `pos_offset` [1]."""
        positions = torch.arange(encoded.shape[1]) + pos_offset
        return self.proj(encoded + self.pos_emb(positions))


class CrossKv(nn.Module):
    """Keys and values of the recording for every decoder layer, [L, 1, H, F, D / H] each."""

    def __init__(self, decoder: StreamingDecoder) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(layer.encoder_attn for layer in _layers(decoder))

    def forward(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of `memory` [1, F, D]."""
        keys, values = [], []
        for attention in self.attentions:
            assert isinstance(attention, Attention)
            key, value = attention.keys_and_values(memory[0], None)
            keys.append(key.transpose(0, 1)[None])
            values.append(value.transpose(0, 1)[None])
        return torch.stack(keys), torch.stack(values)


class DecoderKv(nn.Module):
    """Tokens [1, T] to logits [1, T, V] and the caches with these tokens, [L, 1, H, t, D / H]."""

    def __init__(self, model: StreamingModel) -> None:
        super().__init__()
        self.decoder, self.proj_out = model.decoder, model.proj_out

    def forward(
        self, token: Tensor, k_self: Tensor, v_self: Tensor, k_cross: Tensor, v_cross: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits and caches; the inputs are those of the tokens before, and of the sound."""
        written, now = k_self.shape[3], token.shape[1]
        positions = torch.arange(now) + written
        rotary = rotation(positions, self.decoder.rotary_dim)
        sees = torch.arange(now + written) <= positions[:, None]
        rows = self.decoder.embed_tokens(token[0])
        all_keys, all_values = [], []
        for place, layer in enumerate(_layers(self.decoder)):
            attention, normed = layer.self_attn, layer.input_layernorm(rows)
            new_keys, new_values = attention.keys_and_values(normed, rotary)
            keys = torch.cat([k_self[place, 0].transpose(0, 1), new_keys])
            values = torch.cat([v_self[place, 0].transpose(0, 1), new_values])
            queries = attention.queries(normed, rotary)
            rows = rows + _attend(attention, queries, keys, values, sees)
            all_keys.append(keys.transpose(0, 1)[None])
            all_values.append(values.transpose(0, 1)[None])
            attention = layer.encoder_attn
            queries = attention.queries(layer.post_attention_layernorm(rows), None)
            heard = k_cross[place, 0].transpose(0, 1), v_cross[place, 0].transpose(0, 1)
            rows = rows + _attend(attention, queries, *heard)
            rows = rows + layer.mlp(layer.final_layernorm(rows))
        logits = self.proj_out(self.decoder.norm(rows))
        return logits[None], torch.stack(all_keys), torch.stack(all_values)


def graphs_of(model: StreamingModel) -> dict[str, Graph]:
    """Return the graphs under the names by which the runtime binds them.

    `k_cross` and `v_cross` of the decoder are `out_k_cross` and `out_v_cross` there. The lengths of
    the examples differ, or the exporter would take them for one.
    """
    encoder, decoder, size = model.encoder, model.decoder, model.size
    assert isinstance(encoder, StreamingEncoder)
    assert isinstance(decoder, StreamingDecoder)
    assert isinstance(size, StreamingSize)
    state = FrontendState.start(size.encoder.dim)._asdict()
    frames = torch.zeros(1, 37, size.encoder.dim)
    memory = torch.zeros(1, 37, size.decoder.dim)
    return {
        "frontend": Graph(
            Frontend(encoder.embedder),
            {"audio_chunk": torch.zeros(1, 3217), **state},
            {"audio_chunk": {1: Dim("samples", min=1, max=2**24)}},
            ["features", *(f"{name}_out" for name in state)],
        ),
        "encoder": Graph(
            Encoder(encoder), {"features": frames}, {"features": {1: _FRAMES}}, ["encoded"]
        ),
        "adapter": Graph(
            Adapter(decoder),
            {"encoded": frames, "pos_offset": torch.zeros(1, dtype=torch.int64)},
            {"encoded": {1: _FRAMES}},
            ["memory"],
        ),
        "cross_kv": Graph(
            CrossKv(decoder), {"memory": memory}, {"memory": {1: _FRAMES}}, ["k_cross", "v_cross"]
        ),
        "decoder_kv": _decoder_graph(model, size),
    }


def _decoder_graph(model: StreamingModel, size: StreamingSize) -> Graph:
    cache = (size.decoder_layers, 1, size.decoder.heads)
    past = Dim("past", min=0, max=_MOST)
    inputs = {"token": torch.tensor([[START, END, END]])}
    axes = {"token": {1: _TOKENS}}
    for suffix, length, axis in (("self", 5, past), ("cross", 37, _FRAMES)):
        for name in (f"k_{suffix}", f"v_{suffix}"):
            inputs[name] = torch.zeros(*cache, length, size.decoder.head_dim)
            axes[name] = {3: axis}
    return Graph(DecoderKv(model), inputs, axes, ["logits", "out_k_self", "out_v_self"])


def _attend(
    attention: Attention, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Attend from queries [Q, H, d] to keys and values [K, H, d], [Q, D]; `mask` is [Q, K]."""
    scores = queries.transpose(0, 1) @ keys.permute(1, 2, 0) / math.sqrt(queries.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    heads = scores.softmax(-1) @ values.transpose(0, 1)
    return attention.o_proj(heads.transpose(0, 1).flatten(1))


def _convolve(convolution: nn.Conv1d, carried: Tensor, new: Tensor, before: Tensor) -> Tensor:
    """Convolve `new` [1, C, n] behind what was carried; `before` inputs came earlier.

    The stride is 2 over the whole recording: behind an odd number of inputs the first is left out.
    """
    whole = F.pad(torch.cat([carried, new], dim=2), (0, 1))
    return convolution(whole.index_select(2, torch.arange(_CARRIED + new.shape[2]) + before % 2))


def _num_outputs(before: Tensor, new: Tensor) -> Tensor:
    """Return how many of a convolution's outputs are real: those of even inputs."""
    return (before + new + 1) // 2 - (before + 1) // 2


def _newest(carried: Tensor, new: Tensor, count: Tensor) -> Tensor:
    """Return the newest inputs of a convolution, after `count` of `new`."""
    return torch.cat([carried, new], dim=2).index_select(2, torch.arange(_CARRIED) + count)


def _layers(decoder: nn.Module) -> list[DecoderLayer]:
    assert isinstance(decoder, StreamingDecoder)
    layers = [layer for layer in decoder.layers if isinstance(layer, DecoderLayer)]
    assert len(layers) == len(decoder.layers)
    return layers
