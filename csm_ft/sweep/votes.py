"""votes.json: what people preferred, blind, of two recordings of one prompt.

Every vote has an id, so that files of several people, and the same file twice, merge without
doubles.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from csm_ft.atomic import exclusive, write_whole
from csm_ft.errors import VotesError
from csm_ft.runs.folder import SweepFolder
from csm_ft.sweep.records import BASE, Contender, Summary

_Text = Annotated[str, Field(min_length=1, max_length=200)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Vote(_Strict):
    """One choice between two recordings of a prompt; `left` and `right` were drawn at random."""

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    time: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$")]
    voter: _Text
    prompt: _Text  # id: the name of its folder in samples/
    left: Contender
    right: Contender
    choice: Literal["left", "right", "tie"]

    @model_validator(mode="after")
    def _check_sides(self) -> Self:
        if self.left == self.right:
            raise ValueError(f"left and right are both {self.left}; a vote is between two")
        return self


class Ballot(_Strict):
    """The content of votes.json."""

    version: Literal[1]
    study: str
    created: str | None  # when the study began: two studies may have one name
    votes: list[Vote]


def read_votes(path: Path, summary: Summary) -> list[Vote]:
    """Read a file of votes of the study `summary` tells of.

    Raises VotesError with file, vote, value and rule where it is none, or of another study.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise VotesError(
            f"{path}: {error.strerror}; give the votes.json that the page has saved"
        ) from None
    return parse_votes(text, str(path), summary)


def parse_votes(text: bytes, where: str, summary: Summary) -> list[Vote]:
    """Return the votes of a JSON text, each id once; VotesError names `where` they come from."""
    try:
        ballot = Ballot.model_validate_json(text)
    except ValidationError as error:
        raise VotesError(f"{where}: {_first_mistake(error)}") from None
    if (ballot.study, ballot.created) != (summary.study, summary.created):
        raise VotesError(
            f"{where}: votes of the study {ballot.study!r} begun {ballot.created}, and this is"
            f" {summary.study!r} begun {summary.created}; merge them into the folder of theirs"
        )
    numbers = {trial.number for trial in summary.trials}
    for row, vote in enumerate(ballot.votes, 1):
        for contender in (vote.left, vote.right):
            if contender != BASE and contender not in numbers:
                raise VotesError(
                    f"{where}: vote {row}: trial {contender} is not in the study, which has"
                    f" {len(numbers)} trials; drop the vote"
                )
    return list(_by_id(ballot.votes, where).values())


def add_votes(folder: SweepFolder, summary: Summary, new: Sequence[Vote]) -> int:
    """Add votes to the votes.json of a sweep, as a whole, and return how many were not in it.

    Raises VotesError when the file there cannot be read, ConfigError while another process adds.
    """
    message = f"{folder.votes}: another process is adding votes; try again in a moment"
    with exclusive(folder.votes_lock, message):
        there = read_votes(folder.votes, summary) if folder.votes.is_file() else []
        merged = list(_by_id([*there, *new], str(folder.votes)).values())
        if len(merged) > len(there):
            ballot = Ballot(version=1, study=summary.study, created=summary.created, votes=merged)
            write_whole(folder.votes, ballot.model_dump_json(indent=1))
    return len(merged) - len(there)


def _by_id(votes: Iterable[Vote], where: str) -> dict[str, Vote]:
    found: dict[str, Vote] = {}
    for vote in votes:
        if found.setdefault(vote.id, vote) != vote:
            raise VotesError(
                f"{where}: two different votes have the id {vote.id}; one of the two files has"
                " been changed by hand: drop the vote there"
            )
    return found


def _first_mistake(error: ValidationError) -> str:
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    if place[:1] == ["votes"] and len(place) > 1:
        # Of the two kinds of a contender only the key is of interest.
        place = [f"vote {int(place[1]) + 1}", *place[2:3]]
    where = ": ".join(place) or "the file"
    given = "" if isinstance(first["input"], dict | list | bytes) else f" {first['input']!r}"
    return (
        f"{where}{given}: {first['msg']}; the page saves such files itself, so restore the file or"
        " drop the vote"
    )
