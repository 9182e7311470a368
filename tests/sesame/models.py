"""A stand-in for Sesame's models.py, for tests.

What export_sesame.py and Sesame's users call, in words of our own.

With STAND_IN_FORGETS_ROPE_SCALING in the environment it is a judge who is not of our opinion.
"""

import os
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torchtune.models.llama3_2 import llama3_2

FLAVORS: dict[str, Any] = {}  # the published sizes are of no use to fast tests


@dataclass
class ModelArgs:
    backbone_flavor: str
    decoder_flavor: str
    text_vocab_size: int
    audio_vocab_size: int
    audio_num_codebooks: int


class Model(nn.Module, PyTorchModelHubMixin):
    def __init__(self, config: ModelArgs) -> None:
        super().__init__()
        self.config = config
        self.backbone, width = _without_ends(FLAVORS[config.backbone_flavor]())
        self.decoder, narrow = _without_ends(FLAVORS[config.decoder_flavor]())
        self.text_embeddings = nn.Embedding(config.text_vocab_size, width)
        self.audio_embeddings = nn.Embedding(
            config.audio_vocab_size * config.audio_num_codebooks, width
        )
        self.projection = nn.Linear(width, narrow, bias=False)
        self.codebook0_head = nn.Linear(width, config.audio_vocab_size, bias=False)
        self.audio_head = nn.Parameter(
            torch.empty(config.audio_num_codebooks - 1, narrow, config.audio_vocab_size)
        )

    def setup_caches(self, max_batch_size: int) -> None:
        self.backbone.setup_caches(max_batch_size, torch.float32)
        self.decoder.setup_caches(
            max_batch_size, torch.float32, decoder_max_seq_len=self.config.audio_num_codebooks
        )

    def reset_caches(self) -> None:
        self.backbone.reset_caches()
        self.decoder.reset_caches()

    def generate_frame(
        self, tokens: Tensor, tokens_mask: Tensor, input_pos: Tensor, temperature: float, topk: int
    ) -> Tensor:
        assert topk == 1, "the stand-in is greedy"
        embedded = (self._embed_tokens(tokens) * tokens_mask.unsqueeze(-1)).sum(dim=2)
        state = self._step(self.backbone, embedded, input_pos)
        codes = [self.codebook0_head(state).argmax(-1, keepdim=True)]
        inputs = torch.stack([state, self._embed_audio(0, codes[0])[:, 0]], dim=1)
        at = torch.arange(2)[None]
        self.decoder.reset_caches()
        for k in range(1, self.config.audio_num_codebooks):
            codes.append(
                (
                    self._step(self.decoder, self.projection(inputs), at) @ self.audio_head[k - 1]
                ).argmax(-1, keepdim=True)
            )
            inputs, at = self._embed_audio(k, codes[-1]), at[:, -1:] + 1
        return torch.cat(codes, dim=1)

    def _step(self, transformer: Any, inputs: Tensor, at: Tensor) -> Tensor:
        slots = transformer.decoder_max_cache_seq_len
        return transformer(inputs, input_pos=at, mask=torch.arange(slots) <= at.unsqueeze(-1))[
            :, -1
        ]

    def _embed_audio(self, codebook: int, tokens: Tensor) -> Tensor:
        return self.audio_embeddings(tokens + codebook * self.config.audio_vocab_size)

    def _embed_tokens(self, tokens: Tensor) -> Tensor:
        audio = [
            self._embed_audio(k, tokens[..., k]) for k in range(self.config.audio_num_codebooks)
        ]
        return torch.stack([*audio, self.text_embeddings(tokens[..., -1])], dim=-2)


def _without_ends(transformer: Any) -> tuple[Any, int]:
    if os.environ.get("STAND_IN_FORGETS_ROPE_SCALING"):
        transformer = _unscaled(transformer)
    width = transformer.tok_embeddings.embedding_dim
    transformer.tok_embeddings = transformer.output = nn.Identity()
    return transformer, width


def _unscaled(like: Any) -> Any:
    """Build the same transformer without Llama 3.1's scaling of RoPE."""
    attention, mlp = like.layers[0].attn, like.layers[0].mlp
    return llama3_2(
        vocab_size=1,
        num_layers=len(like.layers),
        num_heads=attention.num_heads,
        num_kv_heads=attention.num_kv_heads,
        embed_dim=attention.embed_dim,
        max_seq_len=like.max_seq_len,
        intermediate_dim=mlp.w1.out_features,
        rope_base=500_000,
        scale_factor=1,
    )
