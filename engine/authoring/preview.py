"""One event through the real walk, at once and apart from all others: what `preview` shows and `send` does."""

from __future__ import annotations

import random
import threading
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from engine.alerts.log import LogAlerts
from engine.authoring import curl
from engine.authoring.explaining import Explainer, Field, Origin, Read, Told, Watch
from engine.clock import VirtualClock
from engine.errors import Refused
from engine.expressions import Compiler
from engine.http import Prepared, Reply
from engine.intake import Receiver, parse
from engine.names import CLIENT
from engine.program import Program, patched, with_defaults
from engine.records import Accepted, Draft, Fault
from engine.reporting import Reporter
from engine.sandbox import Sandbox
from engine.sending import Masker
from engine.stores.memory import MemoryStore
from engine.telemetry.log import NullTelemetry
from engine.walk import Credentials, World
from engine.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.ports import Alerts, Clock, Telemetry
    from engine.records import Dead, Delivery, Ended, LaneChange, Outcome, Settled
    from engine.sending import Transport
    from engine.spec import types

LONGEST_S = 30 * 86_400.0  # of the virtual time that a preview lets pass


class Sent(NamedTuple):
    """One request and what it was for; `action` and `step` are "auth" and "log-in" or "renewed" for a log-in."""

    action: str
    step: str
    request: Prepared
    status: int
    told: Told | None = None  # how it was filled, where somebody listens


class Ending(NamedTuple):
    """What became of one delivery; kind as in `Settled`."""

    action: str
    kind: str
    outcome: Outcome
    wait_s: float  # "later": until it is tried again


class Recorder:
    """A transport that keeps each request, and the telemetry that says which action it was for."""

    def __init__(self, transport: Transport) -> None:
        self.transport, self.sent = transport, list[Sent]()
        self.watch: Watch | None = None
        self._latest = threading.local()

    def send(self, request: Prepared) -> Reply:
        self._latest.request = request
        return self.transport.send(request)

    def event(self, name: str, /, **facts: object) -> None:
        if name == "exchange":
            status = facts["status"]
            assert isinstance(status, int)
            request = self._latest.request
            told = self.watch.told(request) if self.watch is not None and request.purpose != "auth" else None
            self.sent.append(Sent(str(facts["action"]), str(facts["step"]), request, status, told))


def random_id() -> str:
    return uuid.uuid4().hex


class StandIn:
    """The connector's sandbox; where it has none, 200 with what log-ins usually answer."""

    def __init__(self, connector: types.Connector, clock: Clock, *, new_id: Callable[[], str] = random_id) -> None:
        self.sandbox = Sandbox(connector, new_id=new_id) if connector.sandbox is not None else None
        self.clock = clock

    def send(self, request: Prepared) -> Reply:
        if self.sandbox is not None:
            return self.sandbox.answer(request, self.clock.now())
        body = b'{"access_token": "preview-token", "token_type": "Bearer", "expires_in": 3600}'
        return Reply(200, {"content-type": "application/json"}, body if request.purpose == "auth" else b"{}")


def at_once(
    connector: types.Connector, client: types.Client, *, jitter: Callable[[], float] = random.random
) -> Program:
    """The client's program, in which no batch waits for others to join it."""
    binding = client.connectors[connector.name]
    actions = {
        name: msgspec.structs.replace(action, batch=msgspec.structs.replace(action.batch, wait="0s", window=None))
        if action.batch is not None
        else action
        for name, action in patched(connector, binding).items()
    }
    program = Program(
        msgspec.structs.replace(connector, actions=actions),
        client,
        msgspec.structs.replace(binding, actions={}),
        jitter=jitter,
    )
    program.require_sound(f"connectors/{connector.name}.yaml")
    return program


def accepted(program: Program, body: bytes, now: float) -> list[Accepted]:
    """The posted event or events, taken in for this client. Refused says which field is wrong, and why."""
    name = program.client.client
    match = program.binding.match or name
    receiver = Receiver(
        program.connector,
        {match: name},
        lambda _: program,
        schema=program.connector.receive.schema,
        keys={},
        inactive={},
    )
    found: list[Accepted] = []
    faults: list[Fault] = []
    status, title = 422, ""
    events, listed = parse(body, "application/json")
    for index, event in enumerate(events):
        try:
            found.append(receiver.accept(event, name, now))
        except Refused as refused:
            status = refused.status
            title = "the event is another client's" if status == 403 else refused.title
            place = index if listed else None
            for fault in refused.faults:
                reason = f"does not say {name}; {match} would" if status == 403 else fault.reason
                faults.append(Fault(fault.field, reason, place))
    if faults:
        raise Refused(status, title, faults)
    return found


class Single:
    """A lane of its own, with a store in memory, for a few events."""

    def __init__(
        self,
        program: Program,
        credentials: Credentials,
        transport: Transport,
        clock: Clock,
        *,
        masker: Masker,
        alerts: Alerts | None = None,
        new_id: Callable[[], str] | None = None,
        store: MemoryStore | None = None,
    ) -> None:
        self.program, self.clock, self.masker = program, clock, masker
        self.recorder = Recorder(transport)
        self.store = store or (MemoryStore(new_id=new_id) if new_id is not None else MemoryStore())
        telemetry: Telemetry = self.recorder
        self.worker = Worker(
            World(
                store=self.store,
                transport=self.recorder,
                clock=clock,
                telemetry=telemetry,
                alerts=alerts or LogAlerts(NullTelemetry()),
                program=lambda *_: program,
                credentials=lambda _: credentials,
                masker=lambda _: masker,
            ),
            workers=1,
        )
        self.heard = self.worker.reporter = _Watched(self.worker.world)
        self.deliveries: list[Delivery] = []

    def put(self, events: Sequence[Accepted]) -> None:
        for stored in self.store.put(events, now=self.clock.now()).result():
            self.deliveries += stored.deliveries

    def run(self, *, longest_s: float, again: bool = True) -> None:
        """
        Until all is settled, or nothing more will happen within `longest_s`.

        Without `again` only what a step polls for is waited for: a delivery that has failed stays as it is.
        """
        until = self.clock.now() + longest_s
        while True:
            self.worker.drain()
            due = self.store.next_due(now=self.clock.now())
            if due is None or due > until or self.paused or not (again or self._polls()):
                return
            self.clock.sleep(max(due - self.clock.now(), 0.001))

    @property
    def paused(self) -> str | None:
        """Why the lane is paused, or None where it is not."""
        lane = self.store.lane(self.program.connector.name, self.program.client.client)
        return (lane.reason or "paused") if lane is not None and lane.state == "paused" else None

    def endings(self) -> list[Ending]:
        """What became of each delivery, in the order in which they were put."""
        found = []
        for delivery in self.deliveries:
            one = self.heard.ended.get(delivery.seq)
            if one is None:
                continue
            row, outcome, at = one
            found.append(Ending(delivery.action, row.kind, outcome, max(row.due_at - at, 0.0)))
        return found

    def _polls(self) -> bool:
        return all(one.kind != "later" or one.outcome.ours for one in self.endings())


class _Watched(Reporter):
    """It remembers how each delivery ended last."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.ended: dict[int, tuple[Settled, Outcome, float]] = {}

    def settled(
        self, program: Program, ended: Sequence[Ended], rows: Sequence[Settled], change: LaneChange | None
    ) -> None:
        super().settled(program, ended, rows, change)
        for one, row in zip(ended, rows, strict=True):
            self.ended[row.seq] = (row, one.outcome, self.world.clock.now())


class Shown(NamedTuple):
    """What a preview found: requests, actions that send nothing, and how the deliveries would end in the sandbox."""

    requests: list[dict[str, Any]]
    steps: list[str]  # for each request, the step or look-up it was for
    skipped: list[dict[str, str]]
    endings: list[Ending]
    paused: str | None
    fields: list[list[Field]]  # for each request, where each of its fields came from; empty where nobody asked
    commands: list[str]  # the requests as commands of a shell; empty where nobody asked


def preview(
    connector: types.Connector,
    client: types.Client,
    body: bytes,
    *,
    now: float,
    auth: bool = False,
    explain: bool = False,
    as_curl: bool = False,
    via: str | None = None,
    letter: Dead | None = None,
) -> Shown:
    """
    The requests that the event would cause, with every secret as `***`, answered by the connector's sandbox.

    Of a dead letter only its own action, and as its delivery; of it intake is not asked again.
    Refused where intake would not take the event. Time is virtual: polls and retries take none. `via` is where the
    commands of `as_curl` send to instead of to the vendor.
    """
    program = at_once(connector, client)
    events = [of_letter(letter)] if letter is not None else accepted(program, body, now)
    made_up = stand_in_secrets(connector, program.binding)
    clock = VirtualClock(now)
    single = Single(
        program,
        Credentials(made_up, "preview"),
        StandIn(connector, clock),
        clock,
        masker=Masker(made_up.values()),
        new_id=(lambda: letter.delivery_id) if letter is not None else None,
    )
    watch = single.recorder.watch = Watch(program) if explain else None
    single.put(events)
    single.run(longest_s=LONGEST_S)
    sent = [one for one in single.recorder.sent if auth or as_curl or one.request.purpose != "auth"]
    return Shown(
        fields=[explained(one, Explainer(program, watch), single.masker) for one in sent] if watch is not None else [],
        commands=commands(sent, program, single, made_up, via=via) if as_curl else [],
        requests=[shown(one, single.masker) for one in sent],
        steps=[one.step for one in sent],
        skipped=[{"action": name, "reason": reason} for name, reason in skipped(program, events, single)],
        endings=single.endings(),
        paused=single.paused,
    )


def of_letter(letter: Dead) -> Accepted:
    draft = Draft(letter.action, letter.key)
    return Accepted(letter.connector, letter.client, letter.event_id, letter.body, letter.received_at, (draft,))


def explained(sent: Sent, explainer: Explainer, masker: Masker) -> list[Field]:
    """The fields of one request with their origins, secrets as `***`; of a log-in nothing but that it is one."""
    if sent.told is None:
        return []
    return [
        field._replace(value=masker.deep(field.value), origin=masked(field.origin, masker))
        for field in explainer.fields(sent.told, sent.request)
    ]


def masked(origin: Origin | None, masker: Masker) -> Origin | None:
    if origin is None:
        return None
    reads = tuple(
        Read(
            read.name, "***" if read.name.startswith("token.") else masker.deep(read.value), masked(read.origin, masker)
        )
        for read in origin.reads
    )
    return origin._replace(reads=reads)


def commands(
    sent: Sequence[Sent], program: Program, single: Single, secrets: dict[str, str], *, via: str | None
) -> list[str]:
    """Every request as a curl command, log-ins too; secrets and tokens are variables of the shell."""
    references = program.binding.secrets
    variables = {value: curl.variable(references.get(name, ""), name) for name, value in secrets.items()}
    saves: dict[str, object] = {}
    for auth in program.auths.values():
        row = single.store.token(program.connector.name, program.client.client, auth.name)
        for name, value in (row.values if row is not None else {}).items():
            if isinstance(value, str) and single.masker.mask(value) != value and value not in variables:
                variables[value] = "TOKEN" if name == "value" else f"TOKEN_{curl.variable('', name)}"
                saves[variables[value]] = auth.spec.token.save.get(name) if auth.spec.token is not None else None
    last = max((at for at, one in enumerate(sent) if one.request.purpose == "auth"), default=None)
    written = [curl.command(one.request, variables, mask=single.masker.mask, via=via) for one in sent]
    return [curl.kept(text, saves) if at == last else text for at, text in enumerate(written)]


def stand_in_secrets(connector: types.Connector, binding: types.Binding) -> dict[str, str]:
    """Those the sandbox takes, for all that the client names or has to name; nothing is resolved."""
    known = connector.sandbox.secrets if connector.sandbox is not None else {}
    scope = {"settings": with_defaults(connector.settings, binding.settings), "client": {}, "tables": connector.tables}
    wanted = {
        name: f"preview-{name}"
        for name, field in connector.secrets.items()
        if name in binding.secrets
        or not (field.optional or field.when is not None)
        or (field.when is not None and Compiler().condition(field.when, CLIENT, ("secrets", name, "when"))(scope))
    }
    return {name: known.get(name, invented) for name, invented in wanted.items()}


def shown(sent: Sent, masker: Masker) -> dict[str, Any]:
    """A request as `preview --json` has it; the body decoded where it is JSON, else text."""
    request = sent.request
    return {
        "action": sent.action,
        "method": request.method,
        "url": masker.mask(request.url),
        "headers": {name: masker.mask(value) for name, value in request.headers.items()},
        "body": masker.deep(decoded(request)),
    }


def decoded(request: Prepared) -> Any:
    if request.content is None:
        return None
    kind = next((value for name, value in request.headers.items() if name.lower() == "content-type"), "")
    reply = Reply(0, {}, request.content)
    one = "json" in kind and "ndjson" not in kind
    return reply.body if one and reply.body is not None else reply.text


def skipped(program: Program, events: Sequence[Accepted], single: Single) -> list[tuple[str, str]]:
    """Each action of which no request of its own was sent, and why."""
    steps = {name: set(spec.steps) for name, spec in program.action_specs.items()}
    sent = {one.action for one in single.recorder.sent if one.step in steps.get(one.action, ())}
    endings = {one.action: one for one in single.endings()}
    wanted = {draft.action for event in events for draft in event.drafts}
    found = []
    for name, spec in program.action_specs.items():
        if name in sent:
            continue
        if not spec.active:
            found.append((name, "not active"))
        elif name not in wanted:
            found.append((name, f"the event does not meet `when`: {' '.join(str(spec.when).split())}"))
        elif name in endings:
            one = endings[name]
            reason = one.outcome.reason or one.kind
            found.append((name, reason if one.kind == "skipped" else f"{one.kind}: {reason}"))
        else:
            found.append((name, single.paused or "nothing was sent"))
    return found
