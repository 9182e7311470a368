"""What a recogniser heard against what was to be said: errors, repeated and missing stretches."""

from collections.abc import Mapping
from dataclasses import dataclass

import jiwer

from csm_ft.data.text import PLAIN, ErrorCounts, Normaliser, character_errors, word_errors

STRETCH_WORDS = 3  # missing or repeated words in a row from which a listener misses the sense


@dataclass(frozen=True)
class WordFacts:
    """One clip's words, normalised."""

    reference: str
    heard: str
    words: ErrorCounts
    characters: ErrorCounts
    num_missing: int  # words of the reference in missing stretches
    num_repeated: int  # heard words in stretches that were heard before

    def values(self) -> Mapping[str, float]:
        """Return the metrics of the clip."""
        return {
            "wer": self.words.rate,
            "cer": self.characters.rate,
            "missing_words": float(self.num_missing),
            "repeated_words": float(self.num_repeated),
        }


def compare_words(text: str, heard: str, rules: Normaliser = PLAIN) -> WordFacts:
    """Compare what was heard with the text that was to be said, both normalised by `rules`."""
    reference, hypothesis = rules.apply(text), rules.apply(heard)
    missing, repeated = _stretches(reference, hypothesis)
    return WordFacts(
        reference,
        hypothesis,
        word_errors([reference], [hypothesis]),
        character_errors([reference], [hypothesis]),
        missing,
        repeated,
    )


def _stretches(reference: str, heard: str) -> tuple[int, int]:
    """Count the words of missing and of repeated stretches of three words or more.

    By jiwer's alignment: a missing stretch is a run of deleted words; a repeated one is a run of
    inserted words that stands in the reference, too. A shorter text counts as a whole.
    """
    said = reference.split()
    if not said:
        return 0, 0
    least = min(STRETCH_WORDS, len(said))
    missing = repeated = 0
    output = jiwer.process_words(reference, heard)
    for chunk in output.alignments[0]:
        deleted = chunk.ref_end_idx - chunk.ref_start_idx
        words = heard.split()[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type == "delete" and deleted >= least:
            missing += deleted
        elif chunk.type == "insert" and len(words) >= least:
            repeated += _num_repeated(words, said, least)
    return missing, repeated


def _num_repeated(words: list[str], said: list[str], least: int) -> int:
    """Count the words that lie in runs of `least` words of the reference."""
    runs = {tuple(said[start : start + least]) for start in range(len(said) - least + 1)}
    marked = set[int]()
    for start in range(len(words) - least + 1):
        if tuple(words[start : start + least]) in runs:
            marked |= set(range(start, start + least))
    return len(marked)
