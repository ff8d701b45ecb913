"""
Two versions of connectors and clients -> what would be sent differently, sample by sample, and which rules changed.

Samples are the events of the examples and whatever events a person gives. Each walks through the engine twice, at once
and offline, answered by the sandbox of its own version.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import msgspec

from engine.authoring.differences import ABSENT, Change, as_written, changes, keys, of_rules
from engine.authoring.preview import Single, StandIn, at_once, decoded, stand_in_secrets
from engine.clock import VirtualClock
from engine.errors import ConnectError, Refused
from engine.expressions import Compiler
from engine.intake import Receiver, parse
from engine.mapping import encode_json
from engine.notations import semantics
from engine.privacy.masking import Masker
from engine.spec import types
from engine.walk import Credentials

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from engine.http import Prepared
    from engine.program import Program
    from engine.records import Accepted

ANYONE = "example"
NOW = 1_769_596_245.0
LONGEST_S = 86_400.0  # of the virtual time that a sample lets pass: what is tried again for ever is cut there

# What changes no rule: it is seen in what is sent, or it is not sent at all.
UNSENT = {"connect", "name", "title", "description", "links", "examples", "sandbox", "definitions"}
MAPPING = {"fields", "tables"}
MAPPED = {"record", "vars", "drop", "title", "description"}
RULES = {"outcomes", "require"}  # lists whose entries are wholes
_IN_REQUEST = re.compile(
    r"actions\.[^.]+\.(?:(?:steps|on_failure)\.[^.]+|lookups\.[^.]+(?:\.sources\.[^.]+)?)"
    r"\.request\.(?:method|path|url|query|headers|json|form|csv|text)\b"
)
_PLACE = re.compile(r"\[\d+\]")


class Version(NamedTuple):
    """One side of a plan; `own` are the connectors that are compared even where no event of a client reaches them."""

    connectors: dict[str, types.Connector]
    clients: dict[str, types.Client]
    own: frozenset[str]


class Event(NamedTuple):
    """An event that a person gave: its name in the plan, and where it belongs, if that is known."""

    name: str
    body: bytes
    connector: str | None = None
    client: str | None = None
    veiled: bool = False  # of a real person: only the kinds of its values are shown


class Sample(NamedTuple):
    """Events that walk together for one client; `known` False: only a client that they name takes them."""

    name: str
    client: str
    body: bytes
    old: types.Client | None
    new: types.Client | None
    known: bool = True
    veiled: bool = False


class Request(NamedTuple):
    """One request as it is compared."""

    action: str
    step: str
    method: str
    url: str
    parts: dict[str, Any]  # method, host, path, query, headers, body


class Walked(NamedTuple):
    """What became of one sample in one version; `refused` says why intake did not take it."""

    requests: list[Request]
    outcomes: dict[str, list[str]]
    refused: str | None = None
    stranger: bool = False  # it names another client


class Difference(NamedTuple):
    """One request that is new, gone or unlike."""

    kind: str  # added | removed | changed
    request: Request
    fields: list[Change]


class Differing(NamedTuple):
    """One sample that does not cause the same requests in both versions."""

    sample: str
    client: str | None  # None: the made-up client of the examples
    requests: list[Difference]
    outcomes: list[Change]


class ConnectorPlan(NamedTuple):
    name: str
    kind: str  # added | removed | changed
    samples: int
    differing: list[Differing]
    rules: list[Change]
    unseen: list[Change]  # of the mapping, where no sample shows what they do


class Plan(NamedTuple):
    connectors: list[ConnectorPlan]
    samples: int
    strangers: int  # events that no client of either version takes

    @property
    def nothing(self) -> bool:
        return not self.connectors

    @property
    def differing(self) -> int:
        return sum(len(one.differing) for one in self.connectors)


def plan(old: Version, new: Version, events: Sequence[Event] = ()) -> Plan:
    """What the change from old to new does; connectors that stay as they are do not appear."""
    names = [*new.connectors, *(name for name in old.connectors if name not in new.connectors)]
    found, samples, taken = [], 0, set[str]()
    for name in names:
        before, after = old.connectors.get(name), new.connectors.get(name)
        listed = samples_of(name, old, new, events)
        one, fitting = compared(name, before, after, old, new, listed)
        samples += one.samples
        taken |= fitting
        if one.kind != "changed" or one.differing or one.rules or one.unseen:
            found.append(one)
    return Plan(found, samples, len({event.name for event in events} - taken))


def samples_of(name: str, old: Version, new: Version, events: Sequence[Event]) -> list[Sample]:
    """The examples of both sides, for a made-up client and for each client whose file changed; then the events."""
    before, after = old.connectors.get(name), new.connectors.get(name)
    examples: dict[bytes, types.Example] = {}
    for connector in (after, before):
        for example in connector.examples if connector is not None else []:
            if example.events:
                examples.setdefault(encode_json([example.events, example.client]), example)

    def invented(example: types.Example | None) -> tuple[types.Client | None, types.Client | None]:
        return (
            made_up(name, example, before) if before is not None else None,
            made_up(name, example, after) if after is not None else None,
        )

    found: list[Sample] = []
    if name in old.own | new.own:
        found += [Sample(one.name, "", encode_json(one.events), *invented(one)) for one in examples.values()]
    clients = dict.fromkeys([*new.clients, *old.clients])
    bodies = {encode_json(one.events): one.name for one in examples.values()}
    for client in clients:
        was, is_ = having(old.clients.get(client), name), having(new.clients.get(client), name)
        if entry(was, name) != entry(is_, name):
            found += [Sample(title, client, body, was, is_) for body, title in bodies.items()]
    for event in events:
        if event.connector not in (None, name):
            continue
        if not clients:  # two files: the client of the sandbox
            found.append(Sample(event.name, "", event.body, *invented(None), True, event.veiled))
        for client in clients:
            was, is_ = having(old.clients.get(client), name), having(new.clients.get(client), name)
            if event.client in (None, client) and (was or is_):
                known = event.client is not None
                found.append(Sample(event.name, client, event.body, was, is_, known, event.veiled))
    return found


def made_up(name: str, example: types.Example | None, connector: types.Connector) -> types.Client:
    """The client that an example walks for."""
    given = example.client if example is not None else {}
    sandbox = connector.sandbox
    binding = types.Binding(
        settings=given.get("settings", sandbox.settings if sandbox is not None else {}),
        tables=given.get("tables", {}),
        actions=given.get("actions", {}),
        limits=msgspec.convert(given.get("limits", {}), dict[str, types.Limit]),
        match=given.get("match"),
    )
    return types.Client(client=ANYONE, title=str(given.get("title", "Example")), connectors={name: binding})


def having(client: types.Client | None, connector: str) -> types.Client | None:
    """The client, if it is on and has the connector."""
    return client if client is not None and client.active and entry(client, connector) is not None else None


def entry(client: types.Client | None, connector: str) -> types.Binding | None:
    found = client.connectors.get(connector) if client is not None and client.active else None
    return found if found is not None and found.active else None


def compared(
    name: str,
    before: types.Connector | None,
    after: types.Connector | None,
    old: Version,
    new: Version,
    samples: Sequence[Sample],
) -> tuple[ConnectorPlan, set[str]]:
    """The plan of one connector, and the names of the samples that some client takes."""
    kind = "added" if before is None else "removed" if after is None else "changed"
    differing, fitting, walked = [], set(), 0
    for sample in samples:
        sides = [
            walk(connector, client, sample) if connector is not None and client is not None else Walked([], {})
            for connector, client in ((before, sample.old), (after, sample.new))
        ]
        if any(side.stranger for side in sides) and not any(side.requests or side.outcomes for side in sides):
            continue
        fitting.add(sample.name)
        walked += 1
        requests = list(differences(sides[0].requests, sides[1].requests))
        outcomes = list(ends(*sides))
        if requests or outcomes:
            one = Differing(sample.name, sample.client or None, requests, outcomes)
            differing.append(veiled(one) if sample.veiled else one)
    rules: list[Change] = []
    mapping: list[Change] = []
    for change in of_specs(name, before, after, old, new):
        (mapping if of_mapping(change.path) else rules).append(change)
    shown = {one.request.action for each in differing for one in each.requests}
    unseen = [one for one in mapping if not (shown & {action_of(one.path)} if action_of(one.path) else shown)]
    return ConnectorPlan(name, kind, walked, differing, rules, unseen), fitting


# --- one sample in one version ---


def walk(connector: types.Connector, client: types.Client, sample: Sample) -> Walked:
    """The requests of one sample, as they would be sent now."""
    try:
        program = at_once(connector, client, jitter=lambda: 1.0)
        events = taken(program, sample)
    except Refused as refused:
        return Walked([], {}, str(refused), stranger=not sample.known and refused.status in (400, 403))
    secrets = stand_in_secrets(connector, program.binding)
    clock, count, ids = VirtualClock(NOW), itertools.count(1), itertools.count(1)
    vendor = StandIn(connector, clock, new_id=lambda: f"{next(count)}")
    masker = Masker(secrets.values())
    single = Single(program, Credentials(secrets, "plan"), vendor, clock, masker=masker, new_id=lambda: f"d{next(ids)}")
    single.put(events)
    single.run(longest_s=LONGEST_S)
    outcomes: dict[str, list[str]] = {}
    for one in single.endings():
        why = f": {one.outcome.reason}" if one.outcome.reason and one.kind != "delivered" else ""
        outcomes.setdefault(one.action, []).append(f"{one.kind}{why}")
    if single.paused:
        outcomes["lane"] = [f"paused: {single.paused}"]
    sent = [request(one.action, one.step, one.request, masker) for one in single.recorder.sent]
    return Walked(sent, outcomes)


def taken(program: Program, sample: Sample) -> list[Accepted]:
    """The events past intake; of an example, whatever client they name is this one. Refused as intake does."""
    client, connector = program.client.client, program.connector
    events, _ = parse(sample.body, "application/json")
    clients = {program.binding.match or client: client}
    if sample.known and connector.receive.client is not None:
        named = Compiler().value(connector.receive.client, frozenset({"event", "received_at"}), ())
        clients |= {semantics.plain(said): client for event in events if (said := value(named, event)) is not None}
    count = itertools.count(1)
    receiver = Receiver(
        connector,
        clients,
        lambda _: program,
        schema=connector.receive.schema,
        keys={},
        inactive={},
        new_id=lambda: f"e{next(count)}",
    )
    holder = client if connector.receive.client is None else None
    return [receiver.accept(event, holder, NOW) for event in events]


def value(run: Any, event: Any) -> Any:
    try:
        found = run({"event": event})
    except ConnectError:
        return None
    return None if isinstance(found, (dict, list)) else found


def request(action: str, step: str, sent: Prepared, masker: Masker) -> Request:
    address = urlsplit(sent.url)
    query: dict[str, Any] = {}
    for key, text in parse_qsl(address.query, keep_blank_values=True):
        query[key] = (
            [*query[key], text] if isinstance(query.get(key), list) else [query[key], text] if key in query else text
        )
    body = decoded(sent)
    kind = next((text for name, text in sent.headers.items() if name.lower() == "content-type"), "")
    if kind.startswith("application/x-www-form-urlencoded") and isinstance(body, str):
        body = dict(parse_qsl(body, keep_blank_values=True))
    elif "csv" in kind and isinstance(body, str):
        body = list(csv.DictReader(io.StringIO(body, newline="")))
    elif isinstance(body, str):
        body = body.splitlines()
    parts: dict[str, Any] = {"method": sent.method, "host": address.netloc, "path": address.path}
    parts |= {"query": query, "headers": dict(sent.headers)}
    if body is not None:
        parts["body"] = body
    return Request(action, step, sent.method, masker.mask(sent.url), masker.deep(parts))


def veiled(one: Differing) -> Differing:
    """The same without a value of the event: paths stay, of values only what kind they are."""

    def kind(value: Any) -> Any:
        return value if value is ABSENT else f"({semantics.kind(value)})"

    def hidden(each: Difference) -> Difference:
        asked = each.request._replace(url="", parts={})
        return Difference(each.kind, asked, [Change(c.path, kind(c.old), kind(c.new)) for c in each.fields])

    def first(told: Any) -> Any:
        return ", ".join(part.split(":")[0] for part in told.split(", ")) if isinstance(told, str) else told

    outcomes = [Change(c.path, first(c.old), first(c.new)) for c in one.outcomes]
    return one._replace(requests=[hidden(each) for each in one.requests], outcomes=outcomes)


# --- comparing ---


def differences(old: Sequence[Request], new: Sequence[Request]) -> Iterator[Difference]:
    """Requests of the same action and step are compared in order; what is left over is removed or added."""
    steps = dict.fromkeys((one.action, one.step) for one in (*new, *old))
    for which in steps:
        before = [one for one in old if (one.action, one.step) == which]
        after = [one for one in new if (one.action, one.step) == which]
        for was, is_ in zip(before, after, strict=False):
            if fields := list(changes("", was.parts, is_.parts)):
                yield Difference("changed", is_, fields)
        yield from (Difference("removed", one, []) for one in before[len(after) :])
        yield from (Difference("added", one, []) for one in after[len(before) :])


def ends(old: Walked, new: Walked) -> Iterator[Change]:
    """What becomes of the events of each action, where that is not the same."""
    if old.refused != new.refused:
        taken_ = "taken"
        yield Change(
            "intake",
            f"refused: {old.refused}" if old.refused else taken_,
            f"refused: {new.refused}" if new.refused else taken_,
        )
    for action in dict.fromkeys([*new.outcomes, *old.outcomes]):
        before, after = old.outcomes.get(action), new.outcomes.get(action)
        if before != after and before is not None and after is not None:
            yield Change(action, ", ".join(before), ", ".join(after))


def of_specs(
    name: str, before: types.Connector | None, after: types.Connector | None, old: Version, new: Version
) -> Iterator[Change]:
    if before is not None and after is not None:
        sides = [{key: one for key, one in (keys(side) or {}).items() if key not in UNSENT} for side in (before, after)]
        yield from of_parts("", sides[0], sides[1])
    for client in dict.fromkeys([*new.clients, *old.clients]):
        was, is_ = entry(old.clients.get(client), name), entry(new.clients.get(client), name)
        place = f"clients.{client}"
        if was is None or is_ is None:
            if was is not is_:
                yield Change(place, ABSENT if was is None else "has it", ABSENT if is_ is None else "has it")
        else:
            yield from of_parts(place, was, is_)


def of_parts(path: str, old: Any, new: Any) -> Iterator[Change]:
    """As `changes`; what is a list of rules is compared rule by rule, and an action that came or went is one change."""
    before, after = keys(old), keys(new)
    if before is not None and after is not None:
        for key in [*after, *(key for key in before if key not in after)]:
            below = f"{path}.{key}" if path else str(key)
            was, is_ = before.get(key, ABSENT), after.get(key, ABSENT)
            if path == "actions" and ABSENT in (was, is_):
                yield Change(below, *("a whole action" if side is not ABSENT else ABSENT for side in (was, is_)))
            elif key in RULES and isinstance(was or [], list) and isinstance(is_ or [], list):
                yield from of_rules(below, as_written(was or []), as_written(is_ or []))
            elif was is ABSENT or is_ is ABSENT:
                yield Change(below, as_written(was), as_written(is_))
            else:
                yield from of_parts(below, was, is_)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for at, (was, is_) in enumerate(zip(old, new, strict=True)):
            yield from of_parts(f"{path}[{at}]", was, is_)
    else:
        yield from changes(path, as_written(old), as_written(new))


def of_mapping(path: str) -> bool:
    """Does this change what is put into requests, and no rule?"""
    parts = path.split(".")
    if parts[0] == "actions" and len(parts) > 2:
        return parts[2].split("[")[0] in MAPPED or _IN_REQUEST.match(path) is not None
    if parts[0] == "http":
        return parts[1].split("[")[0] in ("base_url", "headers", "json")
    return parts[0] in MAPPING


def action_of(path: str) -> str | None:
    parts = path.replace("[", ".").split(".")
    return parts[1] if parts[0] == "actions" and len(parts) > 1 else None


def alike(differing: Sequence[Differing]) -> list[tuple[Differing, int]]:
    """Samples that differ in the same way, but for the places in lists, as the first of them and how many more."""
    groups: dict[bytes, tuple[Differing, int]] = {}
    for one in differing:
        ways = {
            encode_json([each.kind, each.request.action, each.request.step, told(each.fields)]) for each in one.requests
        }
        key = encode_json([sorted(way.decode() for way in ways), told(one.outcomes)])
        first, more = groups.get(key, (one, -1))
        groups[key] = (first, more + 1)
    return list(groups.values())


def told(listed: Sequence[Change]) -> list[list[Any]]:
    """Changes to compare by: without the places in lists, each once."""
    found = [[_PLACE.sub("[]", one.path), *([] if v is ABSENT else [v] for v in (one.old, one.new))] for one in listed]
    return [one for at, one in enumerate(found) if one not in found[:at]]


def together(requests: Sequence[Difference]) -> list[tuple[Difference, int]]:
    """The same difference of several requests, such as one that is tried again, once with how often it is there."""
    groups: dict[bytes, tuple[Difference, int]] = {}
    for one in requests:
        asked = one.request
        fields = [[c.path, *([] if v is ABSENT else [v] for v in (c.old, c.new))] for c in one.fields]
        body = asked.parts.get("body") if one.kind != "changed" else None
        key = encode_json([one.kind, asked.action, asked.step, asked.method, asked.url, fields, body])
        groups[key] = (one, groups.get(key, (one, 0))[1] + 1)
    return list(groups.values())


def as_json(plan_: Plan) -> dict[str, Any]:
    """The plan for programs."""
    return {
        "nothing": plan_.nothing,
        "samples": plan_.samples,
        "differing": plan_.differing,
        "strangers": plan_.strangers,
        "connectors": [
            {
                "connector": one.name,
                "change": one.kind,
                "samples": [
                    {
                        "sample": each.sample,
                        **({"client": each.client} if each.client else {}),
                        "requests": [request_json(difference) for difference in each.requests],
                        "outcomes": [change_json(change) for change in each.outcomes],
                    }
                    for each in one.differing
                ],
                "rules": [change_json(change) for change in one.rules],
                "unseen": [change_json(change) for change in one.unseen],
            }
            for one in plan_.connectors
        ],
    }


def request_json(difference: Difference) -> dict[str, Any]:
    one = difference.request
    found: dict[str, Any] = {"change": difference.kind, "action": one.action, "step": one.step}
    found |= {"method": one.method, "url": one.url}
    if difference.kind == "changed" or not one.parts:
        return {**found, "fields": [change_json(change) for change in difference.fields]}
    return {**found, "body": one.parts.get("body")}


def change_json(change: Change) -> dict[str, Any]:
    sides: Mapping[str, Any] = {"old": change.old, "new": change.new}
    return {"path": change.path, "change": change.kind, **{key: v for key, v in sides.items() if v is not ABSENT}}
