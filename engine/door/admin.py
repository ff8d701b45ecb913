"""
The admin side of the HTTP door: health, metrics, lanes and what else is mounted, behind a token or the loopback.

Health is answered from the first moment on; the rest takes a good part of a start to load, and is loaded after it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from engine.door import answers
from engine.door.access import Access, Role, host_of
from engine.door.answers import Answer
from engine.door.asgi import reply
from engine.door.events import health
from engine.errors import StoreUnavailable, told
from engine.telemetry.log import METRICS_TYPE, NullTelemetry

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

    from engine.door.asgi import App, Receive, Scope, Send
    from engine.door.events import State
    from engine.ports import Telemetry

HEALTH = ("/healthz", "/readyz")
SHOWS = ("GET", "HEAD")


class Pages(Protocol):
    """What the admin side shows to people, beside health, metrics and lanes."""

    @property
    def routes(self) -> Sequence[BaseRoute]:
        """Behind the same guard; each request has its `visit` in the scope."""

    def is_open(self, scope: Scope) -> bool:
        """May this be fetched by somebody who has not logged in? The log-in itself, and what is nobody's secret."""

    def only_looks(self, scope: Scope) -> bool:
        """Does a POST there change nothing, so that the read token may do it?"""

    def dressed(self, scope: Scope, answer: Answer) -> Answer:
        """A problem as a page where a browser asked, else as it is."""


class NoPages:
    """None of them."""

    routes: Sequence[BaseRoute] = ()

    def is_open(self, _: Scope) -> bool:
        return False

    def only_looks(self, _: Scope) -> bool:
        return False

    def dressed(self, _: Scope, answer: Answer) -> Answer:
        return answer


class Admin:
    """The admin side as an app: health at once, `rest` when it is first asked for or `prepare` was called."""

    def __init__(self, state: State, rest: Callable[[], App]) -> None:
        self._state, self._make = state, rest
        self._rest: App | None = None
        self._lock = threading.Lock()

    def prepare(self) -> App:
        """May take its time; from any thread."""
        with self._lock:
            if self._rest is None:
                self._rest = self._make()
            return self._rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in HEALTH and scope["method"] in SHOWS:
            await reply(send, await health(self._state, scope["path"], reasons=True))
            return
        rest = self._rest
        if rest is None:
            rest = await asyncio.to_thread(self.prepare)
        await rest(scope, receive, send)


def admin_app(
    state: State,
    *,
    access: Access,
    routes: Sequence[BaseRoute] = (),
    pages: Callable[[], Pages] | None = None,
    telemetry: Telemetry | None = None,
    clock: Callable[[], float] = time.time,
) -> Admin:
    """
    Health, metrics, lanes, pages, and the routes given; all but health are guarded by `access`.

    What changes something is refused to pages of other origins and to who may only look, and leaves a line `audit` in
    the log.
    """
    listener = telemetry or NullTelemetry()

    def rest() -> App:
        return _guarded(state, access, routes, pages() if pages is not None else NoPages(), listener, clock)

    return Admin(state, rest)


def _guarded(
    state: State,
    access: Access,
    routes: Sequence[BaseRoute],
    shown: Pages,
    listener: Telemetry,
    clock: Callable[[], float],
) -> App:
    """All of the admin side, guarded by `access`."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import Response
    from starlette.routing import Route

    async def show_health(request: Request) -> Response:
        return _response(await health(state, request.url.path, reasons=True))

    async def show_metrics(_: Request) -> Response:
        return Response(await run_in_threadpool(state.metrics), media_type=METRICS_TYPE)

    async def show_lanes(_: Request) -> Response:
        lanes = await run_in_threadpool(state.lanes)
        now = clock()
        return _response(Answer(200, answers.encode({"lanes": [answers.shown_lane(lane, now=now) for lane in lanes]})))

    async def not_found(request: Request, _: Exception) -> Response:
        return dressed(request, answers.problem(404, detail=f"there is nothing at {request.url.path[:200]}"))

    async def not_allowed(request: Request, error: Exception) -> Response:
        given = getattr(error, "headers", None) or {}
        allow = tuple((name.lower().encode(), value.encode()) for name, value in given.items())
        return dressed(request, answers.problem(405, headers=allow))

    async def store_away(request: Request, _: Exception) -> Response:
        return dressed(request, answers.busy("the store can't be read"))

    async def broken(request: Request, error: Exception) -> Response:
        listener.event("fault", where="admin", error=told(error))
        return dressed(request, answers.problem(500))

    def dressed(request: Request, answer: Answer) -> Response:
        return _response(shown.dressed(request.scope, answer))

    app = Starlette(
        routes=[
            Route("/healthz", show_health),
            Route("/readyz", show_health),
            Route("/metrics", show_metrics),
            Route("/lanes", show_lanes),
            *shown.routes,
            *routes,
        ],
        exception_handlers={404: not_found, 405: not_allowed, StoreUnavailable: store_away, Exception: broken},
    )

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        refusal = None if scope["path"] in HEALTH else guard(scope)
        if scope["method"] not in ("GET", "HEAD"):
            send = audited(scope, send)
        if refusal is not None:
            await reply(send, shown.dressed(scope, refusal))
        else:
            await app(scope, receive, send)

    def guard(scope: Scope) -> Answer | None:
        changes = scope["method"] not in ("GET", "HEAD")
        if shown.is_open(scope):
            refusal = access.host_refused(scope)
        else:
            visit = access.visit(scope)
            if isinstance(visit, Answer):
                return visit
            scope["visit"] = visit
            acts = changes and visit.role is Role.READ and scope["path"] != "/logout" and not shown.only_looks(scope)
            refusal = answers.problem(403, detail="the read token changes nothing") if acts else None
        headers: dict[bytes, bytes] = dict(scope["headers"])
        origin = headers.get(b"origin", b"").decode("latin-1")
        if refusal is None and changes and origin and urlsplit(origin).netloc != host_of(scope):
            return answers.problem(403, detail="a page of another origin can't do this")
        return refusal

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
    from starlette.responses import Response

    headers = {name.decode(): value.decode() for name, value in answer.headers}
    return Response(answer.body, answer.status, headers, media_type=answer.media_type.decode())
