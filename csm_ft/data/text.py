"""Transcripts: upper and lower case, and word and character errors over a corpus."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jiwer

NORMALISER = "unicode-1"  # named beside every error rate, as rates by other rules do not compare


@dataclass(frozen=True)
class ErrorCounts:
    """Errors of hypotheses against references, summed over a corpus."""

    substitutions: int
    deletions: int
    insertions: int
    num_reference: int  # words or characters of all references

    @property
    def rate(self) -> float:
        """Errors per reference word or character; 0 for a corpus without any."""
        errors = self.substitutions + self.deletions + self.insertions
        return errors / max(1, self.num_reference)


def set_case(text: str, case: str) -> str:
    """Return a text in the case that is wanted: keep, lower, or sentence (a capital in front)."""
    if case == "keep":
        return text
    lower = text.lower()
    return lower if case == "lower" else lower[:1].upper() + lower[1:]


def normalise(text: str) -> str:
    """Return a text as it is scored: NFKC, lower case, letters, digits and apostrophes in words.

    Marks (accents) stay, as they make other words; everything else becomes a blank.
    """
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    kept = (c if _belongs_to_a_word(c) else " " for c in text)
    words = re.sub(r"(?<!\w)'|'(?!\w)", " ", "".join(kept))
    return " ".join(words.split())


def word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorCounts:
    """Count word errors over all pairs; texts are compared as they are."""
    return _count(references, hypotheses, jiwer.process_words, lambda text: len(text.split()))


def character_errors(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorCounts:
    """Count character errors, blanks included, over all pairs."""
    return _count(references, hypotheses, jiwer.process_characters, len)


def _belongs_to_a_word(letter: str) -> bool:
    return letter == "'" or unicodedata.category(letter)[0] in "LMN"


def _count(
    references: Sequence[str],
    hypotheses: Sequence[str],
    process: Callable[[list[str], list[str]], Any],
    length: Callable[[str], int],
) -> ErrorCounts:
    pairs = list(zip(references, hypotheses, strict=True))
    # jiwer refuses an empty reference, against which every word is an insertion.
    inserted = sum(length(hypothesis) for reference, hypothesis in pairs if not reference.strip())
    full = [(reference, hypothesis) for reference, hypothesis in pairs if reference.strip()]
    if not full:
        return ErrorCounts(0, 0, inserted, 0)
    found = process([pair[0] for pair in full], [pair[1] for pair in full])
    num_reference = found.hits + found.substitutions + found.deletions
    return ErrorCounts(
        found.substitutions, found.deletions, found.insertions + inserted, num_reference
    )
