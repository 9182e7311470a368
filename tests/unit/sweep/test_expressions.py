"""Options that follow from others: arithmetic, and nothing that could do more."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_ft.errors import ConfigError
from csm_ft.sweep.expressions import Expression
from csm_ft.sweep.request import parse
from csm_ft.sweep.rows import read_rows
from csm_ft.sweep.space import Space, make_space
from csm_ft.sweep.trials import DataFacts, plan_study


@given(a=st.integers(-9, 9), b=st.integers(1, 9))
def test_it_computes_what_python_computes(a: int, b: int) -> None:
    text = "-a * (b + 2.5) / b - a // b + a % b + min(a, b, 3) * max(a, 1) + round(a / b)"
    expected = -a * (b + 2.5) / b - a // b + a % b + min(a, b, 3) * max(a, 1) + round(a / b)
    assert Expression(text).value({"a": a, "b": b}) == expected
    assert Expression(text).names == ("a", "b")
    assert Expression("b ** 0.5").value({"b": b}) == b**0.5


@pytest.mark.parametrize(
    "text",
    [
        *("__import__('os').system('true')", "a.b", "a[0]", "[a]", "lambda: 1", "a if b else c"),
        *("'x' * 9", "open(a)", "min(*a)", "min(a, key=b)", "a == b", "True", "a @ b", "1 << 99"),
        *("", "2 *", "a = 1", "(" * 300),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be computed|is no expression"):
        Expression(text)


@pytest.mark.parametrize(
    ("text", "a", "message"),
    [
        ("1 / a", 0, "'1 / a' with a = 0: "),
        ("9 ** a ** 9", 99, "with a = 99"),
        ("a + 1", "linear", "a is not a number"),
        ("a + 1", True, "a is not a number"),
        ("a ** 0.5", -1, "root of a negative"),
    ],
)
def test_values_that_cannot_be_computed_with(text: str, a: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Expression(text).value({"a": a})
    assert message in str(error.value)


def space(tmp_path: Path, text: str, *argv: str) -> Space:
    (tmp_path / "space.yaml").write_text(text)
    return make_space(read_rows(tmp_path / "space.yaml", parse(list(argv))), 100)


RANK = "lora_rank: {type: categorical, values: [8, 32]}\n"


def test_options_follow_those_of_the_trial(tmp_path: Path) -> None:
    text = RANK + "lora_alpha: {type: expression, value: 2 * lora_rank}\n"
    text += "weight_decay: {type: expression, value: lora_alpha / batch_size / 1e3}\n"
    found = space(tmp_path, text, "--method", "lora", "--batch_size", "4")
    assert [p.name for p in found.parameters] == ["lora_rank"]
    assert found.compute({"lora_rank": 32}) == {"lora_alpha": 64, "weight_decay": 0.016}
    plan = plan_study(parse([]).sweep, found, DataFacts(100, "x"))
    assert plan.agreement["expression of lora_alpha"] == "2 * lora_rank"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("lora_alpha: {type: expression, value: 2 * lora_rnk}", "did you mean lora_rank?"),
        ("lora_alpha: {type: expression, value: 2 * }", "is no expression"),
        (
            "lora_alpha: {type: expression, value: 8 - lora_rank}",
            "with lora_rank 32: lora_alpha -24 is not above 0",
        ),
        ("batch_size: {type: expression, value: lora_rank / 5}", "batch_size: 6.4 is not valid"),
        ("lora_alpha: {type: expression, value: 1 / (lora_rank - 32)}", "with lora_rank 32: "),
        ("lora_alpha: {type: expression, value: lora_alpha + 1}", "form a circle"),
        ("seed: {type: expression, value: lora_rank}", "seed cannot be searched"),
        (
            "lora_alpha: {type: expression, value: lora_rank}\nlora_dropout: {type: float, min: 0,"
            " max: 0.1, when: {lora_alpha: 8}}",
            "lora_alpha is computed",
        ),
    ],
)
def test_mistakes_are_told_before_anything_runs(tmp_path: Path, row: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        space(tmp_path, RANK + row, "--method", "lora")
    assert str(error.value).startswith(str(tmp_path / "space.yaml"))
    assert words in str(error.value)


def test_given_and_computed_contradict_each_other(tmp_path: Path) -> None:
    text = RANK + "lora_alpha: {type: expression, value: 2 * lora_rank}"
    with pytest.raises(ConfigError, match=r"lora_alpha is computed here and given as .8."):
        space(tmp_path, text, "--method", "lora", "--lora_alpha", "8")
