"""An action that is taken out while deliveries wait for it: someone hears of it, and each of them has an end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from conftest import Shop, Vendor, reply

from engine.records import LaneChange
from engine.stores.memory import MemoryStore
from engine.stores.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from engine.ports import Store

TWO = """
receive: {client: "${ event.client }", id: "${ event.id }"}
actions:
  deal: {record: {id: "${ event.id }"}, request: {path: /deals, json: "${ record }"}}
  note: {record: {id: "${ event.id }"}, request: {path: /notes, json: "${ record }"}}
"""
AFTER = TWO.replace("  note: {", "  note: {after: deal, ")
DAY = 86_400.0
SAYS = "the action deal is not in the connector any more, or is switched off"
TOLD = (
    "crm/abc: 2 deliveries wait for the action deal, which is not in the connector any more, or is switched off; put "
    "it back within a day of their arrival, or they become dead letters (code action-gone), which `connect dead retry` "
    "sends once it is back"
)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "connect.db")
    yield made
    made.close()


def without_deal(text: str, store: Store) -> Shop:
    """Two events wait, and the action `deal` is taken out."""
    shop = Shop(text, store=store)
    shop.post({"id": "1"}, {"id": "2"})
    shop.deal = shop.programs["abc"].actions.pop("deal")  # type: ignore[attr-defined]
    return shop


def test_that_an_action_is_gone_is_told_once_and_stands_beside_its_lane(store: Store) -> None:
    shop = without_deal(TWO, store)
    shop.drain(3_600)
    shop.drain(3_600)
    assert (shop.heard.alerts, shop.lane().reason) == ([("action-gone", TOLD)], SAYS)
    assert shop.sums() == {"waiting": 2, "delivered": 2}


def test_what_waits_for_an_action_that_is_gone_is_a_dead_letter_after_a_day(store: Store) -> None:
    shop = without_deal(TWO, store)
    shop.drain(DAY - 1)
    assert shop.sums() == {"waiting": 2, "delivered": 2}
    shop.drain(2)
    assert shop.sums() == {"rejected": 2, "delivered": 2}
    assert [(dead.event_id, dead.action, dead.reason, dead.code, dead.attempts) for dead in shop.dead()] == [
        ("1", "deal", SAYS, "action-gone", 0),
        ("2", "deal", SAYS, "action-gone", 0),
    ]
    assert [kind for kind, _ in shop.heard.alerts] == ["action-gone", "dead-letter"]
    assert (shop.lane().reason, shop.lane().state) == (None, "idle")


def test_an_action_that_comes_back_finds_its_deliveries(store: Store) -> None:
    shop = without_deal(TWO, store)
    shop.drain(3_600)
    shop.programs["abc"].actions["deal"] = shop.deal  # type: ignore[attr-defined]
    shop.store.change_lane("crm", "abc", LaneChange(), now=shop.clock.now())
    shop.drain()
    assert (shop.sums(), shop.lane().reason) == ({"delivered": 4}, None)


def test_a_process_that_starts_with_the_action_back_no_longer_says_it_is_gone(store: Store) -> None:
    shop = without_deal(TWO, store)
    shop.drain(3_600)
    shop.programs["abc"].actions["deal"] = shop.deal  # type: ignore[attr-defined]
    shop.new_worker().run(until_empty=True)
    assert (shop.sums(), shop.lane().reason) == ({"delivered": 4}, None)


def test_what_is_tried_again_without_its_action_has_another_day(store: Store) -> None:
    shop = without_deal(TWO, store)
    shop.drain(DAY + 1)
    shop.store.requeue([dead.id for dead in shop.dead()], now=shop.clock.now())
    shop.drain(DAY - 1)
    assert shop.sums() == {"waiting": 2, "delivered": 2}
    shop.drain(2)
    assert shop.sums() == {"rejected": 2, "delivered": 2}


def test_what_waits_for_a_delivery_whose_action_is_gone_is_skipped_with_it(store: Store) -> None:
    shop = without_deal(AFTER, store)
    shop.drain(DAY + 1)
    assert (shop.sums(), shop.vendor.asked) == ({"rejected": 2, "skipped": 2}, [])


def test_a_half_done_batch_of_an_action_that_is_gone_ends_too(store: Store) -> None:
    steps = "steps: {a: {request: {path: /a, json: {}}, save: {id: 1}}, b: {request: {path: /b, json: {}}}}"
    text = TWO.replace('request: {path: /deals, json: "${ record }"}', steps)
    vendor = Vendor(answer=lambda request: reply(409 if request.url.endswith("/b") else 200, {}, retry_after="60"))
    rules = "replies: {outcomes: [{status: 409, then: retry}]}"
    shop = Shop(text + rules, store=store, vendor=vendor)
    shop.post({"id": "1"})
    shop.drain()
    del shop.programs["abc"].actions["deal"]
    shop.drain(DAY + 1)
    assert (shop.sums(), shop.reasons()) == ({"rejected": 1, "delivered": 1}, {"1": SAYS})
