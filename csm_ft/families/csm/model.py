"""CSM on torchtune's Llama-3.2 layers, under the tensor names of Sesame's published checkpoint.

Shapes: B sequences, S padded positions, N audio frames of the micro-batch (EOS frames included), M
of them drawn for the depth decoder, K codebooks, V audio vocabulary, D backbone width, d decoder
width, L text tokens of the micro-batch.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchtune.models.llama3_1 import Llama3ScaledRoPE
from torchtune.models.llama3_2 import llama3_2
from torchtune.modules import TransformerDecoder, TransformerSelfAttentionLayer

from csm_ft.families.base import Loss, Prompt, Sample, SamplingOptions, SpeechModel
from csm_ft.families.csm.config import MAX_POSITIONS, CsmSize, TransformerSize
from csm_ft.families.csm.data import CsmBatch


class CsmModel(SpeechModel):
    """Backbone over frames and depth decoder over codebooks, as in Sesame's models.py."""

    block_classes: ClassVar[tuple[type[nn.Module], ...]] = (TransformerSelfAttentionLayer,)

    def __init__(self, size: CsmSize) -> None:
        super().__init__()
        self.size = size
        self.backbone = _transformer(size.backbone)
        self.decoder = _transformer(size.decoder)
        self.text_embeddings = nn.Embedding(size.text_vocab_size, size.backbone.dim)
        self.audio_embeddings = nn.Embedding(
            size.audio_vocab_size * size.num_codebooks, size.backbone.dim
        )
        self.projection = nn.Linear(size.backbone.dim, size.decoder.dim, bias=False)
        self.codebook0_head = nn.Linear(size.backbone.dim, size.audio_vocab_size, bias=False)
        self.audio_head = nn.Parameter(
            torch.empty(size.num_codebooks - 1, size.decoder.dim, size.audio_vocab_size)
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.audio_head.device

    def forward(self, batch: CsmBatch) -> Loss:
        """Return the nats of each sequence, [B].

        `c0`: codebook 0 of every learned frame; `depth`: codebooks 1..K-1 of the drawn ones,
        weighted so that the sum is unbiased.
        """
        frames = self.embed_codes(batch.codes)
        hidden = self.backbone_hidden(self.embed(batch, frames))
        # Position t predicts the frame at t + 1. All indices are unique, so the backward pass adds
        # nothing up in a random order.
        hidden = hidden.flatten(0, 1).index_select(0, batch.frame_positions - 1)
        c0_nats = F.cross_entropy(
            self.codebook0_head(hidden).float(), batch.codes[:, 0], reduction="none"
        )
        logits = self.depth_logits(
            hidden.index_select(0, batch.depth_rows), frames.index_select(0, batch.depth_rows)
        )
        targets = batch.codes.index_select(0, batch.depth_rows)[:, 1:]
        depth_nats = (
            F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
            .view_as(targets)
            .sum(1)
        )
        sequence = batch.frame_sequence
        zeros = hidden.new_zeros(batch.num_sequences, dtype=torch.float32)
        return {
            "c0": zeros.index_add(0, sequence, c0_nats * batch.frame_weights),
            "depth": zeros.index_add(
                0, sequence.index_select(0, batch.depth_rows), depth_nats * batch.depth_weights
            ),
        }

    def embed_codes(self, codes: Tensor) -> Tensor:
        """[N, K] codes -> [N, K, D]; the table holds the codebooks one after another."""
        offsets = (
            torch.arange(self.size.num_codebooks, device=codes.device) * self.size.audio_vocab_size
        )
        return self.audio_embeddings(codes + offsets)

    def embed(self, batch: CsmBatch, frames: Tensor) -> Tensor:
        """Lay text embeddings and summed frame embeddings ([N, K, D]) out as [B, S, D].

        Padding stays zero.
        """
        text = self.text_embeddings(batch.text_tokens)
        flat = text.new_zeros(batch.num_sequences * batch.max_positions, text.shape[1])
        flat = flat.index_copy(0, batch.text_positions, text).index_copy(
            0, batch.frame_positions, frames.sum(1)
        )
        return flat.view(batch.num_sequences, batch.max_positions, -1)

    def backbone_hidden(self, embedded: Tensor) -> Tensor:
        """[B, S, D] -> [B, S, D] after the final norm.

        Causal, and as padding is on the right no position that matters sees it.
        """
        return self.backbone(embedded)

    def depth_logits(self, hidden: Tensor, frames: Tensor) -> Tensor:
        """Teacher-forced logits of codebooks 1..K-1.

        Hidden [M, D] and embedded codes [M, K, D] -> [M, K-1, V].
        """
        inputs = torch.cat([hidden.unsqueeze(1), frames[:, :-1]], dim=1)
        outputs = self.decoder(self.projection(inputs))[:, 1:]
        return torch.einsum("mkd,kdv->mkv", outputs, self.audio_head)

    def sample(
        self, prompts: Sequence[Prompt], *, tokenizer: Any, options: SamplingOptions
    ) -> list[Sample]:
        """Speak all prompts as one batch; see csm_ft.families.csm.sample."""
        from csm_ft.families.csm.sample import sample

        return sample(self, prompts, tokenizer=tokenizer, options=options)


def empty_model(size: CsmSize) -> CsmModel:
    """Build a model without spending time or memory on weights.

    They are assigned from a checkpoint, or by to_empty and init_weights.
    """
    with torch.device("meta"):
        model = CsmModel(size)
    for transformer in (model.backbone, model.decoder):
        for module in transformer.modules():
            if isinstance(module, Llama3ScaledRoPE):
                module.rope_init()  # torchtune leaves the RoPE cache unbuilt on the meta device
    return model


def random_model(size: CsmSize, seed: int) -> CsmModel:
    """Build a model for training from scratch.

    N(0, 0.02) embeddings, Xavier matrices, ones in norms; equal on every machine.
    """
    model = empty_model(size)
    generator = torch.Generator().manual_seed(seed)
    for name, meta in list(model.named_parameters()):
        values = torch.empty(meta.shape)
        if name.endswith(".scale"):
            values.fill_(1.0)
        elif "embeddings" in name:
            values.normal_(0.0, 0.02, generator=generator)
        else:
            for matrix in values if values.ndim == 3 else [values]:
                nn.init.xavier_uniform_(matrix, generator=generator)
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, nn.Parameter(values))
    return model


def _transformer(size: TransformerSize) -> TransformerDecoder:
    """Build one without embedding and head: CSM has its own, outside of the transformers."""
    transformer = llama(size)
    transformer.tok_embeddings = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    transformer.output = nn.Identity()
    return transformer


def llama(size: TransformerSize) -> TransformerDecoder:
    """Build a Llama 3.2 of any size, as Sesame's code builds its two."""
    return llama3_2(
        vocab_size=1,
        num_layers=size.layers,
        num_heads=size.heads,
        num_kv_heads=size.kv_heads,
        embed_dim=size.dim,
        max_seq_len=MAX_POSITIONS,
        intermediate_dim=size.ffn_dim,
        attn_dropout=0.0,
        norm_eps=1e-5,
        rope_base=500_000,
        scale_factor=32,
    )
