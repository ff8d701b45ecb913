"""What becomes of deliveries: they leave, stay or die; what stood behind them, or waited for them, has its turn."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from engine.records import Settled, Skipped, Try
from engine.stores.postgres.arrivals import WAIT, encode_tries
from engine.stores.postgres.lanes import HOLD, RAISE_LOW, Sums, apply, columns, locked, must_hold
from engine.stores.rules import Wait, follow, followers, tried

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from engine.records import LaneChange, Lease, Part, Progress
    from engine.stores.postgres.connections import Db

# Deliveries that leave a lane before readers are told to begin further behind.
RAISE_EVERY = 500
PART = 200  # rows of a long key that are looked at in one go

# `younger`: another of its key stands behind it.
_ROW = """
    d.seq, d.lane, d.action, d.key, d.event_id, d.attempts, d.batch, d.tries,
    d.key IS NOT NULL AND (
        SELECT 1 FROM deliveries AS y WHERE y.lane = d.lane AND y.action = d.action AND y.key = d.key AND y.seq > d.seq
        ORDER BY y.seq LIMIT 1) IS NOT NULL
"""
# `lane + 0`: no index of lanes is to be walked, only that of seqs.
ROWS = f"SELECT {_ROW} FROM deliveries AS d WHERE d.seq = ANY(%b::bigint[]) AND d.lane + 0 = ANY(%b::bigint[])"
LANES_OF = "SELECT DISTINCT lane FROM deliveries WHERE seq = ANY(%b::bigint[])"
# Those that wait for others of the events of these deliveries.
WAITING_FOR = f"""
    SELECT {_ROW}, d.waits_for, d.past_rejected FROM (
        SELECT DISTINCT lane, event_id FROM deliveries
        WHERE seq = ANY(%b::bigint[]) AND lane + 0 = ANY(%b::bigint[])) AS ended
    CROSS JOIN LATERAL (
        SELECT * FROM deliveries AS w
        WHERE w.lane = ended.lane AND w.event_id = ended.event_id AND w.waits_for IS NOT NULL OFFSET 0) AS d
"""
FORSAKEN = f"""
    SELECT {_ROW} FROM deliveries AS d
    WHERE d.waits_for IS NOT NULL AND NOT EXISTS (SELECT 1 FROM deliveries AS o WHERE o.seq = ANY(d.waits_for))
"""
LEAVE = "DELETE FROM deliveries WHERE seq = ANY(%b::bigint[])"
# A batch of which nothing was saved could never be gone on with: its deliveries start afresh.
LATER = """
    UPDATE deliveries AS d SET due_at = v.due_at, attempts = v.attempts, tries = v.tries,
        turn_at = CASE WHEN d.waits_for IS NULL THEN v.due_at ELSE 'Infinity' END,
        batch = (SELECT b.batch FROM batches AS b WHERE b.lane = d.lane AND b.batch = v.batch AND b.action = d.action)
    FROM unnest(%b::bigint[], %b::float8[], %b::bigint[], %b::text[], %b::text[])
    AS v (seq, due_at, attempts, tries, batch) WHERE d.seq = v.seq
"""
BURY = """
    INSERT INTO dead (lane, action, key, delivery_id, event_id, body, received_at,
        at, attempts, reason, code, expected, trace, tries)
    SELECT lane, action, coalesce(long_key, key), id, event_id, body, received_at, %b, %b, %b, %b, %b, %b, tries
    FROM deliveries WHERE seq = %b RETURNING id
"""
OF_KEY = """
    SELECT seq, CASE WHEN waits_for IS NULL THEN due_at ELSE 'Infinity' END, turn_at FROM deliveries
    WHERE lane = %b AND action = %b AND key = %b AND key IS NOT NULL AND seq >= %b ORDER BY seq LIMIT %b
"""
TURN_BEFORE = """
    SELECT turn_at FROM deliveries
    WHERE lane = %b AND action = %b AND key = %b AND key IS NOT NULL AND seq < %b ORDER BY seq DESC LIMIT 1
"""
MOVE = """
    UPDATE deliveries SET turn_at = v.turn_at FROM unnest(%b::bigint[], %b::float8[]) AS v (seq, turn_at)
    WHERE deliveries.seq = v.seq
"""
DROP_DONE = """
    DELETE FROM batches AS b USING unnest(%b::bigint[], %b::text[], %b::text[]) AS v (lane, action, batch)
    WHERE b.lane = v.lane AND b.batch = v.batch AND NOT EXISTS (
        SELECT 1 FROM deliveries AS d
        WHERE d.lane = v.lane AND d.action = v.action AND d.batch = v.batch AND d.batch IS NOT NULL)
"""
SAVE = """
    INSERT INTO batches (lane, batch, action, progress)
    SELECT lane, %b, %b, %b FROM unnest(%b::bigint[]) AS v (lane)
    ON CONFLICT (lane, batch) DO UPDATE SET action = excluded.action, progress = excluded.progress
"""
NOT_ADDED = "DELETE FROM parts WHERE batch = %b AND lane = ANY(%b::bigint[])"
ADD = """
    INSERT INTO parts (lane, batch, part)
    SELECT lane, batch, %b FROM batches WHERE lane = %b AND batch = %b AND action = %b RETURNING number
"""

_encode = msgspec.json.Encoder(decimal_format="number").encode
_decode_tries = msgspec.json.Decoder(tuple[Try, ...]).decode


class Row(NamedTuple):
    """A delivery that is there, as far as settling needs to know it."""

    seq: int
    lane: int
    action: str
    key: str | None
    event_id: str
    attempts: int
    batch: str | None
    tries: str | None
    younger: bool


class Follower(NamedTuple):
    """What was skipped for the sake of a dead letter, and waits for it again by place when that is tried again."""

    delivery_id: str
    action: str
    key: str | None
    wait: Wait


class Settler:
    """Settles; it knows how many have left each lane since its readers were told where to begin."""

    def __init__(self, wake: Callable[[Db], None]) -> None:
        self._wake = wake
        self._left: dict[int, int] = {}

    def settle(
        self,
        db: Db,
        lane: int | None,
        lease: Lease | None,
        done: Sequence[Settled],
        now: float,
        change: LaneChange | None,
    ) -> list[Skipped]:
        """`lane`: that of the lease."""
        for settled in done:
            if settled.kind not in ("delivered", "skipped", "rejected", "later"):
                raise ValueError(f"a delivery is delivered, skipped, rejected or later, not {settled.kind}")
        seqs = [settled.seq for settled in done]
        sums, lanes = held(db, lane, lease) if lease is not None else self._lanes_of(db, seqs)
        rows, waiting = rows_of(db, seqs, lanes)
        touched = [(row, settled) for settled in done if (row := rows.pop(settled.seq, None)) is not None]
        skipped = end(db, sums, touched, waiting, now)
        for each in lanes:
            if change is not None:
                apply(db, each, change)
            if lease is None:
                sums.stir_for_all(each)
        if lease is not None and lane is not None:
            self._begin_further(db, lane, sum(settled.kind != "later" for _, settled in touched))
        sums.write()
        if sums.woken:
            self._wake(db)
        return skipped

    def _lanes_of(self, db: Db, seqs: Sequence[int]) -> tuple[Sums, list[int]]:
        lanes = sorted(lane for (lane,) in db.rows(LANES_OF, seqs)) if seqs else []
        return locked(db, lanes), lanes

    def _begin_further(self, db: Db, lane: int, left: int) -> None:
        self._left[lane] = self._left.get(lane, 0) + left
        if self._left[lane] >= RAISE_EVERY:
            self._left[lane] = 0
            db.send(RAISE_LOW, lane, lane)


def held(db: Db, lane: int | None, lease: Lease) -> tuple[Sums, list[int]]:
    """The lane of a lease, locked."""
    row = must_hold(db.row(HOLD, lane, lease.fence, lease.owner), lease)
    return Sums(db, [row]), [row[0]]


def rows_of(
    db: Db, seqs: Sequence[int], lanes: Sequence[int]
) -> tuple[dict[int, Row], tuple[dict[int, Row], dict[int, Wait]]]:
    """The deliveries of these numbers that are still there; and those that wait for them, and for which others."""
    if not seqs or not lanes:
        return {}, ({}, {})
    finding, waiting = db.send(ROWS, seqs, lanes), db.send(WAITING_FOR, seqs, lanes)
    rows: dict[int, Row] = {}
    waits: dict[int, Wait] = {}
    for *row, after, past_rejected in sorted(waiting.fetchall()):
        rows[row[0]], waits[row[0]] = Row(*row), Wait(frozenset(after), past_rejected)
    return {row[0]: Row(*row) for row in finding.fetchall()}, (rows, waits)


def end(
    db: Db,
    sums: Sums,
    touched: Sequence[tuple[Row, Settled]],
    waiting: tuple[dict[int, Row], dict[int, Wait]],
    now: float,
) -> list[Skipped]:
    """Of deliveries in lanes that are locked; who was skipped for the sake of one that was rejected."""
    letters = {row.seq: _bury(db, row, settled, now) for row, settled in touched if settled.kind == "rejected"}
    _keep(db, sums, [(row, settled) for row, settled in touched if settled.kind == "later"], now)
    gone = [row.seq for row, settled in touched if settled.kind != "later"]
    for row, settled in touched:
        if settled.kind != "later":
            sums.count(row.lane, settled.kind)
    if gone:
        db.send(LEAVE, gone)
    align(db, sums, [row for row, settled in touched if row.younger or settled.kind == "later"], set(gone))
    skipped = _follow(db, sums, touched, letters, waiting)
    drop_done(db, [(row.lane, row.action, row.batch) for row, _ in touched if row.batch is not None])
    return skipped


def _bury(db: Db, row: Row, settled: Settled, now: float) -> Callable[[], int]:
    """What tells the number of the dead letter that it becomes."""
    trace = None if settled.trace is None else _encode(settled.trace)
    attempts = max(settled.attempts, row.attempts)
    said = (settled.reason, settled.code, settled.expected, trace)
    cursor = db.send(BURY, now, attempts, *said, row.seq)
    return lambda: int(cursor.fetchall()[0][0])


def _keep(db: Db, sums: Sums, later: Sequence[tuple[Row, Settled]], now: float) -> None:
    if not later:
        return
    values = []
    for row, settled in later:
        before = _decode_tries(row.tries) if row.tries is not None else ()
        tries = encode_tries(tried(before, now, settled.reason))
        values.append((row.seq, float(settled.due_at), settled.attempts, tries, settled.batch))
        sums.lower(row.lane, float(settled.due_at))
    db.send(LATER, *columns(values, 5))


def align(db: Db, sums: Sums, changed: Iterable[Row], gone: set[int]) -> None:
    """Make turn_at true again for the keys of deliveries that left or have a new due_at."""
    spans: dict[tuple[int, str, str], tuple[int, int]] = {}
    for row in changed:
        if row.key is not None and (row.younger or row.seq not in gone):
            where = (row.lane, row.action, row.key)
            first, last = spans.get(where, (row.seq, row.seq))
            spans[where] = min(first, row.seq), max(last, row.seq)
    looking = {where: db.send(OF_KEY, *where, first, PART) for where, (first, _) in spans.items()}
    for where, cursor in looking.items():
        _align_key(db, sums, where, *spans[where], cursor.fetchall())


def _align_key(
    db: Db, sums: Sums, where: tuple[int, str, str], first: int, last: int, rows: list[tuple[Any, ...]]
) -> None:
    turn = None
    while rows:
        if turn is None:
            turn = db.value(TURN_BEFORE, *where, first)
            turn = -math.inf if turn is None else turn
        moved, more = [], len(rows) == PART
        for seq, due_at, turn_at in rows:
            turn = max(turn, due_at)
            if turn != turn_at:
                moved.append((seq, turn))
                sums.lower(where[0], turn)
            elif seq > last:
                more = False  # from here on nothing has changed
                break
        if moved:
            db.send(MOVE, *columns(moved, 2))
        rows = db.rows(OF_KEY, *where, rows[-1][0] + 1, PART) if more else []


def _follow(
    db: Db,
    sums: Sums,
    touched: Sequence[tuple[Row, Settled]],
    letters: Mapping[int, Callable[[], int]],
    waiting: tuple[dict[int, Row], dict[int, Wait]],
) -> list[Skipped]:
    """What waited for deliveries that ended waits no longer, or is skipped."""
    rows, waits = waiting
    if not waits:
        return []
    ended = {row.seq: row for row, settled in touched if settled.kind != "later"}
    waits = {seq: wait for seq, wait in waits.items() if seq not in ended}
    left, skipped = follow({seq: seq in letters for seq in ended}, waits)
    for seq, wait in left.items():
        if wait.after:
            db.send(WAIT, sorted(wait.after), wait.past_rejected, seq)
    for root, those in followers(skipped, waits).items():
        _keep_followers(db, letters[root](), those)
    gone = [rows[seq] for seq in skipped]
    if gone:
        db.send(LEAVE, list(skipped))
    for row in gone:
        sums.count(row.lane, "skipped")
    wait_no_longer(db, sums, [rows[seq] for seq, wait in left.items() if not wait.after], gone)
    whys = [f"{ended[skipped[row.seq]].action} was rejected" for row in gone]
    return [Skipped(row.seq, row.action, why, row.event_id) for row, why in zip(gone, whys, strict=True)]


def _keep_followers(db: Db, letter: int, those: Mapping[int, Wait]) -> None:
    found = db.rows(
        "SELECT seq, id, action, coalesce(long_key, key) FROM deliveries WHERE seq = ANY(%b::bigint[]) ORDER BY seq",
        list(those),
    )
    kept = [Follower(delivery_id, action, key, those[seq]) for seq, delivery_id, action, key in found]
    db.send("UPDATE dead SET followers = %b WHERE id = %b", _encode(kept).decode(), letter)


def wait_no_longer(db: Db, sums: Sums, free: Sequence[Row], gone: Sequence[Row] = ()) -> None:
    """These come to their turn, and what stood behind them or behind those that are gone; their lanes are due."""
    if free:
        db.send(
            "UPDATE deliveries SET waits_for = NULL, turn_at = due_at WHERE seq = ANY(%b::bigint[])",
            [row.seq for row in free],
        )
    align(db, sums, [*free, *gone], {row.seq for row in gone})
    for lane in {row.lane for row in (*free, *gone)}:
        sums.lower(lane, -math.inf)
        sums.stir_for_all(lane)


def drop_done(db: Db, batches: Iterable[tuple[int, str, str | None]]) -> None:
    """The batches of these that nobody is left in."""
    if done := sorted(set(batches), key=str):
        db.send(DROP_DONE, *columns(done, 3))


def save_progress(db: Db, lane: int | None, lease: Lease | None, progress: Progress, seqs: Sequence[int]) -> None:
    if lease is not None:
        _, lanes = held(db, lane, lease)
    else:
        lanes = sorted(each for (each,) in db.rows(LANES_OF, list(seqs))) if seqs else []
        locked(db, lanes)
    found, _ = rows_of(db, list(seqs), lanes)
    rows = [row for row in found.values() if row.action == progress.action]
    if lease is None:
        lanes = sorted({row.lane for row in rows})
    if lanes:
        write_whole(db, progress, lanes)
    if rows:
        db.send(
            "UPDATE deliveries SET batch = %b WHERE seq = ANY(%b::bigint[])",
            progress.batch,
            [row.seq for row in rows],
        )
    left = [(row.lane, row.action, row.batch) for row in rows if row.batch is not None]
    drop_done(db, left + [(each, progress.action, progress.batch) for each in lanes])


def write_whole(db: Db, progress: Progress, lanes: Sequence[int]) -> None:
    db.send(SAVE, progress.batch, progress.action, _encode(progress), lanes)
    db.send(NOT_ADDED, progress.batch, lanes)


def add_progress(db: Db, lane: int | None, lease: Lease, batch: str, action: str, part: Part) -> bool:
    held(db, lane, lease)
    return db.row(ADD, _encode(part).decode(), lane, batch, action) is not None


def reclaim(db: Db, gone: Callable[[str], bool]) -> int:
    """The lanes that were freed."""
    freed = 0
    for table, free in (
        ("lanes", "UPDATE lanes SET owner = NULL, until = NULL WHERE owner = %b"),
        ("locks", "DELETE FROM locks WHERE owner = %b"),
        ("slots", "DELETE FROM slots WHERE owner = %b"),
    ):
        owners = db.rows(f"SELECT DISTINCT owner FROM {table} WHERE owner IS NOT NULL")
        for owner in sorted(owner for (owner,) in owners if gone(owner)):
            rows = db.written(free, owner)
            freed += rows if table == "lanes" else 0
    if lanes := {Row(*row).lane for row in db.rows(FORSAKEN)}:
        sums = locked(db, lanes)
        forsaken = sorted(Row(*row) for row in db.rows(FORSAKEN))
        wait_no_longer(db, sums, [row for row in forsaken if row.lane in lanes])
        sums.write()
    return freed
