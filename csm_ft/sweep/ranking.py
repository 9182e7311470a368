"""How well the validation loss ranks trials by what judges say: Spearman's rank correlation.

C. Spearman, "The Proof and Measurement of Association between Two Things", American Journal of
Psychology 15 (1904): the correlation of ranks, ties sharing their mean. The interval is that of the
percentile bootstrap over trials.

Shapes: n trials, B bootstrap draws.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from csm_ft.evaluate.metrics import MAIN, METRICS, cost_of, is_judged
from csm_ft.sweep.records import VAL_LOSS, Ranking, TrialRecord

MIN_TRIALS = 8
NUM_DRAWS = 2000
CONFIDENCE = 0.95


def measure_rankings(records: Sequence[TrialRecord]) -> list[Ranking]:
    """Return the correlation of val_loss with every judged number, over equally long trials.

    Less training is worse in both numbers, which would count as agreement. So they are those of
    trials that were trained to the end or, where these are fewer than eight, of the first judged
    validation of each trial. [] with fewer than eight trials, and without a number that varies.
    """
    judged, when = [r.metrics for r in records if r.state == "completed" or r.violated], ""
    if sum(is_judged(metrics) for metrics in judged) < MIN_TRIALS:
        judged = [r.first_judged for r in records if not r.has_failed]
        when = " at their first judged validation"
    found = [_measure(name, judged, when) for name in METRICS]
    return [ranking for ranking in found if ranking is not None]


def rankings_in_words(rankings: Sequence[Ranking]) -> list[str]:
    """Return the sentences, those on the main numbers first."""
    order = {name: place for place, name in enumerate(MAIN)}
    said = [ranking for ranking in rankings if ranking.text]
    return [r.text for r in sorted(said, key=lambda r: order.get(r.metric, len(order)))]


def spearman(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rank correlations [B] of the rows of two tables [B, n]; NaN for a constant row."""
    from scipy.stats import rankdata  # here: it takes half a second to import

    ranks = [rankdata(table, axis=1) for table in (one, other)]
    first, second = (rank - rank.mean(axis=1, keepdims=True) for rank in ranks)
    norm = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    unknown = np.full(len(norm), np.nan)
    return np.divide((first * second).sum(axis=1), norm, out=unknown, where=norm > 0)


def _measure(name: str, judged: Sequence[Mapping[str, float | None]], when: str) -> Ranking | None:
    both = [m for m in judged if m.get(name) is not None and m.get(VAL_LOSS) is not None]
    if len(both) < MIN_TRIALS:
        return None
    losses = np.array([m[VAL_LOSS] for m in both], dtype=float)
    costs = np.array([cost_of(name, m) for m in both], dtype=float)
    rho = float(spearman(losses[None], costs[None])[0])
    if np.isnan(rho):
        return None
    drawn = np.random.default_rng(0).integers(0, len(both), (NUM_DRAWS, len(both)))
    draws = spearman(losses[drawn], costs[drawn])
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.nanpercentile(draws, [tail, 100 - tail]).tolist()
    numbers = f"rho {rho:.2f} [{low:.2f}, {high:.2f}], {len(both)} trials{when}"
    text = _describe(name, numbers, low, high)
    return Ranking(metric=name, rho=rho, low=low, high=high, num_trials=len(both), text=text)


def _describe(name: str, numbers: str, low: float, high: float) -> str:
    """Return the sentence; "" for a number of which neither high nor low is better."""
    title = METRICS[name].title
    title = title if title.isupper() else title[0].lower() + title[1:]
    if not METRICS[name].better:
        return ""
    if low > 0:
        return f"{VAL_LOSS} ranks trials by {title} ({name}): {numbers}."
    if high < 0:
        return f"{VAL_LOSS} ranks trials the wrong way round by {title} ({name}): {numbers}."
    return f"Whether {VAL_LOSS} ranks trials by {title} ({name}) cannot be told: {numbers}."
