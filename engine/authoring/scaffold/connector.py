"""A draft -> the text of its connector. What the examples say is sent is what the engine sends: it is run once."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from engine.authoring.scaffold.auths import sandbox_path
from engine.authoring.scaffold.closest import sample_event
from engine.authoring.scaffold.draft import DECIDE, Action, Draft, Tree
from engine.authoring.scaffold.writing import (
    Inline,
    Note,
    Noted,
    access,
    block,
    comment,
    key_of,
    literal,
    one_line,
    plain,
)
from engine.errors import ConnectError

NOW = 1_769_596_245.0  # 2026-01-28 10:30:45 UTC
BROWSING = "../schemas/events/browsing.schema.json"


def connector_text(draft: Draft) -> str:
    """Raises ConnectError where the engine would send nothing."""
    text = _text(draft, [])
    sent = {action.name: _sent(draft, action, text) for action in draft.actions}
    return _text(draft, [each for action in draft.actions for each in _examples(draft, action, sent[action.name])])


def events_of(draft: Draft, action: Action, count: int = 1) -> list[dict[str, Any]]:
    """Events that this action wants; the second has an address that the sandbox refuses."""
    first = sample_event(set(draft.paths), action.event_type or "product_view")
    second = {**first, "eventId": "e-1002", "email": "bounced@example.com"}
    return [first, second][:count]


def _text(draft: Draft, examples: list[Tree]) -> str:
    sections = [
        _about(draft),
        _needs(draft),
        _receive(draft),
        _auth(draft),
        _http(draft),
        _replies(draft),
        {"tables": draft.tables} if draft.tables else {},
        {"actions": {action.name: _action(action, direct=draft.direct) for action in draft.actions}},
    ]
    lines = [
        "# yaml-language-server: $schema=../schemas/connector.schema.json",
        *comment(
            f"Written by `connect new`{f' from {one_line(draft.source, 80)}' if draft.source else ''}. "
            f"What is yours to decide: grep -n {DECIDE} connectors/{draft.name}.yaml"
        ),
    ]
    for at, section in enumerate(sections):
        if section:
            lines += [*([""] if at else []), *block(section)]
    if examples:
        lines += ["", "examples:"]
        for at, example in enumerate(examples):
            lines += [*([""] if at else []), *block([example], 2)]
    return "\n".join([*lines, "", *_sandbox(draft), ""])


def _about(draft: Draft) -> Tree:
    about: Tree = {"connect": 1, "name": draft.name, "title": draft.title}
    if draft.description:
        about["description"] = draft.description
    if draft.links:
        about["links"] = draft.links
    else:
        about[Note(f"{DECIDE} links to the vendor's pages, one for each endpoint: links: {{events: https://…}}")] = None
    about["hosts"] = Noted(_hosts(draft), "requests go nowhere else")
    return about


def _hosts(draft: Draft) -> list[str]:
    return list(dict.fromkeys((*draft.hosts, *draft.auth.hosts)))


def _needs(draft: Draft) -> Tree:
    found: Tree = {}
    if draft.settings:
        required = {"required": list(draft.required)} if draft.required else {}
        found["settings"] = {**required, "properties": draft.settings}
    if draft.auth.secrets:
        found["secrets"] = draft.auth.secrets
    return found


def _receive(draft: Draft) -> Tree:
    receive: Tree = {}
    if draft.direct:
        receive["mode"] = Noted("direct", "the caller waits and is told what the vendor said")
    ref = f"../schemas/events/{draft.name}.schema.json" if draft.own_schema else BROWSING
    receive["schema"] = Inline({"$ref": ref})
    receive["id"] = "${ event.eventId }"
    receive["dedupe"] = Noted("24h", "the same id within this time is accepted once")
    fields: Tree = {"email": "${ lower(trim(event.email)) }"}
    if "activity" in draft.tables:
        fields["activity"] = "${ get(tables.activity, event.eventType, event.eventType) }"
    return {
        "receive": receive,
        "fields": fields,
        "key": Noted("${ fields.email }", "one person's events keep their order"),
    }


def _auth(draft: Draft) -> Tree:
    found: Tree = {Note(note): None for note in draft.auth.notes}
    if draft.auth.auth:
        found["auth"] = draft.auth.auth
    return found


def _http(draft: Draft) -> Tree:
    found: Tree = {}
    if draft.check_note:
        found[Note(draft.check_note)] = None
    found["checks"] = {"account": {"title": "The account can be read", "request": draft.check}}
    http: Tree = {Note(note): None for note in draft.base_notes}
    http["base_url"] = draft.base_url
    http["timeout"] = "30s"
    http["limits"] = Noted(
        Inline(calls=Inline(rate="10/1s")), f"{DECIDE} what the vendor allows one account, such as 120/1m"
    )
    return {**found, "http": http}


def _replies(draft: Draft) -> Tree:
    replies: Tree = {Note(note): None for note in draft.reply_notes}
    if draft.code:
        replies["code"] = draft.code
    if draft.message:
        replies["message"] = draft.message
    status: Any = 403 if draft.auth.refused == "reauth" else [401, 403]
    pause = Inline(status=status, then="pause", why=f"{draft.title} refuses the credentials or the call itself")
    note = Note(
        "Without a rule: 408, 425, 429 slow down (Retry-After is heeded), 5xx wait and come again, other 4xx reject."
    )
    return {"replies": {**replies, note: None, "outcomes": [*draft.outcomes, pause]}}


def _action(action: Action, *, direct: bool) -> Tree:
    found: Tree = {Note(note): None for note in action.notes}
    found["title"] = action.title
    if action.event_type is not None:
        wanted = f"${{ event.eventType == '{action.event_type}' }}"
        found["when"] = Noted(wanted, f"{DECIDE} which events it wants")
    if action.records is not None:
        found["batch"] = Noted(
            Inline(records=action.records, **({} if direct else {"wait": "5s"}), max=Inline(records=action.records)),
            action.batch_note or "records and wait are a client's to change, max is the vendor's",
        )
    record = {**{Note(note): None for note in action.record_notes}, **action.record}
    found["record"] = record if plain(record) else {}
    if action.required:
        found["require"] = Noted(
            [Inline(schema=Inline(required=list(action.required)))], "without these a record is rejected, unsent"
        )
    request: Tree = {"method": action.method, "path": Noted(action.path, action.path_note)}
    if action.query:
        request["query"] = action.query
    headers = {**action.headers, **({"Content-Type": action.content_type} if action.content_type else {})}
    if headers:
        request["headers"] = headers
    if action.content is not None:
        request[action.content] = _content(action)
    if action.expect:
        request["expect"] = Noted(action.expect, action.expect_note)
    found["request"] = request
    if action.results is not None:
        found["results"] = action.results
    if action.method == "POST":
        note = f"{DECIDE} may a request whose answer never came be sent again? safe, may_double or never"
        found["repeat"] = Noted("may_double", note)
    return found


def _content(action: Action) -> Any:
    if action.records is None:
        return "${ record.text }" if action.content == "text" else "${ record }"
    return _shown(action.around) if action.around is not None else "${ batch.records }"


# --- examples ---


def _sent(draft: Draft, action: Action, text: str) -> Tree:
    """The request that the engine makes of the events, as an example lists it."""
    from engine.authoring.preview import preview
    from engine.spec import types
    from engine.spec.load import load_connector
    from engine.spec.located import read

    connector, findings, _ = load_connector(read(text, f"connectors/{draft.name}.yaml"))
    if connector is None:
        raise ConnectError("\n".join(map(str, findings)))
    connector = msgspec.structs.replace(connector, receive=msgspec.structs.replace(connector.receive, schema=None))
    binding = types.Binding(settings=dict(draft.samples))
    client = types.Client(client="example", connectors={draft.name: binding})
    events = events_of(draft, action, _together(draft, action))
    shown = preview(connector, client, msgspec.json.Encoder(decimal_format="number").encode(events), now=NOW)
    requests = [one for one in shown.requests if one["action"] == action.name]
    if not requests:
        why = "; ".join(f"{one['action']}: {one['reason']}" for one in shown.skipped) or shown.paused
        raise ConnectError(f"{draft.name}: the new action {action.name} sends nothing: {why}")
    return _listed(action, requests[0])


def _listed(action: Action, request: dict[str, Any]) -> Tree:
    parts = urlsplit(request["url"])
    sends: Tree = {"method": request["method"], "path": parts.path}
    query = {name: value for name, value in parse_qsl(parts.query, keep_blank_values=True) if "*" not in value}
    if query:
        sends["query"] = Inline(query)
    if action.content == "form":
        sends["form"] = Inline(parse_qsl(request["body"] or "", keep_blank_values=True))
    elif action.content is not None:
        sends[action.content] = _shown(request["body"])
    return sends


def _together(draft: Draft, action: Action) -> int:
    """How many events the first example shows in one request; in direct mode each caller's goes by itself."""
    return 1 if draft.direct or action.records is None or action.records == 1 else 2


def _examples(draft: Draft, action: Action, sent: Tree) -> list[Tree]:
    """One that succeeds and one that is refused; for the first action also a vendor that is down or wants less."""
    found = [_success(draft, action, sent), _refusal(draft, action, sent)]
    if action is draft.actions[0]:
        down = ("waits while {} is down", 503, None, "40", "40s")
        slow = ("is held for as long as {} asks", 429, action.throttled.value, "20", "20s")
        found += [_passing(draft, action, sent, *each) for each in (down, slow)]
    return found


def _success(draft: Draft, action: Action, sent: Tree) -> Tree:
    count = _together(draft, action)
    partial = action.results is not None and count == 2
    ends = ["delivered", "rejected" if partial else "delivered"][:count]
    name = "of two records one is delivered and one refused" if partial else "an event becomes a request"
    return {
        "name": _named(draft, action, name),
        **_settings(draft),
        "events": _events(draft, action, count),
        "exchange": [{"sends": sent, "answers": _reply(action, count, partial=partial)}],
        "outcomes": Inline({action.name: ends}),
        **({"answered": _answered([200 if end == "delivered" else 422 for end in ends])} if draft.direct else {}),
    }


def _refusal(draft: Draft, action: Action, sent: Tree) -> Tree:
    value = {} if action.rejected.value is None else {"body": _shown(action.rejected.value)}
    return {
        "name": _named(draft, action, f"what {draft.title} refuses becomes a dead letter"),
        **_settings(draft),
        "events": _events(draft, action, 1),
        "exchange": [{"sends": _brief(sent), "answers": Inline(status=action.rejected.status, **value)}],
        "outcomes": Inline({action.name: ["rejected"]}),
        **({"answered": Inline(status=422)} if draft.direct else {}),
    }


def _passing(
    draft: Draft, action: Action, sent: Tree, name: str, status: int, value: Any, header: str, wait: str
) -> Tree:
    body = {} if value is None else {"body": _shown(value)}
    first: Tree = Inline(status=status, headers=Inline({"retry-after": header}), **body)
    direct: Tree = {"answered": Inline(status=202)} if draft.direct else {}
    return {
        "name": _named(draft, action, f"an event {name.format(draft.title)}"),
        **_settings(draft),
        "events": _events(draft, action, 1),
        "exchange": [
            {"sends": _brief(sent), "answers": first},
            Inline(after=wait),
            {"sends": _brief(sent), "answers": _reply(action, 1, partial=False)},
        ],
        "outcomes": Inline({action.name: ["delivered"]}),
        **direct,
    }


def _named(draft: Draft, action: Action, name: str) -> str:
    return f"{name} ({action.name})" if len(draft.actions) > 1 else name


def _events(draft: Draft, action: Action, count: int) -> list[Any]:
    return [_shown(event) for event in events_of(draft, action, count)]


def _settings(draft: Draft) -> Tree:
    return {"client": Inline(settings=Inline(draft.samples))} if draft.samples else {}


def _brief(sent: Tree) -> Tree:
    return Inline(method=sent["method"], path=sent["path"])


def _answered(statuses: list[int]) -> Any:
    return Inline(status=statuses[0]) if len(statuses) == 1 else [Inline(status=status) for status in statuses]


def _reply(action: Action, count: int, *, partial: bool) -> Tree:
    value = action.success.value
    if action.results is not None:
        results = [_shown(action.result)] * (count - 1) + [_shown(action.failure if partial else action.result)]
        value = {**(value or {}), action.results_in: results} if action.results_in else results
    body = {} if value is None else {"body": _shown(value)}
    return Inline(status=action.success.status, **body)


def _shown(value: Any) -> Any:
    """A body as it is written: in one line where it fits."""
    if isinstance(value, dict):
        return Inline({key: _shown(child) for key, child in value.items()})
    return [_shown(child) for child in value] if isinstance(value, list) else value


# --- sandbox ---


def _sandbox(draft: Draft) -> list[str]:
    sandbox: Tree = {}
    if any(host.startswith("*.") for host in draft.hosts):
        sandbox["hosts"] = _hosts(draft)
    if draft.auth.made_up:
        sandbox["secrets"] = draft.auth.made_up
    if draft.samples:
        sandbox["settings"] = draft.samples
    if draft.auth.token is not None:
        sandbox["tokens"] = {"key": draft.auth.token}
    token = {"token": "key"} if draft.auth.token is not None else {}
    base = sandbox_path(draft.base_url).rstrip("/")
    check_path = sandbox_path(draft.check.get("url") or base + draft.check["path"])
    routes: list[Tree] = [
        *draft.auth.routes,
        {"method": "GET", "path": check_path, **token, "reply": Inline(body=literal(_shown(draft.check_reply or {})))},
    ]
    for action in draft.actions:
        routes += _routes(action, base + sandbox_path(action.path), token)
    lines = comment(
        f"Plays {draft.title}, as far as this file knows it: for `connect sandbox`, previews and tests.\n"
        "An address with outage@ gets 503 twice, limited@ is told to slow down once, bounced@ is refused."
    )
    lines += block({"sandbox": sandbox}) if sandbox else ["sandbox:"]
    lines.append("  routes:")
    return [*lines, *block(routes, 4)]


def _routes(action: Action, path: str, token: Tree) -> list[Tree]:
    where = {"method": action.method, "path": path}
    throttled = {} if action.throttled.value is None else {"body": literal(_shown(action.throttled.value))}
    refused = {} if action.rejected.value is None else {"body": literal(_shown(action.rejected.value))}
    seen = "find_all(request.text, '[a-z]*{}@[a-z.]+')[0]"

    def first(word: str, most: int) -> str:
        return f"${{ contains(request.text, '{word}@') && count({seen.format(word)}) <= `{most}` }}"

    routes: list[Tree] = []
    if action.content is not None:
        routes += [
            {**where, "when": first("outage", 2), "reply": Inline(status=503)},
            {
                **where,
                "when": first("limited", 1),
                "reply": Inline(status=429, headers=Inline({"retry-after": "2"}), **throttled),
            },
        ]
    if action.results is None and action.content is not None:
        when = "${ contains(request.text, 'bounced@') }"
        routes.append({**where, **token, "when": when, "reply": Inline(status=action.rejected.status, **refused)})
    return [*routes, {**where, **token, "reply": _good(action)}]


def _good(action: Action) -> Tree:
    if action.results is None:
        reply = _reply(action, 1, partial=False)
        return Inline({**reply, "body": literal(reply["body"])}) if "body" in reply else reply
    key = next((name for name, value in (action.around or {}).items() if value == "${ batch.records }"), "")
    each = {
        "$each": f"${{ {access(('request', 'json', *([key.removeprefix('$')] if key else [])))} }}",
        "as": "one",
        "do": {
            "$if": "${ contains(json(one), 'bounced@') }",
            "then": literal(_shown(action.failure)),
            "else": literal(_shown(action.result)),
        },
    }
    others = {key_of(name): literal(_shown(value)) for name, value in (action.success.value or {}).items()}
    body = {**others, key_of(action.results_in): each} if action.results_in else each
    return {"status": action.success.status, "body": body}
