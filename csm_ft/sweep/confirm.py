"""`--confirm 3x2`: the default and the best three run again with two more seeds each."""

import re
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Confirm:
    """How many settings, besides the default, run with how many more seeds."""

    num_settings: int
    num_seeds: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `3x2`; ValueError for anything else."""
        match = re.fullmatch(r"(\d+)x([1-9]\d*)", text.strip())
        if match is None:
            raise ValueError(
                f"{text!r} is not settings x seeds; write 3x2 for the best three with two more"
                " seeds each, or 0x2 for the default alone"
            )
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.num_settings}x{self.num_seeds}"
