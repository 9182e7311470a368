"""Words over frames: each rule against a slow reference, and what is cut."""

from itertools import pairwise

import numpy as np
import pytest

from csm_ft.families.moshi.interleave import Interleaver, Rule, TimedTokens, timed_tokens

PAD, END = 3, 0


def lay_out(rule: Rule, words: list[TimedTokens], stop: int, start: int = 0) -> list[int]:
    return Interleaver(rule, 0.08, PAD, END).window(words, start, stop)[0].tolist()


def slow_words(words: list[TimedTokens], num_frames: int, *, keeps: bool) -> list[int]:
    """Frame by frame, from the words that begin up to it; as kyutai's trainer describes it."""
    tokens: dict[int, list[int]] = {}
    waiting: list[int] = []
    for frame in range(num_frames):
        for word in words:
            if frame <= word.start_sec / 0.08 < frame + 1:
                waiting = [*waiting, *word.tokens] if keeps else list(word.tokens)
        tokens[frame], waiting = waiting[:1], waiting[1:]
    text = [one[0] if one else PAD for one in tokens.values()]
    for frame in range(1, num_frames):
        if tokens[frame] and not tokens[frame - 1]:
            text[frame - 1] = END
    return text


def slow_pieces(pieces: list[TimedTokens], num_frames: int) -> list[int]:
    """Each piece to its frame, or the next that is free, as J-Moshi's tool describes it."""
    text: list[int | None] = [None] * num_frames
    last = -1
    for piece in pieces:
        frame = max(int(piece.start_sec // 0.08), last + 1)
        if frame < num_frames:
            text[frame] = piece.tokens[0]
            last = frame
    before = [END if a is None and b is not None else a for a, b in pairwise(text)]
    return [PAD if one is None else one for one in [*before, text[-1]]]


def random_words(seed: int, num_frames: int, longest: int) -> list[TimedTokens]:
    random = np.random.default_rng(seed)
    starts = sorted(random.uniform(0, num_frames * 0.08, 12).tolist())
    sizes = random.integers(1, longest + 1, 12).tolist()
    return [
        TimedTokens(start, start + 0.3, random.integers(10, 30, size).tolist())
        for start, size in zip(starts, sizes, strict=True)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_rules_equal_slow_references(seed: int) -> None:
    words, pieces = random_words(seed, 40, 5), random_words(seed, 40, 1)
    assert lay_out("drop", words, 40) == slow_words(words, 40, keeps=False)
    assert lay_out("shift", words, 40) == slow_words(words, 40, keeps=True)
    assert lay_out("characters", pieces, 40) == slow_pieces(pieces, 40)


def test_later_word_cuts_off_or_waits() -> None:
    words = [
        TimedTokens(0.10, 0.40, [11, 12]),
        TimedTokens(0.55, 0.70, [21, 22, 23, 24, 25]),
        TimedTokens(0.75, 1.00, [31, 32]),
    ]
    dropped, shifted = (lay_out(rule, words, 14) for rule in ("drop", "shift"))
    assert dropped == [0, 11, 12, 3, 3, 0, 21, 22, 23, 31, 32, 3, 3, 3]
    assert shifted == [0, 11, 12, 3, 3, 0, 21, 22, 23, 24, 25, 31, 32, 3]


def test_window_has_the_words_that_begin_in_it() -> None:
    words = [TimedTokens(0.0, 0.3, [11, 12, 13]), TimedTokens(0.26, 0.5, [21])]
    assert lay_out("drop", words, 5, start=1) == [3, 0, 21, 3]
    assert lay_out("characters", words, 5, start=1) == [12, 13, 21, 3]


def test_lost_tokens_are_counted() -> None:
    words = [TimedTokens(0.0, 0.3, [11, 12, 13]), TimedTokens(0.09, 0.5, [21, 22])]
    rule = Interleaver("drop", 0.08, PAD, END)
    text, lost = rule.window(words, 0, 2)
    assert text.tolist() == [11, 21]
    assert lost == 3  # 12 and 13 are cut off, 22 is past the end


def test_word_without_a_length_is_counted() -> None:
    words = [TimedTokens(0.1, 0.1, [11, 12])]
    text, lost = Interleaver("drop", 0.08, PAD, END).window(words, 0, 4)
    assert (text.tolist(), lost) == ([PAD] * 4, 2)


def test_speakers_and_order_of_a_clip() -> None:
    table = np.array([[1.0, 1.2, 1, 2], [0.5, 0.6, 0, 1], [0.2, 0.4, 0, 2]])
    tokens = np.array([7, 8, 5, 1, 2], dtype=np.uint32)
    assert timed_tokens(table, tokens, 0) == [
        TimedTokens(0.2, 0.4, [1, 2]),
        TimedTokens(0.5, 0.6, [5]),
    ]
    assert timed_tokens(table, tokens, 1) == [TimedTokens(1.0, 1.2, [7, 8])]
    assert timed_tokens(np.zeros((0, 4)), tokens[:0], 0) == []
