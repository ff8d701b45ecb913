"""One request with limits and auth around it: what goes on the wire, what is told of it, and when it waits instead."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import REFUSED, START, Shop, Vendor, reply

LIMITED = """
http: {base_url: https://api.crm.example/v1, limits: {calls: {rate: RATE}}}
"""


def posted(shop: Shop, number: int) -> Shop:
    shop.post(*({"id": str(at)} for at in range(1, number + 1)))
    return shop


def times(shop: Shop) -> list[float]:
    return [round(at - START, 3) for at in shop.vendor.at]


def test_a_rate_is_never_exceeded_and_nothing_is_lost_by_it() -> None:
    shop = posted(Shop(LIMITED.replace("RATE", "3/1m")), 10)
    shop.drain(600)
    assert shop.sums() == {"delivered": 10}
    sent = times(shop)
    assert sent[:3] == [0, 0, 0]
    assert all(later - earlier >= 60 for earlier, later in zip(sent, sent[3:], strict=False))


def test_a_lane_that_waits_for_our_own_limit_counts_neither_attempts_nor_failures() -> None:
    shop = posted(Shop(LIMITED.replace("RATE", "1/1h")), 5)
    shop.drain(10 * 3600)
    assert (shop.sums(), shop.dead(), shop.lane().failures) == ({"delivered": 5}, [], 0)
    assert times(shop) == [0, 3600, 7200, 10_800, 14_400]


def test_a_wait_of_at_most_a_second_is_slept_in_the_walk() -> None:
    shop = posted(Shop(LIMITED.replace("RATE", "1/500ms")), 4)
    shop.drain()
    assert (shop.sums(), times(shop)) == ({"delivered": 4}, [0, 0.5, 1.0, 1.5])
    assert shop.heard.named("throttled") == []


def test_a_limit_for_one_key_defers_only_that_key() -> None:
    text = 'http: {base_url: https://api.crm.example, limits: {lead: {rate: 1/1h, by: "${ event.who }", then: defer}}}'
    shop = Shop(text)
    shop.post({"id": "1", "who": "ana"}, {"id": "2", "who": "ana"}, {"id": "3", "who": "bia"})
    shop.drain()
    assert [body["id"] for body in shop.vendor.bodies] == ["1", "3"]
    shop.drain(3700)
    assert (shop.sums(), times(shop)) == ({"delivered": 3}, [0, 0, 3600])


def test_limits_of_connector_action_and_request_all_hold() -> None:
    text = """
http: {base_url: https://api.crm.example, limits: {a: {rate: 100/1s}}}
actions:
  note:
    limits: {b: {rate: 5/1m}}
    record: {id: "${ event.id }"}
    request: {path: /notes, json: "${ record }", limits: {c: {rate: 2/10s}}}
"""
    shop = posted(Shop(text), 6)
    shop.drain(600)
    assert times(shop) == [0, 0, 10, 10, 20, 60]


def test_two_clients_have_each_their_own_rate() -> None:
    shop = Shop(
        LIMITED.replace("RATE", "1/1h"), "{client: abc, connectors: {crm: {}}}", "{client: xyz, connectors: {crm: {}}}"
    )
    shop.post({"id": "1"}, client="abc")
    shop.post({"id": "2"}, client="xyz")
    shop.drain()
    assert (shop.sums("abc"), shop.sums("xyz")) == ({"delivered": 1}, {"delivered": 1})


def test_a_client_may_lower_a_limit() -> None:
    shop = Shop(LIMITED.replace("RATE", "100/1h"), "{client: abc, connectors: {crm: {limits: {own: {rate: 1/1h}}}}}")
    posted(shop, 2).drain()
    assert shop.sums() == {"delivered": 1, "waiting": 1}


def test_a_slot_is_given_back_after_every_answer_and_after_none() -> None:
    text = "http: {base_url: https://api.crm.example, limits: {open: {concurrency: 1}}, retry: {initial: 5s}}"
    shop = posted(Shop(text, vendor=Vendor(reply(200, {}), REFUSED, reply(422, {}), reply(200, {}))), 4)
    shop.drain(60)
    assert shop.sums() == {"delivered": 3, "rejected": 1}


def test_what_is_told_of_an_exchange_has_no_payload_and_no_query() -> None:
    shop = Shop('actions: {note: {record: {}, request: {path: /notes, query: {q: "${ event.email }"}, json: {a: 1}}}}')
    shop.post({"id": "1", "email": "ana@example.com"})
    shop.drain()
    assert shop.heard.named("exchange") == [
        {
            "connector": "crm",
            "client": "abc",
            "action": "note",
            "step": "request",
            "method": "POST",
            "host": "api.crm.example",
            "status": 200,
            "seconds": 0.0,
        }
    ]
    assert "ana@example.com" not in str(shop.heard.events)


def test_an_unanswered_request_is_told_with_status_0() -> None:
    shop = Shop(vendor=Vendor(REFUSED))
    shop.post({"id": "1"})
    shop.drain()
    assert [facts["status"] for facts in shop.heard.named("exchange")] == [0]


@pytest.mark.parametrize(
    ("auth", "why"),
    [
        ("", "HTTP 401"),
        (
            'auth: {place: {headers: {X-Key: "{{ secrets.k }}"}}}\nsecrets: {k: {title: K}}\n'
            "replies: {outcomes: [{status: 401, then: reauth}]}",
            "HTTP 401 and nothing to renew",
        ),
    ],
)
def test_a_401_without_a_token_to_renew_is_asked_once_and_pauses(auth: str, why: str) -> None:
    shop = Shop(auth, vendor=Vendor(reply(401, {})), secrets={"k": "k3y-k3y"})
    shop.post({"id": "1"})
    shop.drain(86_400)
    assert (len(shop.vendor.asked), shop.lane().state, shop.lane().reason) == (1, "paused", why)


def test_a_request_that_the_event_would_send_elsewhere_is_rejected_and_nothing_is_sent() -> None:
    text = """
fields: {host: "${ event.host }"}
actions: {note: {record: {}, request: {url: "https://{{ fields.host }}/x", json: {}}}}
"""
    shop = Shop(text)
    shop.post(*({"id": str(at), "host": host} for at, host in enumerate(EVIL)))
    shop.drain()
    assert (shop.vendor.asked, shop.sums()) == ([], {"rejected": len(EVIL)})


EVIL: list[Any] = [
    "evil.example",
    "api.crm.example@evil.example",
    "127.0.0.1",
    "api.crm.example:8443",
    "[::1",
    "x y",
    "a\\b",
]


# --- look-ups go the same way ---

LOOKED_UP = """
actions:
  note:
    lookups:
      person:
        keys: ${ event.email }
        when_absent: reject
        sources:
          all:
            request: {method: GET, path: /people, query: {e: "${ join(batch.keys, ',') }"}}
            rows: ${ response.body.rows }
            row_key: ${ row.email }
            next: ${ response.body.next }
    record: {id: "${ event.id }", who: "${ lookups.person.id }"}
    batch: {records: 10}
    request: {path: /notes, json: "${ batch.records }"}
"""


def people(*emails: str, more: str | None = None) -> Any:
    return reply(200, {"rows": [{"email": email, "id": email.upper()} for email in emails], "next": more})


def looked_up(*answers: Any) -> Shop:
    shop = Shop(LOOKED_UP, vendor=Vendor(*answers))
    shop.post(*({"id": str(at), "email": email} for at, email in enumerate(("a", "b", "c"), 1)))
    return shop


def test_a_look_up_asks_once_for_all_and_follows_its_pages() -> None:
    shop = looked_up(people("a", more="/v1/people?page=2"), people("c"), reply(200, {}))
    shop.drain()
    assert shop.vendor.lines == ["GET /v1/people?e=a%2Cb%2Cc", "GET /v1/people?page=2", "POST /v1/notes"]
    assert shop.vendor.bodies[2] == [{"id": "1", "who": "A"}, {"id": "3", "who": "C"}]
    assert (shop.sums(), shop.reasons()) == ({"delivered": 2, "rejected": 1}, {"2": "look-up person: not found"})


@pytest.mark.parametrize(
    ("answers", "state", "waiting"),
    [
        ([reply(503)], "throttled", 3),
        ([REFUSED], "throttled", 3),
        ([reply(429, {})], "throttled", 3),
        ([reply(403, {})], "paused", 3),
        ([people("a", more="/v1/people?page=2"), reply(503)], "throttled", 3),
        ([reply(200, text="<html>")], "throttled", 3),
    ],
)
def test_trouble_in_a_look_up_is_the_lane_s_and_rejects_nobody(answers: list[Any], state: str, waiting: int) -> None:
    shop = looked_up(*answers)
    shop.drain()
    assert (shop.sums(), shop.lane().state) == ({"waiting": waiting}, state)


def test_after_an_outage_of_a_look_up_everything_is_delivered() -> None:
    shop = looked_up(reply(503), reply(503), people("a", "b", "c"), reply(200, {}))
    shop.drain(600)
    assert shop.sums() == {"delivered": 3}


@pytest.mark.parametrize("link", ["https://evil.example/next", "//evil.example/x", "http://api.crm.example/x", "//["])
def test_a_next_link_that_leads_away_is_not_followed_and_rejects_nobody(link: str) -> None:
    shop = looked_up(people("a", more=link))
    shop.drain(86_400)
    assert set(shop.vendor.lines) == {"GET /v1/people?e=a%2Cb%2Cc"}
    assert (shop.sums(), shop.lane().state) == ({"waiting": 3}, "paused")
