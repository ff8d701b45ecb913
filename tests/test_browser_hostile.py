"""Bad input in a real browser: nothing runs, nothing turns a line around, and the page stays a page."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from conftest import reply
from test_browser_pages import found_by_axe
from test_dashboard import HOSTILE, opened
from test_dashboard_browser import Person, chromium
from test_dashboard_events import follow

from engine.records import Accepted, Draft

__all__ = ["chromium", "opened"]  # fixtures

# Text from right to left that is neither isolated nor in a block of its own would turn around what stands beside it.
LOOSE = """() => {
  const found = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    if (!/[\\u0600-\\u06ff]/.test(walk.currentNode.data)) continue;
    const turns = one => /isolate|plaintext/.test(getComputedStyle(one).unicodeBidi);
    let each = walk.currentNode.parentElement;
    while (getComputedStyle(each).display.startsWith("inline") && !turns(each)) each = each.parentElement;
    const alone = getComputedStyle(each).display.startsWith("inline") || /PRE|TEXTAREA|OPTION/.test(each.tagName)
      || each.textContent.trim() === walk.currentNode.data.trim();
    if (!alone) found.push(`${each.tagName}: ${walk.currentNode.data.slice(0, 80)}`);
  }
  return found;
}"""


def test_script_tags_and_right_to_left_text_in_every_field_do_nothing_on_any_page(chromium: Any, opened: Any) -> None:
    with opened() as house:
        trail = follow(house)
        house.vendor.answer = lambda _: reply(422, {"error": HOSTILE})
        house.post({"id": HOSTILE, "email": HOSTILE, "name": HOSTILE, "note": HOSTILE, HOSTILE: [HOSTILE]})
        house.run()
        assert trail.flush(5.0)
        house.board.lanes.pause("crm", "abc", HOSTILE)
        person = Person(chromium, house, viewport={"width": 320, "height": 640})
        dialogs: list[str] = []
        person.page.on("dialog", lambda dialog: dialogs.append(dialog.message))
        person.log_in()
        loose: dict[str, Any] = {}
        event = f"/event?id={quote(HOSTILE, safe='')}"
        asked = [f"/?q={quote(HOSTILE)}", f"/dead?reason={quote(HOSTILE)}", f"/events?q={quote(HOSTILE)}", event]
        for path in ["/", "/lane/crm/abc", "/dead", "/dead/1", "/dead/1/preview", "/events", "/clients/abc", *asked]:
            person.page.goto(f"{person.base}{path}")
            loose[path] = [*person.page.evaluate(LOOSE), *found_by_axe(person.page)]
            if person.page.evaluate("document.documentElement.scrollWidth - innerWidth") > 0:
                loose[path].append("too wide")
        for button in ("Show personal fields", "Edit the whole event"):
            person.page.goto(f"{person.base}/dead/1")
            person.page.get_by_role("button", name=button).click()
            loose[button] = person.page.evaluate(LOOSE)
        assert {path: found for path, found in loose.items() if found} == {}
        assert dialogs == []
        assert person.page.locator("img").count() == 0
        person.content()


def test_a_client_with_a_name_of_200_characters_or_with_slashes_has_its_pages(chromium: Any, opened: Any) -> None:
    names = ["n" * 200, "a/b", "../login", "a b%2Fc?d=e#f", "مرحبا"]
    with opened() as house:
        for name in names:
            store = house.engine.store
            store.put([Accepted("crm", name, "e", b"{}", house.clock.now(), (Draft("note"),))], now=0.0).result()
        person = Person(chromium, house, viewport={"width": 320, "height": 640})
        person.log_in()
        titles = []
        for name in names:
            person.page.goto(f"{person.base}/")
            person.page.get_by_role("link", name=name, exact=True).first.click()
            titles.append(person.page.locator("h1 bdi").first.inner_text())
            assert person.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
            person.page.get_by_role("link", name="Its dead letters").click()
            assert person.page.get_by_label("Client").input_value() == name
        assert titles == names
        person.content()


def test_a_lane_that_vanishes_while_one_looks_at_it_is_a_page_that_says_so(
    chromium: Any, opened: Any, monkeypatch: Any
) -> None:
    with opened() as house:
        person = Person(chromium, house)
        person.log_in()
        person.page.goto(f"{person.base}/lane/crm/abc")
        person.page.get_by_role("heading", name="Why is it waiting?").wait_for()
        monkeypatch.setattr(house.board.lanes, "row", lambda *_: None)
        person.page.get_by_role("alert").filter(has_text="crm/abc").wait_for(timeout=30_000)
        person.page.get_by_role("link", name="To the overview").click()
        person.page.get_by_role("heading", name="Overview").wait_for()
        assert person.complaints  # the browser itself notes the 404
        assert all("404" in each for each in person.complaints)
        person.context.close()


def test_text_that_is_not_isolated_would_be_found(chromium: Any) -> None:
    page = chromium.new_page()
    page.set_content("<p>paid by <b>مرحبا</b> today</p><p>paid by <bdi>مرحبا</bdi> today</p><pre>مرحبا</pre>")
    assert page.evaluate(LOOSE) == ["P: مرحبا"]
    page.close()
