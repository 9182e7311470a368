"""CSM weights for Sesame's code and for transformers. An exporter imports torch, this does not."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from csm_ft.families.exporter import Exporter

_NAMES = ("sesame", "transformers", "merged")


class _Exporters(Mapping[str, "type[Exporter]"]):
    """The exporters by --format; one is imported when it is looked up."""

    def __getitem__(self, name: str) -> "type[Exporter]":
        match name:
            case "sesame":
                from csm_ft.families.csm.export.sesame import SesameExporter

                return SesameExporter
            case "transformers":
                from csm_ft.families.csm.export.adapter import TransformersExporter

                return TransformersExporter
            case "merged":
                from csm_ft.families.csm.export.transformers import MergedExporter

                return MergedExporter
            case _:
                raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(_NAMES)

    def __len__(self) -> int:
        return len(_NAMES)


EXPORTERS: Mapping[str, "type[Exporter]"] = _Exporters()
