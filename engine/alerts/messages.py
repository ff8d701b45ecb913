"""Troubles -> what a person reads and a program gets: what happened, since when, what to do next, where to look."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec

from engine.alerts.kinds import kind_of
from engine.alerts.ledger import OPEN, PAST
from engine.alerts.rules import lasting, stamp
from engine.segments import segment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.alerts.ledger import Entry
    from engine.alerts.rules import Rules

MOST_LINES = 50
SUMMARY, TEST = "summary", "test"


class Message(msgspec.Struct, frozen=True):
    """What is told at once. `fields` is the body of a webhook; `id` stays the same when it is tried again."""

    id: str
    state: str  # open | over | past | summary | test
    kind: str
    connector: str
    client: str
    severity: str
    subject: str  # one line
    text: str
    fields: dict[str, Any]


def of_one(entry: Entry, state: str, rules: Rules, now: float) -> Message:
    trouble = entry.trouble
    kind, connector, client = trouble.key
    severity = kind_of(kind).severity
    place = f"{connector}/{client}" if connector else client or "the store"
    link, ended = link_of(rules, connector, client), entry.gone if entry.gone is not None else now
    lasted = lasting(ended - trouble.since)
    fields: dict[str, Any] = {
        "kind": kind,
        "state": state,
        "severity": severity,
        "connector": connector,
        "client": client,
        "what": trouble.text,
        "since": stamp(trouble.since),
        "at": stamp(now),
        "facts": trouble.facts,
    }
    if state == OPEN:
        do = rules.do(kind, connector, client)
        subject = f"{kind}: {place}"
        lines = [trouble.text, f"since {rules.moment(trouble.since, now)}", f"what to do: {do}"]
        fields["do"] = do
    else:
        subject = f"over: {kind}: {place}"
        lines = [f"{place}: {kind} is over; it lasted {lasted}", f"it was: {trouble.text}"]
        if state == PAST:
            lines.append(f"since {rules.moment(trouble.since, now)}, while nobody was to be woken")
        fields |= {"ended": stamp(ended), "lasted_s": max(0, int(ended - trouble.since))}
    if link is not None:
        lines.append(link)
        fields["link"] = link
    text = "\n".join(lines)
    id_ = id_of([entry], state)
    return Message(id_, state, kind, connector, client, severity, subject, text, {"text": text, "id": id_, **fields})


def of_several(pairs: Sequence[tuple[Entry, str]], rules: Rules, now: float) -> Message:
    """One message for many: a vendor that is down for all its clients, a night's troubles."""
    messages = [of_one(entry, state, rules, now) for entry, state in pairs]
    open_ = sum(state == OPEN for _, state in pairs)
    counts = ((open_, "troubles" if open_ != 1 else "trouble"), (len(pairs) - open_, "over"))
    subject = ", ".join(f"{count} {what}" for count, what in counts if count)
    kinds = sorted({message.kind for message in messages})
    lines = [f"{subject}: {', '.join(kinds)}"]
    for (entry, state), _ in zip(pairs, range(MOST_LINES), strict=False):
        since = rules.moment(entry.trouble.since, now)
        ended = entry.gone if entry.gone is not None else now
        what = f"since {since}" if state == OPEN else f"over; it lasted {lasting(ended - entry.trouble.since)}"
        lines.append(f"- {entry.trouble.kind}: {entry.trouble.text} ({what})")
    if len(pairs) > MOST_LINES:
        lines.append(f"- and {len(pairs) - MOST_LINES} more")
    lines.append("what to do: `connect alert list` says it for each")
    if rules.admin_url:
        lines.append(rules.admin_url)
    severity = next(s for s in ("critical", "error", "warning") if any(m.severity == s for m in messages))
    connectors, clients = {m.connector for m in messages}, {m.client for m in messages}
    connector = connectors.pop() if len(connectors) == 1 else ""
    client = clients.pop() if len(clients) == 1 else ""
    text, id_ = "\n".join(lines), id_of([entry for entry, _ in pairs], *(state for _, state in pairs))
    kind = kinds[0] if len(kinds) == 1 else SUMMARY
    fields = {
        "text": text,
        "id": id_,
        "kind": kind,
        "state": SUMMARY,
        "severity": severity,
        "connector": connector,
        "client": client,
        "at": stamp(now),
        "troubles": [{name: m.fields[name] for name in m.fields.keys() - {"text"}} for m in messages],
    }
    return Message(id_, SUMMARY, kind, connector, client, severity, subject, text, fields)


def of_test(name: str, now: float, mark: str) -> Message:
    """What `connect alert test` sends; `mark` tells one test from another."""
    text = f"This is a test of the alerts of DaxGO Connect, by {name}. Nothing is wrong."
    id_ = f"msg_{sha256(f'{name} {now} {mark}'.encode()).hexdigest()[:24]}"
    fields = {"text": text, "id": id_, "kind": TEST, "state": TEST, "severity": "warning", "at": stamp(now)}
    return Message(id_, TEST, TEST, "", "", "warning", "test: nothing is wrong", text, dict(fields))


def id_of(entries: Sequence[Entry], *states: str) -> str:
    """The same from every host and at every try."""
    parts = [f"{'/'.join(entry.trouble.key)} {entry.raised}" for entry in entries]
    return f"msg_{sha256(chr(10).join([*parts, *states]).encode()).hexdigest()[:24]}"


def link_of(rules: Rules, connector: str, client: str) -> str | None:
    """The lane's page of the admin side."""
    if rules.admin_url is None:
        return None
    if not connector:
        return rules.admin_url
    return f"{rules.admin_url}/lane/{segment(connector)}/{segment(client)}"
