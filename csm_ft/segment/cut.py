"""Stretches of speech to clips: cut at pauses, by dynamic programming over a whole recording.

A clip never crosses a pause longer than --max_pause_sec, a change of speaker or of language, or
speech in which no words were heard. Within these limits it begins and ends at pauses of at least
--min_pause_sec, by ends of sentences where it can. Only where speech has no such pause for longer
than --max_sec, it is cut at shorter silences, the widest first; where it has none of 0.1 s either,
it is rejected. So no cut ever lies within a word, and each word is in exactly one clip.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from csm_ft.evaluate.recognise import Word
from csm_ft.segment.speech import Stretch

# What is rejected, by kind, and what helps.
WAYS_OUT = {
    "too short": "lower --min_sec; clips end at pauses over --max_pause_sec and with a speaker",
    "without a pause": "raise --max_sec; music and noise have none, either",
    "not understood": "try a larger recogniser (--asr small), or listen: it may be no speech",
    "too fast": "what was heard has too many letters for its time; try a larger recogniser",
    "not trusted": "lower --min_confidence, or try a larger recogniser (--asr small)",
}
_EDGE_SEC = 0.15  # silence that a clip keeps at both ends, at most half of the pause
# Speech without words: breath and clicks are shorter.
_WORDLESS_SEC = 0.5
_GAP_IN_WORDS_SEC = 1.5  # from word to word within a stretch, from where something is missing
_MAX_CHARS_PER_SEC = 35.0
# Costs of a clip; only their order of size matters.
_CLIP_COST = 1.0
_MIDST_COST = 2.0  # ends within a sentence
_NARROW_COST = 4.0  # ends at a silence that is no pause; less the wider it is
_REJECTED_COST, _REJECTED_PER_SEC = 100.0, 10.0


@dataclass(frozen=True)
class Rules:
    """When a recording is cut, and which clips are kept; see the options of the same names."""

    min_sec: float
    max_sec: float
    min_pause_sec: float
    max_pause_sec: float
    min_confidence: float


@dataclass(frozen=True)
class Clip:
    """A part of a recording with its text; all times are in seconds of the recording."""

    start_sec: float
    end_sec: float
    stretches: tuple[Stretch, ...]
    problem: str = ""  # a key of WAYS_OUT: why it is rejected
    reason: str = ""

    @property
    def text(self) -> str:
        """What is said."""
        return " ".join("".join(word.text for word in self.words).split())

    @property
    def words(self) -> tuple[Word, ...]:
        """All words."""
        return tuple(word for stretch in self.stretches for word in stretch.words)

    @property
    def confidence(self) -> float | None:
        """The mean probability of its words; None where the recogniser gives none."""
        known = [word.probability for word in self.words if word.probability is not None]
        return sum(known) / len(known) if known else None


def cut(stretches: Sequence[Stretch], duration_sec: float, rules: Rules) -> list[Clip]:
    """Return the clips of a recording in order, those that are rejected with their reason.

    Every word is in exactly one of them. Short speech without words, as breath, counts as silence.
    """
    stretches = [one for one in stretches if one.words or _lacks_words(one)]
    room = [0.0, *(stretch.end_sec for stretch in stretches)]
    after = [*(stretch.start_sec for stretch in stretches), duration_sec]
    pauses_sec = [start - end for end, start in zip(room, after, strict=True)]
    clips: list[Clip] = []
    first = 0
    for stop in range(1, len(stretches) + 1):
        is_last = stop == len(stretches)
        if is_last or _must_part(stretches[stop - 1], stretches[stop], rules.max_pause_sec):
            run = _Run(stretches[first:stop], pauses_sec[first : stop + 1], rules)
            clips += run.cut()
            first = stop
    return clips


def _must_part(one: Stretch, other: Stretch, max_pause_sec: float) -> bool:
    return (
        other.start_sec - one.end_sec > max_pause_sec
        or (one.speaker, one.language) != (other.speaker, other.language)
        or _lacks_words(one)
        or _lacks_words(other)
    )


def _lacks_words(stretch: Stretch) -> bool:
    return not stretch.words and stretch.end_sec - stretch.start_sec > _WORDLESS_SEC


class _Run:
    """Stretches that one clip could hold if it were long enough."""

    def __init__(
        self, stretches: Sequence[Stretch], pauses_sec: Sequence[float], rules: Rules
    ) -> None:
        self.stretches = stretches
        self.pauses_sec = pauses_sec  # before the first stretch, between them, behind the last
        self.rules = rules
        self.may_end = self._find_cuts()

    def cut(self) -> list[Clip]:
        """Return the clips of least cost, which lose least and end where sentences end."""
        count = len(self.stretches)
        costs, froms = [0.0], [0]
        for stop in range(1, count + 1):
            best, first_of_best = float("inf"), stop - 1
            for first in range(stop - 1, -1, -1) if self.may_end[stop] else ():
                if first < stop - 1 and self._length_sec(first, stop) > self.rules.max_sec:
                    break
                cost = costs[first] + self._cost(first, stop)
                if cost < best:
                    best, first_of_best = cost, first
            costs.append(best)
            froms.append(first_of_best)
        clips: list[Clip] = []
        stop = count
        while stop:
            clips.append(self._clip(froms[stop], stop))
            stop = froms[stop]
        return clips[::-1]

    def _find_cuts(self) -> list[bool]:
        """Tell, for each number of stretches, whether a clip may end behind them.

        At pauses; and at every silence of speech that has no pause for too long.
        """
        count = len(self.stretches)
        may_end = [pause_sec >= self.rules.min_pause_sec for pause_sec in self.pauses_sec]
        may_end[0] = may_end[count] = True
        at_pauses = [place for place, may in enumerate(may_end) if may]
        for first, stop in itertools.pairwise(at_pauses):
            if self._length_sec(first, stop) > self.rules.max_sec:
                may_end[first:stop] = [True] * (stop - first)
        return may_end

    def _edges(self, first: int, stop: int) -> tuple[float, float]:
        """Return where a clip begins and ends: with some of the silence around its speech."""
        before, behind = (min(_EDGE_SEC, self.pauses_sec[place] / 2) for place in (first, stop))
        return self.stretches[first].start_sec - before, self.stretches[stop - 1].end_sec + behind

    def _length_sec(self, first: int, stop: int) -> float:
        start_sec, end_sec = self._edges(first, stop)
        return end_sec - start_sec

    def _cost(self, first: int, stop: int) -> float:
        length_sec = self._length_sec(first, stop)
        if not self.rules.min_sec <= length_sec <= self.rules.max_sec:
            return _REJECTED_COST + _REJECTED_PER_SEC * length_sec
        cost = _CLIP_COST
        if stop < len(self.stretches):
            cost += 0.0 if self.stretches[stop - 1].ends_sentence else _MIDST_COST
            narrowness = 1 - self.pauses_sec[stop] / self.rules.min_pause_sec
            cost += _NARROW_COST * max(0.0, narrowness)
        return cost

    def _clip(self, first: int, stop: int) -> Clip:
        start_sec, end_sec = self._edges(first, stop)
        clip = Clip(start_sec, end_sec, tuple(self.stretches[first:stop]))
        problem, reason = next(_problems(clip, self.rules), ("", ""))
        return Clip(start_sec, end_sec, clip.stretches, problem, reason)


def _problems(clip: Clip, rules: Rules) -> Iterator[tuple[str, str]]:
    """Yield why a clip is rejected: a key of WAYS_OUT, and the reason in full."""
    length_sec = clip.end_sec - clip.start_sec
    if not clip.words:
        yield "not understood", f"{length_sec:.2f} s of speech without a word"
    if length_sec > rules.max_sec:
        yield (
            "without a pause",
            (f"{length_sec:.3f} s without a silence of 0.1 s; --max_sec is {rules.max_sec:g}"),
        )
    if length_sec < rules.min_sec:
        yield "too short", f"{length_sec:.3f} s; --min_sec is {rules.min_sec:g}"
    gap_sec = max(map(_gap_in_words_sec, clip.stretches), default=0.0)
    if gap_sec > _GAP_IN_WORDS_SEC:
        yield "not understood", f"{gap_sec:.2f} s of speech between two words"
    speech_sec = sum(stretch.end_sec - stretch.start_sec for stretch in clip.stretches)
    num_chars = sum(len(word.text.strip()) for word in clip.words)
    if num_chars > _MAX_CHARS_PER_SEC * speech_sec:
        yield "too fast", f"{num_chars} letters in {speech_sec:.2f} s of speech"
    confidence = clip.confidence
    if confidence is not None and confidence < rules.min_confidence:
        yield (
            "not trusted",
            (f"confidence {confidence:.2f}; --min_confidence is {rules.min_confidence:g}"),
        )


def _gap_in_words_sec(stretch: Stretch) -> float:
    """Return the longest time between words of a stretch, its edges included."""
    ends = [stretch.start_sec, *(word.end_sec for word in stretch.words)]
    starts = [*(word.start_sec for word in stretch.words), stretch.end_sec]
    gaps = [start - end for end, start in zip(ends, starts, strict=True)]
    return max(gaps) if stretch.words else 0.0
