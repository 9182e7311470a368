"""A known transcript laid over what a recogniser heard: its words, with the times of the sound.

Letters are compared, so words need not be cut alike, and languages without blanks work too. A run
of equal letters is an anchor if it is long enough to be no coincidence; what lies between anchors
is interpolated, in time that counts speech only, so that no word is laid over a pause.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from csm_ft.data.rows import Word
from csm_ft.data.text import normalise
from csm_ft.datasets.words import spread_words
from csm_ft.evaluate.recognise import Word as HeardWord
from csm_ft.segment.speech import Stretch

_ANCHOR_LETTERS = 3
_LETTER_SEC = 0.07  # of words before the first and behind the last anchor
_TO_ITS_END = 0.999  # from a letter's place to its end, which is before the next one begins
_PAUSE_RATE = 1e-3  # of the speech clock in silence: above 0, so that each time has one reading
_AROUND_SEC = 1.0  # how far a turn's own times may be off


class Turn(NamedTuple):
    """A part of a transcript."""

    text: str
    speaker: int  # as of Word
    start_sec: float | None = None  # both or none
    end_sec: float | None = None


class SpeechClock:
    """Seconds of a recording to seconds of speech in it, and back."""

    def __init__(self, spans: Iterable[tuple[float, float]], duration_sec: float) -> None:
        edges = np.array([0.0, *(edge for span in spans for edge in span), duration_sec])
        rates = np.where(np.arange(len(edges) - 1) % 2, 1.0, _PAUSE_RATE)
        self._edges = np.maximum.accumulate(edges)
        self._speech = np.cumsum([0.0, *(np.diff(self._edges) * rates)])

    def speech_sec(self, time_sec: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how much was said before a time."""
        return np.interp(time_sec, self._edges, self._speech)

    def time_sec(self, speech_sec: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the time before which so much was said."""
        return np.interp(speech_sec, self._speech, self._edges)

    def within_speech(
        self, start_sec: NDArray[np.float64], end_sec: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Cut words that reach over a pause to the stretch of speech that holds their middle."""
        if len(self._edges) == 2:
            return start_sec, np.maximum(start_sec, end_sec)
        middle = self.time_sec((self.speech_sec(start_sec) + self.speech_sec(end_sec)) / 2)
        begins, ends = self._edges[1:-1:2], self._edges[2:-1:2]
        stretch = np.searchsorted(begins, middle, side="right") - 1
        stretch = np.clip(stretch, 0, len(begins) - 1)
        start_sec = np.clip(start_sec, begins[stretch], ends[stretch])
        return start_sec, np.clip(end_sec, start_sec, ends[stretch])


class Aligned(NamedTuple):
    """The words of a transcript with times, and how well it fits."""

    words: tuple[Word, ...]
    num_letters: int
    num_heard: int  # of the letters that are anchors


def align(
    turns: Sequence[Turn], stretches: Sequence[Stretch], speaker: int, duration_sec: float
) -> Aligned:
    """Return the words of one speaker's turns, at the times where they were heard.

    Turns with times are aligned with what was heard around these, the others as one text.
    """
    heard = [word for one in stretches for word in one.words]
    clock = SpeechClock(((one.start_sec, one.end_sec) for one in stretches), duration_sec)
    own = [turn for turn in turns if turn.speaker == speaker and turn.text.split()]
    parts: list[Aligned] = []
    untimed = [turn for turn in own if turn.start_sec is None]
    if untimed:
        whole = Turn(" ".join(turn.text for turn in untimed), speaker, 0.0, duration_sec)
        parts.append(_align_part(whole, heard, (0.0, duration_sec), clock))
    for turn in own:
        if turn.start_sec is None or turn.end_sec is None:
            continue
        limits = (
            max(0.0, turn.start_sec - _AROUND_SEC),
            min(duration_sec, turn.end_sec + _AROUND_SEC),
        )
        near = [one for one in heard if limits[0] <= _middle(one) <= limits[1]]
        parts.append(_align_part(turn, near, limits, clock))
    words = sorted((word for part in parts for word in part.words), key=lambda one: one.start_sec)
    num_letters = sum(part.num_letters for part in parts)
    return Aligned(tuple(words), num_letters, sum(part.num_heard for part in parts))


def _align_part(
    turn: Turn, heard: Sequence[HeardWord], limits: tuple[float, float], clock: SpeechClock
) -> Aligned:
    words = turn.text.split()
    letters = [normalise(word).replace(" ", "") for word in words]
    ends = np.cumsum([len(one) for one in letters])
    starts = ends - [len(one) for one in letters]
    whole_words = set(zip(starts.tolist(), ends.tolist(), strict=True))
    places, times_sec = _anchors("".join(letters), whole_words, heard)
    if not len(places):
        first, last = turn.start_sec or limits[0], turn.end_sec or limits[1]
        return Aligned(spread_words(turn.text, first, last, turn.speaker), int(ends[-1]), 0)
    # Where a letter begins and ends on the speech clock, by its place; unheard ones share the time
    # between their neighbours. Anchors at both ends give those of the text some time, too.
    speech_sec = clock.speech_sec(times_sec)
    first = speech_sec[0, 0] - _LETTER_SEC * places[0]
    last = speech_sec[-1, 1] + _LETTER_SEC * (ends[-1] - 1 - places[-1])
    edges = np.stack([places, places + _TO_ITS_END], axis=1)
    known = np.concatenate([[-1], edges.ravel(), [ends[-1]]])
    known_sec = np.concatenate([[first], speech_sec.ravel(), [last]])
    last_letters = np.maximum(ends - 1, starts)
    word_starts = clock.time_sec(np.interp(starts, known, known_sec))
    word_ends = clock.time_sec(np.interp(last_letters + _TO_ITS_END, known, known_sec))
    word_starts, word_ends = clock.within_speech(word_starts, word_ends)
    word_starts, word_ends = np.clip(word_starts, *limits), np.clip(word_ends, *limits)
    timed = zip(words, word_starts, word_ends, strict=True)
    found = tuple(Word(word, float(start), float(end), turn.speaker) for word, start, end in timed)
    return Aligned(found, int(ends[-1]), len(places))


def _anchors(
    letters: str, whole_words: set[tuple[int, int]], heard: Sequence[HeardWord]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return places of letters that were heard, [A], and when each begins and ends, [A, 2]."""
    spoken = list(_timed_letters(heard))
    matches = Levenshtein.opcodes(letters, "".join(letter for letter, _, _ in spoken))
    places: list[int] = []
    times: list[tuple[float, float]] = []
    for match in matches:
        span = (match.src_start, match.src_end)
        is_long = match.src_end - match.src_start >= _ANCHOR_LETTERS or span in whole_words
        if match.tag == "equal" and is_long:
            places += range(*span)
            times += [one[1:] for one in spoken[match.dest_start : match.dest_end]]
    both = np.array(times, dtype=np.float64).reshape(-1, 2)
    # Words of a recogniser may overlap by a little; times that went back would order words anew.
    in_order = np.maximum.accumulate(both.ravel()).reshape(-1, 2)
    return np.array(places, dtype=np.int64), in_order


def _timed_letters(heard: Sequence[HeardWord]) -> Iterator[tuple[str, float, float]]:
    """Yield the letters of words with a share of the word's time for each."""
    for word in heard:
        letters = normalise(word.text).replace(" ", "")
        edges = np.linspace(word.start_sec, word.end_sec, len(letters) + 1)
        for place, letter in enumerate(letters):
            yield letter, float(edges[place]), float(edges[place + 1])


def _middle(word: HeardWord) -> float:
    return (word.start_sec + word.end_sec) / 2
