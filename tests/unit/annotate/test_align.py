"""A transcript laid over what was heard."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given

from csm_ft.annotate.align import SpeechClock, Turn, align
from csm_ft.evaluate.recognise import Word
from csm_ft.segment.speech import Stretch


def stretch(*words: tuple[str, float, float]) -> Stretch:
    heard = tuple(Word(f" {text}", start, end, None) for text, start, end in words)
    return Stretch(words[0][1], words[-1][2], heard)


def times(turns: list[Turn], *stretches: Stretch, duration_sec: float = 10.0) -> list[tuple]:
    return [tuple(word)[:3] for word in align(turns, stretches, 0, duration_sec).words]


HEARD = stretch(("good", 1.0, 1.4), ("morning", 1.4, 2.1), ("Anna", 2.1, 2.5))


def test_words_have_the_times_of_what_was_heard() -> None:
    found = times([Turn("Good morning, Anna!", 0)], HEARD)
    assert [word for word, *_ in found] == ["Good", "morning,", "Anna!"]
    assert [pair[1:] for pair in found] == [
        pytest.approx(pair, abs=1e-3) for pair in [(1.0, 1.4), (1.4, 2.1), (2.1, 2.5)]
    ]


def test_words_cut_otherwise_share_the_time_by_letters() -> None:
    found = times([Turn("goodmorning anna", 0)], HEARD)
    assert found[0] == ("goodmorning", pytest.approx(1.0), pytest.approx(2.1, abs=1e-3))


def test_script_without_blanks_is_aligned_by_letters() -> None:
    heard = stretch(("おはよう", 1.0, 1.8), ("ござい", 1.8, 2.4), ("ます", 2.4, 2.8))
    (word,) = times([Turn("おはようございます", 0)], heard)
    assert word[1:] == (pytest.approx(1.0), pytest.approx(2.8, abs=1e-3))


def test_word_that_was_not_heard_lies_between_its_neighbours() -> None:
    heard = Stretch(1.0, 4.0, (Word(" good", 1.0, 1.4, None), Word(" Anna", 3.0, 3.5, None)))
    found = times([Turn("good morning anna", 0)], heard)
    assert found[1] == ("morning", pytest.approx(1.4, abs=0.01), pytest.approx(3.0, abs=0.01))


def test_no_word_lies_over_a_pause() -> None:
    first, second = stretch(("good", 1.0, 1.4)), stretch(("evening", 6.0, 6.6), ("Anna", 6.6, 7.0))
    for _, start, end in times([Turn("good morning evening anna", 0)], first, second):
        assert end <= 1.4 + 1e-6 or start >= 6.0 - 1e-6


def test_only_the_speaker_of_the_channel_is_aligned() -> None:
    turns = [Turn("good morning", 0), Turn("hello", 1), Turn("Anna", 0)]
    assert [word for word, *_ in times(turns, HEARD)] == ["good", "morning", "Anna"]


def test_turn_with_times_keeps_them_where_nothing_was_heard() -> None:
    found = times([Turn("good morning anna", 0, 0.9, 2.6), Turn("yes no", 0, 8.0, 9.0)], HEARD)
    assert found[:3] == times([Turn("good morning anna", 0)], HEARD)
    assert found[3][:2] == ("yes", 8.0)
    assert found[4][2] == pytest.approx(9.0)


def test_share_of_heard_letters_tells_another_text() -> None:
    right = align([Turn("good morning anna", 0)], [HEARD], 0, 10.0)
    wrong = align([Turn("we sell used cars", 0)], [HEARD], 0, 10.0)
    assert (right.num_heard, right.num_letters) == (15, 15)
    assert wrong.num_heard < 0.3 * wrong.num_letters


LETTERS = st.sampled_from("abcdeé ''")


@example(["é a", "b"], [("é", 0.0, 1.0), ("b", 0.0, 0.0)])
@given(
    st.lists(st.text(LETTERS, max_size=8), max_size=6),
    st.lists(st.tuples(st.text(LETTERS, max_size=6), st.floats(0, 9), st.floats(0, 2)), max_size=8),
)
def test_every_word_is_kept_in_order_within_the_sound(
    texts: list[str], heard: list[tuple[str, float, float]]
) -> None:
    ordered = sorted(heard, key=lambda one: one[1])
    stretches = [
        Stretch(start, min(10.0, start + sec), (Word(text, start, min(10.0, start + sec), None),))
        for text, start, sec in ordered
    ]
    aligned = align([Turn(text, 0) for text in texts], stretches, 0, 10.0)
    assert [word.text for word in aligned.words] == " ".join(texts).split()
    starts = [word.start_sec for word in aligned.words]
    assert starts == sorted(starts)
    assert all(0 <= word.start_sec <= word.end_sec <= 10.0 for word in aligned.words)


@given(st.lists(st.floats(0, 100), max_size=8).filter(lambda edges: len(edges) % 2 == 0))
def test_speech_clock_reads_back(edges: list[float]) -> None:
    ordered = sorted(edges)
    clock = SpeechClock(zip(ordered[::2], ordered[1::2], strict=True), 100.0)
    times_sec = np.linspace(0, 100, 41)
    assert clock.time_sec(clock.speech_sec(times_sec)) == pytest.approx(times_sec, abs=1e-6)
