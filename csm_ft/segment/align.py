"""Words of a recogniser into the speech that voice activity found.

Word times of Whisper are off by up to 0.7 s where a pause is near, and some words have no duration
at all; the edges of voice activity are off by 0.1 s. So silences decide where clips can be cut, and
each word is placed into one of the stretches of speech between them: by dynamic programming, as
the words of all stretches together must stay in order.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csm_ft.evaluate.recognise import Word
from csm_ft.segment.speech import Span, ends_phrase, ends_sentence

# Costs are in seconds: of words that stick out of their span; of the time that is too short for
# its letters, where people say no more than this many in a second; of speech without a word; and
# what a silence between two words is worth less that are not parted by punctuation.
_MAX_CHARS_PER_SEC = 25.0
_EMPTY_COST, _MAX_EMPTY_SEC = 0.5, 1.0
_PHRASE_COST, _MIDST_COST = 0.2, 0.5
# The first and the last word of a span reach to its edges if they come this near.
_SNAP_SEC = 0.8


def place_words(words: Sequence[Word], spans: Sequence[Span]) -> list[tuple[Word, ...]]:
    """Return the words of each span, with times inside it; each word is in one, in their order."""
    places = np.arange(len(words) + 1)
    letters = np.cumsum([0, *(len(word.text.strip()) for word in words)])
    pauses = np.array([0.0, *(_pause_cost(word.text) for word in words)])
    pauses[-1] = 0.0
    # cost[k]: of the best way to place the first k words into the spans so far.
    cost = np.where(places == 0, 0.0, np.inf)
    choices: list[NDArray[Any]] = []  # per span and k: how many words the spans before it have
    for span in spans:
        outside = np.cumsum([0.0, *(_outside_sec(word, span) for word in words)])
        # [j, k]: the span has the words from j to k.
        num_letters = letters[None, :] - letters[:, None]
        crowded = np.maximum(0.0, num_letters / _MAX_CHARS_PER_SEC - _length(span))
        own = outside[None, :] - outside[:, None] + crowded
        np.fill_diagonal(own, _EMPTY_COST * min(_length(span), _MAX_EMPTY_SEC))
        total = np.where(places[:, None] <= places, cost[:, None] + own, np.inf)
        choices.append(total.argmin(axis=0))
        cost = total.min(axis=0) + pauses
    placed: list[tuple[Word, ...]] = []
    stop = len(words)
    for span, choice in zip(reversed(spans), reversed(choices), strict=True):
        first = int(choice[stop])
        placed.append(tuple(_draw_in(words[first:stop], span)))
        stop = first
    return placed[::-1]


def _pause_cost(text: str) -> float:
    """Return the cost of a silence after a word."""
    if ends_sentence(text):
        return 0.0
    return _PHRASE_COST if ends_phrase(text) else _MIDST_COST


def _length(span: Span) -> float:
    return span.end_sec - span.start_sec


def _outside_sec(word: Word, span: Span) -> float:
    """Return how far a word sticks out of a span at both sides together."""
    before = max(0.0, span.start_sec - word.start_sec)
    return before + max(0.0, word.end_sec - span.end_sec)


def _draw_in(words: Sequence[Word], span: Span) -> Iterator[Word]:
    """Yield words with times inside their span, none before its predecessor."""
    reached = span.start_sec
    for place, word in enumerate(words):
        start = min(max(word.start_sec, reached), span.end_sec)
        end = min(max(word.end_sec, start), span.end_sec)
        if place == 0 and start - span.start_sec <= _SNAP_SEC:
            start = span.start_sec
        if place == len(words) - 1 and span.end_sec - end <= _SNAP_SEC:
            end = span.end_sec
        yield word._replace(start_sec=start, end_sec=end)
        reached = end
