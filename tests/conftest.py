"""Small shops for tests: connector and clients as YAML, a scripted vendor, a store, and time that is moved."""

from __future__ import annotations

import json
import re
from collections import Counter
from decimal import Decimal
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from engine.clock import VirtualClock
from engine.errors import SpecErrors
from engine.http import NoReply, Prepared, Reply
from engine.intake import Receiver
from engine.mapping import encode_json
from engine.program import Program
from engine.secrets import fingerprint
from engine.sending import Masker
from engine.spec.findings import errors_in
from engine.spec.load import load_client, load_connector
from engine.spec.located import read
from engine.stores.memory import MemoryStore
from engine.walk import Credentials, World
from engine.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from engine.ports import Store
    from engine.records import Answered, Dead, Lane, LaneChange, Lease, Received, Settled, Skipped
    from engine.sending import Transport
    from engine.spec import types

settings.register_profile("connect", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("connect")

START = 1_769_596_245.0  # 2026-01-28 10:30:45 UTC, a Wednesday

USUAL = {
    "connect": "connect: 1",
    "name": "name: crm",
    "title": "title: CRM",
    "hosts": "hosts: [api.crm.example]",
    "receive": 'receive: {client: "${ event.client }", id: "${ event.id }"}',
    "http": "http: {base_url: https://api.crm.example/v1, "
    "retry: {attempts: 3, initial: 10s, factor: 2, max: 5m, jitter: none}}",
    "actions": 'actions: {note: {record: {id: "${ event.id }"}, request: {path: /notes, json: "${ record }"}}}',
}


def whole(text: str) -> str:
    """A connector's YAML, with the usual for every top-level key that it leaves out."""
    written = set(re.findall(r"^([a-z]+):", text, re.MULTILINE))
    return "\n".join([*(line for key, line in USUAL.items() if key not in written), text])


def connector_from(text: str = "") -> types.Connector:
    """A connector from YAML; SpecErrors where it has findings."""
    connector, findings, _ = load_connector(read(whole(text), "connectors/crm.yaml"))
    if connector is None:
        raise SpecErrors(errors_in(findings))
    return connector


def client_from(text: str = "{client: abc, connectors: {crm: {}}}") -> types.Client:
    client, findings, _ = load_client(read(text, "clients/abc.yaml"))
    if client is None:
        raise SpecErrors(errors_in(findings))
    return client


def program_from(text: str = "", client: str = "{client: abc, connectors: {crm: {}}}") -> Program:
    """What runs for one client, compiled; SpecErrors where something does not compile."""
    connector, who = connector_from(text), client_from(client)
    program = Program(connector, who, who.connectors[connector.name], jitter=lambda: 1.0)
    program.require_sound("connectors/crm.yaml")
    return program


def reply(status: int = 200, body: Any = None, /, *, text: str | bytes | None = None, **headers: str) -> Reply:
    """A vendor's answer: `body` as JSON, or `text` as it is; `retry_after="5"` is the header Retry-After."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if text is not None:
        return Reply(status, named, text if isinstance(text, bytes) else text.encode())
    if body is None:
        return Reply(status, named, b"")
    return Reply(status, {"content-type": "application/json", **named}, encode_json(body))


REFUSED = NoReply("no connection to api.crm.example: Connection refused", sent=False)
TIMED_OUT = NoReply("no reply from api.crm.example: ReadTimeout", sent=True)

Answer = Reply | NoReply


class Vendor:
    """Answers in the order of `answers`, the last one for ever, or as `answer` says; remembers what was asked."""

    def __init__(self, *answers: Answer, answer: Callable[[Prepared], Answer] | None = None) -> None:
        self.answers = list(answers) or [reply(200, {"ok": True})]
        self.answer = answer
        self.asked: list[Prepared] = []
        self.at: list[float] = []
        self.clock: VirtualClock | None = None

    def send(self, request: Prepared) -> Reply:
        self.asked.append(request)
        self.at.append(self.clock.now() if self.clock is not None else 0.0)
        if self.answer is not None:
            found = self.answer(request)
        else:
            found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(found, NoReply):
            raise found
        return found

    @property
    def bodies(self) -> list[Any]:
        """The JSON bodies that came, numbers exact."""
        return [json.loads(request.content or b"null", parse_float=Decimal) for request in self.asked]

    @property
    def lines(self) -> list[str]:
        """`POST /v1/notes` for each request."""
        return [f"{request.method} {'/' + request.url.split('/', 3)[3]}" for request in self.asked]


class Heard:
    """Telemetry and alerts that are only remembered."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []
        self.alerts: list[tuple[str, str]] = []

    def event(self, name: str, /, **facts: object) -> None:
        self.events.append((name, facts))

    def alert(self, kind: str, *, connector: str, client: str, text: str, facts: Mapping[str, str]) -> None:
        del connector, client, facts
        self.alerts.append((kind, text))

    def over(self, kind: str, *, connector: str, client: str) -> None:
        del kind, connector, client

    def named(self, name: str) -> list[dict[str, object]]:
        return [facts for found, facts in self.events if found == name]


def balanced(store: Store) -> None:
    """Nothing is lost and nothing is made up: accepted = delivered + rejected + skipped + waiting, in every lane."""
    for lane in store.lanes():
        assert lane.accepted == lane.delivered + lane.rejected + lane.skipped + lane.waiting, lane
        assert min(lane.delivered, lane.rejected, lane.skipped, lane.waiting) >= 0, lane


class Shop:
    """One connector with its clients on a store, at a vendor, on a virtual clock."""

    def __init__(
        self,
        text: str = "",
        *clients: str,
        vendor: Transport | None = None,
        store: Store | None = None,
        clock: VirtualClock | None = None,
        secrets: dict[str, str] | None = None,
        keys: dict[str, list[str]] | None = None,
    ) -> None:
        self.connector = connector_from(text)
        self.clock = clock or VirtualClock(START)
        numbers = count(1)
        self.store: Store = store if store is not None else MemoryStore(new_id=lambda: f"d{next(numbers)}")
        self.vendor: Any = vendor if vendor is not None else Vendor()
        if isinstance(self.vendor, Vendor):
            self.vendor.clock = self.clock
        self.secrets = secrets or {}
        self.nonces = count(1)
        self.heard = Heard()
        self.ended: dict[str, list[tuple[str, str]]] = {}
        self.programs: dict[str, Program] = {}
        for client in clients or ("{client: abc, connectors: {crm: {}}}",):
            who = client_from(client)
            binding = who.connectors[self.connector.name]
            program = Program(self.connector, who, binding, jitter=lambda: 1.0)
            program.require_sound("connectors/crm.yaml")
            self.programs[who.client] = program
        active = {name: program for name, program in self.programs.items() if program.client.active}
        self.masker = Masker(self.secrets.values())
        self.receiver = Receiver(
            self.connector,
            {program.binding.match or name: name for name, program in active.items()},
            lambda client: self.programs[client],
            schema=self.connector.receive.schema,
            keys=keys or {},
            inactive={name: name for name in self.programs.keys() - active.keys()},
        )
        self.worker = self.new_worker()

    def new_worker(self) -> Worker:
        """As a process that starts: nothing but the store is remembered."""
        return Worker(
            World(
                store=self.store,
                transport=self.vendor,
                clock=self.clock,
                telemetry=self.heard,
                alerts=self.heard,
                program=lambda _, client: self.programs.get(client),
                credentials=lambda _: Credentials(self.secrets, fingerprint(self.secrets)),
                masker=lambda _: self.masker,
                nonce=lambda: f"n{next(self.nonces)}",
            )
        )

    # --- events in ---

    def received(self, body: Any, *, content_type: str = "application/json", key: str | None = None) -> Received:
        raw = body if isinstance(body, bytes) else encode_json(body)
        return self.receiver.receive(raw, content_type, key, self.clock.now())

    def post(self, *events: dict[str, Any], client: str = "abc") -> list[Answered]:
        """Events of a client, each accepted; for a `direct` connector, what its callers are told."""
        answers = []
        for event in events:
            received = self.received({"client": client, **event})
            assert received.accepted, received.faults
            accepted = received.accepted[0][1]
            hold_s = self.worker.hold_s(self.connector) if received.direct else 0.0
            stored = self.store.put([accepted], now=self.clock.now(), hold_s=hold_s).result()[0]
            if received.direct:
                answers.append(self.worker.walk_now(self.programs[accepted.client], stored))
        return answers

    def post_many(self, number: int, *, client: str = "abc") -> None:
        """Events with the ids 1 … number, in one commit."""
        accepted = [self.received({"client": client, "id": str(at)}).accepted[0][1] for at in range(1, number + 1)]
        self.store.put(accepted, now=self.clock.now()).result()

    # --- time ---

    def drain(self, for_s: float = 0.0) -> None:
        """Run what is due, now and whenever something comes due within `for_s`; every turn leaves the sums right."""
        until = self.clock.now() + for_s
        for _ in range(20_000):
            self.worker.drain()
            balanced(self.store)
            due = self.store.next_due(now=self.clock.now())
            if due is None or due > until:
                self.clock.time = max(self.clock.time, until)
                return
            self.clock.time = max(due, self.clock.time + 0.001)
            if self.clock.time > until:
                return
        raise AssertionError("the worker never comes to rest")

    # --- what became of them ---

    def lane(self, client: str = "abc") -> Lane:
        lane = self.store.lane("crm", client)
        assert lane is not None
        return lane

    def sums(self, client: str = "abc") -> dict[str, int]:
        """The lane's counters that are not 0."""
        balanced(self.store)
        lane = self.lane(client)
        found = {name: getattr(lane, name) for name in ("waiting", "delivered", "rejected", "skipped")}
        return {name: number for name, number in found.items() if number}

    def dead(self) -> list[Dead]:
        return self.store.dead(limit=10_000)

    def reasons(self) -> dict[str, str]:
        """Why each dead letter is one, by the event's id."""
        return {dead.event_id: dead.reason for dead in self.dead()}

    def counts(self, name: str) -> Counter[str]:
        """How many were `delivered`, `rejected` …, by action, as telemetry heard it."""
        found: Counter[str] = Counter()
        for facts in self.heard.named(name):
            found[str(facts.get("action"))] += int(str(facts.get("count", 1)))
        return found


class Watched(MemoryStore):
    """A store in memory that keeps what was settled, in order."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.settled: list[Settled] = []

    def settle(
        self, lease: Lease | None, done: Iterable[Settled], *, now: float, change: LaneChange | None = None
    ) -> list[Skipped]:
        rows = list(done)
        skipped = super().settle(lease, rows, now=now, change=change)
        self.settled += rows
        return skipped


@pytest.fixture
def project_from(tmp_path: Path) -> Callable[..., Path]:
    """Writes a project directory: `project_from(crm=yaml, abc=yaml)`; a text with `client:` is a client's file."""

    def write(**files: str) -> Path:
        for name, text in files.items():
            is_client = re.search(r"^\{?client:", text, re.MULTILINE) is not None
            folder = tmp_path / ("clients" if is_client else "connectors")
            folder.mkdir(exist_ok=True)
            (folder / f"{name}.yaml").write_text(text if is_client else whole(text))
        return tmp_path

    return write
