"""What a caller's walk leaves to the lanes: where it got to, what stands still, and whose the delivery is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from conftest import START, Shop, Vendor, reply

from engine.records import Answered
from engine.stores.memory import MemoryStore
from engine.stores.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Answer

    from engine.ports import Store
    from engine.sending import Prepared, Reply

RECEIVE = 'receive: {mode: direct, client: "${ event.client }", id: "${ event.id }"}\n'
STEPS = (
    RECEIVE
    + """
actions:
  note:
    record: {id: "${ event.id }"}
    steps:
      person: {request: {path: /people, json: "${ record }"}, save: {id: "${ response.body.id }"}}
      note: {request: {path: "/people/{{ steps.person.id }}/notes", json: "${ record }"}}
"""
)
PERSON, NOTE = "POST /v1/people", "POST /v1/people/7/notes"
SCOPED = (
    RECEIVE
    + """
replies:
  outcomes: [{status: 403, then: pause, scope: action}, {status: 429, then: throttle, wait: 10m, scope: action}]
actions:
  note: {record: {id: "${ event.id }"}, request: {path: /notes, json: "${ record }"}}
"""
)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "connect.db")
    yield made
    made.close()


@pytest.mark.parametrize("trouble", [reply(503), reply(429, {}, retry_after="40")])
def test_what_got_half_way_goes_on_there_from_the_buffer(trouble: Answer, store: Store) -> None:
    shop = Shop(STEPS, vendor=Vendor(reply(200, {"id": 7}), trouble, reply(200, {})), store=store)
    assert [told.status for told in shop.post({"id": "1"})] == [202]
    shop.drain(600)
    assert (shop.vendor.lines, shop.sums()) == ([PERSON, NOTE, NOTE], {"delivered": 1})


def test_an_outage_uses_up_no_attempt_of_a_caller_s_delivery() -> None:
    shop = Shop(RECEIVE, vendor=Vendor(*[reply(503)] * 3, reply(422, {})))
    shop.post({"id": "1"})
    shop.drain(600)
    assert [dead.attempts for dead in shop.dead()] == [1]


def test_a_pause_of_one_action_is_not_one_of_the_lane_and_is_told_to_later_callers() -> None:
    shop = Shop(SCOPED, vendor=Vendor(reply(403, {}), reply(200, {})))
    assert shop.post({"id": "1"}, {"id": "2"}) == [
        Answered(503, "rejected", "1", "HTTP 403"),
        Answered(503, "rejected", "2", "note is paused"),
    ]
    assert (shop.lane().state, len(shop.vendor.asked)) == ("idle", 1)
    assert [kind for kind, _ in shop.heard.alerts] == ["lane-paused", "dead-letter", "dead-letter"]


def test_a_throttle_of_one_action_holds_that_action_alone() -> None:
    shop = Shop(SCOPED, vendor=Vendor(reply(429, {}), reply(200, {})))
    assert [told.status for told in shop.post({"id": "1"}, {"id": "2"})] == [202, 202]
    assert shop.lane().not_before == 0
    shop.drain(601)
    assert ([at - START for at in shop.vendor.at], shop.sums()) == ([0, 600, 600], {"delivered": 2})


def test_nothing_is_sent_for_a_caller_once_a_lane_may_have_taken_the_delivery() -> None:
    def slow(_: Prepared) -> Reply:
        shop.clock.sleep(3600)  # a machine that was asleep in the middle of a walk
        return reply(200, {"id": 7})

    shop = Shop(STEPS, vendor=Vendor(answer=slow))
    (told,) = shop.post({"id": "1"})
    assert (told.status, told.outcome, shop.vendor.lines) == (202, "waiting", [PERSON])
    shop.drain()
    assert (shop.vendor.lines, shop.sums()) == ([PERSON, NOTE], {"delivered": 1})


def test_an_action_that_is_gone_by_the_time_of_the_walk_waits_for_its_return() -> None:
    shop = Shop(STEPS, vendor=Vendor(reply(200, {"id": 7})))
    received = shop.received({"client": "abc", "id": "1"})
    (stored,) = shop.store.put([received.accepted[0][1]], now=START, hold_s=60).result()
    del shop.programs["abc"].actions["note"]
    assert shop.worker.walk_now(shop.programs["abc"], stored).status == 202
    assert shop.sums() == {"waiting": 1}
