"""Dead letters as lines of a file, and their events as a person changes them: out, checked, and in again."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from engine.authoring.preview import accepted, at_once
from engine.errors import ConnectError, Refused, SpecErrors, UsageError
from engine.intake import parse
from engine.privacy.personal import EVERYTHING, MASK, Personal, addresses
from engine.program import decode_event
from engine.records import Dead, Trace, Try

if TYPE_CHECKING:
    from engine.program import Program
    from engine.spec.types import Client, Connector

FORMAT = "dead/1"
_LONG_NUMBER = re.compile(r"\d{4,}")
_MASKED = re.compile(rf"[\w.+-]{re.escape(MASK)}(@|%40)[\w-]+\.[\w.-]+")  # as addresses() writes one
_PART = re.compile(r"([^.\[\]]+)|\[(\d+)\]|\.")
_encode = msgspec.json.Encoder(decimal_format="number").encode
_decode = msgspec.json.Decoder(float_hook=Decimal).decode


class Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A dead letter as `connect dead export` writes it."""

    connect: str
    connector: str
    client: str
    action: str
    delivery_id: str
    event_id: str
    key: str | None = None
    event: msgspec.Raw
    reason: str
    code: str = ""
    attempts: int = 0
    received_at: float
    at: float
    expected: bool = False
    trace: Trace | None = None
    tries: tuple[Try, ...] = ()


_read_line = msgspec.json.Decoder(Line).decode


def line_of(dead: Dead) -> bytes:
    """Whole, with all that is personal in it; the event as it is stored, its numbers exact."""
    names = [name for name in Line.__struct_fields__ if name not in ("connect", "event")]
    return _encode(Line(connect=FORMAT, event=msgspec.Raw(dead.body), **{name: getattr(dead, name) for name in names}))


class Mended(NamedTuple):
    """An event that intake would take, as it is stored; and its key for the action."""

    body: bytes
    key: str | None
    wanted: bool  # would an event like this go to that action, if it came in now?


class Specs(Protocol):
    """Where connectors and clients come from; UsageError for a name that is none, SpecErrors for one with faults."""

    def connector(self, name: str) -> Connector: ...
    def client(self, name: str) -> Client: ...


class Desk:
    """What is checked against the connectors and clients of a project; each is compiled once."""

    def __init__(self, project: Specs) -> None:
        self.project = project
        self.programs: dict[tuple[str, str], Program] = {}
        self.kept: dict[str, Personal] = {}

    def personal(self, connector: str) -> Personal:
        """What is personal in events of this connector: all of it, where the connector can't be read."""
        if connector not in self.kept:
            try:
                self.kept[connector] = Personal(self.project.connector(connector).receive.schema)
            except (UsageError, SpecErrors):
                self.kept[connector] = EVERYTHING
        return self.kept[connector]

    def program(self, connector: str, client: str) -> Program:
        if (connector, client) not in self.programs:
            spec, who = self.project.connector(connector), self.project.client(client)
            if connector not in who.connectors:
                raise UsageError(f"{client} has no connector {connector}; it has {', '.join(who.connectors)}")
            self.programs[connector, client] = at_once(spec, who)
        return self.programs[connector, client]

    def mended(self, dead: Dead, event: Any, now: float) -> Mended:
        """Raises Refused where intake would not take the event for this client, UsageError where nobody could."""
        program = self.program(dead.connector, dead.client)
        if dead.action not in program.actions:
            raise UsageError(f"{dead.connector} has no action {dead.action} any more")
        found = accepted(program, _encode(event), now)
        if len(found) != 1:
            raise UsageError("one event, not a list")
        drafts = {draft.action: draft for draft in found[0].drafts}
        draft = drafts.get(dead.action)
        return Mended(found[0].body, draft.key if draft is not None else dead.key, draft is not None)

    def dead_from(self, line: bytes, now: float) -> Dead:
        """One line of a file. ConnectError says what is wrong with it, with nothing personal in it."""
        try:
            read = _read_line(line)
        except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
            raise UsageError(f"no line of `connect dead export`: {error}") from None
        if read.connect != FORMAT:
            raise UsageError(f"it is of the format {read.connect[:20]!r}; this engine reads {FORMAT!r}")
        if not read.delivery_id or not read.event_id:
            raise UsageError("delivery_id and event_id can't be empty")
        fields = {name: getattr(read, name) for name in Dead.__struct_fields__ if name not in ("id", "body")}
        dead = Dead(id=0, body=bytes(read.event), **fields)
        try:
            mended = self.mended(dead, _decode(dead.body), now)
        except Refused as refused:
            said = self.personal(dead.connector).text(str(refused), dead.body)
            raise ConnectError(said) from None
        return msgspec.structs.replace(dead, body=mended.body)


# An event as it is changed by paths


def value_of(text: str) -> Any:
    """JSON where it is JSON, with exact numbers; else the text itself."""
    try:
        return _decode(text.encode())
    except msgspec.DecodeError:
        return text


def path_of(text: str) -> list[str | int]:
    """`items[0].id` -> items, 0, id."""
    parts: list[str | int] = []
    at = 0
    while at < len(text):
        found = _PART.match(text, at)
        if found is None:
            break
        if found[1] is not None or found[2] is not None:
            parts.append(int(found[2]) if found[2] is not None else found[1])
        at = found.end()
    if not parts or at < len(text) or not isinstance(parts[0], str):
        raise UsageError(f"{text!r} is no path in an event; write it as product.price or items[0].id")
    return parts


def changed(event: Any, path: list[str | int], value: Any, *, remove: bool = False) -> Any:
    """The event with another value at a path; objects on the way are made. UsageError where there is no such place."""
    head, rest = path[0], path[1:]
    if isinstance(head, int):
        if not isinstance(event, list) or head >= len(event):
            raise UsageError(f"there is no item {head}")
        new = changed(event[head], rest, value, remove=remove) if rest else value
        return event[:head] + ([] if remove and not rest else [new]) + event[head + 1 :]
    if event is None:
        event = {}
    if not isinstance(event, dict):
        raise UsageError(f"{head} has no place: there is no object around it")
    if remove and not rest:
        return {name: item for name, item in event.items() if name != head}
    return {**event, head: changed(event.get(head), rest, value, remove=remove) if rest else value}


def differing(old: Any, new: Any, at: str = "") -> list[str]:
    """The paths at which two events differ; no values."""
    if type(old) is type(new):
        if isinstance(old, dict):
            names = [*old, *(name for name in new if name not in old)]
            below = f"{at}." if at else ""
            return [path for name in names for path in differing(old.get(name), new.get(name), f"{below}{name}")]
        if isinstance(old, list) and len(old) == len(new):
            pairs = enumerate(zip(old, new, strict=True))
            return [path for place, (one, other) in pairs for path in differing(one, other, f"{at}[{place}]")]
    return [] if old == new else [at or "event"]


def one_event(body: bytes) -> Any:
    events, listed = parse(body, "application/json")
    if listed:
        raise UsageError("one event, not a list")
    return events[0]


# As they are shown


def alike(counts: dict[str, int]) -> list[tuple[str, int]]:
    """Those that differ by an address or a long number are one; the most first."""
    found: dict[str, tuple[str, int]] = {}
    for text, count in counts.items():
        masked = _LONG_NUMBER.sub("…", addresses(text))
        general = _MASKED.sub("…", masked)
        shown, times = found.get(general, (masked, 0))
        found[general] = (shown if shown == masked else general, times + count)
    return sorted(found.values(), key=lambda pair: (-pair[1], pair[0]))


def entry(dead: Dead, reason: str) -> dict[str, Any]:
    """A dead letter as `list --json` has it."""
    return {
        "id": dead.id,
        "connector": dead.connector,
        "client": dead.client,
        "action": dead.action,
        "reason": reason,
        "attempts": dead.attempts,
        "at": dead.at,
    }


def parts(dead: Dead, personal: Personal | None) -> dict[str, Any]:
    """All of it as `show --json` has it; with `personal` what is so is masked."""
    trace, event = dead.trace, decode_event(dead.body)
    said: dict[str, Any] = {
        "request": {"method": trace.method, "url": trace.url, "body": trace.request} if trace else None,
        "reply": {"status": trace.status, "body": trace.reply} if trace else None,
        "history": [{"at": one.at, "until": one.until, "reason": one.reason, "times": one.times} for one in dead.tries],
    }
    reason = dead.reason
    if personal is not None:
        event, reason = personal.event(event), personal.text(reason, dead.body)
        said = personal.anywhere(said, dead.body)
    more = {"code": dead.code, "event_id": dead.event_id, "received_at": dead.received_at, "event": event}
    return {**entry(dead, reason), **more, **said, "next": next_step(dead)}


def next_step(dead: Dead) -> str:
    if dead.expected:
        return "nothing: the connector expects such rejections"
    if dead.code == "invalid":
        return "mend the connector's or the client's file, or what sends such events"
    return "mend what the reason names, in the CRM or in the client's file"
