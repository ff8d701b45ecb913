"""
The work that every event pays for, in pieces: what the budget measures.

A piece is set up once. Called with a number it prepares what that call needs, which is not measured, and returns what
is: a function without arguments. Rising numbers bring other events, so that no result of an earlier call is used again.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import uvicorn

from benchmarks.mapped.events import events
from benchmarks.measuring import ROOT
from engine.alerts.log import LogAlerts
from engine.clock import VirtualClock
from engine.door import listening
from engine.door.events import Door, Limits
from engine.http import Prepared, Reply
from engine.intake import Receiver
from engine.outcomes import Judge
from engine.program import Program, decode_event
from engine.records import Accepted, Received, Settled, Stored
from engine.sandbox import Sandbox, SandboxTransport
from engine.sending import Masker, Requester, Transport
from engine.spec import types
from engine.spec.load import load_connector, load_schema_ref
from engine.spec.located import read_file
from engine.spec.units import Rate
from engine.stores.sqlite import SqliteStore
from engine.telemetry.log import NullTelemetry
from engine.walk import Credentials, World
from engine.worker import Worker

START = 1_769_596_245.0
TOGETHER = 200  # records of a batch, deliveries of a read
SEEN = events(400)
encode = msgspec.json.Encoder(decimal_format="number").encode
Work = Callable[[int], Callable[[], object]]


def loaded(name: str) -> types.Connector:
    spec, findings, grown = load_connector(read_file(ROOT / "connectors" / f"{name}.yaml", f"connectors/{name}.yaml"))
    assert spec is not None, findings
    schema, findings = load_schema_ref(grown, spec, root=ROOT)
    return msgspec.structs.replace(spec, receive=msgspec.structs.replace(spec.receive, schema=schema))


def program_of(spec: types.Connector, actions: dict[str, dict[str, Any]] | None = None) -> Program:
    binding = types.Binding(settings=spec.sandbox.settings if spec.sandbox else {}, actions=actions or {})
    program = Program(spec, types.Client(client="client-abc", connectors={spec.name: binding}), binding)
    program.require_sound(spec.name)
    return program


def body(number: int, **more: Any) -> bytes:
    """An event unlike the others; valid but for what `more` breaks."""
    seen = SEEN[number % len(SEEN)]
    event = {**seen, "eventId": f"e{number}", "email": f"p{number}@example.com", "sessionId": f"s{number}"}
    event["product"] = {"id": f"P{number}", "name": "Smartphone", "price": 1299.9, **event.get("product", {})}
    return encode({**event, **more})


def receiver_of(program: Program) -> Receiver:
    spec, known = program.connector, {"client-abc": "client-abc"}
    return Receiver(spec, known, lambda _: program, schema=spec.receive.schema, keys={}, inactive={})


@contextmanager
def mapping(name: str, action: str) -> Iterator[Work]:
    """The row's context, its fields, and the record of one event."""
    program = program_of(loaded(name))
    record, makes_fields = program.actions[action].record, program.actions[action].makes_fields
    row = program.rows({**program.scope, "derived": {}}, fields=not makes_fields)
    beside = {"delivery": {"id": "d", "attempt": 1}, "lookups": {"person": {"Id": "003A"}}, "vars": {}}

    def work(number: int) -> Callable[[], object]:
        event = decode_event(body(number))
        return lambda: record(row(event, START) | beside)

    yield work


@contextmanager
def receiving(**wrong: Any) -> Iterator[Work]:
    """Parse, validate, bind, derive keys and deliveries of one event; with `wrong` it is refused."""
    receiver = receiver_of(program_of(loaded("responsys")))

    def work(number: int) -> Callable[[], object]:
        sent = body(number, **wrong)
        return lambda: receiver.receive(sent, "application/json", None, START)

    yield work


class Front:
    """What the door asks of the engine; the store says yes at once."""

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver

    def connectors(self) -> list[str]:
        return ["responsys"]

    def receive(
        self,
        connector: str,
        sent: bytes,
        content_type: str,
        key: str | None,
        now: float,
        *,
        signature: str | None,
        origin: str,
    ) -> Received:
        assert connector == "responsys"
        return self.receiver.receive(sent, content_type, key, now, signature=signature, origin=origin)

    def full(self) -> str | None:
        return None

    def put(self, accepted: list[Accepted], _now: float, _hold_s: float) -> Future[list[Stored]]:
        done: Future[list[Stored]] = Future()
        done.set_result([Stored(each.event_id, False, ()) for each in accepted])
        return done


class Line(asyncio.Transport):
    """A connection whose other end takes everything."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        """Only at the end; `posted` looks at the answer."""


@contextmanager
def running(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    asyncio._set_running_loop(loop)
    try:
        yield
    finally:
        asyncio._set_running_loop(None)


@contextmanager
def posting() -> Iterator[Work]:
    """An event over HTTP, from the bytes of the request to those of the 202; neither the socket nor the store."""
    front: Any = Front(receiver_of(program_of(loaded("responsys"))))
    loop: Any = asyncio.new_event_loop()
    with ThreadPoolExecutor(1) as pool, closing(loop), running(loop):
        door = Door(front, limits=Limits(), pool=pool, beside=pool, telemetry=NullTelemetry(), clock=lambda: START)
        config = listening._config(door, 1.0, listening.Room(10))
        config.load()
        made: Any = config.http_protocol_class
        line, protocol = Line(), made(config, uvicorn.server.ServerState(), {}, _loop=loop)
        protocol.connection_made(line)

        def work(number: int) -> Callable[[], object]:
            sent = body(number)
            request = (
                b"POST /responsys HTTP/1.1\r\nHost: events.example\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(sent), sent)
            )
            return lambda: posted(request)

        def posted(request: bytes) -> None:
            line.written = b""
            loop.call_soon(protocol.data_received, request)
            while not line.written:
                loop._run_once()  # a turn; `run_forever` would set up signals each time
            assert line.written.startswith(b"HTTP/1.1 202 "), line.written[:200]

        yield work
        protocol.connection_lost(None)


class Unseen:
    """The vendor: what it executes is not counted."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    def send(self, request: Prepared) -> Reply:
        trace, profile = sys.gettrace(), sys.getprofile()
        sys.settrace(None)
        sys.setprofile(None)
        try:
            return self.transport.send(request)
        finally:
            sys.setprofile(profile)
            sys.settrace(trace)


class Place:
    """A worker over SQLite, at a sandbox without limits in this process, with time that stands still."""

    def __init__(self, name: str, folder: Path) -> None:
        spec = loaded(name)
        batched = [name for name, action in spec.actions.items() if action.batch is not None]
        self.program = program_of(spec, {name: {"batch": {"records": TOGETHER}} for name in batched})
        for action in self.program.actions.values():
            for step in action.steps.steps.values():
                step.call.gate.limits = []
        self.receiver = receiver_of(self.program)
        sandbox = Sandbox(spec)
        sandbox.limits = {key: (Rate(10**9, 1.0), by, full) for key, (_, by, full) in sandbox.limits.items()}
        secrets = dict(spec.sandbox.secrets) if spec.sandbox else {}
        clock, masker = VirtualClock(START), Masker(secrets.values())
        self.store = SqliteStore(folder / "budget.db")
        self.worker = Worker(
            World(
                store=self.store,
                transport=Unseen(SandboxTransport([sandbox], clock.now)),
                clock=clock,
                telemetry=NullTelemetry(),
                alerts=LogAlerts(NullTelemetry()),
                program=lambda *_: self.program,
                credentials=lambda _: Credentials(secrets, "budget"),
                masker=lambda _: masker,
            )
        )

    def put(self, number: int) -> None:
        """200 events that are due."""
        accepted = []
        for one in range(number * TOGETHER, (number + 1) * TOGETHER):
            sent = body(one, eventType="product_view")
            received = self.receiver.receive(sent, "application/json", None, START - 3600)
            accepted += [each for _, each in received.accepted]
        self.store.put(accepted, now=START - 3600).result()


@contextmanager
def placed(name: str) -> Iterator[Place]:
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None  # a disk's moods are not ours
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        place = Place(name, Path(folder))
        try:
            yield place
        finally:
            place.store.close()


@contextmanager
def walking(name: str) -> Iterator[Work]:
    """200 deliveries of one lane: lease, read, look up, map, cut, encode, send, judge, settle."""
    with placed(name) as place:

        def work(number: int) -> Callable[[], object]:
            place.put(number)
            return place.worker.drain

        work(0)()
        assert [lane.delivered for lane in place.store.lanes()] == [TOGETHER]
        yield work


@contextmanager
def settling() -> Iterator[Work]:
    """200 deliveries of one lane: lease, read, settle, release; SQLite itself is not seen."""
    with placed("responsys") as place:

        def work(number: int) -> Callable[[], object]:
            place.put(number)
            return turn

        def turn() -> None:
            lease = place.store.lease("responsys", "client-abc", owner="budget", ttl_s=30.0, now=START)
            assert lease is not None
            for action in place.store.waiting_actions(lease):
                deliveries = place.store.read(lease, action, limit=TOGETHER, now=START)
                place.store.settle(lease, [Settled(each.seq, "delivered") for each in deliveries], now=START)
            place.store.release(lease, wake_at=None)

        yield work


@contextmanager
def heard(owner: type, name: str) -> Iterator[list[tuple[Any, tuple[Any, ...], dict[str, Any]]]]:
    """Each call of that method meanwhile, as (self, arguments, named)."""
    calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []
    method = getattr(owner, name)

    def hearing(self: Any, *arguments: Any, **named: Any) -> Any:
        calls.append((self, arguments, named))
        return method(self, *arguments, **named)

    setattr(owner, name, hearing)
    try:
        yield calls
    finally:
        setattr(owner, name, method)


@contextmanager
def encoding() -> Iterator[Work]:
    """The request of 200 records, from its scope to its bytes."""
    with placed("responsys") as place:
        place.put(0)
        with heard(Requester, "prepare") as calls:
            place.worker.drain()
        requester, arguments, named = calls[-1]
        yield lambda _: lambda: requester.prepare(*arguments, **named)


@contextmanager
def judging() -> Iterator[Work]:
    """A reply that names each of 200 records: parsed, judged as a whole, and record by record."""
    with placed("responsys") as place:
        place.put(0)
        with heard(Judge, "verdict") as calls:
            place.worker.drain()
        judge, (scope, reply), named = calls[-1]
        assert isinstance(reply, Reply), reply.reason

        def work(_: int) -> Callable[[], object]:
            fresh = Reply(reply.status, reply.headers, reply.content)  # for it remembers what it parsed

            def judged() -> None:
                verdict = judge.verdict(scope, fresh, **named)
                outcomes = verdict.results.outcomes(scope, fresh, scope["batch"]["records"])
                assert len(outcomes) == TOGETHER

            return judged

        yield work


@contextmanager
def loading(name: str) -> Iterator[Work]:
    """A connector's file, from its text to compiled stages, nothing remembered."""
    yield lambda _: lambda: program_of(loaded(name))


@dataclass(frozen=True)
class HotPath:
    what: str
    made: Callable[[], AbstractContextManager[Work]]
    together: int = 1  # calls that are timed as one, for one alone is over too soon
    warm: int = 3  # calls before those that are counted
    counted: int = 3
    is_timed: bool = True  # not where it is long, or a disk or a loop has a say, too: such times stray by a tenth


WRONG = {"email": "nobody", "timestamp": "yesterday", "eventType": 7}
HOT_PATHS = {
    "map-responsys": HotPath("map an event for Responsys", lambda: mapping("responsys", "trigger_event"), 20, 20, 50),
    "map-salesforce": HotPath("map an event for Salesforce", lambda: mapping("salesforce", "create_task"), 20, 20, 50),
    "receive": HotPath("receive an event", receiving, 20, 20, 50),
    "post": HotPath("answer a POST of an event", posting, 20, 20, 50, is_timed=False),
    "refuse": HotPath("refuse one with three errors", lambda: receiving(**WRONG), 20, 20, 50),
    "encode": HotPath("encode 200 records", encoding, together=10),
    "judge": HotPath("judge a reply of 200 records", judging),
    "settle": HotPath("read and settle 200 deliveries", settling, is_timed=False),
    "walk-responsys": HotPath("walk with 200, Responsys", lambda: walking("responsys"), is_timed=False),
    "walk-salesforce": HotPath("walk with 200, Salesforce", lambda: walking("salesforce"), is_timed=False),
    "load": HotPath("load a connector's file", lambda: loading("responsys"), warm=1, counted=1, is_timed=False),
}
