"""
Senders of events in a process of its own: raw HTTP/1.1 over keep-alive connections, each sends when it was answered.

`python -m benchmarks.load PORT PATH BODY --connections 64 --seconds 2` prints a line of JSON. `%010d` in BODY becomes a
number that rises, so that no two events are alike. With `--rate` so many are sent a second, and what waits for a free
connection counts as late.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import cast

import uvloop

from benchmarks.measuring import ROOT

KEY = "a-write-key"
LAST_S = 2.0  # for the answers that are still to come


@dataclass(frozen=True)
class Load:
    """What became of it."""

    answered: int  # within the time
    seconds: float
    taken: int  # 202s and 200s, those after the time, too
    refused: int
    unanswered: int
    due: int  # how many were to be sent
    p50_ms: float
    p99_ms: float
    worst_ms: float


class Senders:
    """All connections of one load; `rate` 0 is as fast as they are answered."""

    def __init__(self, head: bytes, body: bytes, rate: float) -> None:
        self.head, self.body, self.rate = head, body, rate
        self.number = time.monotonic_ns() // 1_000 % 10**10
        self.late_s: list[float] = []
        self.taken = self.refused = self.under_way = 0
        self.over = False
        self.free: deque[Sender] = deque()
        self.due: deque[float] = deque()  # when each was to be sent

    def request(self) -> bytes:
        self.number += 1
        return self.head + self.body % self.number

    def ready(self, sender: Sender) -> None:
        if not self.rate and not self.over:
            sender.send(time.perf_counter())
        elif self.due:
            sender.send(self.due.popleft())
        else:
            self.free.append(sender)

    def pace(self, now: float) -> None:
        self.due.append(now)
        while self.due and self.free:
            self.free.popleft().send(self.due.popleft())


class Sender(asyncio.Protocol):
    def __init__(self, senders: Senders) -> None:
        self.senders, self.since, self.buffer = senders, 0.0, b""
        self.transport = asyncio.Transport()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass
        self.senders.ready(self)

    def send(self, since: float) -> None:
        self.since = since
        self.senders.under_way += 1
        self.transport.write(self.senders.request())

    def data_received(self, data: bytes) -> None:
        data = self.buffer + data if self.buffer else data
        end = data.find(b"\r\n\r\n")
        at = data.find(b"content-length: ", 0, end)
        if end < 0 or len(data) < end + 4 + int(data[at + 16 : data.find(b"\r", at)]):
            self.buffer = data
            return
        self.buffer = b""
        senders = self.senders
        senders.under_way -= 1
        senders.late_s.append(time.perf_counter() - self.since)
        if data.startswith((b"HTTP/1.1 202", b"HTTP/1.1 200")):
            senders.taken += 1
        else:
            senders.refused += 1
        senders.ready(self)


async def run(port: int, path: str, body: str, connections: int, seconds: float, rate: float) -> Load:
    encoded = body.encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"X-Connect-Key: {KEY}\r\nContent-Length: {len(encoded % 0)}\r\n\r\n"
    ).encode()
    senders = Senders(head, encoded, rate)
    loop = asyncio.get_running_loop()
    for _ in range(connections):
        await loop.create_connection(lambda: Sender(senders), "127.0.0.1", port)
    began, due = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < seconds:
        for number in range(due, int(passed * rate)):
            senders.pace(began + number / rate)
        due = max(due, int(passed * rate))
        await asyncio.sleep(0.001 if rate else seconds - passed)
    took, answered = time.perf_counter() - began, len(senders.late_s)
    senders.over = True
    while (senders.under_way or senders.due) and time.perf_counter() - began < seconds + LAST_S:
        await asyncio.sleep(0.01)
    late = sorted(each * 1e3 for each in senders.late_s)
    return Load(
        answered=answered,
        seconds=took,
        taken=senders.taken,
        refused=senders.refused,
        unanswered=senders.under_way + len(senders.due),
        due=due or len(late),
        p50_ms=late[len(late) // 2],
        p99_ms=late[len(late) * 99 // 100],
        worst_ms=late[-1],
    )


def load(port: int, path: str, body: str, *, connections: int = 64, seconds: float = 2.0, rate: float = 0.0) -> Load:
    """From a process of its own."""
    command = [sys.executable, "-m", "benchmarks.load", str(port), path, body]
    command += ["--connections", str(connections), "--seconds", str(seconds), "--rate", str(rate)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return Load(**json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load")
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("body")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rate", type=float, default=0.0)
    given = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(run(given.port, given.path, given.body, given.connections, given.seconds, given.rate))
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    main()
