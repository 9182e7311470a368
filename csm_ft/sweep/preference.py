"""What blind votes say of a study: a Bradley-Terry score per trial, beside its value."""

from collections.abc import Sequence
from contextlib import suppress
from itertools import chain

import numpy as np

from csm_ft.atomic import exclusive, write_whole
from csm_ft.errors import ConfigError, VotesError
from csm_ft.runs.folder import SweepFolder
from csm_ft.sweep import bradley_terry
from csm_ft.sweep.records import BASE, Contender, Preference, Score, Summary
from csm_ft.sweep.table import to_csv
from csm_ft.sweep.votes import Vote, read_votes


def with_preference(summary: Summary, folder: SweepFolder) -> Summary:
    """Return the summary with what votes.json says now; one that cannot be read is a note."""
    if not folder.votes.is_file():
        return summary.model_copy(update={"preference": None})
    try:
        votes = read_votes(folder.votes, summary)
    except VotesError as error:
        notes = [*(note for note in summary.notes if note != str(error)), str(error)]
        return summary.model_copy(update={"preference": None, "notes": notes})
    return summary.model_copy(update={"preference": measure_preference(votes)})


def write_preference(folder: SweepFolder) -> None:
    """Bring summary.json and trials.csv up to date after votes; a sweep that runs does so itself.

    The sweep's lock is held, so that neither overwrites what the other has just written.
    """
    with suppress(ConfigError), exclusive(folder.lock, "a sweep is running"):
        before = Summary.model_validate_json(folder.summary.read_bytes())
        summary = with_preference(before, folder)
        write_whole(folder.table, to_csv(summary.begun, summary.preference))
        write_whole(folder.summary, summary.model_dump_json(indent=1))


def measure_preference(votes: Sequence[Vote]) -> Preference | None:
    """Return the scores of all that were voted on, best first; None without votes.

    Every vote counts as an observation of its own, a tie as half a win for each.
    """
    sides: list[Contender] = list(chain.from_iterable((vote.left, vote.right) for vote in votes))
    contenders: list[Contender] = list(dict.fromkeys(sides))
    if not contenders:
        return None
    strengths = bradley_terry.fit(_count_wins(votes, contenders))
    values, half_widths = strengths.values, strengths.half_widths
    order = sorted(range(len(contenders)), key=lambda i: -values[i])
    scores = [
        Score(
            contender=contenders[i],
            score=float(values[i]),
            low=float(values[i] - half_widths[i]),
            high=float(values[i] + half_widths[i]),
            num_votes=sides.count(contenders[i]),
            ties_with_best=not strengths.differ(order[0], i),
        )
        for i in order
    ]
    num_groups = len(set(strengths.groups.tolist()))
    num_voters = len({vote.voter for vote in votes})
    text = _describe(scores, len(votes), num_voters, num_groups)
    return Preference(text=text, num_votes=len(votes), num_voters=num_voters, scores=scores)


def _count_wins(votes: Sequence[Vote], contenders: Sequence[Contender]) -> bradley_terry.Matrix:
    place = {contender: i for i, contender in enumerate(contenders)}
    wins = np.zeros((len(contenders), len(contenders)))
    for vote in votes:
        left, right = place[vote.left], place[vote.right]
        share = {"left": 1.0, "right": 0.0, "tie": 0.5}[vote.choice]
        wins[left, right] += share
        wins[right, left] += 1 - share
    return wins


def _describe(scores: Sequence[Score], num_votes: int, num_voters: int, num_groups: int) -> str:
    best = scores[0]
    said = (
        f"{_count(num_votes, 'blind vote')} by {_count(num_voters, 'listener')} prefer"
        f"{'s' * (num_votes == 1)} {name_of(best.contender)}: Bradley-Terry score"
        f" {best.score:+.2f} [{best.low:+.2f}, {best.high:+.2f}]"
    )
    tied = [name_of(s.contender) for s in scores[1:] if s.ties_with_best]
    if tied:
        said += f"; within the interval it ties with {', '.join(tied)}"
    if num_groups > 1:
        said += f". {num_groups} groups were never compared with one another: vote between them"
    return f"{said}."


def name_of(contender: Contender) -> str:
    """Return what a contender is called in a sentence."""
    return "the base model" if contender == BASE else f"trial {contender}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
