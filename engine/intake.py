"""Body -> validated -> bound to its client -> accepted events, or faults naming field and reason; pure."""

from __future__ import annotations

import json
import re
from decimal import Decimal, InvalidOperation
from functools import cached_property
from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from engine.door.senders import Senders, needs_proof
from engine.errors import BadValue, Refused
from engine.expressions import Compiler
from engine.ids import random_id
from engine.mapping import encode_json
from engine.notations.semantics import plain
from engine.records import Accepted, Fault, Received
from engine.spec import units

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from engine.door.meters import Meter
    from engine.program import Program
    from engine.spec import types

MAX_EVENTS = 1_000
MAX_DEPTH = 64
MAX_VALUES = 50_000  # of one body; commas in texts count, too
MAX_DIGITS = 40
MAX_FAULTS = 20
MAX_TOLD = 200  # faults of one request; of further events only the first of each
MAX_ID = 200  # characters
MAX_MESSAGE = 160
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
CONTENT_TYPES = ("application/json", "text/plain")


class _Duplicate(ValueError):
    pass


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a null is absent, a key that comes twice is refused."""
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()  # not by counting each: a hostile object has a hundred thousand keys
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _Duplicate(f"the key {twice[:60]!r} comes twice")
    return {key: value for key, value in found.items() if value is not None}


def _decimal(text: str) -> Decimal:
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise _Duplicate("a number that can't be read") from None
    if len(text) > MAX_DIGITS + 8 or len(number.as_tuple().digits) > MAX_DIGITS or abs(number.adjusted()) > MAX_DIGITS:
        raise _Duplicate(f"a number with more than {MAX_DIGITS} digits or an exponent above {MAX_DIGITS}")
    return number


def _integer(text: str) -> int:
    if len(text.lstrip("-")) > MAX_DIGITS:
        raise _Duplicate(f"a number with more than {MAX_DIGITS} digits")
    return int(text)


def _constant(text: str) -> Any:
    raise _Duplicate(f"{text} is not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_decimal, parse_int=_integer, parse_constant=_constant
)


def _short_decimal(text: str) -> Decimal:
    """ValueError for what the exact decoder has to look at: a long number, or one with an exponent."""
    if len(text) > MAX_DIGITS or "E" in text or "e" in text:
        raise ValueError(text[:MAX_DIGITS])
    return Decimal(text)


_quick_decode = msgspec.json.Decoder(float_hook=_short_decimal).decode
_LONG = 10**MAX_DIGITS


def quick(body: bytes) -> tuple[Any, bytes] | None:
    """
    (value, its JSON) as the exact decoder gives it, no deeper than MAX_DEPTH, in a quarter of the time; None where
    that is not certain.

    It is certain where the value, written again, is the body without its spaces: then no key came twice, nothing was
    read in another way than it is written, and the decoder was no laxer than the exact one. What is written otherwise
    (escapes, exponents, a byte order mark) is not wrong for that.
    """
    try:
        value = _quick_decode(body)
        written = encode_json(value)
        if written != body and written != msgspec.json.format(body, indent=-1):
            return None
        if not _plain(value, MAX_DEPTH):
            value = _without_nulls(value)
            if not _plain(value, MAX_DEPTH):
                return None
            written = encode_json(value)
    except (ValueError, RecursionError):
        return None
    return value, written


def _plain(value: Any, limit: int) -> bool:
    """Nested no deeper than `limit`, with no null that a key has and no integer of more than MAX_DIGITS digits?"""
    named = value.__class__ is dict
    if not named and value.__class__ is not list:
        return value.__class__ is not int or -_LONG < value < _LONG
    if limit <= 0:
        return False
    for child in value.values() if named else value:
        kind = child.__class__
        if kind is str:
            continue
        if child is None:
            if named:
                return False
        elif kind is int:
            if not -_LONG < child < _LONG:
                return False
        elif (kind is dict or kind is list) and not _plain(child, limit - 1):
            return False
    return True


def _without_nulls(value: Any) -> Any:
    """A null that a key has is absent; one in a list stays."""
    if isinstance(value, dict):
        return {key: _without_nulls(child) for key, child in value.items() if child is not None}
    if isinstance(value, list):
        return [_without_nulls(child) for child in value]
    return value


def depth(value: Any, limit: int) -> bool:
    """Is it nested no deeper than `limit`?"""
    if isinstance(value, dict):
        return limit > 0 and all(depth(child, limit - 1) for child in value.values())
    if isinstance(value, list):
        return limit > 0 and all(depth(child, limit - 1) for child in value)
    return True


def parse(body: bytes, content_type: str) -> tuple[list[Any], bool]:
    """(events as posted, was it a list?), or Refused 400 | 413 | 415."""
    events, listed, _ = parsed(body, content_type)
    return events, listed


def parsed(body: bytes, content_type: str) -> tuple[list[Any], bool, bytes | None]:
    """As `parse`, and the JSON of a single event where it was had in passing."""
    if content_type not in CONTENT_TYPES:
        kind = content_type.split(";")[0].strip().lower()
        if kind not in CONTENT_TYPES and not kind.endswith("+json"):
            raise Refused(
                415, "send application/json, or text/plain for beacons", [Fault("content-type", kind[:60] or "missing")]
            )
    if len(body) > MAX_VALUES and body.count(b",") > MAX_VALUES:
        raise Refused(413, "too many values in one request", [Fault("body", f"{MAX_VALUES} is the most")])
    found = quick(body)
    if found is not None:
        value, written = found
    else:
        value, written = exact(body), None
        if body.count(b"{") + body.count(b"[") > MAX_DEPTH and not depth(value, MAX_DEPTH):
            raise Refused(400, "the body is nested too deeply", [Fault("body", f"deeper than {MAX_DEPTH}")])
    if not isinstance(value, list):
        return [value], False, written
    if len(value) > MAX_EVENTS:
        raise Refused(
            413, "too many events in one request", [Fault("body", f"{len(value)} events; {MAX_EVENTS} is the most")]
        )
    if not value:
        raise Refused(400, "no event in the list", [Fault("body", "an empty list")])
    return value, True, None


def exact(body: bytes) -> Any:
    """What the body says, or Refused 400 with what is wrong and where."""
    try:
        text = body.decode("utf-8-sig")
        value = _DECODER.decode(text)
        if _SURROGATE.search(text):
            encode_json(value)
    except UnicodeEncodeError:
        raise Refused(400, "the body is not JSON that can be taken", [Fault("body", "half a surrogate pair")]) from None
    except UnicodeDecodeError:
        raise Refused(400, "the body is not UTF-8", [Fault("body", "not UTF-8")]) from None
    except RecursionError:
        raise Refused(400, "the body is nested too deeply", [Fault("body", f"deeper than {MAX_DEPTH}")]) from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise Refused(
            400, "the body is not JSON", [Fault("body", f"{error.msg} at {where}" if body else "empty")]
        ) from None
    except _Duplicate as error:
        raise Refused(400, "the body is not JSON that can be taken", [Fault("body", str(error))]) from None
    return value


class Receiver:
    """Intake of one connector: whose event is this, is it as it should be, which actions want it?"""

    def __init__(
        self,
        connector: types.Connector,
        clients: Mapping[str, str],
        program: Callable[[str], Program],
        *,
        schema: dict[str, Any] | None,
        keys: Mapping[str, list[str]],
        inactive: Mapping[str, str],
        signatures: Mapping[str, list[str]] | None = None,
        origins: Mapping[str, Collection[str]] | None = None,
        meters: Mapping[str, Meter] | None = None,
        max_event_bytes: int | None = None,
        new_id: Callable[[], str] = random_id,
    ) -> None:
        """
        `clients`: the value that `receive.client` yields -> the active client it stands for; `program`: client -> what
        runs for it. `schema`: `receive.schema`, references resolved. `keys`, `signatures`, `origins`: client -> its
        write keys, its secrets to sign with, its pages. `inactive`: the values of clients that are switched off ->
        their name. `meters`: client -> what counts its events, where they have a limit. `max_event_bytes`: what one row
        of the store has room for (`Accepted.size`), where it has a bound.
        """
        compiler = Compiler()
        names = frozenset({"event", "received_at"})
        receive = connector.receive
        self.connector, self.new_id, self.inactive = connector, new_id, inactive
        self.max_event_bytes = max_event_bytes
        self.client_of = (
            compiler.value(receive.client, names, ("receive", "client")) if receive.client is not None else None
        )
        self.id_of = compiler.value(receive.id, names, ("receive", "id")) if receive.id is not None else None
        self.dedupe_s = units.duration(receive.dedupe)
        modes = {action.mode or receive.mode for action in connector.actions.values()}
        self.direct = "direct" in modes  # some action's outcome is what the caller is told
        self.clients, self.program = clients, program
        self.active = set(clients.values())
        self.origins = origins or {}
        self.know(keys, signatures or {})
        self.meters = meters or {}
        self.problems = compiler.problems
        self.named = next((use.path for use in compiler.uses), ("event",))
        self.reads_time = any(use.path[0] == "received_at" for use in compiler.uses)
        self.schema = schema

    @cached_property
    def validator(self) -> Any:
        """Compiled for the first event; None where there is no schema."""
        if self.schema is None:
            return None
        import jsonschema_rs

        return jsonschema_rs.validator_for(self.schema, validate_formats=True)

    def know(self, keys: Mapping[str, list[str]], signatures: Mapping[str, list[str]]) -> None:
        """From now on events come with these write keys, or signed with these secrets."""
        self.senders = Senders(keys, signatures, self.origins, self.active)

    def receive(
        self,
        body: bytes,
        content_type: str,
        key: str | None,
        now: float,
        *,
        signature: str | None = None,
        origin: str = "",
    ) -> Received:
        """One posted body. Never raises: what is wrong is in the result."""
        waits: dict[str, float] = {}  # of the clients in this body
        try:
            holder = self.senders.holder(key, signature, body, now)
            if holder is not None:
                self.pace(holder, waits)
            events, listed, written = parsed(body, content_type)
        except Refused as refused:
            wait_s = max(waits.values(), default=0.0)
            return Received(0, [], list(refused.faults), refused.status, refused.title, self.direct, wait_s=wait_s)
        if not listed:
            return self._received_one(events[0], holder, now, origin, waits, written)
        accepted: list[tuple[int, Accepted]] = []
        faults: list[Fault] = []
        status, title = 422, "the event can't be accepted"
        for index, event in enumerate(events):
            try:
                accepted.append((index, self.accept(event, holder, now, origin, waits)))
            except Refused as refused:
                if not faults or refused.status in (401, 403, 429):
                    status, title = refused.status, refused.title
                told = refused.faults if len(faults) < MAX_TOLD else refused.faults[:1]
                faults += [Fault(fault.field, fault.reason, index, fault.kind) for fault in told]
        return Received(
            len(events),
            accepted,
            faults,
            202 if accepted else status,
            "" if accepted else title,
            self.direct,
            True,
            max(waits.values(), default=0.0),
        )

    def _received_one(
        self,
        event: Any,
        holder: str | None,
        now: float,
        origin: str,
        waits: dict[str, float],
        written: bytes | None,
    ) -> Received:
        try:
            accepted = self.accept(event, holder, now, origin, waits, written)
        except Refused as refused:
            faults = list(refused.faults[:MAX_TOLD])
            wait_s = max(waits.values(), default=0.0)
            return Received(1, [], faults, refused.status, refused.title, self.direct, wait_s=wait_s)
        wait_s = max(waits.values()) if waits else 0.0
        return Received(1, [(0, accepted)], [], 202, "", self.direct, wait_s=wait_s)

    def pace(self, client: str, waits: dict[str, float]) -> None:
        """Refused with 429 where the client's rate is used up; asked once for a body, which is taken whole."""
        meter = self.meters.get(client)
        if meter is None:
            return
        wait_s = waits.get(client)
        if wait_s is None:
            wait_s = waits[client] = meter.wait_s()
        if wait_s:
            uses, per_s = meter.rate
            raise Refused(
                429,
                "too many events",
                [Fault("client", f"above its {uses} events in {per_s:g} s; wait {wait_s:.1f} s")],
            )

    def accept(
        self,
        event: Any,
        holder: str | None,
        now: float,
        origin: str = "",
        waits: dict[str, float] | None = None,
        written: bytes | None = None,
    ) -> Accepted:
        """One event, or Refused with its faults; `written`: its JSON, where that is at hand."""
        if not isinstance(event, dict):
            raise Refused(400, "an event is a JSON object", [Fault("body", "not an object")])
        scope: dict[str, Any] = {"event": event}
        if self.reads_time:
            scope["received_at"] = Decimal(repr(now))
        client = self.bind(scope, holder)
        if origin:
            self.senders.require_origin(client, origin)
        if self.meters and (meter := self.meters.get(client)) is not None:
            self.pace(client, {} if waits is None else waits)
            meter.count(1)
        program = self.program(client)
        self.validate(event)
        try:
            given = self.id_of(scope) if self.id_of is not None else None
            named = plain(given) if given is not None else ""
            event_id = shortened(named) or self.new_id()
            drafts = program.drafts(event, now)
        except BadValue as error:
            raise Refused(422, "the event can't be read", [Fault(error.at or "event", error.reason)]) from None
        accepted = Accepted(
            connector=self.connector.name,
            client=program.client.client,
            event_id=event_id,
            body=encode_json(event) if written is None else written,
            received_at=now,
            drafts=drafts,
            dedupe_s=self.dedupe_s if named else 0,
        )
        if self.max_event_bytes is not None and accepted.size > self.max_event_bytes:
            said = f"{accepted.size} bytes; the store takes {self.max_event_bytes} in one event"
            raise Refused(413, "the event is too large", [Fault("body", said)])
        return accepted

    def bind(self, scope: dict[str, Any], holder: str | None) -> str:
        """The key decides the client; what the event says must agree. Without a key the event decides alone."""
        field = ".".join(self.named[1:]) or "event"
        said: str | None = None
        if self.client_of is not None:
            try:
                value = self.client_of(scope)
                said = plain(value) if value is not None else None
            except BadValue as error:
                raise Refused(400, "the client can't be read from the event", [Fault(field, error.reason)]) from None
        if holder is not None:
            if said is not None and self.clients.get(said) != holder:
                kind = "" if said in self.clients or said in self.inactive else "unknown-client"  # told alike
                other = Fault(field, "does not belong to the key", kind=kind)
                raise Refused(403, "the event names another client than the key", [other])
            return holder
        if said is None:
            raise Refused(400, "no client", [Fault(field, "missing: it says which client the event is for")])
        client = self.clients.get(said)
        if client is None:
            if said in self.inactive:
                off = Fault(field, f"{self.inactive[said]} is switched off", kind="inactive-client")
                raise Refused(403, "the client is not active", [off])
            nobody = Fault(field, "no client is configured for this value", kind="unknown-client")
            raise Refused(400, "unknown client", [nobody])
        if client in self.senders.known:
            raise needs_proof()
        return client

    def validate(self, event: dict[str, Any]) -> None:
        validator = self.validator
        if validator is None or validator.is_valid(event):
            return
        faults = []
        for error in islice(validator.iter_errors(event), MAX_FAULTS):
            message, path = error.message, error.instance_path
            where = path[0] if len(path) == 1 else path
            field = where if where.__class__ is str else ".".join(map(str, path))
            if message.endswith(_REQUIRED):
                field = ".".join([field, *missing(message)] if field else missing(message))
                message = "missing"
            elif len(message) > MAX_MESSAGE or _FORMAT in message:
                message = shown(message)
            faults.append(Fault(field or "event", message))
        raise Refused(422, "the event does not fit its schema", faults)


def shortened(text: str) -> str:
    """An id as it is kept: of one that is too long the beginning and a digest, for its end may be what differs."""
    return text if len(text) <= MAX_ID else f"{text[: MAX_ID - 65]}-{sha256(text.encode()).hexdigest()}"


_REQUIRED = "is a required property"
_FORMAT = ' is not a "'


def missing(message: str) -> list[str]:
    """The field of `"email" is a required property`."""
    parts = message.split('"', 2)
    return parts[1:2] if len(parts) == 3 else []


def shown(message: str) -> str:
    """The library's sentence, without the value it begins with where that is long."""
    if message.endswith('"'):
        value, found, name = message[:-1].rpartition(_FORMAT)
        if found and name and '"' not in name and " " not in name:
            message = f"{value} is not of the format {name}"
    return message if len(message) <= MAX_MESSAGE else "…" + message[-120:]
