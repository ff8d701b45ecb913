"""
The pictures of docs/images: each page with something to show, as a browser draws it.

`PICTURES=docs/images python -m pytest tests/test_browser_pictures.py` takes them anew.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

from command import ROOT
from conftest import reply
from test_browser_pages import LIMITED
from test_dashboard import NOW, House, opened
from test_dashboard_browser import Person, chromium, soon
from test_dashboard_events import follow

from engine.records import LaneChange

__all__ = ["chromium", "opened"]  # fixtures

SHOPS = ("loja-azul", "livraria-sol", "casa-verde", "mercado-rio", "padaria-lua", "moda-sul", "tenda-norte", "vinhos")
WIDE, TALL, SMALL = {"width": 1280, "height": 860}, {"width": 1280, "height": 1240}, {"width": 320, "height": 720}
# picture -> page, language, look, viewport
PICTURES: dict[str, tuple[str, str, str, dict[str, int]]] = {
    "page-overview": ("/", "en", "light", WIDE),
    "page-overview-dark": ("/", "en", "dark", WIDE),
    "page-small": ("/", "pt", "light", SMALL),
    "page-lane": ("/lane/crm/casa-verde", "en", "light", TALL),
    "page-lane-dark": ("/lane/crm/loja-azul", "pt", "dark", TALL),
    "page-lane-small": ("/lane/crm/loja-azul", "en", "dark", SMALL),
    "page-dead-letters": ("/dead?order=newest", "en", "light", WIDE),
    "page-dead-letter": ("/dead/1", "en", "light", WIDE),
    "page-preview": ("/dead/1/preview", "pt", "light", WIDE),
    "page-events": ("/events", "en", "light", WIDE),
    "page-event": ("/event?id=order-1001", "en", "light", WIDE),
    "page-event-small": ("/event?id=order-1001", "pt", "light", SMALL),
    "page-connectors": ("/connectors", "en", "light", WIDE),
    "page-connector": ("/connectors/crm", "en", "dark", WIDE),
    "page-try": ("/connectors/crm/try?client=loja-azul", "en", "light", WIDE),
    "page-clients": ("/clients", "pt", "light", WIDE),
    "page-client": ("/clients/loja-azul", "en", "light", WIDE),
    "page-client-small": ("/clients/loja-azul", "en", "dark", SMALL),
}


def lived_in(house: House) -> None:
    """A day and an hour of traffic as it might be, the same each time; then a few events for real."""
    chance = random.Random(7)
    for minutes in (*range(-1440, -60, 10), *range(-60, 0)):
        house.clock.time = NOW + minutes * 60
        for weight, shop in enumerate(SHOPS, 1):
            facts = {"connector": "crm", "client": shop, "action": "note"}
            if shop == "casa-verde" and minutes > -25:
                continue
            count = chance.randrange(3 * weight) if minutes >= -60 else chance.randrange(10, 20 * weight)
            house.board.history.hear("delivered", {**facts, "count": count})
            if shop == "moda-sul" and chance.random() < 0.4:
                house.board.history.hear("rejected", {**facts, "count": chance.randrange(1, 4)})
            seconds = chance.lognormvariate(-1.6, 0.5)
            sent = {"method": "POST", "host": "api.crm.example", "step": "request", "status": 200, "seconds": seconds}
            house.board.history.hear("exchange", {**facts, **sent})
    house.board.history.since = NOW - 86_400
    house.clock.time = NOW - 90
    for shop in SHOPS:
        house.post({"id": f"{shop}-first"}, client=shop)
    house.run()
    house.clock.time = NOW
    house.vendor.answer = lambda _: reply(422, {"error": "no such product"})
    event = {"email": "ana@example.com", "name": "Ana Souza", "price": 199.9}
    house.post(*({"id": f"order-{1000 + at}", **event, "note": f"PROD-{at}"} for at in range(3)), client="loja-azul")
    house.run()
    house.clock.time += 5
    house.vendor.answer = None
    house.post({"id": "order-1003", **event, "note": "PROD-7"}, client="loja-azul")
    house.run()
    for shop, count in [("mercado-rio", 3), ("casa-verde", 41)]:
        house.post(*({"id": f"{shop}-{at}", **event} for at in range(count)), client=shop)
    store = house.engine.store
    store.change_lane("crm", "mercado-rio", LaneChange(not_before=NOW + 95, reason="HTTP 503: try later"), now=NOW)
    refused = "HTTP 401 after one token renewal; check the secret and run `connect check crm casa-verde`"
    store.change_lane("crm", "casa-verde", LaneChange(pause=True, reason=refused), now=NOW)
    house.clock.time += 20
    trail = house.engine.trail
    assert trail is not None
    assert trail.flush(5.0)


def test_every_picture_of_the_docs_is_one_that_is_taken_here(chromium: Any, opened: Any, tmp_path: Path) -> None:
    folder = ROOT / os.environ["PICTURES"] if "PICTURES" in os.environ else tmp_path
    text = "{{client: {}, title: {}, connectors: {{crm: {{}}}}}}"
    shops = {shop.replace("-", "_"): text.format(shop, shop.title()) for shop in SHOPS}
    with opened(crm=LIMITED, **shops) as house:
        follow(house)
        lived_in(house)
        house.log_in()
        soon(lambda: "is being looked at" not in house.http.get("/connectors").text)
        person = Person(chromium, house, reduced_motion="reduce")
        person.log_in()
        page = person.page
        for name, (path, language, look, size) in PICTURES.items():
            page.emulate_media(color_scheme=look, reduced_motion="reduce")
            page.set_viewport_size(size)
            page.goto(f"{person.base}{path}{'&' if '?' in path else '?'}lang={language}")
            if name == "page-try":
                page.locator("textarea").fill('{"id": "order-1004", "client": "loja-azul", "note": "PROD-7"}')
                page.get_by_role("button", name="Preview").click()
            page.screenshot(path=folder / f"{name}.png", full_page=size is WIDE)
        person.content()
    there = {file.stem for file in (ROOT / "docs/images").glob("page-*.png")}
    assert there == set(PICTURES)
    smallest = min((folder / f"{name}.png").stat().st_size for name in PICTURES)
    assert smallest > 8_000  # none of them is blank
