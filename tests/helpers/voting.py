"""Votes as the page makes them."""

from typing import Any

from csm_ft.sweep.records import Summary


def make_vote(number: int, left: Any, right: Any, choice: str = "left") -> dict[str, Any]:
    """Return a vote by one of two voters, in turn."""
    return {
        "id": f"{number:032x}",
        "time": "2026-11-27T10:00:00.000Z",
        "voter": f"voter-{number % 2}",
        "prompt": "5e1f0a",
        "left": left,
        "right": right,
        "choice": choice,
    }


def ballot(summary: Summary, votes: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the page saves."""
    return {"version": 1, "study": summary.study, "created": summary.created, "votes": votes}
