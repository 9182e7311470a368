"""Options of `python -m benchmarks`."""

from typing import Literal, Self

from pydantic import field_validator, model_validator

from benchmarks.figures import PARTS
from csm_ft.config.base import Options, option

FULL = "full"  # the part of --full


class BenchmarkConfig(Options):
    """Options of `python -m benchmarks`."""

    only: str = option(
        ",".join(PARTS), "Parts to measure, separated by commas.", group="what is measured"
    )
    size: Literal["small", "tiny"] = option(
        "small",
        "Models that are timed: small = 90.5 M weights, tiny = a fast check of the program itself.",
        group="what is measured",
    )
    full: bool = option(
        False,
        "Measure CSM-1B itself, by the wall clock, and count its operations; nothing else.",
        group="what is measured",
    )
    device: str = option("cpu", "Device of --full: cpu, cuda or cuda:N.", group="what is measured")
    rounds: int = option(3, "Rounds of each comparison.", group="what is measured", ge=1)
    output: str = option(
        "benchmarks/results",
        "Folder of the results; the page of all of them is index.html there.",
        group="results",
        path=True,
    )

    @property
    def parts(self) -> list[str]:
        """The parts to measure, in the order in which they run."""
        if self.full:
            return ["counts", FULL]
        wanted = self.only.replace(" ", "").split(",")
        return [part for part in PARTS if part in wanted]

    @model_validator(mode="after")
    def _times_fit(self) -> Self:
        if self.device != "cpu" and not self.full:
            raise ValueError(
                f"device {self.device!r}: all but --full is measured in CPU-seconds; add --full, or"
                " leave --device out"
            )
        return self

    @field_validator("only")
    @classmethod
    def _known(cls, value: str) -> str:
        for word in value.replace(" ", "").split(","):
            if word not in PARTS:
                raise ValueError(f"{word!r} is none of {', '.join(PARTS)}")
        return value
