"""Moonshine weights for transformers. An exporter imports torch, this does not."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from csm_ft.families.base import Exporter


class _Exporters(Mapping[str, "type[Exporter]"]):
    """The exporters by --format; one is imported when it is looked up."""

    def __getitem__(self, name: str) -> "type[Exporter]":
        if name != "transformers":
            raise KeyError(name)
        from csm_ft.families.moonshine.export.transformers import TransformersExporter

        return TransformersExporter

    def __iter__(self) -> Iterator[str]:
        return iter(("transformers",))

    def __len__(self) -> int:
        return 1


EXPORTERS: Mapping[str, "type[Exporter]"] = _Exporters()
