"""Every page in a real browser, in light and dark, wide and at 320 px: what axe finds, what the keyboard reaches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import pytest
from test_dashboard import CRM, House, opened, rejected
from test_dashboard_browser import Person, chromium
from test_dashboard_events import follow

__all__ = ["chromium", "opened"]  # fixtures

AXE = (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
LIMITED = CRM.replace(
    "actions:",
    """http:
  base_url: https://api.crm.example/v1
  limits: {calls: {rate: 5/1m}, day: {budget: 1000, per: day, timezone: America/Sao_Paulo}, open: {concurrency: 4}}
actions:""",
)
CLIENTS = {"abc": "{client: abc, connectors: {crm: {}}}", "xyz": "{client: xyz, connectors: {crm: {}}}"}
LOOKS = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 900}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 900}},
    "small": {"color_scheme": "light", "viewport": {"width": 320, "height": 640}},
    "small and dark": {"color_scheme": "dark", "viewport": {"width": 320, "height": 640}},
}


@contextmanager
def busy(opened: Any) -> Iterator[House]:
    """A house in which each page has something to show: delivered, rejected, waiting, paused."""
    with opened(crm=LIMITED, **CLIENTS) as house:
        trail = follow(house)
        house.post({"id": "fine", "email": "bia@example.com"})
        house.run()
        rejected(house, "wrong " * 40, "wrong", name="Ana")
        house.post({"id": "waits"}, client="xyz")
        house.board.lanes.pause("crm", "xyz", "a move")
        assert trail.flush(1.0)
        yield house


PATHS = {
    "overview": "/",
    "overview without a lane": "/?q=nothing",
    "lane": "/lane/crm/abc",
    "paused lane": "/lane/crm/xyz",
    "events": "/events",
    "no such event": "/events?q=nothing",
    "event": "/event?id=fine",
    "rejected event": "/event?id=e0",
    "event that waits": "/event?id=waits",
    "dead letters": "/dead",
    "letter": "/dead/1",
    "preview": "/dead/1/preview",
    "connectors": "/connectors",
    "connector": "/connectors/crm",
    "a connector's docs": "/connectors/crm/docs",
    "try": "/connectors/crm/try?client=abc",
    "clients": "/clients",
    "client": "/clients/abc",
    "trouble": "/lane/crm/nobody",
}


def found_by_axe(page: Any) -> list[str]:
    """What axe has to say, each with the element it is about."""
    page.evaluate(AXE)
    how = "{resultTypes: ['violations'], rules: {'target-size': {enabled: true}}}"  # WCAG 2.2; off unless asked for
    found = page.evaluate(f"axe.run({how}).then(found => found.violations)")
    return [f"{each['id']}: {node['html'][:200]}" for each in found for node in each["nodes"]]


def found_in_any_look(page: Any) -> list[str]:
    """The same of the page that is open, in each look; in the end it is as it was."""
    found = []
    for name in ("dark", "small and dark", "small", "light"):
        page.emulate_media(color_scheme=LOOKS[name]["color_scheme"])
        page.set_viewport_size(LOOKS[name]["viewport"])
        found += [f"{name}: {one}" for one in found_by_axe(page)]
    return found


def test_axe_finds_nothing_on_any_page_in_any_look(chromium: Any, opened: Any) -> None:
    with busy(opened) as house:
        person = Person(chromium, house, **LOOKS["light"])
        page = person.page
        page.goto(f"{person.base}/login")
        found = {"log-in": found_in_any_look(page)}
        person.log_in()
        for name, path in PATHS.items():
            page.goto(f"{person.base}{path}")
            found[name] = found_in_any_look(page)
        page.goto(f"{person.base}/dead/1")
        page.get_by_role("button", name="Edit the whole event").click()
        found["edit"] = found_in_any_look(page)
        page.goto(f"{person.base}/dead/1")
        page.get_by_role("button", name="Show personal fields").click()
        found["letter with personal fields"] = found_in_any_look(page)
        page.goto(f"{person.base}/dead/1")
        page.get_by_role("button", name="Retry", exact=True).click()
        found["job"] = found_in_any_look(page)
        page.goto(f"{person.base}/connectors/crm/try?client=abc")
        page.locator("textarea").fill('{"id": "tried", "client": "abc", "email": "ana@example.com"}')
        page.get_by_role("button", name="Preview").click()
        found["an event that is tried"] = found_in_any_look(page)
        page.goto(f"{person.base}/clients/abc")
        page.get_by_role("button", name="Check").first.click()
        found["a check"] = found_in_any_look(page)
        assert {name: one for name, one in found.items() if one} == {}
        assert [each for each in person.complaints if "404" not in each] == []
        assert person.hosts == {f"127.0.0.1:{house.port}"}
        person.context.close()


def test_axe_and_the_walk_by_keyboard_would_find_what_is_wrong(chromium: Any) -> None:
    page = chromium.new_page()
    page.set_content("<html lang=en><title>t</title><main><h1>t</h1><button></button></main>")
    assert found_by_axe(page) == ["button-name: <button></button>"]
    faint = "p { color: #777; background: #666 }"
    style = f"<style>@media (max-width: 400px) and (prefers-color-scheme: dark) {{ {faint} }}</style>"
    page.set_content(f"<html lang=en><title>t</title>{style}<main><h1>title</h1><p>faint</p></main>")
    assert found_in_any_look(page) == ["small and dark: color-contrast: <p>faint</p>"]
    page.set_content("<a href='#a' tabindex=-1>a</a><a href='#b' style='outline: none'>b</a><a href='#c'>c</a>")
    assert walked(page) == [
        'not reached: <a href="#a" tabindex="-1">a</a>',
        'no focus to be seen: <a href="#b" style="outline: none">b</a>',
        'no focus to be seen: <a href="#c">c</a>',  # the browser's own is 1 px wide
    ]
    page.close()


CONTROLS = "a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex='0']"
FOCUSED = """() => {
  const one = document.activeElement, style = getComputedStyle(one), place = one.getBoundingClientRect();
  const seen = place.right > 0 && place.left < innerWidth && place.bottom > 0 && place.top < innerHeight;
  return [controls.indexOf(one), style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2 && seen];
}"""


@pytest.mark.parametrize("look", ["light", "small"])
def test_the_tab_key_reaches_each_control_of_each_page_and_shows_where_it_is(
    chromium: Any, opened: Any, look: str
) -> None:
    with busy(opened) as house:
        person = Person(chromium, house, **LOOKS[look])
        page = person.page
        page.route("**/*part=live*", lambda route: route.abort())  # nothing is exchanged on the way
        page.goto(f"{person.base}/login")
        unreached = {"log-in": walked(page)}
        person.log_in()
        for name, path in PATHS.items():
            page.goto(f"{person.base}{path}")
            unreached[name] = walked(page)
        assert {name: one for name, one in unreached.items() if one} == {}
        person.context.close()


def walked(page: Any) -> list[str]:
    """The controls that Tab did not come to, and those that did not show that it had."""
    page.evaluate("document.activeElement.blur()")
    names = page.evaluate(
        f"""() => {{
          window.controls = [...document.querySelectorAll("{CONTROLS}")].filter(each => each.checkVisibility());
          return controls.map(each => each.outerHTML.slice(0, 120));
        }}"""
    )
    reached: dict[int, bool] = {}
    for _ in range(len(names) + 20):  # a field for a time has several stops
        page.keyboard.press("Tab")
        at, shown = page.evaluate(FOCUSED)
        if at >= 0:
            reached[at] = shown
        if len(reached) == len(names):
            break
    missing = [f"not reached: {name}" for at, name in enumerate(names) if at not in reached]
    return [*missing, *(f"no focus to be seen: {names[at]}" for at, shown in reached.items() if not shown)]
