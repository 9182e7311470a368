import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from csm_ft.report import page
from csm_ft.report.page import build_report
from csm_ft.report.run_page import build_run_page
from tests.helpers.sweep_folder import RANKED, add_judged, make_sweep, write_summary

pytestmark = pytest.mark.browser

NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \"quotes\" & 'more'"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required"]
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sweep")
    make_sweep(out, num_trials=10)
    return build_report(out)


def wait_for(page: Page, condition: str) -> None:
    """Poll from outside.

    Playwright's own waiting evaluates strings in the page, which its content security policy
    forbids.
    """
    give_up = time.monotonic() + 60
    while not page.evaluate(condition):
        assert time.monotonic() < give_up, condition
        page.wait_for_timeout(20)


class Watched:
    """A page without network.

    `close()` fails on anything it asked for, logged as an error, or raised.
    """

    def __init__(self, browser: Browser, where: Path | str, **options: Any) -> None:
        """Open a file, or the address of a server of this machine."""
        is_file = isinstance(where, Path)
        url = where.as_uri() if isinstance(where, Path) else where
        self.home = url.rsplit("/", 1)[0]
        self.context = browser.new_context(offline=is_file, **options)
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on(
            "console", lambda message: self.complaints.append(f"{message.type}: {message.text}")
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(url)
        wait_for(
            self.page,
            "[...document.querySelectorAll('.chart')].every((c) =>"
            " c.querySelector('svg.main-svg'))",
        )

    def close(self) -> None:
        assert self.complaints == []
        assert [u for u in self.requests if not u.startswith((self.home, "data:", "blob:"))] == []
        self.context.close()


@pytest.fixture
def watched(browser: Browser, report: Path) -> Iterator[Watched]:
    opened = Watched(browser, report)
    yield opened
    opened.close()


def wait_until_loaded(page: Page) -> None:
    wait_for(page, "[...document.querySelectorAll('audio[src]')].every((a) => a.readyState >= 1)")


def column(page: Page, index: int) -> list[str]:
    return page.locator(f"#table tbody:nth-of-type(2) tr > :nth-child({index})").evaluate_all(
        "cells => cells.map(c => c.dataset.value)"
    )


def now_playing(page: Page) -> list[int]:
    return page.evaluate(
        "[...document.querySelectorAll('audio[src]')].flatMap((a, i) => a.paused ? [] : [i])"
    )


def test_page_opens_from_a_file(watched: Watched) -> None:
    assert [u for u in watched.requests if not u.startswith("data:")] == [watched.page.url]
    expect(watched.page).to_have_title("demo-voice · csm-ft sweep")


def test_every_recording_decodes(watched: Watched) -> None:
    wait_until_loaded(watched.page)
    durations = watched.page.evaluate(
        "[...document.querySelectorAll('audio[src]')].map((a) => a.duration)"
    )
    assert len(durations) == 10
    assert all(2 < duration < 5 for duration in durations)


def test_one_plays_at_a_time(watched: Watched) -> None:
    wait_until_loaded(watched.page)
    buttons = watched.page.locator("#listen .play")
    buttons.nth(1).click()
    wait_for(watched.page, "document.querySelectorAll('audio[src]')[1].currentTime > 0.05")
    assert now_playing(watched.page) == [1]
    buttons.nth(3).click()
    wait_for(watched.page, "document.querySelectorAll('audio[src]')[3].currentTime > 0.05")
    assert now_playing(watched.page) == [3]
    expect(watched.page.locator(".player.playing")).to_have_count(1)
    expect(buttons.nth(3)).to_have_attribute("aria-pressed", "true")
    buttons.nth(3).click()
    assert now_playing(watched.page) == []
    expect(watched.page.locator(".player.playing")).to_have_count(0)


def test_keyboard_walks_the_grid(watched: Watched) -> None:
    wait_until_loaded(watched.page)
    buttons = watched.page.locator("#listen .play")
    buttons.nth(1).focus()
    watched.page.keyboard.press("Space")
    wait_for(watched.page, "!document.querySelectorAll('audio[src]')[1].paused")
    watched.page.keyboard.press("ArrowRight")
    wait_for(watched.page, "!document.querySelectorAll('audio[src]')[2].paused")
    assert now_playing(watched.page) == [2]
    watched.page.keyboard.press("ArrowDown")
    wait_for(watched.page, "!document.querySelectorAll('audio[src]')[7].paused")
    assert now_playing(watched.page) == [7]
    expect(buttons.nth(7)).to_be_focused()
    watched.page.keyboard.press("Space")
    watched.page.keyboard.press("ArrowLeft")
    expect(buttons.nth(6)).to_be_focused()
    assert now_playing(watched.page) == []


def test_click_in_outline_seeks(watched: Watched) -> None:
    wait_until_loaded(watched.page)
    wave = watched.page.locator("#listen .wave").nth(2)
    box = wave.bounding_box()
    assert box
    wave.click(position={"x": box["width"] * 0.6, "y": 5})
    share = watched.page.evaluate(
        "(() => { const a = document.querySelectorAll('audio[src]')[2]; return a.currentTime /"
        " a.duration; })()"
    )
    assert 0.55 < share < 0.9
    assert now_playing(watched.page) == [2]


def test_menu_adds_another_trial(watched: Watched) -> None:
    slots = watched.page.locator("#listen .slot")
    expect(slots.nth(0)).to_contain_text("Trial 3")
    watched.page.select_option("#other", "t6")
    expect(slots.nth(0)).to_contain_text("Trial 6")
    expect(slots.nth(1)).to_contain_text("Trial 6")
    wait_until_loaded(watched.page)
    slots.nth(0).locator(".play").click()
    wait_for(watched.page, "document.querySelector('.slot audio').currentTime > 0")
    watched.page.select_option("#other", "t1s180")
    expect(slots.nth(0)).to_contain_text("step 180")
    assert now_playing(watched.page) == []


def test_table_sorts_by_click(watched: Watched) -> None:
    heads = watched.page.locator("#table thead th")
    names = [name.strip() for name in heads.all_inner_texts()]
    rate, epoch = names.index("learning_rate"), names.index("best epoch")
    heads.nth(rate).locator("button").click()
    rates = [float(x) for x in column(watched.page, rate + 1)]
    assert rates == sorted(rates)
    expect(heads.nth(rate)).to_have_attribute("aria-sort", "ascending")
    heads.nth(rate).locator("button").click()
    assert [float(x) for x in column(watched.page, rate + 1)] == sorted(rates, reverse=True)
    heads.nth(epoch).locator("button").click()
    epochs = column(watched.page, epoch + 1)
    known = [float(x) for x in epochs if x]
    assert epochs[len(known) :] == [""] * 3
    assert known == sorted(known)
    expect(watched.page.locator("#table tbody").first.locator("tr")).to_contain_text("untrained")


def test_judged_columns_sort_and_curves_are_drawn(browser: Browser, tmp_path: Path) -> None:
    add_judged(tmp_path, make_sweep(tmp_path, num_trials=10))
    opened = Watched(browser, build_report(tmp_path))
    heads = opened.page.locator("#table thead th")
    names = [name.strip() for name in heads.all_inner_texts()]
    for name, reverse in (("wer", False), ("similarity", True)):
        place = names.index(name)
        heads.nth(place).locator("button").click()
        if reverse:
            heads.nth(place).locator("button").click()
        values = [float(x) for x in column(opened.page, place + 1) if x]
        assert values == sorted(values, reverse=reverse)
        assert len(values) > 5
    expect(heads.nth(names.index("wer"))).to_have_attribute("title", re.compile("word error rate"))
    for name in ("wer", "similarity"):
        lines = opened.page.locator(f"#judged-{name} .scatterlayer .trace")
        assert lines.count() > 4
    expect(opened.page.locator("#rankings")).to_have_text(RANKED)
    infeasible = opened.page.locator("#table tr", has=opened.page.locator(".state.infeasible"))
    expect(infeasible.first).to_contain_text("wer<=0.45 is asked for")
    opened.page.set_viewport_size({"width": 390, "height": 800})
    wait_for(opened.page, "document.documentElement.scrollWidth <= 390")
    opened.close()


def test_page_of_a_run(browser: Browser, tmp_path: Path) -> None:
    add_judged(tmp_path, make_sweep(tmp_path, num_trials=1))
    opened = Watched(browser, build_run_page(tmp_path / "trials/0000"))
    for name in ("val_loss", "wer", "similarity"):
        expect(opened.page.locator(f"#judged-{name} .scatterlayer .trace")).to_have_count(1)
    head = opened.page.locator("#validations").get_by_role("button", name="val_loss")
    head.click()
    cells = opened.page.locator("#validations tbody tr > :nth-child(3)")
    losses = [float(x) for x in cells.evaluate_all("all => all.map((c) => c.dataset.value)")]
    assert losses == sorted(losses)
    opened.page.set_viewport_size({"width": 390, "height": 800})
    wait_for(opened.page, "document.documentElement.scrollWidth <= 390")
    opened.close()


def test_log_axes_and_back(watched: Watched) -> None:
    def axes() -> list[Any]:
        return watched.page.evaluate(
            "['xaxis', 'yaxis'].map((a) => { const x ="
            " document.getElementById('curves')._fullLayout[a]; return [x.type, x.range[1]]; })"
        )

    before = axes()
    assert [kind for kind, _ in before] == ["linear", "linear"]
    for button in watched.page.locator(".toggles button").all():
        button.click()
    after = axes()
    assert [kind for kind, _ in after] == ["log", "log"]
    assert 10 ** after[1][1] == pytest.approx(before[1][1])
    for button in watched.page.locator(".toggles button").all():
        button.click()
    assert axes() == before


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_readable_at_any_width(browser: Browser, report: Path, scheme: Any, width: int) -> None:
    opened = Watched(browser, report, viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    contrasts = opened.page.evaluate(CONTRASTS)
    assert len(contrasts) > 50
    assert [c for c in contrasts if c["ratio"] < 4.5] == []
    opened.close()


def test_chart_colours_follow_scheme(watched: Watched) -> None:
    ink = "getComputedStyle(document.querySelector('#curves .xtick text')).fill"
    light = watched.page.evaluate(ink)
    watched.page.emulate_media(color_scheme="dark")
    wait_for(watched.page, f"{ink} !== '{light}'")
    assert watched.page.evaluate("getComputedStyle(document.body).color") == watched.page.evaluate(
        ink
    )


def test_foreign_text_stays_text(browser: Browser, tmp_path: Path) -> None:
    summary = make_sweep(tmp_path, num_trials=3, sentences={"aa": (NASTY, NASTY)})
    for trial in summary["trials"]:
        trial["reason"] = NASTY
        trial["params"] |= {NASTY: NASTY + str(trial["number"])}
    summary["study"] = NASTY
    write_summary(tmp_path, summary)
    opened = Watched(browser, build_report(tmp_path))
    expect(opened.page.locator("h1")).to_have_text(NASTY)
    expect(opened.page.locator("#listen q").first).to_have_text(NASTY)
    opened.page.locator("#blind-open").click()
    expect(opened.page.locator('[data-blind="text"]')).to_have_text(NASTY)
    assert opened.page.locator("img").count() == 0
    opened.close()


@pytest.mark.parametrize("num_trials", [0, 1])
def test_sweep_has_hardly_begun(browser: Browser, tmp_path: Path, num_trials: int) -> None:
    make_sweep(tmp_path, num_trials=num_trials)
    opened = Watched(browser, build_report(tmp_path))
    expect(opened.page.locator("h2:visible")).to_have_count(5)
    opened.close()


def test_linked_recordings_play(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_sweep(tmp_path, num_trials=2)
    monkeypatch.setattr(page, "PAGE_BYTES", 0)
    opened = Watched(browser, build_report(tmp_path))
    wait_until_loaded(opened.page)
    assert opened.page.evaluate(
        "[...document.querySelectorAll('audio[src]')].every((a) => a.duration > 1 &&"
        " a.src.endsWith('.wav'))"
    )
    opened.close()


def test_text_answers_compare_without_players(browser: Browser, tmp_path: Path) -> None:
    make_sweep(tmp_path, num_trials=10, text_only=True)
    opened = Watched(browser, build_report(tmp_path))
    slots = opened.page.locator("#listen .slot")
    opened.page.select_option("#other", "t3")
    expect(slots.nth(0)).to_contain_text("Trial 3")
    expect(slots.nth(0)).to_contain_text("as heard at")
    assert opened.page.locator("audio").count() == 0
    opened.close()


# WCAG contrast of every visible piece of text against the nearest opaque background.
CONTRASTS = """() => {
  const channels = (c) => c.match(/[\\d.]+/g).map(Number).map((x) => (c.startsWith("color(") ? 255 * x : x));
  const light = (c) => c.slice(0, 3).map((x) => x / 255).map((x) => (x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4))
    .reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !element.checkVisibility() || ["SCRIPT", "STYLE", "OPTION"].includes(element.tagName)) continue;
    const style = getComputedStyle(element);
    const text = channels(element instanceof SVGElement ? style.fill : style.color);
    let behind = element;
    let back = [0, 0, 0, 0];
    while (behind && !(back.length === 3 || back[3] > 0.99)) {
      back = channels(getComputedStyle(behind).backgroundColor);
      behind = behind.parentElement;
    }
    const [high, low] = [light(text), light(back)].sort((a, b) => b - a);
    found.push({ text: element.textContent.slice(0, 40), ratio: (high + 0.05) / (low + 0.05) });
  }
  return found;
}"""
