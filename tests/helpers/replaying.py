"""A stand-in for CUDA graphs: records operations, and replays them on the same memory.

As of a graph, no Python runs in a replay: each operation reads the memory that it read when it was
recorded, and writes what it wrote.
"""

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.counters import HOST_READS

REFUSED = (*HOST_READS, "lift_fresh")  # the last one makes a tensor of Python's numbers


class Recording(TorchDispatchMode):
    """The operations of a block."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and record it; RuntimeError for what a graph cannot do."""
        if func.overloadpacket.__name__ in REFUSED:
            raise RuntimeError(f"{func} is not permitted when stream is capturing")
        result = func(*args, **(kwargs or {}))
        self._calls.append((func, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        """Do it all again."""
        for func, args, kwargs, result in self._calls:
            again = func(*args, **kwargs)
            for before, after in zip(_tensors(result), _tensors(again), strict=True):
                if before.data_ptr() != after.data_ptr():
                    before.copy_(after)


class Recorder:
    """Captures by recordings, which it does not keep alive."""

    def __init__(self) -> None:
        self.num_captures = self.num_replays = 0
        self.last: weakref.ref[Recording] | None = None

    def __call__(self, function: Callable[[], None]) -> Callable[[], None]:
        """Record a function; return what replays it."""
        function()
        recording = Recording()
        with recording:
            function()
        self.num_captures, self.last = self.num_captures + 1, weakref.ref(recording)

        def replay() -> None:
            self.num_replays += 1
            recording.replay()

        return replay


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
