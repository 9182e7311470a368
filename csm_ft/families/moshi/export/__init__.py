"""Moshi's weights for the moshi package. An exporter imports torch, this does not."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from csm_ft.families.exporter import Exporter


class _Exporters(Mapping[str, "type[Exporter]"]):
    """The exporters by --format; one is imported when it is looked up."""

    def __getitem__(self, name: str) -> "type[Exporter]":
        match name:
            case "moshi":
                from csm_ft.families.moshi.export.merged import MergedExporter

                return MergedExporter
            case "moshi-lora":
                from csm_ft.families.moshi.export.adapters import AdapterExporter

                return AdapterExporter
            case _:
                raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(("moshi", "moshi-lora"))

    def __len__(self) -> int:
        return 2


EXPORTERS: Mapping[str, "type[Exporter]"] = _Exporters()
