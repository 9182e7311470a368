"""Constraints: how they are written, when they are violated, which cannot be asked for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_ft.errors import ConfigError, SweepError
from csm_ft.evaluate.metrics import METRICS
from csm_ft.families.csm.config import CsmConfig
from csm_ft.sweep.config import SweepConfig
from csm_ft.sweep.constraints import (
    Constraint,
    check_measured,
    check_request,
    parse_all,
    violated,
)

NAMES = st.sampled_from(["val_loss", *METRICS])
SIGNS = st.sampled_from(["<=", ">="])
BOUNDS = st.floats(-1e6, 1e6)
BLANKS = st.text(" \t", max_size=2)


@given(NAMES, SIGNS, BOUNDS, BLANKS)
def test_what_is_written_is_read(name: str, sign: str, bound: float, blank: str) -> None:
    found = Constraint.parse(f"{blank}{name}{blank}{sign}{blank}{bound!r}{blank}")
    assert (found.metric, found.sign, found.bound) == (name, sign, bound)
    again = Constraint.parse(str(found))
    assert (again.metric, again.sign, again.bound) == (name, sign, pytest.approx(bound))


@given(NAMES, SIGNS, BOUNDS, BOUNDS)
def test_violated_is_the_wrong_side(name: str, sign: str, bound: float, value: float) -> None:
    one = Constraint.parse(f"{name}{sign}{bound!r}")
    is_met = value <= bound if sign == "<=" else value >= bound
    assert (violated([one], {name: value}) == []) == is_met


@given(st.text(max_size=12).filter(lambda text: "<=" not in text and ">=" not in text))
def test_anything_else_is_refused_with_the_grammar(text: str) -> None:
    with pytest.raises(ValueError, match="write METRIC<=NUMBER or METRIC>=NUMBER"):
        Constraint.parse(text)


@pytest.mark.parametrize(
    "text", ["cer", "cer<0.1", "cer==0.1", "cer<=", "cer<=much", "cer<=inf", "cer<=nan", "<=0.1"]
)
def test_slips_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no constraint"):
        Constraint.parse(text)


def test_a_number_that_is_missing_violates() -> None:
    one = Constraint.parse("similarity>=0.7")
    assert one.violation({}) == one.violation({"similarity": None}) == 1
    assert one.describe({}) == "similarity was not measured, similarity>=0.7 is asked for"
    assert one.describe({"similarity": 0.5}) == "similarity is 0.5, similarity>=0.7 is asked for"


@pytest.mark.parametrize(
    "given", ["cer<=0.1, wer <= 0.3", ["cer<=0.1", "wer<=0.3"], ["cer<=0.1,wer<=0.3"]]
)
def test_lists_and_repetitions_mean_the_same(given: object) -> None:
    assert SweepConfig.model_validate({"constraint": given}).constraint == ["cer<=0.1", "wer<=0.3"]


@pytest.mark.parametrize(
    ("constraint", "options", "message"),
    [
        ("cer<=0.1", {}, "cer is a judged number, and nothing is judged with judge_every 0"),
        ("wre<=0.1", {"judge_every": "1/3"}, "did you mean wer? Known: val_loss, wer, cer"),
        ("val_loss<=3", {"judge_every": "100"}, "counts optimiser steps"),
    ],
)
def test_refused_before_anything_runs(
    constraint: str, options: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        check_request(parse_all([constraint]), CsmConfig(**options))  # pyright: ignore[reportArgumentType]
    assert message in str(error.value)


JUDGED = {"judges": {"voice": "fake"}, "judges_missing": ["no recogniser: not installed"]}


@pytest.mark.parametrize("text", ["val_loss<=3", "similarity>=0.5", "stopped>=0.9"])
def test_what_is_measured_may_be_asked_for(text: str) -> None:
    check_measured(parse_all([text]), {"val_loss": 4.0}, JUDGED)


@pytest.mark.parametrize(
    ("text", "environment", "message"),
    [
        ("val_lose<=3", JUDGED, "val_lose is not measured; did you mean val_loss?"),
        ("wer<=0.3", JUDGED, "no recogniser: not installed"),
        ("similarity>=0.5", {}, "similarity is not measured. Known: val_loss"),
    ],
)
def test_what_is_not_measured_is_refused(
    text: str, environment: dict[str, object], message: str
) -> None:
    with pytest.raises(SweepError) as error:
        check_measured(parse_all([text]), {"val_loss": 4.0}, environment)
    assert message in str(error.value)
