"""Clips: no word lost, halved or said twice, lengths within bounds, and the reasons of the rest."""

import itertools

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from csm_ft.evaluate.recognise import Word
from csm_ft.segment.cut import WAYS_OUT, Rules, cut
from csm_ft.segment.speech import Stretch

RULES = Rules(min_sec=2, max_sec=10, min_pause_sec=0.3, max_pause_sec=1.5, min_confidence=0.6)


def stretch(
    start: float,
    sec: float,
    text: str = "some words here.",
    *,
    probability: float | None = 0.9,
    speaker: str = "",
) -> Stretch:
    texts = text.split()
    size = sec / max(1, len(texts))
    words = (
        Word(f" {one}", start + place * size, start + (place + 1) * size, probability)
        for place, one in enumerate(texts)
    )
    return Stretch(start, start + sec, tuple(words), "en", speaker)


def row(*parts: tuple[float, float, str]) -> tuple[list[Stretch], float]:
    """Return stretches of (seconds, silence after, text), and how long all is."""
    found: list[Stretch] = []
    now = 0.5
    for sec, silence_sec, text in parts:
        found.append(stretch(now, sec, text))
        now += sec + silence_sec
    return found, now


speech = st.lists(
    st.tuples(
        st.floats(0.12, 14),
        st.one_of(st.floats(0.1, 0.5), st.floats(0.5, 4)),
        st.sampled_from(["a b c", "a b.", "one two three four five, six", ""]),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(speech, st.floats(0, 4), st.floats(8, 30), st.floats(0.1, 0.8))
def test_every_word_is_in_one_clip_and_whole(
    parts: list[tuple[float, float, str]], min_sec: float, max_sec: float, min_pause_sec: float
) -> None:
    rules = Rules(min_sec, max_sec, min_pause_sec, 1.5, 0.6)
    stretches, duration_sec = row(*parts)
    clips = cut(stretches, duration_sec, rules)
    words = [word for one in stretches for word in one.words]
    assert [word for clip in clips for word in clip.words] == words
    edges = [edge for clip in clips for edge in (clip.start_sec, clip.end_sec)]
    assert edges == sorted(edges)
    assert edges[0] >= 0 if edges else True
    assert edges[-1] <= duration_sec if edges else True
    assert not [
        (edge, word) for edge in edges for word in words if word.start_sec < edge < word.end_sec
    ]
    for clip in (one for one in clips if not one.problem):
        assert min_sec <= clip.end_sec - clip.start_sec <= max_sec
        pauses = [b.start_sec - a.end_sec for a, b in itertools.pairwise(clip.stretches)]
        assert max(pauses, default=0) <= 1.5
    assert {clip.problem for clip in clips} <= {"", *WAYS_OUT}


@settings(max_examples=200, deadline=None)
@given(speech, st.floats(0.2, 0.8))
def test_cuts_lie_in_pauses_where_there_are_any(
    parts: list[tuple[float, float, str]], min_pause_sec: float
) -> None:
    rules = Rules(1, 10, min_pause_sec, 1.5, 0)
    stretches, duration_sec = row(*((sec, silence, "a b c") for sec, silence, _ in parts))
    clips = cut(stretches, duration_sec, rules)
    for one, other in itertools.pairwise(clips):
        before, behind = one.stretches[-1], other.stretches[0]
        if behind.start_sec - before.end_sec >= min_pause_sec:
            continue
        # What no pause parts here is longer than a clip may be.
        place = stretches.index(before)
        first = last = place
        while first and stretches[first].start_sec - stretches[first - 1].end_sec < min_pause_sec:
            first -= 1
        while (
            last + 1 < len(stretches)
            and stretches[last + 1].start_sec - stretches[last].end_sec < min_pause_sec
        ):
            last += 1
        assert stretches[last].end_sec - stretches[first].start_sec > 10 - 0.3


def test_clips_end_with_sentences() -> None:
    clips = cut(
        *row((3, 0.4, "it was"), (3, 0.4, "late."), (3, 0.4, "We went"), (3, 1, "home.")), RULES
    )
    assert [clip.text for clip in clips] == ["it was late.", "We went home."]


def test_edges_keep_some_silence() -> None:
    (clip,) = cut(*row((3, 1, "one two.")), RULES)
    assert (clip.start_sec, clip.end_sec) == pytest.approx((0.35, 3.65))


def test_speech_without_pauses_is_cut_at_its_widest_silence() -> None:
    parts = [(2.0, 0.12, "a b"), (2.0, 0.12, "c d"), (2.0, 0.25, "e f"), (2.0, 0.12, "g h")]
    clips = cut(*row(*parts, (2.0, 0.12, "i j"), (2.0, 1, "k l")), RULES)
    assert [clip.text for clip in clips] == ["a b c d e f", "g h i j k l"]
    assert [clip.problem for clip in clips] == ["", ""]


@pytest.mark.parametrize(
    ("part", "problem", "reason"),
    [
        (
            stretch(0.5, 12),
            "without a pause",
            "12.300 s without a silence of 0.1 s; --max_sec is 10",
        ),
        (stretch(0.5, 1), "too short", "1.300 s; --min_sec is 2"),
        (stretch(0.5, 3, ""), "not understood", "3.30 s of speech without a word"),
        (
            stretch(0.5, 3, probability=0.3),
            "not trusted",
            "confidence 0.30; --min_confidence is 0.6",
        ),
        (stretch(0.5, 3, "x" * 200), "too fast", "200 letters in 3.00 s of speech"),
        (stretch(0.5, 3, probability=None), "", ""),
    ],
)
def test_rejected_clips_say_why(part: Stretch, problem: str, reason: str) -> None:
    (clip,) = cut([part], part.end_sec + 1, RULES)
    assert (clip.problem, clip.reason) == (problem, reason)


def test_missing_words_are_found() -> None:
    part = stretch(0.5, 6, "one two three four")
    holed = Stretch(part.start_sec, part.end_sec, (part.words[0], part.words[-1]), "en")
    (clip,) = cut([holed], 8, RULES)
    assert (clip.problem, clip.reason) == ("not understood", "3.00 s of speech between two words")


def test_breath_is_silence_but_words_that_were_not_heard_are_none() -> None:
    first, last = stretch(0.5, 2), stretch(3.9, 2)
    (clip,) = cut([first, stretch(3, 0.3, ""), last], 8, RULES)
    assert clip.stretches == (first, last)
    clips = cut([first, stretch(3, 0.7, ""), last], 8, RULES)
    assert [clip.problem for clip in clips] == ["", "not understood", ""]


def test_speakers_are_never_in_one_clip() -> None:
    parts = [
        stretch(0.5, 2, speaker="a"),
        stretch(2.8, 2, speaker="a"),
        stretch(5.1, 3, speaker="b"),
    ]
    clips = cut(parts, 9, RULES)
    assert [{one.speaker for one in clip.stretches} for clip in clips] == [{"a"}, {"b"}]
