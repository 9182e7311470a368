"""The page of an evaluation in a real browser: it fits a phone, plays, and its tables sort."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from csm_ft.evaluate.results import Evaluation
from csm_ft.report.evaluation import write_page
from tests.browser.test_report_page import (
    Watched,
    browser,  # noqa: F401 - a fixture
    wait_until_loaded,
)
from tests.unit.report.test_evaluation import row_of

pytestmark = pytest.mark.browser


@pytest.fixture
def watched(
    browser: Any,  # noqa: F811
    tmp_path: Path,
) -> Iterator[Watched]:
    rows = [
        row_of("mumbler", "model", 0.6, 0.9, tmp_path),
        row_of("stranger", "base", 0.1, 0.5, tmp_path),
        row_of("after the codec", "codec", 0.3, 0.9, tmp_path),
    ]
    opened = Watched(browser, write_page(Evaluation("run", rows, {}, [], []), tmp_path))
    yield opened
    opened.close()


def names(watched: Watched) -> list[str]:
    return watched.page.locator("#numbers tbody th").all_inner_texts()[:3]


def test_every_recording_decodes(watched: Watched) -> None:
    wait_until_loaded(watched.page)
    durations = watched.page.evaluate(
        "[...document.querySelectorAll('audio')].map((a) => a.duration)"
    )
    assert len(durations) == 24
    assert all(duration > 0.1 for duration in durations)


def test_table_sorts_by_a_column(watched: Watched) -> None:
    head = watched.page.get_by_role("button", name="Word errors")
    head.click()
    assert names(watched) == ["stranger", "after the codec", "mumbler"]
    head.click()
    assert names(watched) == ["mumbler", "after the codec", "stranger"]


@pytest.mark.parametrize("width", [390, 1280])
def test_page_fits_any_width(watched: Watched, width: int) -> None:
    watched.page.set_viewport_size({"width": width, "height": 800})
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= width
