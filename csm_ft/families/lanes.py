"""Adapters of several runs on the same frozen weights, trained by one pass through the model.

Each run, a lane, has a model of its own, whose frozen weights share the memory of the others'. The
trunk is one more such model. Its passes take the sequences of all lanes as one batch; wherever the
lanes have an adapter, it multiplies all rows by the frozen weight at once, and the rows of each
lane by its own adapter. So a pass of K lanes needs about as many operations as one of a single run.

Shapes: K lanes, N rows of all, R of the lane with most, D input width, O output width, r rank.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from csm_ft.families.lora import ADAPTER_NAME, has_adapters, is_adapter
from csm_ft.families.model import Batch, Loss, SpeechModel


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
    layers = adapted_layers(model)
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
    for name, layer in adapted_layers(trunk).items():
        owner, _, attribute = name.rpartition(".")
        setattr(trunk.get_submodule(owner), attribute, LaneLinear(layer.base_layer))
    return trunk


def joint_loss(
    trunk: SpeechModel, lanes: Sequence[Mapping[str, Any]], batches: Sequence[Batch]
) -> list[Loss]:
    """Return the loss of each lane's batch by its own adapters, from one pass of the trunk.

    `lanes` are the `adapted_layers` of each lane's model.
    """
    joined = trunk.join_batches(batches)
    kinds: dict[tuple[Sequence[int], tuple[float, ...]], LaneRows] = {}  # few, of many layers
    for name, module in trunk.named_modules():
        if isinstance(module, LaneLinear):
            layers = [layers[name] for layers in lanes]
            module.matrices = [matrix for layer in layers for matrix in _matrices(layer)]
            scales = tuple(layer.scaling[ADAPTER_NAME] for layer in layers)
            kind = (tuple(_rows_of(name, joined.rows)), scales)
            if kind not in kinds:
                kinds[kind] = LaneRows.of(*kind, module.base.weight.device)
            module.rows = kinds[kind]
    loss = trunk(joined.batch)
    sizes = [len(next(iter(batch.counts.values()))) for batch in batches]
    parts = {part: value.split(sizes) for part, value in loss.items()}
    return [{part: values[lane] for part, values in parts.items()} for lane in range(len(lanes))]


@dataclass(frozen=True)
class LaneRows:
    """Whose rows are whose, so that one product applies the adapters of all lanes.

    Lanes with fewer rows than R, those of the largest, repeat their last one, without effect.
    """

    num_lanes: int
    taken: Tensor | None  # [K * R] int64, the rows of each lane; None: each has R
    places: Tensor | None  # [N] int64, where each row is among them
    scales: Tensor  # [K, R or 1, 1, 1] fp32, 0 for a row that is repeated

    @classmethod
    def of(cls, rows: Sequence[int], scales: Sequence[float], device: torch.device) -> Self:
        """Return those of lanes with so many rows, whose adapters have these scales."""
        own = np.array(scales, dtype=np.float32)[:, None]
        counts, most = np.array(rows)[:, None], max(rows)
        assert min(rows) > 0, f"each lane has rows, not {rows}"
        if min(rows) == most:
            return cls(len(rows), None, None, _on(device, own[:, :, None, None]))
        places = np.arange(most)
        is_own = places < counts
        firsts = np.cumsum(counts)[:, None] - counts
        taken = firsts + np.minimum(places, counts - 1)
        return cls(
            len(rows),
            _on(device, taken.ravel()),
            _on(device, np.flatnonzero(is_own)),
            _on(device, (own * is_own)[:, :, None, None]),
        )

    def split(self, rows: Tensor) -> Tensor:
        """[N, ..., D] -> [K, R * ..., D]."""
        taken = rows if self.taken is None else rows.index_select(0, self.taken)
        return taken.reshape(self.num_lanes, -1, rows.shape[-1])

    def add_products_(self, to: Tensor, low: Tensor, matrices: Tensor) -> None:
        """Add [K, R * ..., r] times [K, r, O] to [N, ..., O], which lies in one piece."""
        if self.places is None:
            to.view(self.num_lanes, -1, to.shape[-1]).baddbmm_(low, matrices)
        else:
            products = (low @ matrices).view(-1, *to.shape[1:])
            to += products.index_select(0, self.places)

    def scale_(self, low: Tensor) -> Tensor:
        """Multiply [K, R * ..., r] in place."""
        low.view(self.num_lanes, self.scales.shape[1], -1, low.shape[-1]).mul_(self.scales)
        return low


class LaneLinear(nn.Module):
    """A frozen linear layer with one adapter for each lane: adds scale * B A x."""

    rows: LaneRows  # of the next pass
    matrices: Sequence[nn.Parameter] = ()  # A [r, D] and B [O, r] of each lane

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, ..., D] -> [N, ..., O]."""
        weight, bias = self.base.weight, self.base.bias
        outputs: Any = _LaneProduct.apply(inputs, weight, bias, self.rows, *self.matrices)
        return outputs


class _LaneProduct(torch.autograd.Function):
    """x W' + bias + scale_k x_k A_k' B_k' for the rows x_k of lane k; W and bias are frozen."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        rows: LaneRows,
        *matrices: Tensor,
    ) -> Tensor:
        cast = _autocast(inputs)
        x, w = cast(inputs), cast(weight)
        a, b = cast(_stacked(matrices[::2], dim=0)), cast(_stacked(matrices[1::2], dim=1))
        low = rows.scale_(rows.split(x) @ a.transpose(1, 2))  # [K, R, r]
        outputs = F.linear(x, w, None if bias is None else cast(bias))
        rows.add_products_(outputs, low, b.transpose(1, 2))
        ctx.save_for_backward(x, w, a, b, low)
        ctx.rows, ctx.dtype, ctx.ranks = rows, inputs.dtype, [len(a) for a in matrices[::2]]
        ctx.of_dtype = matrices[0].dtype
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, w, a, b, low = ctx.saved_tensors
        rows, grad = ctx.rows, grads[0].contiguous()
        own = rows.split(grad)  # [K, R, O]
        of_b = (own.transpose(1, 2) @ low).to(ctx.of_dtype)
        of_low = rows.scale_(own @ b)
        of_a = (of_low.transpose(1, 2) @ rows.split(x)).to(ctx.of_dtype)
        of_inputs = None
        if ctx.needs_input_grad[0]:
            of_inputs = grad @ w
            rows.add_products_(of_inputs, of_low, a)
            of_inputs = of_inputs.to(ctx.dtype)
        of_matrices = [
            of_one
            for lane, rank in enumerate(ctx.ranks)
            for of_one in (of_a[lane, :rank], of_b[lane, :, :rank])
        ]
        return of_inputs, None, None, None, *of_matrices


def _stacked(matrices: Sequence[Tensor], dim: int) -> Tensor:
    """Stack adapters of any ranks, `dim`, filled up with zeros: [K, r, D] or [K, O, r]."""
    rank = max(matrix.shape[dim] for matrix in matrices)
    return torch.stack([_filled(matrix, dim, rank) for matrix in matrices])


def _filled(matrix: Tensor, dim: int, rank: int) -> Tensor:
    missing = rank - matrix.shape[dim]
    sides = (0, 0, 0, missing) if dim == 0 else (0, missing)
    return F.pad(matrix, sides) if missing else matrix


def _on(device: torch.device, values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(values).to(device, non_blocking=True)


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


def adapted_layers(model: SpeechModel) -> dict[str, Any]:
    """Return the layers of peft by their names."""
    from peft.tuners.lora import LoraLayer

    return {name: one for name, one in model.named_modules() if isinstance(one, LoraLayer)}


def _is_plain(layer: Any) -> bool:
    is_linear = type(layer.base_layer) is nn.Linear and not layer.lora_variant
    return is_linear and isinstance(layer.lora_dropout[ADAPTER_NAME], nn.Identity)


def _matrices(layer: Any) -> tuple[nn.Parameter, nn.Parameter]:
    return layer.lora_A[ADAPTER_NAME].weight, layer.lora_B[ADAPTER_NAME].weight


def _without_adapters(name: str) -> str:
    """Return the trunk's name of a frozen weight, which peft has moved into its layer."""
    return name.replace(".base_layer.", ".base.")
