"""
Stores beside each other in one run: events put and drained by 1, 2 and 4 processes, and what a long backlog costs.

`python -m benchmarks.stores` takes SQLite and a PostgreSQL server of its own, both with fsync. `--url postgresql://…`
takes one that is there; what is in that schema is used up. `--backlog 10000 1000000` measures draining at these
lengths.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.records import Accepted, Draft, Settled
from engine.stores.opening import open_store

if TYPE_CHECKING:
    from engine.ports import Store

ROOT = Path(__file__).parent.parent
CLIENTS = 8
BODY = json.dumps({"email": "user@example.com", "text": "x" * 950}).encode()
TOGETHER = 100  # puts that wait at once, as for a hundred callers over HTTP
WINDOW = 100  # deliveries that are read and settled together
PROCESSES = (1, 2, 4)


def event(number: int, name: str) -> Accepted:
    drafts = (Draft("task", f"key-{name}-{number}"),)
    return Accepted("crm", f"client-{number % CLIENTS}", f"{name}-{number}", BODY, time.time(), drafts, 3600.0)


def put(store: Store, name: str, count: int) -> int:
    """One event in each put; the answer to one makes room for the next."""
    waiting: deque[Any] = deque()
    for number in range(count):
        waiting.append(store.put([event(number, name)], now=time.time()))
        if len(waiting) == TOGETHER:
            waiting.popleft().result()
    while waiting:
        waiting.popleft().result()
    return count


def fill(store: Store, count: int) -> None:
    for first in range(0, count, 1000):
        events = [event(number, "fill") for number in range(first, min(first + 1000, count))]
        store.put(events, now=time.time()).result()


def drain(store: Store, name: str, most: int) -> int:
    """Turns as a worker takes them, without the vendor: until nothing is due, or so many are delivered."""
    done = 0
    while due := store.due_lanes(now=time.time()):
        for connector, client in due:
            lease = store.lease(connector, client, owner=name, ttl_s=30, now=time.time())
            if lease is None:
                continue
            ends_at, read = time.monotonic() + 1.0, True
            while read and time.monotonic() < ends_at and done < most:
                read = False
                for action in store.waiting_actions(lease):
                    store.backlog(lease, action, now=time.time(), cap=WINDOW)
                    deliveries = store.read(lease, action, limit=WINDOW, now=time.time())
                    ended = [Settled(each.seq, "delivered") for each in deliveries]
                    store.settle(lease, ended, now=time.time())
                    done += len(ended)
                    read = read or bool(ended)
            store.release(lease, wake_at=time.time() if read else None)
            if done >= most:
                return done
    return done


def work(kind: str, url: str, name: str, count: int) -> None:
    """One process of several: says when it is ready, begins when it is told, says how many it did."""
    store = open_store(url, ROOT)
    print("ready", flush=True)
    sys.stdin.readline()
    done = put(store, name, count) if kind == "put" else drain(store, name, count)
    print(done, flush=True)
    store.close()


def together(kind: str, url: str, processes: int, count: int) -> float:
    """Events a second of so many processes."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.stores",
        "--work",
        kind,
        "--url",
        url,
        "--count",
        str(count // processes),
    ]
    running = [
        subprocess.Popen(
            [*command, "--name", f"p{number}-{time.time()}"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    began = time.perf_counter()
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    done = 0
    for process in running:
        assert process.stdout is not None
        done += int(process.stdout.readline())
    took = time.perf_counter() - began
    for process in running:
        assert process.wait(60) == 0
    return done / took


def measure(url: str, count: int) -> list[float]:
    figures = []
    for processes in PROCESSES:
        figures += [together("put", url, processes, count), together("drain", url, processes, count)]
        together("drain", url, 1, sys.maxsize)
    return figures


def at_backlog(url: str, length: int, count: int) -> float:
    """The rate at which `count` are drained from a backlog of this length; a short one is filled again and again."""
    done, took = 0, 0.0
    store = open_store(url, ROOT)
    while done < count:
        fill(store, length)
        began = time.perf_counter()
        done += drain(store, "drain", min(length, count))
        took += time.perf_counter() - began
    store.close()
    return done / took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="of a PostgreSQL server; without it one is started")
    parser.add_argument("--count", type=int, default=10_000, help="events of one figure")
    parser.add_argument("--backlog", type=int, nargs="*", default=[], help="lengths at which draining is measured")
    parser.add_argument("--stores", nargs="*", default=["SQLite", "PostgreSQL"])
    parser.add_argument("--work", choices=["put", "drain"], help=argparse.SUPPRESS)
    parser.add_argument("--name", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work, given.url, given.name, given.count)
        return
    with tempfile.TemporaryDirectory() as folder:
        stores = {"SQLite": f"sqlite:///{folder}/bench.db", "PostgreSQL": given.url or own_server()}
        stores = {name: url for name, url in stores.items() if name in given.stores}
        print(f"{'events/s':<12}" + "".join(f"{f'put {n}':>9}{f'drain {n}':>9}" for n in PROCESSES), flush=True)
        for name, url in stores.items():
            print(f"{name:<12}" + "".join(f"{figure:9,.0f}" for figure in measure(url, given.count)), flush=True)
        for length in given.backlog:
            for name, url in stores.items():
                fresh = url.replace("bench.db", f"{length}.db").replace("schema=", f"schema=backlog_{length}_")
                rate = at_backlog(fresh, length, max(given.count, length // 10))
                print(f"{name:<12}drained {rate:9,.0f} a second of {length:,}", flush=True)


def own_server() -> str:
    sys.path.append(str(ROOT / "tests"))
    from postgres_server import Server  # type: ignore[import-not-found]

    server = Server(durable=True, settings=("shared_buffers=256MB", "max_wal_size=4GB"))
    url: str = server.url()
    return url


if __name__ == "__main__":
    main()
