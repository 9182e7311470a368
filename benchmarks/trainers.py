"""One training step by csm-ft and by its peers, on the same clips, frames, weights and loss.

Shapes: B sequences, S padded positions, N frames, K codebooks.
"""

from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from benchmarks import peers
from csm_ft.data.batches import Step
from csm_ft.device import reproducible
from csm_ft.families.base import parts_of, weighted_loss
from csm_ft.families.csm.config import CsmConfig
from csm_ft.families.csm.data import CsmBatch
from csm_ft.families.csm.export import transformers
from csm_ft.families.csm.family import CsmFamily
from csm_ft.families.csm.model import CsmModel
from csm_ft.training.optim import build_optimizer
from csm_ft.training.step import optimizer_step

SEED = 7  # of the frames that train the depth decoder
FAMILY = CsmFamily()


class Trainer(Protocol):
    """A model with its optimiser."""

    def prepare(self, batch: CsmBatch) -> Any:
        """Return what `loss` and `step` take: making a batch is measured by itself."""
        ...

    def loss(self, prepared: Any) -> Tensor:
        """Return the loss, with its graph."""
        ...

    def step(self, prepared: Any) -> None:
        """Take one optimiser step."""
        ...


class Ours:
    """csm-ft itself: its model, its optimiser and its step."""

    def __init__(self, model: CsmModel, config: CsmConfig) -> None:
        self.model, self.config = model, config
        self.terms = FAMILY.loss_terms(config)
        self.optimizer = build_optimizer(model, FAMILY, config)

    def prepare(self, batch: CsmBatch) -> CsmBatch:
        """Return the batch."""
        return batch

    def loss(self, prepared: CsmBatch) -> Tensor:
        """Return the loss as a step computes it."""
        nats = self.model(prepared)
        parts = parts_of(self.terms)
        sums = {part: nats[part].sum() for part in parts}
        counts = {part: int(prepared.counts[part].sum()) for part in parts}
        return weighted_loss(self.terms, sums, counts)

    def step(self, prepared: CsmBatch) -> None:
        """Take one optimiser step as train.py does, with deterministic algorithms."""
        step = Step(1, 0, prepared.num_sequences, [], [])
        with reproducible("cpu", threads=1, seed=0):
            optimizer_step(self.model, self.optimizer, step, [prepared], self.config, self.terms)


class Transformers:
    """CsmForConditionalGeneration on codes; its codec, which it runs in every step, is left out."""

    def __init__(self, model: CsmModel, config: CsmConfig) -> None:
        self.config = config
        with transformers.quiet():
            self.model = transformers.to_run(model).train()
        named = self.model.named_parameters()
        self.weights = [weight for name, weight in named if not name.startswith("codec_model.")]
        self.optimizer = torch.optim.AdamW(self.weights, lr=config.learning_rate, fused=True)

    def prepare(self, batch: CsmBatch, *, all_frames: bool = False) -> tuple[CsmBatch, Tensor]:
        """Return the labels [B, S, K]; frames without labels train codebook 0 only."""
        labels = torch.full((batch.num_padded, batch.codes.shape[1]), -100)
        labels[batch.frame_positions, 0] = batch.codes[:, 0]
        rows = slice(None) if all_frames else batch.depth_rows
        labels[batch.frame_positions[rows]] = batch.codes[rows]
        return batch, labels.view(batch.num_sequences, batch.max_positions, -1)

    def loss(self, prepared: tuple[CsmBatch, Tensor]) -> Tensor:
        """Embed with its own tables, then let the library compute its loss."""
        batch, labels = prepared
        text = self.model.embed_text_tokens(batch.text_tokens)
        frames = self.model.backbone_model.embed_tokens(batch.codes[None])[0]
        flat = text.new_zeros(batch.num_padded, text.shape[1])
        flat = flat.index_copy(0, batch.text_positions, text)
        flat = flat.index_copy(0, batch.frame_positions, frames)
        embedded = flat.view(batch.num_sequences, batch.max_positions, -1)
        return self.model(inputs_embeds=embedded, labels=labels).loss

    def step(self, prepared: tuple[CsmBatch, Tensor]) -> None:
        """Take one optimiser step."""
        self.loss(prepared).backward()
        clip_grad_norm_(self.weights, self.config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()


class PublicTrainer:
    """The public CSM trainer: its loss, and its optimiser with the settings of its loop."""

    def __init__(self, model: CsmModel, config: CsmConfig) -> None:
        self.model, self.config = peers.public_trainer(model), config
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config.learning_rate)

    def prepare(self, batch: CsmBatch) -> tuple[Tensor, Tensor]:
        """Return tokens and mask, [B, S, K + 1], the text in the last column."""
        num_codebooks = batch.codes.shape[1]
        tokens = torch.zeros(batch.num_padded, num_codebooks + 1, dtype=torch.long)
        mask = torch.zeros(tokens.shape, dtype=torch.bool)
        tokens[batch.frame_positions, :-1] = batch.codes
        mask[batch.frame_positions, :-1] = True
        tokens[batch.text_positions, -1] = batch.text_tokens
        mask[batch.text_positions, -1] = True
        shape = (batch.num_sequences, batch.max_positions, num_codebooks + 1)
        return tokens.view(shape), mask.view(shape)

    def loss(self, prepared: tuple[Tensor, Tensor]) -> Tensor:
        """Draw the frames of `with_drawn`, as its forward pass draws from torch's generator."""
        torch.manual_seed(SEED)
        return self.model(*prepared)

    def step(self, prepared: tuple[Tensor, Tensor]) -> None:
        """Take one optimiser step, and read the loss as its loop does."""
        loss = self.loss(prepared)
        loss.backward()
        clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        loss.item()


def with_drawn(batch: CsmBatch) -> CsmBatch:
    """Let the 1/16 of the frames train the depth decoder that the public trainer draws."""
    num_frames = len(batch.codes)
    torch.manual_seed(SEED)
    rows = torch.randperm(num_frames)[: num_frames // 16]
    weights = torch.full((len(rows),), num_frames / len(rows))
    return replace(batch, depth_rows=rows, depth_weights=weights)
