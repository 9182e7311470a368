"""Writing a module as an ONNX graph, by torch's own exporter."""

import importlib.util
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from csm_ft.errors import ConfigError
from csm_ft.families.exporter import Exportable

_LIBRARIES = ("onnx", "onnxscript", "onnxruntime")


class Graph(NamedTuple):
    """What a graph computes, by example."""

    module: nn.Module
    inputs: Mapping[str, Tensor]
    free_axes: Mapping[str, Mapping[int, Any]]  # of the inputs, those of any length
    outputs: Sequence[str]


def check_can_write(source: Exportable, format_: str) -> None:
    """Raise ConfigError without the libraries, and for weights that are not to be fp32."""
    missing = [name for name in _LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"--format {format_} needs {', '.join(missing)}; pip install -r requirements-onnx.txt"
        )
    if source.dtype != "fp32":
        raise ConfigError(
            f"--format {format_} writes fp32, not {source.dtype}; leave --dtype out, or quantise"
            " the graphs with onnxruntime"
        )


def write_graph(graph: Graph, path: Path) -> None:
    """Write one graph; the exporter's own advice on other libraries is left out."""
    inputs, axes = graph.inputs, graph.free_axes
    registry = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registry.level
    registry.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                graph.module.eval(),
                kwargs=dict(inputs),
                f=str(path),
                input_names=list(inputs),
                output_names=list(graph.outputs),
                dynamic_shapes={name: dict(axes.get(name, {})) for name in inputs},
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    finally:
        registry.setLevel(level)
