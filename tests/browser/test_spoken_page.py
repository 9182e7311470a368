"""The page of csm_ft.generate in a real browser, opened from a file."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from csm_ft.report.spoken import build_index
from tests.browser.test_report_page import (
    NASTY,
    Watched,
    browser,  # noqa: F401 - a fixture
    now_playing,
    wait_for,
    wait_until_loaded,
)
from tests.unit.report.test_spoken import take

pytestmark = pytest.mark.browser


@pytest.fixture
def watched(
    browser: Any,  # noqa: F811
    tmp_path: Path,
) -> Iterator[Watched]:
    for number in (1, 2):
        take(tmp_path, f"001-nasty-take{number}", NASTY, number=number)
    take(tmp_path, "002-yes", "Yes.", context=[{"speaker": "ben", "text": NASTY}])
    facts = json.loads((tmp_path / "002-yes.json").read_text())
    facts |= {"prompt_sec": 0.4, "captions": [[0.0, "Yes"], [0.5, " indeed"], [30.0, " never"]]}
    (tmp_path / "002-yes.json").write_text(json.dumps(facts))
    opened = Watched(browser, build_index(tmp_path))
    yield opened
    opened.close()


def test_every_recording_decodes(watched: Watched) -> None:
    wait_until_loaded(watched.page)
    durations = watched.page.evaluate(
        "[...document.querySelectorAll('audio')].map((a) => a.duration)"
    )
    assert len(durations) == 3
    assert all(0.9 < duration < 1.3 for duration in durations)
    expect(watched.page.locator(".sentence").nth(1)).to_contain_text("after 1 turn of context")


def test_one_plays_and_arrows_walk(watched: Watched) -> None:
    wait_until_loaded(watched.page)
    buttons = watched.page.locator(".play")
    buttons.nth(0).focus()
    watched.page.keyboard.press("Space")
    wait_for(watched.page, "!document.querySelectorAll('audio')[0].paused")
    watched.page.keyboard.press("ArrowRight")
    wait_for(watched.page, "!document.querySelectorAll('audio')[1].paused")
    assert now_playing(watched.page) == [1]
    watched.page.keyboard.press("ArrowUp")
    expect(buttons.nth(1)).to_be_focused()
    buttons.nth(0).focus()
    watched.page.keyboard.press("ArrowDown")
    expect(buttons.nth(2)).to_be_focused()


def test_words_run_along_and_lead_to_their_sound(watched: Watched) -> None:
    wait_until_loaded(watched.page)
    words = watched.page.locator(".captions span")
    words.nth(1).click()
    wait_for(watched.page, "!document.querySelectorAll('audio')[2].paused")
    expect(words.nth(1)).to_have_class("now")
    assert watched.page.evaluate("document.querySelectorAll('audio')[2].currentTime") >= 0.5
    # At the end nothing is said.
    wait_for(watched.page, "document.querySelectorAll('audio')[2].paused")
    expect(watched.page.locator(".captions .now")).to_have_count(0)
    assert words.nth(0).get_attribute("class") == "given"


@pytest.mark.parametrize("width", [390, 1280])
def test_page_fits_any_width(watched: Watched, width: int) -> None:
    watched.page.set_viewport_size({"width": width, "height": 800})
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= width
