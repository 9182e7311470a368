"""How much device memory a training step takes, from a step without memory: nothing is computed.

The model and its batch are made of tensors that have shapes but no values, and every tensor that a
forward and backward pass makes is counted from when it is made until it is freed.
"""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from csm_ft.config.train import TrainConfig
from csm_ft.device import autocast
from csm_ft.families.base import Family, Term, parts_of, weighted_loss
from csm_ft.families.model import Batch, SpeechModel
from csm_ft.training.optim import choose_parameters
from csm_ft.training.precision import cast_weights
from csm_ft.training.recompute import checkpoint_activations
from csm_ft.training.sizes import sizes_of

CARDS_GB = (8, 12, 16, 24, 40, 48, 80, 141)
_RESERVED = 0.07  # of a card: the driver's context, and memory lost between blocks


@dataclass(frozen=True)
class StepMemory:
    """Bytes on the device in a training step."""

    weights: int
    gradients: int
    optimizer: int
    activations: int  # at their highest, with copies of weights in 16 bits

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.activations

    @property
    def smallest_card_gb(self) -> int | None:
        """The smallest of CARDS_GB that has room for it."""
        fitting = (card for card in CARDS_GB if self.total <= card * 2**30 * (1 - _RESERVED))
        return next(fitting, None)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that a block makes, and the most that were there at once.

    And the floating-point operations of its matrix products and attentions, as torch counts them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = self.flops = 0
        self._seen: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and count what it returns, unless that is a view."""
        before = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if is_plain(t)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if is_plain(tensor) and id(tensor.untyped_storage()) not in before:
                self._add(tensor.untyped_storage())
        if count := flop_registry.get(func._overloadpacket):
            self.flops += count(*args, **(kwargs or {}), out_val=result)
        return result

    def _add(self, storage: Any) -> None:
        key = storage._cdata
        if key not in self._seen:
            self._seen[key] = storage.nbytes()
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.live -= self._seen.pop(key)


def is_plain(value: Any) -> bool:
    """Tell whether a value is a tensor with a storage."""
    return isinstance(value, Tensor) and value.layout == torch.strided


def prepare(model: SpeechModel, family: Family, config: TrainConfig) -> None:
    """Make an empty model what it is in training."""
    choose_parameters(model, family, config)
    cast_weights(model, config)
    checkpoint_activations(model, config)


def measure_step(
    model: SpeechModel, batch: Batch, terms: Sequence[Term], config: TrainConfig
) -> StepMemory:
    """Return the memory of a step with this micro-batch, for a prepared model without values."""
    return memory_of(model, measure_pass(model, batch, terms, config), config)


def measure_pass(
    model: SpeechModel, batch: Batch, terms: Sequence[Term], config: TrainConfig
) -> LiveBytes:
    """Count a pass of a prepared model without values, which has shapes afterwards."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        _give_shapes(model)
        return _count_pass(model, batch, terms, config)


def memory_of(model: SpeechModel, counted: LiveBytes, config: TrainConfig) -> StepMemory:
    """Return the memory of a step whose pass was counted; the optimiser is that of `config`."""
    sizes = sizes_of(model, config)
    trained = [p for p in model.parameters() if p.requires_grad]
    gradients = sum(p.numel() * p.element_size() for p in trained)
    weights = sizes.memory_bytes - gradients - sizes.optimizer_bytes
    return StepMemory(weights, gradients, sizes.optimizer_bytes, counted.peak)


def sharded(found: StepMemory, model: SpeechModel, num_ranks: int) -> StepMemory:
    """Return the memory of one of several ranks of --parallel fsdp, from that of a whole model.

    Beside its shard, a rank has what lies outside of the blocks whole, the block at work and the
    next one, and the gradient of what is being reduced.
    """
    blocks = [module for module in model.modules() if isinstance(module, model.block_classes)]

    def whole(*, only_trained: bool) -> tuple[int, int]:
        """Return the bytes of the largest block, and of all that is outside of blocks."""
        sizes = [_num_bytes(block, only_trained=only_trained) for block in blocks]
        return max(sizes, default=0), _num_bytes(model, only_trained=only_trained) - sum(sizes)

    largest, outside = whole(only_trained=False)
    largest_trained, outside_trained = whole(only_trained=True)
    return replace(
        found,
        weights=found.weights // num_ranks + outside + 2 * largest,
        gradients=found.gradients // num_ranks + outside_trained + largest_trained,
        optimizer=found.optimizer // num_ranks,
    )


def _num_bytes(module: nn.Module, *, only_trained: bool) -> int:
    parameters = [p for p in module.parameters() if p.requires_grad or not only_trained]
    return sum(p.numel() * p.element_size() for p in parameters)


def peak_of_pass(
    model: SpeechModel, batch: Batch, terms: Sequence[Term], config: TrainConfig
) -> int:
    """Return the most bytes that a pass makes at once, beside weights and their gradients."""
    return _count_pass(model, batch, terms, config).peak


def _count_pass(
    model: SpeechModel, batch: Batch, terms: Sequence[Term], config: TrainConfig
) -> LiveBytes:
    """Count a forward and backward pass."""
    counts = dict.fromkeys(parts_of(terms), 1)  # their values change no size
    for parameter in model.parameters():
        if parameter.requires_grad:  # of the micro-batches before
            parameter.grad = torch.zeros_like(parameter)
    model.train()
    with LiveBytes() as live:
        with autocast("cpu", config.dtype):
            loss = model(batch)
        sums = {part: loss[part].sum() for part in counts}
        weighted_loss(terms, sums, counts).backward()
    return live


def _give_shapes(model: SpeechModel) -> None:
    """Put the parameters on a CPU; within FakeTensorMode, where they take no memory."""
    for name, parameter in list(model.named_parameters()):
        owner, _, attribute = name.rpartition(".")
        empty = torch.empty(parameter.shape, dtype=parameter.dtype)
        new = nn.Parameter(empty, requires_grad=parameter.requires_grad)
        setattr(model.get_submodule(owner), attribute, new)
    model.join_weights()
