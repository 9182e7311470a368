"""How much data? A learning curve over shares of the data, and what twice as much would bring.

The value v at a share f of the data is fitted as a power law with an offset, v = a + b * f^-c
(Hestness et al., arXiv 1712.00409; Viering and Loog, The Shape of Learning Curves, arXiv
2103.10948), by least squares over the means of each share.

Shapes: F shares, B bootstrap draws, C exponents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray

from csm_ft.sweep.records import CurvePoint, DataCurve, Objective, TrialRecord
from csm_ft.sweep.verdict import TIE_BELOW

EXPONENTS = np.geomspace(0.05, 2, 150)  # published ones lie between 0.07 and 1
MIN_SHARES = 3  # as many as the law has parameters
NUM_DRAWS = 400
LINE_POINTS = 40
SEARCHED = ("data_fraction", "seed")

Values = Mapping[float, Mapping[int, float]]  # share of the data -> seed -> value


@dataclass(frozen=True)
class PowerLaw:
    """The fitted curve; with arrays, one of each bootstrap draw."""

    offset: NDArray[np.float64]  # a
    scale: NDArray[np.float64]  # b
    exponent: NDArray[np.float64]  # c

    def at(self, share: float) -> NDArray[np.float64]:
        """Return the value at a share of the data."""
        return self.offset + self.scale * share**-self.exponent


def measure_curve(records: Sequence[TrialRecord], objective: Objective) -> DataCurve | None:
    """Return the learning curve of a sweep over nothing but shares of the data and seeds.

    None for any other sweep, and before a trial has completed.
    """
    values = _values(records)
    if not values:
        return None
    shares, seeds = sorted(values), sorted(set().union(*values.values()))
    points = [_point(share, list(values[share].values())) for share in shares]
    if len(shares) < MIN_SHARES:
        text = f"A learning curve needs {MIN_SHARES} shares of the data, and has {len(shares)}."
        return DataCurve(text=text, points=points)
    law = fit(values, [seeds])
    draws = fit(values, _resample(seeds)) if len(seeds) > 1 else None
    gain, standard_error = _gain(law, shares[-1])[0], None
    if draws is not None:
        standard_error = float(_gain(draws, shares[-1]).std())
    return DataCurve(
        text=_describe(float(gain), standard_error, len(seeds), objective),
        points=points,
        line=_line(law, draws, shares),
        gain=float(gain),
        standard_error=standard_error,
    )


def fit(values: Values, draws: Sequence[Sequence[int]]) -> PowerLaw:
    """Fit one law to the seeds of each draw, [B] laws; a seed may stand in a draw twice."""
    shares = np.array(sorted(values))
    means = np.array([[_mean(values[share], seeds) for share in shares] for seeds in draws])
    roots = np.sqrt([len(values[share]) for share in shares])  # weights of the means
    # For a given exponent the law is linear: solve for a and b, then take the best exponent.
    basis = np.stack([np.ones((len(EXPONENTS), len(shares))), shares ** -EXPONENTS[:, None]], -1)
    weighted = basis * roots[:, None]  # [C, F, 2]
    solved = np.einsum("cpf,bf->cbp", np.linalg.pinv(weighted), means * roots)  # [C, B, 2]
    residuals = np.einsum("cfp,cbp->cbf", weighted, solved) - means * roots
    best = (residuals**2).sum(-1).argmin(0)  # [B]
    offset, scale = solved[best, np.arange(len(draws))].T
    return PowerLaw(offset, scale, EXPONENTS[best])


def _values(records: Sequence[TrialRecord]) -> dict[float, dict[int, float]]:
    values: dict[float, dict[int, float]] = {}
    for record in records:
        names = set(record.params)
        if "data_fraction" not in names or not names <= set(SEARCHED):
            return {}
        if record.state == "completed" and record.value is not None:
            seed = int(record.params.get("seed", record.seed or 0))
            values.setdefault(float(record.params["data_fraction"]), {})[seed] = record.value
    return values


def _point(share: float, values: Sequence[float]) -> CurvePoint:
    spread = stdev(values) if len(values) > 1 else None
    return CurvePoint(share=share, mean=fmean(values), deviation=spread, num_seeds=len(values))


def _mean(by_seed: Mapping[int, float], seeds: Sequence[int]) -> float:
    """Average the drawn seeds; all of them where none of the drawn ones has a value."""
    drawn = [by_seed[seed] for seed in seeds if seed in by_seed]
    return fmean(drawn or by_seed.values())


def _resample(seeds: Sequence[int]) -> list[list[int]]:
    """Draw k - 1 of k seeds with replacement, the same for all shares.

    With k draws the variance would be (k - 1) / k of the true one (Rao and Wu, JASA 83, 1988). A
    seed keeps its values at all shares together, as its subsets are nested.
    """
    random = np.random.default_rng(0)
    return random.choice(np.array(seeds), (NUM_DRAWS, len(seeds) - 1)).tolist()


def _gain(law: PowerLaw, share: float) -> NDArray[np.float64]:
    """Return how much lower the value is with twice the data."""
    return law.at(share) - law.at(2 * share)


def _line(
    law: PowerLaw, draws: PowerLaw | None, shares: Sequence[float]
) -> list[tuple[float, float, float, float]]:
    """Return (share, value, low, high) from the smallest share to twice the largest."""
    line = []
    for share in np.geomspace(shares[0], 2 * shares[-1], LINE_POINTS).tolist():
        value = float(law.at(share)[0])
        error = float(draws.at(share).std()) if draws is not None else 0.0
        line.append((share, value, value - TIE_BELOW * error, value + TIE_BELOW * error))
    return line


def _describe(
    gain: float, standard_error: float | None, num_seeds: int, objective: Objective
) -> str:
    """Return the curve in a sentence."""
    less = "more" if objective.higher_is_better else "less"
    gain = objective.cost(gain)
    if standard_error is None:
        return (
            f"With twice the data expect {objective.write(gain)} {less}; how sure that is cannot be"
            " told from one seed, so run more."
        )
    words = f"{gain:.3f} ± {objective.write(standard_error)}"
    how = f"one standard error over {num_seeds} seeds, by a power law"
    if abs(gain) < TIE_BELOW * standard_error or gain == 0:
        return (
            f"Whether more data would help cannot be told: the learning curve is flat within the"
            f" noise (twice the data: {words} {less}; {how})."
        )
    if gain < 0:
        return (
            f"More data makes it worse: with twice the data expect {words} {less} ({how}). Is the"
            " data all of one kind, and is the run long enough?"
        )
    return f"With twice the data expect {words} {less} ({how})."
