"""Words for numbers and times."""

from typing import Any

import pytest

from csm_ft.report import templating


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "–"), (0.4, "0 s"), (59.6, "1 min 00 s"), (252, "4 min 12 s"), (7500, "2 h 05 min")],
)
def test_durations_read_naturally(seconds: float | None, words: str) -> None:
    assert templating.duration(seconds) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "–"),
        (True, "true"),
        (3e-5, "3e-05"),
        (0.123456, "0.1235"),
        (1440.0, "1,440"),
        ("5%", "5%"),
    ],
)
def test_parameters_are_short(value: Any, words: str) -> None:
    assert templating.short(value) == words


@pytest.mark.parametrize(
    "text",
    [
        "2026-03-01T10:00:00+00:00",
        "2026-03-01T10:00:00",
        "2026-03-01T12:00:00+02:00",
        "1772359200.0",
    ],
)
def test_moments_are_read(text: str) -> None:
    moment = templating.moment(text)
    assert moment is not None
    assert moment.isoformat() == "2026-03-01T10:00:00+00:00"
    assert templating.moment("yesterday") is None
