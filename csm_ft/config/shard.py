"""A share of a job: `2/4` is the second of four machines."""

import re
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")
WHOLE = "1/1"


class Shard(NamedTuple):
    """Part `number` of `num_parts`, from 1."""

    number: int
    num_parts: int

    def take(self, items: Sequence[T]) -> Sequence[T]:
        """Return the items of this part: every item is in one, neighbours in different ones."""
        return items[self.number - 1 :: self.num_parts]

    @property
    def suffix(self) -> str:
        """What the names of its files end with; "" for all of the job."""
        return "" if self.num_parts == 1 else f".{self.number}-of-{self.num_parts}"


def parse_shard(text: str) -> Shard:
    """Read i/n; ValueError for anything else."""
    found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    shard = Shard(int(found[1]), int(found[2])) if found else Shard(0, 0)
    if not 1 <= shard.number <= shard.num_parts:
        raise ValueError(f"--shard {text}: give i/n with i from 1 to n, as 2/4")
    return shard
