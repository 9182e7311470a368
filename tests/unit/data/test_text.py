"""Error rates against hand-counted pairs; texts as they are scored."""

from importlib.metadata import version

import pytest

from csm_ft.data.text import (
    character_errors,
    in_capitals,
    mark_errors,
    normalise,
    open_normaliser,
    set_case,
    word_errors,
)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "counts"),
    [
        ("a b c", "a b c", (0, 0, 0, 3)),
        ("a b c", "a x c", (1, 0, 0, 3)),
        ("a b c", "a c", (0, 1, 0, 3)),
        ("a b c", "a b c d e", (0, 0, 2, 3)),
        ("a b", "", (0, 2, 0, 2)),
        ("", "a b", (0, 0, 2, 0)),
        ("", "", (0, 0, 0, 0)),
    ],
)
def test_words_are_counted_by_hand(
    reference: str, hypothesis: str, counts: tuple[int, ...]
) -> None:
    found = word_errors([reference], [hypothesis])
    kinds = (found.substitutions, found.deletions, found.insertions, found.num_reference)
    assert kinds == counts


def test_rate_is_of_the_corpus() -> None:
    references, hypotheses = ["a", "b c d e f g h i j"], ["x", "b c d e f g h i j"]
    assert word_errors(references, hypotheses).rate == pytest.approx(0.1)  # mean of rates: 0.5


def test_insertions_alone_have_a_rate() -> None:
    assert word_errors(["a", ""], ["a", "b c"]).rate == 2.0


def test_characters_count_blanks() -> None:
    assert character_errors(["ab c"], ["abc"]).rate == pytest.approx(1 / 4)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, World!", "hello world"),
        ("Don't  stop -- 'now'", "don't stop now"),
        ("It’s 5 o’clock.", "it's 5 o'clock"),
        ("Ça va ?", "ça va"),
        ("ﬁne", "fine"),
        ("日本語。テスト", "日本語 テスト"),
        ("...", ""),
    ],
)
def test_texts_are_normalised_before_scoring(text: str, expected: str) -> None:
    assert normalise(text) == expected
    assert normalise(expected) == expected


@pytest.mark.parametrize(
    ("case", "expected"), [("keep", "NASA said"), ("lower", "nasa said"), ("sentence", "Nasa said")]
)
def test_case_is_set(case: str, expected: str) -> None:
    assert set_case("NASA said", case) == expected


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "Mr. Smith paid twenty-one dollars, didn't he?", "mister smith paid $21 did not he"),
        ("en-GB", "The colour, um, of [noise] it", "the color of it"),
        ("fr", "Ça va ? L'été (rires) !", "ça va l été"),
        ("", "Twenty-one, Mr. Smith.", "twenty one mr smith"),
    ],
)
def test_rules_are_those_of_whisper(language: str, text: str, expected: str) -> None:
    rules = open_normaliser(language)
    assert rules.apply(text).strip() == expected
    assert rules.name.startswith("english" if language.startswith("en") else "basic")
    assert rules.name.endswith(version("whisper-normalizer"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("HE SAID NO 3", True), ("He said NO", False), ("NASA", False), ("日本 語", False)],
)
def test_capitals(text: str, expected: bool) -> None:
    assert in_capitals(text) is expected


@pytest.mark.parametrize(
    ("reference", "transcript", "expected"),
    [
        ("Yes, I did.", "yes i did", "yes i did"),
        ("turn left now", "turn now", "turn -left now"),
        ("turn now", "turn left now", "turn +left now"),
        ("a b c", "a x y c", "a +x -b +y c"),
        ("", "so", "+so"),
        ("so", "", "-so"),
        ("it's \u2013 here", "its \u2013 here", "-it's +its \u2013 here"),
    ],
)
def test_errors_are_marked_in_their_places(reference: str, transcript: str, expected: str) -> None:
    signs = {"": "", "missing": "-", "extra": "+"}
    marked = [f"{signs[word.mark]}{word.text}" for word in mark_errors(reference, transcript)]
    assert " ".join(marked) == expected
