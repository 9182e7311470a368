"""What writes weights in the layout of another program: a part of the contract. No torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from csm_ft.config.train import TrainConfig
    from csm_ft.data.split import Store


@dataclass(frozen=True)
class Exportable:
    """Weights to export, and what is known of how they came to be."""

    weights: str  # a folder, a file or a hub name
    label: str  # for people
    base: str  # name of the weights that training began with; "" = random ones
    config: TrainConfig | None  # of the run; None = not known
    store: Store | None  # the token file of the run; None = not known
    dtype: Literal["fp32", "bf16"] = "fp32"


@dataclass(frozen=True)
class Proof:
    """What was compared before an export counted."""

    read_by: str  # the program that read it back
    lines: Sequence[str]  # for people and the model card
    warning: str = ""  # what to do for a better proof


class Exporter(ABC):
    """Writes weights in the layout of another program; one instance per export."""

    library: str  # that reads it, as the hub names it
    summary: str  # "weights for transformers"
    tags: Sequence[str] = ()  # on the hub
    pipeline_tag: str = ""  # the hub's name of the task

    def __init__(self, source: Exportable) -> None:
        """Check what can be checked; ConfigError if these weights have no such export."""
        self.source = source

    @property
    def base(self) -> str:
        """Name of the weights that the export is based on, or belongs to."""
        return self.source.base

    @property
    def licence(self) -> str:
        """Licence of the export, as the hub names it; "" = not chosen yet."""
        return ""

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Write the export into an empty folder."""

    @abstractmethod
    def read_back(self, folder: Path) -> Proof:
        """Let the other program read `folder` and compare; CheckError if it reads another model."""

    @abstractmethod
    def snippet(self) -> str:
        """Return Markdown that shows how to load it; THIS_FOLDER stands for its place."""
