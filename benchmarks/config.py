"""Options of `python -m benchmarks`."""

from typing import Literal

from pydantic import field_validator

from benchmarks.figures import PARTS
from csm_ft.config.base import Options, option


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
    rounds: int = option(5, "Rounds of each comparison.", group="what is measured", ge=1)
    output: str = option(
        "benchmarks/results",
        "Folder of the results; the page of all of them is index.html there.",
        group="results",
        path=True,
    )

    @property
    def parts(self) -> list[str]:
        """The parts to measure, in the order in which they run."""
        wanted = self.only.replace(" ", "").split(",")
        return [part for part in PARTS if part in wanted]

    @field_validator("only")
    @classmethod
    def _known(cls, value: str) -> str:
        for word in value.replace(" ", "").split(","):
            if word not in PARTS:
                raise ValueError(f"{word!r} is none of {', '.join(PARTS)}")
        return value
