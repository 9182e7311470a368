"""Adapters of several runs on the same frozen weights, trained by one pass through the model.

Each run, a lane, has a model of its own, whose frozen weights share the memory of the others'. The
trunk is one more such model. Its passes take the sequences of all lanes as one batch; wherever the
lanes have an adapter, it multiplies all rows by the frozen weight at once, and the rows of each
lane by its own adapter. So a pass of K lanes needs about as many operations as one of a single run.

Shapes: K lanes, R rows of a lane, D input width, O output width, r rank.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from csm_ft.families.lora import ADAPTER_NAME, has_adapters, is_adapter
from csm_ft.families.model import Batch, Loss, SpeechModel


class Adapter(NamedTuple):
    """One adapter of one lane: adds scale * B A x."""

    a: nn.Parameter  # [r, D]
    b: nn.Parameter  # [O, r]
    scale: float


class LaneKey(NamedTuple):
    """What lanes must have in common to share a trunk."""

    base_fingerprint: str
    modules: tuple[str, ...]  # with adapters
    device: torch.device
    dtypes: tuple[torch.dtype, ...]  # of the frozen weights and of the adapters


def lane_key(model: SpeechModel) -> LaneKey | None:
    """Return what a model has in common with lanes that it can share a trunk with; None = never.

    It needs plain LoRA on linear layers, nothing else that is trained, no dropout, and no
    activation checkpointing: a block that computes again what it did is bound to its own adapters.
    """
    joins = type(model).join_batches is not SpeechModel.join_batches
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    if not joins or not has_adapters(model) or not all(is_adapter(name) for name in trained):
        return None
    layers = _adapted(model)
    is_recomputed = any("forward" in vars(module) for module in model.modules())
    if is_recomputed or not all(_is_plain(layer) for layer in layers.values()):
        return None
    weights = list(model.parameters())
    dtypes = sorted({weight.dtype for weight in weights}, key=str)
    return LaneKey(model.base_fingerprint, tuple(sorted(layers)), weights[0].device, tuple(dtypes))


def share_frozen_weights(model: SpeechModel, trunk: SpeechModel) -> None:
    """Let the frozen weights of a model be those of the trunk, and free their memory.

    They must be equal, as those of models with the same LaneKey are.
    """
    shared = dict(trunk.named_parameters())
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            parameter.data = shared[_without_adapters(name)].data


def make_trunk(model: SpeechModel) -> SpeechModel:
    """Return a model for passes of several lanes, on the frozen weights of one with adapters."""
    kept = [*model.parameters(), *model.buffers()]
    memo: dict[int, Any] = {id(tensor): tensor for tensor in kept}
    trunk = copy.deepcopy(model, memo)
    for name, layer in _adapted(trunk).items():
        owner, _, attribute = name.rpartition(".")
        setattr(trunk.get_submodule(owner), attribute, LaneLinear(layer.base_layer))
    return trunk


def joint_loss(
    trunk: SpeechModel, models: Sequence[SpeechModel], batches: Sequence[Batch]
) -> list[Loss]:
    """Return the loss of each lane's batch by its own adapters, from one pass of the trunk."""
    joined = trunk.join_batches(batches)
    lanes = [_adapted(model) for model in models]
    for name, module in trunk.named_modules():
        if isinstance(module, LaneLinear):
            module.rows = _rows_of(name, joined.rows)
            module.adapters = [_adapter(layers[name]) for layers in lanes]
    loss = trunk(joined.batch)
    sizes = [len(next(iter(batch.counts.values()))) for batch in batches]
    parts = {part: value.split(sizes) for part, value in loss.items()}
    return [{part: values[lane] for part, values in parts.items()} for lane in range(len(models))]


class LaneLinear(nn.Module):
    """A frozen linear layer with one adapter for each lane."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.rows: Sequence[int] = ()  # of the next pass, of each lane
        self.adapters: Sequence[Adapter] = ()

    def forward(self, inputs: Tensor) -> Tensor:
        """[sum of rows, ..., D] -> [sum of rows, ..., O]."""
        scales = [adapter.scale for adapter in self.adapters]
        matrices = [matrix for adapter in self.adapters for matrix in (adapter.a, adapter.b)]
        outputs: Any = _LaneProduct.apply(
            inputs, self.base.weight, self.base.bias, self.rows, scales, *matrices
        )
        return outputs


class _LaneProduct(torch.autograd.Function):
    """x W' + bias + scale_k x_k A_k' B_k' for the rows x_k of each lane k; W and bias are frozen.

    Lanes with as many rows and the same rank are computed together.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        rows: Sequence[int],
        scales: Sequence[float],
        *matrices: Tensor,
    ) -> Tensor:
        cast = _autocast(inputs)
        x, w = cast(inputs), cast(weight)
        outputs = F.linear(x, w, None if bias is None else cast(bias))
        groups, lows = _groups(x, rows, matrices), []
        for group in groups:
            a, b = _stacked(group.lanes, matrices, cast)
            low = group.take(x) @ a.transpose(1, 2)  # [K, R, r]
            low *= _scales(group.lanes, scales, low)
            lows.append(low)
            group.take(outputs).baddbmm_(low, b.transpose(1, 2))
        ctx.groups, ctx.scales, ctx.cast = groups, scales, cast
        ctx.save_for_backward(x, w, *lows, *matrices)
        ctx.dtype = inputs.dtype
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        (grad,) = grads
        x, w, *saved = ctx.saved_tensors
        lows, matrices = saved[: len(ctx.groups)], saved[len(ctx.groups) :]
        grad = grad.contiguous()
        of_x = grad @ w if ctx.needs_input_grad[0] else None
        of_matrices: list[Tensor | None] = [None] * len(matrices)
        for group, low in zip(ctx.groups, lows, strict=True):
            a, b = _stacked(group.lanes, matrices, ctx.cast)
            own = group.take(grad)  # [K, R, O]
            of_b = (own.transpose(1, 2) @ low).to(matrices[1].dtype)
            of_low = own @ b
            of_low *= _scales(group.lanes, ctx.scales, of_low)
            of_a = (of_low.transpose(1, 2) @ group.take(x)).to(matrices[0].dtype)
            if of_x is not None:
                group.take(of_x).baddbmm_(of_low, a)
            for place, lane in enumerate(group.lanes):
                of_matrices[2 * lane : 2 * lane + 2] = of_a[place], of_b[place]
        of_inputs = None if of_x is None else of_x.to(ctx.dtype)
        return of_inputs, None, None, None, None, *of_matrices


@dataclass(frozen=True)
class _Group:
    """Lanes that follow each other, have as many rows, and adapters of the same rank."""

    lanes: range
    start: int  # first row
    stop: int

    def take(self, tensor: Tensor) -> Tensor:
        """[rows of all lanes, ..., D] -> [K, R, D] of these lanes, a view."""
        rows = tensor[self.start : self.stop]
        return rows.reshape(len(self.lanes), -1, tensor.shape[-1])


def _groups(x: Tensor, rows: Sequence[int], matrices: Sequence[Tensor]) -> list[_Group]:
    assert sum(rows) == len(x), f"rows {rows} of inputs of shape {tuple(x.shape)}"
    groups: list[_Group] = []
    first = start = 0
    kinds = [(count, len(a)) for count, a in zip(rows, matrices[::2], strict=True)]
    for lane in range(1, len(rows) + 1):
        if lane == len(rows) or kinds[lane] != kinds[first]:
            stop = start + rows[first] * (lane - first)
            groups.append(_Group(range(first, lane), start, stop))
            first, start = lane, stop
    return groups


def _stacked(
    lanes: range, matrices: Sequence[Tensor], cast: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the adapters of these lanes as [K, r, D] and [K, O, r]."""
    a = torch.stack([matrices[2 * lane] for lane in lanes])
    b = torch.stack([matrices[2 * lane + 1] for lane in lanes])
    return cast(a), cast(b)


def _scales(lanes: range, scales: Sequence[float], like: Tensor) -> Tensor | float:
    own = [scales[lane] for lane in lanes]
    return own[0] if len(set(own)) == 1 else like.new_tensor(own)[:, None, None]


def _autocast(inputs: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the cast of what a product takes, for this pass and its backward pass."""
    kind = inputs.device.type
    if not torch.is_autocast_enabled(kind):
        return lambda tensor: tensor
    dtype = torch.get_autocast_dtype(kind)
    return lambda tensor: tensor.to(dtype)


def _rows_of(name: str, rows: Mapping[str, Sequence[int]]) -> Sequence[int]:
    """Return the rows of the longest beginning of a module's name that is among `rows`."""
    beginnings = [one for one in rows if name == one or name.startswith(f"{one}.")]
    assert beginnings, f"no rows are known of {name}"
    return rows[max(beginnings, key=len)]


def _adapted(model: SpeechModel) -> dict[str, Any]:
    """Return the layers of peft by their names."""
    from peft.tuners.lora import LoraLayer

    return {name: one for name, one in model.named_modules() if isinstance(one, LoraLayer)}


def _is_plain(layer: Any) -> bool:
    is_linear = type(layer.base_layer) is nn.Linear and not layer.lora_variant
    return is_linear and isinstance(layer.lora_dropout[ADAPTER_NAME], nn.Identity)


def _adapter(layer: Any) -> Adapter:
    a, b = layer.lora_A[ADAPTER_NAME].weight, layer.lora_B[ADAPTER_NAME].weight
    return Adapter(a, b, layer.scaling[ADAPTER_NAME])


def _without_adapters(name: str) -> str:
    """Return the trunk's name of a frozen weight, which peft has moved into its layer."""
    return name.replace(".base_layer.", ".base.")
