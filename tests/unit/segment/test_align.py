"""Words with imprecise times are placed into the speech that they were said in."""

import hypothesis.strategies as st
from hypothesis import given, settings

from csm_ft.evaluate.recognise import Word
from csm_ft.segment.align import place_words
from csm_ft.segment.speech import Span


def texts(placed: list[tuple[Word, ...]]) -> list[str]:
    return ["".join(word.text for word in words).strip() for words in placed]


def test_words_without_a_duration_follow_the_punctuation() -> None:
    spans = [Span(0.5, 3.18), Span(4.18, 5.33)]
    words = [
        Word(" some", 2.2, 2.36, 0.9),
        Word(" help,", 2.36, 2.84, 0.9),
        Word(" please.", 3.76, 3.76, 0.9),
        Word(" Yes.", 4.58, 4.74, 0.9),
    ]
    assert texts(place_words(words, spans)) == ["some help, please.", "Yes."]


def test_speech_too_short_for_a_word_gives_it_away() -> None:
    spans = [Span(0.5, 0.7), Span(1.0, 3.0)]
    words = [Word(" Hello", 0.5, 0.7, 0.9), Word(" everybody", 0.68, 0.75, 0.9)]
    assert texts(place_words(words, spans)) == ["Hello", "everybody"]


def test_edges_of_speech_are_those_of_its_words() -> None:
    (words,) = place_words([Word(" a", 1.3, 1.5, 0.9), Word(" b", 1.5, 2.2, 0.9)], [Span(1.0, 2.0)])
    assert [(word.start_sec, word.end_sec) for word in words] == [(1.0, 1.5), (1.5, 2.0)]


def test_no_speech_keeps_no_word() -> None:
    assert place_words([], [Span(0, 1), Span(2, 3)]) == [(), ()]


spans = st.lists(st.tuples(st.floats(0.1, 5), st.floats(0.1, 3)), min_size=1, max_size=8)


@settings(max_examples=200, deadline=None)
@given(spans, st.lists(st.tuples(st.floats(0, 20), st.floats(0, 2)), max_size=30))
def test_each_word_is_placed_once_and_in_order(
    lengths: list[tuple[float, float]], times: list[tuple[float, float]]
) -> None:
    now, speech = 0.0, list[Span]()
    for silence_sec, sec in lengths:
        speech.append(Span(now + silence_sec, now + silence_sec + sec))
        now = speech[-1].end_sec
    words = [
        Word(f" {place}", start, start + sec, 0.5)
        for place, (start, sec) in enumerate(sorted(times))
    ]
    placed = place_words(words, speech)
    assert [word.text for own in placed for word in own] == [word.text for word in words]
    for own, span in zip(placed, speech, strict=True):
        edges = [edge for word in own for edge in (word.start_sec, word.end_sec)]
        assert edges == sorted(edges)
        assert all(span.start_sec <= edge <= span.end_sec for edge in edges)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.5, 2), st.integers(1, 8)), min_size=1, max_size=6),
    st.lists(st.floats(-0.3, 0.3), min_size=60, max_size=60),
)
def test_words_that_are_off_by_less_than_the_pause_are_placed_right(
    lengths: list[tuple[float, int]], drifts: list[float]
) -> None:
    now, speech, words = 0.0, list[Span](), list[Word]()
    truth: list[list[str]] = []
    drift = iter(drifts)
    for silence_sec, count in lengths:
        start = now + silence_sec
        now = start + 0.4 * count
        speech.append(Span(start, now))
        truth.append([f" {len(words) + k}{'.' * (k == count - 1)}" for k in range(count)])
        for place, text in enumerate(truth[-1]):
            off = next(drift)
            begin = start + 0.4 * place + off
            words.append(Word(text, begin, begin + 0.4, 0.5))
    placed = place_words(words, speech)
    assert [[word.text for word in own] for own in placed] == truth
