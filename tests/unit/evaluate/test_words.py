"""Word errors, counted by hand."""

import pytest

from csm_ft.evaluate.words import compare_words


@pytest.mark.parametrize(
    ("text", "heard", "wer", "cer"),
    [
        ("The cat sat.", "the cat sat", 0.0, 0.0),
        ("The cat sat.", "the bat sat", 1 / 3, 1 / 11),
        ("The cat sat.", "the cat", 1 / 3, 4 / 11),
        ("The cat sat.", "the the cat sat", 1 / 3, 4 / 11),
        ("one two three four", "", 1.0, 1.0),
        ("L'été, déjà !", "l'été déja", 0.5, 0.1),
        ("hello", "good bye my friend", 4.0, None),
    ],
)
def test_errors_counted_by_hand(text: str, heard: str, wer: float, cer: float | None) -> None:
    found = compare_words(text, heard).values()
    assert found["wer"] == pytest.approx(wer)
    if cer is not None:
        assert found["cer"] == pytest.approx(cer)


@pytest.mark.parametrize(
    ("heard", "missing", "repeated"),
    [
        ("one two three four five six", 0, 0),
        ("one two three", 3, 0),
        ("one three four five six", 0, 0),
        ("one two three four five six four five six", 0, 3),
        ("one two three four five six a b c", 0, 0),
        ("", 6, 0),
    ],
)
def test_stretches(heard: str, missing: int, repeated: int) -> None:
    found = compare_words("one two three four five six", heard)
    assert (found.num_missing, found.num_repeated) == (missing, repeated)


def test_short_text_counts_as_a_stretch() -> None:
    assert compare_words("Yes.", "").num_missing == 1


def test_empty_text_has_no_stretches() -> None:
    found = compare_words("", "well well well")
    assert (found.num_missing, found.num_repeated) == (0, 0)
    assert found.words.insertions == 3
