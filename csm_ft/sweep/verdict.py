"""What the sweep found, in words that say how sure one can be."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from csm_ft.sweep.study import TrialRecord

Clips = Mapping[
    str, tuple[float, int]
]  # clip id -> (nats, frames) of one model on one validation clip
TIE_BELOW = 2.0  # standard errors


@dataclass(frozen=True)
class Comparison:
    """How much lower the second model's loss is than the first's, in nats per frame."""

    gain: float
    standard_error: float | None  # over validation clips; None with fewer than two

    @property
    def is_tie(self) -> bool:
        """Whether the difference may be an accident of which clips were validated on."""
        return self.standard_error is None or abs(self.gain) < TIE_BELOW * self.standard_error


@dataclass(frozen=True)
class Verdict:
    """The `verdict` of summary.json."""

    text: str
    tie: bool
    gain_over_default: float | None
    standard_error: float | None


def compare(first: Clips, second: Clips) -> Comparison:
    """Compare two models clip by clip; ValueError if they were not validated on the same clips.

    The gain is a ratio of sums R = sum(d) / sum(n), d = difference in nats and n = frames of a
    clip. Its standard error is that of the ratio estimator (Cochran, Sampling Techniques, 3rd ed.,
    eq. 2.47): sqrt(c/(c-1) * sum((d - R n)^2)) / sum(n) over c clips.
    """
    if first.keys() != second.keys():
        raise ValueError(
            f"validated on different clips: {len(first.keys() ^ second.keys())} are in one of the"
            " two only"
        )
    ids = sorted(first)
    frames = np.array([first[i][1] for i in ids], dtype=np.float64)
    differences = np.array([first[i][0] - second[i][0] for i in ids])
    gain = float(differences.sum() / frames.sum())
    if len(ids) < 2:
        return Comparison(gain, None)
    residuals = differences - gain * frames
    return Comparison(
        gain, float(math.sqrt(len(ids) / (len(ids) - 1) * (residuals**2).sum()) / frames.sum())
    )


def read_clips(path: Path) -> dict[str, tuple[float, int]] | None:
    """Read val_clips.json of a run, or None if it has none."""
    if not path.is_file():
        return None
    return {
        id_: (float(nats), int(frames))
        for id_, (nats, frames) in json.loads(path.read_text(encoding="utf-8")).items()
    }


def judge(
    best: TrialRecord | None,
    default: TrialRecord | None,
    baseline: float | None,
    clips: Mapping[int, Clips | None],
) -> Verdict | None:
    """Say how the best trial compares with the default one, and that with the untrained model.

    None while nothing has completed.
    """
    if best is None or best.value is None:
        return None
    sentences = []
    comparison = None
    if default is None or default.state != "completed" or default.value is None:
        state = (
            "has not ended"
            if default is None or not default.has_ended
            else f"ended as {default.state}"
        )
        sentences.append(
            f"Trial {best.number} is the best ({best.value:.3f} nats per frame); the default (trial"
            f" 0) {state}: no comparison."
        )
    elif best.number == default.number:
        sentences.append(
            f"No trial beats the default (trial 0, {default.value:.3f} nats per frame)."
        )
    else:
        first, second = clips.get(default.number), clips.get(best.number)
        if first and second and first.keys() == second.keys():
            comparison = compare(first, second)
        else:
            comparison = Comparison(default.value - best.value, None)
        sentences.append(_against_default(best, comparison))
    trained = default if default is not None and default.state == "completed" else best
    if baseline is not None and trained.value is not None:
        name = "The default" if trained is default else f"Trial {trained.number}"
        gain = baseline - trained.value
        sentences.append(
            f"{name} is {abs(gain):.3f} nats per frame {'better' if gain > 0 else 'WORSE'} than the"
            f" untrained model ({baseline:.3f})."
        )
    return Verdict(
        " ".join(sentences),
        tie=comparison is None or comparison.is_tie,
        gain_over_default=comparison.gain if comparison else (0.0 if best is default else None),
        standard_error=comparison.standard_error if comparison else None,
    )


def _against_default(best: TrialRecord, comparison: Comparison) -> str:
    gain = f"{comparison.gain:.3f} nats per frame"
    if comparison.standard_error is None:
        return (
            f"Trial {best.number} is {gain} below the default; too few validation clips to say"
            " whether that is more than chance."
        )
    errors = (
        f"{abs(comparison.gain) / comparison.standard_error:.1f} standard errors over the"
        " validation clips"
        if comparison.standard_error
        else "the same on every clip"
    )
    if comparison.is_tie:
        return (
            f"A tie: trial {best.number} is {gain} below the default, which is within the noise"
            f" ({errors})."
        )
    return f"Trial {best.number} beats the default by {gain} ({errors})."
