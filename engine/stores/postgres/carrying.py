"""A lane out of the database and into it, as it stands: with its seqs, and counted by nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from engine.records import Buried, Delivery, Follower, Progress, Remembered, Try, Waiting
from engine.stores.postgres import settling
from engine.stores.postgres.arrivals import REMEMBER, Insert, encode_tries, indexed, turns_of
from engine.stores.postgres.lanes import columns, locked
from engine.stores.postgres.letters import COLUMNS, DEAD, decode_followers, insert, letter_of, whereabouts
from engine.stores.postgres.reading import PROGRESS, progress_of
from engine.stores.rules import Wait

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.records import Carried, Lane
    from engine.stores.postgres.connections import Db
    from engine.stores.postgres.connections import Row as DbRow
    from engine.stores.postgres.lanes import Numbers

HELD = """
    SELECT (SELECT count(*) FROM deliveries WHERE lane = %b), (SELECT count(*) FROM batches WHERE lane = %b),
           (SELECT count(*) FROM dead WHERE lane = %b), (SELECT count(*) FROM dedupe WHERE lane = %b AND until > %b),
           (SELECT coalesce(max(seq), 0) FROM deliveries WHERE lane = %b)
"""
MARK = "SELECT value FROM marks WHERE name = %b"
WRITE_MARK = """
    INSERT INTO marks (name, value) VALUES (%b, %b) ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""
TOKENS = "SELECT connector, client, name FROM tokens ORDER BY 1, 2, 3"
FORGOTTEN = "UPDATE forgotten SET times = greatest(times, %b)"
INSERT = """
    INSERT INTO deliveries (
        lane, seq, action, key, long_key, id, event_id, body, received_at, due_at, turn_at, attempts, batch,
        waits_for, past_rejected, again_at, tries)
    SELECT %b, seq, action, key, long_key, id, event_id, body, received_at, due_at, turn_at, attempts, batch,
        waits_for::bigint[], past_rejected, again_at, tries
    FROM unnest(
        %b::bigint[], %b::text[], %b::text[], %b::text[], %b::text[], %b::text[], %b::bytea[], %b::float8[],
        %b::float8[], %b::float8[], %b::bigint[], %b::text[], %b::text[], %b::boolean[], %b::float8[], %b::text[])
    AS v (seq, action, key, long_key, id, event_id, body, received_at, due_at, turn_at, attempts, batch, waits_for,
        past_rejected, again_at, tries)
    ON CONFLICT (seq) DO NOTHING
"""
LAST = "SELECT seq FROM deliveries ORDER BY seq DESC LIMIT 1"
STATE = """
    UPDATE lanes SET accepted = accepted + %b, delivered = delivered + %b, rejected = rejected + %b,
        skipped = skipped + %b, paused = %b, reason = %b, not_before = %b, failures = %b, failing_since = %b
    WHERE id = %b
"""
OF_LANES = ("deliveries", "batches", "dead", "dedupe")

_encode = msgspec.json.Encoder(decimal_format="number").encode
_decode_tries = msgspec.json.Decoder(tuple[Try, ...]).decode


def _waiting(row: DbRow) -> Waiting:
    *delivery, after, past_rejected, tries = row
    told = () if tries is None else _decode_tries(tries)
    return Waiting(Delivery(*delivery), told, None if after is None else tuple(sorted(after)), past_rejected)


def _buried(row: DbRow) -> Buried:
    *letter, kept = row
    theirs = [] if kept is None else decode_followers(kept)
    return Buried(
        letter_of(tuple(letter)),
        tuple(Follower(*each[:3], tuple(sorted(each.wait.after)), each.wait.past_rejected) for each in theirs),
    )


OUT: dict[Any, tuple[str, Callable[[DbRow], Any]]] = {
    Waiting: (
        "SELECT seq, id, event_id, action, coalesce(long_key, key), body, received_at, due_at, attempts, batch,"
        " again_at, waits_for, past_rejected, tries"
        " FROM deliveries WHERE lane = %b AND seq > %b ORDER BY seq LIMIT %b",
        _waiting,
    ),
    Buried: (
        f"{DEAD.replace(COLUMNS, f'{COLUMNS}, dead.followers')}"
        " WHERE dead.lane = %b AND dead.id > %b ORDER BY dead.id LIMIT %b",
        _buried,
    ),
    Progress: (
        f"SELECT {PROGRESS} FROM batches AS b WHERE b.lane = %b AND b.batch > %b ORDER BY b.batch LIMIT %b",
        lambda row: progress_of(*row),
    ),
    Remembered: (
        "SELECT event_id, until FROM dedupe WHERE lane = %b AND event_id > %b ORDER BY event_id LIMIT %b",
        lambda row: Remembered(*row),
    ),
}


def out(db: Db, lane: int | None, kind: Any, after: Any, limit: int) -> list[Any]:
    sql, whole = OUT[kind]
    return [whole(row) for row in db.rows(sql, lane, after, limit)]


def reserve(db: Db, count: int) -> int:
    """Nobody else draws from a sequence whose step is another until this is committed."""
    if count < 1:
        return 0
    db.send("SELECT nextval('deliveries_seq')")  # the first number of a new one is not a step from anything
    db.send(f"ALTER SEQUENCE deliveries_seq INCREMENT BY {count}")
    last: int = db.value("SELECT nextval('deliveries_seq')")
    db.send("ALTER SEQUENCE deliveries_seq INCREMENT BY 1")
    return last - count


def carry_in(db: Db, numbers: Numbers, lane: int, items: Sequence[Carried]) -> None:
    sums = locked(db, [lane])
    if waiting := [item for item in items if isinstance(item, Waiting)]:
        fresh = [(lane, item.delivery) for item in waiting]
        waits = {
            at: Wait(frozenset(), past_rejected=False) for at, item in enumerate(waiting) if item.after is not None
        }
        turns = Insert(numbers, sums, turns_of(db, fresh)).in_turn(fresh, waits)
        numbers.seen(db, {(lane, each.action) for _, each in fresh})
        rows = [_row(item, turn_at) for item, turn_at in zip(waiting, turns, strict=True)]
        db.send(INSERT, lane, *columns(rows, 16))
        sums.lower(lane, min(turns))
        if db.value(LAST) > waiting[-1].delivery.seq:  # put while others came in
            behind = [
                settling.Row(each.seq, lane, each.action, indexed(each.key), "", 0, None, None, younger=True)
                for _, each in fresh
            ]
            settling.align(db, sums, behind, set())
    for item in items:
        if isinstance(item, Progress):
            settling.write_whole(db, item, [lane])
    if ids := [(lane, item.event_id, float(item.until)) for item in items if isinstance(item, Remembered)]:
        db.send(REMEMBER, *columns(ids, 3))
    letters = [item for item in items if isinstance(item, Buried)]
    here = whereabouts(db, [item.letter.delivery_id for item in letters]) if letters else {}
    for item in letters:
        if item.letter.delivery_id not in here:
            kept = [settling.Follower(*named(each)) for each in item.followers]
            insert(db, lane, item.letter, _encode(kept).decode() if kept else None)
    sums.write()


def named(each: Follower) -> tuple[str, str, str | None, Wait]:
    return each.delivery_id, each.action, each.key, Wait(frozenset(each.after), each.past_rejected)


def _row(item: Waiting, turn_at: float) -> tuple[Any, ...]:
    each, key = item.delivery, indexed(item.delivery.key)
    after = None if item.after is None else f"{{{','.join(map(str, item.after))}}}"
    return (
        *(each.seq, each.action, key, each.key if each.key != key else None, each.id, each.event_id, each.body),
        *(float(each.received_at), float(each.due_at), turn_at, each.attempts, each.batch, after),
        *(item.past_rejected, each.again_at, encode_tries(item.tries)),
    )


def carry_lane(db: Db, there: int, lane: Lane) -> None:
    sums = locked(db, [there])
    counters = (lane.accepted, lane.delivered, lane.rejected, lane.skipped)
    trouble = (lane.state == "paused", lane.reason, float(lane.not_before), lane.failures, lane.failing_since)
    db.send(STATE, *counters, *trouble, there)
    sums.stir_for_all(there)
    sums.write()


def faults(db: Db) -> list[str]:
    strays = [
        (table, db.send(f"SELECT count(*) FROM {table} AS t WHERE NOT EXISTS (SELECT 1 FROM lanes WHERE id = t.lane)"))
        for table in OF_LANES
    ]
    return [
        f"{count} rows of {table} belong to no lane: another program has written here; restore a copy"
        for table, cursor in strays
        for (count,) in cursor.fetchall()
        if count
    ]
