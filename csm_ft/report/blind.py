"""The blind comparison of the page: who competes with which recordings, and what was voted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from csm_ft.errors import VotesError
from csm_ft.report.listen import Listening
from csm_ft.runs.folder import SweepFolder
from csm_ft.sweep.preference import name_of
from csm_ft.sweep.records import BASE, Contender, Summary
from csm_ft.sweep.votes import Vote, read_votes

MOST_CONTENDERS = 8  # beside those that were voted on: 28 pairs are a lot to listen to


@dataclass(frozen=True)
class Contest:
    """What vote.js needs: it plays and asks, and knows nothing of trials but names and places."""

    data: dict[str, Any]  # for JSON

    @property
    def is_possible(self) -> bool:
        """Whether two contenders answered the same prompt with a recording."""
        return any(len(prompt["takes"]) > 1 for prompt in self.data["prompts"])


def arrange_contest(
    summary: Summary, listening: Listening, folder: SweepFolder, *, is_served: bool
) -> Contest:
    """Choose the contenders: the base model, the default, the best trials, and who has votes.

    A place is a number on a scale where close ones are the hardest to tell apart: the order by
    Bradley-Terry scores where there are any, else by value.
    """
    there = dict[Contender, None]()
    for row in listening.rows:
        there |= dict.fromkeys(row.contenders)
    chosen = _choose(summary, list(there))
    prompts = [
        {
            "id": row.prompt,
            "text": row.text,
            "takes": [str(one) for one in row.contenders if one in chosen],
        }
        for row in listening.rows
        if row.prompt
    ]
    data = {
        "study": summary.study,
        "created": summary.created,
        "isServed": is_served,
        "contenders": [
            {"key": one, "name": _title(summary, one), "place": place}
            for place, one in enumerate(_in_order(summary, chosen))
        ],
        "prompts": prompts,
        "votes": [
            [vote.id, vote.prompt, str(vote.left), str(vote.right)]
            for vote in _votes(folder, summary)
        ],
    }
    return Contest(data)


def _choose(summary: Summary, there: Sequence[Contender]) -> list[Contender]:
    default = summary.default_trial
    first = [BASE, *([default.number] if default else [])]
    ranked = [trial.number for trial in summary.ranked if trial.is_good]
    wanted = [one for one in dict.fromkeys([*first, *ranked]) if one in there]
    voted = [s.contender for s in summary.preference.scores] if summary.preference else []
    chosen: list[Contender] = [*wanted[:MOST_CONTENDERS], *(v for v in voted if v in there)]
    return list(dict.fromkeys(chosen))


def _in_order(summary: Summary, chosen: Sequence[Contender]) -> list[Contender]:
    """Return the contenders from best to worst."""
    ranked: list[Contender] = [trial.number for trial in summary.ranked]
    by_value: list[Contender] = [one for one in [*ranked, BASE] if one in chosen]
    found = summary.preference
    if found is None:
        return by_value
    voted: list[Contender] = [score.contender for score in found.scores]
    # Who has no votes yet keeps the place that its value gives among those that have.
    heard = iter([one for one in voted if one in by_value])
    return [next(heard) if one in voted else one for one in by_value]


def _title(summary: Summary, contender: Contender) -> str:
    if contender == BASE:
        return name_of(contender)
    marks = (("best", summary.best), ("default", getattr(summary.default_trial, "number", None)))
    names = [name for name, number in marks if number == contender]
    return f"{name_of(contender)} ({', '.join(names)})" if names else name_of(contender)


def _votes(folder: SweepFolder, summary: Summary) -> list[Vote]:
    """Return the votes of the folder; a file that cannot be read stands in the notes already."""
    try:
        return read_votes(folder.votes, summary) if folder.votes.is_file() else []
    except VotesError:
        return []
