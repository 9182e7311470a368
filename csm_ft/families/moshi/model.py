"""Moshi's language model, under the tensor names of the moshi package.

A temporal transformer reads one column per frame: a text token and the codes of both speakers,
each row later by its own delay. From its state a depth transformer predicts the codes of a column,
codebook after codebook, the first one after the text token.

Shapes: B sequences, S columns, R rows (text, then Moshi's and the user's codebooks), Q predicted
codebooks, N columns of all sequences without padding, M of these that the depth transformer sees,
D width, d depth width, H heads, V codes per codebook.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from csm_ft.families.base import Prompt, Sample, SamplingOptions
from csm_ft.families.drawn import sampling_variance
from csm_ft.families.model import EmptyEmbedding, JoinedBatch, Loss, SpeechModel
from csm_ft.families.moshi.size import ZERO, MoshiSize, gating_dim

if TYPE_CHECKING:
    from csm_ft.families.moshi.data import MoshiBatch
    from csm_ft.families.moshi.encoder import MoshiEncoder

_EPS = 1e-8
_IGNORED = -100  # target without a loss


class Memory:
    """Keys and values of one attention layer, [B, H, t, D / H] each, in buffers of fixed size."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.length = capacity, 0
        self._buffers: tuple[Tensor, Tensor] | None = None

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add the newest positions, and return all."""
        if self._buffers is None:
            shape = (*keys.shape[:2], self.capacity, keys.shape[3])
            self._buffers = (keys.new_empty(shape), values.new_empty(shape))
        start, self.length = self.length, self.length + keys.shape[2]
        for buffer, new in zip(self._buffers, (keys, values), strict=True):
            buffer[:, :, start : self.length] = new
        all_keys, all_values = self._buffers
        return all_keys[:, :, : self.length], all_values[:, :, : self.length]


class RMSNorm(nn.Module):
    """Root mean square norm in fp32; its weight is [1, 1, D], as in checkpoints."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, 1, dim))

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        wide = x.float()
        variance = _EPS + wide.square().mean(dim=-1, keepdim=True)
        return (wide * (self.alpha.view(-1).float() * torch.rsqrt(variance))).to(x.dtype)


class Embedding(EmptyEmbedding):
    """An embedding whose id -1 is the zero vector."""

    def forward(self, input: Tensor) -> Tensor:
        """[...] -> [..., D]."""
        embedded = super().forward(input.clamp(min=0))
        return embedded.masked_fill((input == ZERO)[..., None], 0.0)


class Attention(nn.Module):
    """Causal self-attention; in the depth transformer every step has its own projections."""

    def __init__(self, dim: int, heads: int, steps: Sequence[int] = (0,)) -> None:
        super().__init__()
        self.heads = heads
        count = max(steps) + 1
        self.out_projs = nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in range(count))
        self.in_projs = nn.ModuleList(nn.Linear(dim, 3 * dim, bias=False) for _ in range(count))

    def attend(
        self, projected: Tensor, rotary: Tensor | None, memory: Memory | None, context: int
    ) -> Tensor:
        """Attend from projections [B, S, 3 D] (query, key, value), [B, S, D]; `context` 0 = all."""
        parts = projected.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        queries, keys, values = parts.unbind(0)  # [B, H, S, D / H]
        if rotary is not None:
            queries, keys = rotate(queries, rotary), rotate(keys, rotary)
        if memory is not None:
            keys, values = memory.extend(keys, values)
        mask = _mask(queries.shape[2], keys.shape[2], context, queries.device)
        causal = {"is_causal": True} if mask is None and queries.shape[2] > 1 else {}
        heads = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, **causal)
        return heads.transpose(1, 2).flatten(2)


def _mask(num_queries: int, num_keys: int, context: int, device: torch.device) -> Tensor | None:
    """Return who sees whom, [queries, keys]; None = causal attention, or one query that sees all.

    A position sees itself and the `context` - 1 before it.
    """
    is_within = not context or num_keys <= context
    if is_within and num_queries in (1, num_keys):
        return None
    keys = torch.arange(num_keys, device=device)
    distance = keys[num_keys - num_queries :, None] - keys
    mask = distance >= 0
    return mask if is_within else mask & (distance < context)


class Gating(nn.Module):
    """A gated layer: silu of the first half times the second half."""

    def __init__(self, dim: int, ffn_dim: int) -> None:
        super().__init__()
        hidden = gating_dim(dim, ffn_dim)
        self.linear_in = nn.Linear(dim, 2 * hidden, bias=False)
        self.linear_out = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        gate, value = self.linear_in(x).chunk(2, dim=-1)
        return self.linear_out(F.silu(gate) * value)


class TemporalLayer(nn.Module):
    """One layer over frames."""

    def __init__(self, size: MoshiSize) -> None:
        super().__init__()
        self.context = size.context
        self.self_attn = Attention(size.dim, size.heads)
        self.norm1, self.norm2 = RMSNorm(size.dim), RMSNorm(size.dim)
        self.gating = Gating(size.dim, size.ffn_dim)

    def forward(self, x: Tensor, rotary: Tensor, memory: Memory | None = None) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        attention = self.self_attn
        projected = attention.in_projs[0](self.norm1(x))
        heard = attention.attend(projected, rotary, memory, self.context)
        x = x + attention.out_projs[0](heard)
        return x + self.gating(self.norm2(x))


class DepthLayer(nn.Module):
    """One layer over the codebooks of a frame, with weights of its own for each step."""

    def __init__(self, size: MoshiSize) -> None:
        super().__init__()
        self.steps = size.steps
        self.self_attn = Attention(size.depth_dim, size.depth_heads, self.steps)
        self.norm1, self.norm2 = RMSNorm(size.depth_dim), RMSNorm(size.depth_dim)
        self.gating = nn.ModuleList(
            Gating(size.depth_dim, size.depth_ffn_dim) for _ in range(max(self.steps) + 1)
        )

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """[M, q, d] -> [M, q, d]; with a memory the steps follow those that it holds."""
        first = memory.length if memory is not None else 0
        attention = self.self_attn
        projected = self._each(attention.in_projs, self.norm1(x), first)
        heard = attention.attend(projected, None, memory, 0)
        x = x + self._each(attention.out_projs, heard, first)
        return x + self._each(self.gating, self.norm2(x), first)

    def _each(self, modules: nn.ModuleList, x: Tensor, first: int) -> Tensor:
        """Apply to every step the module that it has."""
        weights = self.steps[first : first + x.shape[1]]
        # Not x[:, place]: the gradient of each would be a tensor of zeros as large as x.
        steps = zip(weights, x.unbind(dim=1), strict=True)
        return torch.stack([modules[i](step) for i, step in steps], dim=1)


class MoshiModel(SpeechModel):
    """Temporal and depth transformer."""

    block_classes: ClassVar[tuple[type[nn.Module], ...]] = (TemporalLayer, DepthLayer)

    def __init__(self, size: MoshiSize) -> None:
        super().__init__()
        self.size = size
        predicted, dim, depth_dim = size.num_predicted, size.dim, size.depth_dim
        self.emb = nn.ModuleList(Embedding(size.card + 1, dim) for _ in range(size.num_streams))
        self.text_emb = Embedding(size.text_card + 1, dim)
        self.text_linear = nn.Linear(dim, size.text_card, bias=False)
        self.transformer = nn.ModuleDict(
            {"layers": nn.ModuleList(TemporalLayer(size) for _ in range(size.layers))}
        )
        self.out_norm = RMSNorm(dim)
        self.depformer_in = nn.ModuleList(
            nn.Linear(dim, depth_dim, bias=False) for _ in range(max(size.steps) + 1)
        )
        self.depformer_emb = nn.ModuleList(
            Embedding(size.card + 1, depth_dim) for _ in range(predicted - 1)
        )
        self.depformer_text_emb = Embedding(size.text_card + 1, depth_dim)
        self.depformer = nn.ModuleDict(
            {"layers": nn.ModuleList(DepthLayer(size) for _ in range(size.depth_layers))}
        )
        self.linears = nn.ModuleList(
            nn.Linear(depth_dim, size.card, bias=False) for _ in range(predicted)
        )

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.out_norm.alpha.device

    def join_batches(self, batches: Sequence["MoshiBatch"]) -> JoinedBatch:
        """Return several micro-batches as one; see csm_ft.families.moshi.data."""
        from csm_ft.families.moshi.data import join

        return join(batches)

    def forward(self, batch: "MoshiBatch") -> Loss:
        """Return the nats of each sequence, [B] per part; see MoshiBatch for the parts.

        Of an estimate, `<part>_variance` is the variance that the draw of columns adds.
        """
        columns = self.delayed(batch.codes)
        hidden = self.hidden(columns[:, :, :-1]).flatten(0, 1)
        # Column j predicts column j + 1. Padding columns are left out from here on.
        targets = columns[:, :, 1:].transpose(1, 2).flatten(0, 1)  # [B * S, R]
        zeros = hidden.new_zeros(batch.num_sequences, dtype=torch.float32)
        nats = self._text_nats(hidden, targets, batch)
        num_own, predicted = self.size.num_own, range(self.size.num_predicted)
        parts = {part_of(codebook, num_own) for codebook in predicted}
        loss = {part: zeros.clone() for part in parts}
        text = targets[:, 0].index_select(0, batch.rows)
        is_padding, is_end = text == self.size.text_padding_id, text == self.size.text_end_id
        masks = {"text_padding": is_padding, "text_end": is_end, "text": ~(is_padding | is_end)}
        for part, is_own in masks.items():
            loss[part] = zeros.index_add(0, batch.sequence, nats * is_own)
        hidden = hidden.index_select(0, batch.depth_rows)
        targets = targets.index_select(0, batch.depth_rows)
        sequence = batch.sequence.index_select(0, batch.depth_places)
        drawn: dict[str, Tensor] = {}  # nats of each part in the columns that were drawn, [M]
        for codebook, logits in enumerate(self.depth_logits(hidden, targets)):
            nats, part = _nats(logits, targets[:, 1 + codebook]), part_of(codebook, num_own)
            loss[part] = loss[part].index_add(0, sequence, nats * batch.depth_weights)
            if batch.is_estimate:
                drawn[part] = nats + drawn.get(part, 0.0)
        for part, nats in drawn.items():
            loss[f"{part}_variance"] = sampling_variance(
                nats, batch.depth_weights, sequence, batch.num_sequences
            )
        return loss

    def delayed(self, codes: Tensor) -> Tensor:
        """[B, R, S] -> [B, R, S + 1]: the initial column, then each row later by its delay."""
        num_columns = codes.shape[2]
        columns = self.initial().to(codes)[:, None].expand(len(codes), -1, num_columns + 1).clone()
        for row, delay in enumerate(self.size.delays):
            columns[:, row, 1 + delay :] = codes[:, row, : max(0, num_columns - delay)]
        return columns

    def initial(self) -> Tensor:
        """Return the column that begins every sequence, [R]."""
        return torch.tensor([self.size.text_card, *[self.size.card] * self.size.num_streams])

    def hidden(self, columns: Tensor, memories: Sequence[Memory] | None = None) -> Tensor:
        """Return the normalised states of columns [B, R, S], [B, S, D].

        With memories the columns follow those that they hold.
        """
        x = self.text_emb(columns[:, 0])
        for row, table in enumerate(self.emb, start=1):
            x = x + table(columns[:, row])
        start = memories[0].length if memories else 0
        rotary = self._rotation(start, columns.shape[2])
        for number, layer in enumerate(self.layers):
            x = layer(x, rotary, memories[number] if memories else None)
        return self.out_norm(x)

    @property
    def layers(self) -> nn.ModuleList:
        """The layers of the temporal transformer."""
        return _layers(self.transformer)

    @property
    def depth_layers(self) -> nn.ModuleList:
        """The layers of the depth transformer."""
        return _layers(self.depformer)

    def depth_logits(self, hidden: Tensor, columns: Tensor) -> list[Tensor]:
        """Return the teacher-forced logits of every predicted codebook, Q times [M, V].

        `hidden` [M, D] are the states before the `columns` [M, R] that are predicted.
        """
        steps = range(self.size.num_predicted)
        x = torch.stack([self.depth_input(hidden, columns[:, k], k) for k in steps], dim=1)
        for layer in self.depth_layers:
            x = layer(x)
        return [head(step) for head, step in zip(self.linears, x.unbind(dim=1), strict=True)]

    def depth_input(self, hidden: Tensor, before: Tensor, codebook: int) -> Tensor:
        """Return the input [M, d] of one step, after the token `before` [M]: text, or a code."""
        table = self.depformer_emb[codebook - 1] if codebook else self.depformer_text_emb
        return self.depformer_in[self.size.steps[codebook]](hidden) + table(before)

    def logits(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits aligned with codes [B, R, S]: text [B, S, ...] and audio [B, Q, S, V].

        Frames whose delay puts them past the last column have NaN, as in the moshi package.
        """
        columns = self.delayed(codes)
        hidden = self.hidden(columns[:, :, :-1])
        targets = columns[:, :, 1:].transpose(1, 2).flatten(0, 1)
        by_codebook = self.depth_logits(hidden.flatten(0, 1), targets)
        audio = [
            _undelay(logits.view(*hidden.shape[:2], -1), self.size.delays[1 + codebook])
            for codebook, logits in enumerate(by_codebook)
        ]
        text = _undelay(self.text_linear(hidden), self.size.delays[0])
        return text, torch.stack(audio, dim=1)

    def sample(
        self, prompts: Sequence[Prompt], encoder: "MoshiEncoder", options: SamplingOptions
    ) -> list[Sample]:
        """Continue all prompts as one batch; see csm_ft.families.moshi.sample."""
        from csm_ft.families.moshi.sample import sample

        return sample(self, prompts, encoder, options)

    def _text_nats(self, hidden: Tensor, targets: Tensor, batch: "MoshiBatch") -> Tensor:
        """Return the nats of every text token, [N]; 0 where there is none."""
        logits = self.text_linear(hidden.index_select(0, batch.rows))
        return _nats(logits, targets[:, 0].index_select(0, batch.rows))

    def _rotation(self, start: int, length: int) -> Tensor:
        half = self.size.dim // self.size.heads // 2
        exponents = torch.arange(half, device=self.device).float()
        frequencies = torch.exp(exponents * (-math.log(self.size.max_period) / half))
        positions = torch.arange(start, start + length, device=self.device).float()
        angles = positions[:, None] * frequencies
        return torch.stack([angles.cos(), angles.sin()], dim=-1)


def part_of(codebook: int, num_own: int) -> str:
    """Return the part of the loss that a codebook belongs to."""
    part = "acoustic" if codebook % num_own else "c0"
    return part if codebook < num_own else f"user_{part}"


def rotate(heads: Tensor, rotary: Tensor) -> Tensor:
    """Rotate neighbouring pairs of [B, H, S, D / H] by their positions, [S, D / H / 2, 2]."""
    cos, sin = rotary.unbind(-1)
    even, odd = heads[..., 0::2].float(), heads[..., 1::2].float()
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return turned.flatten(-2).to(heads.dtype)


def _nats(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of targets [M]; 0 for ids that are none: the zero and initial one.

    `logits` are [M, V].
    """
    is_target = (targets >= 0) & (targets < logits.shape[-1])
    targets = targets.masked_fill(~is_target, _IGNORED)
    return F.cross_entropy(logits.float(), targets, ignore_index=_IGNORED, reduction="none")


def _undelay(logits: Tensor, delay: int) -> Tensor:
    """[B, S, V] by columns -> [B, S, V] by frames."""
    if not delay:
        return logits
    past_the_end = torch.full_like(logits[:, :delay], math.nan)
    return torch.cat([logits[:, delay:], past_the_end], dim=1)


def _layers(transformer: Any) -> nn.ModuleList:
    layers = transformer["layers"]
    assert isinstance(layers, nn.ModuleList)
    return layers


def empty_model(size: MoshiSize) -> MoshiModel:
    """Build a model on the meta device, without memory for its weights."""
    with torch.device("meta"):
        return MoshiModel(size)


def init_weights(model: MoshiModel, seed: int) -> None:
    """Give an empty model random weights: ones in norms, else N(0, 1/fan_in) cut at 3 deviations.

    Embeddings are N(0, 1/D). Drawn on the CPU from one generator.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, meta in list(model.named_parameters()):
        values = torch.ones(meta.shape)
        if meta.ndim == 2:
            std = meta.shape[1] ** -0.5
            nn.init.trunc_normal_(values, 0.0, std, -3 * std, 3 * std, generator=generator)
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, nn.Parameter(values))
