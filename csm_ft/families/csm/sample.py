"""Speaking with CSM: all prompts as one batch, KV-cached, seeded per prompt; a prompt sounds the same alone and in company.

Shapes: B prompts, P longest prompt in positions, C cache capacity in positions, K codebooks, V audio vocabulary, D backbone width.
"""

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torchtune.modules.common_utils import local_kv_cache

from csm_ft.families.base import Prompt, Sample, SamplingOptions
from csm_ft.families.csm.config import MAX_POSITIONS

if TYPE_CHECKING:
    from csm_ft.families.csm.model import CsmModel


@torch.no_grad()
def sample(model: "CsmModel", prompts: Sequence[Prompt], *, tokenizer: Any, options: SamplingOptions) -> list[Sample]:
    """Generate frames until each prompt's EOS frame (all zero) or `options.max_frames`; caches, mode and random state are left as found.

    Raises ValueError when a prompt leaves no room for a frame within the model's 2,048 positions.
    """
    if not prompts:
        return []
    texts = [torch.from_numpy(tokenizer.encode(p.text, p.speaker or None).astype(np.int64)).to(model.device) for p in prompts]
    generators = [torch.Generator().manual_seed(_seed(options.seed, p.id)) for p in prompts]
    was_training = model.training
    model.eval()
    try:
        frames = _generate(model, [model.text_embeddings(t) for t in texts], generators, options)
    finally:
        model.train(was_training)
    return [_trim(prompt, codes) for prompt, codes in zip(prompts, frames.cpu().numpy(), strict=True)]


def _generate(model: "CsmModel", contexts: Sequence[Tensor], generators: Sequence[torch.Generator], options: SamplingOptions) -> Tensor:
    """Embedded contexts ([P_i, D] each) -> frames [B, T, K]; rows go on after their EOS frame until all are done."""
    longest = max(len(c) for c in contexts)
    max_frames = min(options.max_frames, MAX_POSITIONS - longest)
    if max_frames < 1:
        raise ValueError(f"a prompt of {longest} positions leaves no room within the model's {MAX_POSITIONS}; shorten its text")
    num_prompts, device, num_codebooks = len(contexts), model.device, model.size.num_codebooks
    capacity = longest + max_frames
    # Left padding: new frames follow every prompt directly. Real positions count from 0; a padded position sees only itself.
    padding = torch.tensor([longest - len(c) for c in contexts], device=device)
    inputs = torch.stack([torch.cat([c.new_zeros(longest - len(c), c.shape[1]), c]) for c in contexts])
    slots = torch.arange(capacity, device=device)
    is_real = slots >= padding[:, None]
    causal = slots <= slots[:longest, None]
    mask = causal & (is_real[:, None, :] | torch.eye(longest, capacity, dtype=torch.bool, device=device))
    positions = (slots[:longest] - padding[:, None]).clamp(min=0)
    finished = torch.zeros(num_prompts, dtype=torch.bool, device=device)
    frames: list[Tensor] = []
    with ExitStack() as stack:
        for transformer, slots_needed in ((model.backbone, capacity), (model.decoder, num_codebooks)):
            caches = {"batch_size": num_prompts, "device": device, "dtype": _cache_dtype(model), "decoder_max_seq_len": slots_needed}
            stack.enter_context(local_kv_cache(transformer, **caches))
        while len(frames) < max_frames and not bool(finished.all()):
            hidden = model.backbone(inputs, mask=mask, input_pos=positions)[:, -1]
            frame = _depth(model, hidden, generators, options)
            frames.append(frame)
            finished |= (frame == 0).all(dim=1)
            inputs = model.embed_codes(frame).sum(1, keepdim=True)
            slot = longest + len(frames) - 1
            positions = (slot - padding)[:, None]
            mask = (is_real & (slots <= slot))[:, None, :]
    return torch.stack(frames, dim=1)


def _depth(model: "CsmModel", hidden: Tensor, generators: Sequence[torch.Generator], options: SamplingOptions) -> Tensor:
    """Backbone state [B, D] -> one frame of codes [B, K], codebook by codebook."""
    num_codebooks, vocab = model.size.num_codebooks, model.size.audio_vocab_size
    noise = _noise(generators, num_codebooks, vocab, options).to(hidden.device)
    slots = torch.arange(num_codebooks, device=hidden.device)
    causal = slots <= slots[:, None]
    model.decoder.reset_caches()
    code = _pick(model.codebook0_head(hidden), noise[:, 0], options)
    codes, inputs, start = [code], hidden[:, None], 0
    for k in range(1, num_codebooks):
        embedded = model.audio_embeddings(code + (k - 1) * vocab)[:, None]
        inputs = torch.cat([inputs, embedded], dim=1) if k == 1 else embedded
        steps = slots[start : k + 1]
        mask = causal[steps].expand(len(hidden), -1, -1)
        output = model.decoder(model.projection(inputs), mask=mask, input_pos=steps.expand(len(hidden), -1))[:, -1]
        code = _pick(output @ model.audio_head[k - 1], noise[:, k], options)
        codes.append(code)
        start = k + 1
    return torch.stack(codes, dim=1)


def _pick(logits: Tensor, noise: Tensor, options: SamplingOptions) -> Tensor:
    """Sample one code per row: argmax(p / Exp(1)) is a draw from p (the exponential race, as in Sesame's generator)."""
    logits = logits.float()
    if options.temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits / options.temperature
    if 0 < options.topk < logits.shape[-1]:
        floor = logits.topk(options.topk, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < floor, float("-inf"))
    return (logits.softmax(dim=-1) / noise).argmax(dim=-1)


def _noise(generators: Sequence[torch.Generator], num_codebooks: int, vocab: int, options: SamplingOptions) -> Tensor:
    if options.temperature == 0:
        return torch.ones(len(generators), num_codebooks, 1)
    return torch.stack([torch.empty(num_codebooks, vocab).exponential_(generator=g) for g in generators])


def _cache_dtype(model: "CsmModel") -> torch.dtype:
    kind = model.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else model.audio_head.dtype


def _seed(seed: int, prompt_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{prompt_id}".encode(), digest_size=7).digest())


def _trim(prompt: Prompt, codes: np.ndarray) -> Sample:
    ends = np.flatnonzero((codes == 0).all(axis=1))
    end = int(ends[0]) if len(ends) else len(codes)
    return Sample(prompt, codes[:end].astype(np.uint16), stopped_by_eos=len(ends) > 0)
