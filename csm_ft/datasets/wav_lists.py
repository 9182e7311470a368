"""Which columns a list of sounds without a header has, told by what they hold."""

import re
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median

from csm_ft.console import shorten
from csm_ft.datasets.values import SPLIT_OF
from csm_ft.errors import MetadataError

NORMALISED = "normalised"  # the text again, with numbers and abbreviations written out
_RESEMBLES = 0.5  # share of words that a text and its normalised form have in common, as a median
_FEWEST_ROWS = 3  # from which a column of few values is one of speakers


def wav_list_columns(path: Path, rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the names of the columns of a list whose rows have three fields.

    MetadataError, with the question, when what they hold leaves it open; no rows are id|text.
    """
    if not rows:
        return ["path", "text"]
    second, third = ([row[place] for row in rows] for place in (1, 2))
    if all(value.lower() in SPLIT_OF for value in third):
        return ["path", "text", "split"]
    shared = [_shared_words(raw, other) for raw, other in zip(second, third, strict=True) if other]
    if not shared or median(shared) >= _RESEMBLES:
        return ["path", "text", NORMALISED]
    if _are_speakers(third, of=second):
        return ["path", "text", "speaker"]
    if _are_speakers(second, of=third):
        return ["path", "speaker", "text"]
    shown = shorten(dict.fromkeys(repr(value) for value in third), 3)
    raise MetadataError(
        f"{path}: a list of three columns without a header, whose third one ({shown}) is neither"
        " the text of the second one written out nor a few names of speakers. What is it? Say which"
        " columns to read: --columns path=1 text=2, or --columns path=1 text=2 speaker=3"
    )


def _shared_words(one: str, other: str) -> float:
    """Return the share of words of the shorter text that the other one has, too."""
    words = [set(re.findall(r"\w+", text.casefold())) for text in (one, other)]
    fewest = min(map(len, words))
    return len(words[0] & words[1]) / fewest if fewest else 0.0


def _are_speakers(values: Sequence[str], *, of: Sequence[str]) -> bool:
    """Tell whether a column holds few short names, beside the texts `of`."""
    is_measured = all(re.fullmatch(r"\d+[.,]\d+", value) for value in values)  # seconds, scores
    are_few = len(set(values)) <= max(1, len(values) // 2)
    are_short = mean(map(len, values)) * 2 < mean(map(len, of))
    return len(values) >= _FEWEST_ROWS and all(values) and are_few and are_short and not is_measured
