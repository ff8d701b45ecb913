"""Lanes on virtual time: batches, waits, outages, pauses, order, leases, and callers who wait for the answer."""

from __future__ import annotations

import json
import random
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from conftest import REFUSED, START, TIMED_OUT, Shop, Vendor, balanced, reply
from kinds_of_store import KINDS

from engine.clock import SystemClock, VirtualClock
from engine.errors import StoreUnavailable
from engine.records import Answered, Delivery, LaneChange, Skipped, Told
from engine.stores.memory import MemoryStore
from engine.stores.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from engine.http import Prepared, Reply
    from engine.ports import Clock, Store

BATCH = """
actions:
  note:
    record: {id: "${ event.id }"}
    batch: {records: 3, wait: 15m}
    request: {path: /notes, json: "${ batch.records }"}
"""
TWO = """
actions:
  note: {record: {id: "${ event.id }"}, request: {path: /notes, json: "${ record }"}}
  task: {when: "${ event.task }", record: {id: "${ event.id }"}, request: {path: /tasks, json: "${ record }"}}
"""
GROWING = "replies: {outcomes: [{status: 429, then: throttle, wait: {initial: 1m, factor: 2, max: 4m}}]}\n"


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "connect.db")
    yield made
    made.close()


def by_path(**answers: Reply) -> Vendor:
    """`notes=…, tasks=…`: always the same answer for a path."""
    return Vendor(answer=lambda request: answers[request.url.rsplit("/", 1)[1]])


# --- batches ---


def test_a_batch_goes_out_when_its_number_is_reached_or_its_time_is_over(store: Store) -> None:
    shop = Shop(BATCH, store=store)
    shop.post({"id": "1"}, {"id": "2"})
    shop.drain(14 * 60)
    assert shop.vendor.asked == []
    shop.post({"id": "3"})
    shop.drain()
    assert shop.vendor.bodies == [[{"id": "1"}, {"id": "2"}, {"id": "3"}]]
    shop.post({"id": "4"})
    shop.drain(899)
    assert len(shop.vendor.asked) == 1
    shop.drain(2)
    assert shop.vendor.bodies[1:] == [[{"id": "4"}]]
    assert shop.sums() == {"delivered": 4}


def test_a_batch_is_never_larger_than_its_number(store: Store) -> None:
    shop = Shop(BATCH, store=store)
    shop.post(*({"id": str(at)} for at in range(1, 8)))
    shop.drain(3600)
    assert [len(body) for body in shop.vendor.bodies] == [3, 3, 1]
    assert shop.sums() == {"delivered": 7}


def test_a_batch_is_cut_by_its_bytes() -> None:
    shop = Shop(BATCH.replace("wait: 15m", "bytes: 60B"))
    shop.post(*({"id": "x" * 20 + str(at)} for at in range(3)))
    shop.drain(3600)
    assert [len(body) for body in shop.vendor.bodies] == [1, 1, 1]


def test_folded_deliveries_share_the_outcome_of_their_record() -> None:
    text = """
actions:
  note:
    record: {who: "${ event.email }", last: "${ event.id }"}
    batch: {records: 10, fold: {by: "${ record.who }"}}
    request: {path: /notes, json: "${ batch.records }"}
    results: {at: "${ response.body }", ok: "${ result }"}
"""
    shop = Shop(text, vendor=Vendor(reply(200, [True, False])))
    shop.post(
        {"id": "1", "email": "a"}, {"id": "2", "email": "b"}, {"id": "3", "email": "a"}, {"id": "4", "email": "b"}
    )
    shop.drain()
    assert shop.vendor.bodies == [[{"who": "a", "last": "3"}, {"who": "b", "last": "4"}]]
    assert shop.sums() == {"delivered": 2, "rejected": 2}
    assert sorted(shop.reasons()) == ["2", "4"]


# --- several actions ---


def test_an_event_goes_to_every_action_that_wants_it_and_each_is_settled_by_itself(store: Store) -> None:
    shop = Shop(TWO, vendor=by_path(notes=reply(200, {}), tasks=reply(422, {})), store=store)
    shop.post({"id": "1", "task": True}, {"id": "2"})
    shop.drain()
    assert sorted(shop.vendor.lines) == ["POST /v1/notes", "POST /v1/notes", "POST /v1/tasks"]
    assert shop.sums() == {"delivered": 2, "rejected": 1}
    assert [(dead.action, dead.event_id) for dead in shop.dead()] == [("task", "1")]
    assert (shop.counts("delivered"), shop.counts("rejected")) == ({"note": 2}, {"task": 1})


def test_an_event_that_no_action_wants_is_skipped() -> None:
    shop = Shop('actions: {task: {when: "${ event.task }", request: {path: /tasks, json: {}}}}')
    shop.post({"id": "1"})
    shop.drain()
    assert (shop.sums(), shop.vendor.asked) == ({"skipped": 1}, [])


def test_a_pause_of_one_action_lets_the_others_go_on() -> None:
    rules = "replies: {outcomes: [{status: 403, then: pause, scope: action, why: no right to write tasks}]}\n"
    shop = Shop(rules + TWO, vendor=by_path(notes=reply(200, {}), tasks=reply(403, {})))
    shop.post({"id": "1", "task": True}, {"id": "2", "task": True})
    shop.drain(3600)
    assert sorted(shop.vendor.lines) == ["POST /v1/notes", "POST /v1/notes", "POST /v1/tasks"]
    assert shop.sums() == {"delivered": 2, "waiting": 2}
    assert [kind for kind, _ in shop.heard.alerts] == ["action-paused"]


@pytest.mark.parametrize("then", ["throttle, wait: 10m", "pause"])
def test_an_action_that_stands_still_sends_nothing_more_of_what_was_read(then: str) -> None:
    rules = f"replies: {{outcomes: [{{status: 429, then: {then}, scope: action}}]}}\n"
    shop = Shop(rules + BATCH.replace("wait: 15m", "bytes: 60B"), vendor=Vendor(reply(429, {})))
    shop.post(*({"id": "x" * 40 + str(at)} for at in range(3)))
    shop.worker.drain()
    assert (shop.sums(), len(shop.vendor.asked)) == ({"waiting": 3}, 1)


def test_a_pause_of_the_lane_is_one_beside_a_throttle_of_one_action() -> None:
    results = """
    results:
      at: "${ response.body }"
      ok: "${ result == 'fine' }"
      code: "${ result }"
      outcomes: [{code: stop, then: pause}, {code: slow, then: throttle, wait: 10m, scope: action}]
"""
    shop = Shop(BATCH.rstrip() + results, vendor=Vendor(reply(200, ["stop", "slow", "fine"])))
    shop.post_many(3)
    shop.worker.drain()
    assert (shop.sums(), shop.lane().state, len(shop.vendor.asked)) == ({"waiting": 2, "delivered": 1}, "paused", 1)


def test_a_throttle_of_one_action_lets_the_others_go_on() -> None:
    rules = "replies: {outcomes: [{status: 429, then: throttle, wait: 10m, scope: action}]}\n"
    shop = Shop(rules + TWO, vendor=by_path(notes=reply(200, {}), tasks=reply(429, {})))
    shop.post({"id": "1", "task": True}, {"id": "2", "task": True})
    shop.drain(599)
    assert sorted(shop.vendor.lines) == ["POST /v1/notes", "POST /v1/notes", "POST /v1/tasks"]
    shop.vendor.answer = lambda _: reply(200, {})
    shop.drain(2)
    assert shop.sums() == {"delivered": 4}
    assert shop.dead() == []


# --- trouble of the vendor ---


@pytest.mark.parametrize(
    ("trouble", "number"), [(reply(503), 2000), (reply(500, {"x": 1}), 200), (REFUSED, 200), (TIMED_OUT, 200)]
)
def test_an_outage_of_twelve_hours_loses_nothing_and_buries_nothing(trouble: Any, number: int) -> None:
    shop = Shop(BATCH.replace("records: 3, wait: 15m", "records: 100"))
    up_again = START + 12 * 3600
    shop.vendor.answer = lambda _: trouble if shop.clock.now() < up_again else reply(200, {})
    shop.post_many(number)
    shop.drain(12 * 3600 - 1)
    assert shop.sums() == {"waiting": number}
    assert (shop.lane().state, shop.dead()) == ("throttled", [])
    assert len(shop.vendor.asked) < 300  # the lane probes with one batch, at most every five minutes in the end
    shop.drain(3600)
    assert shop.sums() == {"delivered": number}
    assert sorted(int(record["id"]) for body in shop.vendor.bodies[-(number // 100) :] for record in body) == list(
        range(1, number + 1)
    )
    assert (shop.lane().state, shop.lane().reason, shop.lane().failures) == ("idle", None, 0)


def test_an_outage_ends_as_dead_letters_only_after_give_up_after() -> None:
    http = "http: {base_url: https://api.crm.example, retry: {initial: 1m, max: 1h, jitter: none, give_up_after: 1d}}"
    shop = Shop(http, vendor=Vendor(reply(503)))
    shop.post({"id": "1"})
    shop.drain(86_000)
    assert shop.sums() == {"waiting": 1}
    shop.drain(2 * 3600)
    assert shop.sums() == {"rejected": 1}


def test_a_new_event_after_an_outage_is_not_given_up_at_once() -> None:
    http = "http: {base_url: https://api.crm.example, retry: {initial: 1m, max: 1h, jitter: none, give_up_after: 1d}}"
    shop = Shop(http, vendor=Vendor(reply(503)))
    shop.post({"id": "1"})
    shop.drain(3 * 86_400)
    shop.post({"id": "2"})
    shop.drain(60)
    assert "2" not in shop.reasons()


def test_a_throttle_holds_the_lane_and_counts_no_attempt(store: Store) -> None:
    shop = Shop(vendor=Vendor(*[reply(429, retry_after="60")] * 20, reply(200, {})), store=store)
    shop.post({"id": "1"}, {"id": "2"})
    shop.drain()
    assert (shop.lane().state, shop.lane().not_before) == ("throttled", START + 60)
    assert len(shop.vendor.asked) == 1  # the second was not even tried
    shop.drain(3600)
    assert shop.sums() == {"delivered": 2}
    assert [round(at - START) for at in shop.vendor.at[:4]] == [0, 60, 120, 180]


def test_an_event_that_fails_while_others_come_through_is_given_up_and_holds_them_little() -> None:
    def answer(request: Prepared) -> Reply:
        return reply(500) if b"bad" in (request.content or b"") else reply(200, {})

    shop = Shop(
        "http: {base_url: https://api.crm.example/v1, retry: {initial: 1s, max: 5m, give_up_after: 6h}}",
        vendor=Vendor(answer=answer),
    )
    shop.post({"id": "bad"})
    for number in range(100):
        shop.post({"id": str(number)})
        shop.drain(300)
    assert (shop.sums(), shop.reasons()) == (
        {"delivered": 100, "rejected": 1},
        {"bad": "HTTP 500 (given up: it went on for too long)"},
    )
    tried = [at - START for at, body in zip(shop.vendor.at, shop.vendor.bodies, strict=True) if body["id"] == "bad"]
    assert (len(tried) < 200, 6 * 3600 <= tried[-1] < 6.2 * 3600) == (True, True)
    assert shop.worker.failing == {}


def test_a_throttle_of_days_is_no_outage_of_days() -> None:
    answers = [*[reply(429, {}, retry_after="86400")] * 4, reply(503), reply(200, {})]
    shop = Shop(vendor=Vendor(*answers))
    shop.post({"id": "1"})
    shop.drain(5 * 86_400)
    assert (shop.sums(), len(shop.vendor.asked)) == ({"delivered": 1}, 6)


def test_an_outage_ends_with_any_answer_of_the_vendor() -> None:
    shop = Shop(vendor=Vendor(reply(503), reply(422, {}), reply(503), reply(200, {})))
    shop.post({"id": "1"})
    shop.drain(60)
    assert (shop.lane().failures, shop.lane().failing_since) == (0, None)


def test_a_growing_wait_grows_and_starts_anew_after_a_success() -> None:
    slow, fine = reply(429), reply(200, {})
    shop = Shop(GROWING, vendor=Vendor(slow, slow, slow, slow, fine, slow, fine))
    shop.post({"id": "1"}, {"id": "2"})
    shop.drain(3600)
    assert shop.sums() == {"delivered": 2}
    assert [round(at - START) for at in shop.vendor.at] == [0, 60, 180, 420, 660, 660, 720]


def test_a_pause_keeps_the_events_tells_someone_and_goes_on_by_hand(store: Store) -> None:
    shop = Shop(BATCH, vendor=Vendor(reply(403, {}), reply(200, {})), store=store)
    shop.post(*({"id": str(at)} for at in range(1, 7)))
    shop.drain(7 * 86_400)
    assert shop.sums() == {"waiting": 6}
    assert (shop.lane().state, shop.lane().reason, len(shop.vendor.asked)) == ("paused", "HTTP 403", 1)
    assert [kind for kind, _ in shop.heard.alerts] == ["lane-paused"]
    shop.post({"id": "7"})
    shop.drain()
    assert len(shop.vendor.asked) == 1
    store.change_lane("crm", "abc", LaneChange(pause=False, reason=""), now=shop.clock.now())
    shop.drain(3600)
    assert shop.sums() == {"delivered": 7}


def test_one_client_s_pause_is_not_another_s() -> None:
    shop = Shop(
        "",
        "{client: abc, connectors: {crm: {}}}",
        "{client: xyz, connectors: {crm: {}}}",
        vendor=Vendor(reply(403, {}), reply(200, {})),
    )
    shop.post({"id": "1"}, client="abc")
    shop.drain()
    shop.post({"id": "2"}, client="xyz")
    shop.drain()
    assert (shop.sums("abc"), shop.sums("xyz")) == ({"waiting": 1}, {"delivered": 1})


# --- one delivery's trouble ---

RETRIED = "replies: {outcomes: [{status: 409, then: retry}]}\n"


def test_a_delivery_is_tried_as_often_as_the_connector_says_and_then_buried() -> None:
    shop = Shop(RETRIED, vendor=Vendor(reply(409, {})))
    shop.post({"id": "1"})
    shop.drain(3600)
    assert [round(at - START) for at in shop.vendor.at] == [0, 10, 30]
    assert shop.sums() == {"rejected": 1}
    assert [(dead.attempts, dead.reason) for dead in shop.dead()] == [(3, "HTTP 409 (after 3 tries)")]
    assert [kind for kind, _ in shop.heard.alerts] == ["dead-letter"]


def test_a_ladder_of_attempts_ends_in_what_else_says() -> None:
    rules = "replies: {outcomes: [{status: 409, then: retry, attempts: 1, else: pause, wait: 5s}]}\n"
    shop = Shop(rules, vendor=Vendor(reply(409, {})))
    shop.post({"id": "1"})
    shop.drain(3600)
    assert len(shop.vendor.asked) == 2
    assert (shop.sums(), shop.lane().state) == ({"waiting": 1}, "paused")


def test_an_outage_in_between_does_not_use_up_attempts() -> None:
    busy, down = reply(409, {}), reply(503)
    shop = Shop(RETRIED, vendor=Vendor(busy, down, down, down, down, busy, reply(200, {})))
    shop.post({"id": "1"})
    shop.drain(3600)
    assert shop.sums() == {"delivered": 1}


def test_a_2xx_that_is_not_the_expected_reply_is_tried_again_and_then_pauses() -> None:
    text = 'actions: {note: {request: {path: /notes, json: {}, expect: "${ response.body.id }"}}}'
    shop = Shop(text, vendor=Vendor(reply(200, text="<html>", content_type="text/html")))
    shop.post({"id": "1"})
    shop.drain(3600)
    assert (shop.sums(), shop.lane().state, len(shop.vendor.asked)) == ({"waiting": 1}, "paused", 3)


def test_a_deferred_delivery_comes_again_and_the_lane_goes_on() -> None:
    rules = "replies: {outcomes: [{status: 429, then: defer, wait: 1h}]}\n"
    shop = Shop(rules, vendor=Vendor(reply(429, {}), reply(200, {})))
    shop.post({"id": "1"}, {"id": "2"})
    shop.drain()
    assert (shop.sums(), shop.lane().state) == ({"delivered": 1, "waiting": 1}, "waiting")
    shop.drain(3601)
    assert shop.sums() == {"delivered": 2}
    assert [body["id"] for body in shop.vendor.bodies] == ["1", "2", "1"]


@pytest.mark.parametrize(
    ("rule", "answer", "at"),
    [
        ("{status: 420, then: defer}", reply(420, {}), [0, 60, 120]),
        ("{status: 429, then: throttle}", reply(429, {}, retry_after="0"), [0, 10, 30, 70, 150]),
        ("{status: 429, then: throttle}", reply(503, {}, retry_after="0"), [0, 10, 30, 70, 150]),
        (
            "{status: 429, then: throttle, wait: {header: x-reset, unit: epoch}}",
            reply(429, {}, x_reset="5"),
            [0, 10, 30, 70, 150],
        ),
        (
            "{status: 429, then: throttle, scope: action, wait: {header: x-reset}}",
            reply(429, {}, x_reset="0"),
            [0, 10, 20],
        ),
    ],
)
def test_a_wait_of_nothing_is_none_and_the_vendor_is_not_asked_without_end(
    rule: str, answer: Reply, at: list[int]
) -> None:
    shop = Shop(f"replies: {{outcomes: [{rule}]}}", vendor=Vendor(answer))
    shop.post({"id": "1"})
    shop.drain(at[-1])
    assert [round(each - START) for each in shop.vendor.at][: len(at)] == at
    assert len(shop.vendor.at) <= 18


def test_what_a_rule_skips_is_counted_apart_and_what_is_expected_raises_no_alarm() -> None:
    rules = "replies: {outcomes: [{status: 409, then: skip}, {status: 410, then: reject, expected: true}]}\n"
    shop = Shop(rules, vendor=Vendor(reply(409, {}), reply(410, {})))
    shop.post({"id": "1"}, {"id": "2"})
    shop.drain()
    assert (shop.sums(), shop.heard.alerts) == ({"skipped": 1, "rejected": 1}, [])


def test_a_dead_letter_keeps_request_reply_and_reason_and_can_be_sent_again(store: Store) -> None:
    shop = Shop(vendor=Vendor(reply(422, {"why": "no mailbox"}), reply(200, {})), store=store)
    shop.post({"id": "1"})
    shop.drain()
    (dead,) = shop.dead()
    assert dead.trace is not None
    assert (dead.trace.method, dead.trace.url, dead.trace.status) == ("POST", "https://api.crm.example/v1/notes", 422)
    assert (dead.trace.request, dead.trace.reply) == ('{"id":"1"}', '{"why":"no mailbox"}')
    assert store.requeue([dead.id], now=shop.clock.now()) == 1
    shop.drain()
    assert shop.sums() == {"delivered": 1}


def test_a_record_that_can_not_be_built_is_rejected_alone() -> None:
    text = """
actions:
  note:
    record: {price: "${ decimal(event.price) }"}
    batch: {records: 10}
    request: {path: /notes, json: "${ batch.records }"}
"""
    shop = Shop(text)
    shop.post({"id": "1", "price": 5}, {"id": "2", "price": {"a": 1}}, {"id": "3", "price": 7})
    shop.drain()
    assert (shop.vendor.bodies, shop.sums()) == ([[{"price": 5}, {"price": 7}]], {"delivered": 2, "rejected": 1})


def test_one_bad_record_whose_request_can_not_be_built_does_not_hold_its_batch() -> None:
    text = """
actions:
  note:
    record: {id: "${ event.id }"}
    batch: {records: 10}
    request: {path: /notes, max_bytes: 40B, json: "${ batch.records }"}
"""
    shop = Shop(text)
    shop.post({"id": "1"}, {"id": "x" * 100}, {"id": "3"})
    shop.drain()
    assert shop.sums() == {"delivered": 2, "rejected": 1}
    assert list(shop.reasons()) == ["x" * 100]


# --- order ---


def keyed(event_id: str, email: str) -> dict[str, Any]:
    return {"id": event_id, "email": email}


def test_deliveries_of_one_key_never_overtake_each_other(store: Store) -> None:
    shop = Shop('key: "${ event.email }"\n' + RETRIED, vendor=Vendor(reply(409, {}), reply(200, {})), store=store)
    shop.post(keyed("1", "ana"), keyed("2", "bia"), keyed("3", "ana"))
    shop.drain()
    assert [body["id"] for body in shop.vendor.bodies] == ["1", "2"]
    shop.post(keyed("4", "ana"), keyed("5", "bia"))
    shop.drain(3600)
    assert [body["id"] for body in shop.vendor.bodies] == ["1", "2", "5", "1", "3", "4"]
    assert shop.sums() == {"delivered": 5}


def test_a_batch_may_hold_several_of_one_key_in_their_order() -> None:
    shop = Shop('key: "${ event.email }"\n' + BATCH)
    shop.post(keyed("1", "ana"), keyed("2", "ana"), keyed("3", "ana"))
    shop.drain()
    assert shop.vendor.bodies == [[{"id": "1"}, {"id": "2"}, {"id": "3"}]]


def test_a_later_one_of_its_key_waits_also_where_the_first_failed_in_the_same_window() -> None:
    """The first of two is sent and must be tried again; the second, read with it, must not go out before it."""
    shop = Shop('key: "${ event.email }"\n' + RETRIED + BATCH.replace("records: 3, wait: 15m", "records: 1"))
    shop.vendor.answers = [reply(409, {}), reply(200, {})]
    shop.post(keyed("1", "ana"), keyed("2", "ana"))
    shop.drain(3600)
    assert [body[0]["id"] for body in shop.vendor.bodies] == ["1", "1", "2"]


def test_a_later_one_of_its_key_waits_where_the_first_is_in_the_half_before_it(store: Store) -> None:
    def answer(request: Prepared) -> Reply:
        if len(shop.vendor.bodies[-1]) > 2:
            return reply(413, {})
        return reply(409, {}) if b'"1"' in (request.content or b"") and len(shop.vendor.asked) < 4 else reply(200, {})

    text = """
key: "${ event.who }"
replies: {outcomes: [{status: 409, then: retry, wait: 1m}]}
actions:
  note: {record: {id: "${ event.id }"}, batch: {records: 4}, request: {path: /notes, json: "${ batch.records }"}}
"""
    shop = Shop(text, vendor=Vendor(answer=answer), store=store)
    shop.post(*({"id": id_, "who": who} for id_, who in (("1", "a"), ("2", "b"), ("3", "a"), ("4", "c"))))
    shop.drain(600)
    sent = [[record["id"] for record in body] for body in shop.vendor.bodies]
    assert sent == [["1", "2", "3", "4"], ["1", "2"], ["4"], ["1", "2", "3"], ["1", "2"], ["3"]]
    assert shop.sums() == {"delivered": 4}


def test_a_later_one_of_its_key_waits_while_a_record_of_the_same_batch_is_sent_again() -> None:
    text = """
key: ${ event.email }
actions:
  note:
    record: {id: "${ event.id }"}
    batch: {records: 2}
    request: {path: /notes, json: "${ batch.records }"}
    results: {at: "${ response.body }", ok: "${ result }", outcomes: [{then: retry}]}
"""
    shop = Shop(text)
    shop.vendor.answer = lambda _: reply(200, [len(shop.vendor.asked) > 1, *[True] * (len(shop.vendor.bodies[-1]) - 1)])
    shop.post(keyed("1", "ana"), keyed("2", "bia"), keyed("3", "ana"), keyed("4", "bia"))
    shop.drain(3600)
    sent = [[record["id"] for record in body] for body in shop.vendor.bodies]
    assert sent[0] == ["1", "2"]
    assert [one for batch in sent for one in batch if one in "13"] == ["1", "1", "3"]
    assert shop.sums() == {"delivered": 4}


# --- leases ---


def test_who_lost_the_lane_in_mid_walk_settles_nothing() -> None:
    shop = Shop()

    def slow(_: Prepared) -> Reply:
        shop.clock.sleep(200)  # longer than a lease lasts; meanwhile another takes the lane
        shop.store.lease("crm", "abc", owner="another", ttl_s=600, now=shop.clock.now())
        return reply(200, {})

    shop.vendor.answer = slow
    shop.post({"id": "1"}, {"id": "2"})
    assert shop.worker.run_lane("crm", "abc") is False
    assert shop.sums() == {"waiting": 2}
    assert len(shop.vendor.asked) == 1
    assert [facts["client"] for facts in shop.heard.named("lease-lost")] == ["abc"]


def test_a_lane_that_another_took_while_we_thought_it_ours_is_settled_by_the_other_alone() -> None:
    """Their clock is ahead: to us the lease looks fresh, and only its fence can tell."""
    shop = Shop()

    def taken(_: Prepared) -> Reply:
        assert shop.store.lease("crm", "abc", owner="another", ttl_s=600, now=shop.clock.now() + 900) is not None
        return reply(200, {})

    shop.vendor.answer = taken
    shop.post({"id": "1"})
    assert shop.worker.run_lane("crm", "abc") is False
    assert shop.sums() == {"waiting": 1}


def test_a_lease_is_renewed_while_a_long_turn_lasts() -> None:
    shop = Shop()

    def slow(_: Prepared) -> Reply:
        shop.clock.sleep(50)
        return reply(200, {})

    shop.vendor.answer = slow
    shop.post(*({"id": str(at)} for at in range(6)))
    shop.drain(600)
    assert shop.sums() == {"delivered": 6}
    assert shop.heard.named("lease-lost") == []


def test_a_lane_gives_way_after_its_turn() -> None:
    shop = Shop("", "{client: abc, connectors: {crm: {}}}", "{client: xyz, connectors: {crm: {}}}")

    def slow(_: Prepared) -> Reply:
        shop.clock.sleep(4)
        return reply(200, {})

    shop.vendor.answer = slow
    shop.post(*({"id": f"a{at}"} for at in range(6)), client="abc")
    shop.post({"id": "x"}, client="xyz")
    shop.drain(600)
    assert "x" in [body["id"] for body in shop.vendor.bodies][:5]


def slowly(shop: Shop, **paths: float) -> None:
    """The vendor takes so many seconds for each request to a path, 4 by default."""

    def answer(request: Prepared) -> Reply:
        shop.clock.sleep(paths.get(request.url.split("/v1/")[1].split("/")[0].split("?")[0], 4.0))
        return reply(200, {"rows": [{"id": "x"}]})

    shop.vendor.answer = answer


TWO_CLIENTS = ("{client: abc, connectors: {crm: {}}}", "{client: xyz, connectors: {crm: {}}}")


@pytest.mark.parametrize(
    "action",
    [
        "batch: {records: 1, window: 1m}, request: {path: /notes, json: {id: '${ batch.records[0].id }'}}",
        "batch: {records: 100}, each: records, request: {path: /notes, json: {id: '${ record.id }'}}",
        "batch: {records: 100}, steps: {x: {each: '${ batch.records }', request: {path: /notes, json: '${ item }'}}}",
    ],
)
def test_many_requests_of_one_reading_give_way_too_and_none_is_sent_twice(action: str, store: Store) -> None:
    text = f"actions: {{note: {{record: {{id: '${{ event.id }}'}}, {action}}}}}"
    shop = Shop(text, *TWO_CLIENTS, store=store)
    slowly(shop)
    shop.post(*({"id": f"a{at}"} for at in range(12)), client="abc")
    shop.post({"id": "x"}, client="xyz")
    shop.drain(600)
    sent = [body["id"] for body in shop.vendor.bodies]
    assert sent.index("x") in range(1, 5)
    assert sorted(sent) == sorted(["x", *(f"a{at}" for at in range(12))])
    assert [shop.sums(client) for client in ("abc", "xyz")] == [{"delivered": 12}, {"delivered": 1}]


def test_a_lane_that_gives_way_goes_on_with_its_other_actions(store: Store) -> None:
    text = WINDOWS.format(lookup="", more="  also: {record: {id: '${ event.id }'}, request: {path: /also}}")
    shop = Shop(text, *TWO_CLIENTS, store=store)
    slowly(shop)
    for client in ("abc", "xyz"):
        shop.post(*({"id": str(at)} for at in range(20)), client=client)
    shop.clock.time += 2
    shop.drain(60)
    assert {line.split("/")[-1] for line in shop.vendor.lines[:12]} == {"note", "also"}


WINDOWS = """
actions:
  a: {{record: {{id: '${{ event.id }}'}}, {lookup} batch: {{records: 1, window: 1s}}, request: {{path: /note}}}}
{more}
"""
LOOKUP = (
    "lookups: {who: {key: '${ event.id }', sources: {x: {request: {method: GET, path: /who, query: {id: '${ key }'}},"
    " rows: '${ response.body.rows }'}}}},"
)


def test_what_took_long_to_look_up_is_used_before_the_lane_gives_way() -> None:
    shop = Shop(WINDOWS.format(lookup=LOOKUP, more=""), *TWO_CLIENTS)
    slowly(shop, who=2, note=1)
    for client in ("abc", "xyz"):
        shop.post(*({"id": str(at)} for at in range(30)), client=client)
    shop.drain(1200)
    asked = [line.split("?")[0] for line in shop.vendor.lines]
    assert asked.count("POST /v1/note") == 60
    assert asked.count("GET /v1/who") == 60


def test_a_lane_whose_look_ups_take_longer_than_its_sending_gives_way_too() -> None:
    shop = Shop(WINDOWS.format(lookup=LOOKUP, more="").replace(", window: 1s", ""), *TWO_CLIENTS)
    slowly(shop, who=2, note=1)
    for client in ("abc", "xyz"):
        shop.post(*({"id": str(at)} for at in range(30)), client=client)
    shop.worker.run_lane("crm", "abc")
    assert shop.sums("abc") == {"waiting": 26, "delivered": 4}


def test_at_the_end_of_the_process_the_rest_of_a_batch_is_left_for_the_next(store: Store) -> None:
    text = (
        "actions: {note: {record: {id: '${ event.id }'}, batch: {records: 100}, each: records,"
        " request: {path: /notes, json: {id: '${ record.id }'}}}}"
    )
    shop = Shop(text, store=store)

    def answer(_: Prepared) -> Reply:
        if len(shop.vendor.asked) == 5:
            shop.worker.stop()
        return reply(200, {})

    shop.vendor.answer = answer
    shop.post(*({"id": str(at)} for at in range(12)))
    shop.worker.run_lane("crm", "abc")
    assert len(shop.vendor.asked) == 5
    shop.worker = shop.new_worker()
    shop.drain()
    assert [body["id"] for body in shop.vendor.bodies] == [str(at) for at in range(12)]
    assert shop.sums() == {"delivered": 12}


def test_a_process_that_dies_repeats_at_most_what_was_in_flight(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    class Gone(SqliteStore):
        def release(self, *_: Any, **__: Any) -> None:
            """A process that is killed does not give its lane back."""

    first = Shop(store=Gone(tmp_path / "connect.db"))
    count = iter(range(10))

    def die(_: Prepared) -> Reply:
        if next(count) == 2:
            raise Killed
        return reply(200, {})

    first.vendor.answer = die
    first.post(*({"id": str(at)} for at in range(1, 6)))
    with pytest.raises(Killed):
        first.worker.drain()
    first.store.close()
    clock = VirtualClock(first.clock.now() + 200)
    second = Shop(store=SqliteStore(tmp_path / "connect.db"), clock=clock)
    second.drain(600)
    assert [body["id"] for body in first.vendor.bodies] == ["1", "2", "3"]
    assert [body["id"] for body in second.vendor.bodies] == ["3", "4", "5"]
    assert second.sums() == {"delivered": 5}
    second.store.close()


def test_lanes_whose_vendor_does_not_answer_take_no_place_from_the_others() -> None:
    """Two workers, three clients whose requests hang: the fourth is served all the same."""
    answers = threading.Event()

    def answer(request: Prepared) -> Reply:
        if json.loads(request.content or b"")["id"] != "d":
            assert answers.wait(30)
        return reply(200)

    names = ("a", "b", "c", "d")
    shop = Shop(
        "",
        *(f"{{client: {name}, connectors: {{crm: {{}}}}}}" for name in names),
        vendor=Vendor(answer=answer),
        clock=SystemClock(),
    )
    shop.worker.workers = 2
    for name in names:
        shop.post({"id": name}, client=name)
    runs = threading.Thread(target=shop.worker.run)
    runs.start()
    try:
        until = time.monotonic() + 20
        while shop.sums("d") != {"delivered": 1} and time.monotonic() < until:
            time.sleep(0.05)
        assert [shop.sums(name) for name in names] == [*[{"waiting": 1}] * 3, {"delivered": 1}]
    finally:
        answers.set()
        shop.worker.stop()
        runs.join()
    assert [shop.sums(name) for name in names] == [{"delivered": 1}] * 4


def test_a_store_that_is_away_loses_nothing() -> None:
    class Away(MemoryStore):
        away = False

        def settle(self, *args: Any, **options: Any) -> list[Skipped]:
            if self.away:
                raise StoreUnavailable("disk full")
            return super().settle(*args, **options)

    store = Away()
    shop = Shop(store=store)
    shop.post({"id": "1"})
    store.away = True
    with pytest.raises(StoreUnavailable):
        shop.worker.drain()
    store.away = False
    shop.drain(600)
    assert shop.sums() == {"delivered": 1}


class Full(MemoryStore):
    """Nothing that a CRM said can be written down before `until`."""

    clock: Clock
    until = 0.0

    def settle(self, *args: Any, **options: Any) -> list[Skipped]:
        self.fits()
        return super().settle(*args, **options)

    def save_progress(self, *args: Any, **options: Any) -> None:
        self.fits()
        super().save_progress(*args, **options)

    def fits(self) -> None:
        if self.clock.now() < self.until:
            raise StoreUnavailable("the disk is full")


TWO_STEPS = """
actions:
  note:
    record: {id: "${ event.id }"}
    steps:
      create: {request: {path: /jobs, json: "${ record }"}, save: {job: "${ response.body.ok }"}}
      close: {request: {method: PUT, path: /jobs, json: "${ record }"}}
"""


@pytest.mark.parametrize(("text", "paths"), [("", ["/notes"]), (TWO_STEPS, ["/jobs", "/jobs"])])
def test_what_the_vendor_did_is_written_down_when_there_is_room_again_and_not_asked_a_second_time(
    text: str, paths: list[str]
) -> None:
    store = Full()
    shop = Shop(text, store=store)
    shop.post({"id": "1"})
    store.clock, store.until = shop.clock, shop.clock.now() + 600
    shop.drain(3600)
    assert shop.sums() == {"delivered": 1}
    assert [request.url.removeprefix("https://api.crm.example/v1") for request in shop.vendor.asked] == paths
    assert [str(facts["why"]) for facts in shop.heard.named("store-unavailable")] == ["the disk is full"]


class Cut(MemoryStore):
    """Away before `until`."""

    clock: Clock
    until = 0.0

    def read(self, *args: Any, **options: Any) -> list[Delivery]:
        self.there()
        return super().read(*args, **options)

    def release(self, *args: Any, **options: Any) -> None:
        self.there()
        super().release(*args, **options)

    def there(self) -> None:
        if self.clock.now() < self.until:
            raise StoreUnavailable("no server answers")


def test_a_lane_that_a_short_outage_of_the_store_broke_is_given_back_after_it_and_not_when_its_lease_is_over() -> None:
    store = Cut()
    shop = Shop(store=store)
    shop.post({"id": "1"})
    store.clock, store.until = shop.clock, shop.clock.now() + 7
    with pytest.raises(StoreUnavailable):
        shop.worker.run_lane("crm", "abc")
    assert shop.clock.now() < store.until + 5
    assert shop.new_worker().run_lane("crm", "abc")
    assert shop.sums() == {"delivered": 1}


class Away(MemoryStore):
    """Nobody can look what is due."""

    why = "no server answers"

    def due_lanes(self, *, now: float, limit: int = 100) -> list[tuple[str, str]]:
        del now, limit
        raise StoreUnavailable(self.why)


def test_a_store_that_is_away_is_told_at_once_and_then_every_half_minute_and_where_it_says_something_else() -> None:
    store = Away()
    shop = Shop(store=store)
    for wait_s, why in [(0, "no server answers"), (29, "no server answers"), (2, "no server answers"), (1, "starting")]:
        shop.clock.sleep(wait_s)
        store.why = why
        shop.worker.run(until_empty=True)
    whys = [facts["why"] for facts in shop.heard.named("store-unavailable")]
    assert whys == ["no server answers", "no server answers", "starting"]


class FullAtFirst(MemoryStore):
    """Takes no writes of the lanes at first."""

    refuses = 1

    def reclaim(self, *args: Any, **options: Any) -> None:
        if self.refuses:
            self.refuses -= 1
            raise StoreUnavailable("the disk is full")
        super().reclaim(*args, **options)


def test_a_store_that_is_away_when_deliveries_begin_does_not_end_them() -> None:
    shop = Shop(store=FullAtFirst())
    shop.post({"id": "1"})
    for sums in ({"waiting": 1}, {"delivered": 1}):
        shop.worker.run(until_empty=True)
        assert shop.sums() == sums
    assert [facts["why"] for facts in shop.heard.named("store-unavailable")] == ["the disk is full"]


# --- callers who wait ---

DIRECT = """
receive:
  {mode: direct, client: "${ event.client }", id: "${ event.id }", dedupe: 24h, answer: {within: 25s, tries: 3%s}}
http: {base_url: https://api.crm.example/v1, timeout: 5s, retry: {attempts: 5, initial: 2s, max: 5m, jitter: none}}
replies:
  outcomes:
    - {status: 409, then: retry}
    - {status: 420, then: defer, wait: 1h}
    - {status: 418, then: skip, why: not needed}
"""


def direct(*answers: Any, answer: str = "") -> Shop:
    return Shop(DIRECT % answer, vendor=Vendor(*answers))


@pytest.mark.parametrize(
    ("answers", "told", "sums"),
    [
        ([reply(200, {})], (200, "delivered", ""), {"delivered": 1}),
        ([reply(422, {})], (422, "rejected", "HTTP 422"), {"rejected": 1}),
        ([reply(418, {})], (200, "skipped", "not needed (HTTP 418)"), {"skipped": 1}),
        ([reply(403, {})], (503, "rejected", "HTTP 403"), {"rejected": 1}),
        ([reply(420, {})], (202, "waiting", "HTTP 420"), {"waiting": 1}),
        ([reply(429, {})], (202, "waiting", "HTTP 429"), {"waiting": 1}),
        ([reply(409, {})] * 2 + [reply(200, {})], (200, "delivered", ""), {"delivered": 1}),
        ([reply(409, {})] * 3, (202, "waiting", "HTTP 409 (after 3 tries)"), {"waiting": 1}),
        ([reply(503)] * 2 + [reply(200, {})], (200, "delivered", ""), {"delivered": 1}),
        ([reply(503)] * 3, (202, "waiting", "HTTP 503 (after 3 tries)"), {"waiting": 1}),
        ([TIMED_OUT] * 3, (202, "waiting", "the CRM could not be reached, or did not answer"), {"waiting": 1}),
    ],
)
def test_a_caller_is_told_what_became_of_the_event(
    answers: list[Any], told: tuple[int, str, str], sums: dict[str, int]
) -> None:
    shop = direct(*answers)
    status, outcome, reason = told
    assert shop.post({"id": "1"}) == [Answered(status, outcome, "1", reason)]
    assert shop.sums() == sums
    balanced(shop.store)


@pytest.mark.parametrize(
    ("written", "answers", "status"),
    [
        ("delivered: 201", [reply(200, {})], 201),
        ("skip: 204", [reply(418, {})], 204),
        ("reject: 400", [reply(422, {})], 400),
        ("pause: 401", [reply(403, {})], 401),
        ("retry: 502", [reply(409, {})] * 3, 502),
        ("retry: 502", [reply(503)] * 3, 502),
        ("retry: 504", [TIMED_OUT] * 3, 504),
        ("defer: 429", [reply(420, {})], 429),
        ("throttle: 429", [reply(429, {})], 429),
        ("throttle: 503", [reply(429, {})], 503),
    ],
)
def test_a_connector_says_with_which_status_and_4xx_or_5xx_leave_a_dead_letter(
    written: str, answers: list[Any], status: int
) -> None:
    shop = direct(*answers, answer=f", {written}")
    (told,) = shop.post({"id": "1"})
    assert told.status == status
    assert (told.outcome == "rejected") is (status >= 400)
    assert len(shop.dead()) == (status >= 400)
    asked = len(shop.vendor.asked)
    shop.drain(86_400)
    assert len(shop.vendor.asked) == asked  # nothing goes on by itself


def test_who_was_told_202_is_delivered_later_from_the_buffer() -> None:
    shop = direct(*[reply(503)] * 3, reply(200, {}))
    assert [told.status for told in shop.post({"id": "1"})] == [202]
    shop.drain(600)
    assert (shop.sums(), len(shop.vendor.asked)) == ({"delivered": 1}, 4)


def test_tries_while_the_caller_waits_count_as_attempts() -> None:
    shop = direct(reply(409, {}))
    shop.post({"id": "1"})
    shop.drain(86_400)
    assert (shop.sums(), len(shop.vendor.asked)) == ({"rejected": 1}, 5)


def test_a_caller_does_not_wait_longer_than_within() -> None:
    shop = Shop((DIRECT % "").replace("within: 25s", "within: 3s"), vendor=Vendor(reply(409, {})))
    began = shop.clock.now()
    (told,) = shop.post({"id": "1"})
    assert (told.status, told.outcome, len(shop.vendor.asked)) == (202, "waiting", 2)
    assert shop.clock.now() - began <= 3


def test_a_pause_is_told_to_later_callers_without_asking_the_vendor() -> None:
    shop = direct(reply(403, {}), reply(200, {}))
    assert [told.status for told in shop.post({"id": "1"}, {"id": "2"})] == [503, 503]
    assert (len(shop.vendor.asked), shop.sums()) == (1, {"rejected": 2})


def test_a_throttle_is_told_to_later_callers_and_they_are_delivered_afterwards() -> None:
    shop = direct(reply(429, retry_after="40"), reply(200, {}))
    assert [told.status for told in shop.post({"id": "1"}, {"id": "2"})] == [202, 202]
    assert len(shop.vendor.asked) == 1
    shop.drain(41)
    assert (shop.sums(), [round(at - START) for at in shop.vendor.at]) == ({"delivered": 2}, [0, 40, 40])


def test_the_same_id_is_delivered_once() -> None:
    shop = direct(reply(200, {}))
    told = shop.post({"id": "1"}, {"id": "1"})
    assert told == [
        Answered(200, "delivered", "1"),
        Answered(200, "skipped", "1", "this id was accepted before, and has ended"),
    ]
    assert (len(shop.vendor.asked), shop.sums()) == (1, {"delivered": 1})
    shop.clock.sleep(86_401)
    assert [told.outcome for told in shop.post({"id": "1"})] == ["delivered"]


def test_a_caller_who_is_gone_after_the_event_was_put_loses_nothing() -> None:
    shop = direct(reply(200, {}))
    accepted = shop.received({"client": "abc", "id": "1"}).accepted[0][1]
    shop.store.put([accepted], now=shop.clock.now(), hold_s=shop.worker.hold_s(shop.connector)).result()
    shop.drain(10)
    assert shop.vendor.asked == []  # it is held for the caller
    shop.drain(60)
    assert shop.sums() == {"delivered": 1}


def test_an_older_one_of_the_same_key_that_waits_is_not_overtaken_by_a_caller() -> None:
    shop = Shop('key: "${ event.email }"\n' + DIRECT % "", vendor=Vendor(reply(420, {}), reply(200, {})))
    told = shop.post(keyed("1", "ana"), keyed("2", "ana"), keyed("3", "bia"))
    assert [one.outcome for one in told] == ["waiting", "waiting", "delivered"]
    shop.drain(7200)
    assert [body["id"] for body in shop.vendor.bodies] == ["1", "3", "1", "2"]


def test_several_actions_of_a_direct_connector_answer_with_the_worst() -> None:
    shop = Shop((DIRECT % "") + TWO, vendor=by_path(notes=reply(200, {}), tasks=reply(422, {})))
    each = {"note": Told(200, "delivered"), "task": Told(422, "rejected", "HTTP 422")}
    assert shop.post({"id": "1", "task": True}) == [Answered(422, "rejected", "1", "HTTP 422", each)]
    assert shop.sums() == {"delivered": 1, "rejected": 1}


def test_a_walk_that_fails_on_our_side_is_tried_again_and_nothing_is_forgotten() -> None:
    shop = Shop()
    broken = iter([True, False])

    def answer(_: Prepared) -> Reply:
        if next(broken, False):
            raise RuntimeError("a bug of ours")
        return reply(200, {})

    shop.vendor.answer = answer
    shop.post({"id": "1"})
    shop.drain(600)
    assert (shop.sums(), len(shop.vendor.asked)) == ({"delivered": 1}, 2)
    (fault,) = shop.heard.named("fault")
    assert fault["where"] == "exchange"
    assert "a bug of ours" not in str(fault)  # such a text may hold a payload


def test_an_event_that_breaks_the_mapping_is_rejected_alone() -> None:
    shop = Shop(BATCH)
    action = shop.programs["abc"].actions["note"]
    record = action.record

    def breaking(scope: Any) -> Any:
        if scope["event"]["id"] == "2":
            raise KeyError("ana@shop.example")
        return record(scope)

    action.record = breaking
    shop.post_many(3)
    shop.drain(3600)
    assert shop.sums() == {"delivered": 2, "rejected": 1}
    assert [(event, "KeyError" in why, "ana@" in why) for event, why in shop.reasons().items()] == [("2", True, False)]


def test_a_reply_that_breaks_its_reading_is_asked_for_again_and_then_pauses() -> None:
    shop = Shop('replies: {code: "${ response.body.code }"}')
    level = shop.programs["abc"].actions["note"].steps.steps["request"].call.judge.levels[2]
    level.code = lambda _: 1 // 0
    shop.post({"id": "1"})
    shop.drain(86_400)
    assert (shop.sums(), shop.lane().state, len(shop.vendor.asked)) == ({"waiting": 1}, "paused", 3)
    assert "ZeroDivisionError" in str(shop.lane().reason)


def test_a_lane_that_fails_is_told_of_and_others_go_on() -> None:
    shop = Shop("", "{client: abc, connectors: {crm: {}}}", "{client: xyz, connectors: {crm: {}}}")
    shop.programs["abc"].actions["note"].batcher.records = None  # type: ignore[assignment]
    shop.post({"id": "1"})
    shop.post({"id": "2"}, client="xyz")
    shop.worker.run(until_empty=True)
    assert (shop.sums(), shop.sums("xyz")) == ({"waiting": 1}, {"delivered": 1})
    assert [kind for kind, _ in shop.heard.alerts] == ["lane-failed"]


def test_what_became_due_while_nobody_ran_the_lane_is_found_at_the_start() -> None:
    shop = Shop(BATCH)
    shop.post({"id": "1"})
    shop.drain()
    shop.programs["abc"] = Shop(BATCH.replace("15m", "1m")).programs["abc"]
    shop.clock.sleep(120)
    shop.new_worker().run(until_empty=True)
    assert shop.sums() == {"delivered": 1}


def test_an_action_may_be_buffered_while_its_caller_waits_for_another() -> None:
    text = (DIRECT % "") + TWO.replace("task: {when", "task: {mode: buffered, when")
    shop = Shop(text, vendor=by_path(notes=reply(200, {}), tasks=reply(200, {})))
    told = shop.post({"id": "1", "task": True})
    assert [(one.status, one.outcome) for one in told] == [(200, "delivered")]
    assert (shop.vendor.lines, shop.sums()) == (["POST /v1/notes"], {"delivered": 1, "waiting": 1})
    shop.drain(60)
    assert (shop.vendor.lines[1:], shop.sums()) == (["POST /v1/tasks"], {"delivered": 2})


def test_lanes_run_side_by_side_until_all_are_empty() -> None:
    clients = [f"shop-{at}" for at in range(12)]
    shop = Shop("", *(f"{{client: {client}, connectors: {{crm: {{}}}}}}" for client in clients))
    for client in clients:
        shop.post({"id": "1"}, {"id": "2"}, client=client)
    shop.worker.run(until_empty=True)
    assert [shop.sums(client) for client in clients] == [{"delivered": 2}] * 12


def test_a_client_that_is_gone_pauses_its_lane_and_holds_nobody_else() -> None:
    shop = Shop("", "{client: abc, connectors: {crm: {}}}", "{client: xyz, connectors: {crm: {}}}")
    shop.post({"id": "1"}, client="abc")
    shop.post({"id": "2"}, client="xyz")
    del shop.programs["abc"]
    shop.worker.run(until_empty=True)
    assert (shop.sums("abc"), shop.lane("abc").state, shop.sums("xyz")) == ({"waiting": 1}, "paused", {"delivered": 1})


class Slow(Vendor):
    """Takes its time for each answer."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def send(self, request: Prepared) -> Reply:
        said = super().send(request)
        assert self.clock is not None
        self.clock.sleep(self.seconds)
        return said


def test_a_lane_that_ends_makes_room_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.worker.POLL_S", 60.0)
    shop = Shop("", vendor=Slow(0.05), clock=SystemClock())
    shop.post({"id": "1"})
    running = threading.Thread(target=lambda: shop.worker.run(until_empty=True), daemon=True)
    running.start()
    running.join(20)
    assert (running.is_alive(), shop.sums()) == (False, {"delivered": 1})


QUICK_TO_GIVE_UP = "http: {base_url: https://api.crm.example/v1, timeout: 10s}"


def test_near_the_end_of_its_time_no_request_begins_that_might_come_too_late_and_the_next_run_goes_on() -> None:
    shop = Shop(QUICK_TO_GIVE_UP, vendor=Slow(8))
    shop.post_many(10)
    shop.worker.ends_at = START + 40  # 10 s for an answer and 5 s to write it down: the last begins before 25 s
    shop.worker.run(until_empty=True)
    assert shop.vendor.at == [START, START + 8, START + 16, START + 24]
    assert (shop.sums(), shop.store.held(now=shop.clock.now())) == ({"delivered": 4, "waiting": 6}, {})
    shop.worker.ends_at = None
    shop.worker.run(until_empty=True)
    assert (shop.sums(), sorted(body["id"] for body in shop.vendor.bodies)) == (
        {"delivered": 10},
        sorted(str(number) for number in range(1, 11)),
    )


def test_what_is_to_be_left_of_the_time_may_be_more_than_an_answer_takes() -> None:
    shop = Shop(QUICK_TO_GIVE_UP, vendor=Slow(8))
    shop.post_many(5)
    shop.worker.ends_at, shop.worker.margin_s = START + 40, 31
    shop.worker.run(until_empty=True)
    assert shop.vendor.at == [START, START + 8]


def test_a_lane_whose_answers_may_take_longer_than_there_is_time_is_not_begun() -> None:
    shop = Shop("http: {base_url: https://api.crm.example/v1, timeout: 60s}")
    shop.post_many(1)
    shop.worker.ends_at = START + 60
    shop.worker.run(until_empty=True)
    assert (shop.sums(), shop.vendor.asked) == ({"waiting": 1}, [])


def test_a_direct_caller_is_kept_no_longer_than_the_process_lives() -> None:
    shop = Shop(DIRECT % "", vendor=Slow(8))
    whole_s = shop.worker.hold_s(shop.connector)
    shop.worker.ends_at, shop.worker.margin_s = START + 29, 1
    assert (whole_s > 28, shop.worker.hold_s(shop.connector)) == (True, 28)
    shop.worker.ends_at = START + 5.5  # no answer is sure to come by then: it goes on from the lane
    told = shop.post({"id": "1"})
    assert [(one.status, one.outcome, len(shop.vendor.asked)) for one in told] == [(202, "waiting", 0)]


def test_of_all_lanes_only_those_named_are_run() -> None:
    shop = Shop("", "{client: abc, connectors: {crm: {}}}", "{client: xyz, connectors: {crm: {}}}")
    shop.post({"id": "1"})
    shop.post({"id": "2"}, client="xyz")
    shop.worker.only = lambda _, client: client == "xyz"
    shop.worker.run(until_empty=True)
    assert (shop.sums(), shop.sums("xyz")) == ({"waiting": 1}, {"delivered": 1})


def test_a_run_may_wait_for_what_comes_due_again_soon() -> None:
    text = "http: {base_url: https://api.crm.example/v1, retry: {attempts: 3, initial: 1s, jitter: none}}"
    shop = Shop(text, vendor=Vendor(reply(503), reply(503), reply(200)), clock=SystemClock())
    shop.post({"id": "1"})
    shop.worker.run(until_empty=True)
    assert (shop.sums(), len(shop.vendor.asked)) == ({"waiting": 1}, 1)
    shop.worker.run(until_empty=True, patience_s=10)
    assert (shop.sums(), len(shop.vendor.asked)) == ({"delivered": 1}, 3)


def test_nobody_waits_for_a_lane_that_is_paused() -> None:
    shop = Shop("", vendor=Vendor(reply(401)))
    shop.post({"id": "1"})
    shop.worker.run(until_empty=True, patience_s=10)
    assert (shop.sums(), shop.lane().state, shop.worker.wakes) == ({"waiting": 1}, "paused", {})


def test_what_was_done_is_counted_and_a_lane_that_failed_is_named_until_it_succeeds() -> None:
    shop = Shop("", "{client: abc, connectors: {crm: {}}}", "{client: xyz, connectors: {crm: {}}}")
    batcher = shop.programs["abc"].actions["note"].batcher
    batcher.records, kept = None, batcher.records  # type: ignore[assignment]
    shop.post({"id": "1"})
    shop.post({"id": "2"}, {"id": "3"}, client="xyz")
    shop.worker.run(until_empty=True)
    tally = shop.worker.tally
    assert (dict(tally.counts), list(tally.failed)) == ({"delivered": 2, "skipped": 0}, [("crm", "abc")])
    assert tally.failed["crm", "abc"].startswith("TypeError")
    batcher.records = kept
    shop.clock.sleep(5)
    shop.worker.run(until_empty=True)
    assert (tally.counts["delivered"], tally.failed, len(tally.lanes)) == (3, {}, 2)


def test_after_a_run_no_heartbeat_goes_on() -> None:
    shop = Shop("")
    before = threading.active_count()
    for _ in range(3):
        shop.worker.run(until_empty=True)
    assert threading.active_count() == before


# --- actions after others of the same event ---

AFTER = """
http: {base_url: https://api.crm.example/v1, retry: {attempts: 2, initial: 10s, jitter: none}}
key: ${ event.email }
actions:
  note:
    after: [contact, deal]
    if_rejected: continue
    record: {id: "${ event.id }"}
    request: {path: /notes, json: "${ record }"}
  deal:
    after: contact
    when: ${ event.deal }
    record: {id: "${ event.id }"}
    request: {path: /deals, json: "${ record }"}
  contact:
    record: {id: "${ event.id }"}
    batch: {records: 3, wait: 10m}
    request: {path: /contacts, json: "${ batch.records }"}
    results: {at: "${ response.body }", ok: "${ result.ok }"}
"""
OK = reply(200, [{"ok": True}] * 3)


def test_actions_go_out_as_soon_as_those_before_them_have_ended(store: Store) -> None:
    shop = Shop(AFTER, store=store, vendor=Vendor(OK))
    shop.post(*({"id": str(at), "deal": True} for at in range(3)))
    shop.drain()
    assert shop.vendor.lines == ["POST /v1/contacts", *["POST /v1/deals", "POST /v1/notes"] * 3]
    assert (shop.sums(), shop.store.next_due(now=shop.clock.now())) == ({"delivered": 9}, None)


def test_what_waits_for_a_batch_is_waiting_and_costs_no_turn(store: Store) -> None:
    shop = Shop(AFTER, store=store, vendor=Vendor(OK))
    shop.post({"id": "1", "deal": True})
    assert shop.worker.drain() == 0
    lane = shop.lane()
    assert (lane.state, lane.waiting, lane.oldest_at) == ("waiting", 3, START)
    assert shop.store.next_due(now=shop.clock.now()) == START + 600


def test_one_record_of_a_batch_that_is_refused_takes_its_own_along_and_no_other(store: Store) -> None:
    told = reply(200, [{"ok": True}, {"ok": False}, {"ok": True}])
    shop = Shop(AFTER, store=store, vendor=Vendor(told, reply(200)))
    shop.post(*({"id": str(at), "deal": True} for at in range(3)))
    shop.drain()
    assert [body["id"] for body in shop.vendor.bodies[1:]] == ["0", "0", "2", "1", "2"]  # deal, note, deal, note, note
    assert (shop.sums(), list(shop.reasons())) == ({"delivered": 7, "rejected": 1, "skipped": 1}, ["1"])
    (skipped,) = shop.heard.named("skipped")
    assert (skipped["action"], skipped["count"], skipped["why"]) == ("deal", 1, "contact was rejected")


def test_what_comes_back_with_a_dead_letter_waits_for_all_that_it_waited_for(store: Store) -> None:
    text = """
replies: {outcomes: [{status: 409, then: retry, wait: 1m}]}
actions:
  left: {record: {id: "${ event.id }"}, request: {path: /left}}
  right: {record: {id: "${ event.id }"}, request: {path: /right}}
  last: {after: [left, right], record: {id: "${ event.id }"}, request: {path: /last}}
"""
    trouble = {"left": [reply(422)], "right": [reply(409)], "last": []}

    def answer(request: Prepared) -> Reply:
        listed = trouble[request.url.rsplit("/", 1)[-1]]
        return listed.pop() if listed else reply(200)

    vendor = Vendor(answer=answer)
    shop = Shop(text, vendor=vendor, store=store)
    shop.post({"id": "1"})
    shop.drain()
    assert shop.sums() == {"waiting": 1, "rejected": 1, "skipped": 1}
    shop.store.requeue([shop.dead()[0].id], now=shop.clock.now())
    shop.drain(30)
    assert vendor.lines == ["POST /v1/left", "POST /v1/right", "POST /v1/left"]
    shop.drain(30)
    assert vendor.lines[3:] == ["POST /v1/right", "POST /v1/last"]
    assert shop.sums() == {"delivered": 3}


def test_what_was_skipped_is_sent_after_all_when_the_dead_letter_is_tried_again(store: Store) -> None:
    shop = Shop(AFTER, store=store, vendor=Vendor(reply(200, [{"ok": False}]), reply(200), reply(200, [{"ok": True}])))
    shop.post({"id": "1", "deal": True})
    shop.drain(600)
    assert shop.sums() == {"delivered": 1, "rejected": 1, "skipped": 1}
    shop.store.requeue([dead.id for dead in shop.dead()], now=shop.clock.now())
    shop.drain(600)
    assert (shop.vendor.lines[2:], shop.sums()) == (["POST /v1/contacts", "POST /v1/deals"], {"delivered": 3})


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_vendor_says_nothing_overtakes_what_it_waits_for_and_nothing_is_left(
    store: Store, seed: int
) -> None:
    chance = random.Random(seed)
    good: set[tuple[str, str]] = set()  # (path, id) that the vendor took

    def answer(request: Prepared) -> Reply:
        path, body = request.url.rsplit("/", 1)[1], json.loads(request.content or b"null")
        ids = [each["id"] for each in body] if isinstance(body, list) else [body["id"]]
        if path == "deals":
            assert ("contacts", ids[0]) in good
        if chance.random() < 0.3:
            return reply(chance.choice([422, 429, 503]), {})
        ok = [chance.random() < 0.7 for _ in ids]
        good.update((path, each) for each, fine in zip(ids, ok, strict=True) if fine)
        return reply(200, [{"ok": fine} for fine in ok]) if path == "contacts" else reply(200, {})

    shop = Shop(AFTER, store=store, vendor=Vendor(answer=answer))
    for at in range(40):
        shop.post({"id": str(at), "deal": chance.random() < 0.7, "email": chance.choice(["ana", "bia", None])})
        shop.drain(chance.choice([0, 30, 600]))
    shop.drain(86_400)
    assert "waiting" not in shop.sums()
    assert store.next_due(now=shop.clock.now()) is None


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_worker_with_nothing_to_do_ends_soon_after_it_is_stopped(kind: str, tmp_path: Path) -> None:
    with closing(KINDS[kind](tmp_path)) as store:
        shop = Shop(TWO, store=store)
        running = threading.Thread(target=shop.worker.run)
        running.start()
        for _ in range(3):  # of a store that is told of what is put the first wait is another than those after it
            time.sleep(0.3)
            assert running.is_alive()
        begun = time.monotonic()
        shop.worker.stop()
        running.join(20)
        assert not running.is_alive()
        assert time.monotonic() - begun < 2  # half a second at most, and what a busy machine takes
