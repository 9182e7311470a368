"""The optimiser: which weights are trained and how fast; AdamW, by default with fp32 weights.

Schedule-free AdamW (Defazio et al., The Road Less Scheduled, arXiv 2405.15682) takes its gradients
at weights y, and what it learns is in an average x of its steps: validation, samples and saved
weights are of x. The library turns y into x and back by interpolation, which drifts by rounding, so
that how often one validates would change the run; here y is kept and put back bit for bit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import unwrap
from typing import Any, ClassVar

import torch
from schedulefree import AdamWScheduleFree
from torch import Tensor

from csm_ft.config.train import TrainConfig
from csm_ft.families.base import Family
from csm_ft.families.lora import add_adapters, is_adapter
from csm_ft.families.model import SpeechModel
from csm_ft.families.trained_rows import split_tables
from csm_ft.runs.averaging import AVERAGE, TRAINED, exchange


class _AsWritten(torch.optim.Optimizer):
    """An optimiser without the wrappers that keep torch.compile out of its methods.

    No optimiser is compiled here, and each of them imports torch.compile, which takes a second.
    """

    add_param_group = unwrap(torch.optim.Optimizer.add_param_group)
    load_state_dict = unwrap(torch.optim.Optimizer.load_state_dict)
    state_dict = unwrap(torch.optim.Optimizer.state_dict)
    zero_grad = unwrap(torch.optim.Optimizer.zero_grad)


class AdamW(_AsWritten, torch.optim.AdamW):
    """torch's AdamW."""

    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))


class ScheduleFree(_AsWritten, AdamWScheduleFree):
    """Schedule-free AdamW whose eval() and train() change nothing."""

    # Numbers of each group that a checkpoint keeps, beside the state of the parameters.
    saved_numbers: ClassVar[tuple[str, ...]] = ("k", "weight_sum", "lr_max")

    def __init__(self, groups: Any, **options: Any) -> None:
        super().__init__(groups, **options)
        self.train()

    @torch.no_grad()
    def eval(self) -> None:
        """Put the averaged weights x in the place of y."""
        for group, parameter, state in self._stepped(is_training=True):
            state[TRAINED] = parameter.detach().clone()
            # x = y + (1 - 1 / beta1) (z - y), as y = (1 - beta1) z + beta1 x
            parameter.lerp_(state["z"], 1 - 1 / group["betas"][0])
        self._set_mode(is_training=False)

    @torch.no_grad()
    def train(self) -> None:
        """Put y back; also after a checkpoint was loaded, which holds both."""
        for _, parameter, state in self._stepped(is_training=False):
            parameter.copy_(state.pop(TRAINED))
        self._set_mode(is_training=True)

    def _stepped(self, *, is_training: bool) -> Iterator[tuple[Any, Any, dict[str, Any]]]:
        """Yield (group, parameter, its state) of all parameters that have been trained."""
        for group in self.param_groups:
            for parameter in group["params"] if group["train_mode"] == is_training else ():
                if "z" in self.state.get(parameter, {}):
                    yield group, parameter, self.state[parameter]

    def _set_mode(self, *, is_training: bool) -> None:
        for group in self.param_groups:
            group["train_mode"] = is_training


@contextmanager
def averaged(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Let the model have the weights that are evaluated and saved; the run is not changed by it."""
    if isinstance(optimizer, ScheduleFree):
        optimizer.eval()
    else:
        exchange(optimizer, AVERAGE, TRAINED)
    try:
        yield
    finally:
        if isinstance(optimizer, ScheduleFree):
            optimizer.train()
        else:
            exchange(optimizer, TRAINED, AVERAGE)


def choose_parameters(model: SpeechModel, family: Family, config: TrainConfig) -> None:
    """Freeze the weights that are not trained; with method lora, add adapters to frozen ones.

    Of embedding tables, rows that training does not read are not trained.
    """
    has_adapters = config.method == "lora"
    if has_adapters:
        add_adapters(model, family.lora_modules(config), config)
    for name, parameter in model.named_parameters():
        if has_adapters and is_adapter(name):
            continue
        rule = family.parameter(config, name)
        is_chosen = rule.beside_adapters or not has_adapters
        parameter.requires_grad_(is_chosen and rule.lr_factor > 0)
    if not has_adapters:
        split_tables(model)


def build_optimizer(
    model: SpeechModel, family: Family, config: TrainConfig
) -> torch.optim.Optimizer:
    """Return the optimiser over the trained weights, one group per learning rate and decay."""
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rule = family.parameter(config, name)
            # Vectors are scales (norms, DoRA's magnitudes), which decay would pull towards zero.
            decays = config.decay_all or (parameter.ndim > 1 and rule.decays)
            key = (rule.lr_factor, config.weight_decay if decays else 0.0)
            groups.setdefault(key, []).append(parameter)
    listed = [
        {
            "params": members,
            "weight_decay": decay,
            "lr_factor": factor,
            "ema_decay": config.ema_decay,
        }
        for (factor, decay), members in groups.items()
    ]
    betas = (config.adam_beta1, config.adam_beta2)
    options = {"lr": config.learning_rate, "betas": betas, "eps": config.adam_eps}
    if config.optimizer == "schedulefree":
        return ScheduleFree(listed, **options)
    has_bf16 = any(
        member.dtype == torch.bfloat16 for members in groups.values() for member in members
    )
    if has_bf16 or config.optimizer == "adamw8bit":
        from csm_ft.training.low_bit import RoundedAdamW, RoundedAdamW8bit

        is_8bit = config.optimizer == "adamw8bit"
        kind = RoundedAdamW8bit if is_8bit else RoundedAdamW
        return kind(listed, bf16_stochastic_round=True, **options)
    return AdamW(listed, fused=True, **options)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of all groups, each times its own factor."""
    for group in optimizer.param_groups:
        value = learning_rate * group["lr_factor"]
        if isinstance(group["lr"], Tensor):  # torchao's
            group["lr"].fill_(value)
        else:
            group["lr"] = value
