"""The pages in a real browser: what the script does, and what a browser says of them."""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import reply
from test_dashboard import TOKEN, House, opened, rejected

__all__ = ["opened"]  # a fixture

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
WIDTHS = (320, 1280)
# The contrast of every text with what is behind it, as WCAG 2 counts it; below 4.5 is hard to read.
CONTRAST = """() => {
  const parts = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = element => {
    for (let each = element; each; each = each.parentElement) {
      const ground = parts(getComputedStyle(each).backgroundColor);
      if (ground.length === 3 || ground[3] > 0) return ground;
    }
    return [255, 255, 255];
  };
  const poor = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !element.checkVisibility()) continue;
    const [a, b] = [light(parts(getComputedStyle(element).color)), light(behind(element))];
    const found = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (found < 4.5) poor.push(`${element.tagName}: ${walk.currentNode.data.trim()}: ${found.toFixed(2)}`);
  }
  return poor;
}"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield browser
        browser.close()


class Person:
    """Somebody at a browser: what it complained of, and which hosts it asked."""

    def __init__(self, browser: Any, house: House, **how: Any) -> None:
        self.context = browser.new_context(locale="en-US", **how)
        self.base = f"http://127.0.0.1:{house.port}"
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        self.page = self.context.new_page()
        self.page.on("console", lambda said: self.complaints.append(said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.context.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))

    def log_in(self) -> None:
        self.page.goto(f"{self.base}/")
        self.page.get_by_label("Admin token").fill(TOKEN)
        self.page.get_by_role("button", name="Log in").click()
        self.page.wait_for_url(f"{self.base}/")

    def content(self) -> None:
        """Nothing was complained of, and nobody else was asked."""
        assert self.complaints == []
        assert self.hosts == {self.base.removeprefix("http://")}
        self.context.close()


class Working:
    """The worker runs, as in `serve`."""

    def __init__(self, house: House) -> None:
        self.house, self.over = house, threading.Event()
        self.thread = threading.Thread(target=self.work)

    def work(self) -> None:
        while not self.over.wait(0.05):
            self.house.run()

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join(30)


def soon(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not true():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.05)


def test_the_charts_move_without_a_reload_and_stop_when_asked_to(chromium: Any, opened: Any) -> None:
    with opened() as house:
        person = Person(chromium, house)
        person.log_in()
        page = person.page
        page.evaluate("window.kept = true")
        link = page.get_by_role("link", name="abc", exact=True)
        link.focus()
        house.post({"id": "1"}, {"id": "2"})
        house.run()
        house.clock.time += 2
        page.get_by_role("img", name="2 delivered, 0 rejected").first.wait_for(timeout=30_000)
        assert page.evaluate("window.kept") is True
        assert page.evaluate("document.activeElement.textContent") == "abc"
        page.get_by_role("button", name="Stop updating").click()
        page.wait_for_timeout(200)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.wait_for_timeout(3_500)
        assert asked == []
        page.get_by_role("button", name="Update again").click()
        soon(lambda: page.wait_for_timeout(50) or len(asked) == 1)
        person.content()


def test_a_dead_letter_is_found_mended_previewed_and_retried(chromium: Any, opened: Any) -> None:
    with opened() as house:
        rejected(house, "wrong", "wrong")
        house.vendor.answer = lambda request: reply(200 if b"right" in request.content else 422, {"error": "no such"})
        person = Person(chromium, house)
        person.log_in()
        page = person.page
        page.get_by_role("link", name="Dead letters").click()
        page.get_by_role("link", name="HTTP 422 no such product").click()
        page.get_by_role("link", name="1", exact=True).click()
        page.get_by_label("Path, such as").fill("note")
        page.get_by_label("New value").fill("right")
        page.get_by_role("button", name="Save").click()
        page.get_by_text("Changed: note.").wait_for()
        page.get_by_role("link", name="Preview").click()
        assert '"note": "right"' in page.get_by_role("region", name="What would be sent").inner_text()
        with Working(house):
            page.get_by_role("button", name="Retry").click()
            page.get_by_text("Finished.").wait_for(timeout=30_000)
        assert [dead.id for dead in house.engine.store.dead()] == [2]
        assert house.vendor.bodies[-1]["note"] == "right"
        person.content()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_fits_a_small_screen_and_a_wide_one_and_is_readable(chromium: Any, opened: Any, scheme: str) -> None:
    with opened() as house:
        rejected(house, "x" * 300, "y")
        person = Person(chromium, house, color_scheme=scheme)
        person.log_in()
        for path in ["/", "/lane/crm/abc", "/dead", "/dead/1", "/dead/1/preview"]:
            person.page.goto(f"{person.base}{path}")
            for width in WIDTHS:
                person.page.set_viewport_size({"width": width, "height": 800})
                over = person.page.evaluate("document.documentElement.scrollWidth - innerWidth")
                assert over <= 0, (path, width)
            assert person.page.evaluate(CONTRAST) == [], path
        person.content()


def test_all_can_be_done_by_keyboard_and_without_the_script(chromium: Any, opened: Any) -> None:
    with opened() as house:
        person = Person(chromium, house, java_script_enabled=False)
        person.log_in()
        page = person.page
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")  # the skip link
        assert re.search(r"#content$", page.url)
        page.goto(f"{person.base}/lane/crm/abc")
        page.get_by_label("Why, for those who look next").focus()
        page.keyboard.type("a move")
        page.keyboard.press("Enter")
        page.get_by_text("It is paused.", exact=True).wait_for()
        lane = house.engine.store.lane("crm", "abc")
        assert lane is not None
        assert (lane.state, lane.reason) == ("paused", "paused by hand: a move")
        person.content()
