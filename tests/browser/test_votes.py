"""Blind comparison in a real browser: from a file, and served while the sweep goes on."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from csm_ft.report import watch
from csm_ft.report.__main__ import main
from csm_ft.report.data import read_summary
from csm_ft.report.page import build_report
from csm_ft.report.watch import Server
from csm_ft.runs.folder import SweepFolder
from csm_ft.sweep.votes import add_votes, parse_votes, read_votes
from tests.browser.test_report_page import (
    CONTRASTS,
    Watched,
    browser,  # noqa: F401 - a fixture
    now_playing,
    wait_for,
)
from tests.helpers.sweep_folder import make_sweep, write_summary
from tests.helpers.voting import ballot, make_vote

pytestmark = pytest.mark.browser


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    make_sweep(tmp_path, num_trials=4)
    return tmp_path


@pytest.fixture
def server(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(watch, "POLL_SEC", 0.0)
    summary = json.loads((sweep / "summary.json").read_text())
    write_summary(sweep, {**summary, "state": "running"})
    made = Server(sweep, watch._sweep_page(sweep), takes_votes=True, port=0)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def served(
    browser: Browser,  # noqa: F811
    server: Server,
) -> Iterator[Watched]:
    opened = Watched(browser, server.url)
    yield opened
    opened.close()


def listen_to_both(page: Page, first: str = "1", second: str = "2") -> None:
    for key, side in ((first, "left"), (second, "right")):
        page.keyboard.press(key)
        expect(page.locator(f'[data-blind="{side}"]')).to_have_class("player playing heard")


def vote(page: Page, key: str) -> None:
    listen_to_both(page)
    page.keyboard.press(key)


def test_votes_from_a_file_are_kept_and_saved(
    browser: Browser,  # noqa: F811
    sweep: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    opened = Watched(browser, build_report(sweep))
    page = opened.page
    expect(page.locator("#blind")).to_be_hidden()
    page.get_by_role("button", name="Compare blind").click()
    panel = page.locator("#blind")
    expect(panel.get_by_role("button", name="A is better")).to_be_disabled()
    page.keyboard.press("a")  # nobody has listened yet
    expect(panel).to_contain_text("0 of your votes")
    vote(page, "a")
    expect(panel).to_contain_text("1 of your votes")
    vote(page, "t")
    page.keyboard.press("s")
    expect(panel).to_contain_text("Skipped.")
    vote(page, "b")
    expect(panel).to_contain_text("3 of your votes")
    expect(panel).to_contain_text("3 kept in this browser, not in votes.json yet.")
    page.reload()
    expect(panel).to_contain_text("3 of your votes")  # open again, with all of them
    with page.expect_download() as download:
        panel.get_by_role("button", name="Download votes.json").click()
    saved = tmp_path_factory.mktemp("downloads") / download.value.suggested_filename
    download.value.save_as(saved)
    assert saved.name == "votes.json"
    votes = read_votes(saved, read_summary(SweepFolder(sweep)))
    assert [one.choice for one in votes] == ["left", "tie", "right"]
    assert len({one.voter for one in votes}) == 1
    opened.close()
    assert main([str(sweep), "--votes", str(saved)]) == 0
    opened = Watched(browser, sweep / "report.html")
    expect(opened.page.locator("#preference")).to_contain_text("3 blind votes by 1 listener")
    opened.close()


def test_nothing_tells_who_plays_until_it_is_asked_for(
    browser: Browser,  # noqa: F811
    sweep: Path,
) -> None:
    opened = Watched(browser, build_report(sweep))
    page = opened.page
    page.locator("#blind-open").click()
    panel = page.locator("#blind")
    vote(page, "a")
    assert not any(word in panel.inner_text() for word in ("trial", "base model", "default"))
    panel.get_by_label("Tell after each vote who was who").check()
    listen_to_both(page, "ArrowLeft", "ArrowRight")
    page.keyboard.press("b")
    expect(panel.locator('[data-blind="last"]')).to_contain_text("You chose B: A was ")
    opened.close()


def test_pairs_are_spread_and_sides_are_drawn(
    browser: Browser,  # noqa: F811
    sweep: Path,
) -> None:
    """Votes one after the other, without listening to every one: as far as a click can."""
    opened = Watched(browser, build_report(sweep))
    page = opened.page
    page.locator("#blind-open").click()
    for _ in range(20):
        page.locator('[data-blind="left"] audio').dispatch_event("play")
        page.locator('[data-blind="right"] audio').dispatch_event("play")
        page.keyboard.press("t")
    expect(page.locator("#blind")).to_contain_text("20 of your votes · 10 of 10 pairs compared")
    kept = page.evaluate("JSON.parse(Object.values(localStorage)[0]).votes")
    pairs = [frozenset((str(one["left"]), str(one["right"]))) for one in kept]
    assert {pairs.count(pair) for pair in set(pairs)} == {2}  # five contenders, each pair twice
    places = [(pair, one["prompt"]) for pair, one in zip(pairs, kept, strict=True)]
    assert len(set(places)) == 20  # on both prompts
    in_order = [str(one["left"]) < str(one["right"]) for one in kept]
    assert 2 < sum(in_order) < 18
    opened.close()


def test_served_votes_reach_the_folder_and_the_page(served: Watched, sweep: Path) -> None:
    page = served.page
    page.locator("#blind-open").click()
    vote(page, "a")
    expect(page.locator("#blind")).to_contain_text("All saved in votes.json.")
    stored = json.loads((sweep / "votes.json").read_text())["votes"]
    assert [one["choice"] for one in stored] == ["left"]
    expect(page.locator("#preference")).to_contain_text("1 blind vote by 1 listener")
    expect(page.locator("#table thead")).to_contain_text("preference")
    page.reload()
    expect(page.locator("#blind")).to_contain_text("1 of your votes · 1 of 10 pairs compared")


def test_votes_wait_for_a_server_that_has_ended(served: Watched, server: Server) -> None:
    page = served.page
    page.locator("#blind-open").click()
    page.route("**/votes", lambda route: route.abort())
    vote(page, "a")
    expect(page.locator("#blind")).to_contain_text("1 not in votes.json yet.")
    page.unroute("**/votes")
    vote(page, "b")
    expect(page.locator("#blind")).to_contain_text("All saved in votes.json.")
    assert server.num_votes == 2
    served.complaints.clear()  # the browser itself reports the aborted request


def test_page_follows_the_sweep_without_losing_its_place(served: Watched, sweep: Path) -> None:
    page = served.page
    page.select_option("#other", "t3")
    rate = page.locator("#table thead th", has_text="learning_").locator("button")
    rate.click()
    rate.click()
    page.locator("#blind-open").click()
    page.keyboard.press("1")
    expect(page.locator('[data-blind="left"]')).to_have_class("player playing heard")
    asked = page.locator('[data-blind="text"]').inner_text()
    summary = json.loads((sweep / "summary.json").read_text())
    verdict = {"text": "Trial 3 is news."}
    summary["trials"][3]["value"] = 1.234
    write_summary(sweep, {**summary, "verdict": verdict})
    expect(page.locator(".verdict")).to_have_text("Trial 3 is news.")
    expect(page.locator("#table")).to_contain_text("1.234")
    heads = page.locator('#table th[aria-sort="descending"]')
    expect(heads).to_have_count(1)
    expect(heads).to_contain_text("learning_")
    assert page.locator('[data-blind="text"]').inner_text() == asked
    expect(page.locator('[data-blind="left"]')).to_contain_class("heard")
    expect(page.locator("#other")).to_have_value("t3")
    wait_for(page, "document.querySelectorAll('.chart .main-svg').length > 4")
    write_summary(sweep, {**summary, "state": "finished"})
    expect(page.locator(".badge").first).to_have_text("finished")


def test_room_waits_while_it_plays(served: Watched, sweep: Path) -> None:
    page = served.page
    page.locator("#listen .play").nth(1).click()
    page.evaluate("document.querySelectorAll('#listen audio')[1].loop = true")
    assert len(now_playing(page)) == 1
    summary = json.loads((sweep / "summary.json").read_text())
    summary["trials"][3]["value"] = 1.234  # its place in the menu
    write_summary(sweep, {**summary, "best": 1, "verdict": {"text": "News."}})
    expect(page.locator(".verdict")).to_have_text("News.")
    assert len(now_playing(page)) == 1
    expect(page.locator("#other")).not_to_contain_text("1.234")
    page.locator("#listen .play").nth(1).click()
    expect(page.locator("#other")).to_contain_text("1.234")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_panel_and_leaderboard_are_readable(
    browser: Browser,  # noqa: F811
    sweep: Path,
    scheme: Any,
    width: int,
) -> None:
    folder = SweepFolder(sweep)
    summary = read_summary(folder)
    votes = json.dumps(ballot(summary, [make_vote(1, 3, 0), make_vote(2, 1, "base")])).encode()
    add_votes(folder, summary, parse_votes(votes, "here", summary))
    view = {"width": width, "height": 800}
    opened = Watched(browser, build_report(sweep), viewport=view, color_scheme=scheme)
    opened.page.locator("#blind-open").click()
    opened.page.select_option("#other", "all")
    vote(opened.page, "a")
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    assert [c for c in opened.page.evaluate(CONTRASTS) if c["ratio"] < 4.5] == []
    opened.close()


def test_all_trials_stand_side_by_side(
    browser: Browser,  # noqa: F811
    sweep: Path,
) -> None:
    opened = Watched(browser, build_report(sweep))
    opened.page.select_option("#other", "all")
    row = opened.page.locator(".players").first
    heads = row.locator("figcaption:visible").all_inner_texts()
    assert heads[:2] == ["Real clip through the codec", "Base model"]
    assert sorted(int(head.split()[-1].strip(")")) for head in heads[2:]) == [0, 1, 2, 3]
    opened.close()
