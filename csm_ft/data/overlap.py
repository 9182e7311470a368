"""What stands on both sides of a split: speakers, sentences."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from csm_ft.console import shorten
from csm_ft.data.text import normalise

_MAX_SHOWN = 6


class Said(NamedTuple):
    """Who says what, and on which side."""

    is_training: bool
    speaker: str
    text: str


@dataclass(frozen=True)
class Shared:
    """Names that are held out, and those of them that stand in training, too."""

    names: list[str]  # sorted
    num_held_out: int

    def describe(self, what: str) -> str:
        """Return a line for people, `what` being speakers or sentences."""
        names = f": {shorten(self.names, _MAX_SHOWN)}" if self.names else ""
        return (
            f"{len(self.names)} of {self.num_held_out} {what} that are held out stand in training,"
            f" too{names}"
        )


def find_shared(clips: Iterable[Said]) -> dict[str, Shared]:
    """Return which speakers and which sentences stand on both sides of a split.

    Sentences are compared by their words, and a clip without a speaker has none; nothing where
    nothing is held out.
    """
    sides: dict[str, tuple[set[str], set[str]]] = {
        "speakers": (set(), set()),
        "sentences": (set(), set()),
    }
    for clip in clips:
        sides["speakers"][clip.is_training].add(clip.speaker)
        sides["sentences"][clip.is_training].add(clip.text)
    shared: dict[str, Shared] = {}
    for what, (held_out, train) in sides.items():
        if what == "sentences":
            held_out, train = set(map(normalise, held_out)), set(map(normalise, train))
        held_out, train = held_out - {""}, train - {""}
        if held_out:
            shared[what] = Shared(sorted(held_out & train), len(held_out))
    return shared
