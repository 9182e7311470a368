"""CSM: two Llamas under the tensor names of Sesame's published checkpoint.

Shapes: B sequences, S padded positions, N audio frames of the micro-batch (EOS frames included), M
of them drawn for the depth decoder, K codebooks, V audio vocabulary, D backbone width, d decoder
width, L text tokens of the micro-batch.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from csm_ft.families.base import Prompt, Sample, SamplingOptions
from csm_ft.families.csm.data import CsmBatch, join
from csm_ft.families.csm.layers import Layer, Transformer, join_projections
from csm_ft.families.csm.packed import Packing
from csm_ft.families.csm.size import MAX_POSITIONS, CsmSize
from csm_ft.families.drawn import sampling_variance
from csm_ft.families.model import EmptyEmbedding, JoinedBatch, Loss, SpeechModel

if TYPE_CHECKING:
    from csm_ft.families.csm.encoder import CsmEncoder


class CsmModel(SpeechModel):
    """Backbone over frames and depth decoder over codebooks, as in Sesame's models.py."""

    block_classes: ClassVar[tuple[type[nn.Module], ...]] = (Layer,)
    max_positions = MAX_POSITIONS

    def __init__(self, size: CsmSize) -> None:
        super().__init__()
        self.size = size
        self.backbone = Transformer(size.backbone)
        self.decoder = Transformer(size.decoder)
        self.text_embeddings = EmptyEmbedding(size.text_vocab_size, size.backbone.dim)
        self.audio_embeddings = EmptyEmbedding(
            size.audio_vocab_size * size.num_codebooks, size.backbone.dim
        )
        self.projection = nn.Linear(size.backbone.dim, size.decoder.dim, bias=False)
        self.codebook0_head = nn.Linear(size.backbone.dim, size.audio_vocab_size, bias=False)
        self.audio_head = nn.Parameter(
            torch.empty(size.num_codebooks - 1, size.decoder.dim, size.audio_vocab_size)
        )

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.audio_head.device

    def join_weights(self) -> None:
        """Let q, k and v of each layer be one product, and w1 and w3."""
        join_projections(self)

    def join_batches(self, batches: Sequence[CsmBatch]) -> JoinedBatch:
        """Return several micro-batches as one; see csm_ft.families.csm.data."""
        return join(batches)

    def forward(self, batch: CsmBatch) -> Loss:
        """Return the nats of each sequence, [B] per part.

        `c0` is codebook 0 of every target frame. `depth` is codebooks 1..K-1 of the drawn frames,
        weighted so that its expectation is the sum over all target frames; of an
        estimate, `depth_variance` is the variance that this adds.
        """
        frames, drawn = self.embed_frames(batch.codes, batch.depth_rows)
        hidden = self.backbone_hidden(self.embed(batch, frames), batch.packing)
        # Position t predicts the frame at t + 1. All indices are unique, so the backward pass has
        # no atomic additions in random order.
        hidden = hidden.flatten(0, 1).index_select(0, batch.frame_positions - 1)
        c0_nats = F.cross_entropy(
            self.codebook0_head(hidden).float(), batch.codes[:, 0], reduction="none"
        )
        # The depth decoder sees only the drawn frames, and there lies most of the memory: its
        # logits are [M, K-1, V].
        logits = self.depth_logits(hidden.index_select(0, batch.depth_rows), drawn)
        targets = batch.codes.index_select(0, batch.depth_rows)[:, 1:]
        depth_nats = (
            F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
            .view_as(targets)
            .sum(1)
        )
        # Sums per sequence, not per batch: validation needs each example's share.
        zeros = hidden.new_zeros(batch.num_sequences, dtype=torch.float32)
        sequence = batch.frame_sequence.index_select(0, batch.depth_rows)
        weights = batch.depth_weights
        loss = {
            "c0": zeros.index_add(0, batch.frame_sequence, c0_nats * batch.frame_weights),
            "depth": zeros.index_add(0, sequence, depth_nats * weights),
        }
        if batch.is_estimate:
            loss["depth_variance"] = sampling_variance(
                depth_nats, weights, sequence, batch.num_sequences
            )
        return loss

    def embed_codes(self, codes: Tensor) -> Tensor:
        """[N, K] codes -> [N, K, D]; the table holds the codebooks one after another."""
        return self.audio_embeddings(codes + self._offsets)

    def embed_frames(self, codes: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return frames as the backbone reads them, [N, D], and codes `rows` of them, [M, K, D].

        A frame's embedding is the sum over its codebooks, of `codes` [N, K].
        """
        placed = codes + self._offsets
        drawn = placed.index_select(0, rows)
        # One operation for sums and single codes has one gradient of the table, which is large.
        firsts = torch.arange(0, placed.numel(), placed.shape[1], device=codes.device)
        singles = torch.arange(drawn.numel(), device=codes.device) + placed.numel()
        embedded = F.embedding_bag(
            torch.cat([placed.flatten(), drawn.flatten()]),
            self.audio_embeddings.weight,
            torch.cat([firsts, singles]),
            mode="sum",
        )
        frames, single = embedded.split([len(placed), drawn.numel()])
        return frames, single.unflatten(0, drawn.shape)

    @property
    def _offsets(self) -> Tensor:
        """Where each codebook begins in the table, [K]."""
        codebooks = torch.arange(self.size.num_codebooks, device=self.device)
        return codebooks * self.size.audio_vocab_size

    def embed(self, batch: CsmBatch, frames: Tensor) -> Tensor:
        """Lay out text embeddings and frame embeddings [N, D] as [B, S, D]; padding is zero.

        Packed sequences are one row, [1, S, D].
        """
        text = self.text_embeddings(batch.text_tokens)
        flat = text.new_zeros(batch.num_rows * batch.max_positions, text.shape[1])
        flat = flat.index_copy(0, batch.text_positions, text).index_copy(
            0, batch.frame_positions, frames
        )
        return flat.view(batch.num_rows, batch.max_positions, -1)

    def backbone_hidden(self, embedded: Tensor, packing: Packing | None = None) -> Tensor:
        """[B, S, D] -> [B, S, D] after the final norm.

        Attention is causal and padding is on the right, so no real position attends to padding and
        no mask is needed. Packed sequences attend to themselves alone.
        """
        return self.backbone(embedded, packing=packing)

    def depth_logits(self, hidden: Tensor, frames: Tensor) -> Tensor:
        """Return the teacher-forced logits of codebooks 1..K-1, [M, K-1, V].

        `hidden` [M, D] are the backbone's states, `frames` [M, K, D] the embedded codes.
        """
        # The decoder's sequence is hidden, c0, ..., c(K-2); from c(k-1) on it predicts ck, with a
        # head of its own for each codebook. The output at `hidden` predicts nothing.
        inputs = torch.cat([hidden.unsqueeze(1), frames[:, :-1]], dim=1)
        outputs = self.decoder(self.projection(inputs))[:, 1:]
        return torch.einsum("mkd,kdv->mkv", outputs, self.audio_head)

    def sample(
        self, prompts: Sequence[Prompt], encoder: "CsmEncoder", options: SamplingOptions
    ) -> list[Sample]:
        """Sample all prompts as one batch; see csm_ft.families.csm.sample."""
        from csm_ft.families.csm.sample import sample

        return sample(self, prompts, encoder, options)


def empty_model(size: CsmSize) -> CsmModel:
    """Build a model on the meta device, without memory for its weights.

    `init_weights` or the loading of a checkpoint assigns them.
    """
    with torch.device("meta"):
        return CsmModel(size)


def init_weights(model: CsmModel, seed: int) -> None:
    """Give an empty model random weights: N(0, 0.02) embeddings, Xavier matrices, ones in norms.

    They are drawn on the CPU from one generator, so a seed gives the same weights everywhere.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, meta in list(model.named_parameters()):
        values = torch.empty(meta.shape)
        if name.endswith(".scale"):
            values.fill_(1.0)
        elif "embeddings" in name:
            values.normal_(0.0, 0.02, generator=generator)
        else:
            # audio_head is one matrix per codebook; Xavier's fan-in is that of each.
            for matrix in values if values.ndim == 3 else [values]:
                nn.init.xavier_uniform_(matrix, generator=generator)
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, nn.Parameter(values))


def random_model(size: CsmSize, seed: int) -> CsmModel:
    """Build a model with random weights."""
    model = empty_model(size)
    init_weights(model, seed)
    model.join_weights()
    return model
