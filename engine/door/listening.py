"""
HTTP servers on one event loop: sockets, signals, an end in order, and senders that dawdle, flood or close early.

A connection that waits for its sender is cut off after a time, and before that when all descriptors that may be used
are: then the one that has waited longest makes room for the new one, so that nobody is kept out by those who say
nothing.
"""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import lru_cache, partial
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, cast

import uvloop

from engine.door import answers
from engine.door.asgi import reply
from engine.door.trimmed import (
    HEADER_VALUE_RE,
    HIGH_WATER_LIMIT,
    STATUS_LINE,
    Config,
    HttpToolsProtocol,
    RequestResponseCycle,
    Server,
)
from engine.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.door.answers import Answer, Headers
    from engine.door.asgi import App, AtOnce, Scope, Send

KEEP_ALIVE_S = 75  # longer than the 60 s of the usual load balancers, or they would use a closed connection
HEADERS_S = 15.0  # for all headers, and for the rest of a body that was refused
WRITE_S = 30.0  # for a sender to read what it was answered
MAX_HEADERS = 64 * 1024  # bytes
MAX_FIELDS = 100
MAX_URL = 8 * 1024
MAX_PIECES = 2_000  # of one body: each costs as much as a small request
MAX_PIPELINE = 32  # requests sent before the answers to those before them
MAX_FRAMING = 512 * 1024  # bytes around the chunks of a body, beyond as many as it has itself
TURN = 64 * 1024  # bytes; who sends more at once lets the others have their turn
MAX_CONNECTIONS = 30_000
KEPT_DESCRIPTORS = 256  # for the store, requests to vendors, files
MAX_DRAIN = 16 * 1024 * 1024  # of a body that was refused before it was read
POLL_S = 0.05


class Stop(Protocol):
    """A threading.Event, or what acts like one; set by a signal, and heeded when others set it."""

    def is_set(self) -> bool: ...
    def set(self) -> None: ...


def listen(host: str, port: int) -> socket.socket:
    """UsageError if the port is taken or the host is none of ours."""
    try:
        name = host.encode() if host.isascii() else host  # else the tables of international names are loaded
        family = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)[0][0]
        sock = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        why = str(error.strerror or error).partition(" (while")[0]
        raise UsageError(f"can't listen on {host}:{port}: {why}") from None
    sock.setblocking(False)
    return sock


def raise_descriptors() -> int:
    """As many descriptors as the system lets this process have; how many connections that allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_CONNECTIONS + KEPT_DESCRIPTORS
    wanted = most if hard == resource.RLIM_INFINITY else min(hard, most)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (OSError, ValueError):  # some systems have a lower limit besides
            pass
    allowed = most if soft == resource.RLIM_INFINITY else min(soft, most)
    return max(allowed - KEPT_DESCRIPTORS, allowed // 2)


def run(apps: Sequence[tuple[App, socket.socket]], *, stop: Stop, grace_s: float, ready: Callable[[], None]) -> None:
    """
    Serve each app on its socket until SIGTERM, SIGINT or `stop`; then let requests in flight finish for `grace_s`.

    Signals are only heeded in the main thread. `ready` is called once all of them answer.
    """
    room = Room(raise_descriptors())
    servers = [_Server(_config(app, grace_s, room)) for app, _ in apps]
    with ExitStack() as stack:
        for _, sock in apps:
            stack.enter_context(sock)
        stack.enter_context(_signals(stop, servers))
        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        runner.run(_run(servers, [sock for _, sock in apps], stop, ready))


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class _Server(Server):
    """A server among others in one loop: signals are handled once for all of them."""

    def capture_signals(self) -> Any:
        return nullcontext()


class _Joined:
    """A transport that sends what is written in one turn of the loop at once: head and body of an answer, say."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._parts: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def write_whole(self, data: bytes) -> None:
        """An answer to which nothing is to be joined, unless what came before it still waits."""
        if self._parts:
            self._parts.append(data)
        else:
            self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._parts and not self._transport.is_closing():
            self._transport.write(b"".join(self._parts))
        self._parts.clear()


class Room:
    """How many connections there may be, and which of them wait for their senders, the longest waiting first."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.open = 0
        self.waiting: dict[_Protocol, None] = {}
        self.dated: tuple[object, bytes] = (None, b"")

    def enter(self, connection: _Protocol) -> None:
        self.open += 1
        if self.open > self.most and self.waiting:
            first = next(iter(self.waiting))
            del self.waiting[first]
            first.transport.abort()
        self.waiting[connection] = None

    def leave(self, connection: _Protocol) -> None:
        self.open -= 1
        self.waiting.pop(connection, None)


class _Protocol(HttpToolsProtocol):
    """
    Besides what uvicorn does: a sender who closed its half is still answered, headers have a limit in number, bytes and
    time, and so has what is left of a body that was refused. Who says nothing, or does not read its answer, is cut off.
    The app is told in its state whether the body is all there (`whole`) or will never be (`cut`).

    A request that came whole is first shown to the app's `at_once`, where it has one: what it takes needs no task.
    """

    room: Room
    at_once: AtOnce | None = None
    transport: _Joined  # type: ignore[assignment]

    _in_headers = False
    _large = False
    _head = 0
    _drained = 0
    _raw = 0
    _got = 0
    _pieces = 0
    _wrong = ""
    _coming: tuple[RequestResponseCycle, Any] | None = None  # a request whose headers are here, and its body may be
    _asking = False
    _patience: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast("asyncio.Transport", _Joined(transport, self.loop)))
        self.room.enter(self)
        self._hurry(KEEP_ALIVE_S)

    def data_received(self, data: bytes) -> None:
        unfinished = self._in_headers
        self._large = self._head + len(data) > MAX_HEADERS
        self._raw += len(data)
        super().data_received(data)
        self._begin()
        if self._raw - self._got > self._got + MAX_FRAMING:
            self.send_400_response("more is sent around the body than in it")
        if len(data) >= TURN:
            self.flow.pause_reading()  # or as much as there is would be read before anyone else
            self.loop.call_soon(self._go_on)
        if self._in_headers:
            if not unfinished:
                self._calm()
            self._head += len(data) if unfinished else _size(self.headers)
            if self._head > MAX_HEADERS:
                self._in_headers = False
                self.send_400_response("the headers are too large")
            self._hurry()
        elif self.cycle is None or self.cycle.response_complete:
            self._hurry()  # what came belongs to nothing: empty lines, the rest of a body that was refused

    def eof_received(self) -> bool | None:  # type: ignore[override]
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return None
        cycle.keep_alive = False
        self._cut(cycle)
        return True  # stays open until the answer is written

    def connection_lost(self, exc: Exception | None) -> None:
        self._calm()
        if self._unread is not None:
            self._unread.cancel()
        self.room.leave(self)
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Those who were whole before it are answered first; so none of them is taken for the one that is refused."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete and (self.pipeline or not cycle.more_body):
            cycle.keep_alive = False
            self._cut(cycle)
            self.flow.pause_reading()
            return
        answer = answers.problem(400, detail=self._wrong or msg)
        self.transport.write(
            STATUS_LINE[400]
            + b"content-type: %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            % (answers.PROBLEM, len(answer.body))
            + answer.body
        )
        self.transport.close()

    def on_message_begin(self) -> None:
        self._in_headers = True
        self._head = self._drained = self._raw = self._got = self._pieces = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MAX_URL:
            self._refuse("the address is too long")

    def on_headers_complete(self) -> None:
        self._in_headers = False
        self._head = 0
        self._calm()
        if len(self.headers) > MAX_FIELDS:
            self._refuse(f"more than {MAX_FIELDS} headers")
        if self._large and _size(self.headers) > MAX_HEADERS:
            self._refuse("the headers are too large")
        if len(self.pipeline) >= MAX_PIPELINE:
            self._refuse("more requests than are answered")
        if self.parser.should_upgrade():  # the parser would take the body for the next request
            self._refuse("no other protocol is spoken here; leave Upgrade out")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._got += len(body)
        self._pieces += 1
        if self._pieces > MAX_PIECES:
            self._refuse("the body comes in too many pieces")
        super().on_body(body)
        if self.cycle.response_complete:
            self._drained += len(body)
            if self._drained > MAX_DRAIN:
                self.transport.close()
            self._hurry()

    def on_message_complete(self) -> None:
        self._calm()
        self.scope["state"]["whole"] = True
        if not self.cycle.response_complete:
            self.room.waiting.pop(self, None)
        super().on_message_complete()
        if self._coming is not None:
            cycle, app = self._coming
            self._coming = None
            self._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.room.waiting[self] = None
        self._begin()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self.at_once is None or cycle.waiting_for_100_continue:
            super()._start_asgi_task(cycle, app)
        elif cycle.more_body:
            self._coming = cycle, app
        elif not self._taken(cycle, self.at_once):
            super()._start_asgi_task(cycle, app)

    def _begin(self) -> None:
        """What has come so far is not the whole request; its app reads the rest."""
        if self._coming is not None:
            cycle, app = self._coming
            self._coming = None
            if not self.transport.is_closing():
                super()._start_asgi_task(cycle, app)

    def _taken(self, cycle: RequestResponseCycle, at_once: AtOnce) -> bool:
        self._asking = True
        try:
            return at_once(cast("Scope", cycle.scope), bytes(cycle.body), partial(self._answer, cycle))
        finally:
            self._asking = False

    def _answer(self, cycle: RequestResponseCycle, answer: Answer, extra: Headers) -> None:
        """As an app's answer is sent, in one piece."""
        if self._asking:  # the parser is still at this request
            self.loop.call_soon(self._answer, cycle, answer, extra)
            return
        if cycle.disconnected:
            return
        if self.flow.write_paused:
            task = self.loop.create_task(reply(cast("Send", cycle.send), answer, extra))
            task.add_done_callback(self.tasks.discard)
            self.tasks.add(task)
            return
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        last = b"" if cycle.keep_alive else b"connection: close\r\n"
        if (b"connection", b"close") in answer.headers:
            cycle.keep_alive, last = False, b""
        head = _head(answer.media_type, (*extra, *answer.headers))
        self.transport.write_whole(
            b"%b%b%bcontent-length: %d\r\n%b\r\n%b"
            % (STATUS_LINE[answer.status], self._dated(), head, len(answer.body), last, answer.body)
        )
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()

    def _dated(self) -> bytes:
        """The headers of every answer; uvicorn makes them anew each second."""
        headers = self.server_state.default_headers
        if self.room.dated[0] is not headers:
            self.room.dated = headers, b"".join([b"%b: %b\r\n" % each for each in headers])
        return self.room.dated[1]

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(WRITE_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    @staticmethod
    def _cut(cycle: RequestResponseCycle) -> None:
        if cycle.more_body:
            cycle.scope["state"]["cut"] = True
            cycle.more_body = False
            cycle.message_event.set()

    def _go_on(self) -> None:
        cycle = self.cycle
        if self.pipeline:
            return
        if cycle is None or cycle.response_complete or len(cycle.body) <= HIGH_WATER_LIMIT:
            self.flow.resume_reading()

    def _refuse(self, why: str) -> NoReturn:
        """Within a call of the parser, which then ends in `send_400_response`."""
        self._wrong = why
        raise ValueError(why)

    def _hurry(self, seconds: float | None = None) -> None:
        if self._patience is None:
            self._patience = self.loop.call_later(seconds or HEADERS_S, self.transport.close)

    def _calm(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None


@lru_cache(maxsize=1024)
def _head(media_type: bytes, headers: Headers) -> bytes:
    """The headers of an answer as they are sent; kept, for there are few different ones."""
    shown = (*headers, (b"content-type", media_type))
    if any(HEADER_VALUE_RE.search(value) for _, value in shown):
        raise ValueError("a header's value that can't be sent")
    return b"".join([b"%b: %b\r\n" % each for each in shown])


def _size(headers: Sequence[tuple[bytes, bytes]]) -> int:
    return sum(len(name) + len(value) for name, value in headers)


async def _run(
    servers: Sequence[_Server], sockets: Sequence[socket.socket], stop: Stop, ready: Callable[[], None]
) -> None:
    async def watch() -> None:
        while not all(server.started for server in servers):
            await asyncio.sleep(0.001)
        ready()
        while not stop.is_set():
            await asyncio.sleep(POLL_S)
        for server in servers:
            server.should_exit = True

    async with asyncio.TaskGroup() as group:
        for server, sock in zip(servers, sockets, strict=True):
            group.create_task(server.serve([sock]))
        group.create_task(watch())


def _config(app: App, grace_s: float, room: Room) -> Config:
    at_once: AtOnce | None = getattr(app, "at_once", None)
    return Config(
        app,
        http=type("_Protocol", (_Protocol,), {"room": room, "at_once": at_once and staticmethod(at_once)}),
        ws="none",
        lifespan="off",
        interface="asgi3",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        log_level="critical",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(grace_s)),
    )


@contextmanager
def _signals(stop: Stop, servers: Sequence[_Server]) -> Iterator[None]:
    """The first SIGTERM or SIGINT ends in order, a second SIGINT at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _frame: object) -> None:
        if stop.is_set() and number == signal.SIGINT:
            for server in servers:
                server.force_exit = True
        stop.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
