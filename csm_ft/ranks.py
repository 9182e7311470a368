"""The processes that train one model together, as seen by one of them; here, the only one.

training/parallel.py has the same for several processes. Code that works with ranks is written once:
alone, every method below does nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor, nn

M_co = TypeVar("M_co", covariant=True)

T = TypeVar("T")


class Build(Protocol[M_co]):
    """Makes a model, empty or with its weights."""

    def __call__(self, *, is_empty: bool) -> M_co:
        """Return a new model."""
        ...


class Ranks:
    """One process alone. Every method with the word collective is called by all ranks in order."""

    rank: int = 0
    size: int = 1
    parallel: str = "off"
    shares_passes: bool = False  # with other runs of this process

    @property
    def is_writer(self) -> bool:
        """Whether this rank writes the run's folder, samples and judges; one does."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[tuple[T, bool]]:
        """Return the items of this rank, dealt in turn, and whether each is its own.

        Every rank gets equally many, as all must do the same number of passes through the model:
        the last item fills up, as nobody's own.
        """
        passes = -(-len(items) // self.size)
        places = [number * self.size + self.rank for number in range(passes)]
        last = len(items) - 1
        return [(items[min(place, last)], place <= last) for place in places]

    def build(self, build: Build[T]) -> T:
        """Return the model that `build` makes, with this rank's part of its weights; collective."""
        return build(is_empty=False)

    def sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sums over all ranks, on the CPU; collective."""
        return values

    def sum_on_device(self, values: "Tensor") -> "Tensor":
        """Return the sums over all ranks, on the device of `values`; collective."""
        return values

    def any(self, *, value: bool) -> bool:
        """Tell whether `value` is true on any rank; collective."""
        return bool(self.sum(np.array([float(value)]))[0])

    def tell(self, make: Callable[[], T]) -> T:
        """Return what the writer makes, a value of JSON; the others do not call it; collective."""
        return make()

    def whole(self, tensor: "Tensor") -> "Tensor":
        """Return a tensor that may be sharded, whole on the writer; collective.

        The other ranks get one of the same shape, without values.
        """
        return tensor

    def spread(self, whole: "Tensor | None", like: "Tensor") -> "Tensor":
        """Return this rank's part of the writer's tensor, sharded as `like` is; collective."""
        assert whole is not None, "the only rank has the tensor"
        return whole.to(like.device)

    def total_norm(self, norm: "Tensor") -> "Tensor":
        """Return the norm of a sharded gradient as a plain tensor; collective."""
        return norm

    def forward(self, model: "nn.Module", batch: Any, *, is_last: bool) -> Any:
        """Return model(batch); the backward pass of the last one of a step ends the exchange."""
        del is_last
        return model(batch)

    def watch(self, alive: T) -> T:
        """Return `alive`, which is told what a run begins, so that this rank knows of it, too."""
        return alive

    def backward(self, total: "Tensor") -> None:
        """Take the backward pass of a loss that is made of what `forward` returned."""
        total.backward()

    @contextmanager
    def gathered(self, model: "nn.Module") -> Iterator[None]:
        """Let every rank hold all weights, so that one of them may use the model; collective."""
        del model
        yield


ALONE = Ranks()
