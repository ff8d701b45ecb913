"""Requests: hosts not named or open to the event, queries without escaping, texts that are one hole."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from engine.notations.emitting import Problem, is_expression
from engine.sending import Hosts
from engine.spec.check.rules import all_auths
from engine.unpacking import order_fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.spec.located import Located
    from engine.spec.types import Connector, Request, Step

    Path = tuple[str | int, ...]

_OF_THE_EVENT = ("event", "fields", "record", "vars", "lookups", "batch", "key", "delivery", "row", "item")
_HOST = re.compile(r"\s*[a-z][a-z0-9+.-]*://([^/?#]*)", re.IGNORECASE)
_HOLE = re.compile(r"\{\{-?(.*?)-?\}\}|\{%.*?%\}", re.DOTALL)
_NAME = re.compile(r"(?<![.\w'\"])([a-z_]+)\b(?!\s*\()")
_ONE_HOLE = re.compile(r"\s*\{\{\s*[A-Za-z_][\w.\[\]]*\s*\}\}\s*\Z")
_QUERY_KEYS = ("q", "query", "soql", "sql", "statement", "where")
_SELECT = re.compile(r"\bSELECT\b.*\bFROM\b", re.DOTALL)
_SELECT_ANY = re.compile(r"\bselect\b", re.IGNORECASE)
_TAG = re.compile(
    r"</?(?:p|br|hr|b|i|u|strong|em|a|div|span|ul|ol|li|h[1-6]|table|tr|td|th|img|pre|blockquote)(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
_ESCAPED = re.compile(r"\|\s*html\s*\Z")
_NO_MARKUP = frozenset({"text", "headers", "query", "path", "url", "auth", "auths", "http"})  # XML may be a text
_WALKED = ("fields", "auth", "auths", "checks", "http", "actions", "provision")


class Asked(NamedTuple):
    """One request of a connector, and where it stands."""

    place: Path
    request: Request


def all_requests(connector: Connector) -> Iterator[Asked]:
    for at, auth in all_auths(connector):
        if auth.token is None:
            continue
        if auth.token.request is not None:
            yield Asked((*at, "token", "request"), auth.token.request)
        for name, log_in in auth.token.steps.items():
            yield Asked((*at, "token", "steps", name, "request"), log_in.request)
        for name, look in auth.token.discover.items():
            yield Asked((*at, "token", "discover", name, "request"), look.request)
        if auth.token.consent is not None:
            yield Asked((*at, "token", "consent", "request"), auth.token.consent.request)
        if auth.token.renew is not None:
            yield Asked((*at, "token", "renew", "request"), auth.token.renew.request)
    for name, check in connector.checks.items():
        yield Asked(("checks", name, "request"), check.request)
    for name, needed in connector.provision.items():
        if needed.look is not None:
            yield Asked(("provision", name, "look", "request"), needed.look.request)
        if needed.make is not None:
            yield Asked(("provision", name, "make", "request"), needed.make.request)
    for name, action in connector.actions.items():
        place: Path = ("actions", name)
        for title, lookup in action.lookups.items():
            if lookup.request is not None:
                yield Asked((*place, "lookups", title, "request"), lookup.request)
            for source, spec in lookup.sources.items():
                yield Asked((*place, "lookups", title, "sources", source, "request"), spec.request)
            if lookup.create is not None:
                yield Asked((*place, "lookups", title, "create", "request"), lookup.create.request)
        for step_place, step in all_steps(connector, name):
            yield Asked((*step_place, "request"), step.request)


def all_steps(connector: Connector, action: str) -> Iterator[tuple[Path, Step]]:
    spec = connector.actions[action]
    for key, steps in (("steps", spec.steps), ("on_failure", spec.on_failure)):
        for title, step in steps.items():
            yield ("actions", action, key, title), step


def request_faults(connector: Connector) -> Iterator[Problem]:
    hosts = Hosts(connector.hosts)
    if connector.http.base_url:
        yield from _address(connector.http.base_url, ("http", "base_url"), hosts)
    based = True
    for at, auth in all_auths(connector):
        if auth.base_url:
            yield from _address(auth.base_url, (*at, "base_url"), hosts)
        if auth.token is not None and auth.token.consent is not None:
            page = auth.token.consent.url
            if not page.startswith(("https://", "${", "{{")):
                says = "the page where a person agrees is not one of https"
                yield Problem((*at, "token", "consent", "url"), "host", says, "it begins with https:// and a host")
        if auth.place.url:
            yield from _address(auth.place.url, (*at, "place", "url"), hosts)
        based = based and bool(auth.base_url or auth.place.url or connector.http.base_url)
    for place, request in all_requests(connector):
        if request.decode and (says := order_fault(request.decode)):
            yield Problem((*place, "decode"), "value", says, "such as [gzip, tar, json]")
        if request.url is not None:
            yield from _address(request.url, (*place, "url"), hosts)
        elif request.path is not None and not based:
            says = "a path needs a base URL to stand below"
            yield Problem((*place, "path"), "base-url", says, "write `http: {base_url: https://…}`, or a whole `url:`")


def _address(text: Any, place: Path, hosts: Hosts) -> Iterator[Problem]:
    """Is the host named, and out of the event's reach?"""
    if not isinstance(text, str):
        return
    if is_expression(text):
        yield from _chosen(text.strip()[2:-1], place)
        return
    found = _HOST.match(text)
    host = found[1] if found else _first_part(text)
    if _HOLE.search(host):
        for hole in _HOLE.finditer(host):
            yield from _chosen(hole[1] or hole[0], place)
        ending = _HOLE.sub("\0", host).rpartition("\0")[2].lower()
        if found and ending.startswith(".") and not any(_may_end(pattern, ending) for pattern in hosts.patterns):
            yield Problem(place, "host", f"no host of `hosts` ends in {ending}", _add(f"*{ending}"))
        return
    if found is None:
        yield Problem(place, "host", "not an address", "it begins with https:// and a host")
        return
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        name = ""
    if not text.strip().lower().startswith("https:"):
        yield Problem(place, "host", "requests are sent by https only", "write https://")
    elif not hosts.allows(name):
        yield Problem(place, "host", f"{name or host} is not in the connector's hosts", _add(name))


def _first_part(text: str) -> str:
    """What stands before the first / that is outside of a hole."""
    plain = _HOLE.sub(lambda hole: hole[0].replace("/", "\0"), text)
    return text[: plain.index("/")] if "/" in plain else text


def _may_end(pattern: str, ending: str) -> bool:
    name = pattern[1:] if pattern.startswith("*.") else f".{pattern}"
    return name.endswith(ending) or (pattern.startswith("*.") and ending.endswith(name))


def _add(host: str) -> str:
    return f"add it to `hosts:`: {host}" if host else "name the host"


def _chosen(expression: str, place: Path) -> Iterator[Problem]:
    read = next((name for name in _NAME.findall(expression) if name in _OF_THE_EVENT), None)
    if read is not None:
        says = f"the host is read from {read}, so whoever sends events could choose it"
        yield Problem(place, "event-host", says, "take it from settings, or from what the log-in saved (token)")


# --- scalars ---


def scalar_faults(located: Located) -> Iterator[Problem]:
    """Query texts without escaping, and texts that are one hole, as they are written in the file."""
    for name in _WALKED:
        if (node := located.root.get(name)) is not None:
            yield from _scalars(located, node, (name,))


def _scalars(located: Located, node: Any, place: Path) -> Iterator[Problem]:
    value = node.value
    if isinstance(value, dict):
        for key, child in value.items():
            if key not in ("$soql", "$sql", "$html", "$literal"):
                yield from _scalars(located, child, (*place, key))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _scalars(located, child, (*place, index))
    elif isinstance(value, str):
        if "request" in place and _is_query(value, place):
            says = "a query put together from values that are not escaped"
            yield Problem(
                place, "query-text", says, 'write {$sql: "SELECT … WHERE Email = {{ key }}"}, or $soql for Salesforce'
            )
        elif _ONE_HOLE.match(value) and _stands_here(located, node, value):
            says = "a text that is one hole"
            hint = f"write ${{ {value.strip()[2:-2].strip()} }}, which keeps the type"
            yield Problem(place, "hole", says, hint, "warning")
        elif _is_markup(value) and not _NO_MARKUP.intersection(place):
            says = "HTML put together from values that are not escaped"
            yield Problem(place, "html-text", says, "write {$html: …}, which escapes each by itself", "warning")


def _is_query(text: str, place: Path) -> bool:
    if "{{" not in text and not is_expression(text):
        return False
    key = next((part for part in reversed(place) if isinstance(part, str)), "")
    return bool(_SELECT.search(text) or (key.lower() in _QUERY_KEYS and _SELECT_ANY.search(text)))


def _is_markup(text: str) -> bool:
    """Has it tags that are surely HTML, and a hole that nobody escapes?"""
    if "{{" not in text or _TAG.search(_HOLE.sub("", text)) is None:
        return False
    return any(hole[1] is not None and not _ESCAPED.search(hole[1]) for hole in _HOLE.finditer(text))


def _stands_here(located: Located, node: Any, text: str) -> bool:
    """False for what a preset of auth has added."""
    line, column = node.mark
    return text.strip()[:20] in located.source_line(line)[column - 1 :]


def reply_faults(connector: Connector) -> Iterator[Problem]:
    """Steps that write, of which nothing says what a good reply is."""
    for name in connector.actions:
        for place, step in all_steps(connector, name):
            told = step.request.expect is not None or step.results or step.repeat != "safe"
            if place[2] == "steps" and step.request.method == "POST" and not told:
                says = "nothing says what a good reply is, nor what a repeat does"
                hint = "write `expect:` or `results:`; and `repeat: may_double` or `never` where twice does harm"
                yield Problem((*place, "request"), "no-expect", says, hint, "warning")
