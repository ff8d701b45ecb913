"""An event that somebody tries: what it would cause, and, if asked, the event itself by way of the intake."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.authoring.preview import preview as previewed
from engine.dashboard.rendering import pretty
from engine.errors import Refused, SpecErrors, StoreUnavailable, UsageError
from engine.intake import parse
from engine.records import Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.records import Accepted, Stored
    from engine.runtime import Engine
    from engine.spec.types import Client, Connector

MAX_BYTES = 1_000_000  # as at the door
MAX_EVENTS = 20
MAX_REQUESTS = 50  # that are shown
PUT_S = 30.0
MAX_REMEMBERED = 50


class Sample(NamedTuple):
    """One event of the connector's examples."""

    key: str
    title: str


class Tried(NamedTuple):
    """What an event would cause, all of it masked; or why it would not be taken."""

    requests: Sequence[tuple[str, dict[str, Any]]] = ()  # what each is for, and the request
    more: int = 0  # requests that are not shown
    skipped: Sequence[tuple[str, str]] = ()  # action, reason
    endings: Sequence[tuple[str, str, str]] = ()  # action, kind, reason
    paused: str | None = None
    says: str = ""
    faults: Sequence[Fault] = ()


class Sent(NamedTuple):
    """Events that were put into the store."""

    number: str
    connector: str
    client: str
    at: float
    stored: Sequence[Stored]


class Trials:
    """Over one engine; those that were sent are remembered for a while."""

    def __init__(self, engine: Engine, new_id: Callable[[], str]) -> None:
        self._engine, self._new_id = engine, new_id
        self._sent: OrderedDict[str, Sent] = OrderedDict()
        self._lock = threading.Lock()

    def samples(self, connector: Connector) -> list[Sample]:
        return [
            Sample(f"{at}.{which}", example.name if len(example.events) == 1 else f"{example.name} ({which + 1})")
            for at, example in enumerate(connector.examples)
            for which in range(len(example.events))
        ]

    def text_of(self, connector: Connector, client: Client, key: str) -> str:
        """An event of the examples as this client would send it; empty where there is none of this key."""
        if key not in [each.key for each in self.samples(connector)]:
            return ""
        at, _, which = key.partition(".")
        event: Any = connector.examples[int(at)].events[int(which)]
        receiver, binding = self._engine.receivers.get(connector.name), client.connectors.get(connector.name)
        if receiver is not None and receiver.client_of is not None and binding is not None:
            event = saying(event, receiver.named[1:], binding.match or client.client)
        return pretty(event)

    def preview(self, connector: Connector, client: Client, text: str) -> Tried:
        """Nothing is sent, and no secret is asked for."""
        mask, deep = self._engine.masker.mask, self._engine.masker.deep
        try:
            body = bytes_of(text)
            bounded(parse(body, "application/json")[0])
            shown = previewed(connector, client, body, now=self._engine.clock.now())
        except Refused as refused:
            return Tried(says=mask(refused.title), faults=[_masked(fault, mask) for fault in refused.faults])
        except (UsageError, SpecErrors) as error:
            return Tried(says=mask(str(error)))
        named = [
            one["action"] if step == "request" else f"{one['action']}, {step}"
            for one, step in zip(shown.requests, shown.steps, strict=True)
        ]
        unsent = {one["action"] for one in shown.skipped}
        return Tried(
            requests=[(name, deep(one)) for name, one in zip(named, shown.requests, strict=True)][:MAX_REQUESTS],
            more=max(len(shown.requests) - MAX_REQUESTS, 0),
            skipped=[(one["action"], mask(one["reason"])) for one in shown.skipped],
            endings=[
                (one.action, one.kind, mask(one.outcome.reason)) for one in shown.endings if one.action not in unsent
            ],
            paused=None if shown.paused is None else mask(shown.paused),
        )

    def send(self, connector: str, client: str, text: str, audit: Callable[[Sequence[str]], None]) -> Sent:
        """
        Through intake and into the store, as if the client had posted it; all of it or nothing.

        Refused as the door refuses; StoreUnavailable. `audit` hears the events' ids before they are stored.
        """
        engine, now = self._engine, self._engine.clock.now()
        if (full := engine.full()) is not None:
            raise StoreUnavailable(f"{full}; nothing was accepted")
        events = self._accepted(connector, client, bytes_of(text), now)
        audit([event.event_id for event in events])
        try:
            stored = engine.put(events, now, 0.0).result(PUT_S)
        except TimeoutError:
            raise StoreUnavailable(f"the store did not answer within {PUT_S:g} s; the events may be in it") from None
        if engine.traces is not None:
            engine.traces.taken_in(connector, events, stored, parent="", began=now, put_at=now, now=engine.clock.now())
        if fresh := sum(not one.duplicate for one in stored):
            engine.telemetry.event("accepted", connector=connector, client=client, count=fresh)
        sent = Sent(self._new_id(), connector, client, now, stored)
        with self._lock:
            self._sent[sent.number] = sent
            while len(self._sent) > MAX_REMEMBERED:
                self._sent.popitem(last=False)
        return sent

    def sent(self, number: str) -> Sent | None:
        with self._lock:
            return self._sent.get(number)

    def _accepted(self, connector: str, client: str, body: bytes, now: float) -> list[Accepted]:
        receiver = self._engine.receivers.get(connector)
        if receiver is None or client not in receiver.active:
            raise Refused(403, "the client is not active", [Fault("client", f"{client} is switched off, or not here")])
        events, listed = parse(body, "application/json")
        bounded(events)
        found: list[Accepted] = []
        faults: list[Fault] = []
        waits: dict[str, float] = {}
        status, title = 422, ""
        for index, event in enumerate(events):
            try:
                found.append(receiver.accept(event, client, now, waits=waits))
            except Refused as refused:
                status, title = refused.status, title or refused.title
                faults += [Fault(each.field, each.reason, index if listed else None) for each in refused.faults]
        if faults or not found:
            raise Refused(status, title, faults)
        return found


def bytes_of(text: str) -> bytes:
    body = text.encode(errors="replace")
    if len(body) > MAX_BYTES:
        raise Refused(413, "the event is too large", [Fault("body", f"a body has at most {MAX_BYTES} bytes")])
    return body


def bounded(events: Sequence[Any]) -> None:
    if len(events) > MAX_EVENTS:
        raise Refused(413, "too many events", [Fault("body", f"{len(events)} events; here {MAX_EVENTS} is the most")])


def saying(event: Any, path: Sequence[str | int], value: str) -> Any:
    """The event with another text where it says whose it is; only where it says so."""
    if not path:
        return value if isinstance(event, str) else event
    if not isinstance(event, dict) or path[0] not in event:
        return event
    return {**event, path[0]: saying(event[path[0]], path[1:], value)}


def actions_of(stored: Sequence[Stored]) -> list[tuple[str, int]]:
    """How many deliveries for each action."""
    return list(Counter(each.action for one in stored for each in one.deliveries).items())


def _masked(fault: Fault, mask: Callable[[str], str]) -> Fault:
    return Fault(mask(fault.field), mask(fault.reason), fault.index, fault.kind)
