"""Greedy transcription with cached keys and values: a batch gives the same text as its clips alone.

Clips are heard in groups of similar length, and written all together: a step reads the decoder's
weights once, and matrix products of few rows are slow.

Shapes: n clips that are being written, F frames of the longest clip of a group, T tokens of the
longest text, H heads, D width.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from csm_ft.families.base import Prompt, Sample
from csm_ft.families.moonshine.data import collate_clips
from csm_ft.families.moonshine.model import DecoderLayer, DecoderMlp, MoonshineModel, rotation
from csm_ft.families.moonshine.size import DEFAULT_TOKENS_PER_SEC, END, SAMPLE_RATE_HZ, START

if TYPE_CHECKING:
    from csm_ft.families.moonshine.encoder import MoonshineEncoder

_GROUP_SEC = 60.0  # of sound, padding included, that the encoder hears at once
_RUN_IDS = 128  # at most, and a divisor of the vocabulary
_MOST_IDLE = 0.25  # share of ended texts that are carried along, as leaving them out is a copy


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
    # The longest first: short texts, which end early, are the last rows, and cut off as a view.
    order = sorted(range(len(clips)), key=lambda clip: -len(clips[clip]))
    caps = [math.ceil(len(clip) / SAMPLE_RATE_HZ * max_tokens_per_sec) for clip in clips]
    texts: list[list[int]] = [[] for _ in clips]
    ended = [False] * len(clips)
    heard = [_Heard.of(model, group) for group in _groups([clips[clip] for clip in order])]
    cache = _Cache(heard, max(caps))
    rows = order  # the clip of each row
    tokens = [START] * len(rows)
    for position in range(max(caps)):
        tokens = cache.step(model, tokens, position)
        for clip, token in zip(rows, tokens, strict=True):
            if ended[clip] or len(texts[clip]) == caps[clip]:
                continue
            if token == END:
                ended[clip] = True
            else:
                texts[clip].append(token)
        is_alive = [not ended[clip] and len(texts[clip]) < caps[clip] for clip in rows]
        if not any(is_alive):
            break
        kept = _kept(is_alive)
        if len(kept) < len(rows):
            cache.keep(kept)
            rows, tokens = [rows[place] for place in kept], [tokens[place] for place in kept]
    model.train(was_training)
    return [Transcript(ids, done) for ids, done in zip(texts, ended, strict=True)]


def _kept(is_alive: Sequence[bool]) -> range | list[int]:
    """Return the rows to go on with: all up to the last one alive, or those alive alone."""
    last = max(place for place, alive in enumerate(is_alive) if alive)
    if sum(is_alive) < (1 - _MOST_IDLE) * (last + 1):
        return [place for place, alive in enumerate(is_alive) if alive]
    return range(last + 1)


@dataclass
class _Heard:
    """What the decoder attends to of clips of similar length: keys and values of each layer."""

    memory: list[tuple[Tensor, Tensor]]  # [n, H, F, D / H] each
    mask: Tensor | None  # [n, 1, 1, F], 0 for frames of a clip, else -inf; None = no padding

    @classmethod
    def of(cls, model: MoonshineModel, clips: Sequence[NDArray[np.int16]]) -> "_Heard":
        """Hear clips of int16 samples [n]."""
        end_only = np.array([END], dtype=np.uint32)
        device = next(model.parameters()).device
        batch = collate_clips(clips, [end_only] * len(clips)).to(device)
        states, layout = model.hear(batch)
        memory = []
        for layer in _layers(model):
            pair = layer.encoder_attn.keys_and_values(states, None)
            keys, values = (layout.pad(part).transpose(1, 2).contiguous() for part in pair)
            memory.append((keys, values))
        real, mask = layout.mask(), None
        if real is not None:
            mask = memory[0][0].new_zeros(real.shape).masked_fill(~real, -math.inf)
        return cls(memory, mask)

    def __len__(self) -> int:
        return len(self.memory[0][0])

    def keep(self, rows: Sequence[int]) -> "_Heard":
        """Return some clips only."""
        places = _places(rows, self.memory[0][0].device)
        memory = [(keys[places], values[places]) for keys, values in self.memory]
        return _Heard(memory, None if self.mask is None else self.mask[places])


class _Cache:
    """Keys and values of all clips: of what was heard, in groups, and of the tokens so far."""

    def __init__(self, heard: Sequence[_Heard], num_tokens: int) -> None:
        self.heard = list(heard)
        one = heard[0].memory[0][0]
        shape = (sum(map(len, heard)), one.shape[1], num_tokens, one.shape[3])
        self.written = [  # of each layer, [n, H, T, D / H] each
            (one.new_empty(shape), one.new_empty(shape)) for _ in heard[0].memory
        ]

    def step(self, model: MoonshineModel, tokens: Sequence[int], position: int) -> list[int]:
        """Return the most likely next token of each clip, after its newest one at `position`."""
        device = self.written[0][0].device
        rows = model.decoder.embed_tokens(torch.tensor(tokens, device=device))
        rotary = rotation(torch.tensor([position], device=device), model.size.rotary_dim)
        for number, layer in enumerate(_layers(model)):
            normed, attention = layer.input_layernorm(rows), layer.self_attn
            new = attention.keys_and_values(normed, rotary)
            for kept, part in zip(self.written[number], new, strict=True):
                kept[:, :, position] = part
            keys, values = (part[:, :, : position + 1] for part in self.written[number])
            queries = attention.queries(normed, rotary)
            rows = rows + attention.o_proj(_attend(queries, keys, values, None))
            normed, attention = layer.post_attention_layernorm(rows), layer.encoder_attn
            queries = attention.queries(normed, None).split([len(group) for group in self.heard])
            found = [
                _attend(part, *group.memory[number], group.mask)
                for part, group in zip(queries, self.heard, strict=True)
            ]
            rows = rows + attention.o_proj(torch.cat(found))
            rows = rows + _feed_forward(layer.mlp, layer.final_layernorm(rows))
        return most_likely(model.head_weight @ model.decoder.norm(rows).T).tolist()

    def keep(self, rows: Sequence[int]) -> None:
        """Keep some clips only."""
        places = _places(rows, self.written[0][0].device)
        self.written = [(keys[places], values[places]) for keys, values in self.written]
        groups, start = [], 0
        for group in self.heard:
            own = [row - start for row in rows if start <= row < start + len(group)]
            start += len(group)
            if own:
                groups.append(group.keep(own))
        self.heard = groups


def _places(rows: Sequence[int], device: torch.device) -> slice | Tensor:
    """Return an index of rows: a view of the first ones, or else a copy."""
    if list(rows) == list(range(len(rows))):
        return slice(len(rows))
    return torch.tensor(rows, device=device)


def _groups(clips: Sequence[NDArray[np.int16]]) -> Iterator[list[NDArray[np.int16]]]:
    """Yield clips that are heard at once, by the length of the longest times their number."""
    group: list[NDArray[np.int16]] = []
    for clip in clips:
        if group and len(group[0]) * (len(group) + 1) > _GROUP_SEC * SAMPLE_RATE_HZ:
            yield group
            group = []
        group.append(clip)
    yield group


def _feed_forward(mlp: DecoderMlp, rows: Tensor) -> Tensor:
    """[n, D] -> [n, D], by columns as in `most_likely`; modules with adapters as they are."""
    first, second = mlp.fc1, mlp.fc2
    if type(first) is not nn.Linear or type(second) is not nn.Linear:
        return mlp(rows)
    values, gates = torch.addmm(first.bias[:, None], first.weight, rows.T).chunk(2)
    return torch.addmm(second.bias[:, None], second.weight, F.silu(gates) * values).T


def most_likely(logits: Tensor) -> Tensor:
    """Return the first of the highest of each column, [V, n] -> [n].

    MKL makes logits by columns (W x', not x W') in two thirds of the time. There, the highest of
    each run of ids and the place in one run are found five times as fast as the place among all.
    """
    size = math.gcd(len(logits), _RUN_IDS)
    runs = logits.unflatten(0, (-1, size))
    run = runs.amax(1).argmax(0)
    place = runs[run, :, torch.arange(len(run), device=run.device)].argmax(1)
    return run * size + place


def _attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Attend from one query per clip, [n, H, D / H] -> [n, D]."""
    heads = F.scaled_dot_product_attention(queries[:, :, None], keys, values, attn_mask=mask)
    return heads.flatten(1)


def _layers(model: MoonshineModel) -> list[DecoderLayer]:
    layers = list(model.decoder.layers)
    assert all(isinstance(layer, DecoderLayer) for layer in layers)
    return layers  # pyright: ignore[reportReturnType]
