"""CSM against outputs of Sesame's own code on the same weights (random, tiny)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from csm_ft.families.base import Prompt, SamplingOptions
from csm_ft.families.csm.data import CsmBatch
from csm_ft.families.csm.model import CsmModel, empty_model
from csm_ft.families.csm.sample import generate
from csm_ft.families.csm.size import PRESETS, CsmSize, TransformerSize

HERE = Path(__file__).parent
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(HERE / "golden_csm_tiny.safetensors")


@pytest.fixture(scope="module")
def model(golden: dict[str, torch.Tensor]) -> CsmModel:
    facts = json.loads((HERE / "golden_csm_tiny.json").read_text())

    def size(name: str) -> TransformerSize:
        f = facts[name]
        return TransformerSize(
            f["num_layers"],
            f["num_heads"],
            f["num_kv_heads"],
            f["embed_dim"],
            f["intermediate_dim"],
        )

    model = empty_model(
        CsmSize(
            size("backbone"),
            size("decoder"),
            facts["text_vocab_size"],
            facts["audio_vocab_size"],
            facts["audio_num_codebooks"],
        )
    )
    model.load_state_dict(
        {k.removeprefix("weights."): v for k, v in golden.items() if k.startswith("weights.")},
        assign=True,
    )
    return model


def as_batch(tokens: torch.Tensor, mask: torch.Tensor) -> CsmBatch:
    """Sesame's [B, S, K+1] rows as our micro-batch; every frame goes to the depth decoder."""
    num_sequences, width, columns = tokens.shape
    is_frame, is_text = mask[..., 0].flatten().bool(), mask[..., -1].flatten().bool()
    frame_at, text_at = is_frame.nonzero()[:, 0], is_text.nonzero()[:, 0]
    owner = frame_at // width
    counts = torch.bincount(owner, minlength=num_sequences)
    return CsmBatch(
        counts={"c0": counts, "depth": counts * (columns - 2)},
        audio_sec=0.0,
        num_positions=int(mask.any(-1).sum()),
        num_padded=num_sequences * width,
        num_sequences=num_sequences,
        max_positions=width,
        text_tokens=tokens.flatten(0, 1)[text_at, -1].long(),
        text_positions=text_at,
        codes=tokens.flatten(0, 1)[frame_at, :-1].long(),
        frame_positions=frame_at,
        frame_sequence=owner,
        frame_weights=torch.ones(len(frame_at)),
        depth_rows=torch.arange(len(frame_at)),
        depth_weights=torch.ones(len(frame_at)),
    )


def test_every_tensor_name_is_sesames(model: CsmModel, golden: dict[str, torch.Tensor]) -> None:
    assert set(model.state_dict()) == {
        k.removeprefix("weights.") for k in golden if k.startswith("weights.")
    }


def test_csm_1b_has_the_published_size() -> None:
    state = empty_model(
        CsmSize(PRESETS["llama-1B"], PRESETS["llama-100M"], 128256, 2051, 32)
    ).state_dict()
    assert len(state) == 187
    assert sum(t.numel() for t in state.values()) == 1_552_791_552


def test_activations_logits_and_losses(model: CsmModel, golden: dict[str, torch.Tensor]) -> None:
    batch = as_batch(golden["in.tokens"], golden["in.tokens_mask"])
    real = golden["in.tokens_mask"].any(-1).bool()
    with torch.no_grad():
        frames, drawn = model.embed_frames(batch.codes, torch.arange(len(batch.codes)))
        embedded = model.embed(batch, frames)
        hidden = model.backbone_hidden(embedded)
        c0 = model.codebook0_head(hidden)
        depth = model.depth_logits(hidden.flatten(0, 1)[batch.frame_positions - 1], drawn)
        loss = model(batch)
    assert (embedded - golden["out.embed_sum"])[real].abs().max() < TOLERANCE
    assert (hidden - golden["out.backbone_h"])[real].abs().max() < TOLERANCE
    assert (c0 - golden["out.c0_logits"])[real].abs().max() < TOLERANCE
    assert (depth - golden["out.dec_logits"]).abs().max() < TOLERANCE
    for part, name in (("c0", "out.c0_loss"), ("depth", "out.dec_loss")):
        assert abs(loss[part].sum() / batch.counts[part].sum() - golden[name]) < TOLERANCE


def test_greedy_frames_are_sesames(model: CsmModel, golden: dict[str, torch.Tensor]) -> None:
    prompt = golden["gen.prompt_tokens"]
    batch = as_batch(prompt, golden["gen.prompt_mask"])
    with torch.no_grad():
        context = model.embed(batch, model.embed_codes(batch.codes).sum(1))[0]
        frames = generate(model, [context], lambda logits, _: logits.argmax(-1), max_frames=6)
    np.testing.assert_array_equal(frames[0].numpy(), golden["gen.greedy_frames"].numpy())


def test_sampling_leaves_the_model_as_found(model: CsmModel) -> None:
    class Letters:
        frame_sec = 0.1

        def encode_words(self, text: str, speaker: str, tags: object) -> np.ndarray:
            return np.frombuffer((speaker + text).encode(), dtype=np.uint8).astype(np.uint32) % 96

    encoder: Any = Letters()
    names, was_training = set(model.state_dict()), model.training
    options = SamplingOptions(max_sec=0.5, temperature=0.9, topk=20, seed=3)
    prompts = [
        Prompt("a", "hello", "1"),
        Prompt("b", "a longer sentence", "1"),
        Prompt("c", "x", "1"),
    ]
    together = model.sample(prompts, encoder, options)
    assert [len(sample.arrays["codes"]) for sample in together] == [5, 5, 5]
    alone = [model.sample([prompt], encoder, options)[0] for prompt in prompts]
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_array_equal(a.arrays["codes"], b.arrays["codes"])
    assert set(model.state_dict()) == names
    assert model.training == was_training
