"""
The CRM's side: down for half a day, dawdling, breaking off, answering nonsense, sending elsewhere. Time is virtual;
where bytes matter they come over a real socket.
"""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections import Counter
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import START, Shop, Vendor, balanced, reply
from parties import figures, sized

from engine.http import NoReply, Prepared, Reply
from engine.sending import HttpTransport
from engine.stores.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TEXT = """
http:
  base_url: https://api.crm.example/v1
  timeout: 300ms
  retry: {attempts: 6, initial: 10s, factor: 2, max: 5m, jitter: none}
secrets: {key: {}}
auth: {type: bearer, token: "{{ secrets.key }}"}
actions:
  note:
    record: {id: "${ event.id }"}
    batch: {records: 5}
    request: {path: /notes, json: "${ batch.records }"}
    results:
      at: ${ response.body.results }
      match: {ours: "${ record.id }", theirs: "${ result.id }"}
      ok: ${ result.ok }
      unnamed: resend
"""


class Raw:
    """A server that writes what it is told to, byte for byte: `behave(ids)` gives pieces, a number is a pause in s."""

    def __init__(self, behave: Any) -> None:
        self.behave, self.seen, self.requests = behave, Counter[str](), 0
        self.confirmed: set[str] = set()  # that a reply said were taken
        self.heads: list[bytes] = []
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.sock.getsockname()[1]}"
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.sock.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                try:
                    self.one(connection)
                except OSError:
                    continue

    def one(self, connection: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        while len(body) < length:
            body += connection.recv(65536)
        ids = [record["id"] for record in json.loads(body)]
        self.requests += 1
        self.heads.append(head)
        for piece in self.behave(ids):
            if isinstance(piece, bytes):
                connection.sendall(piece)
            else:
                time.sleep(piece)

    def close(self) -> None:
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        self.thread.join(6)


def http(status: str, body: bytes, *headers: str, kind: str = "application/json") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}", "Connection: close"]
    return "\r\n".join([*lines, *headers]).encode() + b"\r\n\r\n" + body


def results(ids: list[str], ok: bool = True) -> list[dict[str, Any]]:
    return [{"id": each, "ok": ok} for each in ids]


def said(answer: Any) -> bytes:
    return http("200 OK", json.dumps(answer).encode())


def good(ids: list[str]) -> list[Any]:
    return [said({"results": results(ids)})]


def trickled(data: bytes) -> list[Any]:
    return [piece for at in range(len(data)) for piece in (data[at : at + 1], 0.05)]


LONG = http("200 OK", b" " * 400)
ODD: dict[str, Callable[[list[str]], list[Any]]] = {
    "closes at once": lambda _: [],
    "closes in the head": lambda _: [b"HTTP/1.1 200 OK\r\nContent-Le"],
    "closes in mid-reply": lambda ids: [said({"results": results(ids)})[:-20]],
    "closes in mid-chunk": lambda _: [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{"],
    "is no HTTP": lambda _: [b"SSH-2.0-OpenSSH_9.6\r\n"],
    "HTML": lambda _: [http("200 OK", b"<html>Please log in</html>", kind="text/html")],
    "HTML that says it is JSON": lambda _: [http("200 OK", b"<html></html>")],
    "truncated JSON": lambda _: [http("200 OK", b'{"results": [{"id": "1", "ok": tr')],
    "other JSON": lambda _: [said([7, None, "results"])],
    "results that are no list": lambda _: [said({"results": 7})],
    "too few results": lambda ids: [said({"results": results(ids[:1])})],
    "no results": lambda _: [said({"results": []})],
    "every result twice": lambda ids: [said({"results": results(ids) * 2})],
    "someone else's ids": lambda ids: [said({"results": results([f"x{each}" for each in ids])})],
    "someone else's besides": lambda ids: [said({"results": [*results(["x1"], ok=False), *results(ids)]})],
    "ids as objects": lambda ids: [said({"results": [{"id": {"id": each}, "ok": True} for each in ids]})],
    "503": lambda _: [http("503 Service Unavailable", b"<html>down</html>", kind="text/html")],
    "429, seconds": lambda _: [http("429 Too Many Requests", b"", "Retry-After: 7")],
    "429, nothing": lambda _: [http("429 Too Many Requests", b"")],
    "429, zero": lambda _: [http("429 Too Many Requests", b"", "Retry-After: 0")],
    "429, nonsense": lambda _: [http("429 Too Many Requests", b"", "Retry-After: soon")],
    "429, negative": lambda _: [http("429 Too Many Requests", b"", "Retry-After: -5")],
    "429, for ever": lambda _: [http("429 Too Many Requests", b"", "Retry-After: 99999999999999999999")],
    "429, a date": lambda _: [
        http("429 Too Many Requests", b"", f"Retry-After: {formatdate(START + 30, usegmt=True)}")
    ],
    "a body that trickles": lambda _: trickled(LONG),
    "a head that trickles": lambda _: trickled(
        LONG.replace(b"Connection", b"X-Long: " + b"y" * 400 + b"\r\nConnection")
    ),
}


@pytest.fixture
def raw() -> Iterator[Raw]:
    server = Raw(good)
    yield server
    server.close()


@pytest.mark.parametrize("name", ODD)
def test_whatever_the_vendor_answers_each_record_has_one_end_and_none_is_lost(raw: Raw, name: str) -> None:
    """Two requests are answered so, the others as they should be."""
    odd = iter([ODD[name]] * 2)

    def behave(ids: list[str]) -> list[Any]:
        answer = next(odd, good)
        raw.seen.update(ids)
        if answer is good or name in ("every result twice", "someone else's besides"):
            raw.confirmed.update(ids)
        elif name == "too few results":
            raw.confirmed.update(ids[:1])
        return answer(ids)

    raw.behave = behave
    transport = HttpTransport(raw.url)
    shop = Shop(TEXT, vendor=transport, secrets={"key": "s3cret-key"})
    shop.post_many(10)
    began = time.monotonic()
    shop.drain(15 * 86400)  # no wait is longer than a week
    took_s = time.monotonic() - began
    transport.close()
    assert (shop.sums(), shop.reasons()) == ({"delivered": 10}, {})
    assert raw.confirmed == {str(at) for at in range(1, 11)}
    assert raw.requests <= 14, "it is not asked without end"
    assert took_s < 4, "nobody is kept waiting for longer than twice the time-out, however little comes at a time"


def test_a_vendor_that_flaps_gets_every_event_and_buries_none(raw: Raw) -> None:
    rng = random.Random(3)

    def behave(ids: list[str]) -> list[Any]:
        if rng.random() < 0.5:
            return rng.choice([ODD["503"], ODD["closes at once"], ODD["429, seconds"]])(ids)
        raw.seen.update(ids)
        return good(ids)

    raw.behave = behave
    transport = HttpTransport(raw.url)
    shop = Shop(TEXT, vendor=transport, secrets={"key": "s3cret-key"})
    number = sized(100, 1000)
    shop.post_many(number)
    shop.drain(2 * 86400)
    transport.close()
    assert (shop.sums(), shop.reasons()) == ({"delivered": number}, {})
    twice = sum(raw.seen.values()) - number
    figures(
        "test_a_vendor_that_flaps_gets_every_event_and_buries_none",
        f"{number} events, every second request fails: {raw.requests} requests, 0 lost, {twice} sent twice",
    )


def test_a_redirect_to_another_host_is_not_followed_and_the_key_stays_here(raw: Raw) -> None:
    elsewhere = Raw(good)
    raw.behave = lambda _: [http("307 Temporary Redirect", b"", f"Location: {elsewhere.url}/v1/notes")]
    transport = HttpTransport(raw.url)
    shop = Shop(TEXT, vendor=transport, secrets={"key": "s3cret-key"})
    shop.post_many(5)
    shop.drain(3600)
    transport.close()
    elsewhere.close()
    assert elsewhere.heads == []
    assert shop.sums() == {"waiting": 5}
    assert b"s3cret-key" in raw.heads[0]


LOGS_IN = """
secrets: {user: {}, password: {}}
auth:
  type: oauth2_password
  token_url: https://api.crm.example/token
  username: "{{ secrets.user }}"
  password: "{{ secrets.password }}"
actions:
  note:
    record: {id: "${ event.id }"}
    batch: {records: 10}
    steps:
      create: {request: {path: /jobs, json: "${ batch.records }"}, save: {id: "${ response.body.id }"}}
      close: {request: {method: PUT, path: "/jobs/{{ steps.create.id }}", json: {closed: true}}}
"""


def test_a_vendor_that_revokes_tokens_in_the_middle_of_batches_gets_each_event_once() -> None:
    """Every third request finds its token revoked: also the second one of a batch, whose first had been taken."""
    number, live, taken, asked = sized(200, 5_000), set[str](), Counter[str](), Counter[str]()

    def answer(request: Prepared) -> Reply:
        path = request.url.removeprefix("https://api.crm.example").removeprefix("/v1")
        asked[path.partition("/")[0] or path[:5]] += 1
        if path == "/token":
            live.add(f"token-{len(vendor.asked)}")
            return reply(200, {"access_token": f"token-{len(vendor.asked)}", "expires_in": 3600})
        if len(vendor.asked) % 3 == 0:
            live.clear()
        if request.headers["Authorization"].removeprefix("Bearer ") not in live:
            return reply(401, {"error": "invalid_token"})
        if path == "/jobs":
            taken.update(record["id"] for record in json.loads(request.content or b""))
        return reply(200, {"id": len(vendor.asked)})

    vendor = Vendor(answer=answer)
    shop = Shop(LOGS_IN, vendor=vendor, secrets={"user": "ana", "password": "pa55-of-ana"})
    shop.post_many(number)
    shop.drain(86400)
    assert (shop.sums(), shop.reasons()) == ({"delivered": number}, {})
    twice = sum(taken.values()) - len(taken)
    assert (len(taken), twice) == (number, 0)
    refused = sum(request.purpose != "auth" for request in vendor.asked) - 2 * number // 10
    logins = sum(request.purpose == "auth" for request in vendor.asked)
    figures(
        "test_a_vendor_that_revokes_tokens_in_the_middle_of_batches_gets_each_event_once",
        f"{number} events in {number // 10} batches of two requests: {refused} requests were refused, {logins} "
        f"log-ins, 0 lost, {twice} sent twice",
    )
    assert logins == refused + 1 > number / 10


@pytest.mark.parametrize("skew_s", [-86_400, 86_400])
def test_a_vendor_whose_clock_is_wrong_is_waited_for_as_long_as_it_means(skew_s: float) -> None:
    there = START + skew_s
    limited = reply(429, {}, retry_after=formatdate(there + 30, usegmt=True), date=formatdate(there, usegmt=True))
    shop = Shop(vendor=Vendor(limited, reply(200, {})))
    shop.post({"id": "1"})
    shop.drain(7 * 86400)
    assert [at - START for at in shop.vendor.at] == [0.0, 30.0]


POISON = """
actions:
  note:
    record: {id: "${ event.id }"}
    batch: {records: 200}
    request: {path: /notes, json: "${ batch.records }"}
"""


def test_a_poisoned_record_among_200_is_found_in_few_requests_and_dies_alone() -> None:
    most = 0
    places = [1, 200, *random.Random(7).sample(range(2, 200), sized(3, 40))]
    for place in places:

        def answer(request: Prepared, place: int = place) -> Reply:
            ids = [record["id"] for record in json.loads(request.content or b"")]
            return reply(422, {"error": "bad"}) if str(place) in ids else reply(200, {})

        shop = Shop(POISON, vendor=Vendor(answer=answer))
        shop.post_many(200)
        shop.drain(60)
        assert shop.sums() == {"delivered": 199, "rejected": 1}
        assert list(shop.reasons()) == [str(place)]
        most = max(most, len(shop.vendor.asked))
    figures(
        "test_a_poisoned_record_among_200_is_found_in_few_requests_and_dies_alone",
        f"{len(places)} places in a batch of 200: {most} requests at most, 1 dead letter each time",
    )
    assert most <= 17  # 1 + 2 × 8 halvings


LIMITED = """
http:
  base_url: https://api.crm.example/v1
  retry: {attempts: 3, initial: 1s, factor: 2, max: 5m}
  limits: {api: {rate: 10/1s, of: host}}

actions:
  note:
    record: {id: "${ event.id }"}
    batch: {records: 200}
    request: {path: /notes, json: "${ batch.records }"}
"""


def test_after_twelve_hours_of_outage_a_backlog_drains_at_the_vendor_s_pace_and_nothing_is_buried(
    tmp_path: Path,
) -> None:
    clients, each = sized((4, 5_000), (50, 4_000))
    back_at = START + 12 * 3600
    vendor, seen = Vendor(), Counter[str]()
    down, up = [], []

    def answer(request: Prepared) -> Reply | NoReply:
        now = shop.clock.now()
        shop.clock.sleep(0.005)
        if now < back_at:
            down.append(now)
            return NoReply("no connection: refused", sent=False) if len(down) % 2 else reply(503, {})
        up.append(now)
        seen.update(record["id"] for record in json.loads(request.content or b""))
        return reply(200, {})

    vendor.answer = answer
    text = LIMITED.replace("records: 200", f"records: {sized(50, 200)}")
    names = [f"c{at}" for at in range(clients)]
    store = SqliteStore(tmp_path / "connect.db")
    shop = Shop(text, *(f"{{client: {name}, connectors: {{crm: {{}}}}}}" for name in names), vendor=vendor, store=store)
    for name in names:
        accepted = [shop.received({"client": name, "id": f"{name}-{at}"}).accepted[0][1] for at in range(each)]
        store.put(accepted, now=shop.clock.now()).result()
    while (due := store.next_due(now=shop.clock.now())) is not None:
        shop.clock.time = max(due, shop.clock.time + 0.001)
        shop.worker.drain()
        assert shop.clock.time < back_at + 86400, "it never comes to rest"
    balanced(store)
    total = clients * each
    assert sum(lane.delivered for lane in store.lanes()) == total
    assert (len(seen), sum(seen.values()), store.dead()) == (total, total, [])
    busiest = max(sum(at <= other < at + 1 for other in up[place : place + 40]) for place, at in enumerate(up))
    last_hour = sum(at > back_at - 3600 for at in down)
    store.close()
    figures(
        "test_after_twelve_hours_of_outage_a_backlog_drains_at_the_vendor_s_pace_and_nothing_is_buried",
        f"{total} events of {clients} clients: in the last hour of the outage {last_hour} requests, then at most "
        f"{busiest} in any second (limit 10), first after {up[0] - back_at:.0f} s, all delivered after "
        f"{up[-1] - back_at:.0f} s; 0 lost, 0 twice, 0 dead letters",
    )
    assert busiest <= 10
    assert last_hour <= clients * 30, "each client asks every five minutes at most, and every 2.5 minutes at least"
    assert up[0] - back_at <= 300
