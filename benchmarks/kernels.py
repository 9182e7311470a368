"""Bytes that the kernels of compiled layers move, counted before a kernel is compiled.

A processor's: a GPU's compiler may join others.
"""

from contextlib import suppress
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch._functorch import config as autograd_config
from torch._inductor import config as inductor_config
from torch._inductor.graph import GraphLowering
from torch._inductor.scheduler import ExternKernelSchedulerNode

from csm_ft.device import autocast

_AUTOGRAD: Any = autograd_config
_INDUCTOR: Any = inductor_config
_SEQUENCES = 131  # a prime, which divides no size of a model


class _Counted(Exception):
    """Ends the pass of a block that is counted."""


def bytes_per_position(block: nn.Module, width: int, **options: object) -> float:
    """Count forward and backward of a block [B, S, width] -> [B, S, width] in bf16.

    Matrix products and attentions are left out, as are weights. Nothing is compiled, or computed.
    """
    counts: list[int] = []

    def count(graph: GraphLowering) -> Any:
        graph.codegen()
        for node in graph.scheduler.nodes:
            if isinstance(node, ExternKernelSchedulerNode):
                continue
            buffers = node.get_read_write_buffer_accesses(include_reads=True, include_writes=True)
            counts.extend(size for size in buffers.values() if size % _SEQUENCES == 0)
        return SimpleNamespace(__file__="", call=end)

    def end(*_: object) -> None:
        raise _Counted

    inputs = torch.empty(_SEQUENCES, 8, width, requires_grad=True)
    torch.compiler.reset()
    with (
        patch.object(GraphLowering, "_compile_to_module", count),
        _AUTOGRAD.patch(enable_autograd_cache=False, force_non_lazy_backward_lowering=True),
        _INDUCTOR.patch(fx_graph_cache=False, compile_threads=1),
        autocast("cpu", "bf16"),
        suppress(_Counted),
    ):
        torch.compile(block, dynamic=False)(inputs, **options)
    return sum(counts) / inputs[..., 0].numel()
