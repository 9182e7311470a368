"""What training scores is what generation assigns: the same log-probability of every code.

It is computed in three ways. Training: one teacher-forced pass over a padded batch. Generation:
frame by frame with KV caches and left padding. And the obvious slow way: no cache, no batch,
everything anew for each code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from csm_ft.errors import PromptError
from csm_ft.families.base import Prompt, SamplingOptions, Turn
from csm_ft.families.csm.config import CsmConfig
from csm_ft.families.csm.data import collate
from csm_ft.families.csm.family import CsmFamily
from csm_ft.families.csm.model import CsmModel, random_model
from csm_ft.families.csm.sample import _embed_prompt, generate
from csm_ft.families.csm.size import CsmSize, TransformerSize
from csm_ft.training.optim import choose_parameters
from tests.helpers.splits import SIZE, FakeSplit, examples_of

TOLERANCE = 1e-4
NUM_FRAMES = 5
OTHER_SIZE = CsmSize(
    TransformerSize(layers=3, heads=6, kv_heads=3, dim=48, ffn_dim=40),
    TransformerSize(layers=2, heads=4, kv_heads=4, dim=24, ffn_dim=32),
    40,
    19,
    7,
)


class Tokens:
    """An encoder that has one token per letter."""

    frame_sec = 0.1

    def encode_words(
        self, text: str, speaker: str, tags: Mapping[str, str] = MappingProxyType({})
    ) -> np.ndarray:
        return np.frombuffer(f"[{speaker}]{text}".encode(), dtype=np.uint8).astype(np.uint32) % 40


def codes_of(size: CsmSize, frames: int, seed: int) -> np.ndarray:
    return (
        np.random.default_rng(seed)
        .integers(1, size.audio_vocab_size, (frames, size.num_codebooks))
        .astype(np.uint16)
    )


def prompts_of(size: CsmSize) -> list[Prompt]:
    def turn(text: str, frames: int) -> Turn:
        return Turn(text, "b", {"codes": codes_of(size, frames, frames)})

    return [
        Prompt("0", "hi", "a"),
        Prompt("1", "a much longer sentence than the others", "a"),
        Prompt("2", "with context", "a", (turn("first", 4), turn("second one", 9))),
        Prompt("3", "x", "b", (turn("before", 2),)),
    ]


def make(size: CsmSize, method: str) -> CsmModel:
    model = random_model(size, seed=5)
    if method == "lora":
        choose_parameters(model, CsmFamily(), CsmConfig(method="lora", lora_rank=3, lora_dora=True))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def trained(model: CsmModel, prompts: Sequence[Prompt], said: np.ndarray) -> Tensor:
    """Log-probabilities [B, T, K] of the frames that were said.

    From a training batch of whole conversations; the loss is checked, too.
    """
    turns = [
        (f"c{i}", turn)
        for i, p in enumerate(prompts)
        for turn in (*p.context, Turn(p.text, p.speaker, {"codes": said[i]}))
    ]
    names = [name for name, _ in turns]
    codes = [turn.arrays["codes"] for _, turn in turns]
    text = [Tokens().encode_words(turn.text, turn.speaker) for _, turn in turns]
    split = FakeSplit(
        [len(c) for c in codes],
        [len(t) for t in text],
        conversations=names,
        turns=[names[:i].count(name) for i, name in enumerate(names)],
        codes=codes,
        text=text,
    )
    batch = collate(
        examples_of(split, loss_turns="last"), range(len(prompts)), depth_fraction=1.0, draw=None
    )
    with torch.no_grad():
        frames = model.embed_codes(batch.codes)
        hidden = model.backbone_hidden(model.embed(batch, frames.sum(1))).flatten(0, 1)[
            batch.frame_positions - 1
        ]
        logits = torch.cat(
            [model.codebook0_head(hidden)[:, None], model.depth_logits(hidden, frames)], dim=1
        )
        log_probs = logits.log_softmax(-1).gather(2, batch.codes[..., None])[..., 0]  # [N, K]
        learned = log_probs[batch.frame_weights.bool()].view(
            len(prompts), -1, log_probs.shape[1]
        )  # with the EOS frame
        loss = model(batch)
    torch.testing.assert_close(loss["c0"], -learned[..., 0].sum(1), atol=TOLERANCE, rtol=1e-6)
    torch.testing.assert_close(
        loss["depth"], -learned[..., 1:].sum((1, 2)), atol=TOLERANCE, rtol=1e-6
    )
    return learned[:, :-1]


def generated(model: CsmModel, prompts: Sequence[Prompt], said: np.ndarray) -> Tensor:
    """Log-probabilities [B, T, K] that generation assigns, made to say the given frames."""
    forced = torch.from_numpy(said.astype(np.int64))
    seen: list[Tensor] = []

    def choose(logits: Tensor, codebook: int) -> Tensor:
        code = forced[:, len(seen) // forced.shape[2], codebook]
        seen.append(logits.log_softmax(-1).gather(1, code[:, None])[:, 0])
        return code

    contexts = [torch.cat(_embed_prompt(model, p, Tokens(), NUM_FRAMES)) for p in prompts]
    assert torch.equal(generate(model, contexts, choose, forced.shape[1]), forced)
    return torch.stack(seen, dim=1).view(forced.shape)


@torch.no_grad()
def slow(model: CsmModel, prompt: Prompt, said: np.ndarray) -> Tensor:
    """The same [T, K] of one prompt, without any cache."""
    codes = torch.from_numpy(said.astype(np.int64))
    inputs = list(torch.cat(_embed_prompt(model, prompt, Tokens(), NUM_FRAMES)))
    vocab = model.size.audio_vocab_size
    rows = []
    for frame in codes:
        state = model.backbone(torch.stack(inputs)[None])[0, -1]
        row = [F.log_softmax(model.codebook0_head(state), -1)[frame[0]]]
        below = [state]
        for k in range(1, len(frame)):
            below.append(model.audio_embeddings.weight[frame[k - 1] + (k - 1) * vocab])
            output = model.decoder(model.projection(torch.stack(below))[None])[0, -1]
            row.append(F.log_softmax(output @ model.audio_head[k - 1], -1)[frame[k]])
        rows.append(torch.stack(row))
        inputs.append(
            sum(model.audio_embeddings.weight[c + k * vocab] for k, c in enumerate(frame))
        )
    return torch.stack(rows)


@pytest.mark.parametrize("size", [SIZE, OTHER_SIZE], ids=["4 codebooks", "7 codebooks"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_training_and_generation_agree_everywhere(size: CsmSize, method: str) -> None:
    model, prompts = make(size, method), prompts_of(size)
    said = np.stack([codes_of(size, NUM_FRAMES, 100 + i) for i in range(len(prompts))])
    together = trained(model, prompts, said)
    assert together.std() > 0.1, "probabilities that differ, or this test shows nothing"
    cached = generated(model, prompts, said)
    for i, prompt in enumerate(prompts):
        alone = generated(model, [prompt], said[i : i + 1])[0]
        uncached = slow(model, prompt, said[i])
        trained_alone = trained(model, [prompt], said[i : i + 1])[0]
        for name, other in (
            ("batch of 1", trained_alone),
            ("cached", cached[i]),
            ("cached, alone", alone),
            ("no cache", uncached),
        ):
            worst = (together[i] - other).abs().max(dim=0).values
            assert (worst < TOLERANCE).all(), f"prompt {i}, {name}: by codebook {worst.tolist()}"


def test_context_that_fits_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns that do not fit are left out, oldest first and whole."""
    model, prompt = make(SIZE, "full"), prompts_of(SIZE)[2]
    said = codes_of(SIZE, NUM_FRAMES, 7)[None]
    with_both = generated(model, [prompt], said)
    with_last = generated(model, [replace(prompt, context=prompt.context[1:])], said)
    with_none = generated(model, [replace(prompt, context=())], said)
    assert (with_both - with_last).abs().max() > 1e-2
    assert (with_last - with_none).abs().max() > 1e-2
    encoder: Any = Tokens()
    options = SamplingOptions(max_sec=NUM_FRAMES * encoder.frame_sec)
    last_turn = len(Tokens().encode_words("second one", "b")) + 9 + 1
    text = len(Tokens().encode_words(prompt.text, prompt.speaker))
    for positions, left_out in (
        (text + last_turn + NUM_FRAMES, 1),
        (text + last_turn + NUM_FRAMES - 1, 2),
        (2048, 0),
    ):
        monkeypatch.setattr("csm_ft.families.csm.sample.MAX_POSITIONS", positions)
        sample = model.sample([prompt], encoder, options)[0]
        fitting = replace(prompt, context=prompt.context[left_out:])
        same = model.sample([fitting], encoder, options)[0]
        assert len(sample.arrays["codes"]) == NUM_FRAMES
        assert sample.turns_left_out == left_out
        np.testing.assert_array_equal(sample.arrays["codes"], same.arrays["codes"])
    monkeypatch.setattr("csm_ft.families.csm.sample.MAX_POSITIONS", text)
    with pytest.raises(PromptError, match="leaves no room"):
        model.sample([prompt], encoder, options)
