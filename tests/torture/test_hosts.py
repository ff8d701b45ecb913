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
KINDS = sized(["postgres"], ["postgres", "dynamodb"])
SLOW_S = 20.0  # what a machine under load may add
APART = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]

BEGINS = """
begin = engine.worker.Worker.begin
def begins(worker):
    begin(worker)
    print("it delivers", flush=True)
engine.worker.Worker.begin = begins
"""


DIRECT = "${ [record] }"


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
        apart: bool = False,
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
    stack: ExitStack,
    folder: Path,
    crm: Crm,
    url: str,
    *ahead_s: float,
    apart: tuple[int, ...] = (),
    watches: bool = True,
) -> list[Host]:
    """As many as there are clocks; the last of three and more has no door."""
    stack.callback(crm.close)
    hosts = []
    for way, ahead in enumerate(ahead_s):
        hosts.append(Host(folder, crm, way, url, watches=watches and way == 2, ahead_s=ahead, apart=way in apart))
        stack.callback(hosts[-1].close)
    for host in hosts:
        host.start()
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
    time.sleep(sized(4, 60))
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


@pytest.mark.parametrize("kind", KINDS)
def test_the_lanes_of_a_host_that_is_lost_go_to_another_within_one_lease(
    tmp_path: Path, stack: ExitStack, kind: str
) -> None:
    """`kill -9` while batches of it are at the CRM; to those that are left it was another machine."""
    url, done, clients = store_url(kind), threading.Event(), 24  # more than one host has workers
    kills = sized(1, 3) if kind == "postgres" else 1
    crm = Crm(ways=2, answer_s=0.3)
    folder = project(tmp_path / "project", "ledger", clients=clients)
    lost_one, other = hosts = hosts_of(stack, folder, crm, url, 0.0, 0.0, apart=(0,))
    senders = [Sender([other.port], f"s{at}", done, clients=clients, pace_s=0.02, ledger=1) for at in (0, 1)]
    took_s, in_flight = [], 0
    for sender in senders:
        sender.start()
    for kill in range(kills):
        if kill:
            lost_one.start()
        before = crm.came[0].total()
        soon("it sends", 60, lambda before=before: crm.came[0].total() > before + 2)
        held: dict[tuple[str, str], int] = {}
        while not held:
            asked = crm.came[0].total()
            soon("it sends", 60, lambda asked=asked: crm.came[0].total() > asked)
            lost_one.kill()
            began = time.monotonic()
            held = held_by(url, 0)
            if not held:
                lost_one.start()
        in_flight += len(held)
        soon("its lanes move", LEASE_S + SLOW_S, lambda held=held: not set(held.items()) & set(held_by(url, 0).items()))
        took_s.append(time.monotonic() - began)
    done.set()
    for sender in senders:
        sender.join()
    until_empty(other)
    ended(hosts[1:])
    number, lost = proven(senders, crm, url)
    figures(
        f"test_the_lanes_of_a_host_that_is_lost_go_to_another_within_one_lease[{kind}]",
        f"{kind}, 2 hosts{' in namespaces of their own' if lost_one.apart else ''}: {kills} kills in mid-batch, "
        f"{in_flight} lanes moved within {max(took_s):.1f} s (lease {LEASE_S:g} s); {number} events, {len(lost)} lost, "
        f"{crm.twice} sent twice",
    )
    assert lost == set()
    assert crm.twice <= in_flight * RECORDS, "a batch of each lane that it held"
    assert max(took_s) <= LEASE_S + SLOW_S


class Network:
    """What lies between a host and its database: it can be cut, and is whole again with all that was sent meanwhile."""

    def __init__(self, port: int) -> None:
        self.to, self.whole = port, threading.Event()
        self.whole.set()
        self.sockets = [socket.create_server(("127.0.0.1", 0))]
        self.port: int = self.sockets[0].getsockname()[1]
        self.threads: list[threading.Thread] = []
        self.begin(self.serve)

    def begin(self, work: Any, *given: Any) -> None:
        self.threads.append(threading.Thread(target=work, args=given, daemon=True))
        self.threads[-1].start()

    def serve(self) -> None:
        with suppress(OSError):
            while True:
                here, _ = self.sockets[0].accept()
                self.sockets.append(here)
                self.whole.wait()
                there = socket.create_connection(("127.0.0.1", self.to))
                self.sockets.append(there)
                self.begin(self.carry, here, there)
                self.begin(self.carry, there, here)

    def carry(self, one: socket.socket, two: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                self.whole.wait()
                two.sendall(data)
        self.hang_up(one, two)

    @staticmethod
    def hang_up(*sockets: socket.socket) -> None:
        for each in sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.whole.set()
        self.hang_up(*self.sockets)
        for thread in list(self.threads):
            thread.join(5)
        for each in self.sockets:
            each.close()


def test_a_host_that_was_cut_off_in_mid_batch_settles_nothing_late_and_goes_on_by_itself(
    tmp_path: Path, stack: ExitStack
) -> None:
    url, clients = store_url("postgres"), 4
    network = Network(urlsplit(url).port or 5432)
    stack.callback(network.close)
    crm = Crm(ways=2, answer_s=0.3)
    stack.callback(crm.close)
    folder = project(tmp_path / "project", "ledger", clients=clients)
    behind = url.replace(f":{network.to}/", f":{network.port}/")
    one, two = Host(folder, crm, 0, behind), Host(folder, crm, 1, url)
    for host in (one, two):
        stack.callback(host.close)
    one.start()
    first, second = threading.Event(), threading.Event()
    sender = Sender([one.port], "a", first, clients=clients, pace_s=0.01, ledger=1)
    sender.start()
    soon("it sends", 60, lambda: crm.came[0].total() > 4)
    first.set()
    sender.join()
    while True:
        assert crm.reached("ledger", 60)
        network.whole.clear()
        if held := held_by(url, 0):
            break
        network.whole.set()
    began = time.monotonic()

    def to_come() -> set[tuple[str, str]]:
        """The lanes that it holds by what is written down, and in which something waits."""
        with closing(opened(url)) as store:
            waiting = {(lane.connector, lane.client) for lane in store.lanes() if lane.waiting}
        return {name for name, _ in set(held.items()) & set(held_by(url, 0).items())} & waiting

    moved = len(to_come())
    two.start()
    soon("the other took them", LEASE_S + 30 + SLOW_S, lambda: not to_come())
    took_s = time.monotonic() - began
    until_empty(two)
    before = two.lanes()
    network.whole.set()
    cut_s = time.monotonic() - began
    soon("it heard that it came too late", 60, lambda: "lease-lost" in one.said())
    assert two.lanes() == before, "what it settled late would be counted here"
    ended([two])
    sent = crm.came[0].total()
    again = Sender([one.port], "b", second, clients=clients, pace_s=0.01, ledger=1)
    again.start()
    soon("it goes on", 60, lambda: crm.came[0].total() > sent + 4)
    second.set()
    again.join()
    until_empty(one)
    ended([one])
    number, lost = proven([sender, again], crm, url)
    found, _ = sums(url)
    figures(
        "test_a_host_that_was_cut_off_in_mid_batch_settles_nothing_late_and_goes_on_by_itself",
        f"PostgreSQL, 2 hosts, one cut off for {cut_s:.0f} s with {moved} lanes in work, which the other had after "
        f"{took_s:.0f} s (lease {LEASE_S:g} s): {number} events, {len(lost)} lost, {crm.twice} sent twice, "
        "settled twice 0",
    )
    assert lost == set()
    assert moved > 0
    assert crm.twice <= len(held) * RECORDS
    assert found["accepted"] == found["delivered"] + found["rejected"] + found["skipped"] == 2 * number


@pytest.mark.parametrize("kind", KINDS)
def test_clocks_that_differ_by_half_a_minute_cost_no_event_and_send_none_twice(
    tmp_path: Path, stack: ExitStack, kind: str
) -> None:
    url, done, clients = store_url(kind), threading.Event(), 12
    crm = Crm(ways=3, answer_s=0.2)
    folder = project(tmp_path / "project", "ledger", "direct", clients=clients)
    file = folder / "connectors" / "direct.yaml"  # a request that times out is sent again, whatever the clocks say
    file.write_text(file.read_text().replace("timeout: 500ms", "timeout: 5s"))
    hosts = hosts_of(stack, folder, crm, url, 0.0, 30.0, -30.0)
    ports = [host.port for host in hosts if not host.watches]
    senders = [
        Sender(ports, f"s{at}", done, clients=clients, pace_s=0.02, ledger=2, direct=1) for at in range(sized(2, 4))
    ]
    for sender in senders:
        sender.start()
    time.sleep(sized(4, 90))
    with suppress(AssertionError):
        soon("each of them sends", 20, lambda: all(crm.came))
    done.set()
    for sender in senders:
        sender.join()
    until_empty(hosts[0])
    ended(hosts)
    number, lost = proven(senders, crm, url)
    figures(
        f"test_clocks_that_differ_by_half_a_minute_cost_no_event_and_send_none_twice[{kind}]",
        f"{kind}, 3 hosts with clocks 30 s ahead, right, 30 s behind: {number} events, {len(lost)} lost, "
        f"{crm.twice} sent twice",
    )
    assert (lost, crm.twice) == (set(), 0)
    assert [host.way for host in hosts if "lease-lost" in host.said()] == []
    assert all(crm.came), "each of them sends"
    said = [
        f"clock is {way}" in host.said() for host, way in zip(hosts[1:], ("30 s ahead of", "30 s behind"), strict=True)
    ]
    assert said == [True, True]


@pytest.mark.parametrize("kind", KINDS)
def test_a_rate_and_a_concurrency_hold_over_hosts(tmp_path: Path, stack: ExitStack, kind: str) -> None:
    """With clocks that differ, too."""
    url, done, clients = store_url(kind), threading.Event(), 6
    most, per_s, late_s, open_at_once = *sized((40, 4, 1.0), (120, 60, 2.0)), 3
    crm = Crm(ways=3, answer_s=0.1)
    folder = project(tmp_path / "project", "ledger", clients=clients)
    file = folder / "connectors" / "ledger.yaml"
    limits = (
        f", limits: {{calls: {{rate: {most}/{per_s}s, of: host}}, open: {{concurrency: {open_at_once}, of: host}}}}}}"
    )
    text = file.read_text().replace("records: 20", "records: 2").replace(HTTP, HTTP.removesuffix("}") + limits)
    file.write_text(text)
    hosts = hosts_of(stack, folder, crm, url, 0.0, 30.0, -30.0)
    ports = [host.port for host in hosts if not host.watches]
    senders = [Sender(ports, f"s{at}", done, clients=clients, pace_s=0.01, ledger=1) for at in (0, 1)]
    for sender in senders:
        sender.start()
    began = time.monotonic()
    soon("they send", 60, lambda: len(crm.arrivals) > most / 2)
    done.set()
    for sender in senders:
        sender.join()
    time.sleep(max(0.0, began + sized(6, 150) - time.monotonic()))
    until_empty(hosts[0], sized(60, 1200))
    ended(hosts)
    number, lost = proven(senders, crm, url)
    window_s = per_s - late_s  # what is counted at our end arrives a little later, and not always as late
    busiest = max(bisect_right(crm.arrivals, at + window_s) - place for place, at in enumerate(crm.arrivals))
    share = [came.total() for came in crm.came]
    figures(
        "test_a_rate_and_a_concurrency_hold_over_hosts",
        f"{kind}, 3 hosts with clocks 30 s ahead, right, 30 s behind, {clients} clients, limits of {most} in "
        f"{per_s} s and of {open_at_once} at once: {sum(share)} requests ({', '.join(map(str, share))}), at most "
        f"{busiest} in any {window_s:g} s and {crm.most_open} at once; {number} events, {len(lost)} lost, "
        f"{crm.twice} sent twice",
    )
    assert (lost, crm.twice) == (set(), 0)
    assert most / 2 < busiest <= most
    assert crm.most_open <= open_at_once


@pytest.mark.parametrize("kind", KINDS)
def test_of_three_hosts_whose_token_is_refused_one_logs_in(tmp_path: Path, stack: ExitStack, kind: str) -> None:
    """Each of them is answering direct callers of one client when the CRM revokes the token that all of them use."""
    url, done, times = store_url(kind), threading.Event(), sized(2, 20)
    crm = Crm(ways=3, answer_s=0.1)
    folder = project(tmp_path / "project", "member", clients=1)
    file = folder / "connectors" / "member.yaml"
    text = file.read_text().replace("dedupe: 1h}", "dedupe: 1h, mode: direct, answer: {within: 5s}}")
    file.write_text(text.replace("batch: {records: 20, wait: 200ms}", "").replace("${ batch.records }", DIRECT))
    hosts = hosts_of(stack, folder, crm, url, 0.0, 30.0, -30.0, watches=False)
    senders = [Sender([host.port], f"s{host.way}", done, clients=1, member=1) for host in hosts for _ in range(2)]
    for at, sender in enumerate(senders):
        sender.prefix += f"-{at}"
        sender.start()
    for _ in range(times):
        before = [came["member"] for came in crm.came]
        soon(
            "all send",
            60,
            lambda before=before: all(c["member"] > b + 2 for c, b in zip(crm.came, before, strict=True)),
        )
        time.sleep(1.5)  # a new token that is refused at once pauses the lane
        crm.live.clear()
        soon("one logs in", 60, lambda: crm.live)
    time.sleep(1)
    done.set()
    for sender in senders:
        sender.join()
    until_empty(hosts[0])
    ended(hosts)
    number, lost = proven(senders, crm, url)
    figures(
        "test_of_three_hosts_whose_token_is_refused_one_logs_in",
        f"{kind}, 3 hosts that answer direct callers, clocks 30 s apart: {times} times the token was revoked, "
        f"{crm.asked['token']} log-ins of all hosts with the first; {number} events, {len(lost)} lost, {crm.twice} "
        f"sent twice",
    )
    assert (lost, crm.twice, crm.spent) == (set(), 0, set())
    assert crm.asked["token"] == times + 1
