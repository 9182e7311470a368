"""Moonshine weights for other programs. An exporter imports torch, this does not."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from csm_ft.families.exporter import Exporter

_CLASSES = {"transformers": "TransformersExporter", "onnx": "OnnxExporter"}


class _Exporters(Mapping[str, "type[Exporter]"]):
    """The exporters by --format; one is imported when it is looked up."""

    def __getitem__(self, name: str) -> "type[Exporter]":
        return getattr(import_module(f"{__name__}.{name}"), _CLASSES[name])

    def __iter__(self) -> Iterator[str]:
        return iter(_CLASSES)

    def __len__(self) -> int:
        return len(_CLASSES)


EXPORTERS: Mapping[str, "type[Exporter]"] = _Exporters()
