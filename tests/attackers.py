"""
Senders who mean harm, as a process of their own: `python tests/attackers.py KIND PORT KEY`; they go on until killed.

The first line they print says that they are at it.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import resource
import sys
from collections.abc import Awaitable, Callable

HEAD = "POST /{connector} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nX-Connect-Key: {key}\r\n"
MEGABYTE = 990_000


class Attack:
    """One kind at one server."""

    def __init__(self, port: int, key: str) -> None:
        self.port, self.key = port, key

    @property
    def head(self) -> bytes:
        return HEAD.format(connector="responsys", key=self.key).encode()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def over_and_over(self, senders: int, send: Callable[[], Awaitable[None]]) -> None:
        """So many at a time, each on a connection of its own, again when it is cut off."""

        async def one() -> None:
            while True:
                try:
                    await send()
                except (OSError, asyncio.IncompleteReadError):
                    await asyncio.sleep(0.01)

        await self.ready(asyncio.gather(*[one() for _ in range(senders)]))

    async def ready(self, forever: Awaitable[object]) -> None:
        task = asyncio.ensure_future(forever)
        await asyncio.sleep(0.3)
        print("at it", flush=True)
        await task

    async def drip(self, first: bytes, piece: bytes, senders: int = 400) -> None:
        async def send() -> None:
            _, writer = await self.connect()
            writer.write(first)
            while True:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.2)

        await self.over_and_over(senders, send)

    async def stream(self, first: bytes, piece: bytes, senders: int = 8) -> None:
        async def send() -> None:
            _, writer = await self.connect()
            writer.write(first)
            try:
                while True:
                    writer.write(piece)
                    await writer.drain()
            finally:
                writer.close()

        await self.over_and_over(senders, send)

    async def post(self, body: bytes, more: bytes = b"", senders: int = 4) -> None:
        async def send() -> None:
            reader, writer = await self.connect()
            try:
                while True:
                    writer.write(self.head + more + b"Content-Length: %d\r\n\r\n" % len(body) + body)
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
                    await reader.readexactly(length)
            finally:
                writer.close()

        await self.over_and_over(senders, send)

    # time

    async def slow_headers(self) -> None:
        await self.drip(self.head, b"X-Slow: 1\r\n")

    async def slow_bodies(self) -> None:
        await self.drip(self.head + b"Content-Length: 900000\r\n\r\n" + b" " * 100_000, b" ")

    async def empty_lines(self) -> None:
        await self.drip(b"", b"\r\n")

    async def silent_connections(self) -> None:
        """Ten thousand, or as many as this process may have."""
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        kept = []
        for _ in range(min(10_000, hard - 100)):
            kept.append(await self.connect())
        print("at it", flush=True)
        while True:
            await asyncio.sleep(1)

    async def new_connections(self) -> None:
        async def send() -> None:
            _, writer = await self.connect()
            writer.close()

        await self.over_and_over(20, send)

    # size

    async def endless_chunks(self) -> None:
        await self.stream(self.head + b"Transfer-Encoding: chunked\r\n\r\n", b"ffff\r\n" + b" " * 65_535 + b"\r\n")

    async def tiny_chunks(self) -> None:
        await self.stream(self.head + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n" * 2_000)

    async def chunk_extensions(self) -> None:
        await self.stream(self.head + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x" * 65_536)

    async def endless_length(self) -> None:
        await self.stream(self.head + b"Content-Length: 100000000000\r\n\r\n", b" " * 65_536)

    async def endless_headers(self) -> None:
        await self.stream(self.head, b"X-More: " + b"x" * 1_000 + b"\r\n")

    async def many_headers(self) -> None:
        await self.stream(b"", self.head + b"a: b\r\n" * 3_000 + b"\r\n")

    async def garbage(self) -> None:
        await self.stream(b"", b"\x00\xffGET rubbish\r\n\r\n" * 500)

    async def unread_answers(self) -> None:
        await self.stream(b"", self.head + b"Content-Length: 2\r\n\r\n[]", senders=4)

    # bodies

    async def deep(self) -> None:
        await self.post(b"[" * MEGABYTE)

    async def deep_objects(self) -> None:
        await self.post(b'{"a":' * (MEGABYTE // 5))

    async def numbers(self) -> None:
        await self.post(b'{"clientId": "client-abc", "x": [' + b"1.5e10," * 49_000 + b"1]}")

    async def huge_number(self) -> None:
        await self.post(b'{"x": ' + b"9" * MEGABYTE + b"}")

    async def duplicate_keys(self) -> None:
        keys = ",".join(f'"{number}":1' for number in range(45_000))
        await self.post(f'{{{keys},"44999":1}}'.encode())

    async def too_many_values(self) -> None:
        await self.post(b"[" + b"1," * (MEGABYTE // 2) + b"1]")

    async def bad_events(self) -> None:
        """A thousand, each with faults to be told."""
        event = json.dumps({"email": 1, "eventType": "A B", "timestamp": "no", "product": [], "clientId": "client-abc"})
        await self.post(f"[{','.join([event] * 1_000)}]".encode())

    async def good_events(self) -> None:
        event = {"email": "a@example.com", "eventType": "view", "timestamp": "2026-01-28T10:30:45.123Z"}
        body = json.dumps({**event, "clientId": "client-abc", "more": "x" * 700})
        await self.post(f"[{','.join([body] * 1_000)}]".encode(), senders=1)

    async def compressed(self) -> None:
        await self.post(gzip.compress(b" " * 100_000_000), b"Content-Encoding: gzip\r\n")

    async def signatures(self) -> None:
        self.key = ""
        await self.post(b" " * MEGABYTE, b"X-Connect-Signature: t=%d,v1=00\r\n" % 2_000_000_000)

    async def wrong_keys(self) -> None:
        self.key = "guess"
        await self.post(b"{}", senders=8)


if __name__ == "__main__":
    kind, port, key = sys.argv[1:]
    asyncio.run(getattr(Attack(int(port), key), kind)())
