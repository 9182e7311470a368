"""Moonshine weights for other programs. An exporter imports torch, this does not."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from csm_ft.families.exporter import Exporter

_CLASSES = {
    "transformers": ("transformers", "TransformersExporter"),
    "onnx": ("onnx", "OnnxExporter"),
    "moonshine-voice": ("voice", "VoiceExporter"),
}


class _Exporters(Mapping[str, "type[Exporter]"]):
    """The exporters by --format; one is imported when it is looked up."""

    def __getitem__(self, name: str) -> "type[Exporter]":
        module, class_ = _CLASSES[name]
        return getattr(import_module(f"{__name__}.{module}"), class_)

    def __iter__(self) -> Iterator[str]:
        return iter(_CLASSES)

    def __len__(self) -> int:
        return len(_CLASSES)


EXPORTERS: Mapping[str, "type[Exporter]"] = _Exporters()
