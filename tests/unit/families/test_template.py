"""Tests of text templates."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_ft.errors import ConfigError
from csm_ft.families.template import TextTemplate

ANGRY = {"emotion": "angry"}


@pytest.mark.parametrize(
    ("pattern", "tags", "expected"),
    [
        ("[{speaker}]{text}", ANGRY, "[anna]Hi?"),
        ("{text}", ANGRY, "Hi?"),
        ("[{speaker}]<{emotion}>{text}", ANGRY, "[anna]<angry>Hi?"),
        ("[{speaker}]<{emotion}>?{text}", {}, "[anna]Hi?"),
        ("[{speaker}] <{emotion}>? {text}", {}, "[anna] Hi?"),
        ("[{speaker}]<{emotion}>?({style})? {text}", {"style": "low"}, "[anna](low) Hi?"),
        ("({emotion}, {style}) {text}", {**ANGRY, "style": "low"}, "(angry, low) Hi?"),
        ("{text}?", ANGRY, "Hi??"),
        ("{{{emotion}}}?{text}", ANGRY, "{angry}Hi?"),
        ("{{{emotion}}}?{text}", {}, "Hi?"),
        ("{emotion}: {text}", ANGRY, "angry: Hi?"),
        ("<{Emotion}>{text}", {"emotion": "怒り"}, "<怒り>Hi?"),
    ],
)
def test_rendered_text(pattern: str, tags: dict[str, str], expected: str) -> None:
    assert TextTemplate(pattern).render("Hi?", "anna", tags) == expected


@pytest.mark.parametrize(
    ("pattern", "tags", "around"),
    [
        ("[{speaker}]<{emotion}>?{text}", ANGRY, ("[anna]<angry>", "")),
        ("<{emotion}>?{text}", {}, ("", "")),
        ("{text} ({emotion})", ANGRY, ("", " (angry)")),
    ],
)
def test_what_stands_around_the_text(
    pattern: str, tags: dict[str, str], around: tuple[str, str]
) -> None:
    assert TextTemplate(pattern).around("anna", tags) == around


def test_optional_speaker_is_left_out() -> None:
    assert TextTemplate("[{speaker}]?{text}").render("Hi", "", {}) == "Hi"
    assert TextTemplate("[{speaker}]{text}").render("Hi", "", {}) == "[]Hi"


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("[{speaker}]", "no {text}"),
        ("{text}{text}", "twice"),
        ("{text", "expected '}'"),
        ("{text}{}", "no name of a column"),
        ("{text}{0}", "no name of a column"),
        ("{text}{emotion.__class__}", "no name of a column"),
        ("{text}{emotion!r}", "neither : nor !"),
        ("{text}{emotion:>9}", "neither : nor !"),
    ],
)
def test_bad_template_is_refused(pattern: str, problem: str) -> None:
    with pytest.raises(ConfigError, match="text_template") as caught:
        TextTemplate(pattern)
    assert problem in str(caught.value)


def test_missing_column_names_the_way_out() -> None:
    template = TextTemplate("<{emotion}>({style})?{text}")
    assert (template.columns, template.needed) == (("emotion", "style"), ("emotion",))
    assert "emotion is missing" in template.problem({"style": "low"})
    assert template.problem(ANGRY) == ""


@pytest.mark.parametrize("value", ["a>b", "<b", "a\nb"])
def test_tag_with_its_own_brackets_is_refused(value: str) -> None:
    assert "brackets" in TextTemplate("<{emotion}>{text}").problem({"emotion": value})


def test_tags_may_have_spaces_and_other_brackets() -> None:
    assert TextTemplate("<{emotion}>{text}").problem({"emotion": "very angry (loud)"}) == ""


words = st.text(st.characters(blacklist_characters="<>", blacklist_categories=["Cs", "Cc"]))


@given(text=words, emotion=words)
def test_values_are_never_read_as_templates(text: str, emotion: str) -> None:
    template = TextTemplate("[{speaker}]<{emotion}>{text}")
    assert template.render(text, "{text}", {"emotion": emotion}) == f"[{{text}}]<{emotion}>{text}"
