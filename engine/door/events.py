"""
The door for events, as a bare ASGI app: `POST /{connector}` -> 202 only after the commit, or what the CRM said.

A server of ours puts it on a socket (`serve.py`), and so does a gateway that sends events of its own (`lambdas.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from engine.door import answers
from engine.door.answers import Answer, Headers
from engine.door.asgi import reply
from engine.door.meters import Meters
from engine.errors import Refused, StoreUnavailable, told
from engine.records import Answered
from engine.spec.units import Rate
from engine.writing import Unreachable

if TYPE_CHECKING:
    from engine.door.asgi import Receive, Scope, Send, Tell
    from engine.ports import Telemetry, Traces
    from engine.records import Accepted, Lane, Received, Stored


class State(Protocol):
    """What those who run it may look at; every method may block."""

    def ready(self) -> list[str]:
        """Why no events can be taken; empty: ready."""

    def lanes(self) -> list[Lane]:
        """Every lane, with its counters."""

    def metrics(self) -> bytes:
        """In Prometheus' text format."""


class Front(State, Protocol):
    """What the door asks of the engine. What is called on the event loop must be quick; the rest may block."""

    def connectors(self) -> Collection[str]:
        """The names that can be posted to; on the loop."""

    def allows_origin(self, connector: str, origin: str) -> bool:
        """Whether a page of that origin may post; on the loop."""

    def receive(
        self,
        connector: str,
        body: bytes,
        content_type: str,
        key: str | None,
        now: float,
        *,
        signature: str | None = None,
        origin: str = "",
    ) -> Received:
        """Intake: computing only; on the loop, and of a large body in a thread beside it."""

    def full(self) -> str | None:
        """Why the store is to take nothing more for now, as last measured; None: it takes; on the loop."""

    def openapi(self) -> bytes:
        """The OpenAPI document of all that can be posted to, as JSON; in a thread."""

    def put(self, events: list[Accepted], now: float, hold_s: float) -> Future[list[Stored]]:
        """As Buffer.put, in the order of the events; on the loop."""

    def hold_s(self, connector: str) -> float:
        """How long a `direct` caller waits and its deliveries are held for it; 0: buffered; on the loop."""

    def walk_now(self, connector: str, client: str, stored: Stored, now: float) -> Answered:
        """
        Carry one new event with deliveries to the CRM, in a thread of the door's pool.

        The hold ends at the deliveries' `due_at`; from then on the caller has been told that they wait.
        """


LARGE = 32 * 1024  # bytes of a body that is read in a thread of its own
FREE = 16 * 1024  # of a body that is coming, not counted: nobody's small body is refused for others' large ones
FULL_S = 30.0
MOST_GATHERED = 256  # requests that wait for others to share their commit
MOST_PROXIES = 10

Network = IPv4Network | IPv6Network


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the door takes on."""

    max_body: int = 1_000_000  # bytes
    body_s: float = 10.0  # until a body is there, else 408
    max_coming: int = 64_000_000  # bytes of bodies that are not whole yet, beyond 16 KB of each; more is told 503
    max_held: int = 64_000_000  # bytes of bodies that are whole and not answered; more is told 503
    max_pending: int = 2_000  # requests that wait for their commit; one more is told 503
    address_rate: Rate | None = None  # requests of one address; more is told 429
    proxies: tuple[Network, ...] = ()  # whose X-Forwarded-For is believed
    direct_workers: int = 32  # walks at the same time for `direct` callers
    grace_s: float = 30.0  # for requests in flight at the end


class Door:
    """`POST /{connector}`, its preflight, its description, health. A routing framework would halve what it takes."""

    def __init__(
        self,
        front: Front,
        *,
        limits: Limits,
        pool: ThreadPoolExecutor,
        beside: ThreadPoolExecutor,
        telemetry: Telemetry,
        clock: Callable[[], float] = time.time,
        traces: Traces | None = None,
    ) -> None:
        """`beside` reads large bodies one after the other, so that those who send small ones need not wait for them."""
        self._front, self._limits, self._telemetry, self._clock = front, limits, telemetry, clock
        self._beside, self._traces = beside, traces
        self._addresses = Meters(limits.address_rate) if limits.address_rate is not None else None
        self._coming = self._held = 0  # bytes
        self._walks = Walks(front, pool, limits.direct_workers, telemetry, clock)
        self._puts = Puts(front, telemetry, clock)
        self._unreachable = Unreachable(telemetry, clock)
        self._pending = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connector = scope["path"][1:]
        known = connector in self._front.connectors()
        if not known and scope["path"] in _HEALTH and scope["method"] in ("GET", "HEAD"):
            await reply(send, await health(self._front, scope["path"], reasons=False))
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if self._addresses is not None:
            wait_s = self._addresses.wait_s(address_of(scope["client"], headers, self._limits.proxies))
            if wait_s:
                answer = answers.too_many("more requests than one address may send", wait_s)
                await self._refuse(send, connector if known else "", answer)
                return
        if not known:
            await self._elsewhere(scope, send)
            return
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
            answer = await self._take(connector, scope, headers, receive, origin)
        except _Gone:
            return
        except Exception as error:
            answer = self._fault(connector, error)
        if answer.status >= 400 and answer.why:
            await self._refuse(send, connector, answer, cors)
        else:
            await reply(send, answer, cors)

    async def _elsewhere(self, scope: Scope, send: Send) -> None:
        path: str = scope["path"]
        if path == "/openapi.json" and scope["method"] in ("GET", "HEAD"):
            document = await asyncio.to_thread(self._front.openapi)
            await reply(send, Answer(200, document))
        elif path == "/tag.js" and scope["method"] in ("GET", "HEAD"):
            from engine.tagging.script import script  # few are asked for it

            await reply(send, Answer(200, script().encode(), _JAVASCRIPT, _FOR_PAGES))
        else:
            await self._refuse(send, "", answers.problem(404, detail=f"there is nothing at {path[:200]}"))

    async def _other_method(self, method: str, connector: str, send: Send, cors: Headers) -> None:
        if method == "OPTIONS":
            await reply(send, Answer(204, b"", b"", _PREFLIGHT), cors)
        else:
            answer = answers.problem(405, detail="events are sent with POST", headers=_ALLOW)
            await self._refuse(send, connector, answer, cors)

    async def _refuse(self, send: Send, connector: str, answer: Answer, extra: Headers = ()) -> None:
        self._telemetry.event("refused", connector=connector, status=answer.status, why=answer.why)
        await reply(send, answer, extra)

    def at_once(self, scope: Scope, body: bytes, tell: Tell) -> bool:
        """
        An ordinary event, whole: to the store and back without a task. Whatever is uncommon goes the long way.

        See asgi.AtOnce.
        """
        connector, size = scope["path"][1:], len(body)
        if scope["method"] != "POST" or size > min(LARGE, self._limits.max_body) or self._addresses is not None:
            return False
        if connector not in self._front.connectors():
            return False
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if b"content-encoding" in headers or b"transfer-encoding" in headers:
            return False
        content_type = answers.body_type(headers.get(b"content-type"))
        if content_type is None or headers.get(b"content-length") != b"%d" % size:
            return False
        origin = headers[b"origin"].decode("latin-1") if b"origin" in headers else ""
        if origin and not self._front.allows_origin(connector, origin):
            return False
        if self._pending >= self._limits.max_pending or self._held + size > self._limits.max_held:
            return False
        if self._front.full() is not None:
            return False
        self._held += size
        done = partial(self._told, connector, size, tell, _cors(origin))
        try:
            began = self._clock()
            received = self._receive(connector, body, content_type, scope, headers, origin, began)
            refused = self._not_taken(connector, received)
            if refused is not None:
                done(refused)
            elif received.direct or self._traces is not None:
                parent = headers.get(b"traceparent", b"")
                self._apart(self._store(connector, received, began, parent), connector, done)
            else:
                self._pending += 1
                self._puts.ask([event for _, event in received.accepted], 0.0, partial(self._put, received, done))
        except Refused as refusal:
            done(answers.problem(refusal.status, refusal.title, faults=refusal.faults))
        except Exception as error:
            done(self._fault(connector, error))
        return True

    def _put(self, received: Received, done: Callable[[Answer], None], stored: list[Stored] | BaseException) -> None:
        self._pending -= 1
        if isinstance(stored, StoreUnavailable):
            done(self._unstored(stored))
        elif isinstance(stored, BaseException):
            done(self._fault(received.accepted[0][1].connector, stored))
        else:
            done(answers.accepted(received, stored))

    def _apart(self, work: Coroutine[Any, Any, Answer], connector: str, done: Callable[[Answer], None]) -> None:
        async def run() -> None:
            try:
                answer = await work
            except Exception as error:
                answer = self._fault(connector, error)
            done(answer)

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _told(self, connector: str, size: int, tell: Tell, cors: Headers, answer: Answer) -> None:
        self._held -= size
        if answer.status >= 400 and answer.why:
            self._telemetry.event("refused", connector=connector, status=answer.status, why=answer.why)
        tell(answer, cors)

    def _fault(self, connector: str, error: BaseException) -> Answer:
        self._telemetry.event("fault", where="serve", connector=connector, error=told(error))
        return answers.problem(500)

    def _unstored(self, error: StoreUnavailable) -> Answer:
        self._unreachable.tell(error)
        return answers.busy("the store can't be written; nothing was accepted, send it again a little later")

    async def _take(
        self, connector: str, scope: Scope, headers: dict[bytes, bytes], receive: Receive, origin: str
    ) -> Answer:
        content_type = _read_as(headers)
        if content_type is None:
            return answers.problem(415, detail="send application/json or text/plain, in UTF-8 and not compressed")
        if (why := self._front.full()) is not None:
            return answers.busy(f"{why}; nothing was accepted, send it again later", FULL_S)
        body = await self._body(scope, headers, receive)
        if isinstance(body, Answer):
            return body
        if self._held + len(body) > self._limits.max_held:
            return answers.busy("more is coming in than is read; send it again a little later")
        self._held += len(body)
        try:
            return await self._read_and_store(connector, body, content_type, scope, headers, origin)
        finally:
            self._held -= len(body)

    def _receive(
        self,
        connector: str,
        body: bytes,
        content_type: str,
        scope: Scope,
        headers: dict[bytes, bytes],
        origin: str,
        began: float,
    ) -> Received:
        signature = headers.get(b"x-connect-signature")
        return self._front.receive(
            connector,
            body,
            content_type,
            answers.write_key(headers, scope["query_string"]),
            began,
            signature=signature.decode("latin-1") if signature is not None else None,
            origin=origin,
        )

    def _not_taken(self, connector: str, received: Received) -> Answer | None:
        """What is said where nothing is to be stored."""
        if not received.accepted:
            return answers.refused(received)
        if received.faults:
            status = received.status if received.status >= 400 else 422
            self._telemetry.event("refused", connector=connector, status=status, count=len(received.faults))
        return None

    async def _read_and_store(
        self,
        connector: str,
        body: bytes,
        content_type: str,
        scope: Scope,
        headers: dict[bytes, bytes],
        origin: str,
    ) -> Answer:
        began = self._clock()
        read = partial(self._receive, connector, body, content_type, scope, headers, origin, began)
        try:
            if len(body) > LARGE:
                received = await asyncio.get_running_loop().run_in_executor(self._beside, read)
            else:
                received = read()
        except Refused as refused:
            return answers.problem(refused.status, refused.title, faults=refused.faults)
        refusal = self._not_taken(connector, received)
        if refusal is not None:
            return refusal
        return await self._store(connector, received, began, headers.get(b"traceparent", b""))

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
                    body = await _read(receive, limit, self._count_coming)
        except TimeoutError:
            late = f"the body was not there after {self._limits.body_s:g} s"
            return answers.problem(408, detail=late, headers=_CLOSE)
        except _TooMuch:
            full = answers.busy("too many large bodies are on their way; send it again a little later")
            return msgspec.structs.replace(full, headers=(*full.headers, *_CLOSE))
        if body is None:
            return _too_large(limit)
        if state.get("cut") or (length is not None and int(length) != len(body)):
            return answers.problem(400, detail="the body ended early")
        return body

    def _count_coming(self, size: int) -> None:
        self._coming += size
        if size > 0 and self._coming > self._limits.max_coming:
            raise _TooMuch

    async def _store(self, connector: str, received: Received, began: float, parent: bytes) -> Answer:
        events = [event for _, event in received.accepted]
        hold_s = self._front.hold_s(connector) if received.direct else 0.0
        ends_at = asyncio.get_running_loop().time() + hold_s
        put_at = self._clock() if self._traces is not None else began
        self._pending += 1
        try:
            stored = await self._puts.put(events, hold_s)
        except StoreUnavailable as error:
            return self._unstored(error)
        finally:
            self._pending -= 1
        if self._traces is not None:
            named, now = parent.decode("latin-1"), self._clock()
            self._traces.taken_in(connector, events, stored, parent=named, began=began, put_at=put_at, now=now)
        if not received.direct:
            return answers.accepted(received, stored)
        said = await self._walks.walk(connector, events, stored, ends_at)
        return answers.answered_list(received, said) if received.listed else answers.answered(said[0])


async def health(state: State, path: str, *, reasons: bool) -> Answer:
    """/healthz: the process answers; /readyz: it can take events. Reasons only for those who run it."""
    if path == "/healthz":
        return Answer(200, answers.encode({"status": "ok"}))
    try:
        why = await asyncio.to_thread(state.ready)
    except StoreUnavailable as error:
        why = [str(error)]
    if not why:
        return Answer(200, answers.encode({"status": "ready"}))
    return Answer(503, answers.encode({"status": "not ready", **({"reasons": why} if reasons else {})}))


_Told = Callable[["list[Stored] | BaseException"], None]
_Asked = tuple["list[Accepted]", float, _Told]  # how long they are held, and how their sender is told


class Puts:
    """
    What all requests put goes to the store as one, and they are told in one turn of the loop.

    One commit at a time, of all that can be had: what came while the store wrote, and more for as long as each turn of
    the loop brings more. The store's thread takes the interpreter some 30 times for a commit, however large it is, and
    each time it would have to wake up beside a loop that reads; so it has its turn where the loop has nothing to do. A
    request that is given up leaves its events where they are: the commit is shared.
    """

    def __init__(self, front: Front, telemetry: Telemetry, clock: Callable[[], float]) -> None:
        self._front, self._telemetry, self._clock = front, telemetry, clock
        self._under_way = 0  # puts
        self._asked: list[_Asked] = []

    def put(self, events: list[Accepted], hold_s: float) -> asyncio.Future[list[Stored]]:
        """As Front.put."""
        future: asyncio.Future[list[Stored]] = asyncio.get_running_loop().create_future()

        def told(stored: list[Stored] | BaseException) -> None:
            if future.done():
                return
            if isinstance(stored, BaseException):
                future.set_exception(stored)
            else:
                future.set_result(stored)

        self.ask(events, hold_s, told)
        return future

    def ask(self, events: list[Accepted], hold_s: float, told: _Told) -> None:
        """The same, told in the turn of the loop that learns of it; `told` must not raise."""
        self._asked.append((events, hold_s, told))
        if len(self._asked) == 1 and not self._under_way:
            loop = asyncio.get_running_loop()
            loop.call_soon(self._gather, loop, 1)

    def _gather(self, loop: asyncio.AbstractEventLoop, before: int) -> None:
        """To the store, unless more was asked in this turn of the loop: then the next one may bring more, too."""
        count = len(self._asked)
        if before < count < MOST_GATHERED:
            loop.call_soon(self._gather, loop, count)
            return
        asked, self._asked = self._asked, []
        groups: dict[float, list[_Asked]] = {}
        for each in asked:
            groups.setdefault(each[1], []).append(each)
        for group in groups.values():
            self._put(loop, group)

    def _put(self, loop: asyncio.AbstractEventLoop, group: list[_Asked]) -> None:
        events = [event for asked, _, _ in group for event in asked]
        self._under_way += 1

        def done(put: Future[list[Stored]]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._tell, loop, group, events, put)

        try:
            self._front.put(events, self._clock(), group[0][1]).add_done_callback(done)
        except Exception as error:
            self._under_way -= 1
            self._fail(group, error)

    def _tell(
        self,
        loop: asyncio.AbstractEventLoop,
        group: list[_Asked],
        events: list[Accepted],
        put: Future[list[Stored]],
    ) -> None:
        self._under_way -= 1
        error = put.exception()
        try:
            if error is None:
                self._answer(group, events, put.result())
            elif isinstance(error, StoreUnavailable) or len(group) == 1:
                self._fail(group, error)
            else:
                for one in group:  # one that is bad harms no other
                    self._put(loop, [one])
        finally:  # else a fault here would be the end of all puts
            if self._asked and not self._under_way:
                self._gather(loop, 0)  # who is answered now may have more

    def _answer(self, group: list[_Asked], events: list[Accepted], stored: list[Stored]) -> None:
        at = 0
        for asked, _, tell in group:
            end = at + len(asked)
            self._say(tell, stored[at:end])
            at = end
        self._count(events, stored)

    def _fail(self, group: list[_Asked], error: BaseException) -> None:
        for _, _, tell in group:
            self._say(tell, error)

    def _say(self, tell: _Told, stored: list[Stored] | BaseException) -> None:
        try:
            tell(stored)
        except Exception as error:  # the others are told all the same
            self._telemetry.event("fault", where="serve", error=told(error))

    def _count(self, events: list[Accepted], stored: list[Stored]) -> None:
        fresh: dict[tuple[str, str], int] = {}
        for event, put in zip(events, stored, strict=True):
            if not put.duplicate:
                lane = (event.connector, event.client)
                fresh[lane] = fresh.get(lane, 0) + 1
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


_HEALTH = ("/healthz", "/readyz")
_CLOSE: Headers = ((b"connection", b"close"),)
_VARY: Headers = ((b"vary", b"Origin"),)
_ALLOW: Headers = ((b"allow", b"POST, OPTIONS"),)
_JAVASCRIPT = b"text/javascript; charset=utf-8"
_FOR_PAGES: Headers = (  # the same for everybody: any page may have it, and keep it for an hour
    (b"cache-control", b"public, max-age=3600"),
    (b"access-control-allow-origin", b"*"),
    (b"cross-origin-resource-policy", b"cross-origin"),
    (b"x-content-type-options", b"nosniff"),
)
_PREFLIGHT: Headers = (
    *_ALLOW,
    (b"access-control-allow-methods", b"POST"),
    (b"access-control-allow-headers", b"content-type, x-connect-key, traceparent"),
    (b"access-control-max-age", b"86400"),
)


class _Gone(Exception):
    """The sender hung up before the body was whole; nothing was accepted, and nobody is there to be told."""


class _TooMuch(Exception):
    """All bodies that are on their way are larger together than what is to be kept in memory."""


async def _read(receive: Receive, limit: int, count: Callable[[int], None] | None = None) -> bytes | None:
    """The body; None if it is larger than `limit`. `count` is told what is held of it, and at the end given back."""
    parts: list[bytes] = []
    size, counted, more = 0, 0, True
    try:
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            more = message["more_body"]
            size += len(message["body"])
            if size > limit:
                return None
            parts.append(message["body"])
            if count is not None and more and size > FREE + counted:
                held, counted = size - FREE - counted, size - FREE
                count(held)
    finally:
        if count is not None and counted:
            count(-counted)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def address_of(client: tuple[str, int] | None, headers: dict[bytes, bytes], proxies: Sequence[Network]) -> str:
    """
    Whom to count a request by: the connection's address, or the last in X-Forwarded-For that no proxy of ours has.

    Of IPv6 the network of 64 bits, for every sender has that many addresses.
    """
    found = _address(client[0] if client is not None else "")
    if found is None:
        return ""
    if proxies and _within(found, proxies):
        for text in reversed(headers.get(b"x-forwarded-for", b"").decode("latin-1").split(",")[-MOST_PROXIES:]):
            named = _address(text.strip())
            if named is None:
                break
            found = named
            if not _within(found, proxies):
                break
    return str(found) if found.version == 4 else str(IPv6Network((int(found) >> 64 << 64, 64)))


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, IPv6Address) else found


def _within(address: IPv4Address | IPv6Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def _read_as(headers: dict[bytes, bytes]) -> str | None:
    """The media type of a body that can be read here."""
    if headers.get(b"content-encoding", b"identity") != b"identity":
        return None
    if headers.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
        return None
    return answers.body_type(headers.get(b"content-type"))


def _cors(origin: str) -> Headers:
    if not origin:
        return _VARY
    # Credentials are never looked at; a JSON body in sendBeacon is sent with them, whether the page wants it or not.
    allowed = (b"access-control-allow-origin", origin.encode("latin-1"))
    seen = (b"access-control-expose-headers", b"retry-after")  # scripts of a page see no other header unless told
    return (*_VARY, allowed, (b"access-control-allow-credentials", b"true"), seen)


def _waiting(stored: Stored, reason: str) -> Answered:
    return Answered(202, "waiting", stored.event_id, reason)


def _too_large(limit: int) -> Answer:
    return answers.problem(413, detail=f"a body has at most {limit} bytes")
