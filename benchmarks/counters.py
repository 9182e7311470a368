"""Counts of what a computation asks of the processor: operations, bytes, values read by the host.

A GPU would be given one kernel or more for each operation. Views and allocations are none; matrix
products and attentions are counted apart, as they are bound by arithmetic, and all others by the
bytes that they move.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "convolution", "convolution_backward")
ATTENTION = "scaled_dot_product"
HOST_READS = ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal", "_unique2")
NO_WORK = ("detach", "lift_fresh", "_unsafe_view", "is_same_size", "empty", "empty_like")
NO_WORK = (*NO_WORK, "empty_strided", "new_empty", "new_empty_strided", "_reshape_alias")


class Operations(TorchDispatchMode):
    """Counts the operations of a block, and the bytes of tensors that they read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.products: Counter[str] = Counter()
        self.others: Counter[str] = Counter()
        self.host_reads = 0
        self.other_bytes = 0  # read and written by those that are no products

    @property
    def num_products(self) -> int:
        """Matrix products and attentions."""
        return self.products.total()

    @property
    def num_others(self) -> int:
        """All other operations that do some work."""
        return self.others.total()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and count it."""
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in HOST_READS:
            self.host_reads += 1
        elif name in PRODUCTS or ATTENTION in name:
            self.products[name] += 1
        elif func.namespace == "aten" and name not in NO_WORK and not _is_view(func):
            self.others[name] += 1
            written = _num_bytes(result) or _num_bytes(_changed(func, args, kwargs or {}))
            self.other_bytes += _num_bytes((args, _read(func, kwargs or {}))) + written
        return result


@contextmanager
def kept_for_backward(model: nn.Module) -> Iterator[dict[int, int]]:
    """Collect the bytes that autograd keeps in the block, by storage; weights are not counted."""
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, int] = {}
    held: list[Tensor] = []  # so that no storage is freed and counted as another one

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
            held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


def _is_view(func: Any) -> bool:
    """Tell whether an operation returns a part of its input without writing to it."""
    returns = func._schema.returns
    aliases = [value.alias_info for value in returns]
    return any(alias is not None and not alias.is_write for alias in aliases)


def _changed(func: Any, args: Any, kwargs: Mapping[str, Any]) -> list[Any]:
    """Return the arguments that an operation writes to."""
    named = zip(func._schema.arguments, args, strict=False)
    changed = [(a.name, value) for a, value in named if a.alias_info and a.alias_info.is_write]
    # The fused optimisers write to gradients only with a grad_scale.
    writes_grads = kwargs.get("grad_scale") is not None
    return [value for name, value in changed if name != "grads" or writes_grads]


def _read(func: Any, kwargs: Mapping[str, Any]) -> list[Any]:
    """Return the named arguments that an operation reads: not those that its result is put in."""
    results = {value.name for value in func._schema.arguments if value.is_out}
    return [value for name, value in kwargs.items() if name not in results]


def _num_bytes(values: Any) -> int:
    tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
