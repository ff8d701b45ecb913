"""What the event schema declares personal is masked, in events and in texts about them."""

from __future__ import annotations

import io
import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from conftest import Shop, Vendor, reply

from engine.privacy.personal import EVERYTHING, Personal, addresses
from engine.telemetry.log import Telemetry

SCHEMA = {
    "type": "object",
    "properties": {
        "email": {"type": "string", "x-personal": True},
        "name": {"type": "string", "x-personal": True},
        "phone": {"$ref": "#/$defs/phone"},
        "age": {"type": "integer", "x-personal": True},
        "address": {"type": "object", "x-personal": True, "properties": {"street": {"type": "string"}}},
        "guests": {"type": "array", "items": {"allOf": [{"$ref": "#/$defs/guest"}]}},
        "product": {"type": "object", "properties": {"name": {"type": "string"}}},
        "answers": {"type": "object", "additionalProperties": {"x-personal": True}},
        "me": {"$ref": "#"},
    },
    "$defs": {
        "phone": {"type": "string", "x-personal": True},
        "guest": {"properties": {"name": {"type": "string", "x-personal": True}, "seat": {"type": "integer"}}},
    },
}
PERSONAL = Personal(SCHEMA)


def test_personal_fields_are_masked_wherever_the_schema_has_them_and_no_other() -> None:
    event = {
        "email": "user@example.com",
        "name": "Ana Souza",
        "phone": "+5511999999999",
        "age": 41,
        "address": {"street": "Rua A", "number": Decimal("12.5"), "lines": ["x"], "none": None},
        "guests": [{"name": "Bia", "seat": 4}],
        "product": {"name": "Café & Cia", "price": Decimal("1299.90")},
        "answers": {"q1": "blue"},
        "me": {"name": "Ana"},
        "note": "ask user@example.com",
    }
    assert PERSONAL.event(event) == {
        "email": "u***@example.com",
        "name": "***",
        "phone": "***",
        "age": "***",
        "address": {"street": "***", "number": "***", "lines": ["***"], "none": None},
        "guests": [{"name": "***", "seat": 4}],
        "product": {"name": "Café & Cia", "price": Decimal("1299.90")},
        "answers": {"q1": "***"},
        "me": {"name": "***"},
        "note": "ask u***@example.com",
    }


@pytest.mark.parametrize(
    ("event", "text", "shown"),
    [
        ({"name": "Ana Souza"}, 'no person "ANA SOUZA"', 'no person "***"'),
        ({"name": "Ana Souza"}, "first=Ana&last=Souza&all=Ana+Souza", "first=***&last=***&all=***"),
        ({"name": "Ana"}, "a banana for Ana.", "a banana for ***."),
        ({"name": "José"}, '{"n": "Jos\\u00e9", "u": "Jos%C3%A9"}', '{"n": "***", "u": "***"}'),
        ({"phone": "+55 (11) 99999-9999"}, "5511999999999 is no phone", "*** is no phone"),
        ({"phone": "+5511999999999"}, "no phone: +55 11 99999-9999", "no phone: ***"),
        ({"phone": "+5511999999999"}, "(11) 99999-9999 or 99999.9999", "*** or ***"),
        ({"phone": "+5511999999999"}, "record 155119999999990", "record 155119999999990"),
        ({"age": 41}, "41 is too old", "41 is too old"),
        ({"email": "ana@x.com"}, "e=ana%40x.com and Bia <bia@y.org>", "e=a***%40x.com and Bia <b***@y.org>"),
        ({"product": {"name": "Café"}}, "no Café", "no Café"),
        ({}, "HTTP 503", "HTTP 503"),
    ],
)
def test_a_text_about_an_event_is_without_what_is_personal_in_it(event: Any, text: str, shown: str) -> None:
    assert PERSONAL.text(text, msgspec.json.encode(event)) == shown


def test_values_with_texts_anywhere_are_masked_whole() -> None:
    body = msgspec.json.encode({"name": "Ana"})
    assert PERSONAL.anywhere({"Ana": ["Ana", 1, None]}, body) == {"***": ["***", 1, None]}


def test_without_a_schema_only_addresses_are_masked_and_of_an_unknown_connector_everything() -> None:
    event = {"name": "Ana", "email": "ana@x.com", "n": [1]}
    assert Personal(None).event(event) == {"name": "Ana", "email": "a***@x.com", "n": [1]}
    assert EVERYTHING.event(event) == {"name": "***", "email": "a***@x.com", "n": ["***"]}
    assert Personal(None).text("no Ana", b'{"name":"Ana"}') == "no Ana"
    assert EVERYTHING.text("no Ana", b'{"name":"Ana"}') == "no ***"


def test_a_schema_that_refers_to_itself_without_end_is_read_all_the_same() -> None:
    circle = Personal({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a", "x-personal": True}}})
    assert circle.event({"n": "Ana"}) == {"n": "***"}
    assert Personal({"$ref": "https://elsewhere.example/s", "x-personal": False}).event({"n": "Ana"}) == {"n": "Ana"}


def test_a_body_that_is_no_json_is_no_trouble() -> None:
    assert PERSONAL.text("no ana@x.com", b"{") == "no a***@x.com"
    assert addresses("nothing") == "nothing"


MARKED = """
receive:
  client: ${ event.client }
  id: ${ event.id }
  schema:
    properties: {email: {x-personal: true}, name: {x-personal: true}, phone: {x-personal: true}}
"""
PERSON = {"id": "1", "email": "ana@x.com", "name": "Ana Souza", "phone": "+5511999999999"}
SAYS = "no 11 Souza ana@x.com (+55 11 99999-9999)"
SHOWN = "no 11 *** ***@x.com (***)"


@pytest.mark.parametrize(
    "then", ["reject", "retry", "defer", "throttle", "throttle, scope: action", "pause", "pause, scope: action", "skip"]
)
@pytest.mark.parametrize("mode", ["buffered", "direct"])
def test_whatever_the_vendor_says_no_person_is_in_lanes_logs_alerts_and_reasons(then: str, mode: str) -> None:
    rules = f"replies: {{message: '${{ response.body.why }}', outcomes: [{{status: 409, then: {then}}}]}}\n"
    shop = Shop(rules + MARKED + f"  mode: {mode}\n", vendor=Vendor(reply(409, {"why": SAYS})))
    told = shop.post(PERSON)
    shop.drain(600)
    heard = f"{shop.heard.events} {shop.heard.alerts} {shop.lane()} {shop.reasons()}"
    heard += str([dead.tries for dead in shop.dead()])
    for said in ("Souza", "ana@x.com", "99999"):
        assert said not in heard
    assert all(SAYS in answer.reason for answer in told if answer.outcome == "rejected")  # theirs is the event


def test_the_reason_of_a_rejection_is_kept_without_the_person() -> None:
    rules = "replies: {message: '${ response.body.why }'}\n"
    shop = Shop(rules + MARKED, vendor=Vendor(reply(400, {"why": SAYS})))
    shop.post(PERSON)
    shop.drain()
    assert shop.reasons() == {"1": f"HTTP 400 {SHOWN}"}
    assert shop.heard.alerts == [("dead-letter", f"crm/abc: 1 rejected: HTTP 400 {SHOWN}")]


def test_no_address_passes_into_the_log_whoever_writes_it() -> None:
    lines = io.StringIO()
    log = Telemetry(mask=lambda text: text, stream=lines, clock=lambda: 0.0)
    log.event("lane-failed", why="no ana@x.com", facts={"to": ["bia%40y.org"]})
    assert json.loads(lines.getvalue()) == {
        "at": "1970-01-01T00:00:00.000Z",
        "level": "error",
        "event": "lane-failed",
        "why": "no a***@x.com",
        "facts": {"to": ["b***%40y.org"]},
    }
