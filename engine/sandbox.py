"""
A connector's own simulator: the routes of its `sandbox:` section, answered in the mapping language.

It is not the vendor. It answers in the vendor's shapes, so that a connector can be tried, tested and loaded without an
account; whatever it says has been written by the connector's author.
"""

from __future__ import annotations

import re
import threading
import uuid
from copy import copy
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from engine.bodies import JSON_LINES, csv_text, read_csv, read_form, read_json, read_json_lines
from engine.errors import BadValue, SpecErrors
from engine.expressions import Compiler
from engine.http import Prepared, Reply
from engine.mapping import compile_tree, encode_json
from engine.names import SANDBOX
from engine.notations.semantics import plain
from engine.sending import Hosts
from engine.spec import types, units
from engine.spec.findings import Finding
from engine.unpacking import pack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from engine.expressions import Path

ROUTE = SANDBOX | {"path"}


class _Reply:
    def __init__(self, compiler: Compiler, spec: types.SandboxReply, place: Path) -> None:
        self.spec = spec
        self.status = compiler.value(spec.status, ROUTE, (*place, "status"))
        self.headers = compile_tree(compiler, spec.headers, ROUTE, (*place, "headers"))
        self.body = compile_tree(compiler, spec.body, ROUTE, (*place, "body"))
        self.text = compiler.text(spec.text, ROUTE, (*place, "text")) if spec.text is not None else None
        self.rows = compile_tree(compiler, spec.csv.rows, ROUTE, (*place, "csv", "rows")) if spec.csv else None

    def make(self, scope: Mapping[str, Any]) -> Reply:
        headers = {name.lower(): plain(value) for name, value in (self.headers(scope) or {}).items()}
        content, kind = b"", ""
        if self.rows is not None and self.spec.csv is not None:
            content, kind = csv_text(self.rows(scope) or [], self.spec.csv).encode(), "text/csv"
        elif self.text is not None:
            content, kind = str(self.text(scope) or "").encode(), "text/plain"
        elif self.spec.body is not None:
            body = self.body(scope)
            content, kind = encode_json(body), "application/json"
            if self.spec.packed:
                content, kind = pack(body, self.spec.packed), "application/octet-stream"
        if kind:
            headers.setdefault("content-type", kind)
        return Reply(int(plain(self.status(scope) or 200)), headers, content)


class _Route:
    def __init__(self, compiler: Compiler, spec: types.SandboxRoute, place: Path) -> None:
        self.spec = spec
        self.method = spec.method.upper()
        self.pattern = re.compile(path_pattern(spec.path))
        self.when = compiler.condition(spec.when, ROUTE, (*place, "when"))
        remember = spec.remember if isinstance(spec.remember, list) else [spec.remember] if spec.remember else []
        self.remember = [
            (
                compiler.text(one.get("key"), ROUTE, (*place, "remember", "key")),
                compile_tree(compiler, one.get("value"), ROUTE, (*place, "remember", "value")),
            )
            for one in remember
        ]
        self.reply = _Reply(compiler, spec.reply, (*place, "reply"))

    def fits(self, request: dict[str, Any]) -> dict[str, str] | None:
        if self.method not in ("ANY", request["method"]):
            return None
        if self.spec.host is not None and not Hosts([self.spec.host]).allows(request["host"]):
            return None
        match = self.pattern.fullmatch(request["raw_path"])
        return {name: unquote(value) for name, value in match.groupdict().items()} if match else None


def path_pattern(path: str) -> str:
    """`/x/{id}/{rest*}` as a regular expression with named groups."""
    out = ""
    for part in re.split(r"(\{\w+\*?\})", path):
        if part.startswith("{") and part.endswith("*}"):
            out += f"(?P<{part[1:-2]}>.*)"
        elif part.startswith("{"):
            out += f"(?P<{part[1:-1]}>[^/]+)"
        else:
            out += re.escape(part)
    return out


class Sandbox:
    """One connector's simulator with its memory: tokens issued, things remembered, counts, rates."""

    def __init__(self, connector: types.Connector, *, new_id: Callable[[], str] = lambda: uuid.uuid4().hex) -> None:
        assert connector.sandbox is not None
        self.connector, self.spec, self.new_id = connector, connector.sandbox, new_id
        self.hosts = Hosts(self.spec.hosts or connector.hosts)
        self.lock = threading.Lock()
        self.compiler = compiler = Compiler()
        self.routes = [_Route(compiler, route, ("sandbox", "routes", at)) for at, route in enumerate(self.spec.routes)]
        self.tokens = {
            name: (
                token,
                compiler.value(token.accept, ROUTE, ("sandbox", "tokens", name, "accept")),
                compiler.value(token.value, ROUTE, ("sandbox", "tokens", name, "value")),
                _Reply(compiler, token.refused, ("sandbox", "tokens", name, "refused")),
            )
            for name, token in self.spec.tokens.items()
        }
        self.limits = {
            name: (
                units.rate(limit.rate),
                compiler.value(limit.by, ROUTE, ("sandbox", "limits", name, "by")),
                _Reply(compiler, limit.reply, ("sandbox", "limits", name, "reply")),
            )
            for name, limit in self.spec.limits.items()
        }
        self.problems = compiler.problems
        self.empty()

    def empty(self) -> None:
        """As if nothing had been asked yet."""
        self.issued: dict[tuple[str, str], float] = {}
        self.memory: dict[str, Any] = {}
        self.counts: dict[str, int] = {}
        self.used: dict[str, list[float]] = {}
        self.served = 0

    def afresh(self, new_id: Callable[[], str]) -> Sandbox:
        """The same simulator with a memory of its own; nothing is compiled again."""
        other = copy(self)
        other.new_id, other.lock = new_id, threading.Lock()
        other.empty()
        return other

    def require_sound(self) -> None:
        """SpecErrors unless everything compiled."""
        if self.problems:
            raise SpecErrors(
                [
                    Finding(
                        self.connector.name,
                        1,
                        1,
                        one.rule,
                        "error",
                        f"{'.'.join(map(str, one.place))}: {one.message}",
                        one.hint,
                    )
                    for one in self.problems
                ]
            )

    def answer(self, prepared: Prepared, now: float) -> Reply:
        """What the simulated vendor says; 404 where no route fits, 500 with the reason where a route is wrong."""
        with self.lock:
            self.served += 1
            request = seen(prepared)
            counted: dict[str, int] = {}
            scope: dict[str, Any] = {"request": request, "path": {}, "now": int(now), "calls": self.calls(now, counted)}
            try:
                for route in self.routes:
                    path = route.fits(request)
                    if path is None:
                        continue
                    inside = {**scope, "path": path}
                    if not route.when(inside):
                        continue
                    return self.stopped(route, inside, now) or self.serve(route, inside)
            except BadValue as error:
                return Reply(500, {"content-type": "text/plain"}, f"sandbox: {error}".encode())
            return Reply(404, {"content-type": "text/plain"}, b"sandbox: no route fits this request")

    def serve(self, route: _Route, scope: dict[str, Any]) -> Reply:
        for key, value in route.remember:
            if (name := key(scope)) is not None:
                self.memory[name] = value(scope)
        return route.reply.make(scope)

    def stopped(self, route: _Route, scope: dict[str, Any], now: float) -> Reply | None:
        """The refusal of a token that is not alive, or of a limit that is used up."""
        if route.spec.token is not None:
            _, accept, value, refused = self.tokens[route.spec.token]
            sent = accept(scope)
            fixed = value(scope)
            if fixed is not None:
                alive = sent == fixed
            else:
                alive = self.issued.get((route.spec.token, plain(sent) if sent is not None else ""), 0) > now
            if not alive:
                return refused.make(scope)
        if route.spec.limit is not None:
            rate, by, full = self.limits[route.spec.limit]
            key = f"{route.spec.limit}:{plain(found) if (found := by(scope)) is not None else ''}"
            recent = [at for at in self.used.get(key, []) if at > now - rate.per_s]
            if len(recent) >= rate.uses:
                self.used[key] = recent
                return full.make(scope)
            self.used[key] = [*recent, now]
        return None

    def calls(self, now: float, counted: dict[str, int]) -> dict[str, Callable[..., Any]]:
        """The functions that only a sandbox has."""

        def count(key: Any) -> int:
            """How many requests, this one included, have asked for the count of this key."""
            name = plain(key) if key is not None else ""
            if name not in counted:
                self.counts[name] = self.counts.get(name, 0) + 1
                counted[name] = self.counts[name]
            return counted[name]

        def sequence(name: Any) -> int:
            self.counts[f"#{name}"] = self.counts.get(f"#{name}", 0) + 1
            return self.counts[f"#{name}"]

        def issue(name: Any) -> str:
            token = f"sandbox-{name}-{self.new_id()}"
            spec = self.tokens[str(name)][0]
            self.issued[str(name), token] = now + units.duration(spec.lifetime)
            return token

        def find_all(text: Any, pattern: Any) -> list[str] | None:
            import re2

            return None if text is None else [str(found) for found in re2.findall(str(pattern), plain(text))]

        return {
            "recall": lambda key: self.memory.get(plain(key)) if key is not None else None,
            "count": count,
            "sequence": sequence,
            "issue": issue,
            "find_all": find_all,
        }


def seen(prepared: Prepared) -> dict[str, Any]:
    """`request` as the sandbox's expressions see it."""
    parts = urlsplit(prepared.url)
    headers = {name.lower(): value for name, value in prepared.headers.items()}
    content = prepared.content or b""
    content_type = headers.get("content-type", "")
    kind = content_type.split(";")[0]
    text = content.decode("utf-8", "replace")
    found: dict[str, Any] = {
        "method": prepared.method.upper(),
        "host": parts.hostname or "",
        "path": unquote(parts.path) or "/",
        "raw_path": parts.path or "/",
        "query": dict(parse_qsl(parts.query, keep_blank_values=True)),
        "headers": headers,
        "text": text,
    }
    if kind == "application/x-www-form-urlencoded":
        found["form"] = dict(parse_qsl(text, keep_blank_values=True))
    elif kind == "multipart/form-data":
        found["form"], found["files"] = read_form(content_type, content)
    elif kind == "text/csv":
        found["rows"] = read_csv(text)
    elif content:
        try:
            found |= {"rows": read_json_lines(text)} if kind == JSON_LINES else {"json": read_json(text)}
        except (ValueError, RecursionError):
            return found
    return found


class SandboxTransport:
    """The walk against sandboxes in the same process: no socket, the same requests and replies."""

    def __init__(self, sandboxes: Iterable[Sandbox], now: Callable[[], float]) -> None:
        self.sandboxes, self.now = list(sandboxes), now

    def send(self, request: Prepared) -> Reply:
        return answer(self.sandboxes, request, self.now())


def answer(sandboxes: Iterable[Sandbox], request: Prepared, now: float) -> Reply:
    """The reply of the sandbox whose hosts include the request's; 421 where there is none."""
    host = urlsplit(request.url).hostname or ""
    for sandbox in sandboxes:
        if sandbox.hosts.allows(host):
            return sandbox.answer(request, now)
    return Reply(421, {"content-type": "text/plain"}, f"sandbox: no connector here speaks for {host}".encode())


def application(sandboxes: list[Sandbox], now: Callable[[], float]) -> Any:
    """A bare ASGI application: all sandboxes behind one port, told apart by the Host header."""

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "").split(":")[0]
        raw = scope.get("raw_path", b"").decode("latin-1") or scope["path"]
        query = scope["query_string"].decode("latin-1")
        url = f"https://{host}{raw.split('?')[0]}{f'?{query}' if query else ''}"
        reply = answer(sandboxes, Prepared(scope["method"], url, headers, body or None, 0.0), now())
        sent = {**reply.headers, "content-length": str(len(reply.content)), "x-sandbox": "simulated"}
        if reply.status == 204:
            del sent["content-length"]
        await send(
            {
                "type": "http.response.start",
                "status": reply.status,
                "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in sent.items()],
            }
        )
        await send({"type": "http.response.body", "body": reply.content})

    return app
