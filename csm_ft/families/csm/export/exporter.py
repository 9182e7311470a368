"""What CSM's exporters share: the same tokens through the weights and through the other program."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from csm_ft.errors import CheckError
from csm_ft.families.csm.export import snippets
from csm_ft.families.csm.export.probe import (
    Difference,
    Logits,
    Probe,
    difference,
    logits_of,
    probes_of,
    random_probes,
)
from csm_ft.families.csm.family import EMBEDDED_BASE
from csm_ft.families.csm.model import CsmModel
from csm_ft.families.csm.size import CsmSize
from csm_ft.families.csm.weights import load_model, locate
from csm_ft.families.exporter import Exportable, Exporter, Proof

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_APACHE = ("sesame/csm-1b", str(EMBEDDED_BASE))  # licence of these bases, and so of the exports
_MIMI_IDS = 2051  # a model of so many is one of Mimi's codes
_WRONG = "the export differs from the run"
_NOTHING_KEPT = (
    "Nothing was kept; are the packages those of requirements.txt? If so, please report this"
)


@dataclass(frozen=True, kw_only=True)
class LogitsProof(Proof):
    """The logits of two programs were compared."""

    difference: Difference
    rounding: Difference | None  # what bf16 costs, against the run's own weights


class CsmExporter(Exporter):
    """Writes CSM's weights; the other program must give the same logits for the same tokens."""

    tags: Sequence[str] = ("csm", "speech")
    pipeline_tag = "text-to-speech"

    def __init__(self, source: Exportable) -> None:
        super().__init__(source)
        self.files = locate(source.weights)
        self.dtype = DTYPES[source.dtype]

    @property
    def licence(self) -> str:
        """Licence of the export, where that of its base says so; "" = not chosen."""
        names = (self.base, str(Path(self.base).resolve()))
        return "apache-2.0" if self.base and any(name in _APACHE for name in names) else ""

    @property
    def has_mimi(self) -> bool:
        """Whether the weights are for Mimi's codes."""
        if self.source.store is not None:
            return self.source.store.info.facts["codec"] == "mimi"
        return self.size.audio_vocab_size == _MIMI_IDS

    @abstractmethod
    def write_weights(self, folder: Path, model: CsmModel) -> None:
        """Write the weights in the layout of the other program."""

    @abstractmethod
    def read(self, folder: Path, probes: Sequence[Probe]) -> tuple[Logits, str]:
        """Return the logits of the other program, and its name."""

    @abstractmethod
    def code(self) -> str:
        """Show how the other program loads the weights, as Markdown."""

    def snippet(self) -> str:
        """Show how they are loaded, and how tags are written."""
        return self.code() + snippets.tags(self.source.store)

    def write(self, folder: Path) -> None:
        """Write the weights, and keep the logits that they must give."""
        model, store = load_model(self.source.weights), self.source.store
        self.size: CsmSize = model.size
        self._probes = random_probes(self.size)
        if store is not None:
            self._probes = probes_of(store.splits["val"], self.size)
        self._expected, self._rounding = logits_of(model, self._probes), None
        if self.dtype != torch.float32:
            exact = self._expected
            for parameter in model.parameters():
                parameter.data = parameter.data.to(self.dtype).float()
            self._expected = logits_of(model, self._probes)
            self._rounding = difference(exact, self._expected)
        self.write_weights(folder, model)

    def read_back(self, folder: Path) -> Proof:
        """Compare the logits; CheckError when they cannot be computed, or are others."""
        try:
            actual, read_by = self.read(folder, self._probes)
        except (RuntimeError, KeyError, TypeError, AttributeError) as error:  # of its own code
            raise CheckError(
                f"{_WRONG}: it cannot be read back ({error}). {_NOTHING_KEPT}"
            ) from error
        found = difference(self._expected, actual)
        if not found.is_same:
            raise CheckError(f"{_WRONG}: {read_by} reads other weights, {found}. {_NOTHING_KEPT}")
        lines = [f"read back by {read_by}: {found}"]
        if self._rounding is not None:
            lines.append(f"rounding the weights to bf16 costs: {self._rounding}")
        return LogitsProof(read_by, lines, difference=found, rounding=self._rounding)
