"""
The store in one SQLite file: every write goes through one thread that commits all that is queued at once.

Nothing is written to claim a delivery: a lease is one row of `lanes`, and its holder reads the lane by range.
`due_at` is when a delivery wants to be sent; `turn_at` is the latest due_at of itself and of the older deliveries of
its key, and is what is read by, so that a key keeps its order without a look at its neighbours. A delivery that waits
for others of its event names them in `after`, and its turn never comes. Several processes may open one file: a file
lock beside it is held around each write, for SQLite's own waiting lets the busier one starve the other.

Most deliveries are in no index by key. What is due when it is put is due in the order of the seqs, so that none of them
holds another back. The others are `listed`: what was put off, held, brought back or copied, and what waits for others;
and their turn_at is always true. Whoever reads a lane and finds one that stands behind a listed one lists it, once,
with its true turn.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
import queue
import sqlite3
import threading
import time
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from decimal import Decimal
from functools import cache, partial
from itertools import chain, groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, Unpack, overload
from urllib.parse import quote

import msgspec

from engine.errors import LeaseLost, StoreUnavailable, TokenUnreadable
from engine.ids import random_id
from engine.privacy.people import Subject
from engine.records import (
    Buried,
    Dead,
    Delivery,
    Follower,
    Held,
    Lane,
    Lease,
    Part,
    Progress,
    Remembered,
    Settled,
    Skipped,
    Stored,
    TokenRow,
    Trace,
    Try,
    Waiting,
)
from engine.stores.rules import (
    PROJECT,
    Wait,
    first_of,
    follow,
    followers,
    lane_state,
    lost,
    named_by_limit,
    names_in,
    refuse_another,
    refuse_impossible,
    tried,
    wait_until,
    waits_of,
    with_parts,
    without,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from engine.records import Accepted, Carried, LaneChange, Use, Which

T = TypeVar("T")
_Answer = tuple[Any, Exception | None]

ROWS = 64  # in one statement; each number of them is a statement of its own, kept compiled
GROUP = 1000  # writes in one commit at most, so that the first of them is not kept waiting by the last
CROWD, SHARE_S = 16, 0.01  # so long after a commit of so many events, what else is written waits for the next of them
SKEW_S = 1.0  # what is put takes a moment that is so much later, rather than one before that of the last that was put
FRONT_ROWS = 200  # of a lane whose first has no true turn yet
LOOK_BACK = 1_000  # that may be put without a hold, looked through for an older one of the key of a direct caller's
SWEEP = 100  # expired rows cleaned in passing
SWEEP_EVERY = 16  # remembered event ids between two such cleanings
LOG_PAGES = 4_000  # of the log, 16 MB, until it is folded into the file: SQLite's 1,000 write most pages far more often
LOG_FIRST, LOG_STEP = 256 * 1024, 1024 * 1024  # bytes: from which size on the log grows by so much at once

FIRST = (
    """
    CREATE TABLE lanes (
        id INTEGER PRIMARY KEY, connector TEXT NOT NULL, client TEXT NOT NULL,
        wake_at REAL, stirred INTEGER NOT NULL DEFAULT 0,
        owner TEXT, until REAL, fence INTEGER NOT NULL DEFAULT 0,
        paused INTEGER NOT NULL DEFAULT 0, reason TEXT, not_before REAL NOT NULL DEFAULT 0,
        failures INTEGER NOT NULL DEFAULT 0, failing_since REAL,
        accepted INTEGER NOT NULL DEFAULT 0, delivered INTEGER NOT NULL DEFAULT 0,
        rejected INTEGER NOT NULL DEFAULT 0, skipped INTEGER NOT NULL DEFAULT 0,
        UNIQUE (connector, client))
    """,
    # AUTOINCREMENT: a seq used twice would let a late direct caller settle a stranger's delivery.
    """
    CREATE TABLE deliveries (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, lane INTEGER NOT NULL, action TEXT NOT NULL, key TEXT,
        id TEXT NOT NULL, event_id TEXT NOT NULL, body BLOB NOT NULL, received_at REAL NOT NULL,
        due_at REAL NOT NULL, turn_at REAL NOT NULL, attempts INTEGER NOT NULL, batch TEXT)
    """,
    "CREATE INDEX deliveries_turn ON deliveries (lane, action, turn_at, seq) WHERE batch IS NULL",
    "CREATE INDEX deliveries_key ON deliveries (lane, action, key, seq) WHERE key IS NOT NULL",
    "CREATE INDEX deliveries_batch ON deliveries (lane, action, batch, seq) WHERE batch IS NOT NULL",
    "CREATE INDEX deliveries_held ON deliveries (lane, action, key, seq) WHERE batch IS NOT NULL",
    "CREATE INDEX deliveries_oldest ON deliveries (lane, received_at)",
    """
    CREATE TABLE batches (
        lane INTEGER NOT NULL, batch TEXT NOT NULL, action TEXT NOT NULL, progress BLOB NOT NULL, UNIQUE (lane, batch))
    """,
    """
    CREATE TABLE dead (
        id INTEGER PRIMARY KEY AUTOINCREMENT, lane INTEGER NOT NULL, action TEXT NOT NULL, key TEXT,
        delivery_id TEXT NOT NULL, event_id TEXT NOT NULL, body BLOB NOT NULL, received_at REAL NOT NULL,
        at REAL NOT NULL, attempts INTEGER NOT NULL, reason TEXT NOT NULL, code TEXT NOT NULL,
        expected INTEGER NOT NULL, trace BLOB)
    """,
    "CREATE INDEX dead_lane ON dead (lane, id)",
    "CREATE INDEX dead_delivery ON dead (delivery_id)",
    """
    CREATE TABLE tokens (
        connector TEXT NOT NULL, client TEXT NOT NULL, name TEXT NOT NULL, saved BLOB NOT NULL,
        obtained_at REAL NOT NULL, expires_at REAL, fingerprint TEXT NOT NULL, PRIMARY KEY (connector, client, name))
    """,
    "CREATE TABLE locks (name TEXT PRIMARY KEY, owner TEXT NOT NULL, until REAL NOT NULL)",
    "CREATE INDEX locks_until ON locks (until)",
    "CREATE TABLE slots (name TEXT NOT NULL, owner TEXT NOT NULL, until REAL NOT NULL, UNIQUE (name, owner))",
    "CREATE INDEX slots_until ON slots (until)",
    # `total` is the running sum of costs, so that what a window holds is a difference and not a sum over its rows.
    """
    CREATE TABLE limits (
        name TEXT NOT NULL, total INTEGER NOT NULL, at REAL NOT NULL, cost INTEGER NOT NULL, until REAL NOT NULL,
        UNIQUE (name, total))
    """,
    "CREATE INDEX limits_until ON limits (until)",
    "CREATE TABLE dedupe (lane INTEGER NOT NULL, event_id TEXT NOT NULL, until REAL NOT NULL, UNIQUE (lane, event_id))",
    "CREATE INDEX dedupe_until ON dedupe (until)",
)
LAST = 2**63 - 1  # no id is beyond it
# All since the first use that has not left: the log is in order of time, and `total` a running sum.
USED = """
    SELECT (SELECT max(total) FROM limits WHERE name = :name) - (total - cost), at FROM limits
    WHERE name = :name AND at + :per_s > :now ORDER BY total LIMIT 1
"""
FREED = "DELETE FROM slots WHERE name = ? AND owner = ?"
WAITS = (
    "ALTER TABLE deliveries ADD COLUMN after TEXT",
    "CREATE INDEX deliveries_after ON deliveries (lane, event_id) WHERE after IS NOT NULL",
    "ALTER TABLE dead ADD COLUMN followers TEXT",
    "CREATE INDEX dead_event ON dead (lane, event_id)",
)
AGAIN = (
    "ALTER TABLE deliveries ADD COLUMN again_at REAL",
    "ALTER TABLE deliveries ADD COLUMN tries TEXT",
    "ALTER TABLE dead ADD COLUMN tries TEXT",
    "CREATE INDEX dead_at ON dead (at)",
    "CREATE TABLE forgotten (times INTEGER NOT NULL)",
    "INSERT INTO forgotten VALUES (0)",
)
MARKS = ("CREATE TABLE marks (name TEXT PRIMARY KEY, value TEXT NOT NULL)",)
# What is written whole takes the place of all that was added to it, and what leaves takes that along.
PARTS = (
    "CREATE TABLE parts (number INTEGER PRIMARY KEY, lane INTEGER NOT NULL, batch TEXT NOT NULL, part TEXT NOT NULL)",
    "CREATE INDEX parts_batch ON parts (lane, batch, number)",
    *(
        f"CREATE TRIGGER batches_{verb} AFTER {verb} ON batches BEGIN"
        f" DELETE FROM parts WHERE lane = {row}.lane AND batch = {row}.batch; END"
        for verb, row in (("insert", "new"), ("update", "new"), ("delete", "old"))
    ),
)
# `put_at`: none that is not listed has a later due_at. Of what an older engine left those are listed that hold one back
# or are held, and what is due in time to come. Where an older engine still runs, it finds its index gone and fails.
_NOW = "(julianday('now') - 2440587.5) * 86400"
LISTED = (
    "ALTER TABLE lanes ADD COLUMN put_at REAL",
    "ALTER TABLE deliveries ADD COLUMN listed INTEGER",
    "CREATE INDEX deliveries_listed ON deliveries (lane, action, key, seq) WHERE listed IS NOT NULL",
    f"""
    UPDATE deliveries SET listed = 1 WHERE key IS NOT NULL AND (turn_at <> due_at OR due_at > {_NOW})
    """,
    """
    UPDATE deliveries SET listed = 1 WHERE seq IN (
        SELECT d.seq FROM (
            SELECT DISTINCT lane, action, key FROM deliveries INDEXED BY deliveries_listed
            WHERE listed IS NOT NULL) AS held
        CROSS JOIN deliveries AS d INDEXED BY deliveries_key
        ON d.lane = held.lane AND d.action = held.action AND d.key = held.key AND d.key IS NOT NULL)
    """,
    f"UPDATE lanes SET put_at = {_NOW}",
    "DROP INDEX deliveries_key",
    "CREATE INDEX lanes_due ON lanes (max(wake_at, not_before), id) WHERE wake_at IS NOT NULL AND NOT paused",
)
SCHEMA = (
    FIRST,
    WAITS,
    AGAIN,
    MARKS,
    PARTS,
    LISTED,
)  # each takes a file from the version before it; a new file goes through all of them
VERSION = len(SCHEMA)

SEEN = """
    WITH asked (lane, event_id) AS ({rows})
    SELECT d.lane, d.event_id, d.until FROM asked CROSS JOIN dedupe AS d
    ON d.lane = asked.lane AND d.event_id = asked.event_id
"""
REMEMBER = """
    INSERT INTO dedupe {rows} ON CONFLICT (lane, event_id) DO UPDATE SET until = excluded.until
"""
# Only of keys that hold their next one back: mostly of none.
TURNS = """
    WITH asked (lane, action, key, due_at) AS ({rows})
    SELECT lane, action, key, turn_at FROM (
        SELECT asked.*, (
            SELECT turn_at FROM deliveries AS d INDEXED BY deliveries_listed
            WHERE d.lane = asked.lane AND d.action = asked.action AND d.key = asked.key AND d.listed IS NOT NULL
            ORDER BY d.seq DESC LIMIT 1) AS turn_at
        FROM asked)
    WHERE turn_at > due_at
"""
# Of those that may hold others back.
LEFT = """
    WITH asked (lane, action, key, seq) AS ({rows})
    SELECT lane, action, key FROM asked WHERE EXISTS (
        SELECT 1 FROM deliveries AS d INDEXED BY deliveries_listed
        WHERE d.lane = asked.lane AND d.action = asked.action AND d.key = asked.key AND d.listed IS NOT NULL
        AND d.seq >= asked.seq)
"""
# OR FAIL: what is half done is taken back with its transaction or savepoint; else SQLite would keep a journal for each
# statement, which soon becomes a file.
INSERT = """
    INSERT OR FAIL INTO deliveries (
        lane, action, key, id, event_id, body, received_at, due_at, turn_at, attempts, again_at, tries, listed)
    {rows}
"""
COUNT = """
    INSERT INTO lanes (connector, client, put_at, stirred, wake_at, accepted, skipped) {rows}
    ON CONFLICT (connector, client) DO UPDATE SET
        put_at = max(ifnull(put_at, excluded.put_at), ifnull(excluded.put_at, put_at)),
        stirred = max(stirred, excluded.stirred),
        wake_at = min(ifnull(wake_at, excluded.wake_at), ifnull(excluded.wake_at, wake_at)),
        accepted = accepted + excluded.accepted, skipped = skipped + excluded.skipped
"""

_WAITING = "accepted - delivered - rejected - skipped"

# The turn of the one before it of its key; mostly there is none of the action.
_BEFORE = """
    SELECT b.turn_at FROM deliveries AS b INDEXED BY deliveries_listed
    WHERE b.lane = d.lane AND b.action = d.action AND b.key = d.key AND b.listed IS NOT NULL AND b.seq < d.seq
    ORDER BY b.seq DESC LIMIT 1
"""
# Does it stand behind a listed one, and has an earlier turn?
_LATE = f"""
    d.listed IS NULL AND EXISTS (
        SELECT 1 FROM deliveries INDEXED BY deliveries_listed
        WHERE lane = :lane AND action = :action AND listed IS NOT NULL)
    AND ({_BEFORE}) > d.turn_at
"""
# In whatever order they are changed: those of one key that were not listed are due one after the other.
ENLIST = f"""
    UPDATE deliveries AS d SET listed = 1, turn_at = max(turn_at, ifnull(({_BEFORE}), turn_at))
    WHERE seq IN (SELECT value FROM json_each(?)) AND listed IS NULL AND key IS NOT NULL
"""
FRONT = f"""
    SELECT seq, {_LATE} FROM deliveries AS d INDEXED BY deliveries_turn
    WHERE lane = :lane AND action = :action AND batch IS NULL ORDER BY turn_at, seq LIMIT :limit
"""
_READABLE = """
    FROM deliveries AS d INDEXED BY deliveries_turn
    WHERE lane = :lane AND action = :action AND batch IS NULL AND turn_at <= :now
    AND (key IS NULL OR NOT EXISTS (
        SELECT 1 FROM deliveries AS b INDEXED BY deliveries_held
        WHERE b.lane = d.lane AND b.action = d.action AND b.key = d.key AND b.batch IS NOT NULL AND b.seq < d.seq))
    ORDER BY turn_at, seq LIMIT :limit
"""
READ = f"""
    SELECT seq, id, event_id, action, key, body, received_at, turn_at, attempts, batch, again_at, {_LATE} {_READABLE}
"""
BACKLOG = f"""
    SELECT count(*), min(received_at), json_group_array(seq) FILTER (WHERE late)
    FROM (SELECT seq, received_at, {_LATE} AS late {_READABLE})
"""
_OWN_TURN = "CASE WHEN after IS NULL THEN due_at ELSE 9e999 END"
WAITING_FOR = """
    SELECT seq, lane, action, key, event_id, attempts, batch, after FROM deliveries INDEXED BY deliveries_after
    WHERE lane = ? AND event_id IN (SELECT value FROM json_each(?)) AND after IS NOT NULL
"""
FORSAKEN = """
    SELECT seq, lane, action, key, event_id, attempts, batch FROM deliveries AS d INDEXED BY deliveries_after
    WHERE after IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM json_each(d.after, '$[0]') AS wanted JOIN deliveries AS other ON other.seq = wanted.value)
"""
OLDER = """
    SELECT 1 FROM deliveries INDEXED BY deliveries_listed
    WHERE lane = :lane AND action = :action AND key = :key AND listed IS NOT NULL AND seq < :seq
    UNION ALL
    SELECT 1 FROM deliveries INDEXED BY deliveries_held
    WHERE lane = :lane AND action = :action AND key = :key AND batch IS NOT NULL AND seq < :seq
    LIMIT 1
"""
# What may be due between two moments; of half-done batches there are few.
AHEAD = """
    SELECT seq FROM deliveries INDEXED BY deliveries_turn
    WHERE lane = :lane AND action = :action AND batch IS NULL AND turn_at > :due_at AND turn_at <= :put_at
    UNION ALL
    SELECT seq FROM deliveries INDEXED BY deliveries_batch
    WHERE lane = :lane AND action = :action AND batch IS NOT NULL
"""
# Of those that are not listed; where callers wait all are put with a hold, and so mostly there are none.
OLDER_AT_ONCE = """
    SELECT count(*), max(key = :key AND seq < :seq) FROM (
        SELECT key, seq FROM deliveries INDEXED BY deliveries_turn
        WHERE lane = :lane AND action = :action AND batch IS NULL
        AND turn_at <= (SELECT put_at FROM lanes WHERE id = :lane)
        ORDER BY turn_at, seq LIMIT :limit)
"""
NEXT_TURN = """
    SELECT min(turn_at) FROM deliveries INDEXED BY deliveries_turn
    WHERE lane = :lane AND action = :action AND batch IS NULL AND turn_at > :after
"""
NEXT_BATCH = """
    SELECT min(due_at) FROM (
        SELECT max(due_at) AS due_at FROM deliveries INDEXED BY deliveries_batch
        WHERE lane = :lane AND action = :action AND batch IS NOT NULL GROUP BY batch)
    WHERE due_at > :after
"""
# DISTINCT would walk every delivery of the lane; this makes one step for each action.
_LOOSE = """
    WITH RECURSIVE named (action) AS (
        SELECT min(action) FROM deliveries INDEXED BY {index} WHERE lane = :lane AND batch {null}
        UNION ALL
        SELECT (SELECT min(d.action) FROM deliveries AS d INDEXED BY {index}
                WHERE d.lane = :lane AND d.batch {null} AND d.action > named.action)
        FROM named WHERE named.action IS NOT NULL)
    SELECT action FROM named WHERE action IS NOT NULL
"""
ACTIONS = (
    _LOOSE.format(index="deliveries_turn", null="IS NULL"),
    _LOOSE.format(index="deliveries_batch", null="IS NOT NULL"),
)
MEMBERS = """
    SELECT seq, id, event_id, action, key, body, received_at, due_at, attempts, batch, again_at
    FROM deliveries INDEXED BY deliveries_batch
    WHERE lane = :lane AND action = :action AND batch = :batch AND batch IS NOT NULL ORDER BY seq
"""
LANES = f"""
    SELECT connector, client, paused, {_WAITING}, accepted, delivered, rejected, skipped,
           (SELECT min(received_at) FROM deliveries INDEXED BY deliveries_oldest WHERE lane = lanes.id),
           not_before, reason, failures, failing_since
    FROM lanes
"""
DUE_LANES = f"""
    SELECT connector, client FROM lanes INDEXED BY lanes_due
    WHERE max(wake_at, not_before) <= :now AND wake_at IS NOT NULL AND NOT paused
    AND (until IS NULL OR until <= :now) AND {_WAITING} > 0
    ORDER BY max(wake_at, not_before), id LIMIT :limit
"""
NEXT_DUE = f"""
    SELECT min(max(wake_at, not_before, CASE WHEN until > :now THEN until ELSE wake_at END)) FROM lanes
    WHERE wake_at IS NOT NULL AND NOT paused AND {_WAITING} > 0
"""
_DEAD = """
    SELECT dead.id, connector, client, action, delivery_id, event_id, key, body, dead.reason, code, attempts,
           received_at, at, expected, trace, tries
    FROM dead JOIN lanes ON lanes.id = dead.lane
"""

HELD = """
    SELECT
        (SELECT count(*) FROM deliveries INDEXED BY deliveries_oldest WHERE lane = :lane),
        (SELECT count(*) FROM batches WHERE lane = :lane),
        (SELECT count(*) FROM dead WHERE lane = :lane),
        (SELECT count(*) FROM dedupe WHERE lane = :lane AND until > :now),
        (SELECT ifnull(max(seq), 0) FROM deliveries NOT INDEXED WHERE lane = :lane)
"""

_COUNTED = {"reason": "dead.reason", "code": "code", "action": "action", "client": "client", "connector": "connector"}

_encode = msgspec.json.Encoder(decimal_format="number").encode
_decode_values = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal).decode
_decode_progress = msgspec.json.Decoder(Progress, float_hook=Decimal).decode
_decode_part = msgspec.json.Decoder(Part, float_hook=Decimal).decode
_decode_trace = msgspec.json.Decoder(Trace).decode
_decode_parts = msgspec.json.Decoder(list[Part], float_hook=Decimal).decode
_decode_tries = msgspec.json.Decoder(tuple[Try, ...]).decode
_decode_wait = msgspec.json.Decoder(Wait).decode


class _Follower(NamedTuple):
    """What was skipped for the sake of a dead letter, and waits for it again by place when that is tried again."""

    delivery_id: str
    action: str
    key: str | None
    wait: Wait


_decode_followers = msgspec.json.Decoder(list[_Follower]).decode


class Cipher(Protocol):
    """What keeps tokens unreadable in the file."""

    def encrypt(self, data: bytes, /) -> bytes:
        """Bytes that only `decrypt` can read."""

    def decrypt(self, data: bytes, /) -> bytes:
        """What was encrypted; raises if it was by another key."""


class _Connection(sqlite3.Connection):
    """A connection that knows the numbers of lanes; they never change, unless their making is rolled back."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lanes: dict[tuple[str, str], int] = {}
        self.passing = False  # is no disk waited for at a commit?
        self.unswept = 0  # event ids remembered since expired ones were last cleaned


class SqliteStore:
    """
    A Store in the SQLite file at `path`, made if it is not there; `path` + ".writer" is the lock of its writers.

    `busy_s` is how long a program that does not take that lock may hold up a write before StoreUnavailable.
    `read_only`: the file is there and of this version, nothing is made or brought up to date, and a write is refused.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        new_id: Callable[[], str] | None = None,
        cipher: Cipher | None = None,
        busy_s: float = 10.0,
        read_only: bool = False,
    ) -> None:
        self._path = os.fspath(path)
        self._new_id = new_id or random_id
        self._cipher = cipher
        self._writer = _NoWriter(self._path) if read_only else _Writer(self._path, busy_s)
        self._readers = _Readers(self._path, busy_s)

    def claim(self, name: str) -> None:
        with self._readers.reading() as db:
            owner = _mark(db, PROJECT)
        refuse_another(self._path, owner or self._writer.run(lambda db: _marked(db, PROJECT, name)), name)

    # Deliveries in

    def put(self, events: Sequence[Accepted], *, now: float, hold_s: float = 0) -> Future[list[Stored]]:
        return self._writer.submit(_Put(events, now, now + hold_s, self._new_id))

    @property
    def path(self) -> Path:
        """Its file."""
        return Path(self._path).absolute()

    @property
    def folder(self) -> Path:
        """Where its file lies."""
        return self.path.parent

    def used_bytes(self) -> int:
        """What events take up of the file, without what has become free inside of it."""
        with self._readers.reading() as db:
            size, pages, free = (
                int(_value(db, f"PRAGMA {of}")) for of in ("page_size", "page_count", "freelist_count")
            )
            return size * (pages - free)

    # Lanes

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    def due_lanes(self, *, now: float, limit: int = 100) -> list[tuple[str, str]]:
        with self._readers.reading() as db:
            return db.execute(DUE_LANES, {"now": now, "limit": limit}).fetchall()

    def next_due(self, *, now: float) -> float | None:
        with self._readers.reading() as db:
            due_at: float | None = _value(db, NEXT_DUE, {"now": now})
            return due_at

    def lease(self, connector: str, client: str, *, owner: str, ttl_s: float, now: float) -> Lease | None:
        return self._writer.run(lambda db: _lease(db, connector, client, owner, now + ttl_s, now))

    def renew(self, lease: Lease, *, ttl_s: float, now: float) -> Lease:
        return self._writer.run(lambda db: _renew(db, lease, now + ttl_s), passing=True)

    def release(self, lease: Lease, *, wake_at: float | None) -> None:
        self._writer.run(lambda db: _release(db, lease, wake_at))

    def reclaim(self, gone: Callable[[str], bool]) -> int:
        return self._writer.run(lambda db: _reclaim(db, gone))

    def change_lane(self, connector: str, client: str, change: LaneChange, *, now: float) -> None:
        self._writer.run(lambda db: _change_lane(db, connector, client, change, now))

    def behind(self, connector: str, client: str, delivery: Delivery) -> bool:
        with self._readers.reading() as db:
            return _behind(db, _lane_id(db, connector, client), delivery)

    def lane(self, connector: str, client: str) -> Lane | None:
        with self._readers.reading() as db:
            row = db.execute(f"{LANES} WHERE connector = ? AND client = ?", (connector, client)).fetchone()
            return _lane(row) if row else None

    def lanes(self) -> list[Lane]:
        with self._readers.reading() as db:
            return [_lane(row) for row in db.execute(f"{LANES} ORDER BY connector, client")]

    # What a lane holds

    def backlog(self, lease: Lease, action: str, *, now: float, cap: int) -> tuple[int, float | None, float | None]:
        while True:
            with self._readers.reading() as db:
                lane = _lane_id(db, lease.connector, lease.client)
                where = {"lane": lane, "action": action, "now": now, "limit": cap}
                count, oldest_at, late = db.execute(BACKLOG, where).fetchone()
                next_at = _next_of_action(db, lane, action, after=now)
            if late == "[]":
                return count, oldest_at, next_at
            self._writer.run(partial(_enlist, seqs=late), passing=True)

    def waiting_actions(self, lease: Lease) -> list[str]:
        with self._readers.reading() as db:
            return _waiting_actions(db, _lane_id(db, lease.connector, lease.client))

    def read(self, lease: Lease, action: str, *, limit: int, now: float) -> list[Delivery]:
        while True:
            with self._readers.reading() as db:
                lane = _held_lane(db, lease)
                rows = db.execute(READ, {"lane": lane, "action": action, "now": now, "limit": limit}).fetchall()
            late = [row[0] for row in rows if row[-1]]
            if not late:
                return [Delivery(*row[:-1]) for row in rows]
            self._writer.run(partial(_enlist, seqs=_numbers(late)), passing=True)

    def progress(self, lease: Lease, action: str, *, now: float) -> list[tuple[Progress, list[Delivery]]]:
        with self._readers.reading() as db:
            return list(_due_batches(db, _held_lane(db, lease), action, now))

    def save_progress(self, lease: Lease | None, progress: Progress, seqs: Sequence[int], *, now: float) -> None:
        del now
        self._writer.run(lambda db: _save_progress(db, lease, progress, seqs))

    def add_progress(self, lease: Lease, batch: str, action: str, part: Part, *, now: float) -> bool:
        del now
        return self._writer.run(lambda db: _add_progress(db, lease, batch, action, part))

    def settle(
        self, lease: Lease | None, done: Sequence[Settled], *, now: float, change: LaneChange | None = None
    ) -> list[Skipped]:
        return self._writer.run(lambda db: _settle(db, lease, done, now, change))

    # Dead letters, and people

    def held(self, *, now: float) -> dict[tuple[str, str], int]:
        with self._readers.reading() as db:
            rows = db.execute("SELECT connector, client, fence FROM lanes WHERE until > ?", (now,))
            return {(connector, client): fence for connector, client, fence in rows}

    def dead(self, *, limit: int = 100, after: int = 0, newest: bool = False, **which: Unpack[Which]) -> list[Dead]:
        where, values = _which(which)
        compared, order = ("<", " DESC") if newest else (">", "")
        sql = f"{_DEAD} WHERE dead.id {compared} ?{where} ORDER BY dead.id{order} LIMIT ?"
        with self._readers.reading() as db:
            return [_dead(row) for row in db.execute(sql, (after or (LAST if newest else 0), *values, limit))]

    def count_dead(self, by: str, **which: Unpack[Which]) -> dict[str, int]:
        column = _COUNTED[by]
        where, values = _which(which)
        with self._readers.reading() as db:
            rows = db.execute(
                f"SELECT {column}, count(*) FROM dead JOIN lanes ON lanes.id = dead.lane WHERE 1{where} GROUP BY 1",
                values,
            )
            return dict(rows.fetchall())

    def dead_letter(self, dead_id: int) -> Dead | None:
        with self._readers.reading() as db:
            row = db.execute(f"{_DEAD} WHERE dead.id = ?", (dead_id,)).fetchone()
            return _dead(row) if row else None

    def requeue(self, dead_ids: Sequence[int], *, now: float) -> int:
        return self._writer.run(lambda db: sum(bool(_requeue(db, dead_id, now, now)) for dead_id in dead_ids))

    def revive(
        self, connector: str, client: str, event_id: str, actions: Collection[str], *, now: float, hold_s: float
    ) -> list[Delivery]:
        return self._writer.run(lambda db: _revive(db, connector, client, event_id, actions, now, now + hold_s))

    def amend(self, dead_id: int, *, body: bytes, key: str | None) -> bool:
        changed = "UPDATE dead SET body = ?, key = ? WHERE id = ?"
        return self._writer.run(lambda db: db.execute(changed, (body, key, dead_id)).rowcount == 1)

    def admit(self, letters: Sequence[Dead]) -> list[bool]:
        return self._writer.run(lambda db: _admit(db, letters))

    def whereabouts(self, delivery_ids: Collection[str]) -> dict[str, str]:
        with self._readers.reading() as db:
            return _whereabouts(db, delivery_ids)

    def discard(self, dead_ids: Sequence[int], *, reason: str, now: float) -> int:
        del reason, now  # for the log of who calls; the letter is gone
        return self._writer.run(
            lambda db: sum(db.execute("DELETE FROM dead WHERE id = ?", (dead_id,)).rowcount for dead_id in dead_ids)
        )

    def forget(
        self,
        subject: str,
        *,
        now: float,
        by_key: bool = False,
        mentions: bool = False,
        client: str | None = None,
        dry: bool = False,
    ) -> dict[str, int]:
        person = Subject(subject, by_key=by_key)
        # Bodies are searched on a reading connection, for that may take seconds; only what was found is written.
        with self._readers.reading() as db:
            found = _find_person(db, person, client, mentions=mentions)

        def erase(db: _Connection) -> dict[str, int]:
            counts = _forget(db, found, person, client, now)
            if dry:
                raise _NotNow(counts)
            return counts

        try:
            return self._writer.run(erase)
        except _NotNow as found_only:
            return found_only.counts

    def forgotten(self) -> int:
        with self._readers.reading() as db:
            times: int = _value(db, "SELECT times FROM forgotten")
            return times

    def scrub(self) -> bool:
        return self._writer.alone(_scrub)

    def expire(self, *, dead_before: float | None, now: float, most: int = 1000) -> dict[str, int]:
        return self._writer.run(lambda db: _expire(db, dead_before, now, most))

    # Tokens and locks

    def token(self, connector: str, client: str, name: str) -> TokenRow | None:
        with self._readers.reading() as db:
            row = db.execute(
                "SELECT saved, obtained_at, expires_at, fingerprint FROM tokens"
                " WHERE connector = ? AND client = ? AND name = ?",
                (connector, client, name),
            ).fetchone()
        if row is None:
            return None
        saved, *rest = row
        return TokenRow(self._unseal(saved, f"{connector}/{client}/{name}"), *rest)

    def save_token(self, connector: str, client: str, name: str, row: TokenRow) -> None:
        saved = _encode(row.values)
        if self._cipher is not None:
            saved = self._cipher.encrypt(saved)
        values = (connector, client, name, saved, row.obtained_at, row.expires_at, row.fingerprint)
        self._writer.run(lambda db: db.execute("REPLACE INTO tokens VALUES (?, ?, ?, ?, ?, ?, ?)", values))

    def lock(self, name: str, *, owner: str, ttl_s: float, now: float) -> bool:
        return self._writer.run(lambda db: _lock(db, name, owner, now + ttl_s, now))

    def unlock(self, name: str, *, owner: str) -> None:
        self._writer.run(lambda db: db.execute("DELETE FROM locks WHERE name = ? AND owner = ?", (name, owner)))

    # Rates and slots

    def take(self, name: str, *, count: int, per_s: float, now: float, cost: int = 1) -> float:
        refuse_impossible(name, count=count, cost=cost)
        return self._writer.run(lambda db: _take(db, name, count, per_s, now, cost), passing=True)

    def acquire(self, name: str, *, slots: int, owner: str, ttl_s: float, now: float) -> bool:
        return self._writer.run(lambda db: _acquire(db, name, slots, owner, now + ttl_s, now), passing=True)

    def release_slot(self, name: str, *, owner: str) -> None:
        self._writer.run(lambda db: db.execute(FREED, (name, owner)), passing=True)

    def enter(self, uses: Sequence[Use], *, owner: str, ttl_s: float, now: float) -> tuple[int, float] | None:
        for use in uses:
            refuse_impossible(use.name, count=use.most, cost=use.cost)
        return self._writer.run(lambda db: _enter(db, uses, owner, now + ttl_s, now), passing=True) if uses else None

    def used(self, name: str, *, per_s: float, now: float) -> tuple[int, float | None]:
        with self._readers.reading() as db:
            found = db.execute(USED, {"name": name, "per_s": per_s, "now": now}).fetchone()
        return (found[0], found[1]) if found is not None else (0, None)

    def slots_held(self, name: str, *, now: float) -> int:
        with self._readers.reading() as db:
            return int(_value(db, "SELECT count(*) FROM slots WHERE name = ? AND until > ?", (name, now)))

    # From store to store

    def mark(self, name: str) -> str | None:
        with self._readers.reading() as db:
            return _mark(db, name)

    def write_mark(self, name: str, value: str) -> None:
        self._writer.run(lambda db: _write_mark(db, name, value))

    def count(self, connector: str, client: str, *, now: float) -> Held:
        with self._readers.reading() as db:
            return Held(*db.execute(HELD, {"lane": _lane_id(db, connector, client), "now": now}).fetchone())

    def carry_out(self, connector: str, client: str, kind: Any, *, after: Any, limit: int) -> list[Any]:
        sql, whole = CARRIED[kind]
        with self._readers.reading() as db:
            asked = {"lane": _lane_id(db, connector, client), "after": after, "limit": limit}
            if kind is Waiting and len(db.execute(FEW_WAIT, asked).fetchall()) <= limit:
                sql = sql.replace("NOT INDEXED", "INDEXED BY deliveries_oldest")
            return [whole(row) for row in db.execute(sql, asked)]

    def reserve(self, connector: str, client: str, count: int) -> int:
        return self._writer.run(lambda db: _reserve(db, connector, client, count))

    def carry_in(self, connector: str, client: str, items: Sequence[Carried]) -> None:
        self._writer.run(lambda db: _carry_in(db, _lane_made(db, connector, client), items))

    def carry_away(self, connector: str, client: str) -> None:
        self._writer.run(lambda db: _carry_away(db, _lane_id(db, connector, client)))

    def carry_lane(self, lane: Lane, *, mark: str, value: str) -> None:
        self._writer.run(lambda db: _carry_lane(db, lane, mark, value))

    def tokens(self) -> list[tuple[str, str, str]]:
        with self._readers.reading() as db:
            return db.execute("SELECT connector, client, name FROM tokens ORDER BY 1, 2, 3").fetchall()

    def carry_forgotten(self, times: int) -> None:
        self._writer.run(lambda db: db.execute("UPDATE forgotten SET times = max(times, ?)", (times,)))

    def faults(self) -> list[str]:
        with self._readers.reading() as db:
            return list(_faults(db))

    def close(self) -> None:
        self._readers.close()
        self._writer.close()

    def _unseal(self, saved: bytes, name: str) -> dict[str, Any]:
        try:
            return _decode_values(saved if self._cipher is None else self._cipher.decrypt(saved))
        except Exception as error:  # a cipher has its own exceptions
            raise TokenUnreadable(
                f"{self._path}: the token {name} can't be decrypted; is the key the one it was saved with?"
            ) from error


# The writing thread


class _Put(NamedTuple):
    """Work that is done as one with the puts before and behind it."""

    events: Sequence[Accepted]
    now: float
    due_at: float
    new_id: Callable[[], str]


class _Outside(NamedTuple):
    """Work that SQLite does in no transaction."""

    work: Callable[[_Connection], Any]


class _NotNow(Exception):
    """What was found is told, and the transaction taken back."""

    def __init__(self, counts: dict[str, int]) -> None:
        super().__init__()
        self.counts = counts


class _Job(NamedTuple):
    """
    `passing`: it serves the processes that run now (leases, slots, rates) and holds across all of them, also where one
    is killed; with the machine's power it may go, as they do. It is written, but no disk is waited for. What a reader
    lists may go so, too: it would be met again.
    """

    future: Future[Any]
    work: Callable[[_Connection], Any] | _Put | _Outside
    passing: bool = False


class _Writer:
    """The one thread that writes: takes all that is queued, commits once, then answers."""

    def __init__(self, path: str, busy_s: float) -> None:
        self._path = path
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._gate = threading.Lock()
        self._closed = False
        self._log_bytes = LOG_FIRST
        self._crowded_until = 0.0
        self._refusal = f"{path}: the store is closed"
        self._file_lock = -1
        self._db: _Connection | None = None
        try:
            self._file_lock = os.open(f"{path}.writer", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with self._alone():
                self._db = db = _open_for_writing(path, busy_s)
            self._identity = _identity(path)
        except StoreUnavailable:
            self._let_go()
            raise
        except (sqlite3.Error, OSError, *_UNREADABLE) as error:
            self._let_go()
            raise _unavailable(path, error) from error
        self._thread = threading.Thread(target=self._serve, args=(db,), name="store-writer", daemon=True)
        self._thread.start()

    @overload
    def submit(self, work: _Put) -> Future[list[Stored]]: ...
    @overload
    def submit(self, work: Callable[[_Connection], T], *, passing: bool = False) -> Future[T]: ...
    @overload
    def submit(self, work: _Outside) -> Future[Any]: ...
    def submit(self, work: Callable[[_Connection], Any] | _Put | _Outside, *, passing: bool = False) -> Future[Any]:
        future: Future[Any] = Future()
        with self._gate:
            if self._closed:
                raise StoreUnavailable(self._refusal)
            self._jobs.put(_Job(future, work, passing))
        return future

    def run(self, work: Callable[[_Connection], T], *, passing: bool = False) -> T:
        found: T = self.submit(work, passing=passing).result()
        return found

    def alone(self, work: Callable[[_Connection], T]) -> T:
        """Work outside of any transaction, while no other process writes."""
        found: T = self.submit(_Outside(work)).result()
        return found

    def close(self) -> None:
        with self._gate:
            if self._closed:
                return
            self._closed = True
            self._jobs.put(None)
        self._thread.join()
        with suppress(OSError), self._alone():  # the last one to close folds the log into the file: that is a write
            self._let_go()

    def _let_go(self) -> None:
        if self._db is not None:
            with suppress(sqlite3.Error):
                self._db.close()
        if self._file_lock >= 0:
            os.close(self._file_lock)
            self._file_lock = -1

    @contextmanager
    def _alone(self) -> Iterator[None]:
        fcntl.flock(self._file_lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            if self._file_lock >= 0:
                fcntl.flock(self._file_lock, fcntl.LOCK_UN)

    def _serve(self, db: _Connection) -> None:
        going = True
        while going:
            group, going = self._queued()
            live = [job for job in group if job.future.set_running_or_notify_cancel()]
            together = [job for job in live if not isinstance(job.work, _Outside)]
            if together:
                self._commit(db, together)
            if sum(len(job.work.events) for job in together if isinstance(job.work, _Put)) >= CROWD:
                self._crowded_until = time.monotonic() + SHARE_S
            for job in live:
                if isinstance(job.work, _Outside):
                    self._do_alone(db, job, job.work)

    def _queued(self) -> tuple[list[_Job], bool]:
        group: list[_Job] = []
        job = self._jobs.get()
        while job is not None:
            group.append(job)
            if len(group) == GROUP:
                return group, True
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                try:
                    job = self._jobs.get(timeout=self._patience_s(group))
                except queue.Empty:
                    return group, True
        return group, False

    def _patience_s(self, group: list[_Job]) -> float:
        """
        What is settled while many events come in waits for the next of them, which else would wait for its commit: the
        disk is waited for once for both.
        """
        if all(job.passing for job in group) or any(isinstance(job.work, _Put) for job in group):
            return 0.0
        return max(0.0, self._crowded_until - time.monotonic())

    def _commit(self, db: _Connection, jobs: list[_Job]) -> None:
        try:
            with self._alone():
                if _identity(self._path) != self._identity:
                    raise StoreUnavailable(f"{self._path}: the file was removed or replaced while in use; restart")
                answers = self._transact(db, jobs)
        except Exception as error:
            for job in jobs:
                _fail(job.future, _unavailable(self._path, error), error)
            return
        for job, (value, failure) in zip(jobs, answers, strict=True):
            if failure is None:
                job.future.set_result(value)
            else:
                _fail(job.future, _unavailable(self._path, failure), failure)

    def _do_alone(self, db: _Connection, job: _Job, outside: _Outside) -> None:
        try:
            with self._alone():
                value = outside.work(db)
        except Exception as error:
            _fail(job.future, _unavailable(self._path, error), error)
        else:
            job.future.set_result(value)

    def _transact(self, db: _Connection, jobs: list[_Job]) -> list[_Answer]:
        passing = all(job.passing for job in jobs)
        if passing != db.passing:
            db.execute(f"PRAGMA synchronous = {'NORMAL' if passing else 'FULL'}")
            db.passing = passing
        db.execute("BEGIN IMMEDIATE")
        try:
            self._make_room()
            if len(jobs) == 1:  # needs no savepoint: it is all there is to take back
                answers: list[_Answer] = [(_done(db, jobs)[0], None)]
            else:
                answers = [answer for same in _neighbours(jobs) for answer in _attempt(db, same)]
            db.execute("COMMIT")
        except BaseException:
            db.lanes.clear()
            raise
        finally:
            if db.in_transaction:
                with suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
        return answers

    def _make_room(self) -> None:
        """
        The log grows by a good piece at once, while no one else may write: a commit that makes a file longer takes a
        disk several times as long as one that writes over what is there. Zeros are no frames to SQLite.
        """
        with suppress(OSError):  # where there is no room, the commit itself will say so
            size = os.stat(f"{self._path}-wal").st_size
            if size <= self._log_bytes or size >= LOG_PAGES * 4096:
                self._log_bytes = max(size, LOG_FIRST)
                return
            log = os.open(f"{self._path}-wal", os.O_WRONLY | os.O_CLOEXEC)
            try:
                self._log_bytes = size + os.pwrite(log, bytes(LOG_STEP), size)
            finally:
                os.close(log)


class _NoWriter(_Writer):
    """Of a store that is only looked at."""

    def __init__(self, path: str) -> None:
        if (version := version_of(path)) != VERSION:
            raise StoreUnavailable(f"{path} has schema version {version}, not {VERSION}; see `connect store migrate`")
        self._gate = threading.Lock()
        self._closed = True
        self._refusal = f"{path}: the store was opened to be looked at only"


def version_of(path: str | os.PathLike[str]) -> int | None:
    """The schema's version in a file, 0 in an empty one, None where there is no file; nothing is changed by asking."""
    if not os.path.exists(path):
        return None
    try:
        with closing(_connect(os.fspath(path), "rw", 10.0)) as db:
            version = _value(db, "PRAGMA user_version")
            return _known_version(os.fspath(path), db, version)
    except sqlite3.Error as error:
        raise _unavailable(os.fspath(path), error) from error


def _known_version(path: str, db: _Connection, version: int) -> int:
    """StoreUnavailable for that of a newer engine, or of another program."""
    if version > VERSION:
        raise StoreUnavailable(
            f"{path} has schema version {version}, this engine knows versions up to {VERSION}; use a newer engine"
        )
    if version == 0 and _value(db, "SELECT count(*) FROM sqlite_master"):
        raise StoreUnavailable(f"{path} is a SQLite database of another program; give the store a file of its own")
    return version


def _neighbours(jobs: list[_Job]) -> Iterator[list[_Job]]:
    """Puts that stand side by side together, every other work by itself."""
    for puts, same in groupby(jobs, lambda job: isinstance(job.work, _Put)):
        if puts:
            yield list(same)
        else:
            yield from ([job] for job in same)


def _attempt(db: _Connection, jobs: list[_Job]) -> list[_Answer]:
    db.execute("SAVEPOINT job")
    try:
        values = _done(db, jobs)
    except Exception as error:
        if not db.in_transaction:  # a full disk makes SQLite take back the whole group
            raise
        db.lanes.clear()
        db.execute("ROLLBACK TO job")
        db.execute("RELEASE job")
        if len(jobs) == 1:
            return [(None, error)]
        return [answer for job in jobs for answer in _attempt(db, [job])]  # one that is bad harms no other
    db.execute("RELEASE job")
    return [(value, None) for value in values]


def _done(db: _Connection, jobs: list[_Job]) -> list[Any]:
    puts = [job.work for job in jobs if isinstance(job.work, _Put)]
    return _accept(db, puts) if puts else [job.work(db) for job in jobs if not isinstance(job.work, _Put | _Outside)]


def _fail(future: Future[Any], error: Exception, cause: Exception) -> None:
    if error is not cause:
        error.__cause__ = cause
    future.set_exception(error)


class _Readers:
    """Reading connections, each lent to one thread at a time."""

    def __init__(self, path: str, busy_s: float) -> None:
        self._path = path
        self._busy_s = busy_s
        self._idle: list[_Connection] = []
        self._gate = threading.Lock()
        self._closed = False

    @contextmanager
    def reading(self) -> Iterator[_Connection]:
        """One snapshot of the file; StoreUnavailable for whatever SQLite says."""
        db = None
        try:
            db = self._borrow()
            db.execute("BEGIN")
            yield db
            db.execute("COMMIT")
        except (sqlite3.Error, *_UNREADABLE) as error:
            if db is not None:
                db.close()
                db = None
            raise _unavailable(self._path, error) from error
        finally:
            if db is not None:
                self._give_back(db)

    def close(self) -> None:
        with self._gate:
            self._closed = True
            for db in self._idle:
                db.close()
            self._idle.clear()

    def _borrow(self) -> _Connection:
        with self._gate:
            if self._closed:
                raise StoreUnavailable(f"{self._path}: the store is closed")
            if self._idle:
                return self._idle.pop()
        db = _connect(self._path, "rw", self._busy_s)
        db.execute("PRAGMA query_only = ON")
        return db

    def _give_back(self, db: _Connection) -> None:
        if db.in_transaction:
            db.rollback()
        with self._gate:
            if not self._closed:
                self._idle.append(db)
                return
        db.close()


# Opening, and what can go wrong


def _connect(path: str, mode: str, busy_s: float) -> _Connection:
    return sqlite3.connect(
        f"file:{quote(os.path.abspath(path))}?mode={mode}",
        uri=True,
        timeout=busy_s,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=512,
        factory=_Connection,
    )


def _open_for_writing(path: str, busy_s: float) -> _Connection:
    db = _connect(path, "rwc", busy_s)
    try:
        version = _known_version(path, db, _value(db, "PRAGMA user_version"))
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA journal_size_limit = 67108864")
        db.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
        if version < VERSION:
            _upgrade(db)
    except BaseException:
        db.close()
        raise
    return db


def _upgrade(db: _Connection) -> None:
    db.execute("BEGIN IMMEDIATE")
    for part in SCHEMA[_value(db, "PRAGMA user_version") :]:
        for statement in part:
            db.execute(statement)
    db.execute(f"PRAGMA user_version = {VERSION}")
    db.execute("COMMIT")


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


_DAMAGED = "the file is damaged or no SQLite database; it is left as it is: restore a copy, or name another file"
_DISK_FULL = "the disk is full; free some space, then it goes on by itself"
_READ_ONLY = "the file or its folder is read-only; check who may write there"
_CANT_OPEN = "the file can't be opened; check that its folder is there and may be written"
_SENTENCES = {
    sqlite3.SQLITE_FULL: _DISK_FULL,
    sqlite3.SQLITE_READONLY: _READ_ONLY,
    sqlite3.SQLITE_PERM: _READ_ONLY,
    sqlite3.SQLITE_BUSY: "another program keeps the file locked",
    sqlite3.SQLITE_LOCKED: "another program keeps the file locked",
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_CANTOPEN: _CANT_OPEN,
    sqlite3.SQLITE_IOERR: "the disk can't be read or written",
}
_OS_SENTENCES = {
    errno.ENOSPC: _DISK_FULL,
    errno.EDQUOT: _DISK_FULL,
    errno.EROFS: _READ_ONLY,
    errno.EACCES: _READ_ONLY,
    errno.EPERM: _READ_ONLY,
    errno.ENOENT: _CANT_OPEN,
    errno.ENOTDIR: _CANT_OPEN,
    errno.EISDIR: _CANT_OPEN,
}


# What only flipped bits can make of what we wrote.
_UNREADABLE = (UnicodeDecodeError, msgspec.DecodeError)


def _unavailable(path: str, error: Exception) -> Exception:
    """A driver's error as a plain sentence; any other error as it is."""
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", None)  # extended: the kind is in the low byte
        sentence = None if code is None else _SENTENCES.get(code & 0xFF)
        return StoreUnavailable(f"{path}: {sentence} ({error})" if sentence else f"{path}: {error}")
    if isinstance(error, _UNREADABLE):
        return StoreUnavailable(f"{path}: {_DAMAGED} ({type(error).__name__})")
    if isinstance(error, OSError):
        sentence = _OS_SENTENCES.get(error.errno or 0, "the store can't be read or written")
        return StoreUnavailable(f"{path}: {sentence} ({error.strerror})")
    return error


# Each verb as it stands inside a transaction


def _value(db: _Connection, sql: str, parameters: Any = ()) -> Any:
    row = db.execute(sql, parameters).fetchone()
    return None if row is None else row[0]


def _mark(db: _Connection, name: str) -> str | None:
    value: str | None = _value(db, "SELECT value FROM marks WHERE name = ?", (name,))
    return value


def _marked(db: _Connection, name: str, value: str) -> str:
    """What the mark says; `value` where it said nothing yet."""
    db.execute("INSERT INTO marks VALUES (?, ?) ON CONFLICT (name) DO NOTHING", (name, value))
    return _mark(db, name) or value


def _lane_id(db: _Connection, connector: str, client: str) -> int | None:
    lane: int | None = _value(db, "SELECT id FROM lanes WHERE connector = ? AND client = ?", (connector, client))
    return lane


def _lane_made(db: _Connection, connector: str, client: str) -> int:
    lane = db.lanes.get((connector, client)) or _lane_id(db, connector, client)
    if lane is None:
        lane = db.execute("INSERT INTO lanes (connector, client) VALUES (?, ?)", (connector, client)).lastrowid
    assert lane is not None
    db.lanes[connector, client] = lane
    return lane


def _held_lane(db: _Connection, lease: Lease) -> int:
    lane: int | None = _value(
        db,
        "SELECT id FROM lanes WHERE connector = ? AND client = ? AND fence = ? AND owner = ?",
        (lease.connector, lease.client, lease.fence, lease.owner),
    )
    if lane is None:
        raise lost(lease)
    return lane


class _Arrival(NamedTuple):
    lane: int
    event: Accepted
    put: _Put


class _Fresh(NamedTuple):
    lane: int
    delivery: Delivery
    at_once: bool = False  # due when it is put: as long as nothing holds it back, it need not be listed


def _accept(db: _Connection, puts: Sequence[_Put]) -> list[list[Stored]]:
    """
    All puts in a handful of statements, however many they are.

    Each statement lets go of the interpreter and waits to have it back from a busy event loop: ten of them for each
    event cost more than all they do.
    """
    arrivals = [
        _Arrival(_lane_made(db, event.connector, event.client), event, put) for put in puts for event in put.events
    ]
    fresh = _first_times(db, arrivals)
    rows = iter(_insert(db, *_drafted(arrivals, fresh)))
    stored = [
        Stored(event.event_id, not first, tuple(islice(rows, len(event.drafts))) if first else ())
        for (_, event, _), first in zip(arrivals, fresh, strict=True)
    ]
    _count_accepted(db, arrivals, stored)
    answers = iter(stored)
    return [[next(answers) for _ in put.events] for put in puts]


def _drafted(arrivals: Sequence[_Arrival], fresh: Sequence[bool]) -> tuple[list[_Fresh], dict[int, Wait]]:
    """The deliveries; and which of them wait for which, by their places in that list."""
    drafted: list[_Fresh] = []
    waits: dict[int, Wait] = {}
    for (lane, event, put), first in zip(arrivals, fresh, strict=True):
        at, waiting = len(drafted), False
        for draft in event.drafts if first else ():
            new_id, action, key = put.new_id(), draft.action, draft.key
            each = Delivery(0, new_id, event.event_id, action, key, event.body, event.received_at, put.due_at)
            drafted.append(_Fresh(lane, each, put.due_at <= put.now))
            waiting = waiting or draft.after != ()
        if waiting:
            waits |= waits_of(event, at)
    return drafted, waits


def _first_times(db: _Connection, arrivals: Sequence[_Arrival]) -> list[bool]:
    """For each whether it is no duplicate; those that are none are remembered."""
    asked = [(lane, event.event_id) for lane, event, _ in arrivals if event.dedupe_s > 0]
    if not asked:
        return [True] * len(arrivals)
    until = {(lane, event_id): end for rows in _by_rows(db, SEEN, asked) for lane, event_id, end in rows}
    new: dict[tuple[int, str], float] = {}
    fresh = []
    for lane, event, put in arrivals:
        where = (lane, event.event_id)
        first = event.dedupe_s <= 0 or until.get(where, -math.inf) <= put.now
        fresh.append(first)
        if first and event.dedupe_s > 0:
            until[where] = new[where] = put.now + event.dedupe_s
    _write_rows(db, REMEMBER, [(*where, end) for where, end in new.items()])
    _sweep_seen(db, len(new), min((put.now for _, _, put in arrivals), default=0.0))
    return fresh


def _sweep_seen(db: _Connection, new: int, now: float) -> None:
    times, db.unswept = divmod(db.unswept + new, SWEEP_EVERY)
    if times:
        _sweep(db, "dedupe", now, most=SWEEP * times)


def _insert(
    db: _Connection,
    fresh: Sequence[_Fresh],
    waits: Mapping[int, Wait],
    tries: tuple[Try, ...] = (),
) -> list[Delivery]:
    """
    The deliveries as stored: with their seqs, and due when their turn comes.

    `waits` says which of them wait for which, by their places, or below 0 the seq of one that is stored;
    `tries` are those of the first.
    """
    kept = [_encode_tries(tries)] + [None] * len(fresh)
    fresh = _in_order(db, fresh)
    turns = _turns(db, fresh, waits)
    last = _write_rows(
        db,
        INSERT,
        [
            (
                lane,
                each.action,
                each.key,
                each.id,
                each.event_id,
                each.body,
                each.received_at,
                each.due_at,
                turn_at,
                0,
                each.again_at,
                of_each,
                None if each.key is None or (at_once and turn_at == each.due_at) else 1,
            )
            for (lane, each, at_once), turn_at, of_each in zip(fresh, turns, kept, strict=False)
        ],
    )
    seqs = range(last + 1 - len(fresh), last + 1)  # AUTOINCREMENT leaves no gap within one transaction
    for at, wait in waits.items():
        _write_wait(
            db, seqs[at], Wait(frozenset(seqs[each] if each >= 0 else -each for each in wait.after), wait.past_rejected)
        )
    return [
        Delivery(
            seq,
            each.id,
            each.event_id,
            each.action,
            each.key,
            each.body,
            each.received_at,
            turn_at,
            0,
            None,
            each.again_at,
        )
        for seq, (_, each, _), turn_at in zip(seqs, fresh, turns, strict=True)
    ]


def _in_order(db: _Connection, fresh: Sequence[_Fresh]) -> list[_Fresh]:
    """
    With moments that do not go back from one to the next of a lane, nor behind what was put before.

    Where clocks are apart by more than SKEW_S, deliveries keep their moments and are listed instead: these, or those in
    the store that are ahead of them.
    """
    put_at = _put_at(db, {one.lane for one in fresh})
    moments = {one.delivery.due_at for one in fresh}
    if len(moments) == 1 and max(put_at.values(), default=-math.inf) <= min(moments):
        return list(fresh)  # as mostly: put together, and behind what is there
    first: dict[int, float] = {}
    last: dict[int, float] = {}
    for lane, each, at_once in fresh:
        first[lane] = min(first.get(lane, each.due_at), each.due_at)
        if at_once:
            last[lane] = max(last.get(lane, each.due_at), each.due_at)
    for lane, at in put_at.items():
        if first[lane] < at - SKEW_S:
            put_at[lane] = _enlist_ahead(db, lane, first[lane], at)
    apart = {lane for lane, at in last.items() if at - first[lane] > SKEW_S}
    ordered = []
    for one in fresh:
        lane, each, at_once = one
        if (before := put_at.get(lane, each.due_at)) > each.due_at:
            each = msgspec.structs.replace(each, due_at=before)
        if at_once and lane not in apart:
            put_at[lane] = each.due_at
        ordered.append(_Fresh(lane, each, at_once and lane not in apart))
    return ordered


def _put_at(db: _Connection, lanes: Iterable[int]) -> dict[int, float]:
    """The latest moment at which something was put at once, of the lanes in which something was."""
    found = db.execute(
        "SELECT id, put_at FROM lanes WHERE id IN (SELECT value FROM json_each(?)) AND put_at IS NOT NULL",
        (_numbers(lanes),),
    )
    return dict(found.fetchall())


def _enlist_ahead(db: _Connection, lane: int, due_at: float, put_at: float) -> float:
    """Lists what is due between these: something younger is going to be due at `due_at`, which is given back."""
    for action in _waiting_actions(db, lane):
        where = {"lane": lane, "action": action, "due_at": due_at, "put_at": put_at}
        ahead = _numbers(seq for (seq,) in db.execute(AHEAD, where))
        _enlist(db, ahead)
    db.execute("UPDATE lanes SET put_at = ? WHERE id = ?", (due_at, lane))
    return due_at


def _enlist(db: _Connection, seqs: str) -> None:
    """These, as numbers for json_each, are listed from now on, with their true turn."""
    db.execute(ENLIST, (seqs,))


def _write_wait(db: _Connection, seq: int, wait: Wait) -> None:
    db.execute("UPDATE deliveries SET after = ? WHERE seq = ?", (_encode(wait).decode(), seq))


def _turns(db: _Connection, fresh: Sequence[_Fresh], waits: Mapping[int, Wait]) -> list[float]:
    """When each comes to its turn: not before the one before it of its key, and never while it waits."""
    latest: dict[tuple[int, str, str], float] = {}
    for lane, each, _ in fresh:
        if each.key is not None:
            latest.setdefault((lane, each.action, each.key), each.due_at)
    for rows in _by_rows(db, TURNS, [(*where, due_at) for where, due_at in latest.items()]):
        for lane, action, key, turn_at in rows:
            latest[lane, action, key] = turn_at
    turns = []
    for at, (lane, each, _) in enumerate(fresh):
        turn_at = math.inf if at in waits else each.due_at
        if each.key is not None:
            where = (lane, each.action, each.key)
            turn_at = latest[where] = max(turn_at, latest[where])
        turns.append(turn_at)
    return turns


def _count_accepted(db: _Connection, arrivals: Sequence[_Arrival], stored: Sequence[Stored]) -> None:
    """Counters rise, and a lane is due when the first of its deliveries is, whatever its holder thinks."""
    lanes: dict[tuple[str, str], tuple[float | None, float, int, int]] = {}
    for (_, event, put), kept in zip(arrivals, stored, strict=True):
        if not kept.duplicate:
            where, deliveries = (event.connector, event.client), kept.deliveries
            put_at, wake_at, accepted, skipped = lanes.get(where, (None, math.inf, 0, 0))
            if put.due_at <= put.now and (put_at is None or put.now > put_at):
                put_at = put.now
            for each in deliveries:
                if each.due_at < wake_at:
                    wake_at = each.due_at
            none = not deliveries
            lanes[where] = put_at, wake_at, accepted + len(deliveries) + none, skipped + none
    rows = [
        (*lane, put_at, wake_at < math.inf, None if wake_at == math.inf else wake_at, *sums)
        for lane, (put_at, wake_at, *sums) in lanes.items()
    ]
    _write_rows(db, COUNT, rows)


def _by_rows(db: _Connection, sql: str, rows: Sequence[tuple[Any, ...]]) -> Iterator[sqlite3.Cursor]:
    """Run `sql` with as many rows at a time as one statement takes."""
    for at in range(0, len(rows), ROWS):
        some = rows[at : at + ROWS]
        yield db.execute(_with_rows(sql, len(some), len(some[0])), tuple(chain.from_iterable(some)))


def _write_rows(db: _Connection, sql: str, rows: Sequence[tuple[Any, ...]]) -> int:
    """The number of the last row that was inserted; 0 without any."""
    last = 0
    for written in _by_rows(db, sql, rows):
        last = written.lastrowid or 0
    return last


@cache
def _with_rows(sql: str, rows: int, width: int) -> str:
    row = f"({', '.join('?' * width)})"
    return sql.format(rows=f"VALUES {', '.join([row] * rows)}")


def _turn_before(db: _Connection, lane: int, action: str, key: str, seq: int) -> float:
    turn_at: float | None = _value(
        db,
        "SELECT turn_at FROM deliveries INDEXED BY deliveries_listed"
        " WHERE lane = ? AND action = ? AND key = ? AND listed IS NOT NULL AND seq < ? ORDER BY seq DESC LIMIT 1",
        (lane, action, key, seq),
    )
    return -math.inf if turn_at is None else turn_at


def _stir(db: _Connection, lane: int, at: float | None) -> None:
    """Make the lane due at `at` at the latest, whatever its holder thinks when it gives it back."""
    if first_of([at]) is not None:
        db.execute("UPDATE lanes SET stirred = 1, wake_at = min(ifnull(wake_at, ?1), ?1) WHERE id = ?2", (at, lane))


def _sweep(db: _Connection, table: str, now: float, most: int = SWEEP) -> None:
    db.execute(
        f"DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM {table} WHERE until <= ? ORDER BY until LIMIT ?)",
        (now, most),
    )


def _lease(db: _Connection, connector: str, client: str, owner: str, until: float, now: float) -> Lease | None:
    taken = db.execute(
        "UPDATE lanes SET owner = ?, until = ?, fence = fence + 1, stirred = 0"
        " WHERE connector = ? AND client = ? AND (until IS NULL OR until <= ?)",
        (owner, until, connector, client, now),
    )
    if taken.rowcount == 0:
        return None
    lane = _lane_id(db, connector, client)
    assert lane is not None
    return _lease_row(db, lane)


def _lease_row(db: _Connection, lane: int) -> Lease:
    row = db.execute(
        "SELECT connector, client, owner, fence, until, not_before, paused, failures, failing_since"
        " FROM lanes WHERE id = ?",
        (lane,),
    ).fetchone()
    connector, client, owner, fence, until, not_before, paused, failures, failing_since = row
    return Lease(connector, client, owner, fence, until, not_before, bool(paused), failures, failing_since)


def _renew(db: _Connection, lease: Lease, until: float) -> Lease:
    lane = _held_lane(db, lease)
    db.execute("UPDATE lanes SET until = ? WHERE id = ?", (until, lane))
    return _lease_row(db, lane)


def _release(db: _Connection, lease: Lease, wake_at: float | None) -> None:
    try:
        lane = _held_lane(db, lease)
    except LeaseLost:
        return
    times = [wake_at]
    if _value(db, "SELECT stirred FROM lanes WHERE id = ?", (lane,)):
        times.append(_earliest(db, lane))
    db.execute("UPDATE lanes SET owner = NULL, until = NULL, wake_at = ? WHERE id = ?", (first_of(times), lane))


def _reclaim(db: _Connection, gone: Callable[[str], bool]) -> int:
    freed = 0
    for table, free in (
        ("lanes", "UPDATE lanes SET owner = NULL, until = NULL WHERE owner = ?"),
        ("locks", "DELETE FROM locks WHERE owner = ?"),
        ("slots", "DELETE FROM slots WHERE owner = ?"),
    ):
        owners = [owner for (owner,) in db.execute(f"SELECT DISTINCT owner FROM {table} WHERE owner IS NOT NULL")]
        for owner in filter(gone, owners):
            rows = db.execute(free, (owner,)).rowcount
            freed += rows if table == "lanes" else 0
    _wait_no_longer(db, [_Row(*row) for row in db.execute(FORSAKEN)])
    return freed


def _change_lane(db: _Connection, connector: str, client: str, change: LaneChange, now: float) -> None:
    del now
    lane = _lane_made(db, connector, client)  # a pause before the first event holds too
    _apply(db, lane, change)
    _stir(db, lane, _earliest(db, lane))


def _apply(db: _Connection, lane: int, change: LaneChange) -> None:
    fields: dict[str, Any] = {
        "not_before": change.not_before,
        "reason": change.reason,
        "paused": change.pause,
        "failures": change.failures,
        "failing_since": change.failing_since,
    }
    clears = {"reason": "", "failing_since": 0}
    for name, value in fields.items():
        if value is not None:
            db.execute(
                f"UPDATE lanes SET {name} = ? WHERE id = ?", (None if value == clears.get(name) else value, lane)
            )


def _lane(row: tuple[Any, ...]) -> Lane:
    connector, client, paused, waiting, accepted, delivered, rejected, skipped, oldest_at, *trouble = row
    not_before, reason, failures, failing_since = trouble
    state = lane_state(paused=bool(paused), reason=reason, waiting=waiting)
    return Lane(
        connector,
        client,
        state,
        waiting,
        accepted,
        delivered,
        rejected,
        skipped,
        oldest_at,
        not_before,
        reason,
        failures,
        failing_since,
    )


def _waiting_actions(db: _Connection, lane: int | None) -> list[str]:
    return sorted({action for sql in ACTIONS for (action,) in db.execute(sql, {"lane": lane})})


def _next_of_action(db: _Connection, lane: int | None, action: str, *, after: float) -> float | None:
    where = {"lane": lane, "action": action, "after": after}
    return first_of([_value(db, NEXT_TURN, where), _value(db, NEXT_BATCH, where)])


def _earliest(db: _Connection, lane: int) -> float | None:
    actions = _waiting_actions(db, lane)
    for action in actions:
        _look_at_front(db, lane, action)
    return first_of(_next_of_action(db, lane, action, after=-math.inf) for action in actions)


def _look_at_front(db: _Connection, lane: int, action: str) -> None:
    """After this the first of an action has its true turn."""
    limit = 1
    while True:
        front = db.execute(FRONT, {"lane": lane, "action": action, "limit": limit}).fetchall()
        if not front or not front[0][1]:
            return
        _enlist(db, _numbers(seq for seq, late in front if late))
        limit = FRONT_ROWS


def _behind(db: _Connection, lane: int | None, delivery: Delivery) -> bool:
    where = {"lane": lane, "action": delivery.action, "key": delivery.key, "seq": delivery.seq, "limit": LOOK_BACK}
    if _value(db, OLDER, where) is not None:
        return True
    looked, theirs = db.execute(OLDER_AT_ONCE, where).fetchone()
    return bool(theirs) or looked == LOOK_BACK


def _due_batches(db: _Connection, lane: int, action: str, now: float) -> Iterator[tuple[Progress, list[Delivery]]]:
    batches = db.execute(
        "SELECT batch, progress FROM batches WHERE lane = ? AND action = ? ORDER BY rowid", (lane, action)
    ).fetchall()
    for batch, written in batches:
        rows = db.execute(MEMBERS, {"lane": lane, "action": action, "batch": batch})
        deliveries = [Delivery(*row) for row in rows]
        if all(delivery.due_at <= now for delivery in deliveries):
            yield with_parts(_decode_progress(written), _parts(db, lane, batch)), deliveries


# Settling


def _numbers(seqs: Iterable[int]) -> str:
    """For json_each: one value for any number of them."""
    return _encode(list(seqs)).decode()


class _Row(NamedTuple):
    seq: int
    lane: int
    action: str
    key: str | None
    event_id: str
    attempts: int
    batch: str | None
    tries: tuple[Try, ...] | None = None
    listed: int | None = 1


_decode_rows = msgspec.json.Decoder(list[_Row]).decode


def _rows(db: _Connection, seqs: Iterable[int], lane: int | None) -> dict[int, _Row]:
    """The deliveries of these numbers that are still there, of one lane or of all."""
    # As one text: every row that is fetched lets go of the interpreter.
    found = _value(
        db,
        "SELECT json_group_array(json_array(seq, lane, action, key, event_id, attempts, batch, json(tries), listed))"
        " FROM deliveries"
        " WHERE seq IN (SELECT value FROM json_each(?))",
        (_numbers(seqs),),
    )
    return {row.seq: row for row in _decode_rows(found) if lane is None or row.lane == lane}


def _settle(
    db: _Connection, lease: Lease | None, done: Sequence[Settled], now: float, change: LaneChange | None
) -> list[Skipped]:
    lane = None if lease is None else _held_lane(db, lease)
    rows = _rows(db, (settled.seq for settled in done), lane)
    touched = [(row, settled) for settled in done if (row := rows.pop(settled.seq, None)) is not None]
    _enlist_older(db, touched)
    letters = {row.seq: _settle_one(db, row, settled, now) for row, settled in touched}
    _leave(db, [row.seq for row, settled in touched if settled.kind != "later"])
    _count(db, touched)
    _align(db, [row for row, settled in touched if row.listed or settled.kind == "later"])
    skipped = _follow(db, touched, letters)
    _drop_done_batches(db, [(row.lane, row.action, row.batch) for row, _ in touched if row.batch is not None])
    lanes = {row.lane for row, _ in touched} if lane is None else {lane}
    for each in lanes:
        if change is not None:
            _apply(db, each, change)
        if lease is None:
            _stir(db, each, _earliest(db, each))
    return skipped


def _enlist_older(db: _Connection, touched: Sequence[tuple[_Row, Settled]]) -> None:
    """Where one is put off to a moment before that of the last put: an older one of its key may be due after that."""
    first: dict[int, float] = {}
    for row, settled in touched:
        if settled.kind == "later" and row.key is not None:
            first[row.lane] = min(first.get(row.lane, settled.due_at), settled.due_at)
    for lane, put_at in _put_at(db, first).items() if first else ():
        if first[lane] < put_at:
            _enlist_ahead(db, lane, first[lane], put_at)


def _settle_one(db: _Connection, row: _Row, settled: Settled, now: float) -> int | None:
    """The number of the dead letter that it becomes, if it does."""
    match settled.kind:
        case "delivered" | "skipped":
            pass
        case "rejected":
            return _bury(db, row, settled, now)
        case "later":
            # A batch of which nothing was saved could never be gone on with: its deliveries start afresh.
            db.execute(
                "UPDATE deliveries SET due_at = ?1, turn_at = CASE WHEN after IS NULL THEN ?1 ELSE 9e999 END,"
                " listed = CASE WHEN key IS NOT NULL THEN 1 END,"
                " attempts = ?2, tries = ?3,"
                " batch = (SELECT batch FROM batches WHERE lane = ?4 AND action = ?5 AND batch = ?6) WHERE seq = ?7",
                (
                    settled.due_at,
                    settled.attempts,
                    _encode_tries(tried(row.tries or (), now, settled.reason)),
                    *(row.lane, row.action, settled.batch, row.seq),
                ),
            )
        case other:
            raise ValueError(f"a delivery is delivered, skipped, rejected or later, not {other}")
    return None


def _leave(db: _Connection, seqs: Sequence[int]) -> None:
    if seqs:
        db.execute("DELETE FROM deliveries WHERE seq IN (SELECT value FROM json_each(?))", (_numbers(seqs),))


def _bury(db: _Connection, row: _Row, settled: Settled, now: float) -> int | None:
    trace = None if settled.trace is None else _encode(settled.trace)
    attempts = max(settled.attempts, row.attempts)
    buried = db.execute(
        "INSERT INTO dead (lane, action, key, delivery_id, event_id, body, received_at,"
        " at, attempts, reason, code, expected, trace, tries)"
        " SELECT lane, action, key, id, event_id, body, received_at, ?, ?, ?, ?, ?, ?, tries"
        " FROM deliveries WHERE seq = ?",
        (now, attempts, settled.reason, settled.code, settled.expected, trace, row.seq),
    )
    return buried.lastrowid


def _count(db: _Connection, touched: list[tuple[_Row, Settled]]) -> None:
    counts: dict[tuple[int, str], int] = {}
    for row, settled in touched:
        if settled.kind != "later":
            counts[row.lane, settled.kind] = counts.get((row.lane, settled.kind), 0) + 1
    for (lane, kind), number in counts.items():
        db.execute(f"UPDATE lanes SET {kind} = {kind} + ? WHERE id = ?", (number, lane))


def _align(db: _Connection, changed: Iterable[_Row]) -> None:
    """Make turn_at true again for the keys of deliveries that left or have a new due_at."""
    spans: dict[tuple[int, str, str], tuple[int, int]] = {}
    for row in changed:
        if row.key is not None:
            where = (row.lane, row.action, row.key)
            first, last = spans.get(where, (row.seq, row.seq))
            spans[where] = min(first, row.seq), max(last, row.seq)
    firsts = [(*where, first) for where, (first, _) in spans.items()]
    left = [where for some in _by_rows(db, LEFT, firsts) for where in some]
    for lane, action, key in left:
        _align_key(db, lane, action, key, *spans[lane, action, key])


def _align_key(db: _Connection, lane: int, action: str, key: str, first: int, last: int) -> None:
    rows = db.execute(
        f"SELECT seq, {_OWN_TURN}, turn_at FROM deliveries INDEXED BY deliveries_listed"
        " WHERE lane = ? AND action = ? AND key = ? AND listed IS NOT NULL AND seq >= ? ORDER BY seq",
        (lane, action, key, first),
    )
    turn = None
    moved = []
    for seq, due_at, turn_at in rows:
        if turn is None:
            turn = _turn_before(db, lane, action, key, first)
        turn = max(turn, due_at)
        if turn != turn_at:
            moved.append((turn, seq))
        elif seq > last:
            break  # from here on nothing has changed
    rows.close()
    db.executemany("UPDATE deliveries SET turn_at = ? WHERE seq = ?", moved)


def _follow(
    db: _Connection, touched: Sequence[tuple[_Row, Settled]], letters: Mapping[int, int | None]
) -> list[Skipped]:
    """What waited for deliveries that ended waits no longer, or is skipped; `letters`: which became dead letters."""
    ended = {row.seq: row for row, settled in touched if settled.kind != "later"}
    rows, waits = _waiting_for(db, ended.values())
    if not waits:
        return []
    left, skipped = follow({seq: letters[seq] is not None for seq in ended}, waits)
    for seq, wait in left.items():
        if wait.after:
            _write_wait(db, seq, wait)
    for root, those in followers(skipped, waits).items():
        _keep_followers(db, letters[root], those)
    gone = [rows[seq] for seq in skipped]
    _leave(db, list(skipped))
    _count(db, [(row, Settled(row.seq, "skipped")) for row in gone])
    _wait_no_longer(db, [rows[seq] for seq, wait in left.items() if not wait.after], gone)
    whys = [f"{ended[skipped[row.seq]].action} was rejected" for row in gone]
    return [Skipped(row.seq, row.action, why, row.event_id) for row, why in zip(gone, whys, strict=True)]


def _keep_followers(db: _Connection, letter: int | None, those: Mapping[int, Wait]) -> None:
    found = db.execute(
        "SELECT seq, id, action, key FROM deliveries WHERE seq IN (SELECT value FROM json_each(?)) ORDER BY seq",
        (_numbers(those),),
    )
    kept = [_Follower(delivery_id, action, key, those[seq]) for seq, delivery_id, action, key in found]
    db.execute("UPDATE dead SET followers = ? WHERE id = ?", (_encode(kept).decode(), letter))


def _waiting_for(db: _Connection, ended: Iterable[_Row]) -> tuple[dict[int, _Row], dict[int, Wait]]:
    """The deliveries that wait for others of the same events, and for which."""
    rows: dict[int, _Row] = {}
    waits: dict[int, Wait] = {}
    for lane, same in groupby(ended, lambda row: row.lane):
        if _value(
            db, "SELECT 1 FROM deliveries INDEXED BY deliveries_after WHERE lane = ? AND after IS NOT NULL", (lane,)
        ):
            events = list({row.event_id for row in same})
            for *row, after in db.execute(WAITING_FOR, (lane, _encode(events).decode())):
                rows[row[0]], waits[row[0]] = _Row(*row), _decode_wait(after)
    return rows, waits


def _wait_no_longer(db: _Connection, free: Sequence[_Row], gone: Sequence[_Row] = ()) -> None:
    """These come to their turn, and what stood behind them or behind those that are gone; their lanes are due."""
    for row in free:
        db.execute("UPDATE deliveries SET after = NULL, turn_at = due_at WHERE seq = ?", (row.seq,))
    _align(db, [*free, *gone])
    for lane in {row.lane for row in (*free, *gone)}:
        _stir(db, lane, _earliest(db, lane))


def _drop_done_batches(db: _Connection, batches: Iterable[tuple[int, str, str | None]]) -> None:
    for lane, action, batch in set(batches):
        db.execute(
            "DELETE FROM batches WHERE lane = ?1 AND batch = ?3 AND NOT EXISTS (SELECT 1 FROM deliveries"
            " INDEXED BY deliveries_batch WHERE lane = ?1 AND action = ?2 AND batch = ?3 AND batch IS NOT NULL)",
            (lane, action, batch),
        )


def _save_progress(db: _Connection, lease: Lease | None, progress: Progress, seqs: Sequence[int]) -> None:
    lane = None if lease is None else _held_lane(db, lease)
    rows = [row for row in _rows(db, seqs, lane).values() if row.action == progress.action]
    lanes = {row.lane for row in rows} if lane is None else {lane}
    for each in lanes:
        db.execute(
            "INSERT INTO batches VALUES (?, ?, ?, ?)"
            " ON CONFLICT (lane, batch) DO UPDATE SET action = excluded.action, progress = excluded.progress",
            (each, progress.batch, progress.action, _encode(progress)),
        )
    db.execute(
        "UPDATE deliveries SET batch = ? WHERE seq IN (SELECT value FROM json_each(?))",
        (progress.batch, _numbers(row.seq for row in rows)),
    )
    left = [(row.lane, row.action, row.batch) for row in rows if row.batch is not None]
    _drop_done_batches(db, left + [(each, progress.action, progress.batch) for each in lanes])


def _add_progress(db: _Connection, lease: Lease, batch: str, action: str, part: Part) -> bool:
    lane = _held_lane(db, lease)
    added = db.execute(
        "INSERT INTO parts (lane, batch, part)"
        " SELECT lane, batch, ? FROM batches WHERE lane = ? AND batch = ? AND action = ?",
        (_encode(part).decode(), lane, batch, action),
    )
    return added.rowcount == 1


def _parts(db: _Connection, lane: int, batch: str) -> list[Part]:
    found = db.execute("SELECT part FROM parts WHERE lane = ? AND batch = ? ORDER BY number", (lane, batch))
    return [_decode_part(part) for (part,) in found]


# Dead letters, and people


def _which(which: Which) -> tuple[str, list[Any]]:
    """What follows a WHERE, and its values."""
    conditions = {
        "connector": "connector = ?",
        "client": "client = ?",
        "action": "action = ?",
        "reason": "instr(dead.reason, ?)",
        "code": "code = ?",
        "key": "key = ?",
        "event_id": "event_id = ?",
        "since": "at >= ?",
        "until": "at < ?",
    }
    given = {conditions[name]: value for name, value in which.items() if value is not None}
    return "".join(f" AND {condition}" for condition in given), list(given.values())


def _encode_tries(tries: tuple[Try, ...]) -> str | None:
    return _encode(tries).decode() if tries else None


def _dead(row: tuple[Any, ...]) -> Dead:
    expected, trace, tries = row[-3:]
    sent = None if trace is None else _decode_trace(trace)
    return Dead(*(*row[:-3], bool(expected), sent, () if tries is None else _decode_tries(tries)))


def _requeue(db: _Connection, dead_id: int, now: float, due_at: float) -> list[Delivery]:
    row = db.execute(
        "SELECT lane, action, key, delivery_id, event_id, body, received_at, followers, tries, at, reason"
        " FROM dead WHERE id = ?",
        (dead_id,),
    ).fetchone()
    if row is None:
        return []
    lane, action, key, delivery_id, event_id, body, received_at, kept, tries, at, reason = row
    theirs = _decode_followers(kept) if kept is not None else []
    revived = [
        _Fresh(lane, Delivery(0, of, event_id, what, whose, body, received_at, due_at, again_at=now))
        for of, what, whose in [(delivery_id, action, key), *(each[:3] for each in theirs)]
    ]
    history = tried(_decode_tries(tries) if tries is not None else (), at, reason)
    stored = _insert(db, revived, _waits_again(db, [each.wait for each in theirs]), history)
    db.execute("DELETE FROM dead WHERE id = ?", (dead_id,))
    db.execute("UPDATE lanes SET rejected = rejected - 1, skipped = skipped - ? WHERE id = ?", (len(theirs), lane))
    _stir(db, lane, first_of(each.due_at for each in stored))
    return stored


def _waits_again(db: _Connection, kept: Sequence[Wait]) -> dict[int, Wait]:
    """What each waits for, by place, without those that have ended since."""
    others = _numbers(-each for wait in kept for each in wait.after if each < 0)
    there = {
        -seq
        for (seq,) in db.execute("SELECT seq FROM deliveries WHERE seq IN (SELECT value FROM json_each(?))", (others,))
    }
    return {
        place: Wait(frozenset(each for each in wait.after if each >= 0 or each in there), wait.past_rejected)
        for place, wait in enumerate(kept, 1)
    }


def _revive(
    db: _Connection, connector: str, client: str, event_id: str, actions: Collection[str], now: float, due_at: float
) -> list[Delivery]:
    lane = _lane_id(db, connector, client)
    found = db.execute(
        "SELECT id, action FROM dead INDEXED BY dead_event WHERE lane = ? AND event_id = ? ORDER BY id",
        (lane, event_id),
    ).fetchall()
    letters = [dead_id for dead_id, action in found if action in actions]
    return [delivery for dead_id in letters for delivery in _requeue(db, dead_id, now, due_at)]


def _whereabouts(db: _Connection, delivery_ids: Collection[str]) -> dict[str, str]:
    wanted = (_encode(list(delivery_ids)).decode(),)
    waiting = db.execute("SELECT id FROM deliveries WHERE id IN (SELECT value FROM json_each(?))", wanted)
    found = {delivery_id: "waiting" for (delivery_id,) in waiting}
    dead = db.execute("SELECT delivery_id FROM dead WHERE delivery_id IN (SELECT value FROM json_each(?))", wanted)
    return found | {delivery_id: "dead" for (delivery_id,) in dead}


def _admit(db: _Connection, letters: Sequence[Dead]) -> list[bool]:
    here = set(_whereabouts(db, [letter.delivery_id for letter in letters]))
    admitted = []
    for letter in letters:
        admitted.append(letter.delivery_id not in here)
        if letter.delivery_id in here:
            continue
        here.add(letter.delivery_id)
        lane = _lane_made(db, letter.connector, letter.client)
        _insert_dead(db, lane, letter)
        db.execute("UPDATE lanes SET accepted = accepted + 1, rejected = rejected + 1 WHERE id = ?", (lane,))
    return admitted


def _insert_dead(db: _Connection, lane: int, letter: Dead, theirs: Sequence[Follower] = ()) -> None:
    trace = None if letter.trace is None else _encode(letter.trace)
    named = (lane, letter.action, letter.key, letter.delivery_id, letter.event_id, letter.body, letter.received_at)
    said = (letter.at, letter.attempts, letter.reason, letter.code, letter.expected, trace)
    kept = [
        _Follower(each.delivery_id, each.action, each.key, Wait(frozenset(each.after), each.past_rejected))
        for each in theirs
    ]
    db.execute(
        "INSERT INTO dead (lane, action, key, delivery_id, event_id, body, received_at, at, attempts, reason, code,"
        " expected, trace, tries, followers) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*named, *said, _encode_tries(letter.tries), _encode(kept).decode() if kept else None),
    )


class _Found(NamedTuple):
    """Where a person was found; by delivery id too, for a delivery may die or be revived before it is erased."""

    seqs: list[int]
    dead_ids: list[int]
    delivery_ids: set[str]
    named: dict[int, Dead]  # dead letters of others, as they stay
    followed: list[int]
    batches: list[tuple[int, str]]
    limits: list[tuple[str, str]]  # table and name
    lanes: dict[int, str]  # reasons that name them, as they stay
    mentioned: int
    last_seq: int


def _find_person(db: _Connection, person: Subject, client: str | None, *, mentions: bool) -> _Found:
    found = _Found([], [], set(), {}, [], [], [], {}, 0, _value(db, "SELECT ifnull(max(seq), 0) FROM deliveries"))
    lanes = "(SELECT id FROM lanes WHERE ?1 IS NULL OR client = ?1)"
    mentioned = 0

    def theirs(key: str | None, body: bytes) -> bool:
        nonlocal mentioned
        if person.has(key, body):
            return True
        named = not person.by_key and person.named_in(body)
        mentioned += named and not mentions
        return named and mentions

    rows = db.execute(f"SELECT seq, id, key, body FROM deliveries WHERE lane IN {lanes}", (client,))
    for seq, delivery_id, key, body in rows:
        if theirs(key, body):
            found.seqs.append(seq)
            found.delivery_ids.add(delivery_id)
    letters = db.execute(f"{_DEAD.replace('tries', 'tries, followers')} WHERE dead.lane IN {lanes}", (client,))
    for *row, kept in letters:
        letter = _dead(tuple(row))
        followers_ = _decode_followers(kept) if kept is not None else []
        if theirs(letter.key, letter.body):
            found.dead_ids.append(letter.id)
            found.delivery_ids.update([letter.delivery_id, *(each.delivery_id for each in followers_)])
            continue
        if names_in(person, letter):
            found.named[letter.id] = without(person, letter)
        if any(person.has(each.key, b"{}") for each in followers_):
            found.followed.append(letter.id)
    for lane, batch, progress in db.execute(
        f"SELECT lane, batch, progress FROM batches WHERE lane IN {lanes}", (client,)
    ):
        if person.named_in(progress) or any(person.named_in(_encode(part.saved)) for part in _parts(db, lane, batch)):
            found.batches.append((lane, batch))
    for lane, reason in db.execute(
        f"SELECT id, reason FROM lanes WHERE reason IS NOT NULL AND id IN {lanes}", (client,)
    ):
        if person.named_in(reason):
            found.lanes[lane] = person.taken_out(reason)
    for table in ("limits", "slots") if client is None else ():
        names = db.execute(f"SELECT DISTINCT name FROM {table}")
        found.limits.extend((table, name) for (name,) in names if named_by_limit(person, name))
    return found._replace(mentioned=mentioned)


def _forget(db: _Connection, found: _Found, person: Subject, client: str | None, now: float) -> dict[str, int]:
    db.execute("UPDATE forgotten SET times = times + 1")
    revived = db.execute("SELECT seq, id FROM deliveries WHERE seq > ?", (found.last_seq,))
    seqs = found.seqs + [seq for seq, delivery_id in revived if delivery_id in found.delivery_ids]
    rows = _rows(db, seqs, None)
    disbanded = _disband(
        db, {(row.lane, row.batch) for row in rows.values() if row.batch is not None} | set(found.batches)
    )
    events = {(row.lane, row.event_id) for row in rows.values()}
    _settle(db, None, [Settled(seq, "skipped") for seq in rows], now, None)
    dead = 0
    for column, values in (("id", found.dead_ids), ("delivery_id", list(found.delivery_ids))):
        where = f"FROM dead WHERE {column} IN (SELECT value FROM json_each(?))"
        encoded = _encode(values).decode()
        events |= set(db.execute(f"SELECT lane, event_id {where}", (encoded,)))
        dead += db.execute(f"DELETE {where}", (encoded,)).rowcount
    for letter in found.named.values():
        trace = None if letter.trace is None else _encode(letter.trace)
        kept = (trace, letter.reason, _encode_tries(letter.tries), letter.id)
        db.execute("UPDATE dead SET trace = ?, reason = ?, tries = ? WHERE id = ?", kept)
    db.executemany("UPDATE dead SET followers = NULL WHERE id = ?", [(dead_id,) for dead_id in found.followed])
    db.executemany("UPDATE lanes SET reason = ? WHERE id = ?", [(text, lane) for lane, text in found.lanes.items()])
    for table, name in found.limits:
        db.execute(f"DELETE FROM {table} WHERE name = ?", (name,))
    of_lanes = "lane IN (SELECT id FROM lanes WHERE ?2 IS NULL OR client = ?2)"
    dedupe = _forget_seen(db, f"event_id = ?1 COLLATE NOCASE AND {of_lanes}", (person.wanted, client), now)
    dedupe += sum(_forget_seen(db, "lane = ?1 AND event_id = ?2", event, now) for event in events)
    return {
        "waiting": len(rows),
        "dead": dead,
        "dedupe": dedupe,
        "progress": disbanded,
        "traces": len(found.named),
        "limits": len({name for _, name in found.limits}),
        "mentioned": found.mentioned,
    }


def _expire(db: _Connection, dead_before: float | None, now: float, most: int) -> dict[str, int]:
    dead = "DELETE FROM dead WHERE id IN (SELECT id FROM dead WHERE at < ? ORDER BY at LIMIT ?)"
    over = "DELETE FROM dedupe WHERE rowid IN (SELECT rowid FROM dedupe WHERE until <= ? ORDER BY until LIMIT ?)"
    return {
        "dead": 0 if dead_before is None else db.execute(dead, (dead_before, most)).rowcount,
        "dedupe": db.execute(over, (now, most)).rowcount,
    }


def _scrub(db: _Connection) -> bool:
    """The file is written anew without what was deleted, and the log is cut to nothing."""
    db.execute("VACUUM")
    busy, *_ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not busy


def _forget_seen(db: _Connection, where: str, values: tuple[Any, ...], now: float) -> int:
    count = db.execute(f"DELETE FROM dedupe WHERE {where} AND until > ?3", (*values, now)).rowcount
    db.execute(f"DELETE FROM dedupe WHERE {where}", values)  # those that ran out hold nothing back and aren't counted
    return count


def _disband(db: _Connection, batches: Iterable[tuple[int, str | None]]) -> int:
    """What a half-done batch remembers may hold the person too: it goes, and the others in it start afresh."""
    gone = 0
    for lane, batch in batches:
        action = _value(db, "SELECT action FROM batches WHERE lane = ? AND batch = ?", (lane, batch))
        gone += db.execute("DELETE FROM batches WHERE lane = ? AND batch = ?", (lane, batch)).rowcount
        db.execute(
            "UPDATE deliveries SET batch = NULL WHERE lane = ? AND action = ? AND batch = ?", (lane, action, batch)
        )
        _stir(db, lane, _earliest(db, lane))
    return gone


# From store to store


def _write_mark(db: _Connection, name: str, value: str) -> None:
    db.execute("REPLACE INTO marks VALUES (?, ?)", (name, value))


def _whole(row: tuple[Any, ...]) -> Waiting:
    *columns, after, tries = row
    delivery = Delivery(*columns)
    told = () if tries is None else _decode_tries(tries)
    if after is None:
        return Waiting(delivery, told)
    wait = _decode_wait(after)
    return Waiting(delivery, told, tuple(sorted(wait.after)), wait.past_rejected)


def _buried(row: tuple[Any, ...]) -> Buried:
    *columns, kept = row
    theirs = [] if kept is None else _decode_followers(kept)
    return Buried(
        _dead(tuple(columns)),
        tuple(
            Follower(*each[:3], after=tuple(sorted(each.wait.after)), past_rejected=each.wait.past_rejected)
            for each in theirs
        ),
    )


# The table is read in the order of its rows: an index that begins with the lane would be sorted for each page.
# Of a lane with few of them not all other lanes are walked through; of one with many the order would cost more.
FEW_WAIT = "SELECT 1 FROM deliveries INDEXED BY deliveries_oldest WHERE lane = :lane LIMIT :limit + 1"
CARRIED: dict[Any, tuple[str, Callable[[tuple[Any, ...]], Any]]] = {
    Waiting: (
        "SELECT seq, id, event_id, action, key, body, received_at, due_at, attempts, batch, again_at, after, tries"
        " FROM deliveries NOT INDEXED WHERE lane = :lane AND seq > :after ORDER BY seq LIMIT :limit",
        _whole,
    ),
    Buried: (
        f"{_DEAD.replace('tries', 'tries, followers')}"
        " WHERE dead.lane = :lane AND dead.id > :after ORDER BY dead.id LIMIT :limit",
        _buried,
    ),
    Progress: (
        "SELECT progress, (SELECT '[' || ifnull(group_concat(part), '') || ']' FROM (SELECT part FROM parts"
        " WHERE parts.lane = batches.lane AND parts.batch = batches.batch ORDER BY number))"
        " FROM batches WHERE lane = :lane AND batch > :after ORDER BY batch LIMIT :limit",
        lambda row: with_parts(_decode_progress(row[0]), _decode_parts(row[1])),
    ),
    Remembered: (
        "SELECT event_id, until FROM dedupe WHERE lane = :lane AND event_id > :after ORDER BY event_id LIMIT :limit",
        lambda row: Remembered(*row),
    ),
}


def _reserve(db: _Connection, connector: str, client: str, count: int) -> int:
    lane = _lane_made(db, connector, client)
    # What comes under these seqs was put before, and stands behind what is here.
    here = "SELECT json_group_array(seq) FROM deliveries INDEXED BY deliveries_oldest "
    here += " WHERE lane = ? AND listed IS NULL AND key IS NOT NULL"
    _enlist(db, _value(db, here, (lane,)))
    before: int | None = _value(db, "SELECT seq FROM sqlite_sequence WHERE name = 'deliveries'")
    if before is None:
        db.execute("INSERT INTO sqlite_sequence VALUES ('deliveries', ?)", (count,))
        return 0
    db.execute("UPDATE sqlite_sequence SET seq = seq + ? WHERE name = 'deliveries'", (count,))
    return before


def _carry_in(db: _Connection, lane: int, items: Sequence[Carried]) -> None:
    _carry_deliveries(db, lane, [item for item in items if isinstance(item, Waiting)])
    here = set(_whereabouts(db, [item.letter.delivery_id for item in items if isinstance(item, Buried)]))
    for item in items:
        match item:
            case Progress():
                db.execute("REPLACE INTO batches VALUES (?, ?, ?, ?)", (lane, item.batch, item.action, _encode(item)))
            case Remembered():
                db.execute("REPLACE INTO dedupe VALUES (?, ?, ?)", (lane, item.event_id, item.until))
            case Buried() if item.letter.delivery_id not in here:
                _insert_dead(db, lane, item.letter, item.followers)


def _carry_deliveries(db: _Connection, lane: int, items: Sequence[Waiting]) -> None:
    turns = _turns(
        db,
        [_Fresh(lane, item.delivery) for item in items],
        {at: Wait(frozenset(), item.past_rejected) for at, item in enumerate(items) if item.after is not None},
    )
    rows = []
    for item, turn_at in zip(items, turns, strict=True):
        each, wait = item.delivery, None
        if item.after is not None:
            wait = _encode(Wait(frozenset(item.after), item.past_rejected)).decode()
        named = (each.seq, lane, each.action, each.key, each.id, each.event_id, each.body, each.received_at)
        tries = _encode_tries(item.tries)
        listed = None if each.key is None else 1
        rows.append((*named, each.due_at, turn_at, each.attempts, each.batch, each.again_at, wait, tries, listed))
    db.executemany(
        "INSERT OR IGNORE INTO deliveries (seq, lane, action, key, id, event_id, body, received_at, due_at, turn_at,"
        " attempts, batch, again_at, after, tries, listed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        rows,
    )
    last = items[-1].delivery.seq if items else 0
    if items and _value(db, "SELECT 1 FROM deliveries WHERE seq > ? LIMIT 1", (last,)):  # put while others came in
        seen = [_Row(each.seq, lane, each.action, each.key, "", 0, None) for each in (item.delivery for item in items)]
        _align(db, seen)


def _carry_away(db: _Connection, lane: int | None) -> None:
    for table in ("deliveries", "batches", "dead", "dedupe"):
        db.execute(f"DELETE FROM {table} WHERE lane = ?", (lane,))


def _carry_lane(db: _Connection, lane: Lane, mark: str, value: str) -> None:
    there = _lane_made(db, lane.connector, lane.client)
    counters = (lane.accepted, lane.delivered, lane.rejected, lane.skipped)
    trouble = (lane.state == "paused", lane.reason, lane.not_before, lane.failures, lane.failing_since)
    db.execute(
        "UPDATE lanes SET accepted = accepted + ?, delivered = delivered + ?, rejected = rejected + ?,"
        " skipped = skipped + ?, paused = ?, reason = ?, not_before = ?, failures = ?, failing_since = ? WHERE id = ?",
        (*counters, *trouble, there),
    )
    _stir(db, there, _earliest(db, there))
    _write_mark(db, mark, value)


def _faults(db: _Connection) -> Iterator[str]:
    for (said,) in db.execute("PRAGMA quick_check(10)"):
        if said != "ok":
            yield f"the file is damaged: {said}; restore a copy, or bring its lanes into a new store"
    for table in ("deliveries", "batches", "dead", "dedupe"):
        lost_rows = _value(db, f"SELECT count(*) FROM {table} WHERE lane NOT IN (SELECT id FROM lanes)")
        if lost_rows:
            yield f"{lost_rows} rows of {table} belong to no lane: another program has written here; restore a copy"


# Locks, slots, rates


def _lock(db: _Connection, name: str, owner: str, until: float, now: float) -> bool:
    _sweep(db, "locks", now)
    written = db.execute(
        "INSERT INTO locks VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE"
        " SET owner = excluded.owner, until = excluded.until WHERE until <= ? OR owner = excluded.owner",
        (name, owner, until, now),
    )
    return written.rowcount == 1


def _acquire(db: _Connection, name: str, slots: int, owner: str, until: float, now: float) -> bool:
    _sweep(db, "slots", now)
    others = _value(db, "SELECT count(*) FROM slots WHERE name = ? AND owner <> ? AND until > ?", (name, owner, now))
    if others >= slots:
        return False
    db.execute("REPLACE INTO slots VALUES (?, ?, ?)", (name, owner, until))
    return True


def _enter(db: _Connection, uses: Sequence[Use], owner: str, until: float, now: float) -> tuple[int, float] | None:
    slots: list[str] = []
    for at, use in enumerate(uses):
        wait_s = 0.0
        if use.per_s:
            wait_s = _take(db, use.name, use.most, use.per_s, use.at, use.cost)
            fits = wait_s <= 0
        elif fits := _acquire(db, use.name, use.most, owner, until, now):
            slots.append(use.name)
        if not fits:
            db.executemany(FREED, [(name, owner) for name in slots])
            return at, wait_s
    return None


def _take(db: _Connection, name: str, count: int, per_s: float, now: float, cost: int) -> float:
    _sweep(db, "limits", now)
    last = db.execute("SELECT total, at, until FROM limits WHERE name = ? ORDER BY total DESC LIMIT 1", (name,))
    total, last_at, last_until = last.fetchone() or (0, now, None)
    # The use that must have left before this one fits; the log is in order of time, so those before it left earlier.
    leaves = total + cost - count
    first = db.execute(
        "SELECT at, total - cost FROM limits WHERE name = ? AND total >= ? ORDER BY total LIMIT 1", (name, leaves)
    ).fetchone()
    if first is not None and first[1] < leaves and first[0] + per_s > now:
        return wait_until(first[0] + per_s, now)
    at = max(now, last_at)  # clocks of two processes differ; the log must not go back
    if (at, at + per_s) == (last_at, last_until):  # uses of one moment leave together: one row, as for a whole budget
        db.execute(
            "UPDATE limits SET total = total + ?1, cost = cost + ?1 WHERE name = ?2 AND total = ?3", (cost, name, total)
        )
    else:
        db.execute("INSERT INTO limits VALUES (?, ?, ?, ?, ?)", (name, total + cost, at, cost, at + per_s))
    return 0.0
