"""
A CRM of the quickest kind, in a process of its own: it counts the records of a body and says yes to each.

`python -m benchmarks.crm --latency 0.1` prints its port; plain HTTP/1.1 on loopback, one coroutine for a connection. It
reads no JSON: what it costs is not what is measured. It speaks as much Responsys and Salesforce as a drain needs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import unquote_plus

from benchmarks.measuring import ROOT

_ADDRESS = re.compile(r"'([^']+@[^']+)'")
_TOKEN = b'{"authToken": "a-token-of-some-length", "endPoint": "https://api2-012.responsys.net"}'
_ACCESS = b'{"access_token": "a-token-of-some-length", "instance_url": "https://acme.my.salesforce.com"}'
_RECIPIENT = b'{"errorMessage":null,"success":true,"recipientId":364470825}'
_CREATED = b'{"id":"00T000000000001AAA","success":true,"errors":[]}'


def answer(target: str, body: bytes) -> bytes:
    if "/auth/token" in target:
        return _TOKEN
    if "/oauth2/token" in target:
        return _ACCESS
    if "/query" in target:
        return people(unquote_plus(target.partition("?")[2]))
    if "/composite/sobjects" in target:
        return b"[" + b",".join([_CREATED] * body.count(b'"attributes"')) + b"]"
    return b"[" + b",".join([_RECIPIENT] * body.count(b'"emailAddress"')) + b"]"


def people(query: str) -> bytes:
    """Half of those that are asked for, so that the leads are asked for the other half."""
    lead = "FROM Lead" in query
    found = [{"Id": "003000000000001AAA", "Email": email} for email in _ADDRESS.findall(query)]
    found = found if lead else found[: (len(found) + 1) // 2]
    return json.dumps({"totalSize": len(found), "done": True, "records": found}).encode()


class Crm(asyncio.Protocol):
    def __init__(self, latency_s: float) -> None:
        self.latency_s, self.buffer, self.transport = latency_s, bytearray(), asyncio.Transport()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (at := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:at].decode("latin-1")
            lower = head.lower()
            length = 0
            if (where := lower.find("content-length:")) >= 0:
                length = int(lower[where + 15 :].split("\r\n", 1)[0])
            if len(self.buffer) < at + 4 + length:
                return
            body = bytes(self.buffer[at + 4 : at + 4 + length])
            del self.buffer[: at + 4 + length]
            reply = answer(head.split(" ", 2)[1], body)
            whole = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(reply)
            if self.latency_s:
                asyncio.get_running_loop().call_later(self.latency_s, self.say, whole + reply)
            else:
                self.say(whole + reply)

    def say(self, whole: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(whole)


async def serve(latency_s: float) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Crm(latency_s), "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)  # until whoever began it is gone
    server.close()


@contextmanager
def crm(latency_s: float = 0.0) -> Iterator[str]:
    """Its address while it runs."""
    command = [sys.executable, "-m", "benchmarks.crm", "--latency", str(latency_s)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.stdin.close()
        process.wait(10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    with suppress(KeyboardInterrupt):
        asyncio.run(serve(parser.parse_args().latency))


if __name__ == "__main__":
    main()
