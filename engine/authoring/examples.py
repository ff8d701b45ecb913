"""Examples are tests: their events walk through the real engine on a virtual clock, against a written exchange."""

from __future__ import annotations

import itertools
import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import msgspec

from engine.alerts.log import LogAlerts
from engine.bodies import read_form, read_json_lines
from engine.clock import VirtualClock
from engine.errors import ConnectError
from engine.expressions import Compiler
from engine.http import NoReply, Prepared, Reply
from engine.intake import Receiver
from engine.mapping import encode_json
from engine.notations.semantics import same
from engine.program import Program
from engine.records import Accepted, Received
from engine.sandbox import Sandbox
from engine.sending import Masker
from engine.spec import types, units
from engine.stores.memory import MemoryStore
from engine.telemetry.log import NullTelemetry
from engine.unpacking import pack
from engine.walk import Credentials, World
from engine.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.ports import Clock
    from engine.records import LaneChange, Lease, Settled, Skipped
    from engine.sending import Transport

CLIENT = "example"
LONGEST_S = 30 * 86400.0
TOLERANCE_S = 1.0


class Result(NamedTuple):
    """One example, run."""

    connector: str
    name: str
    passed: bool
    message: str = ""


class Unlike(ConnectError):
    """The engine did not do what the example says; the text says where they differ."""


class Watched(MemoryStore):
    """A store that remembers how each delivery ended, or why it waits."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.ended: dict[int, tuple[str, str]] = {}
        self.waits: dict[int, str] = {}  # why those that have not ended are tried again

    def settle(
        self, lease: Lease | None, done: Sequence[Settled], *, now: float, change: LaneChange | None = None
    ) -> list[Skipped]:
        skipped = super().settle(lease, done, now=now, change=change)
        for row in done:
            if row.kind != "later":
                self.ended[row.seq] = (row.kind, row.reason)
            else:
                self.waits[row.seq] = row.reason
        self.ended |= {row.seq: ("skipped", row.reason) for row in skipped}
        return skipped


class Script:
    """The exchange of an example as a transport; a log-in that is not listed is answered by the sandbox."""

    def __init__(self, exchange: list[types.Exchange], sandbox: Sandbox | None, clock: VirtualClock) -> None:
        self.left, self.sandbox, self.clock = list(enumerate(exchange, 1)), sandbox, clock
        self.waited: float | None = None
        self.last_at = clock.now()
        self.wrong: str | None = None
        self.skip_waits()

    def skip_waits(self) -> None:
        while self.left and self.left[0][1].after is not None:
            self.waited = (self.waited or 0.0) + units.duration(self.left.pop(0)[1].after)

    def send(self, request: Prepared) -> Reply:
        listed = self.left[0][1].sends if self.left else None
        if request.purpose == "auth" and (listed is None or not same_target(listed, request)):
            if self.sandbox is None:
                self.fail(f"a log-in ({shown(request)}) that neither the exchange lists nor a sandbox answers")
            assert self.sandbox is not None
            return self.sandbox.answer(request, self.clock.now())
        if listed is None:
            self.fail(f"one request more than the example lists: {shown(request)}")
        number, expected = self.left.pop(0)
        assert expected.sends is not None
        if self.waited is not None and abs(self.clock.now() - self.last_at - self.waited) > TOLERANCE_S:
            waited = self.clock.now() - self.last_at
            self.fail(f"exchange {number}: sent after {waited:g}s, the example says {self.waited:g}s")
        if (unlike := differs(expected.sends, request)) is not None:
            self.fail(f"exchange {number}: {unlike}")
        self.last_at, self.waited = self.clock.now(), None
        self.skip_waits()
        return self.reply(expected.answers or {"status": 200}, number)

    def reply(self, answers: dict[str, Any], number: int) -> Reply:
        match answers.get("fails"):
            case None:
                pass
            case "connect":
                raise NoReply("no connection", sent=False)
            case "timeout" | "half":
                raise NoReply("no reply", sent=True)
            case other:
                self.fail(f"exchange {number}: fails: {other}; it can be connect, timeout or half")
        headers = {str(name): str(value) for name, value in answers.get("headers", {}).items()}
        if "body" in answers and "packed" in answers:
            return Reply(int(answers.get("status", 200)), headers, pack(answers["body"], answers["packed"]))
        if "body" in answers:
            headers.setdefault("content-type", "application/json")
            return Reply(int(answers.get("status", 200)), headers, encode_json(answers["body"]))
        text = str(answers.get("text", ""))
        return Reply(int(answers.get("status", 200)), headers, text.encode())

    def fail(self, text: str) -> None:
        self.wrong = self.wrong or text
        raise Unlike(text)


def shown(request: Prepared) -> str:
    body = (request.content or b"").decode("utf-8", "replace")
    return f"{request.method} {urlsplit(request.url).path}{f' {body[:200]}' if body else ''}"


def same_target(sends: dict[str, Any], request: Prepared) -> bool:
    parts = urlsplit(request.url)
    return (
        sends.get("method", request.method) == request.method
        and sends.get("path", parts.path) == parts.path
        and sends.get("host", parts.hostname) == parts.hostname
    )


def differs(sends: dict[str, Any], request: Prepared) -> str | None:
    """Where a request is unlike the one that was listed: method, path and bodies whole, query and headers as listed."""
    parts = urlsplit(request.url)
    content = (request.content or b"").decode("utf-8", "replace")
    actual: dict[str, Any] = {"method": request.method, "path": parts.path, "host": parts.hostname, "text": content}
    for name in ("method", "path", "host", "text", "csv"):
        if name in sends and str(sends[name]) != str(actual.get(name, content)):
            return f"{name} is {brief(actual.get(name, content))}, the example says {brief(sends[name])}"
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    headers = {name.lower(): value for name, value in request.headers.items()}
    for name, listed, found in (
        ("query", sends.get("query", {}), query),
        ("headers", sends.get("headers", {}), headers),
    ):
        for key, value in listed.items():
            got = found.get(key if name == "query" else key.lower())
            if got is None:
                return f"{name}.{key} is missing, the example says {brief(text_of(value))}"
            if got != text_of(value):
                return f"{name}.{key} is {brief(got)}, the example says {brief(text_of(value))}"
    if "form" in sends:
        return unlike(
            "form",
            {key: text_of(value) for key, value in sends["form"].items()},
            dict(parse_qsl(content, keep_blank_values=True)),
        )
    if "json" in sends:
        try:
            body = json.loads(content, parse_float=Decimal)
        except ValueError:
            return f"the body is not JSON: {content[:200]}"
        return unlike("json", sends["json"], body)
    if "ndjson" in sends:
        try:
            return unlike("ndjson", sends["ndjson"], read_json_lines(content))
        except ValueError:
            return f"the body is not JSON lines: {content[:200]}"
    if "multipart" in sends:
        return unlike_parts(sends["multipart"], request, headers.get("content-type", ""))
    return None


def unlike_parts(listed: dict[str, Any], request: Prepared, content_type: str) -> str | None:
    """The first part that differs; of a file what is listed is compared."""
    form, files = read_form(content_type, request.content or b"")
    wanted = {name: part if isinstance(part, dict) else text_of(part) for name, part in listed.items()}
    found = {**form, **{name: as_listed(file, listed.get(name)) for name, file in files.items()}}
    return unlike("multipart", wanted, found)


def as_listed(file: dict[str, Any], listed: Any) -> dict[str, Any]:
    """A file in the words in which the example lists it."""
    if not isinstance(listed, dict):
        return file
    content = listed.get("content")
    kind = next(iter(content), "text") if isinstance(content, dict) else "text"
    read = {
        "json": {"json": file.get("json")},
        "ndjson": {"ndjson": file.get("rows")},
        "csv": {"csv": {"rows": file.get("rows")}},
    }.get(kind, file["text"])
    return {key: read if key == "content" else file.get(key) for key in listed}


def text_of(value: Any) -> str:
    return value if isinstance(value, str) else encode_json(value).decode()


def unlike(path: str, listed: Any, found: Any, teller: str = "the example") -> str | None:
    """The first place where two JSON values differ; `teller` is who says what is listed."""
    if isinstance(listed, dict) and isinstance(found, dict):
        for key in [*listed, *(key for key in found if key not in listed)]:
            if key not in found:
                return f"{path}.{key} is missing, {teller} says {brief(listed[key])}"
            if key not in listed:
                return f"{path}.{key} is {brief(found[key])}, {teller} does not have it"
            if (inner := unlike(f"{path}.{key}", listed[key], found[key], teller)) is not None:
                return inner
        return None
    if isinstance(listed, list) and isinstance(found, list):
        if len(listed) != len(found):
            return f"{path} has {len(found)} items, {teller} says {len(listed)}"
        return next(
            (
                inner
                for at, (one, two) in enumerate(zip(listed, found, strict=True))
                if (inner := unlike(f"{path}[{at}]", one, two, teller))
            ),
            None,
        )
    if same(listed, found):
        return None
    return f"{path} is {brief(found)}, {teller} says {brief(listed)}"


def brief(value: Any) -> str:
    text = encode_json(value).decode()
    return text if len(text) <= 200 else f"{text[:200]}…"


class Shared:
    """What examples of one connector have in common: programs by their client, the sandbox, the events' validator."""

    def __init__(self) -> None:
        self.programs: dict[bytes, Program] = {}
        self.sandbox: Sandbox | None = None
        self.validator: Any = None


def run_example(
    connector: types.Connector,
    example: types.Example,
    *,
    compiler: Callable[[], Compiler] = Compiler,
    shared: Shared | None = None,
) -> Result:
    """
    One example through intake, buffer, walk and settle; `compiler` makes the one that the program is compiled by.

    Most examples of a connector are of one client: with `shared` its program is compiled once for all of them.
    """
    try:
        Run(connector, example, compiler=compiler(), shared=shared).check()
    except Unlike as error:
        return Result(connector.name, example.name, False, str(error))
    except ConnectError as error:
        return Result(connector.name, example.name, False, f"{type(error).__name__}: {error}")
    return Result(connector.name, example.name, True)


def client_of(connector: types.Connector, example: types.Example) -> types.Client:
    """The made-up client of an example: what it says itself, and else the sandbox's settings."""
    given, sandbox = example.client, connector.sandbox
    binding = types.Binding(
        settings=given.get("settings", sandbox.settings if sandbox else {}),
        secrets={},
        tables=given.get("tables", {}),
        actions=given.get("actions", {}),
        limits=msgspec.convert(given.get("limits", {}), dict[str, types.Limit]),
        match=given.get("match"),
    )
    return types.Client(client=CLIENT, title=str(given.get("title", "Example")), connectors={connector.name: binding})


def secrets_of(connector: types.Connector, example: types.Example) -> dict[str, str]:
    """The secrets of that client: the example's own, the sandbox's, and else made-up ones."""
    invented = {name: f"example-{name}" for name in connector.secrets}
    return {
        **invented,
        **(connector.sandbox.secrets if connector.sandbox else {}),
        **example.client.get("secrets", {}),
    }


class Trial:
    """The events of an example on their way through intake, buffer and walk, and how each of them ended."""

    def __init__(
        self,
        connector: types.Connector,
        example: types.Example,
        *,
        client: types.Client,
        secrets: Callable[[Program], dict[str, str]],
        transport: Transport,
        clock: Clock,
        masker: Masker,
        compiler: Compiler | None = None,
        nonce: Callable[[], str] | None = None,
        shared: Shared | None = None,
    ) -> None:
        """Without `nonce` there are n1, n2, …, as there are deliveries d1, d2, … and batches b1, b2, …."""
        self.connector, self.example, self.client, self.clock = connector, example, client, clock
        binding = client.connectors[connector.name]
        key = msgspec.json.encode(client)
        program = None if shared is None else shared.programs.get(key)
        if program is None:
            program = Program(connector, client, binding, jitter=lambda: 1.0, compiler=compiler)
            program.require_sound(connector.name)
            if shared is not None:
                shared.programs[key] = program
        program.forget()
        self.program = program
        deliveries, batches, nonces = itertools.count(1), itertools.count(1), itertools.count(1)
        self.store = Watched(new_id=lambda: f"d{next(deliveries)}")
        self.secrets = secrets(self.program)
        masker.add(*self.secrets.values())
        self.worker = Worker(
            World(
                store=self.store,
                transport=transport,
                clock=clock,
                telemetry=NullTelemetry(),
                alerts=LogAlerts(NullTelemetry()),
                program=lambda *_: self.program,
                credentials=lambda _: Credentials(self.secrets, "example"),
                masker=lambda _: masker,
                new_batch=lambda: f"b{next(batches)}",
                nonce=nonce or (lambda: f"n{next(nonces)}"),
            )
        )
        events = itertools.count(1)
        said = {} if example.refused is not None and binding.match is None else self.said()
        self.receiver = Receiver(
            connector,
            {binding.match: client.client} if binding.match else said,
            lambda _: self.program,
            schema=connector.receive.schema if shared is None or shared.validator is None else None,
            keys={client.client: ["example"]} if connector.receive.client is None else {},
            inactive={},
            new_id=lambda: f"e{next(events)}",
        )
        if shared is not None:
            shared.validator = self.receiver.validator = self.receiver.validator or shared.validator
        self.key: str | None = None
        if self.receiver.client_of is None:
            self.key = "example"
        self.deliveries: list[tuple[str, int]] = []  # (action, seq), in the order of the events
        self.answered: list[int] = []  # what a caller in direct mode was told, for each event

    def said(self) -> dict[str, str]:
        name = self.client.client
        if self.connector.receive.client is None:  # the key alone says whose the events are
            return {name: name}
        read = Compiler().value(self.connector.receive.client, frozenset({"event", "received_at"}), ())
        values = [read({"event": event}) for event in self.example.events]
        return {str(value): name for value in values if value is not None}

    def enter(self, at: float) -> None:
        """Take the events in as if they came at this time; Unlike where the example says otherwise of a refusal."""
        for event in self.example.events:
            received = self.receiver.receive(encode_json(event), "application/json", self.key, at)
            if not received.accepted:
                self.refused(received)
                return
            accepted: Accepted = received.accepted[0][1]
            hold_s = self.worker.hold_s(self.connector) if received.direct else 0.0
            stored = self.store.put([accepted], now=at, hold_s=hold_s).result()[0]
            self.deliveries += [(delivery.action, delivery.seq) for delivery in stored.deliveries]
            if received.direct:
                self.answered.append(self.worker.walk_now(self.program, stored).status)
        if self.example.refused is not None:
            raise Unlike("the events were accepted, the example says refused")

    def refused(self, received: Received) -> None:
        wanted = self.example.refused
        faults = "; ".join(f"{fault.field}: {fault.reason}" for fault in received.faults)
        if wanted is None:
            raise Unlike(f"refused with {received.status}: {faults}")
        if wanted.get("status", received.status) != received.status:
            raise Unlike(f"refused with {received.status}, the example says {wanted['status']}")
        if "field" in wanted and wanted["field"] not in [fault.field for fault in received.faults]:
            raise Unlike(f"refused for {faults}, the example names {wanted['field']}")

    def outcomes(self) -> dict[str, list[tuple[str, str]]]:
        """For each action, for each of its deliveries: delivered, rejected, skipped or waiting, and why."""
        found: dict[str, list[tuple[str, str]]] = {}
        for action, seq in self.deliveries:
            ended = self.store.ended.get(seq) or ("waiting", self.why_waiting(seq))
            found.setdefault(action, []).append(ended)
        return found

    def why_waiting(self, seq: int) -> str:
        lane = self.store.lane(self.connector.name, self.client.client)
        return self.store.waits.get(seq) or (lane.reason if lane is not None else "") or ""


class Run(Trial):
    """An example against its own written exchange."""

    def __init__(
        self,
        connector: types.Connector,
        example: types.Example,
        *,
        compiler: Compiler | None = None,
        shared: Shared | None = None,
    ) -> None:
        count = itertools.count(1)
        sandbox = None
        if connector.sandbox is not None:
            first = Sandbox(connector) if shared is None or shared.sandbox is None else shared.sandbox
            if shared is not None:
                shared.sandbox = first
            sandbox = first.afresh(lambda: f"{next(count)}")
        self.virtual = VirtualClock()
        self.script = Script(example.exchange, sandbox, self.virtual)
        super().__init__(
            connector,
            example,
            client=client_of(connector, example),
            secrets=lambda _: secrets_of(connector, example),
            transport=self.script,
            clock=self.virtual,
            masker=Masker(),
            compiler=compiler,
            shared=shared,
        )

    def check(self) -> None:
        """Unlike, with the first difference, unless everything went as the example says."""
        self.step(lambda: self.enter(self.clock.now()))
        self.drain()
        if self.example.refused is not None:
            return
        if self.script.left:
            number, left = self.script.left[0]
            sends = left.sends or {}
            request = f"{sends.get('method', '')} {sends.get('path', '')}".strip()
            raise Unlike(f"exchange {number} was never sent: {request}{self.because()}")
        self.compare_outcomes()
        if self.example.answered is not None:
            expected = self.example.answered if isinstance(self.example.answered, list) else [self.example.answered]
            wanted = [int(one["status"]) for one in expected]
            if wanted != self.answered:
                raise Unlike(f"answered {self.answered}, the example says {wanted}")
        self.compare_lane()

    def step(self, work: Callable[[], object]) -> None:
        work()
        if self.script.wrong is not None:
            raise Unlike(self.script.wrong)

    def drain(self) -> None:
        """Until nothing is left to do, or the exchange is over and nothing more is due now."""
        until = self.clock.now() + LONGEST_S
        while self.clock.now() < until:
            self.step(self.worker.drain)
            due = self.store.next_due(now=self.clock.now())
            if due is None or not self.script.left:
                break
            self.virtual.time = max(due, self.clock.now() + 0.001)
        if not self.script.left and self.script.waited is not None:
            self.clock.sleep(self.script.waited)
            self.step(self.worker.drain)

    def because(self) -> str:
        """Why no more was sent: what the lane waits for, or what became of the deliveries."""
        lane = self.store.lane(self.connector.name, self.client.client)
        if lane is None:
            return "; no action wanted the events"
        if lane.waiting and lane.reason:
            return f"; the lane is {lane.state}: {brief(lane.reason)}"
        ended = [
            f"{action} is {kind}{f': {brief(reason)}' if reason else ''}"
            for action, each in self.outcomes().items()
            for kind, reason in each
            if kind != "delivered"
        ]
        return f"; {ended[0]}" if ended else "; all deliveries had ended"

    def compare_outcomes(self) -> None:
        found = self.outcomes()
        for action, wanted in self.example.outcomes.items():
            ended = found.get(action, [])
            if len(ended) != len(wanted):
                raise Unlike(f"{action} has {len(ended)} deliveries, the example says {len(wanted)}")
            for number, ((kind, reason), expected) in enumerate(zip(ended, wanted, strict=True), 1):
                word, part = next(iter(expected.items())) if isinstance(expected, dict) else (expected, "")
                if kind != word or str(part) not in reason:
                    because = f" ({reason})" if reason else ""
                    raise Unlike(f"{action}, event {number}: {kind}{because}, the example says {word} {part}".rstrip())
        if missing := found.keys() - set(self.example.outcomes):
            raise Unlike(f"{', '.join(sorted(missing))} took the event too; list what became of it under outcomes")

    def compare_lane(self) -> None:
        wanted = self.example.lane
        if not wanted:
            return
        lane = self.store.lane(self.connector.name, self.client.client)
        state, why = (lane.state, lane.reason or "") if lane is not None else ("idle", "")
        if "state" in wanted and wanted["state"] != state:
            raise Unlike(f"the lane is {state}{f' ({why})' if why else ''}, the example says {wanted['state']}")
        if str(wanted.get("why", "")) not in why:
            raise Unlike(f"the lane's reason is {brief(why)}, the example says {brief(wanted['why'])}")
