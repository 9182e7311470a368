"""Activation checkpointing: the same loss and gradient, bit for bit, from less memory."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from csm_ft.config.train import TrainConfig
from csm_ft.families.csm.config import CsmConfig
from csm_ft.families.csm.data import collate
from csm_ft.families.csm.family import CsmFamily
from csm_ft.families.model import Batch, SpeechModel
from csm_ft.families.moonshine import model as moonshine
from csm_ft.families.moonshine.data import collate_clips
from csm_ft.families.moonshine.size import MoonshineSize
from csm_ft.families.moshi import model as moshi
from csm_ft.families.moshi.data import Layout, make_batch
from csm_ft.families.moshi.size import MoshiSize
from csm_ft.training.optim import choose_parameters
from csm_ft.training.recompute import checkpoint_activations
from tests.golden import test_moonshine, test_moshi
from tests.helpers.splits import examples_of, make_model, make_split

Case = tuple[SpeechModel, Batch]


def csm() -> Case:
    examples = examples_of(make_split([12, 5, 30]))
    return make_model(seed=1), collate(examples, range(3), depth_fraction=0.5, draw=None)


def csm_with_adapters() -> Case:
    model, batch = csm()
    options = {"method": "lora", "lora_rank": 4, "lora_dropout": 0.3}
    choose_parameters(model, CsmFamily(), CsmConfig.model_validate(options))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero at first, so that A would have no gradient
            torch.nn.init.normal_(parameter.data, 0, 0.1)
    return model, batch


def of_moshi() -> Case:
    size = MoshiSize.from_json(test_moshi.LM_KWARGS, "golden")
    model = moshi.empty_model(size)
    moshi.init_weights(model, seed=1)
    layout = Layout(size.delays, size.num_own, size.text_padding_id, size.text_end_id)
    codes = test_moshi.GOLDEN["in.codes"].long().numpy()
    return model, make_batch([codes[0], codes[1]], layout, 12)


def of_moonshine() -> Case:
    values = {"model_type": "moonshine", **test_moonshine.CONFIG}
    model = moonshine.empty_model(MoonshineSize.from_json(values, "golden"))
    moonshine.init_weights(model, seed=1)
    random = np.random.default_rng(0)
    # Long enough for what is kept of the sound to be more than the convolutions' weights, of
    # which there are copies in another order.
    sounds = [random.integers(-9999, 9999, n).astype(np.int16) for n in (40000, 25000)]
    texts = [np.arange(4, 4 + n, dtype=np.uint32) for n in (5, 3)]
    return model, collate_clips(sounds, texts)


CASES: dict[str, Callable[[], Case]] = {
    "csm": csm,
    "csm_with_adapters": csm_with_adapters,
    "moshi": of_moshi,
    "moonshine": of_moonshine,
}


def backward(case: Callable[[], Case], mode: str) -> tuple[dict[str, Tensor], int]:
    """Losses and gradients, and the bytes that were kept for the backward pass."""
    torch.manual_seed(0)
    model, batch = case()
    checkpoint_activations(model, TrainConfig.model_validate({"activation_checkpointing": mode}))
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    torch.manual_seed(5)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model.train()(batch)
    sum(part.sum() for part in loss.values()).backward()
    found = {name: value.detach() for name, value in loss.items()}
    found |= {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return found, sum(kept.values())


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_the_same_bits(name: str) -> None:
    case = CASES[name]
    expected, _ = backward(case, "off")
    assert any(value.abs().max() > 0 for value in expected.values())
    for mode in ("selective", "full"):
        found, _ = backward(case, mode)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected), mode


@pytest.mark.parametrize("name", CASES)
def test_full_keeps_less(name: str) -> None:
    (_, everything), (_, inputs) = (backward(CASES[name], mode) for mode in ("off", "full"))
    assert inputs < 0.7 * everything


def test_nothing_is_kept_or_changed_without_gradients() -> None:
    model, batch = csm()
    with torch.no_grad():
        expected = model(batch)["c0"]
        checkpoint_activations(model, TrainConfig(activation_checkpointing="full"))
        assert torch.equal(model(batch)["c0"], expected)
    assert not any("checkpoint" in name for name in model.state_dict())
