"""What a lane holds, read without a lock: what is ready, what is half done, and when there will be more."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec

from engine.records import Delivery, Part, Progress
from engine.stores.postgres.lanes import HELD, must_hold
from engine.stores.rules import first_of, with_parts

if TYPE_CHECKING:
    from engine.records import Lease
    from engine.stores.postgres.connections import Db

_READABLE = """
    FROM deliveries AS d
    WHERE d.lane = %b AND d.action = %b AND d.batch IS NULL AND d.turn_at <= %b
    AND d.turn_at >= (SELECT low_at FROM lanes WHERE id = %b)
    AND (d.key IS NULL OR NOT EXISTS (
        SELECT 1 FROM deliveries AS b
        WHERE b.lane = d.lane AND b.action = d.action AND b.key = d.key AND b.batch IS NOT NULL AND b.seq < d.seq))
    ORDER BY d.turn_at, d.seq LIMIT %b
"""
READ = f"""
    SELECT d.seq, d.id, d.event_id, d.action, coalesce(d.long_key, d.key), d.body, d.received_at, d.turn_at,
           d.attempts, d.batch, d.again_at
    {_READABLE}
"""
BACKLOG = f"SELECT count(*), min(received_at) FROM (SELECT d.received_at {_READABLE}) AS ready"
NEXT_TURN = """
    SELECT turn_at FROM deliveries
    WHERE lane = %b AND action = %b AND batch IS NULL AND turn_at > %b ORDER BY turn_at, seq LIMIT 1
"""
NEXT_BATCH = """
    SELECT min(due_at) FROM (
        SELECT max(due_at) AS due_at FROM deliveries
        WHERE lane = %b AND action = %b AND batch IS NOT NULL GROUP BY batch) AS batches
    WHERE due_at > %b
"""
# One step for each action; DISTINCT would walk every delivery of the lane.
ACTIONS = """
    SELECT a.action FROM actions AS a JOIN lanes AS l ON l.id = a.lane
    WHERE a.lane = %b AND (
        (SELECT 1 FROM deliveries AS d
         WHERE d.lane = a.lane AND d.action = a.action AND d.batch IS NULL AND d.turn_at >= l.low_at
         ORDER BY d.turn_at, d.seq LIMIT 1) IS NOT NULL
        OR (SELECT 1 FROM deliveries AS d
            WHERE d.lane = a.lane AND d.action = a.action AND d.batch IS NOT NULL
            ORDER BY d.batch, d.seq LIMIT 1) IS NOT NULL)
    ORDER BY a.action
"""
_PARTS = """
    (SELECT '[' || coalesce(string_agg(p.part, ',' ORDER BY p.number), '') || ']'
     FROM parts AS p WHERE p.lane = b.lane AND p.batch = b.batch)
"""
PROGRESS = f"b.progress, {_PARTS}"
BATCHES = f"SELECT b.number, b.batch, {PROGRESS} FROM batches AS b WHERE b.lane = %b AND b.action = %b"
MEMBERS = """
    SELECT seq, id, event_id, action, coalesce(long_key, key), body, received_at, due_at, attempts, batch, again_at
    FROM deliveries WHERE lane = %b AND action = %b AND batch IS NOT NULL ORDER BY batch, seq
"""
BEHIND = """
    SELECT 1 FROM deliveries
    WHERE lane = %b AND action = %b AND key = %b AND key IS NOT NULL AND seq < %b ORDER BY seq LIMIT 1
"""

_decode_progress = msgspec.json.Decoder(Progress, float_hook=Decimal).decode
_decode_parts = msgspec.json.Decoder(list[Part], float_hook=Decimal).decode


def read(db: Db, lane: int | None, lease: Lease, action: str, *, limit: int, now: float) -> list[Delivery]:
    holding = db.send(HELD, *_holder(lease))
    rows = db.rows(READ, lane, action, now, lane, limit)
    must_hold(holding.fetchone(), lease)
    return [Delivery(*row) for row in rows]


def backlog(db: Db, lane: int | None, action: str, *, now: float, cap: int) -> tuple[int, float | None, float | None]:
    counting = db.send(BACKLOG, lane, action, now, lane, cap)
    nexts = db.send(NEXT_TURN, lane, action, now), db.send(NEXT_BATCH, lane, action, now)
    times = [row[0] for cursor in nexts for row in cursor.fetchall()]
    [(count, oldest_at)] = counting.fetchall()
    return count, oldest_at, first_of(times)


def progress(
    db: Db, lane: int | None, lease: Lease, action: str, *, now: float
) -> list[tuple[Progress, list[Delivery]]]:
    holding = db.send(HELD, *_holder(lease))
    finding, members = db.send(BATCHES, lane, action), db.send(MEMBERS, lane, action)
    theirs: dict[str | None, list[Delivery]] = {}
    for row in members.fetchall():
        delivery = Delivery(*row)
        theirs.setdefault(delivery.batch, []).append(delivery)
    must_hold(holding.fetchone(), lease)
    return [
        (progress_of(saved, parts), theirs[batch])
        for _, batch, saved, parts in sorted(finding.fetchall())
        if batch in theirs and all(delivery.due_at <= now for delivery in theirs[batch])
    ]


def progress_of(saved: bytes, parts: str) -> Progress:
    """What was written whole, with what was added to it since."""
    return with_parts(_decode_progress(saved), _decode_parts(parts))


def _holder(lease: Lease) -> tuple[str, str, int, str]:
    return lease.connector, lease.client, lease.fence, lease.owner
