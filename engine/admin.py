"""The admin side of the HTTP door: health, metrics, lanes and what else is mounted, behind a token or the loopback."""

from __future__ import annotations

import base64
import hmac
import time
from collections.abc import Callable, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.routing import Route

from engine import answers
from engine.answers import Answer
from engine.asgi import reply
from engine.door import health
from engine.errors import StoreUnavailable, told
from engine.listening import is_loopback
from engine.telemetry import METRICS_TYPE, NullTelemetry

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from engine.asgi import App, Receive, Scope, Send
    from engine.door import State
    from engine.ports import Telemetry

_FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip")


def admin_app(
    state: State,
    *,
    token: str | None,
    routes: Sequence[BaseRoute] = (),
    telemetry: Telemetry | None = None,
    clock: Callable[[], float] = time.time,
) -> App:
    """
    Health, metrics, lanes, and the routes given; all but health are guarded.

    With a token: `Authorization: Bearer TOKEN`, or Basic with it as the password, which browsers can ask for. Without:
    only for a Host that is loopback, so that no web page reaches in by a name of its own, and not through a proxy. What
    changes something is refused to pages of other origins, and leaves a line `audit` in the log.
    """

    async def show_health(request: Request) -> Response:
        return _response(await health(state, request.url.path, reasons=True))

    async def show_metrics(_: Request) -> Response:
        return Response(await run_in_threadpool(state.metrics), media_type=METRICS_TYPE)

    async def show_lanes(_: Request) -> Response:
        lanes = await run_in_threadpool(state.lanes)
        now = clock()
        return _response(Answer(200, answers.encode({"lanes": [answers.shown_lane(lane, now=now) for lane in lanes]})))

    async def not_found(request: Request, _: Exception) -> Response:
        return _response(answers.problem(404, detail=f"there is nothing at {request.url.path[:200]}"))

    async def not_allowed(_: Request, error: Exception) -> Response:
        given = getattr(error, "headers", None) or {}
        allow = tuple((name.lower().encode(), value.encode()) for name, value in given.items())
        return _response(answers.problem(405, headers=allow))

    async def store_away(_: Request, __: Exception) -> Response:
        return _response(answers.busy("the store can't be read"))

    async def broken(_: Request, error: Exception) -> Response:
        listener.event("fault", where="admin", error=told(error))
        return _response(answers.problem(500))

    listener = telemetry or NullTelemetry()
    app = Starlette(
        routes=[
            Route("/healthz", show_health),
            Route("/readyz", show_health),
            Route("/metrics", show_metrics),
            Route("/lanes", show_lanes),
            *routes,
        ],
        exception_handlers={404: not_found, 405: not_allowed, StoreUnavailable: store_away, Exception: broken},
    )

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        refusal = None if scope["path"] in ("/healthz", "/readyz") else _guard(scope, token)
        if scope["method"] not in ("GET", "HEAD"):
            send = audited(scope, send)
        if refusal is not None:
            await reply(send, refusal)
        else:
            await app(scope, receive, send)

    def audited(scope: Scope, send: Send) -> Send:
        """What changes something, or would, leaves a line: what, from where, and whether it was done."""

        async def noting(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                address = scope["client"][0] if scope.get("client") else ""
                what = {"method": scope["method"], "path": scope["path"][:200]}
                listener.event("audit", **what, status=message["status"], address=address)
            await send(message)

        return noting

    return guarded


def _response(answer: Answer) -> Response:
    headers = {name.decode(): value.decode() for name, value in answer.headers}
    return Response(answer.body, answer.status, headers, media_type=answer.media_type.decode())


def _guard(scope: Scope, token: str | None) -> Answer | None:
    headers: dict[bytes, bytes] = dict(scope["headers"])
    host = headers.get(b"host", b"").decode("latin-1")
    if not token:
        if not _is_loopback_host(host) or not headers.keys().isdisjoint(_FORWARDED):
            return answers.problem(403, detail="without a token the admin side answers only to 127.0.0.1 and localhost")
    elif not hmac.compare_digest(_given_token(headers), token.encode()):
        challenge = ((b"www-authenticate", b'Basic realm="DaxGO Connect", charset="UTF-8"'),)
        return answers.problem(401, detail="give the admin token as bearer or as password", headers=challenge)
    origin = headers.get(b"origin", b"").decode("latin-1")
    if scope["method"] not in ("GET", "HEAD") and origin and urlsplit(origin).netloc != host:
        return answers.problem(403, detail="a page of another origin can't do this")
    return None


def _is_loopback_host(host: str) -> bool:
    try:
        return is_loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False


def _given_token(headers: dict[bytes, bytes]) -> bytes:
    scheme, _, value = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer":
        return value.strip()
    if scheme.lower() == b"basic":
        try:
            return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
        except ValueError:
            return b""
    return b""
