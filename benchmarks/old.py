"""
Mapping, intake and drain, measured in one run on this machine; ratios hold better than figures.

Everything is real but the CRM: the SQLite file is on disk with fsync on every commit, the HTTP goes over loopback, the
vendor is the connector's sandbox.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from engine.alerts import LogAlerts
from engine.clock import SystemClock
from engine.demo import CLIENTS, clients_in
from engine.intake import Receiver
from engine.program import Program
from engine.sandbox import Sandbox, SandboxTransport
from engine.sending import Masker
from engine.spec import types
from engine.spec.project import Project
from engine.spec.units import Rate
from engine.stores.sqlite import SqliteStore
from engine.telemetry import NullTelemetry
from engine.walk import Credentials, World
from engine.worker import Worker

EVENT = {
    "email": "user@example.com",
    "eventType": "product_view",
    "product": {
        "id": "PROD-12345",
        "name": "Smartphone XYZ",
        "price": 1299.90,
        "image": "https://example.com/image.jpg",
        "url": "https://example.com/product/xyz",
    },
    "timestamp": "2026-01-28T10:30:45.123Z",
    "sessionId": "abc123-session",
    "clientId": "bench",
    "tid": "bench",
}


def per_second(work: Callable[[], int], least_s: float = 1.0) -> float:
    """How many a second, over at least that long."""
    work()
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < least_s:
        count += work()
    return count / (time.perf_counter() - began)


def program_of(connector: types.Connector) -> Program:
    sandbox = connector.sandbox
    binding = types.Binding(settings=sandbox.settings if sandbox else {})
    return Program(connector, types.Client(client="bench", connectors={connector.name: binding}), binding)


def by_hand(event: dict[str, Any]) -> dict[str, Any]:
    """What the seed's Lambda would do for RD Station, written out in Python."""
    product = event.get("product") or {}
    payload = {
        "conversion_identifier": event["eventType"],
        "email": event["email"].strip().lower(),
        "cf_product_id": product.get("id"),
        "cf_product_name": product.get("name"),
        "cf_product_price": f"{product['price']:.2f}" if "price" in product else None,
        "cf_product_url": product.get("url"),
        "cf_timestamp": event.get("timestamp"),
    }
    return {
        "event_type": "CONVERSION",
        "event_family": "CDP",
        "payload": {key: value for key, value in payload.items() if value is not None},
    }


def mapping(connectors: dict[str, types.Connector]) -> None:
    """Records a second of each connector's first action, on one core."""
    from engine.program import decode_event

    body = json.dumps(EVENT).encode()
    hand = per_second(lambda: len([by_hand(decode_event(body)) for _ in range(1000)]))
    print(f"mapping, written by hand in Python (RD Station)      {hand:12,.0f} events/s")
    for name, connector in connectors.items():
        program = program_of(connector)
        action = next(iter(program.actions.values()))

        def run(program: Program = program, action: Any = action) -> int:
            for _ in range(1000):
                scope = program.row_scope(decode_event(body), 1.0)
                scope |= {"lookups": {"person": {"Id": "003000000000001AAA"}}, "vars": {}, "delivery": {"id": "d"}}
                action.record(scope)
            return 1000

        rate = per_second(run)
        print(f"mapping, {name + '.' + action.name:<43} {rate:12,.0f} events/s   {rate / hand:5.2f} of by hand")


def intake(connector: types.Connector, folder: Path) -> None:
    """Parse, validate, bind, and put with group commit; no HTTP."""
    program = program_of(connector)
    receiver = Receiver(
        connector, {"bench": "bench"}, lambda _: program, schema=connector.receive.schema, keys={}, inactive={}
    )
    body = json.dumps(EVENT).encode()

    def receive() -> int:
        for _ in range(1000):
            receiver.receive(body, "application/json", None, 1.0)
        return 1000

    print(f"intake without the store (parse, validate, bind)     {per_second(receive):12,.0f} events/s")
    store = SqliteStore(folder / "intake.db")
    accepted = [receiver.receive(body, "application/json", None, 1.0).accepted[0][1]]

    def put() -> int:
        for future in [store.put(accepted, now=1.0) for _ in range(2000)]:
            future.result()
        return 2000

    print(f"durable put, one event each, 2,000 in flight         {per_second(put):12,.0f} events/s")
    store.close()


def drain(connector: types.Connector, folder: Path, events: int) -> None:
    """Buffer to sandbox in this process: read, look up, map, batch, send, settle."""
    program = program_of(connector)
    receiver = Receiver(
        connector, {"bench": "bench"}, lambda _: program, schema=connector.receive.schema, keys={}, inactive={}
    )
    store = SqliteStore(folder / f"{connector.name}.db")
    accepted = []
    for number in range(events):
        event = {**EVENT, "email": f"person{number}@example.com"}
        accepted.append(
            receiver.receive(json.dumps(event).encode(), "application/json", None, time.time() - 3600).accepted[0][1]
        )
    for at in range(0, events, 500):
        store.put(accepted[at : at + 500], now=time.time() - 3600).result()
    sandbox = Sandbox(connector)
    sandbox.limits = {name: (Rate(10**9, 1.0), by, full) for name, (_, by, full) in sandbox.limits.items()}
    for action in program.actions.values():
        for step in action.steps.steps.values():
            step.call.gate.limits = []
    secrets = dict(connector.sandbox.secrets) if connector.sandbox else {}
    clock = SystemClock()
    world = World(
        store=store,
        transport=SandboxTransport([sandbox], clock.now),
        clock=clock,
        telemetry=NullTelemetry(),
        alerts=LogAlerts(NullTelemetry()),
        program=lambda *_: program,
        credentials=lambda _: Credentials(secrets, "bench"),
        masker=lambda _: Masker(secrets.values()),
    )
    began = time.perf_counter()
    Worker(world).drain()
    seconds = time.perf_counter() - began
    lane = store.lanes()[0]
    store.close()
    print(
        f"drain, {connector.name:<45} {lane.delivered / seconds:12,.0f} events/s   "
        f"({lane.delivered:,} delivered in {seconds:.1f} s)"
    )


def over_http(folder: Path, seconds: float = 5.0) -> None:
    """serve → buffer → sandbox over real HTTP on loopback, one serve process; senders and sandbox beside it."""
    from engine.listening import listen

    folder = folder / "http"
    environment = {**os.environ, **clients_in(folder / "clients")}
    for file in (folder / "clients").iterdir():  # or the vendor's 200 requests a minute would be what is measured
        file.write_text(file.read_text().replace('"records": 50', '"records": 200'))
    with listen("127.0.0.1", 0) as one, listen("127.0.0.1", 0) as two, listen("127.0.0.1", 0) as three:
        port, admin, crm = (sock.getsockname()[1] for sock in (one, two, three))
    log = (folder / "log").open("wb")
    start = [sys.executable, "-m", "engine.cli"]
    sandbox = subprocess.Popen(
        [*start, "sandbox", "--port", str(crm), "--project", str(folder)], stdout=log, stderr=log
    )
    serve = subprocess.Popen(
        [*start, "serve", "--project", str(folder), "--port", str(port), "--admin-port", str(admin), "--via", f"http://127.0.0.1:{crm}"],
        env=environment, stdout=log, stderr=log,
    )  # fmt: skip
    try:
        import httpx

        for _ in range(200):
            try:
                httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False)
                break
            except httpx.HTTPError:
                time.sleep(0.05)
        posted = load(port, seconds)
        began = time.perf_counter()
        waiting, lanes = 1, []
        while waiting and time.perf_counter() - began < 120:
            time.sleep(0.2)
            lanes = httpx.get(f"http://127.0.0.1:{admin}/lanes", trust_env=False).json()["lanes"]
            waiting = sum(lane["waiting"] for lane in lanes)
        delivered = sum(lane["delivered"] for lane in lanes)
        memory = next(
            (
                line.split()[1]
                for line in Path(f"/proc/{serve.pid}/status").read_text().splitlines()
                if line.startswith("VmHWM")
            ),
            "0",
        )
        whole = time.perf_counter() - began + seconds
        print(f"HTTP intake, 202 after the commit (16 connections)   {posted / seconds:12,.0f} events/s")
        print(
            f"serve → buffer → sandbox, all of it                  {delivered / whole:12,.0f} events/s   "
            f"({delivered:,} delivered, peak {int(memory) / 1024:.0f} MiB)"
        )
    finally:
        for process in (serve, sandbox):
            process.send_signal(signal.SIGTERM)
            process.wait(30)
        log.close()


def load(port: int, seconds: float, connections: int = 16) -> int:
    """Events accepted in that time over raw keep-alive sockets: the sender is to cost as little as it can."""
    import socket

    counts = [0] * connections
    until = time.perf_counter() + seconds
    client = next(name for name, (connector, _, _) in CLIENTS.items() if connector == "responsys")

    def send(slot: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            number = 0
            while time.perf_counter() < until:
                number += 1
                body = json.dumps({**EVENT, "clientId": client, "email": f"p{slot}-{number}@example.com"}).encode()
                head = (
                    f"POST /responsys HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                    f"X-Connect-Key: demo-write-key-{client}\r\n"
                    f"Content-Length: {len(body)}\r\n\r\n"
                )
                connection.sendall(head.encode() + body)
                answer = connection.recv(4096)
                while answer and not answer.endswith(b"}"):  # head and body may come apart
                    answer += connection.recv(4096)
                counts[slot] += answer.startswith(b"HTTP/1.1 202")

    with ThreadPoolExecutor(connections) as pool:
        for future in [pool.submit(send, slot) for slot in range(connections)]:
            future.result()
    return sum(counts)


def main() -> None:
    """All of it, some thirty seconds."""
    connectors = Project(Path(__file__).parent.parent).all()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mapping(connectors)
        intake(connectors["responsys"], folder)
        drain(connectors["responsys"], folder, 20_000)
        drain(connectors["salesforce"], folder, 5_000)
        over_http(folder)
    print(f"peak memory of this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
