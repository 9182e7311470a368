"""Texts that are spoken: what the text stream may be, and when a sample ends."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csm_ft.families.moshi.interleave import Interleaver, TimedTokens
from csm_ft.families.moshi.script import Script

PAD, END = 3, 0
WORDS = st.lists(st.lists(st.integers(4, 99), min_size=1, max_size=4), min_size=1, max_size=6)


def script_of(*words: list[int]) -> Script:
    script = Script.of_prompt(Script.to_arrays(words), [PAD, END])
    assert script is not None
    return script


def test_words_come_in_order_and_whole() -> None:
    script = script_of([10, 11], [12])
    assert script.allowed() == [PAD, END, 10]
    for id_, then in ((PAD, [PAD, END]), (END, [10]), (10, [11]), (11, [PAD, END, 12])):
        script.advance(id_)
        assert script.allowed() == then
    assert not script.is_spoken
    script.advance(12)
    assert script.is_spoken
    assert script.num_spoken_frames == 5
    assert script.allowed() == [PAD]
    script.advance(PAD)
    assert script.num_spoken_frames == 5


def test_prompt_without_a_text_has_none() -> None:
    assert Script.of_prompt({"tokens": np.zeros((1, 1))}, [PAD, END]) is None


@settings(deadline=None)
@given(WORDS, st.integers(0, 1000))
def test_any_choice_speaks_the_words(words: list[list[int]], seed: int) -> None:
    script, stream = script_of(*words), list[int]()
    random = np.random.default_rng(seed)
    for _ in range(300):
        stream.append(int(random.choice(script.allowed())))
        script.advance(stream[-1])
    assert script.is_spoken
    said = [id_ for id_ in stream if id_ not in (PAD, END)]
    assert said == [token for word in words for token in word]
    for before, after in itertools.pairwise(stream):
        assert before != END or after not in (PAD, END)


@settings(deadline=None)
@given(WORDS, st.lists(st.integers(0, 12), min_size=6, max_size=6))
@pytest.mark.parametrize("rule", ["shift", "characters"])
def test_every_laid_out_text_is_allowed(rule: str, words: list[list[int]], gaps: list[int]) -> None:
    pieces = [[id_] for word in words for id_ in word] if rule == "characters" else words
    starts = np.cumsum([gaps[i % 6] for i in range(len(pieces))]).tolist()
    timed = [TimedTokens(s + 0.5, s + 1.5, p) for s, p in zip(starts, pieces, strict=True)]
    interleaver = Interleaver(rule, 1.0, PAD, END)  # pyright: ignore[reportArgumentType]
    stream, lost = interleaver.window(timed, 0, int(starts[-1]) + 40)
    assert lost == 0
    script = script_of(*pieces)
    for id_ in stream.tolist():
        assert id_ in script.allowed()
        script.advance(id_)
    assert script.is_spoken
