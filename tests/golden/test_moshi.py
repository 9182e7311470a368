"""Our Moshi against outputs that the moshi package and kyutai's loss computed."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from csm_ft.families.base import parts_of, weighted_loss
from csm_ft.families.moshi.config import MoshiConfig
from csm_ft.families.moshi.data import Layout, MoshiBatch, make_batch
from csm_ft.families.moshi.family import MoshiFamily
from csm_ft.families.moshi.model import MoshiModel, empty_model
from csm_ft.families.moshi.size import MoshiSize
from csm_ft.families.moshi.weights import to_modules

FOLDER = Path(__file__).parent
GOLDEN = load_file(FOLDER / "golden_moshi_tiny.safetensors")
LM_KWARGS = json.loads((FOLDER / "golden_moshi_tiny.json").read_text())["lm_kwargs"]
REAL_FRAMES = (12, 9)


@pytest.fixture(scope="module")
def model() -> MoshiModel:
    size = MoshiSize.from_json(LM_KWARGS, "golden")
    weights = {k.removeprefix("weights."): v for k, v in GOLDEN.items() if k.startswith("weights.")}
    model = empty_model(size)
    model.load_state_dict(to_modules(weights, size), assign=True)
    return model


def batch_of(size: MoshiSize, order: tuple[int, ...] = (0, 1)) -> MoshiBatch:
    codes = GOLDEN["in.codes"].long().numpy()
    windows = [codes[row][:, : REAL_FRAMES[row]] for row in order]
    layout = Layout(size.delays, size.num_own, size.text_padding_id, size.text_end_id)
    return make_batch(windows, layout, 12)


@torch.no_grad()
def test_logits_equal_the_original(model: MoshiModel) -> None:
    text, audio = model.logits(GOLDEN["in.codes"].long())
    mask, text_mask = GOLDEN["out.mask"].bool(), GOLDEN["out.text_mask"].bool()
    torch.testing.assert_close(
        text[text_mask[:, 0]], GOLDEN["out.text_logits"][text_mask], rtol=0, atol=1e-5
    )
    torch.testing.assert_close(audio[mask], GOLDEN["out.logits"][mask], rtol=0, atol=1e-5)


def test_counts_are_those_of_the_masks(model: MoshiModel) -> None:
    counts = batch_of(model.size).counts
    mask = GOLDEN["out.mask"].bool()
    assert counts["c0"].tolist() == mask[:, 0].sum(1).tolist()
    assert counts["acoustic"].tolist() == mask[:, 1:].sum((1, 2)).tolist()
    text = counts["text"] + counts["text_padding"] + counts["text_end"]
    assert text.tolist() == GOLDEN["out.text_mask"].sum((1, 2)).tolist()


@torch.no_grad()
def test_losses_equal_the_original(model: MoshiModel) -> None:
    config = MoshiConfig(first_codebook_weight_multiplier=100, text_padding_weight=0.5)
    batch = batch_of(model.size)
    text, audio = MoshiFamily().loss_terms(config)
    nats = {part: value.sum() for part, value in model(batch).items()}
    counts = {part: float(value.sum()) for part, value in batch.counts.items()}
    for term, name in ((text, "out.text_loss"), (audio, "out.audio_loss")):
        loss = weighted_loss([term], nats, counts)
        torch.testing.assert_close(loss, GOLDEN[name][0], rtol=0, atol=1e-5)


@torch.no_grad()
def test_sequence_alone_has_the_same_loss(model: MoshiModel) -> None:
    together = model(batch_of(model.size))
    for row in (0, 1):
        alone = model(batch_of(model.size, (row,)))
        for part in parts_of(MoshiFamily().yardstick.terms):
            torch.testing.assert_close(alone[part][0], together[part][row], rtol=0, atol=1e-4)
