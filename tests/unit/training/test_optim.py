"""Which weights are trained, how fast, and with how much decay."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from schedulefree import AdamWScheduleFree

from csm_ft.families.csm.config import CsmConfig
from csm_ft.families.csm.family import CsmFamily
from csm_ft.families.csm.model import CsmModel
from csm_ft.runs.averaging import update_average
from csm_ft.training.optim import (
    ScheduleFree,
    averaged,
    build_optimizer,
    choose_parameters,
    set_learning_rate,
)
from tests.conftest import ROOT
from tests.helpers.splits import make_model


def prepare(**options: Any) -> tuple[CsmModel, torch.optim.Optimizer]:
    model, config = make_model(), CsmConfig.model_validate(options)
    choose_parameters(model, CsmFamily(), config)
    return model, build_optimizer(model, CsmFamily(), config)


def of_group(model: CsmModel, optimizer: torch.optim.Optimizer, key: str) -> dict[str, float]:
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


def take_steps(
    optimizer: torch.optim.Optimizer, parameters: list[torch.Tensor], rounds: int
) -> None:
    for number in range(rounds):
        for place, parameter in enumerate(parameters):
            random = torch.Generator().manual_seed(10 * number + place)
            parameter.grad = torch.randn(parameter.shape, generator=random)
        optimizer.step()
        update_average(optimizer)


AVERAGING: list[dict[str, Any]] = [
    {"optimizer": "schedulefree"},
    {"ema_decay": 0.9},
    {"ema_decay": 0.9, "method": "lora", "lora_rank": 2},
    {"ema_decay": 0.9, "optimizer": "adamw8bit"},
]


def test_average_is_exponential() -> None:
    """As by the formula: a = decay * a + (1 - decay) * w, from the weights of the first step."""
    model, optimizer = prepare(ema_decay=0.9)
    parameters = list(model.parameters())
    take_steps(optimizer, parameters, 1)
    expected = [p.detach().clone() for p in parameters]
    for number in range(4):
        take_steps(optimizer, parameters, 1)
        expected = [0.9 * a + 0.1 * p.detach() for a, p in zip(expected, parameters, strict=True)]
        with averaged(optimizer):
            for found, wanted in zip(parameters, expected, strict=True):
                torch.testing.assert_close(found.detach(), wanted, msg=f"step {number}")


def test_only_adapters_are_averaged() -> None:
    model, optimizer = prepare(ema_decay=0.9, method="lora", lora_rank=2)
    trained = [p for p in model.parameters() if p.requires_grad]
    take_steps(optimizer, trained, 2)
    kept = [state["average"] for state in optimizer.state.values()]
    assert [a.shape for a in kept] == [p.shape for p in trained]
    assert len(trained) < len(list(model.parameters()))


@pytest.mark.parametrize(
    "options",
    [{"optimizer": "schedulefree"}, {"dtype": "bf16_pure"}],
    ids=str,
)
def test_average_is_refused_where_it_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"ema_decay 0\.9"):
        CsmConfig(ema_decay=0.9, **options)


def test_schedulefree_steps_and_averages_as_the_library() -> None:
    ours = [torch.nn.Parameter(torch.ones(5, 3)), torch.nn.Parameter(torch.ones(4))]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    options: dict[str, Any] = {"lr": 0.1, "betas": (0.9, 0.95), "weight_decay": 0.01}
    optimizer, library = ScheduleFree(ours, **options), AdamWScheduleFree(theirs, **options)
    library.train()
    take_steps(optimizer, ours, 5)
    take_steps(library, theirs, 5)
    assert all(map(torch.equal, ours, theirs))
    library.eval()
    with averaged(optimizer):
        assert all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize("options", AVERAGING, ids=str)
def test_averaged_weights_leave_the_trained_ones_bit_for_bit(options: dict[str, Any]) -> None:
    model, optimizer = prepare(**options)
    trained = [p for p in model.parameters() if p.requires_grad]
    take_steps(optimizer, trained, 3)
    before = [p.detach().clone() for p in trained]
    for _ in range(20):
        with averaged(optimizer):
            inside = [p.detach().clone() for p in trained]
    assert all(map(torch.equal, trained, before))
    assert not any(map(torch.equal, inside, before))


def test_averaged_weights_come_back_after_an_error() -> None:
    model, optimizer = prepare(optimizer="schedulefree")
    take_steps(optimizer, list(model.parameters()), 1)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(ValueError, match="stop"), averaged(optimizer):
        raise ValueError("stop")
    assert all(map(torch.equal, model.parameters(), before))
    take_steps(optimizer, list(model.parameters()), 1)  # in training mode again


def test_schedulefree_needs_a_first_beta() -> None:
    with pytest.raises(ValueError, match="adam_beta1, which is 0"):
        CsmConfig(optimizer="schedulefree", adam_beta1=0)


def test_training_does_not_import_torch_compile() -> None:
    """It takes two seconds of every run, and of every worker of a sweep."""
    code = """
import sys, torch
from csm_ft.device import reproducible
from csm_ft.families.csm.config import CsmConfig
from csm_ft.families.csm.family import CsmFamily
from csm_ft.training.launch import open_ranks
from csm_ft.training.optim import build_optimizer
from csm_ft.training.setup import open_setup, uncompiled
from tests.helpers.splits import make_model

with reproducible("cpu", 1, 0), uncompiled():
    for name in ("adamw", "schedulefree"):
        model = make_model()
        optimizer = build_optimizer(model, CsmFamily(), CsmConfig(optimizer=name))
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
        optimizer.zero_grad()
print([name for name in ("torch._dynamo", "torch.distributed.fsdp") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
