"""
Several hosts on one store: processes that take each other for other machines, over PostgreSQL and DynamoDB.

A host is a `connect serve` or a `connect deliver --watch` with a way of its own to the CRM, so that the CRM knows what
each has sent. Where it can be had, a lost host lives in a namespace of its own for processes and for its name.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from bisect import bisect_right
from contextlib import ExitStack, closing, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import dynamodb_server
import postgres_server
import pytest
from parties import HTTP, RECORDS, Crm, Sender, Serve, figures, opened, project, proven, sized, sums, until_empty

if TYPE_CHECKING:
    from collections.abc import Iterator

LEASE_S = sized(4.0, 30.0)
SLOW_S = 20.0  # what a machine under load may add
APART = "unshare --uts --pid --fork --kill-child --mount-proc".split()

BEGINS = """
begin = engine.worker.Worker.begin
def begins(worker):
    begin(worker)
    print("it delivers", flush=True)
engine.worker.Worker.begin = begins
"""


def store_url(kind: str) -> str:
    """Of a store that is empty."""
    if kind == "dynamodb":
        return dynamodb_server.url(dynamodb_server.shared())
    if (reason := postgres_server.why_none()) is not None:
        pytest.skip(reason)
    return postgres_server.shared().fresh_schema()


@cache
def why_not_apart() -> str | None:
    """Why a process gets no namespace of its own here, or None."""
    if shutil.which("unshare") is None:
        return "there is no unshare"
    done = subprocess.run([*APART, "true"], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else done.stderr.strip()


class Host(Serve):
    """
    A `connect serve`, or with `watches` a `connect deliver --watch`, that the others take for another machine.

    `ahead_s`: so far its clock is ahead. `apart`: it is in a namespace of its own, if that can be had.
    """

    def __init__(
        self, folder: Path, crm: Crm, way: int, url: str, *more: str, watches: bool = False, ahead_s: float = 0.0,
        apart: bool = False, starts: bool = True,
    ) -> None:  # fmt: skip
        before = (
            f"import engine.owners, engine.worker, time\nwall = time.time\ntime.time = lambda: wall() + {ahead_s}\n"
            f"engine.owners._MACHINE = 'machine-{way}'\nengine.worker.LEASE_S = {LEASE_S}\n{BEGINS}"
        )
        super().__init__(folder, crm.ports[way], *more, store=url, before=before, starts=False)
        self.watches, self.way = watches, way
        self.apart = apart and why_not_apart() is None
        if watches:
            self.command[3:] = [
                "deliver", "--watch", "--project", str(folder), "--store", url,
                "--via", f"http://127.0.0.1:{crm.ports[way]}", *more,
            ]  # fmt: skip
        if self.apart:
            self.command[:0] = APART
        self.env |= {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests"}
        if starts:
            self.start()

    def start(self, within_s: float = 60.0) -> None:
        if not self.watches:
            super().start(within_s)
            return
        self.process = subprocess.Popen(self.command, stdout=self.log, stderr=self.log, env=self.env, **self.popen)

    def end(self) -> int:
        if not self.apart:
            return super().end()
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        os.kill(int(children.split()[0]), signal.SIGTERM)  # unshare itself hears of no signal
        return self.process.wait(30)


def ended(hosts: list[Host]) -> None:
    """In order; `deliver` says by its exit code that the CRM rejected something."""
    for host in hosts:
        assert host.end() in ((0, 1) if host.watches else (0,)), host.said()[-2000:]


def held_by(url: str, way: int) -> dict[tuple[str, str], int]:
    """The lanes that a host holds now, each with its fence."""
    if url.startswith("dynamodb:"):
        with closing(opened(url)) as store:
            lanes = [store._lanes.fetch((lane.connector, lane.client)) for lane in store.lanes()]
        return {lane.name: lane.fence for lane in lanes if (lane.owner or "").startswith(f"machine-{way}/")}
    with closing(opened(url)) as store:
        asked = "SELECT connector, client, fence FROM lanes WHERE owner LIKE %b"
        rows = store._connections.read(lambda db: db.rows(asked, f"machine-{way}/%"))
    return {(connector, client): fence for connector, client, fence in rows}


def soon(what: str, within_s: float, true: Any) -> float:
    """Seconds until it was so."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() < began + within_s, what
        time.sleep(0.05)
    return time.monotonic() - began


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened_:
        yield opened_


def hosts_of(
    stack: ExitStack, folder: Path, crm: Crm, url: str, *ahead_s: float, workers: int = 8, apart: tuple[int, ...] = ()
) -> list[Host]:
    """As many as there are clocks; the last of three and more has no door."""
    hosts: list[Host] = []
    stack.callback(crm.close)
    for way, ahead in enumerate(ahead_s):
        watches = way == 2
        more = ("--workers", str(workers))
        hosts.append(Host(folder, crm, way, url, *more, watches=watches, ahead_s=ahead, apart=way in apart))
        stack.callback(hosts[-1].close)
    soon("all of them deliver", 60, lambda: all("it delivers" in host.said() for host in hosts))
    return hosts


def test_lanes_spread_evenly_over_hosts(tmp_path: Path, stack: ExitStack) -> None:
    url, done, clients = store_url("postgres"), threading.Event(), 40
    crm = Crm(ways=3)
    folder = project(tmp_path / "project", "ledger", clients=clients)
    hosts = hosts_of(stack, folder, crm, url, 0.0, 0.0, 0.0)
    ports = [host.port for host in hosts if not host.watches]
    senders = [Sender(ports, f"s{at}", done, clients=clients, pace_s=0.005, ledger=1) for at in range(3)]
    for sender in senders:
        sender.start()
    time.sleep(sized(6, 60))
    done.set()
    for sender in senders:
        sender.join()
    until_empty(hosts[0])
    ended(hosts)
    number, lost = proven(senders, crm, url)
    batches = [came.total() for came in crm.came]
    share = [round(100 * each / sum(batches)) for each in batches]
    figures(
        "test_lanes_spread_evenly_over_hosts",
        f"PostgreSQL, {clients} lanes on 3 hosts: {number} events in {sum(batches)} requests, "
        f"{', '.join(f'{each} %' for each in share)} of them by each host; {len(lost)} lost, {crm.twice} sent twice",
    )
    assert (lost, crm.twice) == (set(), 0)
    assert max(share) <= 50, share
