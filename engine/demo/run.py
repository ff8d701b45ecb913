"""
One run of the demo: simulated CRMs, a real `connect serve` process, real HTTP, and the sums at the end.

Everything is on loopback and in a temporary folder. The CRMs are the connectors' own sandboxes: what they answer is
simulated, how it is sent, kept and counted is not.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.demo.traffic import Request, client_files, shops, traffic
from engine.errors import UsageError
from engine.sandbox import Sandbox, application
from engine.spec.project import Project

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SENDERS = 16
OUTAGE_S = 2.0
LONGEST_S = 26.0


class Posted(NamedTuple):
    """One request of the demo and its answer."""

    client: str
    connector: str
    status: int
    seconds: float
    accepted: int
    outcome: str


class Row(NamedTuple):
    """One line of the table."""

    client: str
    connector: str
    accepted: int  # deliveries of the events that were accepted
    delivered: int
    rejected: int
    skipped: int
    waiting: int
    answer_ms: float

    @property
    def holds(self) -> bool:
        return self.accepted == self.delivered + self.rejected + self.skipped + self.waiting


class Demo:
    """One run, with its two servers."""

    def __init__(self, folder: Path, *, keep: bool = False) -> None:
        self.folder, self.keep = folder, keep
        self.down_until = 0.0
        self.posted: list[Posted] = []
        self.began = time.monotonic()
        self.stop = threading.Event()
        self.shops = shops()
        self.environment = client_files(self.shops, folder / "clients")
        self.crm_port = self.start_crms()
        self.port, self.admin_port, self.process = self.start_serve()

    def start_crms(self) -> int:
        """All sandboxes in this process behind one port; some hosts are down for two seconds when told to."""
        from engine.door.listening import listen, run

        connectors = Project(self.folder).all()[0]
        self.sandboxes = [Sandbox(spec) for spec in connectors.values() if spec.sandbox is not None]
        inner = application(self.sandboxes, time.time)
        weak = {shop.outage.encode() for shop in self.shops if shop.outage}

        async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
            host = dict(scope.get("headers", [])).get(b"host", b"")
            if host in weak and time.monotonic() < self.down_until:
                await send({"type": "http.response.start", "status": 503, "headers": [(b"content-type", b"text/html")]})
                await send({"type": "http.response.body", "body": b"<html>down for maintenance</html>"})
                return
            await inner(scope, receive, send)

        socket = listen("127.0.0.1", 0)
        ready = threading.Event()
        threading.Thread(
            target=run,
            args=([(app, socket)],),
            kwargs={"stop": self.stop, "grace_s": 1.0, "ready": ready.set},
            daemon=True,
        ).start()
        if not ready.wait(10):
            raise UsageError("the simulated CRMs did not start")
        return int(socket.getsockname()[1])

    def start_serve(self) -> tuple[int, int, subprocess.Popen[bytes]]:
        """A `connect serve` of its own process, on free ports."""
        from engine.door.listening import listen

        with listen("127.0.0.1", 0) as one, listen("127.0.0.1", 0) as two:
            port, admin_port = one.getsockname()[1], two.getsockname()[1]
        command = [
            sys.executable, "-m", "engine.cli", "serve",
            "--project", str(self.folder), "--host", "127.0.0.1", "--port", str(port), "--admin-port", str(admin_port),
            "--store", "sqlite:///connect.db", "--via", f"http://127.0.0.1:{self.crm_port}",
        ]  # fmt: skip
        self.log = (self.folder / "serve.log").open("wb")
        process = subprocess.Popen(
            command, env={**os.environ, **self.environment}, stdout=self.log, stderr=subprocess.STDOUT
        )
        import httpx

        for _ in range(200):
            if process.poll() is not None:
                break
            try:
                if httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=1, trust_env=False).status_code == 200:
                    return port, admin_port, process
            except httpx.HTTPError:
                time.sleep(0.05)
        text = (self.folder / "serve.log").read_text(errors="replace")[-2000:]
        raise UsageError(f"`connect serve` did not start:\n{text}")

    def post_all(self, progress: Callable[[int, int], None]) -> None:
        """Send the traffic from several senders; a CRM goes down on the way."""
        import httpx

        requests = traffic(self.shops, time.time())
        lock = threading.Lock()

        def send(numbered: tuple[int, Request]) -> None:
            number, (shop, body, headers) = numbered
            if number == len(requests) // 3:
                self.down_until = time.monotonic() + OUTAGE_S
            began = time.perf_counter()
            answer = http.post(f"/{shop.connector}", content=body, headers=headers, timeout=60)
            seconds = time.perf_counter() - began
            found = answer.json() if answer.content else {}
            taken = (
                int(found.get("accepted", 0))
                if answer.status_code == 202 and "accepted" in found
                else int("outcome" in found)
            )
            with lock:
                outcome = str(found.get("outcome", "buffered" if taken else "refused"))
                self.posted.append(Posted(shop.client, shop.connector, answer.status_code, seconds, taken, outcome))
                progress(len(self.posted), len(requests))

        with (
            httpx.Client(base_url=f"http://127.0.0.1:{self.port}", trust_env=False) as http,
            ThreadPoolExecutor(SENDERS) as pool,
        ):
            for done in [pool.submit(send, numbered) for numbered in enumerate(requests)]:
                done.result()

    def lanes(self) -> list[dict[str, Any]]:
        import httpx

        answer = httpx.get(f"http://127.0.0.1:{self.admin_port}/lanes", timeout=10, trust_env=False)
        found: list[dict[str, Any]] = answer.json()["lanes"]
        return found

    def drain(self, progress: Callable[[int], None]) -> list[dict[str, Any]]:
        """Until nothing waits but what a CRM has put off for long, or the time is over."""
        while True:
            lanes = self.lanes()
            waiting = sum(lane["waiting"] for lane in lanes)
            progress(waiting)
            if waiting == self.held_back(lanes) or time.monotonic() - self.began > LONGEST_S:
                return lanes
            time.sleep(0.2)

    def held_back(self, lanes: list[dict[str, Any]]) -> int:
        """How many of those that wait do so on purpose, until tomorrow."""
        held = {shop.client: shop.held for shop in self.shops}
        return sum(min(lane["waiting"], held[lane["client"]]) for lane in lanes)

    def rows(self, lanes: list[dict[str, Any]]) -> list[Row]:
        rows = []
        deliveries = {shop.client: shop.deliveries for shop in self.shops}
        for lane in lanes:
            times = sorted(p.seconds for p in self.posted if p.client == lane["client"] and p.accepted)
            rows.append(
                Row(
                    lane["client"], lane["connector"],
                    deliveries[lane["client"]]
                    * sum(posted.accepted for posted in self.posted if posted.client == lane["client"]),
                    lane["delivered"], lane["rejected"], lane["skipped"], lane["waiting"],
                    1000 * times[len(times) // 2] if times else 0.0,
                )
            )  # fmt: skip
        return rows

    def dead(self) -> Iterator[dict[str, Any]]:
        from engine.stores.sqlite import SqliteStore

        store = SqliteStore(self.folder / "connect.db")
        try:
            for dead in store.dead(limit=1000):
                yield {
                    "id": dead.id, "client": dead.client, "connector": dead.connector, "action": dead.action,
                    "reason": dead.reason, "code": dead.code, "attempts": dead.attempts,
                    "url": dead.trace.url if dead.trace else "", "status": dead.trace.status if dead.trace else None,
                    "reply": dead.trace.reply if dead.trace else "",
                }  # fmt: skip
        finally:
            store.close()

    def close(self) -> int:
        """Ask serve to finish (SIGTERM); its exit code."""
        self.process.terminate()
        try:
            code = self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = -9
        self.stop.set()
        self.log.close()
        return code
