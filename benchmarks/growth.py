"""
What a long backlog, many lanes and many connectors cost: the time for an event, and memory, must stay flat.

Reading and settling as a worker does it, 200 deliveries at a time, on SQLite files on disk with fsync; no vendor. CPU
time is that of the process with the thread that writes. Each pair takes turns: a turn of the small one, one of the
large. huey's SQLite storage does the nearest thing it has: it takes one task off its queue, in a commit of its own.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks import competitors
from benchmarks.measuring import (
    CPU,
    ROOT,
    WALL,
    Beside,
    Comparison,
    Contestant,
    Took,
    alternate,
    at_least,
    at_most,
    compare,
    measured,
    missing,
)
from engine.records import Accepted, Draft, Settled
from engine.stores.sqlite import SqliteStore

TITLE = "Growth"
WINDOW, TURN = 200, 10  # deliveries read and settled at once; windows in a turn
HOUR_AGO_S = 3600.0
BODY = json.dumps({"email": "user@example.com", "eventType": "product_view", "text": "x" * 250}).encode()


def event(connector: str, client: str, number: int) -> Accepted:
    draft = (Draft("trigger_event", f"person{number}@example.com"),)
    return Accepted(connector, client, f"e{number}", BODY, time.time() - HOUR_AGO_S, draft)


def fill(store: SqliteStore, connector: str, client: str, count: int) -> None:
    for first in range(0, count, 2000):
        some = [event(connector, client, number) for number in range(first, min(first + 2000, count))]
        store.put(some, now=time.time() - HOUR_AGO_S).result()


class Drained:
    """A lane that a worker holds: each call reads and settles some windows of it and puts as many in again."""

    def __init__(
        self, store: SqliteStore, connector: str, client: str, clock: Callable[[], float] = time.process_time
    ) -> None:
        self.store, self.connector, self.client, self.clock = store, connector, client, clock
        lease = store.lease(connector, client, owner="bench", ttl_s=1e6, now=time.time())
        assert lease is not None
        self.lease = lease

    def __call__(self) -> Took:
        seconds, count, store = 0.0, 0, self.store
        for _ in range(TURN):
            began = self.clock()
            store.waiting_actions(self.lease)
            store.backlog(self.lease, "trigger_event", now=time.time(), cap=WINDOW)
            found = store.read(self.lease, "trigger_event", limit=WINDOW, now=time.time())
            store.settle(self.lease, [Settled(each.seq, "delivered") for each in found], now=time.time())
            seconds, count = seconds + self.clock() - began, count + len(found)
        fill(store, self.connector, self.client, count)
        return Took(count, seconds)


@contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="growth-") as name:
        yield Path(name)


def backlogs(quick: bool) -> Iterator[Comparison]:
    """10 thousand, 100 thousand, a million waiting in a lane, and behind a million of another one."""
    sizes = (10_000, 30_000, 100_000) if quick else (10_000, 100_000, 1_000_000)
    with scratch() as folder:
        stores = {size: SqliteStore(folder / f"{size}.db") for size in sizes}
        for size, store in stores.items():
            fill(store, "crm", "client", size)
        behind = stores[sizes[-1]]
        fill(behind, "crm", "small", sizes[0])
        contestants: dict[str, Contestant] = {
            f"{size:,}": Drained(store, "crm", "client") for size, store in stores.items()
        }
        contestants["behind"] = Drained(behind, "crm", "small")
        figures = alternate(contestants, clock=CPU)
        small, large = f"{sizes[0]:,}", f"{sizes[-1]:,}"
        for size in sizes[1:]:
            what = f"reading and settling an event while {size:,} wait"
            yield compare(what, figures, f"{size:,}", small, f"{small} waiting", unit="µs", goal=at_most(1.3))
        what = f"the same behind {large} of another lane"
        yield compare(what, figures, "behind", small, f"{small} alone", unit="µs", goal=at_most(1.3))
        yield beside_huey(folder, contestants[large], large)
        for store in stores.values():
            store.close()


def beside_huey(folder: Path, ours: Contestant, waiting: str) -> Comparison:
    """By the wall clock: each task of huey's is a commit of its own, and the disk is waited for in both."""
    what, name, goal = f"reading and settling while {waiting} wait", competitors.version("huey"), at_least(12)
    if name is None:
        return missing(what, "huey, SqliteStorage", competitors.why_not("huey"), goal=goal)
    assert isinstance(ours, Drained)
    ours.clock = time.perf_counter
    with Beside([competitors.python(), ROOT / "benchmarks" / "huey_queue.py", folder / "huey.db"]) as huey:
        figures = alternate({"ours": ours, "huey": huey}, rounds=7, clock=WALL)
    return compare(what, figures, "ours", "huey", f"{name}, SqliteStorage with fsync", goal=goal)


def many_lanes(quick: bool) -> Iterator[Comparison]:
    """The same number of events in 1, 100 and 5,000 lanes: one lane is leased, read, settled and released."""
    each, counts = 20_000, (1, 100, 500) if quick else (1, 100, 5_000)
    with scratch() as folder:
        contestants: dict[str, Contestant] = {}
        stores = []
        for count in counts:
            store = SqliteStore(folder / f"{count}.db")
            stores.append(store)
            for lane in range(count):
                fill(store, "crm", f"client-{lane}", max(each // count, 4) if lane else 4_000)
            contestants[f"{count:,}"] = Drained(store, "crm", "client-0")
        figures = alternate(contestants, clock=CPU)
        for count in counts[1:]:
            what = f"reading and settling an event with {count:,} lanes"
            yield compare(what, figures, f"{count:,}", f"{counts[0]}", "one lane", unit="µs", goal=at_most(1.1))
        due: dict[str, Contestant] = {
            f"{count:,}": partial(look, store) for count, store in zip(counts, stores, strict=True)
        }
        figures = alternate(due, clock=CPU)
        what = f"finding what is due among {counts[-1]:,} lanes"
        yield compare(what, figures, f"{counts[-1]:,}", f"{counts[1]:,}", f"{counts[1]} lanes", unit="µs")
        for store in stores:
            store.close()


def look(store: SqliteStore) -> int:
    """Which lanes are due, as a worker with room for a few asks."""
    for _ in range(10):
        store.due_lanes(now=time.time(), limit=16)
    return 10


def many_connectors(quick: bool) -> Iterator[Comparison]:
    counts = (5, 50, 100) if quick else (5, 50, 500)
    with scratch() as folder:
        contestants: dict[str, Contestant] = {}
        stores = []
        for count in counts:
            store = SqliteStore(folder / f"{count}.db")
            stores.append(store)
            for number in range(count):
                fill(store, f"crm-{number}", "client", 200 if number else 4_000)
            contestants[f"{count:,}"] = Drained(store, "crm-0", "client")
        figures = alternate(contestants, clock=CPU)
        for count in counts[1:]:
            what = f"reading and settling an event with {count} connectors"
            yield compare(
                what, figures, f"{count:,}", f"{counts[0]}", f"{counts[0]} of them", unit="µs", goal=at_most(1.1)
            )
        for store in stores:
            store.close()


def memory(quick: bool) -> Iterator[Comparison]:
    """A process of its own fills a store, drains some of it, and says how much memory it had at the most."""
    sizes = (10_000, 100_000) if quick else (10_000, 1_000_000)
    peaks = {}
    for size in sizes:
        with scratch() as folder:
            command = [sys.executable, "-m", "benchmarks.growth", str(folder / "store.db"), str(size)]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
            peaks[size] = int(done.stdout) / 1024
    for size, peak in peaks.items():
        yield measured(f"memory at the most while {size:,} wait and a lane is drained", peak, "MiB", goal=at_most(256))


def peak_kib(file: str, size: int) -> int:
    store = SqliteStore(file)
    fill(store, "crm", "client", size)
    drained = Drained(store, "crm", "client")
    for _ in range(5):
        drained()
    store.close()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(quick: bool) -> Iterator[Comparison]:
    parts: tuple[Callable[[bool], Iterator[Comparison]], ...] = (backlogs, many_lanes, many_connectors, memory)
    for part in parts:
        yield from part(quick)


if __name__ == "__main__":
    print(peak_kib(sys.argv[1], int(sys.argv[2])))
