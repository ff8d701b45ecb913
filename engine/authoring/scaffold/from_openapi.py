"""
An OpenAPI document and the operations chosen of it -> a draft, in which what the document leaves open is marked.

What is required is always there: from the event where its name says so, else as a setting that each client has to give,
so that nothing made up is sent to a vendor unseen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

from engine.authoring.openapi import Answer, Api, Operation, Parameter, Scheme, Server, Shape, sample
from engine.authoring.openapi import Body as Described
from engine.authoring.scaffold.auths import auth_of
from engine.authoring.scaffold.closest import closest, is_products, is_text, snake, words
from engine.authoring.scaffold.draft import DECIDE, Action, Auth, Body, Draft, Tree
from engine.authoring.scaffold.writing import Inline, Note, Noted, access, key_of, literal, one_line, plain
from engine.errors import UsageError

EVENT_TYPES = ("product_view", "purchase", "cart_abandoned", "signup", "search", "lead")
MAX_OPTIONAL = 40  # names of further fields in a comment
_HOST = re.compile(r"([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z][a-z0-9-]*\Z")
_IDS = {"id", "uuid", "key", "externalid", "recordid", "reference"}
_EVENT_WORDS = {"type", "event", "eventtype", "eventname", "activity", "activitytype", "action", "kind"}
_CODES = ("code", "error_code", "errorcode", "error_type", "error", "type", "name", "status")
_MESSAGES = ("message", "error_message", "error_description", "detail", "description", "msg", "title", "reason")
_CHECKS = ("me", "whoami", "account", "ping", "self", "current", "status", "user", "users", "limits", "info", "health")
_GRANTS = {
    "clientCredentials": "oauth2_client_credentials",
    "password": "oauth2_password",
    "authorizationCode": "oauth2_refresh_token",
    "implicit": "oauth2_refresh_token",
    "deviceAuthorization": "oauth2_refresh_token",
}


class Answers(NamedTuple):
    """What flags say against the document; None: the document says it."""

    base_url: str | None = None
    auth: str | None = None
    details: dict[str, Any] = {}  # noqa: RUF012 - never changed
    records: int | None = None
    direct: bool = False
    own_schema: bool = False


def draft_from(api: Api, operations: Sequence[Operation], name: str, title: str, answers: Answers) -> Draft:
    """UsageError where an operation needs what a connector can't do, with its place in the document."""
    making = _Making(name, title)
    base = making.base(api, operations[0], answers.base_url)
    auth = making.auth(api, operations[0], base, answers)
    actions: list[Action] = []
    for at, operation in enumerate(operations):
        wanted = EVENT_TYPES[at] if at < len(EVENT_TYPES) else snake(operation.id or operation.path)
        event_type = wanted if len(operations) > 1 else None
        actions.append(making.action(api, operation, event_type, answers.records, {each.name for each in actions}))
    code, message, notes, outcomes = _replies(api, operations)
    check, check_note, check_reply = _check(api)
    docs = api.docs if re.fullmatch(r"https?://[!-~]+", api.docs) else ""
    return Draft(
        name=name,
        title=title,
        description=one_line(api.description.partition("\n")[0], 160) or f"Carries shop events to {title}.",
        links={"api": docs} if docs else {},
        base_url=base.url,
        hosts=base.hosts,
        base_notes=base.notes,
        auth=auth,
        actions=tuple(actions),
        settings=making.settings,
        required=tuple(making.required),
        samples=making.samples,
        tables=making.tables,
        code=code,
        message=message,
        reply_notes=notes,
        outcomes=outcomes,
        check=check,
        check_note=check_note,
        check_reply=check_reply,
        paths=frozenset(making.paths),
        direct=answers.direct,
        own_schema=answers.own_schema,
        source=api.file.rpartition("/")[2],
    )


class _Base(NamedTuple):
    url: str
    hosts: tuple[str, ...]
    notes: tuple[str, ...]


class _Making:
    """What adds up while the operations are read: settings, tables, parts of the event."""

    def __init__(self, name: str, title: str) -> None:
        self.name, self.title = name, title
        self.settings: Tree = {}
        self.required: list[str] = []
        self.samples: dict[str, Any] = {}
        self.tables: Tree = {}
        self.paths: set[str] = {"email"}

    # --- address ---

    def base(self, api: Api, operation: Operation, given: str | None) -> _Base:
        if given is not None:
            return _Base(given, (urlsplit(given).hostname or "",), ())
        servers = api.servers(operation)
        good = [server for server in servers if _remote(server)]
        others = [
            f"{one_line(server.url, 80)} ({one_line(server.description, 40) or 'no description'})"
            for server in servers[:6]
            if good and server is not good[0]
        ]
        notes = [f"{DECIDE} the document has other addresses, too: {', '.join(others)}"] if others else []
        made_up = f"https://api.{self.name.strip('-')}.example"
        if not good:
            path = "/" + servers[0].url.partition("://")[2].partition("/")[2] if servers else ""
            path = servers[0].url if servers and servers[0].url.startswith("/") else path
            said = f" (it says {one_line(servers[0].url, 60)})" if servers else ""
            note = f"{DECIDE} the vendor's address; the document has none that can be used{said}, so it is made up"
            url = made_up + (path.rstrip("/") if re.fullmatch(r"(/[\w.~-]+)*/?", path) else "")
            return _Base(url, (urlsplit(made_up).hostname or "",), (note,))
        server = good[0]
        scheme, _, rest = server.url.rstrip("/").partition("://")
        host, slash, path = rest.partition("/")
        if scheme == "http":
            notes.append(f"{DECIDE} the document says http:, where only https is sent to")
        if ":" in host:
            host, _, port = host.partition(":")
            notes.append(f"{DECIDE} the document says port {port}, where only the usual one is sent to")
        hosts = self._hosts(server, host.lower())
        if hosts is None:
            note = f"{DECIDE} the host: {one_line(server.url, 80)} leaves it all open, so hosts allows a made-up one"
            notes.append(note)
            hosts = (f"*.{self.name.strip('-')}.example",)
        url = f"https://{host.lower() if '{' not in host else host}{slash}{path}"
        for name, (default, listed, said) in server.variables.items():
            if f"{{{name}}}" in url:
                url = url.replace(f"{{{name}}}", f"{{{{ settings.{self._variable(name, default, listed, said)} }}}}")
        url = re.sub(r"(?<!\{)\{([^{}]+)\}(?!\})", lambda found: self._open(found[1]), url)
        self._fit_hosts(url, hosts)
        return _Base(url, hosts, tuple(notes))

    def _variable(self, name: str, default: str, listed: tuple[str, ...], said: str) -> str:
        key = snake(name)
        setting: Tree = Inline(type="string", title=_title(name))
        if said:
            setting["description"] = one_line(said, 120)
        if listed:
            setting["enum"] = list(listed)
        if default:
            setting["default"] = default
            self.settings[key] = setting
        else:
            self._need(key, setting, listed[0] if listed else "made-up")
        return key

    def _open(self, name: str) -> str:
        """A variable that the document uses and does not describe."""
        return f"{{{{ settings.{self._variable(name, '', (), '')} }}}}"

    def _hosts(self, server: Server, host: str) -> tuple[str, ...] | None:
        """Names, or a pattern; None where the pattern would name every host."""
        if "{" not in host:
            return (host,)
        inner = re.findall(r"\{([^{}]+)\}", server.url.partition("://")[2].partition("/")[0])
        listed = server.variables[inner[0]][1] if len(inner) == 1 and inner[0] in server.variables else ()
        each = tuple(re.sub(r"\{[^{}]+\}", value.lower(), host) for value in listed)
        if each and all(_HOST.match(one) for one in each):
            return each
        fixed = re.sub(r"^.*\}[^.]*\.", "", host)
        return (f"*.{fixed}",) if fixed.count(".") >= 1 and _HOST.match(fixed) else None

    def _fit_hosts(self, url: str, hosts: tuple[str, ...]) -> None:
        """The whole host is a setting: the example's has to be one that `hosts` allows."""
        host = url.partition("://")[2].partition("/")[0]
        whole = re.fullmatch(r"\{\{ settings\.(\w+) \}\}", host)
        if whole and hosts[0].startswith("*."):
            key = whole[1]
            setting = self.settings[key]
            setting.pop("default", None)
            setting["format"] = "host"
            self._need(key, setting, f"shop.{hosts[0].removeprefix('*.')}")

    # --- log-in ---

    def auth(self, api: Api, operation: Operation, base: _Base, answers: Answers) -> Auth:
        if answers.auth is not None:
            return auth_of(answers.auth, base_url=base.url, **answers.details)
        ways = api.security(operation)
        if not ways:
            note = f"{DECIDE} how to log in: the document says nothing of it; see `auth` in the language page"
            return auth_of("none", base_url=base.url, notes=(note,))
        best = min(ways, key=lambda way: (sum(_rank(scheme) for scheme in way), ways.index(way)))
        notes = []
        others = [" and ".join(scheme.name for scheme in way) or "none" for way in ways if way is not best]
        if others:
            others_ = one_line(", ".join(others), 120)
            notes.append(f"{DECIDE} the document has other ways to log in, too: {others_}")
        if not best:
            return auth_of("none", base_url=base.url, notes=tuple(notes))
        scheme = min(best, key=_rank)
        rest = [each.name for each in best if each is not scheme]
        if rest:
            notes.append(f"{DECIDE} the document wants {', '.join(rest)} along with it; add what it needs to `auth`")
        return self._scheme(scheme, base, notes)

    def _scheme(self, scheme: Scheme, base: _Base, notes: list[str]) -> Auth:
        plain = one_line(scheme.name, 60)
        match scheme.kind, scheme.scheme:
            case "http", "basic" | "bearer":
                return auth_of(scheme.scheme, base_url=base.url, notes=tuple(notes))
            case "apiKey", _ if re.fullmatch(r"[A-Za-z0-9_.\[\]-]+", scheme.key):
                if words(scheme.key) == "authorization":
                    notes.append(f"{DECIDE} does the key stand alone in Authorization, or behind a word such as Token?")
                return auth_of(
                    "api_key", base_url=base.url, key_name=scheme.key, key_in=scheme.where, notes=tuple(notes)
                )
            case "oauth2", _:
                return self._oauth(scheme, base, notes)
        what = f"{scheme.kind} {scheme.scheme}".strip()
        notes.append(f"{DECIDE} {plain} is {what}, for which a bearer token stands in")
        return auth_of("bearer", base_url=base.url, notes=tuple(notes))

    def _oauth(self, scheme: Scheme, base: _Base, notes: list[str]) -> Auth:
        fixed = base.url if "{" not in base.url.partition("://")[2].partition("/")[0] else f"https://{base.hosts[0]}"
        told = scheme.token_url if re.fullmatch(r"[!-Z^-~]*", scheme.token_url) else ""
        url = urljoin(f"{fixed}/", told) if told else ""
        if not re.fullmatch(r"https://([a-z0-9-]+\.)+[a-z0-9-]+(/[A-Za-z0-9._~@:+-]*)*", url):
            said = f" (it says {one_line(url, 80)})" if url else ""
            notes.append(f"{DECIDE} the address that gives the token; the document has none that can be used{said}")
            url = f"https://{base.hosts[0].replace('*.', 'login.')}/oauth/token"
        kind = _GRANTS[scheme.flow]
        if kind == "oauth2_refresh_token":
            notes.append(f"{DECIDE} a person agrees once in the browser; the refresh token of that is the secret here")
        scope = " ".join(scheme.scopes) if kind != "oauth2_refresh_token" else ""
        return auth_of(kind, base_url=base.url, token_url=url, scope=one_line(scope, 500), notes=tuple(notes))

    # --- an action ---

    def action(
        self, api: Api, operation: Operation, event_type: str | None, records: int | None, taken: set[str]
    ) -> Action:
        body = api.request(operation)
        parameters = api.parameters(operation)
        answers = api.answers(operation)
        content = _content(body)
        listed = _listed(body.shape) if content == "json" else None
        if records is not None and records > 1 and listed is None:
            raise UsageError(
                f"{api.file}: {operation.name} takes one record in a request, and no list; leave --batch out"
            )
        batch = listed is not None
        place = _Place(self, batch=batch)
        name = _action_name(operation, taken)
        action: dict[str, Any] = {
            "name": name,
            "title": one_line(operation.summary, 80).rstrip(".") or _title(name),
            "method": operation.method,
            **place.path(operation.path, parameters),
            "content": content,
            "content_type": body.media if body.media.endswith("+json") else None,
            "query": place.outside(parameters, "query"),
            "headers": place.outside(parameters, "header"),
            "event_type": event_type,
        }
        notes = []
        if body.shape is not None and body.shape.note:
            notes.append(f"{DECIDE} the body has {body.shape.note}")
        if optional := [each.name for each in parameters if not each.required and each.where == "query"]:
            notes.append(f"Further parameters: {one_line(', '.join(optional), 200)}")
        action["notes"] = tuple(notes)
        good, result = _good(answers)
        if listed is not None and body.shape is not None:
            action |= self._batch(listed, body.shape, records, place)
        else:
            action |= self._single(body, content, place)
        action |= _expectation(good, action, result)
        return Action(**{"record": {}, **action, **_bad(answers)})

    def _single(self, body: Described, content: str | None, place: _Place) -> dict[str, Any]:
        if content is None:
            return {}
        shape = body.shape or Shape("any")
        if content == "text":
            text = Noted("{{ event.eventType }}: {{ event.product.name }}", f"{DECIDE} the text")
            place.making.paths |= {"eventType", "product.name"}
            return {"record": {"text": text}}
        record, required = place.record(shape)
        if content == "form":
            record = {key: _in_form(value) for key, value in record.items()}
        return {"record": record, "required": required}

    def _batch(self, listed: _List, shape: Shape, records: int | None, place: _Place) -> dict[str, Any]:
        inside = _Place(self, batch=False)
        record, required = inside.record(listed.item)
        found: dict[str, Any] = {"record": record, "required": required}
        most = listed.most or 100
        if records is not None and listed.most is not None and records > listed.most:
            raise UsageError(f"--batch {records}: the document allows {listed.most} records in a request")
        found["records"] = records or most
        if listed.most is None and records is None:
            found["batch_note"] = f"{DECIDE} the document does not say how many a request may carry; 100 is a guess"
        if listed.key:
            around: Tree = {}
            for part in shape.parts:
                if part.name == listed.key:
                    around[key_of(part.name)] = "${ batch.records }"
                elif part.required:
                    around[key_of(part.name)] = place.placeholder((part.name,), part.shape)
            found["around"] = around
        return found

    def _need(self, key: str, setting: Tree, value: Any) -> None:
        self.settings[key] = setting
        if key not in self.required:
            self.required.append(key)
        self.samples[key] = value

    def setting(self, names: tuple[str, ...], shape: Shape) -> str:
        """The name of a setting for a value that no event has; one that is there already and alike serves again."""
        kind = shape.kind if shape.kind in ("integer", "number", "boolean") else "string"
        key = snake(names[-1])
        if key in self.settings and self.settings[key].get("type") != kind and len(names) > 1:
            key = snake("_".join(names[-2:]))
        value = sample(shape)
        if kind == "string" and not (isinstance(value, str) and value):
            value = "made-up"
        if kind in ("integer", "number") and (isinstance(value, bool) or not isinstance(value, int)):
            value = 1
        setting: Tree = Inline(type=kind, title=_title(names[-1]))
        if shape.description:
            setting["description"] = one_line(shape.description, 120)
        if shape.max_length and kind == "string":
            setting["maxLength"] = shape.max_length
            value = str(value)[: shape.max_length]
        setting["examples"] = [value]
        self._need(key, setting, value)
        return key


class _Place:
    """Where a value stands: in a record the event can be read, beside a batch only settings."""

    def __init__(self, making: _Making, *, batch: bool) -> None:
        self.making, self.batch = making, batch

    # --- records ---

    def record(self, shape: Shape) -> tuple[Tree, tuple[str, ...]]:
        """The tree, and its keys that must be there because the vendor asks for them and the event may lack them."""
        if shape.kind != "object" or not shape.parts:
            note = f"{DECIDE} the fields; the document does not say what stands here"
            self.making.paths.add("eventType")
            return {Note(note): None, "email": "${ fields.email }", "activity": "${ event.eventType }"}, ()
        tree = self.tree(shape, (), "event.product")
        needed = {part.name for part in shape.needed}
        from_event = tuple(name for name, value in tree.items() if name in needed and _reads_event(value))
        if not any(not isinstance(key, Note) for key in tree):
            note = f"{DECIDE} nothing is required, and no name is like one of the event's; an example:"
            first = shape.parts[0]
            tree = {Note(note): None, **tree, key_of(first.name): self.placeholder((first.name,), first.shape)}
        return tree, from_event

    def tree(self, shape: Shape, names: tuple[str, ...], item: str) -> Tree:
        found: Tree = {}
        others = []
        for part in shape.parts:
            here = (*names, part.name)
            value = self.needed(here, part.shape, item) if part.required else self.optional(here, part.shape, item)
            if value is None:
                others.append(part)
            else:
                found[key_of(part.name)] = value
        if others:
            said = [f"{part.name} ({_kind(part.shape)})" for part in others[:MAX_OPTIONAL]]
            more = f" and {len(others) - MAX_OPTIONAL} more" if len(others) > MAX_OPTIONAL else ""
            found[Note(f"It also takes: {one_line(', '.join(said), 900)}{more}")] = None
        return found

    def needed(self, names: tuple[str, ...], shape: Shape, item: str) -> Any:
        if shape.kind == "object" and shape.parts:
            inner = self.tree(shape, names, item)
            return inner if any(not isinstance(key, Note) for key in inner) else self.placeholder(names, shape)
        if shape.kind == "array":
            return self.some(names, shape, item)
        return self.from_event(names, shape, item) or self.placeholder(names, shape, item=item)

    def optional(self, names: tuple[str, ...], shape: Shape, item: str) -> Any:
        """Only where there is no doubt: an optional field that is wrong is worse than one that is missing."""
        if shape.kind == "object" and len(names) <= 2:
            parts = tuple(part for part in shape.parts if self.sure((*names, part.name), part.shape, item))
            if parts and all(part in parts for part in shape.needed):
                return self.tree(shape._replace(parts=parts), names, item)
            return None
        return self.from_event(names, shape, item) if self.sure(names, shape, item) else None

    def sure(self, names: tuple[str, ...], shape: Shape, item: str) -> bool:
        found = closest(names, shape, item=item) if shape.kind not in ("object", "array") else None
        return found is not None and not found.doubt

    def some(self, names: tuple[str, ...], shape: Shape, item: str) -> Any:
        inner = shape.item or Shape("any")
        if inner.kind == "object" and inner.parts and is_products(names[-1]) and item == "event.product":
            self.making.paths.add("items")
            do = self.tree(inner, (*names[:-1], "item"), "line")
            note = f"{DECIDE} which events have items? Of one without, this is left out"
            return Noted({"$each": "${ event.items }", "as": "line", "do": do}, note)
        if inner.kind == "array":
            return self.placeholder(names, shape)
        value = self.needed(names, inner, item)
        return [value]

    def from_event(self, names: tuple[str, ...], shape: Shape, item: str) -> Any:
        found = closest(names, shape, item=item)
        if found is None:
            return None
        self.making.paths.add(found.path)
        return _noted(found.value, f"{DECIDE} {found.doubt}" if found.doubt else "", shape)

    def placeholder(self, names: tuple[str, ...], shape: Shape, *, item: str = "") -> Any:
        """A value that can be sent, and the question that it stands for."""
        if shape.kind == "object":
            made = sample(shape, whole=False)
            return Noted(literal(_all_inline(made if isinstance(made, dict) else {})), f"{DECIDE} what stands in it?")
        if shape.kind == "array":
            made = sample(shape, whole=False)
            return Noted(literal(_all_inline(made if isinstance(made, list) else [])), f"{DECIDE} what stands in it?")
        if len(shape.enum) == 1:
            return literal(shape.enum[0])
        if shape.enum:
            return self._of_enum(names, shape, item)
        if shape.kind == "boolean":
            usual = shape.has_example and shape.example is True
            return Noted(usual, f"{DECIDE} true or false?")
        if item and not self.batch and shape.kind in ("string", "any"):
            if shape.format in ("date-time", "date"):
                value = "${ event.timestamp }" if shape.format == "date-time" else "${ date(event.timestamp) }"
                return Noted(value, f"{DECIDE} is it when the event happened?")
            if is_text(names[-1]):
                return self._of_text(shape)
            if words(names[-1]) in _IDS and len(names) == 1:
                # one value for all records would have each write over the one before
                self.making.paths.add("eventId")
                return Noted("${ event.eventId }", f"{DECIDE} what tells one record from another?")
        key = self.making.setting(names, shape)
        return Noted(f"${{ settings.{key} }}", f"{DECIDE} one value for each client, or something of the event?")

    def _of_enum(self, names: tuple[str, ...], shape: Shape, item: str) -> Any:
        said = one_line(", ".join(map(str, shape.enum)), 160)
        if item and words(names[-1]) in _EVENT_WORDS and all(isinstance(value, str) for value in shape.enum):
            table = snake(names[-1])
            entries = Inline(dict(zip(EVENT_TYPES, shape.enum, strict=False)))
            self.making.tables[table] = Noted(entries, f"{DECIDE} the vendor has: {said}")
            first = str(shape.enum[0]).replace("\\", "").replace("'", "")
            return f"${{ get(tables.{table}, event.eventType, '{first}') }}"
        return Noted(literal(shape.enum[0]), f"{DECIDE} one of: {said}")

    def _of_text(self, shape: Shape) -> Any:
        hole = "{{ event.eventType }}: {{ event.product.name"
        cut = f" | truncate({max(shape.max_length - 66, 1)})" if shape.max_length else ""
        return Noted(f"{hole}{cut} }}}}", f"{DECIDE} the text; an event without product.name has none")

    # --- beside the body ---

    def path(self, path: str, parameters: list[Parameter]) -> dict[str, str]:
        """The template, and what a person has to say of it."""
        doubts = []

        def hole(found: re.Match[str]) -> str:
            name = found[1]
            shape = next(each.shape for each in parameters if each.where == "path" and each.name == name)
            value = self._value((name,), shape)
            if isinstance(value, Noted):
                value, doubt = value
                doubts.append(f"{one_line(name, 40)}: {doubt.removeprefix(DECIDE).strip()}")
            inside = re.fullmatch(r"\$\{ ((?:settings|event|fields)(?:\.\w+)+) \}", str(value))
            return f"{{{{ {inside[1]} }}}}" if inside else str(value)

        written = re.sub(r"\{([^{}]+)\}", hole, path)
        note = f"{DECIDE} {'; '.join(doubts)} A look-up can find it, too" if doubts else ""
        return {"path": written, "path_note": note}

    def outside(self, parameters: list[Parameter], where: str) -> Tree:
        """Query or headers: what is required, and an idempotency key even where it is not."""
        found: Tree = {}
        for each in parameters:
            if each.where != where or (where == "header" and each.name.lower() in _OURS):
                continue
            if where == "header" and "idempotency" in each.name.lower():
                found[key_of(each.name)] = "${ delivery.id }"
            elif each.required:
                found[key_of(each.name)] = self._value((each.name,), each.shape)
        return found

    def _value(self, names: tuple[str, ...], shape: Shape) -> Any:
        if shape.kind == "array":
            shape = shape.item or Shape("string")
        if self.batch:
            return self.placeholder(names, shape)
        return self.from_event(names, shape, "event.product") or self.placeholder(names, shape)


_OURS = {"authorization", "content-type", "accept", "content-length", "host", "user-agent"}


class _List(NamedTuple):
    """Where the records stand in a body: under `key`, or as the whole of it."""

    key: str
    item: Shape
    most: int | None


def _listed(shape: Shape | None) -> _List | None:
    """The list of records that a body is made for, or None where it is for one."""
    if shape is None:
        return None
    if shape.kind == "array" and shape.item is not None and shape.item.kind == "object":
        return _List("", shape.item, shape.max_items)
    if shape.kind != "object":
        return None
    parts = shape.needed or shape.parts
    lists = [part for part in parts if _of_objects(part.shape)]
    about = [part for part in parts if part.shape.kind != "array" and closest((part.name,), part.shape) is not None]
    if len(lists) != 1 or about or any(part.shape.kind == "object" for part in parts):
        return None
    found = lists[0]
    assert found.shape.item is not None
    return _List(found.name, found.shape.item, found.shape.max_items)


def _of_objects(shape: Shape) -> bool:
    return shape.kind == "array" and shape.item is not None and shape.item.kind == "object" and bool(shape.item.parts)


# --- replies ---


def _good(answers: list[Answer]) -> tuple[Described, int]:
    """The body of the first 2xx, and its status."""
    for wanted in ("200", "201", "202", "204", "207"):
        for answer in answers:
            if answer.status == wanted:
                return answer.body, int(wanted)
    for answer in answers:
        if answer.status.startswith("2"):
            return answer.body, int(answer.status) if answer.status.isdecimal() else 200
    return Described(), 200


def _value_of(body: Described) -> Any:
    """A reply to show: the document's example where it fits, else one made up of its schema."""
    if body.has_example and isinstance(body.example, dict | list):
        return body.example
    return sample(body.shape) if body.shape is not None and "json" in (body.media or "json") else None


def _expectation(good: Described, action: dict[str, Any], status: int) -> dict[str, Any]:
    """`expect` and the sandbox's reply; for a batch also the results, where the reply has a list of them."""
    value = _value_of(good)
    if "records" in action and (found := _results(good.shape)) is not None:
        return {**found, "success": Body(status, _without(value, found["results_in"]))}
    note = f"{DECIDE} what only a good reply has"
    for path in _likely(good.shape, value):
        if _at(value, path) not in (None, False, "", [], {}):
            expect = f"${{ present({access(('response', 'body', *path))}) }}"
            return {"expect": expect, "expect_note": note, "success": Body(status, value)}
    return {
        "expect": f"${{ response.status == `{status}` }}",
        "expect_note": f"{DECIDE} the document says of no part of the reply that it is there",
        "success": Body(status, value),
    }


def _likely(shape: Shape | None, value: Any) -> Iterator[tuple[str | int, ...]]:
    """Places of a reply that speak of success, the likeliest first."""
    if isinstance(value, list):
        yield (0,)
    if not isinstance(value, dict):
        return
    required = {part.name for part in shape.needed} if shape is not None else set()
    names = [name for name in value if not isinstance(value[name], dict | list)]

    def rank(name: str) -> tuple[bool, bool, bool]:
        return words(name) not in ("id", "uuid"), not words(name).endswith("id"), name not in required

    yield from ((name,) for name in sorted(names, key=rank) if rank(name) < (True, True, True))
    for name, inner in value.items():
        if isinstance(inner, dict):
            yield from ((name, key) for key in sorted(inner, key=rank) if not isinstance(inner[key], dict | list))
        elif isinstance(inner, list) and inner:
            yield (name, 0)
    yield from ((name,) for name in names)


def _results(shape: Shape | None) -> dict[str, Any] | None:
    """How a reply speaks of single records, guessed of its first list of objects."""
    if shape is None:
        return None
    key, listed = "", shape
    if shape.kind == "object":
        part = next((part for part in shape.parts if _of_objects(part.shape)), None)
        if part is None:
            return None
        key, listed = part.name, part.shape
    if not _of_objects(listed):
        return None
    assert listed.item is not None
    parts = {words(part.name): part for part in listed.item.parts}
    flag = next((parts[word] for word in ("success", "ok", "succeeded", "valid") if word in parts), None)
    fault = next(
        (parts[word] for word in ("error", "errors", "errormessage", "errorcode", "code") if word in parts), None
    )
    whole = {part.name: sample(part.shape) for part in listed.item.parts if part is not flag and part is not fault}
    told = {fault.name: sample(fault.shape)} if fault is not None else {}
    if flag is not None and flag.shape.kind == "boolean":
        ok = f"${{ {access(('result', flag.name))} }}"
        good, bad = {flag.name: True, **whole}, {flag.name: False, **told}
    elif fault is not None:
        ok = f"${{ !present({access(('result', fault.name))}) }}"
        good, bad = whole, {**told}
    else:
        first = next((part for part in listed.item.parts if words(part.name).endswith("id")), listed.item.parts[0])
        ok = f"${{ present({access(('result', first.name))}) }}"
        good, bad = {first.name: sample(first.shape), **whole}, {}
    results: Tree = {
        Note(f"{DECIDE} is there one result for each record, in their order, and is this a good one?"): None,
        "at": f"${{ {access(('response', 'body', *([key] if key else [])))} }}",
        "ok": ok,
    }
    if fault is not None and fault.shape.kind in ("string", "integer"):
        results["code"] = f"${{ {access(('result', fault.name))} }}"
    place = access(("response", "body", *([key] if key else [])))
    return {
        "results": results,
        "results_in": key,
        "result": good,
        "failure": bad,
        "expect": f"${{ present({place}) }}",
        "expect_note": "",
    }


def _without(value: Any, key: str) -> dict[str, Any]:
    return {name: child for name, child in value.items() if name != key} if key and isinstance(value, dict) else {}


def _bad(answers: list[Answer]) -> dict[str, Any]:
    """What the sandbox and the examples say for a refusal and for too many requests."""
    by_status = {answer.status.upper(): answer for answer in answers}
    refusal = next((status for status in ("422", "400", "409", "413", "415") if status in by_status), None)
    described = by_status.get(refusal or "4XX") or by_status.get("DEFAULT")
    value = _value_of(described.body) if described is not None else None
    slow = by_status.get("429")
    rejected = Body(int(refusal or 422), value if value is not None else {"message": "made up"})
    return {"rejected": rejected, "throttled": Body(429, _value_of(slow.body) if slow is not None else None)}


def _replies(api: Api, operations: Sequence[Operation]) -> tuple[str, str, tuple[str, ...], tuple[Any, ...]]:
    """Code and message of a failure, comments on what is documented, and rules for what is clear."""
    code, message, said = "", "", dict[str, str]()
    outcomes: list[Any] = []
    for operation in operations:
        for answer in api.answers(operation):
            if answer.status.startswith("2"):
                continue
            said.setdefault(answer.status.upper(), one_line(answer.description.partition("\n")[0], 90))
            value = _value_of(answer.body)
            code = code or _found(value, _CODES)
            message = message or _found(value, _MESSAGES)
            if answer.status == "429" and not outcomes:
                outcomes += _throttle(answer.headers)
    notes = [f"{DECIDE} what the document says of other replies, and what should follow from each:"] if said else []
    notes += [f"  {'other' if status == 'DEFAULT' else status}: {text}" for status, text in sorted(said.items())]
    if "409" in said:
        notes.append("  Where it is there already and that is fine: {status: 409, then: delivered}")
    if not code and not message:
        notes.append(f"{DECIDE} where the vendor's code and message of an error stand: code, message")
    return code, message, ("\n".join(notes),) if notes else (), tuple(outcomes)


def _throttle(headers: tuple[str, ...]) -> list[Any]:
    known = {name.lower(): name for name in headers}
    if "retry-after" in known:
        return []  # heeded without a rule
    for name in known:
        if "reset" in name or "retry" in name:
            rule = Inline(status=429, then="throttle", wait=Inline(header=name, unit="s", max="1h"))
            return [Noted(rule, f"{DECIDE} does {name} tell seconds (s) or a moment (epoch)?")]
    return []


def _found(value: Any, names: tuple[str, ...]) -> str:
    """`${ response.body.error.code }`: the first place with one of these names, the shallowest first."""
    level: list[tuple[tuple[str | int, ...], Any]] = [((), value)]
    for _ in range(3):
        for wanted in names:
            for path, held in level:
                for name, child in held.items() if isinstance(held, dict) else ():
                    if words(name) == words(wanted) and not isinstance(child, dict | list):
                        return f"${{ {access(('response', 'body', *path, name))} }}"
        deeper: list[tuple[tuple[str | int, ...], Any]] = []
        for path, held in level:
            if isinstance(held, dict):
                deeper += [((*path, name), child) for name, child in held.items()]
            elif isinstance(held, list) and held:
                deeper.append(((*path, 0), held[0]))
        level = deeper
    return ""


def _check(api: Api) -> tuple[Tree, str, Any]:
    """A GET that needs nothing, the one that speaks of the account first."""
    best: tuple[int, int, Operation] | None = None
    for at, one in enumerate(api.operations()):
        if one.method != "GET" or "{" in one.path:
            continue
        names = [words(part) for part in one.path.split("/") if part]
        rank = next((number for number, word in enumerate(_CHECKS) if word in names), len(_CHECKS))
        if (best is None or (rank, at) < best[:2]) and not any(each.required for each in api.parameters(one)):
            best = (rank, at, one)
    if best is None:
        note = f"{DECIDE} a harmless request that shows whether the credentials work; the document has none"
        return Inline(method="GET", path="/account"), note, {"id": "1"}
    operation = best[2]
    answer, _ = _good(api.answers(operation))
    value = _value_of(answer)
    note = f"{DECIDE} is this a harmless request that shows whether the credentials work?"
    return Inline(method="GET", path=operation.path), note, value if isinstance(value, dict | list) else {}


# --- small things ---


def _content(body: Described) -> str | None:
    if not body.media:
        return None
    if body.media == "application/x-www-form-urlencoded":
        return "form"
    return "text" if body.media == "text/plain" else "json"


def _action_name(operation: Operation, taken: set[str]) -> str:
    """Of the operation's id; of method and the end of the path where there is none, or it is only the path again."""
    parts = [part for part in operation.path.split("/") if part and "{" not in part][-3:]
    verb = _VERBS.get(operation.method, operation.method)
    name = snake(" ".join([verb, *parts]) if "/" in operation.id or not operation.id else operation.id, "action")
    while name in taken:
        name = f"{name}_again"
    return name


_VERBS = {"POST": "create", "PUT": "update", "PATCH": "change", "DELETE": "delete"}


def _noted(value: Any, doubt: str, shape: Shape) -> Any:
    said = [doubt] if doubt else []
    if shape.max_length is not None and "truncate" not in str(value):
        said.append(f"at most {shape.max_length} characters")
    if shape.note:
        said.append(one_line(shape.note, 80))
    return Noted(value, "; ".join(said)) if said else value


def _kind(shape: Shape) -> str:
    if shape.enum:
        return one_line(f"one of {', '.join(map(str, shape.enum[:8]))}", 60)
    what = {"any": "anything", "string": "text", "array": "list", "object": "map", "boolean": "true or false"}
    plain = what.get(shape.kind, shape.kind)
    return f"{plain}: {shape.note}" if shape.note else plain


def _title(name: str) -> str:
    return snake(name).replace("_", " ").capitalize()


def _reads_event(value: Any) -> bool:
    if isinstance(value, Noted):
        return _reads_event(value.value)
    return isinstance(value, str) and ("event." in value or "fields." in value)


def _in_form(value: Any) -> Any:
    """A form holds texts: what is more than that goes in as JSON."""
    if isinstance(value, Noted):
        return Noted(_in_form(value.value), value.note)
    nested = isinstance(value, dict) or (
        isinstance(value, list) and any(isinstance(plain(each), dict | list) for each in value)
    )
    return {"$json": value} if nested else value


def _all_inline(value: Any) -> Any:
    if isinstance(value, dict):
        return Inline({key: _all_inline(child) for key, child in value.items()})
    return [_all_inline(child) for child in value] if isinstance(value, list) else value


def _at(value: Any, path: Sequence[str | int]) -> Any:
    for part in path:
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            return None
    return value


def _remote(server: Server) -> bool:
    """An address on the internet: no path alone, no machine of one's own."""
    scheme, _, rest = server.url.partition("://")
    host = rest.partition("/")[0].partition(":")[0]
    if scheme not in ("https", "http") or not host or not re.fullmatch(r"[!-~]+", server.url) or "@" in host:
        return False
    if not re.fullmatch(r"(/([\w.~-]|\{[^{}]+\})+)*/?", rest[len(rest.partition("/")[0]) :]):
        return False
    return "{" in host or _HOST.match(host.lower()) is not None


def _rank(scheme: Scheme) -> int:
    """Whether a connector can do it: at once, with a person's consent first, or only by what is written by hand."""
    match scheme.kind:
        case "http":
            return 0 if scheme.scheme in ("basic", "bearer") else 3
        case "apiKey":
            return 0
        case "oauth2":
            return {"clientCredentials": 0, "password": 1, "authorizationCode": 1}.get(scheme.flow, 2)
    return 3


__all__ = ["Answers", "draft_from"]
