"""
From the store to the CRM and back: read, look up, map, batch, send over HTTP on loopback, read the answer, settle.

The store is a file with fsync at each commit; limits, masks, and checks of hosts and addresses are on, as in `serve`.
The CRM is `benchmarks/crm.py` in a process of its own. Batches are of 200. CPU time is that of the whole process, with
the thread that writes; one core carries what is shown as events a second. Where the CRM takes 100 ms it is wall clock.
Each makes its HTTP client, with the certificates it trusts, before the clock runs. The log-in counts where the CRM
answers at once; at 100 ms all are logged in before, and each lane has 20 batches (10 of 32 lanes in the short form):
what is shown there is a CRM that is kept busy for two seconds, with the start, at which all lanes have something to map
and nothing is under way.
"""

from __future__ import annotations

import gc
import json
import shutil
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx

from benchmarks import by_hand
from benchmarks.crm import crm
from benchmarks.intake import EVENT
from benchmarks.measuring import (
    CPU,
    WALL,
    Comparison,
    Contestant,
    Took,
    alternate,
    at_least,
    compare,
    measured,
    version,
)
from benchmarks.templates import Loop
from engine.alerts.log import LogAlerts
from engine.clock import SystemClock
from engine.http import Prepared
from engine.program import Program
from engine.records import Accepted, Draft
from engine.sending import HttpTransport, Masker
from engine.spec import types
from engine.spec.project import Project
from engine.stores.sqlite import SqliteStore
from engine.telemetry.log import NullTelemetry
from engine.walk import Credentials, World
from engine.worker import Worker

TITLE = "Drain"
BATCH = 200
LATENCY_S = 0.1
ACTIONS = {"responsys": "trigger_event", "salesforce": "create_task"}
SETTINGS = {
    "responsys": {"list": "CONTACTS_LIST", "rate": "10000000/1m"},
    "salesforce": {"domain": "acme.my.salesforce.com", "daily_calls": "100000000/24h"},
}
_CONNECTORS: dict[str, types.Connector] = {}


def body_of(number: int) -> bytes:
    return json.dumps({**EVENT, "email": f"person{number}@example.com"}).encode()


def connector_of(name: str) -> types.Connector:
    if not _CONNECTORS:
        _CONNECTORS.update(Project(Path(__file__).parents[1]).all()[0])
    return _CONNECTORS[name]


def accepted(connector: str, client: str, number: int) -> Accepted:
    email, now = f"person{number}@example.com", time.time() - 3600
    return Accepted(connector, client, f"{client}-{number}", body_of(number), now, (Draft(ACTIONS[connector], email),))


def filled(file: Path, connector: str, lanes: int, each: int) -> SqliteStore:
    """A store in which that much waits, due for an hour."""
    store = SqliteStore(file)
    fill(store, connector, lanes, range(each))
    return store


def fill(store: SqliteStore, connector: str, lanes: int, numbers: range) -> None:
    for lane in range(lanes):
        for at in range(0, len(numbers), 1000):
            events = [accepted(connector, f"client-{lane}", number) for number in numbers[at : at + 1000]]
            store.put(events, now=time.time() - 3600).result()


class Engine:
    """Connectors and clients with a store and a CRM, wired as `serve` wires them, in this process."""

    def __init__(self, store: SqliteStore, connector: str, base: str, *, workers: int = 4) -> None:
        found, sandbox = connector_of(connector), connector_of(connector).sandbox
        secrets = dict(sandbox.secrets) if sandbox else {}
        actions = {ACTIONS[connector]: {"batch": {"records": BATCH}}}
        binding = types.Binding(settings=SETTINGS[connector], actions=actions)
        programs: dict[str, Program] = {}

        def program(_: str, client: str) -> Program:
            if client not in programs:
                bound = types.Client(client=client, connectors={connector: binding})
                programs[client] = Program(found, bound, binding)
            return programs[client]

        self.store, self.program = store, program
        self.transport = HttpTransport(via=base)
        telemetry, masker = NullTelemetry(), Masker(secrets.values())
        self.world = World(
            store=store,
            transport=self.transport,
            clock=SystemClock(),
            telemetry=telemetry,
            alerts=LogAlerts(telemetry),
            program=program,
            credentials=lambda _: Credentials(secrets, "bench"),
            masker=lambda _: masker,
        )
        self.worker = Worker(self.world, workers=workers)
        for lane in store.lanes():
            program(connector, lane.client)  # compiled before the clock runs

    def delivered(self) -> int:
        return sum(lane.delivered for lane in self.store.lanes())

    def close(self) -> None:
        self.transport.close()
        self.store.close()


@contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(
        prefix="drain-", dir=Path.cwd() / ".cache" if Path(".cache").is_dir() else None
    ) as name:
        yield Path(name)


def timed(work: Callable[[], int], clock: Callable[[], float]) -> Took:
    began = clock()
    count = work()
    return Took(count, clock() - began)


def ours(folder: Path, connector: str, base: str, count: int, clock: Callable[[], float] = time.process_time) -> Took:
    """One lane, from full to empty."""
    template = folder / f"{connector}-{count}.db"
    if not template.exists():
        filled(template, connector, 1, count).close()
    file = folder / "ours.db"
    shutil.copy(template, file)
    engine = Engine(SqliteStore(file), connector, base)
    before, usual = engine.delivered(), gc.get_threshold()
    engine.transport.client()
    engine.worker.begin()

    def drained() -> int:
        engine.worker.drain()
        return engine.delivered() - before

    took = timed(drained, clock)
    lanes = engine.store.lanes()
    engine.close()
    gc.set_threshold(*usual)
    file.unlink()
    assert took.count == count, f"{took.count} of {count} delivered: {lanes}"
    return took


def table(folder: Path, count: int) -> Path:
    """That many events in the table of those who write it by hand."""
    template = folder / f"hand-{count}.db"
    if not template.exists():
        db = by_hand.opened(str(template))
        by_hand.put(db, [body_of(number) for number in range(count)])
        db.close()
    file = folder / "hand.db"
    shutil.copy(template, file)
    return file


def looped(folder: Path, connector: str, base: str, count: int) -> Took:
    db = by_hand.opened(str(table(folder, count)))
    with httpx.Client(timeout=30) as client:
        loop = Loop(client, base)
        took = timed(lambda: getattr(loop, connector)(db), time.process_time)
    db.close()
    assert took.count == count
    return took


def written_by_hand(folder: Path, base: str, count: int) -> Took:
    db = by_hand.opened(str(table(folder, count)))
    with httpx.Client(timeout=30) as client:
        took = timed(lambda: by_hand.drained(db, client, base), time.process_time)
    db.close()
    assert took.count == count
    return took


def at_once(quick: bool) -> Iterator[Comparison]:
    count = 2_000 if quick else 10_000
    with scratch() as folder, crm() as base:
        for name, title in (("responsys", "Responsys"), ("salesforce", "Salesforce")):
            contestants: dict[str, Contestant] = {
                "ours": partial(ours, folder, name, base, count),
                "templates": partial(looped, folder, name, base, count),
            }
            if name == "responsys":
                contestants["by hand"] = partial(written_by_hand, folder, base, count)
            figures = alternate(contestants, clock=CPU)
            what = f"{title}, the CRM answers at once"
            rates = figures.values("ours", "events/s")
            yield measured(f"{what}: one core", rates, "events/s", goal=at_least(10_000), how="5 rounds, CPU time")
            yield compare(what, figures, "ours", "templates", f"a loop with {version('jinja2')}", goal=at_least(2.5))
            if name == "responsys":
                yield compare(what, figures, "ours", "by hand", "written by hand")


def logged_in(file: Path, base: str, lanes: int, each: int) -> None:
    """A store in which that much waits, of clients whose first event has gone out."""
    engine = Engine(filled(file, "responsys", lanes, 1), "responsys", base)
    engine.worker.drain()
    fill(engine.store, "responsys", lanes, range(1, each + 1))
    engine.close()


def in_flight(folder: Path, base: str, slots: int, batches: int) -> Took:
    """As many lanes as slots, each with so many batches, until all are empty: one process, wall clock."""
    file = folder / f"lanes-{slots}-{batches}.db"
    if not file.exists():
        logged_in(file, base, slots, batches * BATCH)
    shutil.copy(file, folder / "lanes.db")
    engine = Engine(SqliteStore(folder / "lanes.db"), "responsys", base, workers=slots)
    before, usual = engine.delivered(), gc.get_threshold()
    engine.transport.context(None)
    engine.worker.begin()
    began = time.perf_counter()
    thread = threading.Thread(target=engine.worker.run, kwargs={"until_empty": True})
    thread.start()
    thread.join()
    took = Took(engine.delivered() - before, time.perf_counter() - began)
    engine.close()
    gc.set_threshold(*usual)
    assert took.count == slots * batches * BATCH
    return took


def by_hand_in_flight(folder: Path, base: str, slots: int, batches: int) -> Took:
    """A thread and a connection for each slot, each with its share of the rows."""
    file = table(folder, slots * batches * BATCH)
    trusted = ssl.create_default_context()
    clients = [httpx.Client(timeout=30, verify=trusted) for _ in range(slots)]
    headers = by_hand.logged_in(clients[0], base)

    def share(slot: int) -> int:
        db = by_hand.opened(str(file))
        done = by_hand.drained(db, clients[slot], base, slot, slots, dict(headers))
        db.close()
        return done

    began = time.perf_counter()
    with ThreadPoolExecutor(slots) as pool:
        count = sum(pool.map(share, range(slots)))
    took = Took(count, time.perf_counter() - began)
    for client in clients:
        client.close()
    return took


def sent_alone(base: str, slots: int, seconds: float) -> Took:
    """The way out alone, at that many slots: batches that are ready, sent and answered."""
    transport, body = HttpTransport(via=base), b"[%b]" % b",".join([b'{"emailAddress":"%b"}' % (b"x" * 400)] * BATCH)
    headers = {"Content-Type": "application/json"}
    asked = Prepared("POST", "https://api2-012.responsys.net/rest/api/v1.3/events/x", headers, body, 30.0)
    ends_at = time.perf_counter() + seconds

    def share(_: int) -> int:
        count = 0
        while time.perf_counter() < ends_at:
            count += len(transport.send(asked).body)
        return count

    began = time.perf_counter()
    with ThreadPoolExecutor(slots) as pool:
        count = sum(pool.map(share, range(slots)))
    took = Took(count, time.perf_counter() - began)
    transport.close()
    return took


def slow_crm(quick: bool) -> Iterator[Comparison]:
    """The CRM takes 100 ms for each request; what n slots could send at the most is n x 200 / 0.1 s."""
    rounds = 5
    with scratch() as folder, crm(LATENCY_S) as base:
        for slots, batches in ((8, 20), (32, 10 if quick else 20)):  # of each lane
            most = slots * BATCH / LATENCY_S
            what = f"Responsys, the CRM takes 100 ms, {slots} in flight"
            contestants: dict[str, Contestant] = {
                "ours": partial(in_flight, folder, base, slots, batches),
                "by hand": partial(by_hand_in_flight, folder, base, slots, batches),
            }
            figures = alternate(contestants, rounds=rounds, clock=WALL)
            yield compare(what, figures, "ours", "by hand", "written by hand, a thread for each slot")
            shares = [rate / most for rate in figures.values("ours", "events/s")]
            hands = [rate / most for rate in figures.values("by hand", "events/s")]
            yield measured(f"{what}: share of {most:,.0f} events/s", shares, "", goal=at_least(0.8))
            yield measured(f"{what}: share of it that is written by hand reaches", hands, "")
            alone = [sent_alone(base, slots, 1.0) for _ in range(rounds)]
            share = [took.count / took.seconds / most for took in alone]
            yield measured(f"{what}: share of it, sending alone", share, "", goal=at_least(0.8))


def measure(quick: bool) -> Iterator[Comparison]:
    yield from at_once(quick)
    yield from slow_crm(quick)
