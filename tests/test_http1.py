"""HTTP/1.1 as an app of any kind meets it, over sockets: heads, bodies of all lengths, and apps that fail."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from engine import http1, listening
from engine.answers import problem

Send = Callable[[dict[str, Any]], Any]
Receive = Callable[[], Any]


@contextmanager
def served(app: Any) -> Iterator[int]:
    """The port where the app answers."""
    sock, stop, ready = listening.listen("127.0.0.1", 0), threading.Event(), threading.Event()
    port: int = sock.getsockname()[1]
    run = threading.Thread(
        target=listening.run, args=([(app, sock)],), kwargs={"stop": stop, "grace_s": 1.0, "ready": ready.set}
    )
    run.start()
    try:
        assert ready.wait(10)
        yield port
    finally:
        stop.set()
        run.join(10)
        assert not run.is_alive()


def told(port: int, *pieces: bytes) -> bytes:
    """All that is answered until the connection ends; without the moment."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        for piece in pieces:
            sock.sendall(piece)
        found = b"".join(iter(lambda: sock.recv(65536), b""))
    dated = re.sub(rb"date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n", b"", found)
    assert len(found) - len(dated) == 37  # the last answer names it, `100 Continue` does not
    return dated


def app_of(*messages: dict[str, Any]) -> Any:
    async def app(_scope: Any, _receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return app


def start(status: int = 200, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(data: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


GET = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
FIVE = (b"Content-Length", b"5")


@pytest.mark.parametrize(
    ("app", "asked", "answered"),
    [
        (
            app_of(start(200, FIVE), body(b"he", more=True), body(b"llo")),
            GET,
            b"content-length: 5\r\nconnection: close\r\n\r\nhello",
        ),
        (
            app_of(start(), body(b"hel", more=True), body(b"", more=True), body(b"lo")),
            GET,
            b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
        ),
        (
            app_of(start(200, (b"transfer-encoding", b"chunked")), body(b"hello")),
            GET,
            b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ),
        (app_of(start(200, FIVE), body(b"hello")), HEAD, b"content-length: 5\r\nconnection: close\r\n\r\n"),
        (app_of(start(), body(b"hello")), HEAD, b"connection: close\r\n\r\n"),
    ],
)
def test_a_body_is_sent_as_long_as_its_head_says_in_chunks_else_and_never_for_head(
    app: Any, asked: bytes, answered: bytes
) -> None:
    with served(app) as port:
        assert told(port, asked) == b"HTTP/1.1 200 OK\r\n" + answered


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_that_has_no_body_has_no_length(status: int) -> None:
    with served(app_of(start(status), body(b""))) as port:
        assert told(port, GET) == http1.status_line(status) + b"connection: close\r\n\r\n"


def test_an_app_that_says_close_is_the_last_on_its_connection() -> None:
    with served(app_of(start(200, FIVE, (b"Connection", b"Close")), body(b"hello"))) as port:
        answer = told(port, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    assert answer == b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: Close\r\n\r\nhello"


def test_a_sender_of_http_1_0_is_answered_once() -> None:
    with served(app_of(start(200, FIVE), body(b"hello"))) as port:
        answer = told(port, b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
    assert answer == b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello"


async def fails(_scope: Any, _receive: Receive, _send: Send) -> None:
    raise ValueError("a secret")


@pytest.mark.parametrize(
    "app",
    [
        fails,
        app_of(),
        app_of(body(b"hello")),
        app_of({"type": "http.response.trailers"}),
        app_of(start(200, (b"x-name", b"one\r\nx-other: two")), body(b"")),
        app_of(start(200, (b"x name", b"one")), body(b"")),
    ],
)
def test_an_app_that_fails_before_it_answers_is_a_500_that_says_nothing_more(app: Any) -> None:
    sent = problem(500).body
    with served(app) as port:
        head, _, answer = told(port, GET).partition(b"\r\n\r\n")
    assert head.splitlines()[0] == b"HTTP/1.1 500 Internal Server Error"
    assert answer == sent


@pytest.mark.parametrize(
    ("messages", "sent"),
    [
        ((start(200, FIVE),), b""),
        ((start(200, FIVE), body(b"hel")), b""),
        ((start(200, FIVE), body(b"hello you")), b""),
        ((start(200, FIVE), start(500, FIVE)), b""),
        ((start(200, FIVE), body(b"hel", more=True)), b"hel"),
    ],
)
def test_an_app_that_fails_within_its_answer_is_cut_off(messages: tuple[dict[str, Any], ...], sent: bytes) -> None:
    with served(app_of(*messages)) as port:
        head, _, rest = told(port, GET).partition(b"\r\n\r\n")
    assert (head.splitlines()[0], rest) == (b"HTTP/1.1 200 OK", sent)


def test_a_body_comes_to_the_app_in_pieces_and_its_sender_is_told_to_go_on_when_it_is_asked_for() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        seen.append((scope["method"], scope["path"], scope["raw_path"], scope["query_string"], scope["http_version"]))
        size, more = 0, True
        while more:
            message = await receive()
            size, more = size + len(message["body"]), message["more_body"]
        await send(start(200, FIVE))
        await send(body(b"%05d" % size))
        seen.append(await receive())

    head = (
        b"PUT /a%20b?c=%20 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n"
        b"expect: 100-Continue\r\ncontent-length: 60000\r\n\r\n"
    )
    with served(app) as port:
        answer = told(port, head, b"x" * 30_000, b"y" * 30_000)
    assert answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").endswith(b"\r\n\r\n60000")
    assert seen == [("PUT", "/a b", b"/a%20b", b"c=%20", "1.1"), {"type": "http.disconnect"}]


def test_a_moment_is_told_in_english_whatever_the_machine_speaks() -> None:
    assert http1.date_line(784_111_777.9) == b"date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
    assert http1.date_line(0) == b"date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
