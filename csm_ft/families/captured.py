"""Steps of generation as one CUDA graph: a frame's thousands of launches become one.

The first steps are eager. Then one is captured, the next is computed both ways, and only if the
results are the same, further ones are replayed.
"""

import threading
from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor, nn

from csm_ft.console import console
from csm_ft.errors import first_line

NUM_EAGER_STEPS = 4  # a capture and its check are thought to take the time of as many
MIN_STEPS = 4 * NUM_EAGER_STEPS  # where fewer are asked for, a capture hardly repays itself
Step = Callable[[Tensor], Tensor]
Capture = Callable[[Callable[[], None]], Callable[[], None]]  # a function -> what replays it
_failures: list[str] = []  # of this process, which then does not try again


class Captured:
    """A step that is captured after some calls, and replayed from then on.

    It must not wait for the device, nor take values from the host, and what it reads and writes
    besides its argument must stay where it is in memory. All arguments have one shape.
    """

    def __init__(self, step: Step, capture: Capture) -> None:
        self._step, self._capture, self._num_calls = step, capture, 0
        self._inputs = self._outputs = torch.empty(0)
        self._replay: Callable[[], None] | None = None

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return step(inputs)."""
        self._num_calls += 1
        if self._replay is not None:
            self._inputs.copy_(inputs)
            self._replay()
            if self._num_calls > NUM_EAGER_STEPS + 1:
                return self._outputs.clone()
        outputs = self._step(inputs)
        if self._num_calls == NUM_EAGER_STEPS:
            self._try_capture(inputs, outputs)
        elif self._replay is not None and not torch.equal(self._outputs, outputs):
            self._go_on_without("it gave other codes than the same steps without it")
        return outputs

    def _try_capture(self, inputs: Tensor, outputs: Tensor) -> None:
        self._inputs, self._outputs = inputs.clone(), outputs.clone()
        try:
            self._replay = self._capture(self._run)
        except RuntimeError as error:
            # The end of a capture that an error has spoilt is an error, too.
            self._go_on_without(first_line(error.__context__ or error))

    def _run(self) -> None:
        self._outputs.copy_(self._step(self._inputs))

    def _go_on_without(self, reason: str) -> None:
        self._replay = None
        _failures.append(reason)
        console.print(
            f"Generation goes on without a CUDA graph, and takes longer: {reason}",
            style="yellow",
            markup=False,
        )


def graph_capture(model: nn.Module) -> Capture | None:
    """Return what captures steps of a model on its GPU; None where that is not possible.

    FSDP moves the weights that a graph would read. Runs in other threads of this process could ask
    for memory during a capture, which torch refuses.
    """
    device = next(model.parameters()).device
    is_sharded = hasattr(model, "unshard")
    is_beside_others = threading.current_thread() is not threading.main_thread()
    if device.type != "cuda" or is_sharded or is_beside_others or _failures:
        return None
    return partial(_capture_graph, device)


def _capture_graph(device: torch.device, function: Callable[[], None]) -> Callable[[], None]:
    """Capture a CUDA graph, whose memory is freed with the result."""
    graph = torch.cuda.CUDAGraph()
    side, current = _side_stream(device), torch.cuda.current_stream(device)
    kind = device.type
    # Weights that autocast has cast and kept may be freed before the graph.
    uncached = torch.autocast(
        kind,
        dtype=torch.get_autocast_dtype(kind),
        enabled=torch.is_autocast_enabled(kind),
        cache_enabled=False,
    )
    side.wait_stream(current)
    try:
        # Where a capture fails, torch.cuda.graph leaves its stream current. This block does not.
        with torch.cuda.stream(side), uncached:
            function()  # what libraries do at their first use cannot be captured
            with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
                function()
    finally:
        current.wait_stream(side)
    graph.replay()  # the first launch takes memory, too
    return graph.replay


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream of all captures; cuBLAS keeps memory for every stream that it has seen."""
    return torch.cuda.Stream(device)
