"""The pages on connectors and clients in a real browser: what axe finds, and that they need no script."""

from __future__ import annotations

from typing import Any

from test_browser_pages import LOOKS, found_in_any_look
from test_catalogue_pages import house, shop
from test_dashboard import opened
from test_dashboard_browser import Person, chromium

from engine.records import LaneChange

__all__ = ["chromium", "house", "opened", "shop"]  # fixtures

PATHS = ("/connectors", "/connectors/crm", "/connectors/crm/docs", "/clients", "/clients/xyz")


def walk(person: Person) -> list[tuple[str, list[str]]]:
    """An event tried and sent, a log-in checked; what axe says of each page on the way."""
    page, found = person.page, []

    def look(name: str) -> None:
        found.append((name, found_in_any_look(page)))

    for path in PATHS:
        page.goto(f"{person.base}{path}")
        look(path)
    page.goto(f"{person.base}/connectors/crm/try")
    page.get_by_role("button", name="Preview").click()
    look("preview")
    page.get_by_role("checkbox").check()
    page.get_by_role("button", name="Send it for real").click()
    page.get_by_text("It is in the buffer and on its way.").wait_for()
    look("sent")
    page.goto(f"{person.base}/clients/abc")
    page.get_by_role("button", name="Check log-in: crm").click()
    page.get_by_text("The log-in works.").wait_for()
    look("check")
    return found


def test_axe_finds_nothing_on_the_pages_of_connectors_and_clients(chromium: Any, shop: Any) -> None:
    with shop() as house:
        house.engine.store.change_lane("crm", "n" * 200, LaneChange(pause=True, reason="x"), now=0)
        person = Person(chromium, house, **LOOKS["light"])
        person.log_in()
        assert [each for each in walk(person) if each[1]] == []
        wide = []
        for path in (*PATHS, "/connectors/crm/try"):
            person.page.goto(f"{person.base}{path}")
            for look in ("small", "light"):
                person.page.set_viewport_size(LOOKS[look]["viewport"])
                if person.page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                    wide.append((path, look))
        assert wide == []
        assert (person.complaints, person.hosts) == ([], {f"127.0.0.1:{house.port}"})
        person.context.close()


def test_an_event_is_tried_and_sent_in_a_browser_without_javascript(chromium: Any, house: Any) -> None:
    person = Person(chromium, house, java_script_enabled=False)
    person.log_in()
    page = person.page
    page.goto(f"{person.base}/connectors/crm/try?client=abc&example=0.0")
    page.get_by_role("button", name="Preview").click()
    assert "POST https://api.crm.example/v1/notes" in page.content()
    page.get_by_role("checkbox").check()
    page.get_by_role("button", name="Send it for real").click()
    assert "It is in the buffer and on its way." in page.content()
    house.run()
    assert house.vendor.bodies == [{"id": "1", "email": "ana@example.com", "list": "L9"}]
    page.goto(f"{person.base}/clients/abc")
    page.get_by_role("button", name="Check log-in: crm").click()
    while "The CRM is being asked." in page.content():
        page.reload()
    assert "The log-in works." in page.content()
    person.context.close()
