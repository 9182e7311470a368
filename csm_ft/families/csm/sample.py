"""Sampling from CSM: all prompts as one batch, KV-cached, seeded per prompt.

A prompt gives the same sample whether it is sampled alone or in a batch.

Shapes: B prompts, P longest prompt in positions, C cache capacity in positions, K codebooks, V
audio vocabulary, D backbone width.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from csm_ft.errors import PromptError
from csm_ft.families.base import Prompt, Sample, SamplingOptions, Turn
from csm_ft.families.captured import MIN_STEPS, Capture, Captured, Step, graph_capture
from csm_ft.families.csm.decode import CachedTransformer
from csm_ft.families.csm.products import projection
from csm_ft.families.csm.size import MAX_POSITIONS

if TYPE_CHECKING:
    from csm_ft.families.csm.encoder import CsmEncoder
    from csm_ft.families.csm.model import CsmModel

FRAMES_PER_CHECK = 5  # how often is looked whether all prompts have ended
Choose = Callable[[Tensor, int], Tensor]  # logits [B, V] of a codebook -> codes [B]


@torch.no_grad()
def sample(
    model: "CsmModel", prompts: Sequence[Prompt], encoder: "CsmEncoder", options: SamplingOptions
) -> list[Sample]:
    """Generate frames until each prompt's EOS frame (all zero) or `options.max_sec`.

    The model's caches and mode and torch's random state are left as they were. Turns of the context
    that do not fit the model's 2,048 positions are left out, oldest first. Raises PromptError when
    the text alone takes all of them.
    """
    if not prompts:
        return []
    max_frames = math.ceil(options.max_sec / encoder.frame_sec)
    was_training = model.training
    model.eval()
    try:
        pieces = [_embed_prompt(model, prompt, encoder, max_frames) for prompt in prompts]
        contexts = [torch.cat(parts) for parts in pieces]
        draws = _Draws(model, prompts, options)
        frames = generate(
            model,
            contexts,
            draws,
            max_frames,
            before_frame=draws.draw_noise,
            capture=graph_capture(model),
        )
    finally:
        model.train(was_training)
    # Each turn of the context that was used is two pieces, its text and its frames.
    left_out = [
        len(prompt.context) - len(parts) // 2 for prompt, parts in zip(prompts, pieces, strict=True)
    ]
    return [_trim(*row) for row in zip(prompts, frames.cpu().numpy(), left_out, strict=True)]


def generate(
    model: "CsmModel",
    contexts: Sequence[Tensor],
    choose: Choose,
    max_frames: int,
    *,
    before_frame: Callable[[], None] = lambda: None,
    capture: Capture | None = None,
) -> Tensor:
    """Generate frames [B, T, K] after embedded contexts ([P_i, D] each).

    A row continues after its EOS frame until all rows have ended, and some frames beyond. `choose`
    gets the logits of each codebook of each frame in turn. With `capture` it must be a function of
    these, and of memory that `before_frame` fills. Callers disable gradients.
    """
    longest = max(len(c) for c in contexts)
    max_frames = min(max_frames, MAX_POSITIONS - longest)
    if max_frames < 1:
        raise PromptError(
            f"a prompt of {longest} positions leaves no room within the model's {MAX_POSITIONS};"
            " shorten its text"
        )
    dtype = _cache_dtype(model)
    backbone = CachedTransformer(
        model.backbone, batch_size=len(contexts), capacity=longest + max_frames, dtype=dtype
    )
    decode: Step = _DepthDecoder(model, len(contexts), dtype, choose)
    if capture is not None and max_frames >= MIN_STEPS:
        decode = Captured(decode, capture)
    inputs, padding = _pad(contexts)
    slots = torch.arange(longest + max_frames, device=model.device)
    is_real, is_padded = slots >= padding, any(len(c) < longest for c in contexts)
    # Positions of RoPE count from 0 at each prompt's first real slot, as without padding. A padded
    # slot attends only to itself: a row of the mask without any entry would give NaN.
    positions, mask = (slots[:longest] - padding).clamp(min=0), None
    if is_padded:
        causal = slots[:longest] <= slots[:longest, None]
        itself = torch.eye(longest, dtype=torch.bool, device=model.device)
        mask = causal & (is_real[:, None, None, :longest] | itself)
    finished = torch.zeros(len(contexts), dtype=torch.bool, device=model.device)
    frames: list[Tensor] = []
    while len(frames) < max_frames:
        hidden = backbone(inputs, positions=positions, mask=mask)[:, -1]
        before_frame()
        frame = decode(hidden)
        frames.append(frame)
        finished |= (frame == 0).all(dim=1)
        # The host waits for the device here, and only here.
        if len(frames) % FRAMES_PER_CHECK == 0 and bool(finished.all()):
            break
        # From the second frame on, the input is the last frame alone; the caches hold the rest.
        inputs = model.embed_codes(frame).sum(1, keepdim=True)
        slot = longest + len(frames) - 1
        positions = slot - padding
        mask = is_real[:, None, None, : slot + 1] if is_padded else None
    return torch.stack(frames, dim=1)


def _pad(contexts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the contexts as one batch [B, P, D], and how many slots of each are padding, [B, 1].

    Padding is on the left, so that new frames directly follow every prompt.
    """
    longest = max(len(c) for c in contexts)
    inputs = [torch.cat([c.new_zeros(longest - len(c), c.shape[1]), c]) for c in contexts]
    padding = [[longest - len(c)] for c in contexts]
    return torch.stack(inputs), torch.tensor(padding, device=contexts[0].device)


def _embed_prompt(
    model: "CsmModel", prompt: Prompt, encoder: "CsmEncoder", max_frames: int
) -> list[Tensor]:
    """Embed the turns that fit, oldest first, as text and frames each, then the text; [*, D]."""
    # Newest first: when positions run out, the oldest turns are those left out.
    pieces = [_embed_text(model, encoder, prompt)]
    room = MAX_POSITIONS - max_frames - len(pieces[0])
    for turn in reversed(prompt.context):
        text = _embed_text(model, encoder, turn)
        codes = torch.from_numpy(turn.arrays["codes"].astype(np.int64)).to(model.device)
        with_eos = torch.cat([codes, torch.zeros_like(codes[:1])])
        frames = model.embed_codes(with_eos).sum(1)
        room -= len(text) + len(frames)
        if room < 0:
            break
        pieces[:0] = [text, frames]
    return pieces


def _embed_text(model: "CsmModel", encoder: "CsmEncoder", said: Prompt | Turn) -> Tensor:
    tokens = encoder.encode_words(said.text, said.speaker, said.tags).astype(np.int64)
    return model.text_embeddings(torch.from_numpy(tokens).to(model.device))


class _DepthDecoder:
    """Makes a frame of codes, codebook by codebook; can be captured.

    Weights are cast once, to the `dtype` of products.
    """

    def __init__(
        self, model: "CsmModel", num_prompts: int, dtype: torch.dtype, choose: Choose
    ) -> None:
        self._num_codebooks, self._vocab = model.size.num_codebooks, model.size.audio_vocab_size
        self._transformer = CachedTransformer(
            model.decoder, batch_size=num_prompts, capacity=self._num_codebooks, dtype=dtype
        )
        self._embeddings = model.audio_embeddings
        self._project = projection([model.projection], dtype)
        self._first_head = projection([model.codebook0_head], dtype)
        self._heads = model.audio_head.detach().to(dtype)
        self._choose = choose

    def __call__(self, hidden: Tensor) -> Tensor:
        """Backbone state [B, D] -> codes [B, K]."""
        # The decoder's sequence is one frame. Slot 0 holds the backbone's state and slot k code
        # k - 1; the first pass takes slots 0 and 1 together.
        self._transformer.forget()
        code = self._choose(self._first_head(hidden), 0)
        codes, inputs = [code], hidden[:, None]
        for k in range(1, self._num_codebooks):
            embedded = self._embeddings(code + (k - 1) * self._vocab)[:, None]
            inputs = torch.cat([inputs, embedded], dim=1) if k == 1 else embedded
            output = self._transformer(self._project(inputs))[:, -1]
            code = self._choose(output @ self._heads[k - 1], k)
            codes.append(code)
        return torch.stack(codes, dim=1)


class _Draws:
    """Samples codes with one generator per prompt, so the batch does not affect a sample."""

    def __init__(
        self, model: "CsmModel", prompts: Sequence[Prompt], options: SamplingOptions
    ) -> None:
        self.options = options
        self._generators = [
            torch.Generator().manual_seed(_seed(options.seed, prompt.id)) for prompt in prompts
        ]
        shape = len(prompts), model.size.num_codebooks, model.size.audio_vocab_size
        self._noise = torch.empty(shape, device=model.device)

    def draw_noise(self) -> None:
        """Draw the noise of a frame: on the CPU, so a seed gives the same on every device."""
        if self.options.temperature == 0:
            return
        # From pinned memory it is copied while the host goes on.
        drawn = torch.empty(self._noise.shape, pin_memory=self._noise.is_cuda)
        for row, generator in zip(drawn, self._generators, strict=True):
            row.exponential_(generator=generator)
        self._noise.copy_(drawn, non_blocking=True)

    def __call__(self, logits: Tensor, codebook: int) -> Tensor:
        """Return one code per row, [B], drawn from the logits of a codebook, [B, V]."""
        logits, options = logits.float(), self.options
        if options.temperature == 0:
            return logits.argmax(dim=-1)
        logits = logits / options.temperature
        if 0 < options.topk < logits.shape[-1]:
            floor = logits.topk(options.topk, dim=-1).values[..., -1:]
            logits = logits.masked_fill(logits < floor, float("-inf"))
        # argmax(p / Exp(1)), the exponential race, is a draw from p.
        return (logits.softmax(dim=-1) / self._noise[:, codebook]).argmax(dim=-1)


def _cache_dtype(model: "CsmModel") -> torch.dtype:
    kind = model.device.type
    return (
        torch.get_autocast_dtype(kind)
        if torch.is_autocast_enabled(kind)
        else model.audio_head.dtype
    )


def _seed(seed: int, prompt_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{prompt_id}".encode(), digest_size=7).digest())


def _trim(prompt: Prompt, codes: np.ndarray, turns_left_out: int) -> Sample:
    """Cut frames [T, K] before the first EOS frame."""
    ends = np.flatnonzero((codes == 0).all(axis=1))
    end = int(ends[0]) if len(ends) else len(codes)
    return Sample(
        prompt,
        {"codes": codes[:end].astype(np.uint16)},
        is_complete=len(ends) > 0,
        turns_left_out=turns_left_out,
    )
