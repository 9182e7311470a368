"""Emotions: whether a model moves pitch, energy, rate and pauses the way that people do.

All measures are differences to the same speaker's neutral clips, in units of the spread of real
clips, so that pitch in semitones and level in dB can be added up. Words are the same for all
emotions (csm_ft/evaluate/prompts.py), so no model is credited for angry words.

Shapes: n clips, m measures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from csm_ft.evaluate.judge import EMOTION, JudgedClip

NEUTRAL = "neutral"
MEASURES = (
    *("f0_mean_st", "f0_range_st", "f0_variance_st2"),
    *("energy_mean_db", "energy_range_db", "letters_per_sec", "pause_share"),
)
_MOVED = 0.2  # spreads by which people must move a measure, so that its direction means something
_LEAST_SPREAD = 1e-3


class Moved(NamedTuple):
    """One emotion: how far from neutral, in spreads of real clips."""

    num_clips: int
    deltas: Mapping[str, float]  # measure -> mean difference to neutral


@dataclass(frozen=True)
class Expression:
    """How a model's emotions compare with those of people."""

    real: Mapping[str, Moved]
    model: Mapping[str, Moved]
    distances: Mapping[str, float]  # emotion -> root mean square of the difference, in spreads
    confusion: Mapping[str, Mapping[str, int]]  # asked for -> nearest reference -> clips
    moved_right: float | None  # share of (emotion, measure) that move as people move them
    obeyed: Mapping[str, bool]  # emotion -> whether it moves every measure as people move it
    measures: Sequence[str]  # that both sides have


def compare_expression(real: Sequence[JudgedClip], model: Sequence[JudgedClip]) -> Expression | str:
    """Compare the emotions of a model's clips with those of real clips.

    A clip that lacks a measure (nothing is voiced: no pitch) counts in the others. A str says why
    nothing can be compared.
    """
    names = [name for name in MEASURES if _has(real, name) and _has(model, name)]
    theirs, own = _deltas(real, names), _deltas(model, names)
    for who, found in (("reference clips", theirs), ("samples", own)):
        if not isinstance(found, dict):
            return f"no expression: the {who} {found}"
    assert isinstance(theirs, dict), "else returned above"
    assert isinstance(own, dict), "else returned above"
    spread = _spread(theirs)
    references = {emotion: _mean(rows) / spread for emotion, rows in theirs.items()}
    scaled = {emotion: rows / spread for emotion, rows in own.items()}
    means = {emotion: _mean(rows) for emotion, rows in scaled.items()}
    shared = [emotion for emotion in scaled if emotion in references and emotion != NEUTRAL]
    distances = {one: _rms(means[one] - references[one]) for one in shared}
    return Expression(
        {one: _moved(theirs[one], spread, names) for one in theirs},
        {one: _moved(own[one], spread, names) for one in own},
        {one: distance for one, distance in distances.items() if distance is not None},
        {one: _nearest(scaled[one], references) for one in scaled if one in references},
        _moved_right([(references[one], means[one]) for one in shared]),
        {one: _moved_right([(references[one], means[one])]) == 1 for one in shared},
        names,
    )


def expression_values(found: Expression | str) -> dict[str, float]:
    """Return the numbers that stand for all emotions; none where nothing could be compared."""
    if isinstance(found, str):
        return {}
    values: dict[str, float] = {}
    if found.moved_right is not None:
        values["moved_right"] = found.moved_right
    if found.obeyed:
        values["tags_obeyed"] = sum(found.obeyed.values()) / len(found.obeyed)
    if found.distances:
        values["expression_distance"] = sum(found.distances.values()) / len(found.distances)
    return values


def _has(clips: Sequence[JudgedClip], name: str) -> bool:
    return any(name in one.values for one in clips)


def _deltas(
    clips: Sequence[JudgedClip], names: Sequence[str]
) -> dict[str, NDArray[np.float64]] | str:
    """Return the differences to the speaker's neutral mean of each emotion's clips, [n, m].

    What a clip lacks is NaN. A str says what the clips lack.
    """
    if not names:
        return "have no measure in common"
    rows = [np.array([one.values.get(name, np.nan) for name in names]) for one in clips]
    neutral: dict[str, list[NDArray[np.float64]]] = {}
    for one, row in zip(clips, rows, strict=True):
        if one.clip.tags.get(EMOTION) == NEUTRAL:
            neutral.setdefault(one.clip.speaker, []).append(row)
    if not neutral:
        return f"have no clip tagged {NEUTRAL}"
    middle = {speaker: _mean(np.stack(own)) for speaker, own in neutral.items()}
    found: dict[str, list[NDArray[np.float64]]] = {}
    for one, row in zip(clips, rows, strict=True):
        emotion, speaker = one.clip.tags.get(EMOTION), one.clip.speaker
        if emotion and speaker in middle:
            found.setdefault(emotion, []).append(row - middle[speaker])
    if len(found) < 2:
        return f"have no other emotion than {NEUTRAL} by a speaker with neutral clips"
    return {emotion: np.stack(deltas) for emotion, deltas in sorted(found.items())}


def _mean(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of each column [n, m] -> [m] without NaNs; NaN where there is nothing."""
    known = ~np.isnan(rows)
    counts = known.sum(axis=0)
    sums = np.where(known, rows, 0.0).sum(axis=0)
    return np.where(counts, sums / np.maximum(counts, 1), np.nan)


def _spread(deltas: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the standard deviation of each measure over all real clips, [m]."""
    rows = np.concatenate(list(deltas.values()))
    return np.maximum(np.sqrt(_mean(np.square(rows - _mean(rows)))), _LEAST_SPREAD)


def _moved(deltas: NDArray[np.float64], spread: NDArray[np.float64], names: Sequence[str]) -> Moved:
    means = zip(names, (_mean(deltas) / spread).tolist(), strict=True)
    return Moved(len(deltas), {name: mean for name, mean in means if not np.isnan(mean)})


def _nearest(
    rows: NDArray[np.float64], references: Mapping[str, NDArray[np.float64]]
) -> dict[str, int]:
    """Count which reference each clip [n, m] is nearest to, by the measures that it has."""
    names = list(references)
    table = np.stack([references[name] for name in names])  # [emotions, m]
    squares = np.square(rows[:, None] - table)
    nearest = np.where(np.isnan(squares), 0.0, squares).sum(axis=2).argmin(axis=1).tolist()
    return {name: nearest.count(place) for place, name in enumerate(names)}


def _moved_right(
    pairs: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]],
) -> float | None:
    """Return the share of measures, over emotions, that move the way people move them."""
    if not pairs:
        return None
    real, own = (np.concatenate(side) for side in zip(*pairs, strict=True))
    counts = (np.abs(real) >= _MOVED) & ~np.isnan(own)
    return float(np.mean((np.sign(real) == np.sign(own))[counts])) if counts.any() else None


def _rms(values: NDArray[np.float64]) -> float | None:
    known = values[~np.isnan(values)]
    return float(np.sqrt(np.square(known).mean())) if len(known) else None
