"""Greedy generation of frames beside the peers, for one prompt, for eight and for sixteen."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks import peers
from benchmarks.clips import SIZES
from benchmarks.config import BenchmarkConfig
from benchmarks.figures import Found, Measured, median, ratio
from benchmarks.timing import Times, interleave
from csm_ft.errors import CheckError
from csm_ft.families.csm.export import transformers
from csm_ft.families.csm.model import CsmModel, random_model
from csm_ft.families.csm.sample import generate

NUM_TOKENS = 24  # of text in each prompt
NUM_FRAMES = {"small": 4, "tiny": 3}
Generate = Callable[[Tensor, int], Tensor]  # tokens [B, L], frames -> codes [B, T, K]


def measure(config: BenchmarkConfig) -> Found:
    """Generate the same frames by all programs."""
    model = random_model(SIZES[config.size], seed=0).eval()
    with transformers.quiet():
        theirs = transformers.to_run(model)
    programs: dict[str, Generate] = {
        "ours": lambda tokens, frames: _ours(model, tokens, frames),
        "transformers": lambda tokens, frames: _transformers(theirs, tokens, frames),
    }
    num_frames, rounds = NUM_FRAMES[config.size], config.rounds
    together = _compare(programs, model, 8, num_frames, min(rounds, 3))
    if not peers.missing():
        peer = peers.public_trainer(model).eval()
        peer.setup_caches(1)
        programs["peer"] = lambda tokens, frames: _peer(peer, tokens, frames)
    alone = _compare(programs, model, 1, num_frames, rounds)
    per_clip = [sec / 8 for sec in together["ours"]]
    sixteen: Times = {}
    if "peer" in programs:
        many, one = (_prompts(model, count) for count in (16, 1))
        twice = 2 * num_frames  # in fewer, hearing sixteen prompts weighs more
        variants = {
            "ours": lambda _: _ours(model, many, twice),
            "peer": lambda _: programs["peer"](one, twice),  # warm by now
        }
        _ours(model, many, 2)
        sixteen = interleave(variants, rounds=min(rounds, 2), warm_up=False)
    return {
        **_ratio("batch1.transformers", alone, "transformers"),
        **_ratio("batch8.transformers", together, "transformers"),
        **_ratio("batch1.peer", alone, "peer"),
        **_ratio("batch16.peer", sixteen, "peer", per=16),
        "generate.batch8.clip_ratio": ratio(alone["ours"][: len(per_clip)], per_clip),
        "generate.batch1.frame_ms": median([1000 * sec / num_frames for sec in alone["ours"]]),
    }


def _compare(
    programs: Mapping[str, Generate], model: CsmModel, batch: int, frames: int, rounds: int
) -> Times:
    """Time all programs on a batch of prompts, once their codes are known to be the same.

    The codes that are compared are what warms them up.
    """
    tokens = _prompts(model, batch)
    codes = {name: program(tokens, 2) for name, program in programs.items()}
    for name, found in codes.items():
        if not torch.equal(found, codes["ours"]):
            raise CheckError(f"{name} generates other codes, so that times do not compare")
    variants = {
        name: lambda _, program=program: program(tokens, frames)
        for name, program in programs.items()
    }
    return interleave(variants, rounds=rounds, warm_up=False)


def _prompts(model: CsmModel, count: int) -> Tensor:
    """Return the tokens of random texts, [count, NUM_TOKENS]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, model.size.text_vocab_size, (count, NUM_TOKENS), generator=generator)


def _ratio(name: str, times: Times, peer: str, *, per: int = 1) -> Found:
    """Compare a peer with ours, which did the work of `per` calls of the peer at once."""
    found: Measured | str = peers.missing()
    if peer in times:
        found = ratio(times[peer], [sec / per for sec in times["ours"]])
    return {f"generate.{name}_ratio": found}


@torch.no_grad()
def _ours(model: CsmModel, tokens: Tensor, frames: int) -> Tensor:
    contexts = list(model.text_embeddings(tokens))
    return generate(model, contexts, lambda logits, _: logits.argmax(-1), frames)


def _transformers(theirs: Any, tokens: Tensor, frames: int) -> Tensor:
    greedy = {"do_sample": False, "depth_decoder_do_sample": False}
    with transformers.quiet():
        return theirs.generate(input_ids=tokens, max_new_tokens=frames, **greedy)


@torch.no_grad()
def _peer(peer: Any, tokens: Tensor, frames: int) -> Tensor:
    """Generate frame by frame as Sesame's generator does, with top-k 1."""
    num_codebooks = peer.config.audio_num_codebooks
    peer.reset_caches()
    row = torch.zeros(1, tokens.shape[1], num_codebooks + 1, dtype=torch.long)
    row[..., -1] = tokens
    mask = torch.zeros(row.shape, dtype=torch.bool)
    mask[..., -1] = True
    positions = torch.arange(tokens.shape[1])[None]
    found = list[Tensor]()
    for _ in range(frames):
        frame = peer.generate_frame(row, mask, positions, 1.0, 1)
        found.append(frame.long())
        row = torch.cat([frame.long(), torch.zeros(1, 1, dtype=torch.long)], dim=1)[:, None]
        mask = torch.ones(row.shape, dtype=torch.bool)
        mask[..., -1] = False
        positions = positions[:, -1:] + 1
    return torch.stack(found, dim=1)
