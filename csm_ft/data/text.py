"""Transcripts: their case, rules to compare them by, and word and character errors."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal, NamedTuple

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
    def num_errors(self) -> int:
        """Errors of all kinds."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors per reference word or character; 0 for a corpus without any."""
        return self.num_errors / max(1, self.num_reference)


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


@dataclass(frozen=True)
class Normaliser:
    """Rules by which texts of a language are scored."""

    name: str  # with the version
    apply: Callable[[str], str]


def open_normaliser(language: str) -> Normaliser:
    """Return Whisper's rules (Radford et al., arXiv 2212.04356, appendix C) for a language.

    For English (`en`, `en-GB`, `english`) they write out contractions, and numbers as digits; those
    for all others, and for texts of no known language (""), take punctuation out.
    """
    # Here: it takes most of a second to import.
    from whisper_normalizer.basic import BasicTextNormalizer
    from whisper_normalizer.english import EnglishTextNormalizer

    by = f"of whisper-normalizer {version('whisper-normalizer')}"
    if _is_english(language):
        return Normaliser(f"english {by}", EnglishTextNormalizer())
    return Normaliser(f"basic {by}", BasicTextNormalizer())


PLAIN = Normaliser(NORMALISER, normalise)


def open_spoken_normaliser(language: str) -> Normaliser:
    """Return Whisper's rules for English, where "7" is "seven"; for all others, `normalise`.

    Whisper's basic rules take accents out with the punctuation, and so make words equal that sound
    different.
    """
    return open_normaliser(language) if _is_english(language) else PLAIN


def in_capitals(text: str) -> bool:
    """Tell whether a text of at least two words has capitals alone."""
    return text.isupper() and len(text.split()) > 1


def _is_english(language: str) -> bool:
    return re.split(r"[-_]", language.lower())[0] in ("en", "eng", "english")


def word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorCounts:
    """Count word errors over all pairs; texts are compared as they are."""
    return _count(references, hypotheses, jiwer.process_words, lambda text: len(text.split()))


def character_errors(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorCounts:
    """Count character errors, blanks included, over all pairs."""
    return _count(references, hypotheses, jiwer.process_characters, len)


class MarkedWord(NamedTuple):
    """A word of a transcript beside its reference."""

    text: str
    mark: Literal["", "missing", "extra"]  # missing: of the reference alone


def mark_errors(reference: str, transcript: str) -> list[MarkedWord]:
    """Return the words of a transcript, and in their places those of the reference it lacks.

    By the fewest word errors; case and punctuation are not compared.
    """
    wanted, written = reference.split(), transcript.split()
    if not wanted:
        return [MarkedWord(word, "extra") for word in written]
    old_bare, new_bare = (" ".join(map(_bare, words)) for words in (wanted, written))
    marked: list[MarkedWord] = []
    for chunk in jiwer.process_words(old_bare, new_bare).alignments[0]:
        new = written[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type == "equal":
            marked += [MarkedWord(word, "") for word in new]
            continue
        old = wanted[chunk.ref_start_idx : chunk.ref_end_idx]
        marked += [MarkedWord(word, "missing") for word in old]
        marked += [MarkedWord(word, "extra") for word in new]
    return marked


def _bare(word: str) -> str:
    """Return a word in lower case without punctuation; one that is nothing else stays."""
    return "".join(filter(_belongs_to_a_word, word.lower())) or word


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
