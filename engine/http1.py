"""
HTTP/1.1 on one connection: what its sender sends -> calls of an app (ASGI); what the app answers -> bytes.

`httptools` parses. Requests are answered one after the other, in the order they came; what comes meanwhile waits. No
more than READ_AHEAD of a body is read before the app asks for it. What else a sender may not do is in `listening`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

import httptools

from engine import answers
from engine.asgi import reply

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.asgi import App, Scope

READ_AHEAD = 64 * 1024  # bytes
NO_NAME = bytes([*range(33), 127]) + b'()<>@,;:[]={}\\"'  # what no name of a header has in it
NO_VALUE = bytes([*range(9), *range(10, 32), 127])
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
ASGI = {"version": "3.0", "spec_version": "2.3"}


@cache
def status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


def date_line(now: float) -> bytes:
    """The header of every answer; in English whatever the machine speaks."""
    at = time.gmtime(now)
    day, month = DAYS[at.tm_wday], MONTHS[at.tm_mon - 1]
    clock = f"{at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02}"
    return f"date: {day}, {at.tm_mday:02} {month} {at.tm_year} {clock} GMT\r\n".encode()


def header_line(name: bytes, value: bytes) -> bytes:
    """RuntimeError for what would be read as more than this header."""
    if name.translate(None, NO_NAME) != name or value.translate(None, NO_VALUE) != value:
        raise RuntimeError("a header that can't be sent")
    return b"%b: %b\r\n" % (name.lower(), value)


class Served:
    """The connections of a server, the requests that are at their apps, and the moment that every answer names."""

    def __init__(self) -> None:
        self.connections: set[Connection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.date = b""  # as a line

    def tick(self) -> None:
        """Once a second."""
        self.date = date_line(time.time())


class Connection(asyncio.Protocol):
    """One of a server's; `_start`, `send_400_response` and what the parser calls can be refined."""

    transport: asyncio.Transport

    def __init__(self, app: App, served: Served, loop: asyncio.AbstractEventLoop, *, keep_alive_s: float) -> None:
        self.app, self.served, self.loop, self.keep_alive_s = app, served, loop, keep_alive_s
        self.parser: Any = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # it is not answered; the request is
        self.server: tuple[str, int] | None = None
        self.client: tuple[str, int] | None = None
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.scope: dict[str, Any] = {}
        self.cycle: Request | None = None  # the last that came
        self.pipeline: deque[Request] = deque()  # those that came before their turn
        self.read_paused = False
        self._expects = False  # does the sender wait for 100 before the body?
        self._writable: asyncio.Event | None = None  # while the sender does not read
        self._idle_at: float | None = None
        self._idle: asyncio.TimerHandle | None = None

    # --- the connection ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self.served.connections.add(self)
        self.server = _address(transport.get_extra_info("sockname"))
        self.client = _address(transport.get_extra_info("peername"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.served.connections.discard(self)
        if self.cycle is not None:
            if not self.cycle.response_complete:
                self.cycle.disconnected = True
            self.cycle.wake()
        self.resume_writing()
        if exc is None:
            self.transport.close()
        if self._idle is not None:
            self._idle.cancel()
        self.parser = None

    def data_received(self, data: bytes) -> None:
        self._idle_at = None
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        except httptools.HttpParserUpgrade:  # no other protocol is spoken: what follows is passed over
            return

    def eof_received(self) -> bool | None:
        return None

    def shutdown(self) -> None:
        """The last request is answered, and no other."""
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
        else:
            self.cycle.keep_alive = False

    def send_400_response(self, msg: str) -> None:
        raise NotImplementedError

    def pause_reading(self) -> None:
        if not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()

    @property
    def write_paused(self) -> bool:
        return self._writable is not None

    def pause_writing(self) -> None:
        if self._writable is None:
            self._writable = asyncio.Event()

    def resume_writing(self) -> None:
        if self._writable is not None:
            self._writable.set()
            self._writable = None

    async def drain(self) -> None:
        """Until the sender has read what it was answered."""
        if self._writable is not None:
            await self._writable.wait()

    def _rest(self) -> None:
        """Nothing is asked; one timer for all such times of a connection, for each request ends one."""
        self._idle_at = self.loop.time()
        if self._idle is None:
            self._idle = self.loop.call_later(self.keep_alive_s, self._rested)

    def _rested(self) -> None:
        self._idle = None
        if self._idle_at is None:
            return
        left = self._idle_at + self.keep_alive_s - self.loop.time()
        if left > 0:
            self._idle = self.loop.call_later(left, self._rested)
        else:
            self.transport.close()

    # --- what the parser has found ---

    def on_message_begin(self) -> None:
        self.url, self.headers, self._expects = b"", [], False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self._expects = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        version, before = self.parser.get_http_version(), self.cycle
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        self.scope = {
            "type": "http",
            "asgi": ASGI,
            "http_version": version,
            "method": self.parser.get_method().decode("ascii"),
            "scheme": "http",
            "path": unquote(path) if "%" in path else path,
            "raw_path": url.path,
            "query_string": url.query or b"",
            "root_path": "",
            "headers": self.headers,
            "server": self.server,
            "client": self.client,
            "state": {},
        }
        keep_alive = version != "1.0" and self.parser.should_keep_alive()
        self.cycle = Request(self, self.scope, keep_alive=keep_alive, expects=self._expects)
        if before is None or before.response_complete:
            self._start(self.cycle)
        else:
            self.pause_reading()
            self.pipeline.append(self.cycle)

    def on_body(self, body: bytes) -> None:
        cycle = cast("Request", self.cycle)
        if cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > READ_AHEAD:
            self.pause_reading()
        cycle.wake()

    def on_message_complete(self) -> None:
        cycle = cast("Request", self.cycle)
        if not cycle.response_complete:
            cycle.more_body = False
            cycle.wake()

    # --- the app ---

    def _start(self, cycle: Request) -> None:
        self._run(cycle)

    def _run(self, cycle: Request) -> None:
        task = self.loop.create_task(cycle.run(self.app))
        task.add_done_callback(self.served.tasks.discard)
        self.served.tasks.add(task)

    def on_response_complete(self) -> None:
        if self.transport.is_closing():
            return
        self.resume_reading()
        if self.pipeline:
            self._start(self.pipeline.popleft())
        else:
            self._rest()


class Request:
    """A request as its app sees it: `scope`, `receive`, `send`."""

    __slots__ = (
        "_connection", "_event", "_left", "_news", "_task_over", "body", "disconnected", "keep_alive", "more_body",
        "response_complete", "response_started", "scope", "waiting_for_100_continue",
    )  # fmt: skip

    def __init__(self, connection: Connection, scope: Scope, *, keep_alive: bool, expects: bool) -> None:
        self.scope, self.keep_alive = scope, keep_alive
        self.waiting_for_100_continue = expects
        self.body = bytearray()  # as far as it is here and not yet received
        self.more_body = True
        self.disconnected = self.response_started = self.response_complete = False
        self._connection = connection
        self._left: int | None = 0  # bytes of the answer; None: as many as come, in chunks
        self._news, self._event = False, cast("asyncio.Event | None", None)  # is there what `receive` waits for?
        self._task_over = False

    def wake(self) -> None:
        self._news = True
        if self._event is not None:
            self._event.set()

    def on_response(self) -> None:
        if not self._task_over:
            self._connection.on_response_complete()

    async def run(self, app: App) -> None:
        """Whatever the app does, the sender is answered, or cut off where the answer has begun."""
        try:
            await app(self.scope, self.receive, self.send)
        except BaseException:  # also where the end of the server cancels it; the app has told what it had to tell
            failed = True
        else:
            failed = not self.response_complete
        try:
            if failed and not self.disconnected:
                if self.response_started:
                    self._connection.transport.close()
                else:
                    await reply(self.send, answers.problem(500), ((b"connection", b"close"),))
        finally:
            self._task_over = True

    async def receive(self) -> dict[str, Any]:
        connection = self._connection
        if self.waiting_for_100_continue and not connection.transport.is_closing():
            connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        if not self.disconnected and not self.response_complete:
            connection.resume_reading()
            if not self._news:
                if self._event is None:
                    self._event = asyncio.Event()
                await self._event.wait()
                self._event.clear()
            self._news = False
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body = bytes(self.body)
        self.body = bytearray()
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, message: Mapping[str, Any]) -> None:
        """RuntimeError for what is no answer, or another than its head says."""
        if self._connection.write_paused and not self.disconnected:
            await self._connection.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if kind == "http.response.start" and not self.response_started:
            self._connection.transport.write(self._head(message["status"], message.get("headers", ())))
            self.response_started, self.waiting_for_100_continue = True, False
        elif kind == "http.response.body" and self.response_started and not self.response_complete:
            self._send_body(message.get("body", b""), message.get("more_body", False))
        else:
            raise RuntimeError(f"{kind} has no place here")

    def _head(self, status: int, headers: Any) -> bytes:
        lines = [status_line(status), self._connection.served.date]
        left: int | None = -1  # not said
        closes = False
        for name, value in headers:
            lines.append(header_line(name, value))
            match name.lower():
                case b"content-length" if left == -1:
                    left = int(value)
                case b"transfer-encoding" if value.lower() == b"chunked":
                    left = None
                case b"connection" if b"close" in [token.strip() for token in value.lower().split(b",")]:
                    closes = True
        if closes:
            self.keep_alive = False
        elif not self.keep_alive:
            lines.append(b"connection: close\r\n")
        if self.scope["method"] == "HEAD" or status in (204, 304):
            left = 0
        elif left == -1:
            left = None
            lines.append(b"transfer-encoding: chunked\r\n")
        self._left = left
        return b"".join([*lines, b"\r\n"])

    def _send_body(self, body: bytes, more: bool) -> None:
        if self.scope["method"] == "HEAD":
            body = b""
        transport = self._connection.transport
        if self._left is None:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            transport.write(chunk if more else chunk + b"0\r\n\r\n")
        else:
            self._left -= len(body)
            if self._left < 0 or (self._left > 0 and not more):
                raise RuntimeError("the body has another length than the head says")
            transport.write(body)
        if not more:
            self.response_complete = True
            self.wake()
            if not self.keep_alive:
                transport.close()
            self.on_response()


def _address(found: Any) -> tuple[str, int] | None:
    """(host, port) of a socket that has both; one of a file has neither."""
    return (str(found[0]), int(found[1])) if isinstance(found, tuple) else None
