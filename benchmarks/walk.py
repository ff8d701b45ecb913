"""
The whole walk beside drt-core, a reverse ETL tool whose syncs are written in YAML: the same records to the same CRM.

It applies in part. Both read SQLite, map, and send batches of 200 of the same JSON over HTTP on loopback. But drt-core
reads columns of a table where ours reads events as JSON; it takes a 2xx for the success of all 200 where ours judges
the answer's every record; it writes nothing down until the sync is over, and one that breaks off begins anew, where
ours settles each batch with fsync; it keeps no order, masks nothing, and has no limits here. Its Python interface runs
one sync, without the start of its command. Ours logs in first, which it does not; of 100 ms that is one.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks import competitors
from benchmarks.crm import crm
from benchmarks.drain import body_of, ours, scratch
from benchmarks.hot_paths import heard
from benchmarks.measuring import CPU, ROOT, WALL, Beside, Comparison, alternate, compare, missing
from engine.sending import Requester

TITLE = "The whole walk beside a reverse ETL tool"
SCRIPT = ROOT / "benchmarks" / "drt_sync.py"


def table(folder: Path, count: int) -> Path:
    """The events as a warehouse has them: a column for each key."""
    file = folder / f"rows-{count}.db"
    db = sqlite3.connect(file)
    db.execute(
        "CREATE TABLE events (id INTEGER PRIMARY KEY, email TEXT, event_type TEXT, timestamp TEXT, session_id TEXT,"
        " product_id TEXT, product_name TEXT, product_price REAL, product_image TEXT, product_url TEXT)"
    )
    for number in range(count):
        event = json.loads(body_of(number))
        product = event["product"]
        row = [event[key] for key in ("email", "eventType", "timestamp", "sessionId")]
        row += [product[key] for key in ("id", "name", "price", "image", "url")]
        db.execute("INSERT INTO events VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    db.commit()
    db.close()
    return file


def our_first(folder: Path, base: str) -> object:
    """The JSON of our first request."""
    with heard(Requester, "prepare") as calls:
        ours(folder, "responsys", base, 200)
    requester, arguments, named = calls[-1]
    return json.loads(requester.prepare(*arguments, **named).content)


def measure(quick: bool) -> Iterator[Comparison]:
    name = competitors.version("drt-core")
    at_once, at_100 = (
        "Responsys, the CRM answers at once",
        "Responsys, the CRM answers after 100 ms: one lane, one sync",
    )
    if name is None:
        yield missing(at_once, "drt-core", competitors.why_not("drt-core"))
        yield missing(at_100, "drt-core", competitors.why_not("drt-core"))
        return
    for what, latency_s, clock, count in (
        (at_once, 0.0, CPU, 2_000 if quick else 10_000),
        (at_100, 0.1, WALL, 1_000 if quick else 2_000),
    ):
        with scratch() as folder, crm(latency_s) as base:
            file, mark = table(folder, count), "cpu" if clock == CPU else "wall"
            with Beside([competitors.python(), SCRIPT, base, file, str(count), mark], cwd=folder) as sync:
                assert sync.hello == our_first(folder, base), "the two do not send the same"
                now = time.process_time if clock == CPU else time.perf_counter
                own = partial(ours, folder, "responsys", base, count, now)
                yield compare(what, alternate({"ours": own, "drt": sync}, clock=clock), "ours", "drt", name)
