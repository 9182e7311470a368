"""What the sweep found, in words that say how sure one can be."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from csm_ft.sweep.records import Confirmation, Objective, TrialRecord, Verdict

# {clip id: (nats, number of targets)} of one model on each validation clip.
Clips = Mapping[str, tuple[float, int]]
TIE_BELOW = 2.0  # standard errors


@dataclass(frozen=True)
class Comparison:
    """How much lower the second model's value is than the first's."""

    gain: float
    standard_error: float | None  # over validation clips; None with fewer than two

    @property
    def is_tie(self) -> bool:
        """Whether the difference may be an accident of which clips were validated on."""
        return self.standard_error is None or abs(self.gain) < TIE_BELOW * self.standard_error


@dataclass(frozen=True)
class Contest:
    """The trials that a verdict is about, and what the models scored on each validation clip."""

    best: TrialRecord | None
    default: TrialRecord | None
    baseline: float | None  # value of the untrained model
    clips: Mapping[int, Clips | None]  # by trial
    excluded: Sequence[TrialRecord] = ()  # those that violate a constraint
    least_by_seeds: float | None = None  # a smaller difference of two runs is a tie
    confirmation: Confirmation | None = None


def compare(first: Clips, second: Clips) -> Comparison:
    """Compare two models clip by clip; ValueError if they were not validated on the same clips.

    The gain is a ratio of sums R = sum(d) / sum(n), d = difference in nats and n = targets of a
    clip. Its standard error is that of the ratio estimator (Cochran, Sampling Techniques, 3rd ed.,
    eq. 2.47): sqrt(c/(c-1) * sum((d - R n)^2)) / sum(n) over c clips.
    """
    if first.keys() != second.keys():
        raise ValueError(
            f"validated on different clips: {len(first.keys() ^ second.keys())} are in one of the"
            " two only"
        )
    ids = sorted(first)
    num_clips = len(ids)
    targets = np.array([first[i][1] for i in ids], dtype=np.float64)
    # Paired: what makes a clip hard for both models cancels, so the error is that of the gain.
    differences = np.array([first[i][0] - second[i][0] for i in ids])
    gain = float(differences.sum() / targets.sum())
    if num_clips < 2:
        return Comparison(gain, None)
    # A ratio, not a mean of per-clip means: long clips weigh more, as they do in the loss itself.
    residuals = differences - gain * targets
    # c/(c-1): the residuals sum to zero by construction, which takes one degree of freedom.
    spread = num_clips / (num_clips - 1) * (residuals**2).sum()
    return Comparison(gain, float(math.sqrt(spread) / targets.sum()))


def read_clips(path: Path) -> dict[str, tuple[float, int]] | None:
    """Read val_clips.json of a run, or None if it has none."""
    if not path.is_file():
        return None
    clips = json.loads(path.read_text(encoding="utf-8"))
    return {name: (float(nats), int(targets)) for name, (nats, targets) in clips.items()}


def reach_verdict(contest: Contest, objective: Objective) -> Verdict | None:
    """Compare the best trial with the default one, and that one with the untrained model.

    None while nothing has completed.
    """
    best, default = contest.best, contest.default
    if best is None or best.value is None:
        return Verdict(text=_nothing_meets(contest.excluded)) if contest.excluded else None
    gain, standard_error, is_tie = None, None, True
    confirmed, least = contest.confirmation, contest.least_by_seeds
    if confirmed is not None and confirmed.recommended is not None:
        first = confirmed.text
        chosen = next(f for f in confirmed.finalists if f.trial == confirmed.recommended)
        gain = chosen.gain_over_default
        is_tie = gain is None or chosen.noise is None or abs(gain) <= chosen.noise
    elif default is None or default.state != "completed" or default.value is None:
        first = _no_comparison(best, best.value, default, objective)
    elif best.number == default.number:
        gain = 0.0
        first = f"No trial beats the default (trial 0, {objective.write(default.value)})."
    elif objective.is_loss:
        comparison = _compare_losses(contest, default.value - best.value)
        gain, standard_error = comparison.gain, comparison.standard_error
        is_tie = comparison.is_tie or (least is not None and abs(gain) <= least)
        first = _loss_against_default(best, comparison, objective)
        if least is not None and is_tie and not comparison.is_tie:
            first = _tie_by_seeds(best, gain, least, objective)
    else:
        gain = objective.cost(default.value) - objective.cost(best.value)
        is_tie = gain <= (least or 0)
        first = _metric_against_default(best, gain, least, objective)
    sentences = [first, *_against_untrained(contest, objective), *_excluded(contest.excluded)]
    return Verdict(
        text=" ".join(sentences),
        tie=is_tie,
        gain_over_default=gain,
        standard_error=standard_error,
    )


def _compare_losses(contest: Contest, gain: float) -> Comparison:
    """Compare the default with the best trial clip by clip where that is possible."""
    assert contest.default is not None
    assert contest.best is not None
    first = contest.clips.get(contest.default.number)
    second = contest.clips.get(contest.best.number)
    if first and second and first.keys() == second.keys():
        return compare(first, second)
    return Comparison(gain, None)


def _no_comparison(
    best: TrialRecord, value: float, default: TrialRecord | None, objective: Objective
) -> str:
    has_ended = default is not None and default.has_ended
    state = f"ended as {default.state}" if default and has_ended else "has not ended"
    if default is not None and default.violated:
        state = f"violates {', '.join(default.violated)}"
    return (
        f"Trial {best.number} is the best ({objective.write(value)}); the default (trial 0)"
        f" {state}: no comparison."
    )


def _loss_against_default(best: TrialRecord, comparison: Comparison, objective: Objective) -> str:
    gain = objective.write(comparison.gain)
    if comparison.standard_error is None:
        return (
            f"Trial {best.number} is {gain} below the default; too few validation clips to say"
            " whether that is more than chance."
        )
    errors = "the same on every clip"
    if comparison.standard_error:
        ratio = abs(comparison.gain) / comparison.standard_error
        errors = f"{ratio:.1f} standard errors over the validation clips"
    if comparison.is_tie:
        return (
            f"A tie: trial {best.number} is {gain} below the default, which is within the noise"
            f" ({errors})."
        )
    return f"Trial {best.number} beats the default by {gain} ({errors})."


def _tie_by_seeds(best: TrialRecord, gain: float, least: float, objective: Objective) -> str:
    return (
        f"A tie: trial {best.number} is {objective.write(gain)} better than the default, which is"
        f" within the noise of seeds (two runs of one setting differ by up to"
        f" {objective.write(least)})."
    )


def _metric_against_default(
    best: TrialRecord, gain: float, least: float | None, objective: Objective
) -> str:
    if gain <= 0:
        return f"A tie: trial {best.number} and the default have the same {objective.label}."
    side = "above" if objective.higher_is_better else "below"
    said = (
        f"Trial {best.number} is {objective.write(gain)} {side} the default in {objective.label}."
    )
    if least is None:
        return (
            f"{said} Whether that is more than chance is not known: a standard error over the"
            " validation clips is measured for val_loss only."
        )
    if gain <= least:
        return _tie_by_seeds(best, gain, least, objective)
    return f"{said} Two runs of one setting differ by up to {objective.write(least)}."


def _nothing_meets(excluded: Sequence[TrialRecord]) -> str:
    broken = list(dict.fromkeys(name for trial in excluded for name in trial.violated))
    return (
        f"No trial meets the constraints: {len(excluded)} of those that were trained to the end"
        f" violate {', '.join(broken)}."
    )


def _excluded(excluded: Sequence[TrialRecord]) -> list[str]:
    """Return the sentence on trials that a constraint keeps from being the best, if any."""
    if not excluded:
        return []
    broken = list(dict.fromkeys(name for trial in excluded for name in trial.violated))
    count = f"{len(excluded)} trials" if len(excluded) > 1 else "1 trial"
    return [f"{count} could not be the best: {', '.join(broken)} violated."]


def _against_untrained(contest: Contest, objective: Objective) -> list[str]:
    """Return the sentence on the untrained model, if it was measured."""
    default, baseline = contest.default, contest.baseline
    is_default = default is not None and default.state == "completed"
    trained = default if is_default else contest.best
    if baseline is None or trained is None or trained.value is None:
        return []
    name = "The default" if is_default else f"Trial {trained.number}"
    gain = objective.cost(baseline) - objective.cost(trained.value)
    word = "better" if gain > 0 else "WORSE"
    return [
        f"{name} is {objective.write(abs(gain))} {word} than the untrained model ({baseline:.3f})."
    ]
