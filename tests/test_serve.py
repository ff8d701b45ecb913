from __future__ import annotations

import asyncio
import json
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from engine.door import answers, listening
from engine.door import events as door
from engine.door.events import MOST_GATHERED, Limits, Puts, address_of
from engine.errors import Refused, StoreUnavailable, UsageError
from engine.records import Accepted, Answered, Delivery, Draft, Fault, Lane, Received, Settled, Stored, Told
from engine.serve import serve
from engine.spec.units import Rate
from engine.stores.memory import MemoryStore

KEY = "s3cr3t-write-key"
PAGE = "https://www.loja-abc.example"
NOW = 1_700_000_000.0
QUICK = Limits(max_body=1_000, body_s=0.5, max_pending=3, direct_workers=2, grace_s=5)


class Shop:
    """
    A small engine behind the door: `crm` is buffered, `leads` is direct.

    An event is {"id", "do"?, "key"?}; `do` tells what is to become of it. The store commits when `open` is set.
    """

    def __init__(self, hold_s: float = 5.0) -> None:
        self.store = MemoryStore(new_id=iter([f"d{number}" for number in range(1, 1000)]).__next__)
        self.hold = hold_s
        self.open = threading.Event()
        self.open.set()
        self.answering = threading.Event()
        self.answering.set()
        self.away = self.closed = False
        self.walked: list[str] = []
        self.puts: list[list[str]] = []
        self.seen: list[tuple[str, bytes, str, str | None]] = []
        self.proofs: list[tuple[str | None, str]] = []
        self.brimful: str | None = None
        self.committing = ThreadPoolExecutor(8)

    def connectors(self) -> Collection[str]:
        return {"crm", "leads"}

    def allows_origin(self, connector: str, origin: str) -> bool:
        return (connector, origin) == ("crm", PAGE)

    def receive(
        self,
        connector: str,
        body: bytes,
        content_type: str,
        key: str | None,
        now: float,
        *,
        signature: str | None = None,
        origin: str = "",
    ) -> Received:
        self.seen.append((connector, body, content_type, key))
        self.proofs.append((signature, origin))
        if key != KEY:
            return Received(1, [], [], 401, "Unknown write key")
        try:
            posted = json.loads(body)
        except ValueError:
            raise Refused(400, "Not JSON", [Fault("", "it ends too early")]) from None
        listed = isinstance(posted, list)
        events = posted if listed else [posted]
        good: list[tuple[int, Accepted]] = []
        faults: list[Fault] = []
        for index, event in enumerate(events):
            if event == "break":
                raise ValueError(f"cannot read {body!r}")
            if "id" in event:
                good.append((index, self._accepted(connector, event, now)))
            else:
                faults.append(Fault("id", "is missing", index if listed else None))
        return Received(len(events), good, faults, 422, "", connector == "leads", listed)

    def _accepted(self, connector: str, event: dict[str, str], now: float) -> Accepted:
        drafts = () if event.get("do") == "nothing" else (Draft("save", event.get("key")),)
        return Accepted(connector, "abc", event["id"], json.dumps(event).encode(), now, drafts, dedupe_s=600)

    def event(self, event_id: str) -> Accepted:
        return self._accepted("crm", {"id": event_id}, NOW)

    def put(self, events: list[Accepted], now: float, hold_s: float) -> Future[list[Stored]]:
        if self.closed:
            raise StoreUnavailable("the store is closed")
        self.puts.append([event.event_id for event in events])

        def commit() -> list[Stored]:
            self.open.wait(5)
            if "unheard-of" in [event.event_id for event in events]:
                raise ValueError("unheard-of")
            if self.away:
                raise StoreUnavailable("disk full")
            return self.store.put(events, now=now, hold_s=hold_s).result()

        return self.committing.submit(commit)

    def hold_s(self, connector: str) -> float:
        return self.hold if connector == "leads" else 0.0

    def walk_now(self, connector: str, client: str, stored: Stored, now: float) -> Answered:
        del connector, client, now
        if stored.duplicate:
            return Answered(200, "skipped", stored.event_id, "this id was accepted before")
        [delivery] = stored.deliveries
        self.walked.append(delivery.event_id)
        self.answering.wait(5)
        return self._answered(delivery, json.loads(delivery.body).get("do", "delivered"))

    def _answered(self, delivery: Delivery, do: str) -> Answered:
        event_id = delivery.event_id
        match do:
            case "delivered":
                self.store.settle(None, [Settled(delivery.seq, "delivered")], now=NOW)
                return Answered(200, "delivered", event_id)
            case "wait":
                return Answered(202, "waiting", event_id, "HTTP 503")
            case "reject":
                return Answered(422, "rejected", event_id, "email is not one")
            case _:
                raise ValueError("s3cr3t payload")

    def full(self) -> str | None:
        return self.brimful

    def openapi(self) -> bytes:
        return b'{"openapi": "3.1.0"}'

    def ready(self) -> list[str]:
        if self.away:
            raise StoreUnavailable("disk full")
        return []

    def lanes(self) -> list[Lane]:
        if self.away:
            raise StoreUnavailable("disk full")
        return self.store.lanes()

    def metrics(self) -> bytes:
        return b"connect_store_up 1\n"


class Seen:
    """Telemetry that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []

    def event(self, name: str, /, **facts: object) -> None:
        self.events.append((name, facts))

    def named(self, name: str) -> list[dict[str, object]]:
        return [facts for found, facts in self.events if found == name]


class House:
    """The shop, served; `http` speaks to its door and `admin` to its admin side."""

    def __init__(self, shop: Shop, port: int, admin_port: int, seen: Seen) -> None:
        self.shop, self.port, self.admin_port, self.seen = shop, port, admin_port, seen
        plain: dict[str, Any] = {"trust_env": False, "verify": False}  # without TLS no authorities are read: 30 ms
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"x-connect-key": KEY}, **plain)
        self.admin = httpx.Client(base_url=f"http://127.0.0.1:{admin_port}", **plain)

    def raw(self, *parts: bytes, half_close: bool = False, pause_s: float = 0) -> tuple[int, dict[str, str], Any]:
        """Bytes as they stand, and the answer taken apart."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as sock:
            for part in parts:
                sock.sendall(part)
                time.sleep(pause_s)
            if half_close:
                sock.shutdown(socket.SHUT_WR)
            return read_answer(sock)


def read_answer(sock: socket.socket) -> tuple[int, dict[str, str], Any]:
    with sock.makefile("rb") as stream:
        status = int(stream.readline().split()[1])
        headers = {}
        while (line := stream.readline().decode().strip()) != "":
            name, _, value = line.partition(": ")
            headers[name] = value
        return status, headers, json.loads(stream.read(int(headers["content-length"])))


@contextmanager
def opened(shop: Shop | None = None, *, limits: Limits = QUICK, **options: Any) -> Iterator[House]:
    shop, stop, seen = shop or Shop(), threading.Event(), Seen()
    ports: list[int] = []
    there = threading.Event()

    def ready(port: int, admin_port: int) -> None:
        ports.extend([port, admin_port])
        there.set()

    options = {"port": 0, "admin_port": 0, "limits": limits, "telemetry": seen, "clock": lambda: NOW, **options}
    server = threading.Thread(target=lambda: serve(shop, on_ready=ready, stop=stop, **options))
    server.start()
    assert there.wait(5)
    house = House(shop, *ports, seen)
    try:
        with house.http, house.admin:
            yield house
    finally:
        shop.open.set()
        shop.answering.set()
        stop.set()
        server.join(10)
        shop.committing.shutdown()
        assert not server.is_alive()


@pytest.fixture(scope="module")
def shared() -> Iterator[House]:
    with opened() as house:
        yield house


@pytest.fixture
def house(shared: House) -> House:
    """The shop that is open during the whole file; a test takes ids of its own."""
    shared.seen.events.clear()
    shared.shop.seen.clear()
    shared.shop.walked.clear()
    return shared


def problem(status: int, title: str, detail: str, faults: list[Any] | None = None, **more: Any) -> dict[str, Any]:
    shape = {"type": "about:blank", "title": title, "status": status, "detail": detail, "faults": faults or []}
    return {**shape, **more}


def refused(reply: httpx.Response) -> dict[str, Any]:
    assert reply.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = reply.json()
    assert body["status"] == reply.status_code
    return body


def eventually(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.002)


# What is taken in


def test_an_event_is_stored_and_then_answered_with_its_id(house: House) -> None:
    reply = house.http.post("/crm", json={"id": "e1"})
    assert (reply.status_code, reply.headers["content-type"]) == (202, "application/json")
    assert reply.json() == {"accepted": 1, "ids": ["e1"]}
    assert house.seen.events == [("accepted", {"connector": "crm", "client": "abc", "count": 1})]


def test_the_answer_waits_for_the_commit() -> None:
    with opened() as house, ThreadPoolExecutor(1) as pool:
        house.shop.open.clear()
        reply = pool.submit(house.http.post, "/crm", json={"id": "e1"})
        eventually(lambda: len(house.shop.seen) == 1)
        time.sleep(0.1)
        assert not reply.done()
        house.shop.open.set()
        assert reply.result().status_code == 202


def posted(body: bytes, *lines: str, path: str = "/crm", key: str = KEY, method: str = "POST") -> bytes:
    head = [f"{method} {path} HTTP/1.1", "host: x", f"x-connect-key: {key}", *lines, f"content-length: {len(body)}"]
    return "\r\n".join([*head, "", ""]).encode() + body


JSON_TYPE = "content-type: application/json"
SENT = (
    posted(b'{"id": "w1"}', JSON_TYPE),
    posted(b'{"id": "w1"}', JSON_TYPE, f"origin: {PAGE}"),
    posted(b'{"id": "w2"}', JSON_TYPE, "origin: https://elsewhere.example"),
    posted(b'[{"id": "w3"}, {"do": "nothing"}]', JSON_TYPE),
    posted(b'{"id": "w4"}', "content-type: text/plain; charset=utf-8", f"origin: {PAGE}"),
    posted(b'{"id": "w5"}', "content-type: text/html"),
    posted(b'{"id": "w6"}', JSON_TYPE, "content-encoding: gzip"),
    posted(b'{"id": "w7"}', JSON_TYPE, key="another"),
    posted(b"{", JSON_TYPE),
    posted(b'"break"', JSON_TYPE),
    posted(b"", JSON_TYPE),
    posted(b" " * 1_001, JSON_TYPE),
    posted(b'{"id": "unheard-of"}', JSON_TYPE),
    posted(b'{"id": "w8"}', JSON_TYPE, path="/nobody"),
    posted(b'{"id": "w9"}', JSON_TYPE, method="PUT"),
    posted(b'{"id": "w10"}', JSON_TYPE, "expect: 100-continue"),
    posted(b'{"id": "w11", "do": "reject"}', JSON_TYPE, path="/leads"),
    posted(b'{"id": "w12"}', JSON_TYPE, path=f"/crm?key={KEY}", key=""),
    posted(b'{"id": "w13"}', JSON_TYPE) + posted(b'{"id": "w14"}', JSON_TYPE) + posted(b"{", JSON_TYPE),
    posted(b'{"id": "w15"}', JSON_TYPE) + b"not HTTP\r\n\r\n",
    posted(b'{"id": "w16"}', JSON_TYPE, "connection: close"),
)


def told_by(house: House, sent: bytes) -> bytes:
    """All that is answered until a request that comes after them ends the connection, but for the time."""
    with socket.create_connection(("127.0.0.1", house.port), timeout=5) as sock:
        sock.sendall(sent + b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        with sock.makefile("rb") as stream:
            return re.sub(rb"date: [^\r]*\r\n", b"", stream.read())


def test_what_is_taken_without_a_task_is_answered_and_told_to_the_log_as_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both = []
    taken: list[bool] = []
    at_once = door.Door.at_once

    def noted(*asked: Any) -> bool:
        taken.append(at_once(*asked))
        return taken[-1]

    for way in (noted, lambda *_: False):
        monkeypatch.setattr(door.Door, "at_once", way)
        with opened() as house:
            answered = [told_by(house, sent) for sent in SENT]
            both.append((answered, sorted(map(str, house.seen.events)), house.shop.puts))
    assert both[0] == both[1]
    assert sum(taken) == 16  # the others have something about them that goes the long way


def test_of_a_list_the_good_are_taken_and_the_bad_answered_one_by_one(house: House) -> None:
    reply = house.http.post("/crm", json=[{"id": "l1"}, {}, {"id": "l2"}, {"x": 1}])
    assert (reply.status_code, reply.json()) == (
        202,
        {
            "accepted": 2,
            "ids": ["l1", "l2"],
            "faults": [
                {"index": 1, "field": "id", "reason": "is missing"},
                {"index": 3, "field": "id", "reason": "is missing"},
            ],
        },
    )
    assert house.seen.events == [
        ("refused", {"connector": "crm", "status": 422, "count": 2}),
        ("accepted", {"connector": "crm", "client": "abc", "count": 2}),
    ]


def test_an_event_sent_twice_is_answered_alike_and_named(house: House) -> None:
    house.http.post("/crm", json={"id": "twice"})
    reply = house.http.post("/crm", json=[{"id": "once"}, {"id": "twice"}])
    assert (reply.status_code, reply.json()) == (
        202,
        {"accepted": 2, "ids": ["once", "twice"], "duplicates": ["twice"]},
    )


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ("application/json", "application/json"),
        ('Application/JSON; charset="UTF-8"', "application/json"),
        ("application/cloudevents+json; charset=utf-8", "application/cloudevents+json"),
        ("text/plain;charset=UTF-8", "text/plain"),
    ],
)
def test_json_comes_as_json_or_as_plain_text(house: House, sent: str, read: str) -> None:
    reply = house.http.post("/crm", content=b'{"id": "t"}', headers={"content-type": sent})
    assert (reply.status_code, house.shop.seen) == (202, [("crm", b'{"id": "t"}', read, KEY)])


@pytest.mark.parametrize(
    "sent",
    [
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "text/html"},
        {"content-type": "application/json; charset=latin-1"},
        {"content-type": "jsonp+json"},
        {"content-type": "application/json", "content-encoding": "gzip"},
        {},
    ],
)
def test_other_content_is_415(house: House, sent: dict[str, str]) -> None:
    assert refused(house.http.post("/crm", content=b'{"id": "t"}', headers=sent)) == problem(
        415, "Unsupported Media Type", "send application/json or text/plain, in UTF-8 and not compressed"
    )
    assert house.shop.seen == []


@pytest.mark.parametrize(
    ("headers", "query", "key"),
    [
        ({"x-connect-key": "a", "authorization": "Bearer b"}, "?key=c", "a"),
        ({"authorization": "bearer b"}, "?key=c", "b"),
        ({"authorization": "Basic b"}, "?x=1&key=c%2B1&key=d", "c+1"),
        ({}, "?monkey=1", None),
        ({}, "", None),
    ],
)
def test_the_key_comes_by_header_or_query(house: House, headers: dict[str, str], query: str, key: str | None) -> None:
    httpx.post(f"http://127.0.0.1:{house.port}/crm{query}", json={}, headers=headers, trust_env=False)
    assert house.shop.seen == [("crm", b"{}", "application/json", key)]


def test_a_beacon_needs_no_preflight_and_no_header(house: House) -> None:
    reply = httpx.post(
        f"http://127.0.0.1:{house.port}/crm?key={KEY}",
        content=b'{"id": "beacon"}',
        headers={"content-type": "text/plain;charset=UTF-8", "origin": PAGE},
        trust_env=False,
    )
    assert (reply.status_code, reply.json()) == (202, {"accepted": 1, "ids": ["beacon"]})
    assert (reply.headers["access-control-allow-origin"], reply.headers["vary"]) == (PAGE, "Origin")


def test_no_event_tells_the_log_a_key_or_a_payload(house: House) -> None:
    for body in [{"id": "s3cr3t"}, {}, ["break"]]:
        house.http.post(f"/crm?key={KEY}", json=body)
    assert [name for name, _ in house.seen.events] == ["accepted", "refused", "fault", "refused"]
    assert "s3cr3t" not in repr(house.seen.events)


# What is not


def test_a_refusal_names_field_and_reason(house: House) -> None:
    assert refused(house.http.post("/crm", json={})) == problem(
        422, "Unprocessable Content", "id: is missing", [{"field": "id", "reason": "is missing"}]
    )
    assert refused(house.http.post("/crm", json=[{}, {}])) == problem(
        422,
        "Unprocessable Content",
        "id: is missing (and 1 more)",
        [{"index": 0, "field": "id", "reason": "is missing"}, {"index": 1, "field": "id", "reason": "is missing"}],
    )
    assert house.seen.events == 2 * [
        ("refused", {"connector": "crm", "status": 422, "why": "Unprocessable Content"}),
    ]


def test_intake_decides_status_and_title(house: House) -> None:
    assert refused(house.http.post("/crm", json={}, headers={"x-connect-key": "wrong"})) == problem(
        401, "Unknown write key", "Unknown write key"
    )
    assert refused(house.http.post("/crm", content=b"{", headers={"content-type": "text/plain"})) == problem(
        400, "Not JSON", "it ends too early", [{"field": "", "reason": "it ends too early"}]
    )


def test_our_own_fault_is_500_and_says_nothing_of_the_payload(house: House) -> None:
    reply = house.http.post("/crm", json=["break"])
    assert refused(reply) == problem(500, "Internal Server Error", "Internal Server Error")
    [fault] = house.seen.named("fault")
    assert str(fault["error"]).startswith("ValueError at ")


def test_an_unknown_connector_is_404_and_names_only_the_path(house: House) -> None:
    for path in ["/nobody", "/crm/", "/", "/CRM", "/lanes", "/metrics"]:
        assert refused(house.http.post(path, json={})) == problem(404, "Not Found", f"there is nothing at {path}")
    assert house.seen.named("refused")[0] == {"connector": "", "status": 404, "why": "Not Found"}


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_only_post_is_allowed(house: House, method: str) -> None:
    reply = house.http.request(method, "/crm")
    assert refused(reply) == problem(405, "Method Not Allowed", "events are sent with POST")
    assert reply.headers["allow"] == "POST, OPTIONS"


TOO_LARGE = problem(413, "Content Too Large", "a body has at most 1000 bytes")
HEAD = b"POST /crm HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nX-Connect-Key: " + KEY.encode() + b"\r\n"


def test_a_body_that_says_it_is_too_large_is_refused_unread(house: House) -> None:
    status, _, body = house.raw(HEAD + b"Content-Length: 1001\r\n\r\n")
    assert (status, body) == (413, TOO_LARGE)
    status, _, body = house.raw(HEAD + b"Content-Length: 1001\r\nExpect: 100-continue\r\n\r\n")
    assert (status, body) == (413, TOO_LARGE)


def test_a_body_that_turns_out_too_large_is_refused_while_it_comes(house: House) -> None:
    chunk = b"1f4\r\n" + b" " * 500 + b"\r\n"
    status, _, body = house.raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", chunk, chunk, chunk)
    assert (status, body) == (413, TOO_LARGE)
    assert house.shop.seen == []


def test_the_sender_of_a_body_too_large_can_read_why_and_go_on(house: House) -> None:
    assert refused(house.http.post("/crm", json={"id": "x" * 3_000_000})) == TOO_LARGE
    assert house.http.post("/crm", json={"id": "after"}).status_code == 202


def test_a_body_as_large_as_allowed_is_taken(house: House) -> None:
    body = b'{"id": "large"}'.ljust(1000)
    assert house.http.post("/crm", content=body, headers={"content-type": "text/plain"}).status_code == 202


def test_a_sender_who_sends_for_ever_is_cut_off(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "MAX_DRAIN", 100_000)
    with socket.create_connection(("127.0.0.1", house.port), timeout=5) as sock:
        sock.sendall(HEAD + b"Content-Length: 100000000\r\n\r\n")
        assert read_answer(sock)[0] == 413
        with pytest.raises(OSError, match=r"reset|pipe"):
            sock.sendall(b" " * 50_000_000)


@pytest.mark.parametrize(
    "sent",
    [
        b'Content-Length: 20\r\n\r\n{"id": "cut"}',
        b'Transfer-Encoding: chunked\r\n\r\nd\r\n{"id": "cut"}\r\n',
        b"Content-Length: 20\r\n\r\n",
    ],
)
def test_a_truncated_body_is_400_and_not_taken(house: House, sent: bytes) -> None:
    status, headers, body = house.raw(HEAD + sent, half_close=True)
    assert (status, body) == (400, problem(400, "Bad Request", "the body ended early"))
    assert headers["connection"] == "close"
    assert house.shop.seen == []


def test_a_sender_who_closes_its_half_is_still_answered(house: House) -> None:
    status, _, body = house.raw(HEAD + b'Content-Length: 14\r\n\r\n{"id": "half"}', half_close=True)
    assert (status, body) == (202, {"accepted": 1, "ids": ["half"]})


def test_a_sender_who_is_gone_leaves_nothing_behind(house: House) -> None:
    with socket.create_connection(("127.0.0.1", house.port), timeout=5) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.sendall(HEAD + b'Content-Length: 20\r\n\r\n{"id": "gone"}')
    time.sleep(0.05)
    assert house.http.post("/crm", json={"id": "next"}).status_code == 202
    assert [body for _, body, _, _ in house.shop.seen] == [b'{"id":"next"}']


def test_a_body_that_is_slow_is_408(house: House) -> None:
    status, headers, body = house.raw(HEAD + b'Content-Length: 20\r\n\r\n{"id"')
    assert (status, body) == (408, problem(408, "Request Timeout", "the body was not there after 0.5 s"))
    assert headers["connection"] == "close"


def test_a_body_may_come_in_pieces(house: House) -> None:
    status, _, body = house.raw(HEAD + b'Content-Length: 15\r\n\r\n{"id"', b': "part', b's"}', pause_s=0.02)
    assert (status, body) == (202, {"accepted": 1, "ids": ["parts"]})


@pytest.mark.parametrize(
    "sent",
    [b"rubbish\r\n\r\n", HEAD + b"Content-Length: x\r\n\r\n", HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"],
)
def test_what_is_not_http_is_400(house: House, sent: bytes) -> None:
    status, _, body = house.raw(sent)
    assert (status, body) == (400, problem(400, "Bad Request", "Invalid HTTP request received."))


def test_headers_are_bounded_in_bytes(house: House) -> None:
    status, _, body = house.raw(HEAD, *[b"X-More: " + b"x" * 30_000 + b"\r\n"] * 3, pause_s=0.02)
    assert (status, body) == (400, problem(400, "Bad Request", "the headers are too large"))


def test_headers_are_bounded_in_time(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "HEADERS_S", 0.1)
    with socket.create_connection(("127.0.0.1", house.port), timeout=5) as sock:
        sock.sendall(HEAD)
        assert sock.recv(1) == b""


# Pages of other origins


def preflight(house: House, origin: str) -> httpx.Response:
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "x-connect-key"}
    return house.http.options("/crm", headers={"origin": origin, **asks})


def test_a_preflight_allows_the_origins_of_the_client(house: House) -> None:
    reply = preflight(house, PAGE)
    headers = {name: value for name, value in reply.headers.items() if name != "date"}
    assert (reply.status_code, reply.content) == (204, b"")
    assert headers == {
        "vary": "Origin",
        "access-control-allow-origin": PAGE,
        "access-control-allow-credentials": "true",
        "access-control-expose-headers": "retry-after",
        "allow": "POST, OPTIONS",
        "access-control-allow-methods": "POST",
        "access-control-allow-headers": "content-type, x-connect-key, traceparent",
        "access-control-max-age": "86400",
    }


def test_a_foreign_origin_is_403_and_learns_nothing(house: House) -> None:
    posted = house.http.post("/crm", json={"id": "e"}, headers={"origin": "https://evil.example"})
    for reply in [preflight(house, "https://evil.example"), posted]:
        assert refused(reply) == problem(403, "Forbidden", "this origin is not one of the client's `ingest.origins`")
        assert [name for name in reply.headers if name.startswith("access-control")] == []
        assert reply.headers["vary"] == "Origin"
    assert house.shop.seen == []


def test_a_page_may_read_why_it_was_refused(house: House) -> None:
    reply = house.http.post("/crm", json={}, headers={"origin": PAGE})
    assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (422, PAGE)


def test_without_an_origin_no_page_is_allowed_anything(house: House) -> None:
    reply = house.http.post("/crm", json={"id": "server"})
    assert [name for name in reply.headers if name.startswith("access-control")] == []


# When the store is away, or slow


def test_a_store_that_is_away_is_503_and_nothing_is_said_to_be_accepted() -> None:
    with opened() as house:
        house.shop.away = True
        reply = house.http.post("/crm", json={"id": "e1"})
        assert refused(reply) == problem(
            503,
            "Service Unavailable",
            "the store can't be written; nothing was accepted, send it again a little later",
        )
        assert house.http.post("/crm", json={"id": "e2"}).status_code == 503
        assert house.seen.named("store-unavailable") == [{"why": "disk full"}]  # not once for each request
        assert reply.headers["retry-after"] == "1"
        ready = [house.http.get("/readyz"), house.admin.get("/readyz")]
        assert [(each.status_code, each.json()) for each in ready] == [
            (503, {"status": "not ready"}),
            (503, {"status": "not ready", "reasons": ["disk full"]}),
        ]
        assert refused(house.admin.get("/lanes"))["detail"] == "the store can't be read"
        assert house.http.get("/healthz").status_code == 200
        house.shop.away = False
        assert house.http.post("/crm", json={"id": "e1"}).json() == {"accepted": 1, "ids": ["e1"]}


def test_more_than_can_be_stored_is_503() -> None:
    with opened() as house, ThreadPoolExecutor(3) as pool:
        house.shop.open.clear()
        waiting = [pool.submit(house.http.post, "/crm", json={"id": f"e{number}"}) for number in range(3)]
        eventually(lambda: len(house.shop.seen) == 3)
        reply = house.http.post("/crm", json={"id": "e4"})
        assert refused(reply) == problem(
            503, "Service Unavailable", "more is coming in than is stored; send it again a little later"
        )
        assert reply.headers["retry-after"] == "1"
        house.shop.open.set()
        assert [each.result().status_code for each in waiting] == [202, 202, 202]
        assert house.http.post("/crm", json={"id": "e4"}).status_code == 202


def test_what_comes_in_one_turn_is_one_put_in_order_and_counted_once(shop: Shop) -> None:
    seen = Seen()
    assert together(shop, seen, ["e1", "e2", "e1"], ["e3"], []) == [
        [("e1", False), ("e2", False), ("e1", True)],
        [("e3", False)],
        [],
    ]
    assert shop.puts == [["e1", "e2", "e1", "e3"]]
    assert seen.events == [("accepted", {"connector": "crm", "client": "abc", "count": 3})]


def test_a_store_that_is_away_tells_all_who_share_the_put(shop: Shop) -> None:
    shop.away = True
    told = together(shop, Seen(), ["e1"], ["e2"])
    assert [(type(error), str(error)) for error in told] == [(StoreUnavailable, "disk full")] * 2


def test_an_event_that_breaks_the_store_harms_none_of_those_it_came_with(shop: Shop) -> None:
    seen = Seen()
    told = together(shop, seen, ["e1"], ["unheard-of"], ["e2"])
    assert (told[0], repr(told[1]), told[2]) == ([("e1", False)], "ValueError('unheard-of')", [("e2", False)])
    assert seen.events == 2 * [("accepted", {"connector": "crm", "client": "abc", "count": 1})]


def test_what_comes_during_a_commit_goes_to_the_store_together_after_it(shop: Shop) -> None:
    async def ask() -> list[str]:
        puts = Puts(shop, Seen(), lambda: NOW)
        shop.open.clear()
        told = [puts.put([shop.event("e1")], 0)]
        for event_id in ("e2", "e3"):
            await asyncio.sleep(0.01)
            told.append(puts.put([shop.event(event_id)], 0))
        assert shop.puts == [["e1"]]
        shop.open.set()
        return [stored.event_id for [stored] in await asyncio.gather(*told)]

    assert (asyncio.run(ask()), shop.puts) == (["e1", "e2", "e3"], [["e1"], ["e2", "e3"]])


def test_a_commit_waits_for_those_who_keep_coming_up_to_so_many(shop: Shop) -> None:
    async def ask() -> None:
        puts, told = Puts(shop, Seen(), lambda: NOW), []
        for turn in range(MOST_GATHERED // 2 + 3):
            told += [puts.put([shop.event(f"e{turn}{which}")], 0) for which in "ab"]
            await asyncio.sleep(0)
        await asyncio.gather(*told)

    asyncio.run(ask())
    assert [len(ids) for ids in shop.puts] == [MOST_GATHERED, 6]


def test_nobody_is_left_waiting_when_the_store_closes_in_between(shop: Shop) -> None:
    async def ask() -> list[Any]:
        puts = Puts(shop, Seen(), lambda: NOW)
        shop.open.clear()
        told = [puts.put([shop.event(event_id)], 0) for event_id in ("e1", "unheard-of")]
        await asyncio.sleep(0.01)
        told.append(puts.put([shop.event("e2")], 0))
        shop.closed = True
        shop.open.set()
        return await asyncio.wait_for(asyncio.gather(*told, return_exceptions=True), 5)

    assert [str(error) for error in asyncio.run(ask())] == ["the store is closed"] * 3


def test_those_who_wait_behind_a_fault_of_the_telemetry_are_stored_all_the_same(shop: Shop) -> None:
    class Broken(Seen):
        def event(self, name: str, /, **facts: object) -> None:
            super().event(name, **facts)
            raise RuntimeError(name)

    async def ask() -> list[list[Stored]]:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
        puts = Puts(shop, Broken(), lambda: NOW)
        shop.open.clear()
        told = [puts.put([shop.event("e1")], 0)]
        await asyncio.sleep(0.01)
        told.append(puts.put([shop.event("e2")], 0))
        shop.open.set()
        return await asyncio.wait_for(asyncio.gather(*told), 1)

    assert [stored.event_id for [stored] in asyncio.run(ask())] == ["e1", "e2"]


def test_a_request_given_up_leaves_its_event_and_the_others_in_the_put(shop: Shop) -> None:
    async def ask() -> list[Stored]:
        puts = Puts(shop, Seen(), lambda: NOW)
        gone, stays = (puts.put([shop.event(event_id)], 0) for event_id in ("e1", "e2"))
        gone.cancel()
        return await stays

    [stored] = asyncio.run(ask())
    assert (stored.event_id, shop.puts) == ("e2", [["e1", "e2"]])


@pytest.fixture
def shop() -> Iterator[Shop]:
    made = Shop()
    yield made
    made.committing.shutdown()


def together(shop: Shop, seen: Seen, *asked: list[str]) -> list[Any]:
    """What each of several requests is told whose events come in the same turn of the loop."""

    async def ask() -> list[Any]:
        puts = Puts(shop, seen, lambda: NOW)
        told = [puts.put([shop.event(event_id) for event_id in ids], 0) for ids in asked]
        return await asyncio.gather(*told, return_exceptions=True)

    return [
        answer if isinstance(answer, Exception) else [(each.event_id, each.duplicate) for each in answer]
        for answer in asyncio.run(ask())
    ]


def test_what_is_written_in_one_turn_is_sent_at_once_and_before_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Head and body of an answer, that is: two packets would wake the sender twice."""
    wires: list[Wire] = []

    class Recorded(listening._Joined):
        def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
            wires.append(Wire(transport))
            super().__init__(cast("asyncio.Transport", wires[-1]), loop)

    monkeypatch.setattr(listening, "_Joined", Recorded)
    with opened() as house:
        house.http.get("/crm")
        house.http.get("/crm", headers={"connection": "close"})
        eventually(lambda: wires[0].sent[-1:] == ["closed"])
    sent = wires[0].sent
    assert [piece if isinstance(piece, str) else (piece[:12], piece[-1:]) for piece in sent] == [
        (b"HTTP/1.1 405", b"}"),
        (b"HTTP/1.1 405", b"}"),
        "closed",
    ]


class Wire:
    """A transport that notes what passes."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.sent: list[bytes | str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)

    def write(self, data: bytes) -> None:
        self.sent.append(data)
        self.transport.write(data)

    def close(self) -> None:
        if "closed" not in self.sent:
            self.sent.append("closed")
        self.transport.close()


# What too many may ask for


def test_a_full_store_is_503_before_anything_is_read_and_says_when_to_come_again(house: House) -> None:
    house.shop.brimful = "the store holds 5.0 GB, and max_store is 5.0 GB"
    try:
        reply = house.http.post("/crm", json={"id": "e1"})
    finally:
        house.shop.brimful = None
    says = "the store holds 5.0 GB, and max_store is 5.0 GB; nothing was accepted, send it again later"
    assert refused(reply) == problem(503, "Service Unavailable", says)
    assert (reply.headers["retry-after"], house.shop.seen) == ("30", [])


def test_an_address_above_its_rate_is_429_but_for_health() -> None:
    with opened(limits=Limits(address_rate=Rate(2, 60.0))) as house:
        replies = [house.http.post("/crm", json={"id": f"e{number}"}) for number in range(3)]
        assert [reply.status_code for reply in replies] == [202, 202, 429]
        assert refused(replies[2]) == problem(429, "Too Many Requests", "more requests than one address may send")
        assert replies[2].headers["retry-after"] == "30"
        assert [house.http.get(path).status_code for path in ("/healthz", "/nothing", "/openapi.json")] == [
            200,
            429,
            429,
        ]
        forged = house.http.post("/crm", json={"id": "e4"}, headers={"x-forwarded-for": "203.0.113.7"})
        assert forged.status_code == 429


def test_behind_a_load_balancer_each_sender_is_counted_for_itself() -> None:
    limits = Limits(address_rate=Rate(1, 60.0), proxies=(ip_network("127.0.0.0/8"),))
    with opened(limits=limits) as house:
        sent = ["203.0.113.7", "203.0.113.7", "198.51.100.1, 203.0.113.8", "198.51.100.1, 203.0.113.8", "nonsense"]
        replies = [house.http.post("/crm", json={"id": "e"}, headers={"x-forwarded-for": each}) for each in sent]
        assert [reply.status_code for reply in replies] == [202, 429, 202, 429, 202]


@pytest.mark.parametrize(
    ("peer", "forwarded", "counted"),
    [
        ("203.0.113.7", "", "203.0.113.7"),
        ("203.0.113.7", "198.51.100.1", "203.0.113.7"),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "192.0.2.9, 198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "198.51.100.1, 10.0.0.7", "198.51.100.1"),
        ("10.0.0.1", "rubbish, 10.0.0.7", "10.0.0.7"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("::ffff:203.0.113.7", "", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "", "fe80::/64"),
        ("", "", ""),
    ],
)
def test_a_request_is_counted_by_the_last_address_that_is_no_proxys(peer: str, forwarded: str, counted: str) -> None:
    headers = {b"x-forwarded-for": forwarded.encode()} if forwarded else {}
    assert address_of((peer, 1), headers, (ip_network("10.0.0.0/8"),)) == counted


def test_a_client_above_its_rate_is_429_and_told_when_to_come_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    above = Received(1, [], [Fault("client", "above its rate")], 429, "too many events", wait_s=2.1)
    monkeypatch.setattr(house.shop, "receive", lambda *_, **__: above)
    reply = house.http.post("/crm", json={"id": "e1"})
    assert (reply.headers["retry-after"], refused(reply)["detail"]) == ("3", "client: above its rate")


def test_of_a_list_partly_above_a_rate_the_answer_says_when_the_rest_may_come(shop: Shop) -> None:
    some = Received(2, [(0, shop.event("e1"))], [Fault("client", "above its rate", 1)], wait_s=0.5)
    assert answers.accepted(some, [Stored("e1", False, ())]).headers == ((b"retry-after", b"1"),)


def test_signature_and_origin_are_handed_to_intake(house: House) -> None:
    house.shop.proofs.clear()
    house.http.post("/crm", json={"id": "p1"}, headers={"x-connect-signature": "t=1,v1=00", "origin": PAGE})
    house.http.post("/crm", json={"id": "p2"})
    assert house.shop.proofs == [("t=1,v1=00", PAGE), (None, "")]


def test_large_bodies_are_read_beside_the_loop(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    receive = house.shop.receive

    def noted(*args: Any, **more: Any) -> Received:
        names.append(threading.current_thread().name.partition("_")[0])
        return receive(*args, **more)

    monkeypatch.setattr(house.shop, "receive", noted)
    monkeypatch.setattr(door, "LARGE", 500)
    for size in (10, 600):
        assert house.http.post("/crm", content=b'{"id": "large"}'.ljust(size), headers=PLAIN).status_code == 202
    assert names[1] == "large"
    assert names[0] != "large"


PLAIN = {"content-type": "text/plain"}


def test_of_large_bodies_that_do_not_come_only_so_many_are_kept_and_small_ones_are_taken() -> None:
    limits = Limits(max_coming=100_000, body_s=5)
    with opened(limits=limits) as house:
        slow = [socket.create_connection(("127.0.0.1", house.port), timeout=5) for _ in range(4)]
        for sock in slow:
            sock.sendall(HEAD + b"Content-Length: 900000\r\n\r\n" + b" " * 60_000)
        told = []
        for sock in slow:
            sock.settimeout(0.3)
            try:
                told.append(sock.recv(4096)[:12])
            except TimeoutError:
                told.append(b"")
        assert sorted(told) == [b"", b"", b"HTTP/1.1 503", b"HTTP/1.1 503"]
        status, _, _ = house.raw(HEAD + b"Content-Length: 15\r\n\r\n", b'{"id": "small"}', pause_s=0.02)
        assert status == 202
        for sock in slow:
            sock.close()
        eventually(lambda: house.raw(HEAD + b"Content-Length: 90000\r\n\r\n", b" " * 60_000, b" " * 30_000)[0] == 400)


def test_more_than_is_to_be_held_in_memory_is_503() -> None:
    with opened(limits=Limits(max_held=1_000)) as house, ThreadPoolExecutor(1) as pool:
        house.shop.open.clear()
        first = pool.submit(house.http.post, "/crm", content=b'{"id": "e1"}'.ljust(900), headers=PLAIN)
        eventually(lambda: len(house.shop.seen) == 1)
        reply = house.http.post("/crm", content=b'{"id": "e2"}'.ljust(200), headers=PLAIN)
        assert refused(reply)["detail"] == "more is coming in than is read; send it again a little later"
        house.shop.open.set()
        assert first.result().status_code == 202
        assert house.http.post("/crm", content=b'{"id": "e2"}'.ljust(200), headers=PLAIN).status_code == 202


def test_what_can_be_posted_is_described(house: House) -> None:
    reply = house.http.get("/openapi.json")
    assert (reply.json(), reply.headers["content-type"]) == ({"openapi": "3.1.0"}, "application/json")
    assert house.http.head("/openapi.json").status_code == 200
    assert house.http.post("/openapi.json").status_code == 404


# What is not quite HTTP


def test_a_body_in_another_coding_is_415(house: House) -> None:
    status, _, body = house.raw(HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n")
    assert (status, body["detail"]) == (415, "send application/json or text/plain, in UTF-8 and not compressed")


BODY = b'{"id": "raw"}'
LENGTH = b"Content-Length: 13\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        HEAD + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nPOST /crm HTTP/1.1\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n" + LENGTH + b"\r\n0\r\n\r\n",
        HEAD + LENGTH + LENGTH + b"\r\n" + BODY,
        HEAD + LENGTH + b"Content-Length: 2\r\n\r\n" + BODY,
        HEAD + b"Content-Length: 13, 13\r\n\r\n" + BODY,
        HEAD + b"Content-Length: +13\r\n\r\n" + BODY,
        HEAD + b"Content-Length: -13\r\n\r\n" + BODY,
        HEAD + b"Content-Length: 0xd\r\n\r\n" + BODY,
        HEAD + b"Content-Length: 1_3\r\n\r\n" + BODY,
        HEAD + b"Content-Length: 99999999999999999999\r\n\r\n" + BODY,
        HEAD + b"Content-Length : 13\r\n\r\n" + BODY,
        HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n+d\r\n" + BODY + b"\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nd\n" + BODY + b"\n0\n\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n" + BODY,
        HEAD + b"X: a\r\n b\r\n" + LENGTH + b"\r\n" + BODY,
        HEAD + b"X: a\0b\r\n" + LENGTH + b"\r\n" + BODY,
        (HEAD + LENGTH + b"\r\n").replace(b"\r\n", b"\n") + BODY,
        HEAD.replace(b"Host: x\r\n", b"Host: x\rY: z\r\n") + LENGTH + b"\r\n" + BODY,
        HEAD + b"Connection: Upgrade\r\nUpgrade: h2c\r\n" + LENGTH + b"\r\n" + BODY,
        HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\n" + LENGTH + b"\r\n" + BODY,
        b"CONNECT crm:80 HTTP/1.1\r\nHost: crm\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        HEAD.replace(b"/crm", b"/crm?" + b"a" * 9_000) + LENGTH + b"\r\n" + BODY,
        HEAD + b"a: b\r\n" * 101 + LENGTH + b"\r\n" + BODY,
        HEAD + (b"a: " + b"b" * 3_000 + b"\r\n") * 60 + LENGTH + b"\r\n" + BODY,
    ],
    ids=lambda sent: str(sent[-60:]),
)
def test_what_two_servers_could_read_differently_is_400_once_and_the_connection_ends(house: House, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", house.port), timeout=5) as sock:
        sock.sendall(sent)
        answer = b""
        with suppress(ConnectionResetError):
            while more := sock.recv(65_536):
                answer += more
    assert (answer[:12], answer.count(b"HTTP/1.1")) == (b"HTTP/1.1 400", 1)
    assert house.shop.seen == []


def read_all(sock: socket.socket) -> list[bytes]:
    """The statuses of all answers until the connection ends."""
    answer = b""
    with suppress(ConnectionResetError):
        while more := sock.recv(65_536):
            answer += more
    return re.findall(rb"HTTP/1\.1 (\d+)", answer)


ONE = HEAD + LENGTH + b"\r\n" + BODY


def test_what_was_whole_before_garbage_is_answered_for_itself() -> None:
    with opened() as house, socket.create_connection(("127.0.0.1", house.port), timeout=5) as sock:
        house.shop.open.clear()
        sock.sendall(ONE + b"rubbish\r\n\r\n")
        eventually(lambda: len(house.shop.seen) == 1)
        house.shop.open.set()
        assert read_all(sock) == [b"202"]


def test_after_connection_close_nothing_more_is_taken(house: House) -> None:
    with socket.create_connection(("127.0.0.1", house.port), timeout=5) as sock:
        sock.sendall(ONE.replace(LENGTH, LENGTH + b"Connection: close\r\n") + ONE)
        assert read_all(sock) == [b"202"]
    assert len(house.shop.seen) == 1


def test_requests_sent_before_the_answers_are_answered_in_order_up_to_a_number(house: House) -> None:
    with socket.create_connection(("127.0.0.1", house.port), timeout=5) as sock:
        sock.sendall(ONE * 20 + HEAD + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}")
        assert read_all(sock) == [b"202"] * 20 + [b"422"]
    with socket.create_connection(("127.0.0.1", house.port), timeout=5) as sock:
        sock.sendall(ONE * 200)
        assert read_all(sock) == [b"202"] * (listening.MAX_PIPELINE + 1)


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (b"1\r\n \r\n" * 3_000, "the body comes in too many pieces"),
        (b"1;" + b"x" * 1_000_000, "more is sent around the body than in it"),
    ],
)
def test_a_body_is_not_mostly_what_is_around_it(sent: bytes, says: str) -> None:
    with opened(limits=Limits()) as house, socket.create_connection(("127.0.0.1", house.port), timeout=5) as sock:
        with suppress(OSError):
            sock.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + sent)
        status, _, body = read_answer(sock)
    assert (status, body["detail"]) == (400, says)


def test_empty_lines_after_an_answer_keep_no_connection_open(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "HEADERS_S", 0.1)
    with socket.create_connection(("127.0.0.1", house.port), timeout=5) as sock:
        sock.sendall(ONE)
        assert read_answer(sock)[0] == 202
        sock.sendall(b"\r\n")
        assert sock.recv(1) == b""


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"\r\n" * 100])
def test_who_says_nothing_is_cut_off(house: House, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(listening, "KEEP_ALIVE_S", 0.1)
    monkeypatch.setattr(listening, "HEADERS_S", 0.1)
    with socket.create_connection(("127.0.0.1", house.port), timeout=5) as sock:
        sock.sendall(sent)
        assert sock.recv(1) == b""


def test_who_does_not_read_the_answers_is_cut_off(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "WRITE_S", 0.1)
    monkeypatch.setattr(house.shop, "openapi", lambda: b" " * 5_000_000)
    with socket.create_connection(("127.0.0.1", house.port), timeout=5) as sock:
        sock.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 10)
        time.sleep(0.5)
        read = 0
        with suppress(ConnectionResetError):
            while more := len(sock.recv(1_000_000)):
                read += more
    assert read < 40_000_000


def test_where_all_connections_are_in_use_the_one_that_waited_longest_makes_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listening, "raise_descriptors", lambda: 3)
    with opened() as house:
        silent = [socket.create_connection(("127.0.0.1", house.port), timeout=5) for _ in range(3)]
        silent[0].sendall(ONE)
        assert read_answer(silent[0])[0] == 202  # so the second has waited longest now
        status, _, _ = house.raw(ONE)
        assert status == 202
        with suppress(ConnectionResetError):
            assert silent[1].recv(1) == b""
        silent[0].sendall(ONE)
        assert read_answer(silent[0])[0] == 202
        for sock in silent:
            sock.close()


def test_descriptors_are_raised_as_far_as_the_system_allows() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1_000, hard))
        most = listening.raise_descriptors()
        raised = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        assert raised == min(hard, listening.MAX_CONNECTIONS + listening.KEPT_DESCRIPTORS)
        assert most == raised - listening.KEPT_DESCRIPTORS
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_changes_something_on_the_admin_side_leaves_a_line() -> None:
    def pause(_: Request) -> Response:
        return PlainTextResponse("paused", 201)

    with opened(admin_routes=[Route("/pause", pause, methods=["POST"])], admin_token="s3cr3t") as house:
        house.admin.get("/lanes")
        house.admin.post("/pause?token=s3cr3t")
        house.admin.post("/pause", headers={"authorization": "Bearer s3cr3t"})
        what = {"method": "POST", "path": "/pause", "address": "127.0.0.1"}
        assert house.seen.named("audit") == [{**what, "status": 401}, {**what, "status": 201}]
        assert "s3cr3t" not in repr(house.seen.events)


# Callers who wait for the CRM


def test_a_direct_caller_is_told_what_the_crm_said(house: House) -> None:
    replies = [house.http.post("/leads", json={"id": f"d-{do}", "do": do}) for do in ["delivered", "wait", "nothing"]]
    assert [(reply.status_code, reply.json()) for reply in replies] == [
        (200, {"outcome": "delivered", "id": "d-delivered"}),
        (202, {"outcome": "waiting", "id": "d-wait", "reason": "HTTP 503"}),
        (200, {"outcome": "skipped", "id": "d-nothing", "reason": "no action wants this event"}),
    ]
    assert refused(house.http.post("/leads", json={"id": "d-reject", "do": "reject"})) == problem(
        422, "Unprocessable Content", "email is not one", outcome="rejected", id="d-reject"
    )
    assert house.seen.named("refused") == []


def test_a_direct_duplicate_is_not_carried_twice(house: House) -> None:
    replies = [house.http.post("/leads", json={"id": "d-twice"}) for _ in range(2)]
    assert [(reply.status_code, reply.json()) for reply in replies] == [
        (200, {"outcome": "delivered", "id": "d-twice"}),
        (200, {"outcome": "skipped", "id": "d-twice", "reason": "this id was accepted before"}),
    ]
    assert house.shop.walked == ["d-twice"]


def test_an_id_that_is_sent_again_before_its_answer_has_the_same_answer(house: House) -> None:
    reply = house.http.post("/leads", json=[{"id": "d-same", "do": "reject"}] * 2)
    told = {"status": 422, "outcome": "rejected", "id": "d-same", "reason": "email is not one"}
    assert reply.json() == {"results": [{"index": 0, **told}, {"index": 1, **told}]}
    assert house.shop.walked == ["d-same"]


def test_a_caller_is_told_what_became_of_each_of_several_actions() -> None:
    actions = {"note": Told(200, "delivered"), "deal": Told(422, "rejected", "no price")}
    rejected = answers.answered(Answered(422, "rejected", "e1", "no price", actions))
    each = {"note": {"outcome": "delivered"}, "deal": {"outcome": "rejected", "reason": "no price"}}
    assert json.loads(rejected.body) == problem(
        422, "Unprocessable Content", "no price", outcome="rejected", id="e1", actions=each
    )
    waiting = answers.answered(Answered(202, "waiting", "e1", "HTTP 503", actions))
    assert json.loads(waiting.body) == {"outcome": "waiting", "id": "e1", "reason": "HTTP 503", "actions": each}


def test_a_direct_list_is_answered_event_by_event(house: House) -> None:
    reply = house.http.post("/leads", json=[{"id": "m1"}, {}, {"id": "m2", "do": "reject"}, {"id": "m3", "do": "wait"}])
    assert (reply.status_code, reply.json()) == (
        200,
        {
            "results": [
                {"index": 0, "status": 200, "outcome": "delivered", "id": "m1"},
                {"index": 2, "status": 422, "outcome": "rejected", "id": "m2", "reason": "email is not one"},
                {"index": 3, "status": 202, "outcome": "waiting", "id": "m3", "reason": "HTTP 503"},
            ],
            "faults": [{"index": 1, "field": "id", "reason": "is missing"}],
        },
    )


def test_a_direct_list_of_one_is_a_list(house: House) -> None:
    results = [{"index": 0, "status": 200, "outcome": "delivered", "id": "one"}]
    assert house.http.post("/leads", json=[{"id": "one"}]).json() == {"results": results}
    assert house.http.post("/leads", json=[{}]).status_code == 422


def test_events_of_one_key_are_carried_in_order_and_wait_for_each_other(house: House) -> None:
    events = [
        {"id": "k1", "key": "ana"},
        {"id": "k2", "key": "ana", "do": "wait"},
        {"id": "k3", "key": "ana"},
        {"id": "k4", "key": "ben"},
    ]
    results = house.http.post("/leads", json=events).json()["results"]
    assert [(each["id"], each["outcome"], each.get("reason")) for each in results] == [
        ("k1", "delivered", None),
        ("k2", "waiting", "HTTP 503"),
        ("k3", "waiting", "an earlier event of the same key waits"),
        ("k4", "delivered", None),
    ]
    assert [each for each in house.shop.walked if each != "k4"] == ["k1", "k2"]


def test_a_walk_that_breaks_leaves_the_event_in_the_buffer(house: House) -> None:
    reply = house.http.post("/leads", json={"id": "d-break", "do": "break"})
    assert (reply.status_code, reply.json()) == (
        202,
        {"outcome": "waiting", "id": "d-break", "reason": "it is tried again"},
    )
    [fault] = house.seen.named("fault")
    assert (fault["where"], str(fault["error"]).startswith("ValueError at ")) == ("walk", True)


def test_a_caller_is_told_to_wait_when_the_hold_ends_or_all_workers_are_busy() -> None:
    with opened(Shop(hold_s=0.3), limits=Limits(direct_workers=2)) as house, ThreadPoolExecutor(4) as pool:
        house.shop.answering.clear()
        replies = list(pool.map(lambda number: house.http.post("/leads", json={"id": f"e{number}"}), range(4)))
        assert [reply.status_code for reply in replies] == [202] * 4
        assert sorted(reply.json()["reason"] for reply in replies) == [
            *["the CRM has not answered yet"] * 2,
            *["too many others are being carried right now"] * 2,
        ]
        house.shop.answering.set()
        reply = house.http.post("/leads", json={"id": "later"})
        assert reply.json() == {"outcome": "delivered", "id": "later"}


# The admin side


def test_health_is_answered_on_both_ports(house: House) -> None:
    for client in [house.http, house.admin]:
        assert (client.get("/healthz").json(), client.get("/readyz").json()) == ({"status": "ok"}, {"status": "ready"})
        assert client.head("/healthz").status_code == 200


def test_lanes_are_shown_as_status_shows_them() -> None:
    with opened(clock=lambda: NOW) as house:
        house.http.post("/crm", json={"id": "e1"})
        assert house.admin.get("/lanes").json() == {
            "lanes": [
                {
                    "connector": "crm",
                    "client": "abc",
                    "state": "waiting",
                    "waiting": 1,
                    "delivered": 0,
                    "rejected": 0,
                    "skipped": 0,
                    "oldest_s": 0.0,
                    "reason": None,
                }
            ]
        }


def test_metrics_are_text_for_prometheus(house: House) -> None:
    reply = house.admin.get("/metrics")
    assert (reply.text, reply.headers["content-type"]) == (
        "connect_store_up 1\n",
        "text/plain; version=0.0.4; charset=utf-8",
    )


def test_the_admin_side_answers_problems_too(house: House) -> None:
    assert refused(house.admin.get("/nothing")) == problem(404, "Not Found", "there is nothing at /nothing")
    reply = house.admin.post("/lanes")
    assert refused(reply) == problem(405, "Method Not Allowed", "Method Not Allowed")
    assert set(reply.headers["allow"].split(", ")) == {"GET", "HEAD"}


def test_a_token_guards_all_but_health() -> None:
    with opened(admin_token="s3cr3t") as house:
        bare = house.admin.get("/lanes")
        assert refused(bare) == problem(401, "Unauthorized", "give the admin token as bearer or as password")
        assert bare.headers["www-authenticate"] == 'Basic realm="DaxGO Connect", charset="UTF-8"'
        wrong = [{"authorization": f"Bearer {token}"} for token in ["s3cr3", "s3cr3tt", "x", "ção"]]
        wrong += [{"authorization": "Basic !"}, {"authorization": "Basic czNjcjN0"}]
        raw = [{name: value.encode() for name, value in headers.items()} for headers in wrong]
        assert [house.admin.get("/metrics", headers=headers).status_code for headers in raw] == [401] * 6
        assert house.admin.get("/metrics", headers={"authorization": "Bearer s3cr3t"}).status_code == 200
        assert house.admin.get("/lanes", auth=("anyone", "s3cr3t")).status_code == 200
        assert [house.admin.get(path).status_code for path in ["/healthz", "/readyz"]] == [200, 200]


def test_without_a_token_no_other_name_and_no_proxy_reaches_the_admin_side(house: House) -> None:
    names = [{"host": host} for host in ["rebound.example", "rebound.example:80", "[", ""]]
    for headers in [*names, {"x-forwarded-for": "203.0.113.7"}]:
        assert refused(house.admin.get("/lanes", headers=headers)) == problem(
            403, "Forbidden", "without a token the admin side answers only to 127.0.0.1 and localhost"
        )
    for host in ["localhost", "localhost:99", "127.0.0.1", "[::1]:80"]:
        assert house.admin.get("/lanes", headers={"host": host}).status_code == 200


def test_what_is_mounted_is_guarded_and_not_for_foreign_pages() -> None:
    def pause(_: Request) -> Response:
        return PlainTextResponse("paused")

    def break_down(_: Request) -> Response:
        raise ValueError("s3cr3t")

    routes = [Route("/pause", pause, methods=["POST"]), Route("/broken", break_down)]
    with opened(admin_routes=routes, admin_token="t") as house:
        assert house.admin.post("/pause").status_code == 401
        house.admin.headers["authorization"] = "Bearer t"
        own = {"origin": f"http://127.0.0.1:{house.admin_port}"}
        assert [house.admin.post("/pause", headers=headers).text for headers in [{}, own]] == ["paused"] * 2
        assert refused(house.admin.post("/pause", headers={"origin": "https://evil.example"})) == problem(
            403, "Forbidden", "a page of another origin can't do this"
        )
        assert refused(house.admin.get("/broken")) == problem(500, "Internal Server Error", "Internal Server Error")
        assert [fault["where"] for fault in house.seen.named("fault")] == ["admin"]
        assert "s3cr3t" not in repr(house.seen.events)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_admin_side_is_never_on_the_port_that_takes_events(host: str) -> None:
    with opened(host=host, admin_port=None) as house:
        assert house.admin_port == 0
        assert [house.http.get(path).status_code for path in ["/lanes", "/metrics", "/healthz"]] == [404, 404, 200]


@pytest.mark.parametrize("token", [None, ""])
def test_an_admin_side_open_to_others_needs_a_token(token: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        serve(Shop(), port=0, admin_port=0, admin_host="0.0.0.0", admin_token=token)
    assert str(caught.value) == (
        "the admin side on 0.0.0.0 is open to others: give it a token (CONNECT_ADMIN_TOKEN), or bind it to 127.0.0.1"
    )


@pytest.mark.parametrize("which", ["port", "admin_port"])
def test_a_port_that_is_taken_is_named(which: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UsageError) as caught:
        serve(Shop(), **{"port": 0, "admin_port": 0, which: taken.getsockname()[1]})
    assert str(caught.value).startswith("can't listen on 127.0.0.1:")


# The end


def test_at_the_end_requests_in_flight_are_finished_and_new_ones_not_taken() -> None:
    with opened() as house, ThreadPoolExecutor(1) as pool:
        house.shop.open.clear()
        reply = pool.submit(house.http.post, "/crm", json={"id": "e1"})
        eventually(lambda: len(house.shop.seen) == 1)
        threading.Timer(0.4, house.shop.open.set).start()
    assert reply.result().json() == {"accepted": 1, "ids": ["e1"]}
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{house.port}/healthz", trust_env=False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_a_request_in_flight_be_answered(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with ThreadPoolExecutor(1) as pool:
            post = {"json": {"id": "e1"}, "headers": {"x-connect-key": KEY}, "trust_env": False}
            reply = pool.submit(httpx.post, f"http://127.0.0.1:{port}/leads", **post)
            assert process.stdout.readline() == b"walking\n"
            process.send_signal(number)
            assert (reply.result().status_code, reply.result().json()) == (200, {"outcome": "delivered", "id": "e1"})
        assert process.stdout.read() == b"ended\n"
        assert process.wait(5) == 0


class SlowShop(Shop):
    """Says when it begins a walk, and then takes its time."""

    def walk_now(self, connector: str, client: str, stored: Stored, now: float) -> Answered:
        print("walking", flush=True)
        time.sleep(0.4)
        return super().walk_now(connector, client, stored, now)


if __name__ == "__main__":
    serve(SlowShop(), port=0, on_ready=lambda port, _: print(port, flush=True))
    print("ended", flush=True)
