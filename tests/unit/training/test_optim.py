"""Which weights are trained, how fast, and with how much decay."""

from typing import Any

import pytest
import torch

from csm_ft.families.csm.config import CsmConfig
from csm_ft.families.csm.family import CsmFamily
from csm_ft.families.csm.model import CsmModel
from csm_ft.training.optim import build_optimizer, choose_parameters, set_learning_rate
from tests.helpers.splits import make_model


def prepare(**options: Any) -> tuple[CsmModel, torch.optim.AdamW]:
    model, config = make_model(), CsmConfig.model_validate(options)
    choose_parameters(model, CsmFamily(), config)
    return model, build_optimizer(model, CsmFamily(), config)


def of_group(model: CsmModel, optimizer: torch.optim.AdamW, key: str) -> dict[str, float]:
    """The value of a group's entry, per parameter."""
    values = {id(p): group[key] for group in optimizer.param_groups for p in group["params"]}
    return {name: values[id(p)] for name, p in model.named_parameters() if id(p) in values}


def test_norms_and_embeddings_are_not_decayed() -> None:
    decay = of_group(*prepare(weight_decay=0.5), "weight_decay")
    assert set(decay) == set(make_model().state_dict())
    free = {name for name, value in decay.items() if value == 0}
    assert free == {
        name
        for name in decay
        if name.endswith(".scale") or name.split(".")[0] in ("text_embeddings", "audio_embeddings")
    }
    assert {decay[name] for name in decay if name not in free} == {0.5}
    assert set(of_group(*prepare(weight_decay=0.5, decay_all=True), "weight_decay").values()) == {
        0.5
    }


def test_each_part_has_its_own_rate() -> None:
    model, optimizer = prepare(backbone_lr_factor=0.5, decoder_lr_factor=2, heads_lr_factor=0)
    set_learning_rate(optimizer, 1e-3)
    rates = of_group(model, optimizer, "lr")
    parts = {
        "backbone": 5e-4,
        "decoder": 2e-3,
        "projection": 2e-3,
        "text_embeddings": 1e-3,
        "audio_embeddings": 1e-3,
    }
    assert rates == {name: pytest.approx(parts[name.split(".")[0]]) for name in rates}
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert (
        frozen
        == {"codebook0_head.weight", "audio_head"}
        == set(make_model().state_dict()) - set(rates)
    )
