"""The HTTP door: `POST /{connector}` on a bare ASGI app; 202 only after the commit, or what the CRM said."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from engine import answers, listening
from engine.admin import State, admin_app, health
from engine.answers import Answer, Headers
from engine.errors import Refused, StoreUnavailable, UsageError, told
from engine.listening import is_loopback, reply
from engine.records import Answered
from engine.telemetry import NullTelemetry

if TYPE_CHECKING:
    import socket

    from starlette.routing import BaseRoute

    from engine.listening import App, Receive, Scope, Send, Stop
    from engine.ports import Telemetry
    from engine.records import Accepted, Received, Stored


class Front(State, Protocol):
    """What the door asks of the engine. What is called on the event loop must be quick; the rest may block."""

    def connectors(self) -> Collection[str]:
        """The names that can be posted to; on the loop."""

    def allows_origin(self, connector: str, origin: str) -> bool:
        """Whether a page of that origin may post; on the loop."""

    def receive(self, connector: str, body: bytes, content_type: str, key: str | None, now: float) -> Received:
        """Intake, on the loop: computing only."""

    def put(self, events: list[Accepted], now: float, hold_s: float) -> Future[list[Stored]]:
        """As Buffer.put, in the order of the events; on the loop."""

    def hold_s(self, connector: str) -> float:
        """How long a `direct` caller waits and its deliveries are held for it; 0: buffered; on the loop."""

    def walk_now(self, connector: str, client: str, stored: Stored, now: float) -> Answered:
        """
        Carry one new event with deliveries to the CRM, in a thread of the door's pool.

        The hold ends at the deliveries' `due_at`; from then on the caller has been told that they wait.
        """


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the door takes on."""

    max_body: int = 1_000_000  # bytes
    body_s: float = 10.0  # until a body is there, else 408
    max_pending: int = 2_000  # requests that wait for their commit; one more is told 503
    direct_workers: int = 32  # walks at the same time for `direct` callers
    grace_s: float = 30.0  # for requests in flight at the end


def serve(
    front: Front,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    admin_port: int | None = None,
    admin_host: str = "127.0.0.1",
    admin_token: str | None = None,
    admin_routes: Sequence[BaseRoute] = (),
    on_ready: Callable[[int, int], None] | None = None,
    stop: Stop | None = None,
    telemetry: Telemetry | None = None,
    limits: Limits | None = None,
    clock: Callable[[], float] = time.time,
) -> None:
    """
    Serve until SIGTERM, SIGINT or `stop`; then finish the requests in flight and return.

    Port 0 takes a free one; `on_ready` is told both ports once they answer (the second is 0 where there is no admin
    side). Without an admin port the admin side is on the first port if `host` is loopback. `admin_routes` are
    Starlette routes behind the same guard. Raises UsageError for a port that is taken, and for an admin side that is
    open to others without a token.
    """
    stop, limits, telemetry = stop or threading.Event(), limits or Limits(), telemetry or NullTelemetry()
    shared = admin_port is None
    admin: App | None = None
    if not shared or is_loopback(host):
        at = host if shared else admin_host
        if not admin_token and not is_loopback(at):
            raise UsageError(f"the admin side on {at} is open to others: give it a token, or bind it to 127.0.0.1")
        admin = admin_app(front, token=admin_token, routes=admin_routes, telemetry=telemetry, clock=clock)
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(limits.direct_workers, thread_name_prefix="direct"))
        door = Door(front, limits=limits, pool=pool, telemetry=telemetry, clock=clock, admin=admin if shared else None)
        apps: list[tuple[App, socket.socket]] = [(door, stack.enter_context(listening.listen(host, port)))]
        if admin is not None and admin_port is not None:
            apps.append((admin, stack.enter_context(listening.listen(admin_host, admin_port))))
        ports = [sock.getsockname()[1] for _, sock in apps]

        def ready() -> None:
            if on_ready is not None:
                on_ready(ports[0], ports[-1] if admin is not None else 0)

        listening.run(apps, stop=stop, grace_s=limits.grace_s, ready=ready)


class Door:
    """`POST /{connector}`, its preflight, and health. No routing framework: one halves what the server takes."""

    def __init__(
        self,
        front: Front,
        *,
        limits: Limits,
        pool: ThreadPoolExecutor,
        telemetry: Telemetry,
        clock: Callable[[], float] = time.time,
        admin: App | None = None,
    ) -> None:
        self._front, self._limits, self._telemetry, self._clock, self._admin = front, limits, telemetry, clock, admin
        self._walks = Walks(front, pool, limits.direct_workers, telemetry, clock)
        self._puts = Puts(front, telemetry, clock)
        self._pending = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        connector = path[1:]
        if connector not in self._front.connectors():
            if path in ("/healthz", "/readyz") and scope["method"] in ("GET", "HEAD"):
                await reply(send, await health(self._front, path, reasons=self._admin is not None))
            elif self._admin is not None:
                await self._admin(scope, receive, send)
            else:
                await self._refuse(send, "", answers.problem(404, detail=f"there is nothing at {path[:200]}"))
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and not self._front.allows_origin(connector, origin):
            answer = answers.problem(403, detail="this origin is not one of the client's `ingest.origins`")
            await self._refuse(send, connector, answer, _VARY)
            return
        cors = _cors(origin)
        if scope["method"] != "POST":
            await self._other_method(scope["method"], connector, send, cors)
            return
        try:
            answer = await self._take(connector, scope, headers, receive)
        except _Gone:
            return
        except Exception as error:
            self._telemetry.event("fault", where="serve", connector=connector, error=told(error))
            answer = answers.problem(500)
        if answer.status >= 400 and answer.why:
            await self._refuse(send, connector, answer, cors)
        else:
            await reply(send, answer, cors)

    async def _other_method(self, method: str, connector: str, send: Send, cors: Headers) -> None:
        if method == "OPTIONS":
            await reply(send, Answer(204, b"", b"", _PREFLIGHT), cors)
        else:
            answer = answers.problem(405, detail="events are sent with POST", headers=_ALLOW)
            await self._refuse(send, connector, answer, cors)

    async def _refuse(self, send: Send, connector: str, answer: Answer, extra: Headers = ()) -> None:
        self._telemetry.event("refused", connector=connector, status=answer.status, why=answer.why)
        await reply(send, answer, extra)

    async def _take(self, connector: str, scope: Scope, headers: dict[bytes, bytes], receive: Receive) -> Answer:
        content_type = answers.body_type(headers.get(b"content-type"))
        if content_type is None or headers.get(b"content-encoding", b"identity") != b"identity":
            return answers.problem(415, detail="send application/json or text/plain, in UTF-8 and not compressed")
        body = await self._body(scope, headers, receive)
        if isinstance(body, Answer):
            return body
        key = answers.write_key(headers, scope["query_string"])
        try:
            received = self._front.receive(connector, body, content_type, key, self._clock())
        except Refused as refused:
            return answers.problem(refused.status, refused.title, faults=refused.faults)
        if not received.accepted:
            return answers.refused(received)
        if received.faults:
            status = received.status if received.status >= 400 else 422
            self._telemetry.event("refused", connector=connector, status=status, count=len(received.faults))
        return await self._store(connector, received)

    async def _body(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive) -> bytes | Answer:
        limit = self._limits.max_body
        length = headers.get(b"content-length")
        if length is not None and int(length) > limit:
            return _too_large(limit)
        if self._pending >= self._limits.max_pending:
            return answers.busy("more is coming in than is stored; send it again a little later")
        state = scope.get("state", {})
        try:
            if state.get("whole"):
                body = await _read(receive, limit)
            else:
                async with asyncio.timeout(self._limits.body_s):
                    body = await _read(receive, limit)
        except TimeoutError:
            late = f"the body was not there after {self._limits.body_s:g} s"
            return answers.problem(408, detail=late, headers=((b"connection", b"close"),))
        if body is None:
            return _too_large(limit)
        if state.get("cut") or (length is not None and int(length) != len(body)):
            return answers.problem(400, detail="the body ended early")
        return body

    async def _store(self, connector: str, received: Received) -> Answer:
        events = [event for _, event in received.accepted]
        hold_s = self._front.hold_s(connector) if received.direct else 0.0
        ends_at = asyncio.get_running_loop().time() + hold_s
        self._pending += 1
        try:
            stored = await self._puts.put(events, hold_s)
        except StoreUnavailable as error:
            self._telemetry.event("fault", where="store", connector=connector, error=told(error))
            return answers.busy("the store can't be written; nothing was accepted, send it again a little later")
        finally:
            self._pending -= 1
        if not received.direct:
            return answers.accepted(received, stored)
        said = await self._walks.walk(connector, events, stored, ends_at)
        return answers.answered_list(received, said) if received.listed else answers.answered(said[0])


class _Asked(NamedTuple):
    events: list[Accepted]
    told: asyncio.Future[list[Stored]]


class Puts:
    """
    What all requests put while the store commits goes to it as one, and they are told in one turn of the loop.

    It would be queued there all the same; so the store's thread and the loop take the interpreter from each other less
    often. A request that is given up leaves its events where they are: the commit is shared.
    """

    def __init__(self, front: Front, telemetry: Telemetry, clock: Callable[[], float]) -> None:
        self._front, self._telemetry, self._clock = front, telemetry, clock
        self._under_way = 0  # puts
        self._asked: dict[float, list[_Asked]] = {}  # by how long they are held

    def put(self, events: list[Accepted], hold_s: float) -> asyncio.Future[list[Stored]]:
        """As Front.put."""
        loop = asyncio.get_running_loop()
        told: asyncio.Future[list[Stored]] = loop.create_future()
        if not self._asked and not self._under_way:
            loop.call_soon(self._hand_over, loop)
        self._asked.setdefault(hold_s, []).append(_Asked(events, told))
        return told

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        asked, self._asked = self._asked, {}
        for hold_s, group in asked.items():
            self._put(loop, group, hold_s)

    def _put(self, loop: asyncio.AbstractEventLoop, group: list[_Asked], hold_s: float) -> None:
        events = [event for one in group for event in one.events]
        self._under_way += 1

        def done(put: Future[list[Stored]]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._tell, loop, group, hold_s, put)

        try:
            self._front.put(events, self._clock(), hold_s).add_done_callback(done)
        except Exception as error:
            self._under_way -= 1
            self._fail(group, error)

    def _tell(
        self, loop: asyncio.AbstractEventLoop, group: list[_Asked], hold_s: float, put: Future[list[Stored]]
    ) -> None:
        self._under_way -= 1
        try:
            error = put.exception()
            if error is None:
                self._answer(group, put.result())
            elif isinstance(error, StoreUnavailable) or len(group) == 1:
                self._fail(group, error)
            else:
                for one in group:  # one that is bad harms no other
                    self._put(loop, [one], hold_s)
        finally:
            if self._asked and not self._under_way:
                self._hand_over(loop)

    def _answer(self, group: list[_Asked], stored: list[Stored]) -> None:
        each = iter(stored)
        for one in group:
            answer = [next(each) for _ in one.events]
            if not one.told.done():
                one.told.set_result(answer)
        self._count([event for one in group for event in one.events], stored)

    @staticmethod
    def _fail(group: list[_Asked], error: BaseException) -> None:
        for one in group:
            if not one.told.done():
                one.told.set_exception(error)

    def _count(self, events: list[Accepted], stored: list[Stored]) -> None:
        fresh = Counter(
            (event.connector, event.client) for event, put in zip(events, stored, strict=True) if not put.duplicate
        )
        for (connector, client), count in fresh.items():
            self._telemetry.event("accepted", connector=connector, client=client, count=count)


class Walks:
    """The walks of `direct` callers: so many at a time, none longer than its hold, one key in order."""

    def __init__(
        self,
        front: Front,
        pool: ThreadPoolExecutor,
        workers: int,
        telemetry: Telemetry,
        clock: Callable[[], float],
    ) -> None:
        self._front, self._pool, self._telemetry, self._clock = front, pool, telemetry, clock
        self._slots = asyncio.Semaphore(workers)
        self._under_way: dict[tuple[str, str, str], asyncio.Task[Answered]] = {}  # by connector, client, event

    async def walk(
        self, connector: str, events: Sequence[Accepted], stored: Sequence[Stored], ends_at: float
    ) -> list[Answered]:
        """An answer for each event; `ends_at`, by the loop's clock, is the end of the hold."""
        latest: dict[tuple[str, str, str], asyncio.Task[Answered]] = {}
        tasks = []
        for event, put in zip(events, stored, strict=True):
            name = (connector, event.client, put.event_id)
            if put.duplicate and name in self._under_way:  # sent again before its answer: there is one for both
                tasks.append(self._under_way[name])
                continue
            keys = [(event.client, each.action, each.key) for each in put.deliveries if each.key is not None]
            before = {latest[key] for key in keys if key in latest}
            task = asyncio.create_task(self._in_turn(before, connector, event.client, put, ends_at))
            latest |= dict.fromkeys(keys, task)
            tasks.append(task)
            self._under_way[name] = task
            task.add_done_callback(partial(self._answered, name))
        return list(await asyncio.gather(*tasks))

    def _answered(self, name: tuple[str, str, str], task: asyncio.Task[Answered]) -> None:
        if self._under_way.get(name) is task:
            del self._under_way[name]

    async def _in_turn(
        self, before: set[asyncio.Task[Answered]], connector: str, client: str, stored: Stored, ends_at: float
    ) -> Answered:
        if not stored.deliveries and not stored.duplicate:
            return Answered(200, "skipped", stored.event_id, "no action wants this event")
        earlier = [await task for task in before]
        if any(answer.outcome == "waiting" for answer in earlier):
            return _waiting(stored, "an earlier event of the same key waits")
        return await self._now(connector, client, stored, ends_at)

    async def _now(self, connector: str, client: str, stored: Stored, ends_at: float) -> Answered:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(ends_at):
                await self._slots.acquire()
        except TimeoutError:
            return _waiting(stored, "too many others are being carried right now")
        walk = loop.run_in_executor(self._pool, self._front.walk_now, connector, client, stored, self._clock())
        walk.add_done_callback(self._walked)
        await asyncio.wait({walk}, timeout=ends_at - loop.time())
        if not walk.done():
            return _waiting(stored, "the CRM has not answered yet")
        # Stored and not settled, as far as is known: it goes on from the buffer when the hold ends.
        return _waiting(stored, "it is tried again") if walk.exception() else walk.result()

    def _walked(self, walk: asyncio.Future[Answered]) -> None:
        self._slots.release()
        if not walk.cancelled() and (error := walk.exception()) is not None:
            self._telemetry.event("fault", where="walk", error=told(error))


_VARY: Headers = ((b"vary", b"Origin"),)
_ALLOW: Headers = ((b"allow", b"POST, OPTIONS"),)
_PREFLIGHT: Headers = (
    *_ALLOW,
    (b"access-control-allow-methods", b"POST"),
    (b"access-control-allow-headers", b"content-type, x-connect-key"),
    (b"access-control-max-age", b"86400"),
)


class _Gone(Exception):
    """The sender hung up before the body was whole; nothing was accepted, and nobody is there to be told."""


async def _read(receive: Receive, limit: int) -> bytes | None:
    """The body; None if it is larger than `limit`."""
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        more = message["more_body"]
        size += len(message["body"])
        if size > limit:
            return None
        parts.append(message["body"])
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _cors(origin: str) -> Headers:
    if not origin:
        return _VARY
    # Credentials are never looked at; a JSON body in sendBeacon is sent with them, whether the page wants it or not.
    allowed = (b"access-control-allow-origin", origin.encode("latin-1"))
    return (*_VARY, allowed, (b"access-control-allow-credentials", b"true"))


def _waiting(stored: Stored, reason: str) -> Answered:
    return Answered(202, "waiting", stored.event_id, reason)


def _too_large(limit: int) -> Answer:
    return answers.problem(413, detail=f"a body has at most {limit} bytes")
