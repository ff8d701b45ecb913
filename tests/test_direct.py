"""What a caller's walk leaves to the lanes: where it got to, what stands still, and whose the delivery is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from conftest import START, Shop, Vendor, balanced, reply

from engine import direct
from engine.records import Answered, Told
from engine.stores.memory import MemoryStore
from engine.stores.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Answer

    from engine.http import Prepared, Reply
    from engine.ports import Store

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
    assert [kind for kind, _ in shop.heard.alerts] == ["action-paused", "dead-letter", "dead-letter"]


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


# Several actions, and those that wait for each other

CHAIN = (
    RECEIVE
    + """
actions:
  note:
    after: deal
    when: ${ event.note }
    record: {id: "${ event.id }"}
    request: {path: /notes, json: "${ record }"}
  deal:
    after: contact
    record: {id: "${ event.id }"}
    request: {path: /deals, json: "${ record }"}
  contact:
    record: {id: "${ event.id }"}
    request: {path: /contacts, json: "${ record }"}
"""
)
CONTACT, DEAL, NOTE_AFTER = "POST /v1/contacts", "POST /v1/deals", "POST /v1/notes"


def paths(answers: dict[str, Answer]) -> Vendor:
    """Answers by the last part of the path; all else is delivered."""
    return Vendor(answer=lambda request: answers.get(request.url.rsplit("/", 1)[1], reply(200, {})))


def test_a_caller_s_actions_are_walked_in_the_order_in_which_they_wait_for_each_other(store: Store) -> None:
    shop = Shop(CHAIN, vendor=Vendor(), store=store)
    each = {"contact": Told(200, "delivered"), "deal": Told(200, "delivered"), "note": Told(200, "delivered")}
    assert shop.post({"id": "1", "note": True}) == [Answered(200, "delivered", "1", actions=each)]
    assert (shop.vendor.lines, shop.sums()) == ([CONTACT, DEAL, NOTE_AFTER], {"delivered": 3})


def test_what_waits_for_a_rejected_action_is_not_sent_and_the_caller_is_told_why(store: Store) -> None:
    shop = Shop(CHAIN, vendor=paths({"contacts": reply(422, {})}), store=store)
    each = {
        "contact": Told(422, "rejected", "HTTP 422"),
        "deal": Told(200, "skipped", "contact was rejected"),
        "note": Told(200, "skipped", "contact was rejected"),
    }
    assert shop.post({"id": "1", "note": True}) == [Answered(422, "rejected", "1", "HTTP 422", each)]
    assert (shop.vendor.lines, shop.sums()) == ([CONTACT], {"rejected": 1, "skipped": 2})
    assert shop.counts("skipped") == {"deal": 1, "note": 1}


def test_what_goes_on_past_a_rejected_action_is_sent_for_the_caller(store: Store) -> None:
    text = CHAIN.replace("after: contact", "after: contact\n    if_rejected: continue")
    shop = Shop(text, vendor=paths({"contacts": reply(422, {})}), store=store)
    assert [(told.status, told.outcome) for told in shop.post({"id": "1"})] == [(422, "rejected")]
    assert (shop.vendor.lines, shop.sums()) == ([CONTACT, DEAL], {"rejected": 1, "delivered": 1})


def test_what_waits_for_one_that_waits_goes_on_behind_it_from_the_buffer(store: Store) -> None:
    answers: dict[str, Answer] = {"contacts": reply(429, {}, retry_after="40")}
    shop = Shop(CHAIN, vendor=paths(answers), store=store)
    each = {"contact": Told(202, "waiting", "HTTP 429"), "deal": Told(202, "waiting", "contact waits")}
    assert shop.post({"id": "1"}) == [Answered(202, "waiting", "1", "HTTP 429", each)]
    assert (shop.vendor.lines, shop.sums()) == ([CONTACT], {"waiting": 2})
    del answers["contacts"]
    shop.drain(45)  # and not only when the hold of the caller is over
    assert (shop.vendor.lines, shop.sums()) == ([CONTACT, CONTACT, DEAL], {"delivered": 2})


def test_a_direct_action_waits_for_a_buffered_one_and_its_caller_is_told_so(store: Store) -> None:
    text = CHAIN.replace("  contact:\n", "  contact:\n    mode: buffered\n    batch: {wait: 10m}\n").replace(
        '/contacts, json: "${ record }"', '/contacts, json: "${ batch.records }"'
    )
    shop = Shop(text, vendor=Vendor(), store=store)
    assert [(told.status, told.outcome, told.reason) for told in shop.post({"id": "1"})] == [
        (202, "waiting", "contact waits")
    ]
    assert shop.vendor.lines == []
    shop.drain(601)
    assert (shop.vendor.lines, shop.sums()) == ([CONTACT, DEAL], {"delivered": 2})


def test_a_buffered_action_that_waits_for_a_direct_one_goes_out_with_its_batch(store: Store) -> None:
    text = CHAIN.replace("  deal:\n", "  deal:\n    mode: buffered\n    batch: {wait: 10m}\n")
    shop = Shop(text.replace('/deals, json: "${ record }"', '/deals, json: "${ batch.records }"'), store=store)
    (told,) = shop.post({"id": "1"})
    assert (told.status, told.outcome, told.actions["deal"].outcome) == (200, "delivered", "waiting")
    shop.drain(601)
    assert (shop.vendor.lines, shop.sums()) == ([CONTACT, DEAL], {"delivered": 2})


@pytest.mark.parametrize("mode", ["direct", "buffered"])
def test_no_caller_is_told_4xx_while_another_action_goes_on(mode: str, store: Store) -> None:
    text = CHAIN.replace("    after: contact\n", f"    mode: {mode}\n")
    shop = Shop(text, vendor=paths({"contacts": reply(422, {}), "deals": reply(503)}), store=store)
    (told,) = shop.post({"id": "1"})
    assert (told.status, told.outcome) == (202, "waiting")
    assert {name: each.outcome for name, each in told.actions.items()} == {"deal": "waiting", "contact": "rejected"}
    balanced(store)


# The same id again

ONCE = RECEIVE.replace("mode: direct", "mode: direct, dedupe: 24h")


def test_what_was_rejected_is_tried_again_when_its_caller_sends_the_id_again(store: Store) -> None:
    answers: dict[str, Answer] = {"deals": reply(422, {})}
    shop = Shop(ONCE + CHAIN.removeprefix(RECEIVE), vendor=paths(answers), store=store)
    event = {"id": "1", "note": True}
    assert [told.status for told in shop.post(event, event)] == [422, 422]
    assert (shop.vendor.lines, shop.sums()) == ([CONTACT, DEAL, DEAL], {"delivered": 1, "rejected": 1, "skipped": 1})
    answers.clear()
    each = {"deal": Told(200, "delivered"), "note": Told(200, "delivered")}
    assert shop.post(event) == [Answered(200, "delivered", "1", actions=each)]
    assert shop.post(event) == [Answered(200, "skipped", "1", ENDED)]
    assert (shop.vendor.lines[3:], shop.sums()) == ([DEAL, NOTE_AFTER], {"delivered": 3})
    assert shop.dead() == []


def test_a_caller_who_sends_an_id_again_while_the_lane_is_paused_is_told_503_again(store: Store) -> None:
    shop = Shop(ONCE + "replies: {outcomes: [{status: 403, then: pause}]}", vendor=Vendor(reply(403, {})), store=store)
    assert [told.status for told in shop.post({"id": "1"}, {"id": "1"})] == [503, 503]
    assert (len(shop.vendor.asked), shop.sums(), len(shop.dead())) == (1, {"rejected": 1}, 1)


def test_what_is_tried_again_for_a_caller_is_not_taken_by_a_lane_meanwhile(store: Store) -> None:
    def slow(_: Prepared) -> Reply:
        shop.clock.sleep(1)
        shop.drain()
        return reply(422, {})

    shop = Shop(ONCE, vendor=Vendor(answer=slow), store=store)
    assert [told.status for told in shop.post({"id": "1"}, {"id": "1"})] == [422, 422]
    assert (len(shop.vendor.asked), shop.sums()) == (2, {"rejected": 1})


WAITS = Told(202, "waiting", "this id was accepted before")
ENDED = "this id was accepted before, and has ended"


def test_of_an_id_that_still_waits_its_caller_is_told_so_and_nothing_is_sent_twice(store: Store) -> None:
    shop = Shop(ONCE, vendor=Vendor(*[reply(503)] * 3, reply(200, {})), store=store)
    assert [(told.status, told.outcome) for told in shop.post({"id": "1"})] == [(202, "waiting")]
    assert shop.post({"id": "1"}) == [Answered(202, "waiting", "1", WAITS.reason)]
    shop.drain(600)
    assert shop.post({"id": "1"}) == [Answered(200, "skipped", "1", ENDED)]
    assert (len(shop.vendor.asked), shop.sums()) == (4, {"delivered": 1})


def test_what_waits_of_others_is_not_taken_for_the_id_that_came_again(store: Store) -> None:
    answers: dict[str, Answer] = {}
    shop = Shop(ONCE, vendor=paths(answers), store=store)
    shop.post({"id": "1"})
    answers["notes"] = reply(429, {}, retry_after="600")
    shop.post({"id": "2"})
    assert [told.status for told in shop.post({"id": "1"}, {"id": "2"})] == [200, 202]


def test_of_several_actions_the_one_that_waits_is_told(store: Store) -> None:
    answers: dict[str, Answer] = {"deals": reply(429, {}, retry_after="600")}
    shop = Shop(ONCE + CHAIN.removeprefix(RECEIVE), vendor=paths(answers), store=store)
    shop.post({"id": "1", "note": True})
    (told,) = shop.post({"id": "1", "note": True})
    assert told == Answered(202, "waiting", "1", WAITS.reason, {"deal": WAITS, "note": WAITS})
    assert shop.vendor.lines == [CONTACT, DEAL]


def test_what_was_rejected_is_tried_again_while_another_action_of_the_event_waits(store: Store) -> None:
    text = ONCE + CHAIN.removeprefix(RECEIVE).replace("    after: contact\n", "")
    answers: dict[str, Answer] = {"contacts": reply(422, {}), "deals": reply(409, {}, retry_after="600")}
    rules = "replies: {outcomes: [{status: 409, then: defer, wait: 10m}]}"
    shop = Shop(text + rules, vendor=paths(answers), store=store)
    shop.post({"id": "1"})
    answers["contacts"] = reply(200, {})
    (told,) = shop.post({"id": "1"})
    each = {"deal": WAITS, "contact": Told(200, "delivered")}
    assert told == Answered(202, "waiting", "1", WAITS.reason, each)


def test_where_very_much_waits_the_id_is_not_looked_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "MOST_SEEN", 2)
    answers: dict[str, Answer] = {}
    shop = Shop(ONCE, vendor=paths(answers), store=store)
    shop.post({"id": "1"})
    answers["notes"] = reply(429, {}, retry_after="600")
    shop.post({"id": "2"}, {"id": "3"}, {"id": "4"})
    assert shop.post({"id": "1"}) == [
        Answered(
            202,
            "waiting",
            "1",
            "this id was accepted before; whether it still waits can't be said while so much does",
        )
    ]
