"""How often rows are drawn, so that groups are heard alike, without copies.

With share q_g of group g in the training rows and temperature T, the group is drawn with

    p_g = q_g^(1/T) / sum_h q_h^(1/T),

as languages are in multilingual models (Arivazhagan et al. 2019, arXiv:1907.05019): T = 1 leaves
the shares as they are, T towards infinity makes all groups alike. A row's weight is p_g / q_g,
scaled so that the mean over all training rows is 1.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import fmean


def weigh(groups: Sequence[Hashable], sizes: Sequence[float], temperature: float) -> list[float]:
    """Return the weight of each row; `sizes`, all above 0, is what shares are measured in.

    Of the same size, shares are those of clips; sizes in seconds make them those of hours.
    `temperature` is 1 or more; math.inf makes all groups alike.
    """
    totals: dict[Hashable, float] = defaultdict(float)
    for group, size in zip(groups, sizes, strict=True):
        totals[group] += size
    exponent = 0.0 if math.isinf(temperature) else 1 / temperature
    total = math.fsum(totals.values())
    # p_g / q_g up to a factor, which the mean takes out.
    of_group = {group: (size / total) ** (exponent - 1) for group, size in totals.items()}
    weights = [of_group[group] for group in groups]
    mean = fmean(weights)
    return [round(weight / mean, 6) for weight in weights]


@dataclass(frozen=True)
class Cap:
    """The most sound that a group may have, and the seed of what is left out."""

    hours: float
    seed: int

    def left_out(
        self, units: Sequence[str], groups: Sequence[str], durations_sec: Sequence[float]
    ) -> set[int]:
        """Return the rows to leave out; the rows of a unit, a conversation, stay together.

        Chosen in a seeded order, so that a lower cap keeps a part of what a higher one does. A unit
        counts in the group of its first row.
        """
        rows_of: dict[str, list[int]] = defaultdict(list)
        for index, unit in enumerate(units):
            rows_of[unit].append(index)
        kept_sec: dict[str, float] = defaultdict(float)
        left_out: set[int] = set()
        for unit in sorted(rows_of, key=self._rank):
            indices = rows_of[unit]
            group, unit_sec = groups[indices[0]], math.fsum(durations_sec[i] for i in indices)
            if kept_sec[group] + unit_sec <= 3600 * self.hours:
                kept_sec[group] += unit_sec
            else:
                left_out.update(indices)
        return left_out

    def _rank(self, unit: str) -> bytes:
        return hashlib.blake2b(f"{self.seed} {unit}".encode(errors="replace")).digest()
