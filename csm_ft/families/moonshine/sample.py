"""Greedy transcription with cached keys and values: a batch gives the same text as its clips alone.

Shapes: B clips that are not finished yet, F frames of the longest clip, t tokens so far, H heads.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from csm_ft.families.base import Prompt, Sample
from csm_ft.families.moonshine.data import collate_clips
from csm_ft.families.moonshine.model import DecoderLayer, Layout, MoonshineModel, rotation
from csm_ft.families.moonshine.size import DEFAULT_TOKENS_PER_SEC, END, SAMPLE_RATE_HZ, START

if TYPE_CHECKING:
    from csm_ft.families.moonshine.encoder import MoonshineEncoder


class Transcript(NamedTuple):
    """What the model wrote."""

    ids: list[int]  # without the end token
    is_complete: bool  # the model ended it, before the cap


def sample(
    model: MoonshineModel, prompts: Sequence[Prompt], encoder: "MoonshineEncoder"
) -> list[Sample]:
    """Transcribe the recordings of all prompts as one batch."""
    clips = [prompt.arrays["samples"] for prompt in prompts]
    transcripts = transcribe(model, clips, encoder.max_tokens_per_sec)
    return [
        Sample(prompt, text=encoder.tokenizer.decode(ids), is_complete=is_complete)
        for prompt, (ids, is_complete) in zip(prompts, transcripts, strict=True)
    ]


@torch.no_grad()
def transcribe(
    model: MoonshineModel,
    clips: Sequence[NDArray[np.int16]],
    max_tokens_per_sec: float = DEFAULT_TOKENS_PER_SEC,
) -> list[Transcript]:
    """Transcribe clips of int16 samples [n]; the most likely token each time, until </s>.

    A clip gets at most `max_tokens_per_sec` tokens per second of sound, as endless repetition is
    what these models fail with. Restores the model's mode.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    end_only = np.array([END], dtype=np.uint32)
    batch = collate_clips(clips, [end_only] * len(clips)).to(device)
    states, layout = model.hear(batch)
    rotary_dim = model.size.rotary_dim
    caches = [_Cache.start(layer, layout, states) for layer in _layers(model)]
    mask = layout.mask()
    caps = [math.ceil(len(clip) / SAMPLE_RATE_HZ * max_tokens_per_sec) for clip in clips]
    texts: list[list[int]] = [[] for _ in clips]
    complete = [False] * len(clips)
    alive = list(range(len(clips)))
    tokens = torch.full((len(clips),), START, device=device)
    for position in range(max(caps)):
        rows = model.decoder.embed_tokens(tokens)
        rotary = rotation(torch.tensor([position], device=device), rotary_dim)
        for layer, cache in zip(_layers(model), caches, strict=True):
            rows = cache.step(layer, rows, rotary, mask)
        chosen = model.head(model.decoder.norm(rows)).argmax(-1).tolist()
        kept = []
        for place, (clip, token) in enumerate(zip(alive, chosen, strict=True)):
            if token == END:
                complete[clip] = True
                continue
            texts[clip].append(token)
            if len(texts[clip]) < caps[clip]:
                kept.append(place)
        if not kept:
            break
        if len(kept) < len(alive):
            places = torch.tensor(kept, device=device)
            for cache in caches:
                cache.keep(places)
            mask = mask.index_select(0, places) if mask is not None else None
        alive = [alive[place] for place in kept]
        tokens = torch.tensor([chosen[place] for place in kept], device=device)
    model.train(was_training)
    return [Transcript(ids, done) for ids, done in zip(texts, complete, strict=True)]


@dataclass
class _Cache:
    """Keys and values of one decoder layer: of its tokens so far, and of the encoder's frames."""

    heard: tuple[Tensor, Tensor]  # [B, H, F, D / H] each
    written: tuple[Tensor, Tensor] | None = None  # [B, H, t, D / H] each

    @classmethod
    def start(cls, layer: DecoderLayer, layout: Layout, states: Tensor) -> "_Cache":
        keys, values = layer.encoder_attn.keys_and_values(states, None)
        return cls((layout.pad(keys).transpose(1, 2), layout.pad(values).transpose(1, 2)))

    def step(
        self, layer: DecoderLayer, rows: Tensor, rotary: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Run one layer on the newest token of each clip, [B, D] -> [B, D]."""
        normed = layer.input_layernorm(rows)
        new = [part[:, :, None] for part in layer.self_attn.keys_and_values(normed, rotary)]
        if self.written is not None:
            pairs = zip(self.written, new, strict=True)
            new = [torch.cat([old, part], dim=2) for old, part in pairs]
        self.written = (new[0], new[1])
        queries = layer.self_attn.queries(normed, rotary)
        rows = rows + layer.self_attn.o_proj(_attend(queries, self.written, None))
        queries = layer.encoder_attn.queries(layer.post_attention_layernorm(rows), None)
        rows = rows + layer.encoder_attn.o_proj(_attend(queries, self.heard, mask))
        return rows + layer.mlp(layer.final_layernorm(rows))

    def keep(self, places: Tensor) -> None:
        """Keep some clips only."""
        assert self.written is not None, "clips end after a step"
        heard, written = (
            [part.index_select(0, places) for part in parts] for parts in (self.heard, self.written)
        )
        self.heard, self.written = (heard[0], heard[1]), (written[0], written[1])


def _attend(queries: Tensor, memory: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
    """Attend from one query per clip, [B, H, D / H] -> [B, D]."""
    keys, values = memory
    heads = F.scaled_dot_product_attention(queries[:, :, None], keys, values, attn_mask=mask)
    return heads.flatten(1)


def _layers(model: MoonshineModel) -> list[DecoderLayer]:
    layers = list(model.decoder.layers)
    assert all(isinstance(layer, DecoderLayer) for layer in layers)
    return layers  # pyright: ignore[reportReturnType]
