"""What comes in over HTTP: what is taken, what is refused and why, and whose it is."""

from __future__ import annotations

import hmac
import json
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import START, Shop, connector_from
from hypothesis import given
from hypothesis import strategies as st

from engine.door.meters import Meter
from engine.door.senders import Senders
from engine.intake import MAX_EVENTS, Receiver, parse
from engine.mapping import encode_json
from engine.records import Accepted, Draft, Fault, Received
from engine.spec.project import Project
from engine.spec.units import Rate

TWO_CLIENTS = (
    "{client: abc, connectors: {crm: {}}}",
    "{client: xyz, active: false, connectors: {crm: {}}}",
    "{client: def, connectors: {crm: {match: GA4.1.2}}}",
)
BROWSING = Project(Path(__file__).parents[1]).connector("salesforce").receive.schema
EVENT = {
    "client": "abc",
    "email": "ana@example.com",
    "eventType": "product_view",
    "timestamp": "2026-01-28T10:30:45.123Z",
    "product": {"id": "PROD-1", "name": "Phone", "price": Decimal("1299.90")},
}


def shop(more: str = "", **options: Any) -> Shop:
    return Shop(more, *TWO_CLIENTS, **options)


def browsing_shop() -> Shop:
    """A shop whose events must fit the schema of browsing events."""
    made = shop()
    made.receiver = Receiver(
        made.connector,
        {"abc": "abc", "GA4.1.2": "def"},
        lambda client: made.programs[client],
        schema=BROWSING,
        keys={},
        inactive={"xyz": "xyz"},
    )
    return made


def refused(found: Received) -> tuple[int, list[tuple[str, str]]]:
    assert found.accepted == []
    return found.status, [(fault.field, fault.reason) for fault in found.faults]


# --- what is taken ---


def test_an_id_may_be_made_of_when_the_event_came() -> None:
    crm = shop("receive: {client: '${ event.client }', id: '{{ event.id }} of {{ received_at }}', dedupe: 24h}")
    [(_, accepted)] = crm.received({"client": "abc", "id": "e-1"}).accepted
    assert accepted.event_id == f"e-1 of {Decimal(repr(accepted.received_at))}"


def test_an_event_becomes_one_draft_for_each_action_that_wants_it() -> None:
    crm = shop("receive: {client: '${ event.client }', id: '${ event.id }', dedupe: 24h}\nkey: '${ event.email }'")
    found = crm.received({"client": "abc", "id": "e-1", "email": "ana@example.com"})
    assert found == Received(
        1,
        [
            (
                0,
                Accepted(
                    "crm",
                    "abc",
                    "e-1",
                    b'{"client":"abc","id":"e-1","email":"ana@example.com"}',
                    START,
                    (Draft("note", "ana@example.com"),),
                    86_400,
                ),
            )
        ],
        [],
    )


def test_an_event_without_an_id_has_a_new_one_and_is_never_a_duplicate() -> None:
    crm = shop("receive: {client: '${ event.client }', id: '${ event.id }', dedupe: 24h}")
    one, two = (crm.received({"client": "abc"}).accepted[0][1] for _ in range(2))
    assert one.event_id != two.event_id
    assert (one.dedupe_s, two.dedupe_s) == (0, 0)


def test_an_empty_id_is_none_and_long_ones_differ_by_their_end() -> None:
    taking = shop('receive: {client: "${ event.client }", id: "${ event.id }", dedupe: 24h}')
    taking.post({"id": ""}, {"id": ""}, {"id": "x" * 300 + "1"}, {"id": "x" * 300 + "2"}, {"id": "x" * 300 + "2"})
    assert taking.lane().accepted == 4
    assert len(taking.received({"client": "abc", "id": "y" * 300}).accepted[0][1].event_id) == 200


def test_an_empty_key_is_none() -> None:
    taking = shop('key: "${ event.email }"')
    drafts = [taking.received({"client": "abc", "email": email}).accepted[0][1].drafts[0].key for email in ("", "a", 0)]
    assert drafts == [None, "a", "0"]


def test_a_null_is_absent() -> None:
    crm = shop()
    found = crm.received(b'{"client": "abc", "id": null, "a": {"b": null, "c": [1, null]}}')
    assert found.accepted[0][1].body == b'{"client":"abc","a":{"c":[1,null]}}'


def test_numbers_stay_as_they_were_sent() -> None:
    crm = shop('actions: {note: {record: {price: "${ event.price }", big: "${ event.big }"}, '
               'request: {path: /x, json: "${ record }"}}}')  # fmt: skip
    raw = b'{"client": "abc", "price": 1299.90, "big": 1234567890123456789012345678901234567890}'
    assert crm.received(raw).accepted[0][1].body == raw.replace(b": ", b":").replace(b", ", b",")
    crm.post({"price": Decimal("1299.90"), "big": 1234567890123456789012345678901234567890})
    crm.drain()
    assert crm.vendor.asked[0].content == b'{"price":1299.90,"big":1234567890123456789012345678901234567890}'


def test_a_beacon_may_send_text_plain_and_a_byte_order_mark_is_no_harm() -> None:
    crm = shop()
    assert len(crm.received({"client": "abc"}, content_type="text/plain;charset=UTF-8").accepted) == 1
    assert len(crm.received({"client": "abc"}, content_type="application/vnd.x+json").accepted) == 1
    assert len(crm.received(b'\xef\xbb\xbf{"client": "abc"}').accepted) == 1


def test_good_events_of_a_list_are_taken_and_bad_ones_are_named() -> None:
    crm = browsing_shop()
    events: list[Any] = [
        EVENT,
        {**EVENT, "email": None},
        7,
        {**EVENT, "client": "nobody"},
        EVENT,
        {**EVENT, "client": "xyz"},
    ]
    found = crm.received(events)
    assert [index for index, _ in found.accepted] == [0, 4]
    assert (found.total, found.status, found.listed) == (6, 202, True)
    assert found.faults == [
        Fault("email", "missing", 1),
        Fault("body", "not an object", 2),
        Fault("client", "no client is configured for this value", 3, "unknown-client"),
        Fault("client", "xyz is switched off", 5, "inactive-client"),
    ]


def test_a_thousand_events_are_taken_at_once() -> None:
    assert len(shop().received([{"client": "abc"}] * MAX_EVENTS).accepted) == MAX_EVENTS


# --- what is refused ---


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"", 400, "body"),
        (b"not json", 400, "body"),
        (b"{'client': 'abc'}", 400, "body"),
        (b'{"client": "abc"', 400, "body"),
        (b'{"client": "abc"} x', 400, "body"),
        (b'{"client": "abc",}', 400, "body"),
        (b'"abc"', 400, "body"),
        (b"7", 400, "body"),
        (b"null", 400, "body"),
        (b"true", 400, "body"),
        (b"[]", 400, "body"),
        (b"[[]]", 400, "body"),
        (b'\xff\xfe{"client": "abc"}', 400, "body"),
        ('{"client": "abc"}'.encode("utf-16"), 400, "body"),
        (b'{"client": "abc", "x": NaN}', 400, "body"),
        (b'{"client": "abc", "x": Infinity}', 400, "body"),
        (b'{"client": "abc", "x": -Infinity}', 400, "body"),
        (b'{"client": "abc", "x": 1e41}', 400, "body"),
        (b'{"client": "abc", "x": 1e999999999}', 400, "body"),
        (b'{"client": "abc", "x": 1e-999999999}', 400, "body"),
        (b'{"client": "abc", "x": ' + b"1" * 41 + b"}", 400, "body"),
        (b'{"client": "abc", "x": -' + b"1" * 41 + b"}", 400, "body"),
        (b'{"client": "abc", "x": 0.' + b"1" * 41 + b"}", 400, "body"),
        (b'{"client": "abc", "x": ' + b"1" * 100_000 + b"}", 400, "body"),
        (b'{"client": "abc", "x": 01}', 400, "body"),
        (b'{"client": "abc", "client": "def"}', 400, "body"),
        (b'{"client": "abc", "x": {"a": 1, "a": 2}}', 400, "body"),
        (b'{"client": "abc", "x": ' + b"[" * 1000 + b"]" * 1000 + b"}", 400, "body"),
        (b'{"client": "abc", "x": ' + b'{"a":' * 1000 + b"1" + b"}" * 1000 + b"}", 400, "body"),
        (b"[" * 500_000, 400, "body"),
        (b'{"client": "abc", "x": "\\ud800"}', 400, "body"),
        (b'{"client": "abc", "\\ud800": 1}', 400, "body"),
        (b'{"client": "abc", "x": "\x00"}', 400, "body"),
        (b"[" + b'{"client":"abc"},' * 9_999 + b'{"client":"abc"}]', 413, "body"),
        (b"{}", 400, "client"),
        (b'{"client": null}', 400, "client"),
        (b'{"client": "nobody"}', 400, "client"),
        (b'{"client": ""}', 400, "client"),
        (b'{"client": {"a": 1}}', 400, "client"),
        (b'{"client": ["abc"]}', 400, "client"),
        (b'{"client": "def"}', 400, "client"),
        (b'{"client": "xyz"}', 403, "client"),
    ],
    ids=lambda value: str(value[:40]) if isinstance(value, bytes) else None,
)
def test_what_can_not_be_taken_is_refused_with_field_and_reason(body: bytes, status: int, field: str) -> None:
    found = shop().received(body)
    assert (found.accepted, found.status, [fault.field for fault in found.faults]) == ([], status, [field])
    assert found.title
    assert all(len(fault.reason) < 300 for fault in found.faults)


@pytest.mark.parametrize(
    "content_type", ["", "text/html", "application/xml", "application/x-www-form-urlencoded", "json"]
)
def test_another_content_type_is_refused(content_type: str) -> None:
    assert shop().received({"client": "abc"}, content_type=content_type).status == 415


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"email": None}, "email", "missing"),
        ({"email": "no address"}, "email", '"no address" is not of the format email'),
        ({"email": 7}, "email", None),
        ({"email": "a" * 300 + "@example.com"}, "email", None),
        ({"timestamp": "yesterday"}, "timestamp", None),
        ({"eventType": "Product View"}, "eventType", None),
        ({"product": "Phone"}, "product", None),
        ({"product": {"id": "1"}}, "product.name", "missing"),
        ({"product": {"id": "1", "name": "x", "price": -1}}, "product.price", None),
        ({"product": {"id": "1", "name": "x", "price": "1,299.90"}}, "product.price", None),
        ({"url": "x" * 1_000_000}, "url", None),
    ],
)
def test_what_does_not_fit_the_schema_is_refused_by_its_field(
    change: dict[str, Any], field: str, reason: str | None
) -> None:
    event = {key: value for key, value in {**EVENT, **change}.items() if value is not None}
    status, faults = refused(browsing_shop().received(event))
    assert (status, {name for name, _ in faults}) == (422, {field})
    if reason is not None:
        assert faults[0][1] == reason
    assert len(faults[0][1]) < 300


def test_every_fault_of_an_event_is_told_at_once() -> None:
    event = {"client": "abc", "eventType": "Product View", "timestamp": "yesterday"}
    status, faults = refused(browsing_shop().received(event))
    assert (status, {name for name, _ in faults}) == (422, {"email", "eventType", "timestamp"})


def test_a_fault_never_repeats_a_whole_value() -> None:
    event = {**EVENT, "email": "s" * 1000}
    _, faults = refused(browsing_shop().received(event))
    assert all(len(reason) <= 160 for _, reason in faults)


def test_a_field_that_can_not_be_read_refuses_the_event() -> None:
    crm = shop('fields: {price: "${ decimal(event.price) }"}\nkey: "${ fields.price }"')
    status, faults = refused(crm.received({"client": "abc", "price": {"a": 1}}))
    assert (status, len(faults)) == (422, 1)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.binary() | st.text().map(str.encode) | ANY_JSON.map(lambda value: json.dumps(value).encode()))
def test_no_body_can_break_intake(body: bytes) -> None:
    found = TAKING.received(body, key="k")
    assert isinstance(found, Received)
    assert found.accepted or found.faults
    for _, accepted in found.accepted:
        assert msgspec.json.decode(accepted.body) is not None


TAKING = Shop("receive: {mode: buffered}", keys={"abc": ["k"]})


TEXT = st.text(st.characters(codec="utf-8"), max_size=5)
EXACT = st.recursive(
    st.booleans() | st.integers(-(10**30), 10**30) | st.decimals(-(10**9), 10**9, places=4) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=10,
)


@given(EXACT)
def test_what_is_stored_says_what_was_sent(value: Any) -> None:
    events, listed = parse(encode_json({"value": value}), "application/json")
    assert (events, listed) == ([{"value": value}], False)
    assert parse(encode_json(events[0]), "application/json") == (events, False)


# --- keys ---

KEYS = {"abc": ["key-abc", "key-abc-2"], "def": ["key-def"], "xyz": ["key-xyz"]}


@pytest.mark.parametrize(
    ("event", "key", "expected"),
    [
        ({"client": "abc"}, "key-abc", (202, "abc")),
        ({"client": "abc"}, "key-abc-2", (202, "abc")),
        ({}, "key-abc", (202, "abc")),
        ({"client": "GA4.1.2"}, "key-def", (202, "def")),
        ({"client": "abc"}, None, (401, "key")),
        ({"client": "abc"}, "", (401, "key")),
        ({"client": "abc"}, "wrong", (401, "key")),
        ({"client": "abc"}, "key-ab", (401, "key")),
        ({"client": "abc"}, "kéy", (401, "key")),
        ({"client": "abc"}, "key-def", (403, "client")),
        ({"client": "nobody"}, "key-abc", (403, "client")),
        ({"client": "xyz"}, "key-xyz", (403, "key")),
        ({"client": "xyz"}, None, (401, "key")),
        ({}, None, (401, "key")),
    ],
)
def test_the_key_decides_the_client_and_the_event_must_agree(
    event: dict[str, Any], key: str | None, expected: tuple[int, str]
) -> None:
    found = shop(keys=KEYS).received(event, key=key)
    if expected[0] == 202:
        assert [accepted.client for _, accepted in found.accepted] == [expected[1]]
    else:
        assert (found.accepted, found.status, found.faults[0].field) == ([], *expected)


def test_a_name_that_nobody_has_is_told_like_anothers_and_counted_apart() -> None:
    crm = shop(keys=KEYS)
    found = [crm.received({"client": name}, key="key-abc").faults for name in ("nobody", "GA4.1.2")]
    says = ("client", "does not belong to the key", None)
    assert found == [[Fault(*says, "unknown-client")], [Fault(*says)]]


def test_a_client_without_keys_is_known_by_its_event_alone() -> None:
    crm = shop(keys={"def": ["key-def"]})
    assert [accepted.client for _, accepted in crm.received({"client": "abc"}).accepted] == ["abc"]


def test_in_a_list_the_events_of_another_client_are_refused_one_by_one() -> None:
    found = shop(keys=KEYS).received([{"client": "abc"}, {"client": "GA4.1.2"}, {"client": "abc"}], key="key-abc")
    assert [index for index, _ in found.accepted] == [0, 2]
    assert [(fault.index, fault.field) for fault in found.faults] == [(1, "client")]


def test_without_receive_client_only_the_key_says_whose_event_it_is() -> None:
    crm = shop("receive: {}", keys=KEYS)
    assert [accepted.client for _, accepted in crm.received({}, key="key-abc").accepted] == ["abc"]
    assert crm.received({}).status in (400, 401)


def test_the_browsing_schema_is_what_all_bundled_connectors_take() -> None:
    schemas = [
        Project(Path(__file__).parents[1]).connector(name).receive.schema
        for name in ("rdstation", "responsys", "salesforce")
    ]
    assert schemas == [BROWSING] * 3
    assert connector_from().receive.schema is None


# --- rates, signatures, pages ---


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def paced(keys: dict[str, list[str]] | None = None) -> tuple[Shop, Time]:
    """abc may send two events in ten seconds."""
    made, clock = shop(keys=keys), Time()
    made.receiver.meters = {"abc": Meter(Rate(2, 10.0), clock)}
    return made, clock


TOO_MANY = "above its 2 events in 10 s; wait 5.0 s"


def test_a_client_above_its_rate_is_refused_with_429_and_told_when_to_come_again() -> None:
    crm, clock = paced()
    assert [len(crm.received({"client": "abc"}).accepted) for _ in range(2)] == [1, 1]
    found = crm.received({"client": "abc"})
    assert (found.status, found.wait_s, refused(found)[1]) == (429, 5.0, [("client", TOO_MANY)])
    assert len(crm.received({"client": "GA4.1.2"}).accepted) == 1
    clock.now += 5
    assert [len(crm.received({"client": "abc"}).accepted) for _ in range(2)] == [1, 0]


def test_above_its_rate_a_client_with_a_key_is_refused_before_its_body_is_read() -> None:
    crm, _ = paced({"abc": ["key-abc"]})
    crm.received([{}, {}], key="key-abc")
    assert crm.received(b"not even JSON", key="key-abc").status == 429


def test_a_list_is_taken_whole_and_what_comes_after_it_waits_the_longer() -> None:
    crm, _ = paced()
    found = crm.received([{"client": "abc"}] * 10)
    assert (len(found.accepted), found.wait_s) == (10, 0)
    assert crm.received({"client": "abc"}).wait_s == 45


def test_in_a_list_of_several_clients_those_above_their_rate_are_named() -> None:
    crm, _ = paced()
    crm.received([{"client": "abc"}] * 2)
    found = crm.received([{"client": "abc"}, {"client": "GA4.1.2"}, {"client": "abc"}])
    assert [index for index, _ in found.accepted] == [1]
    assert (found.wait_s, found.faults) == (5.0, [Fault("client", TOO_MANY, index) for index in (0, 2)])


def test_events_that_are_refused_count_too() -> None:
    crm, _ = paced()
    crm.receiver.validator = browsing_shop().receiver.validator
    assert [crm.received({"client": "abc"}).status for _ in range(3)] == [422, 422, 429]


def signing() -> Shop:
    """abc signs; def has a key and pages."""
    made = shop()
    made.receiver.senders = Senders(
        {"def": ["key-def"]}, {"abc": ["secret"]}, {"def": ["https://www.def.example"]}, {"abc", "def"}
    )
    return made


def test_a_signature_over_the_body_stands_for_its_client() -> None:
    crm = signing()
    body = b'{"id": "e-1"}'
    digest = hmac.new(b"secret", b"%d.%b" % (START, body), "sha256").hexdigest()
    signature = f"t={START:.0f},v1={digest}"
    receive = crm.receiver.receive
    assert receive(body, "application/json", None, START, signature=signature).accepted[0][1].client == "abc"
    changed = receive(body.replace(b"1", b"2"), "application/json", None, START, signature=signature)
    late = receive(body, "application/json", None, START + 301, signature=signature)
    bare = receive(b'{"client": "abc"}', "application/json", None, START)
    assert [(found.status, found.accepted, found.faults[0].field) for found in (changed, late, bare)] == [
        (401, [], "signature"),
        (401, [], "signature"),
        (401, [], "key"),
    ]


def test_what_is_signed_and_sent_again_is_there_once() -> None:
    crm = shop('receive: {client: "${ event.client }", id: "${ event.id }", dedupe: 24h}')
    crm.receiver.senders = Senders({}, {"abc": ["secret"]}, {}, {"abc"})
    body = b'{"client": "abc", "id": "e-1"}'
    digest = hmac.new(b"secret", b"%d.%b" % (START, body), "sha256").hexdigest()
    stored = []
    for _ in range(2):
        found = crm.receiver.receive(body, "application/json", None, START, signature=f"t={START:.0f},v1={digest}")
        stored += crm.store.put([found.accepted[0][1]], now=START).result()
    assert [each.duplicate for each in stored] == [False, True]


def test_a_page_can_not_send_for_the_client_of_another_page() -> None:
    receive = signing().receiver.receive
    mine = receive(b"{}", "application/json", "key-def", START, origin="https://www.def.example")
    other = receive(b"{}", "application/json", "key-def", START, origin="https://www.abc.example")
    assert (len(mine.accepted), other.status, other.faults) == (
        1,
        403,
        [Fault("origin", "not one of the client's origins")],
    )


# --- bodies that are meant to take long ---


def test_an_object_with_very_many_keys_and_one_twice_is_refused_at_once() -> None:
    keys = ",".join(f'"{number}":1' for number in range(45_000))
    began = time.process_time()
    found = shop().received(f'{{"client":"abc",{keys},"44999":1}}'.encode())
    assert refused(found) == (400, [("body", "the key '44999' comes twice")])
    assert time.process_time() - began < 5  # by counting each it was minutes


def test_a_body_of_too_many_values_is_not_parsed() -> None:
    found = shop().received(b"[" + b"1," * 50_001)
    assert refused(found) == (413, [("body", "50000 is the most")])


def test_the_answer_to_a_thousand_bad_events_names_each_and_stays_small() -> None:
    bad = {"client": "abc", "email": 7, "eventType": "A B", "timestamp": "no", "product": []}
    found = browsing_shop().received([bad] * MAX_EVENTS)
    assert {fault.index for fault in found.faults} == set(range(MAX_EVENTS))
    assert len(found.faults) < MAX_EVENTS + 400


def test_an_event_that_the_store_has_no_room_for_is_refused_before_it_is_stored_and_the_others_are_taken() -> None:
    crm = shop()
    crm.receiver.max_event_bytes = 400
    small, large = {"client": "abc", "email": "ana@example.com"}, {"client": "abc", "text": "é" * 300}
    found = crm.received([small, large])
    (fault,) = found.faults
    assert ([at for at, _ in found.accepted], found.status, fault.index, fault.field) == ([0], 202, 1, "body")
    assert fault.reason.endswith(" bytes; the store takes 400 in one event")
    alone = crm.received(large)
    assert (alone.accepted, alone.status, alone.title) == ([], 413, "the event is too large")
