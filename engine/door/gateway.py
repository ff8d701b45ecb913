"""
An event of API Gateway or of a Function URL -> a request of the door, and the door's answer -> what the gateway takes.

Events of HTTP APIs and Function URLs have the payload format 2.0, those of REST APIs 1.0.
https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html
"""

from __future__ import annotations

import base64
import binascii
import time
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, unquote, urlencode

from engine.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, MutableMapping

    from engine.door.answers import Answer
    from engine.door.asgi import App, Scope

GATEWAY_S = 29.0  # an HTTP API answers 503 by itself after 30 s, a REST API 504 after 29; a Function URL waits
FRAMING = ("content-length", "transfer-encoding", "connection")  # the gateway's own concern, on both sides
_OF_HTTP = ("requestContext", "httpMethod", "rawPath", "routeKey")


class Malformed(Exception):
    """It is meant as an HTTP request and is none."""


class Request(NamedTuple):
    """One HTTP request as the door takes it."""

    scope: Scope
    body: bytes
    until: float | None  # how long the gateway waits for an answer, by unix time; None: as long as the function takes


def request_of(event: object, base_path: str = "") -> Request:
    """
    The request in an event; `base_path` and the stage are taken off its path.

    Malformed where it is one and can't be read; UsageError for an event of another kind.
    """
    if not isinstance(event, dict) or not any(name in event for name in _OF_HTTP):
        raise UsageError(
            f"receive takes events of API Gateway (an HTTP API or a REST API) and of Function URLs; {_shown(event)}"
        )
    context = _map(event, "requestContext")
    http = context.get("http")
    if isinstance(http, dict):
        method, path, query = _text(http, "method"), _text(event, "rawPath"), _text(event, "rawQueryString", "")
        address = http.get("sourceIp")
    else:
        method, path, query = _text(event, "httpMethod"), _text(event, "path"), _query(event)
        address = _map(context, "identity").get("sourceIp")
    body = _body(event)
    headers = [(name.lower().encode(), value) for name, value in _headers(event) if name.lower() not in FRAMING]
    if body or method == "POST":
        headers.append((b"content-length", b"%d" % len(body)))
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "https",
        "method": method,
        "path": _path(path, context.get("stage"), base_path),
        "raw_path": path.encode(errors="replace"),
        "query_string": query.encode(errors="replace"),
        "headers": headers,
        "client": (address, 0) if isinstance(address, str) else None,
        "server": None,
        "state": {"whole": True},
    }
    return Request(scope, body, _until(context))


class Answered(NamedTuple):
    """What the door said."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def event(self) -> dict[str, Any]:
        """As a gateway takes it; bodies of ours are text."""
        headers: dict[str, str] = {}
        for name, value in self.headers:
            key, text = name.decode(), value.decode("latin-1")
            if key not in FRAMING:
                headers[key] = f"{headers[key]}, {text}" if key in headers else text
        return {"statusCode": self.status, "headers": headers, "body": self.body.decode(), "isBase64Encoded": False}


def answer_event(answer: Answer) -> dict[str, Any]:
    """An answer that did not come from the door."""
    return Answered(answer.status, [*answer.headers, (b"content-type", answer.media_type)], answer.body).event()


async def answered(app: App, request: Request) -> Answered:
    """What an app says to a request whose body is all there."""
    unread = [request.body]
    said: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        said.append(message)

    await app(request.scope, receive, send)
    start, *parts = said
    body = b"" if request.scope["method"] == "HEAD" else b"".join(part.get("body", b"") for part in parts)
    return Answered(start["status"], list(start["headers"]), body)


def _until(context: Mapping[str, Any]) -> float | None:
    """The gateway counts from when the request came, and so also the start of an environment."""
    if ".lambda-url." in str(context.get("domainName", "")):
        return None
    now = time.time()
    came_ms = context.get("timeEpoch", context.get("requestTimeEpoch"))
    waited_s = now - came_ms / 1000 if isinstance(came_ms, int | float) else 0.0
    return now + GATEWAY_S - (waited_s if 0 < waited_s < GATEWAY_S else 0.0)


def _path(path: str, stage: object, base_path: str) -> str:
    """Without what stands before the connector: the stage of the address that AWS gives, the path of a domain."""
    for before in (stage if isinstance(stage, str) and stage != "$default" else "", base_path):
        prefix = f"/{quote(before.strip('/'))}/"
        if len(prefix) > 2 and path.startswith(prefix):
            path = path[len(prefix) - 1 :]
    return unquote(path)


def _headers(event: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    many = event.get("multiValueHeaders")
    for name, given in (_map(event, "multiValueHeaders") if many else _map(event, "headers")).items():
        for value in given if many and isinstance(given, list) else [given]:
            if not isinstance(value, str):
                raise Malformed(f"the header {name[:100]} is no text")
            yield name, value.encode(errors="replace")


def _query(event: Mapping[str, Any]) -> str:
    """Of a REST API, which has decoded it."""
    many = event.get("multiValueQueryStringParameters")
    found = _map(event, "multiValueQueryStringParameters") if many else _map(event, "queryStringParameters")
    return urlencode(found, doseq=True)


def _body(event: Mapping[str, Any]) -> bytes:
    body = event.get("body")
    if body is None:
        return b""
    if not isinstance(body, str):
        raise Malformed("the body is no text")
    if not event.get("isBase64Encoded"):
        return body.encode(errors="surrogatepass")  # what is no UTF-8 is refused as such
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise Malformed("the body is not in base64, though the event says so") from None


def _map(event: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = event.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise Malformed(f"{name} is no object")
    return found


def _text(event: Mapping[str, Any], name: str, default: str | None = None) -> str:
    found = event.get(name, default)
    if not isinstance(found, str):
        raise Malformed(f"there is no {name}")
    return found


def _shown(event: object) -> str:
    """What came instead, by the names of its keys and never by what it holds."""
    if not isinstance(event, dict):
        return f"what came is no object but of the type {type(event).__name__}"
    records = event.get("Records")
    first = records[0] if isinstance(records, list) and records and isinstance(records[0], dict) else {}
    source = first.get("eventSource") or first.get("EventSource") or event.get("source")
    whose = f", as of {source[:60]}" if isinstance(source, str) else ""
    keys = ", ".join(sorted(str(key)[:40] for key in event)[:8])
    return f"what came has the keys {keys}{whose}" if keys else "what came is empty"
