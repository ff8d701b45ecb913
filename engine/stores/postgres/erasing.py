"""A person who is to be forgotten, and what is old: found by one look at all there is, then taken out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from engine.records import Settled
from engine.stores.postgres.arrivals import encode_tries
from engine.stores.postgres.lanes import locked
from engine.stores.postgres.letters import COLUMNS, decode_followers, letter_of
from engine.stores.postgres.reading import PROGRESS
from engine.stores.postgres.settling import end, rows_of
from engine.stores.rules import named_by_limit, names_in, without

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from engine.privacy.people import Subject
    from engine.records import Dead
    from engine.stores.postgres.connections import Db, Row

PART = 1000  # rows that are looked at in one go

_LANES = "(SELECT id FROM lanes WHERE %b::text IS NULL OR client = %b)"
DELIVERIES = f"""
    SELECT seq, id, coalesce(long_key, key), body FROM deliveries
    WHERE seq > %b AND lane IN {_LANES} ORDER BY seq LIMIT %b
"""
LETTERS = f"""
    SELECT {COLUMNS}, dead.followers FROM dead JOIN lanes ON lanes.id = dead.lane
    WHERE dead.id > %b AND dead.lane IN {_LANES} ORDER BY dead.id LIMIT %b
"""
_SEEN = "DELETE FROM dedupe WHERE {} AND (until > %b) = %b"
SEEN_BY_ID = _SEEN.format(f'(event_id = %b OR lower(event_id COLLATE "default") = %b) AND lane IN {_LANES}')
SEEN_BY_EVENT = _SEEN.format("(lane, event_id) IN (SELECT * FROM unnest(%b::bigint[], %b::text[]))")
OLD_LETTERS = """
    DELETE FROM dead WHERE id IN (SELECT id FROM dead WHERE at < %b ORDER BY at LIMIT %b FOR UPDATE SKIP LOCKED)
"""
OLD_IDS = """
    DELETE FROM dedupe WHERE (lane, event_id) IN (
        SELECT lane, event_id FROM dedupe WHERE until <= %b ORDER BY until LIMIT %b FOR UPDATE SKIP LOCKED)
"""

_encode = msgspec.json.Encoder(decimal_format="number").encode


class Found(NamedTuple):
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


def find(db: Db, person: Subject, client: str | None, *, mentions: bool) -> Found:
    """In a snapshot, for that may take seconds; only what was found is written."""
    db.send("SET LOCAL statement_timeout = 0")
    last = db.value("SELECT coalesce(max(seq), 0) FROM deliveries")
    found = Found([], [], set(), {}, [], [], [], {}, 0, last)
    mentioned = 0

    def theirs(key: str | None, body: bytes) -> bool:
        nonlocal mentioned
        if person.has(key, body):
            return True
        named = not person.by_key and person.named_in(body)
        mentioned += named and not mentions
        return named and mentions

    for seq, delivery_id, key, body in _all(db, DELIVERIES, client):
        if theirs(key, body):
            found.seqs.append(seq)
            found.delivery_ids.add(delivery_id)
    for *row, kept in _all(db, LETTERS, client):
        letter = letter_of(tuple(row))
        followers = decode_followers(kept) if kept is not None else []
        if theirs(letter.key, letter.body):
            found.dead_ids.append(letter.id)
            found.delivery_ids.update([letter.delivery_id, *(each.delivery_id for each in followers)])
            continue
        if names_in(person, letter):
            found.named[letter.id] = without(person, letter)
        if any(person.has(each.key, b"{}") for each in followers):
            found.followed.append(letter.id)
    for lane, batch, *progress in db.rows(
        f"SELECT b.lane, b.batch, {PROGRESS} FROM batches AS b WHERE b.lane IN {_LANES}", client, client
    ):
        if any(map(person.named_in, progress)):
            found.batches.append((lane, batch))
    for lane, reason in db.rows(
        f"SELECT id, reason FROM lanes WHERE reason IS NOT NULL AND id IN {_LANES}", client, client
    ):
        if person.named_in(reason):
            found.lanes[lane] = person.taken_out(reason)
    for table in ("limits", "uses", "slots") if client is None else ():
        names = db.rows(f"SELECT DISTINCT name FROM {table}")
        found.limits.extend((table, name) for (name,) in names if named_by_limit(person, name))
    return found._replace(mentioned=mentioned)


def _all(db: Db, sql: str, client: str | None) -> Iterator[Row]:
    """Every row, a part at a time, by its number."""
    after, rows = -1, db.rows(sql, -1, client, client, PART)
    while rows:
        yield from rows
        after = rows[-1][0]
        rows = db.rows(sql, after, client, client, PART) if len(rows) == PART else []


def forget(db: Db, found: Found, person: Subject, client: str | None, now: float) -> dict[str, int]:
    db.send("SET LOCAL statement_timeout = 0")
    db.send("UPDATE forgotten SET times = times + 1")
    lanes = [lane for (lane,) in db.rows(f"SELECT id FROM lanes WHERE id IN {_LANES}", client, client)]
    sums = locked(db, lanes)
    revived = db.rows("SELECT seq, id FROM deliveries WHERE seq > %b", found.last_seq)
    seqs = found.seqs + [seq for seq, delivery_id in revived if delivery_id in found.delivery_ids]
    rows, waiting = rows_of(db, seqs, lanes)
    batches = {(row.lane, row.batch) for row in rows.values() if row.batch is not None} | set(found.batches)
    disbanded = _disband(db, batches)
    events = {(row.lane, row.event_id) for row in rows.values()}
    alone = [(row._replace(batch=None), Settled(row.seq, "skipped")) for row in rows.values()]
    end(db, sums, alone, waiting, now)
    for lane in {lane for lane, _ in batches}:
        sums.lower(lane, -math.inf)
        sums.stir_for_all(lane)
    for lane in {row.lane for row in rows.values()}:
        sums.stir_for_all(lane)
    sums.write()
    dead = 0
    for column, kind, values in (
        ("id", "bigint", found.dead_ids),
        ("delivery_id", "text", sorted(found.delivery_ids)),
    ):
        if values:
            gone = db.rows(f"DELETE FROM dead WHERE {column} = ANY(%b::{kind}[]) RETURNING lane, event_id", values)
            events |= {(lane, event_id) for lane, event_id in gone}
            dead += len(gone)
    for letter in found.named.values():
        trace = None if letter.trace is None else _encode(letter.trace)
        kept = (trace, letter.reason, encode_tries(letter.tries), letter.id)
        db.send("UPDATE dead SET trace = %b, reason = %b, tries = %b WHERE id = %b", *kept)
    if found.followed:
        db.send("UPDATE dead SET followers = NULL WHERE id = ANY(%b::bigint[])", found.followed)
    for lane, text in found.lanes.items():
        db.send("UPDATE lanes SET reason = %b WHERE id = %b", text, lane)
    for table, name in found.limits:
        db.send(f"DELETE FROM {table} WHERE name = %b", name)
    return {
        "waiting": len(rows),
        "dead": dead,
        "dedupe": _forget_seen(db, person, client, events, now),
        "progress": disbanded,
        "traces": len(found.named),
        "limits": len({name for _, name in found.limits}),
        "mentioned": found.mentioned,
    }


def _forget_seen(db: Db, person: Subject, client: str | None, events: Collection[tuple[int, str]], now: float) -> int:
    """Those that ran out go too, but hold nothing back and aren't counted."""
    by_id: list[Any] = [person.wanted, person.wanted, client, client]
    wanted = [(SEEN_BY_ID, by_id)]
    if events:
        ordered = sorted(events)
        wanted.append((SEEN_BY_EVENT, [[lane for lane, _ in ordered], [event_id for _, event_id in ordered]]))
    counted = 0
    for sql, values in wanted:
        counted += db.written(sql, *values, now, True)
        db.send(sql, *values, now, False)
    return counted


def _disband(db: Db, batches: Iterable[tuple[int, str | None]]) -> int:
    """What a half-done batch remembers may hold the person too: it goes, and the others in it start afresh."""
    gone = 0
    for lane, batch in batches:
        action = db.value("DELETE FROM batches WHERE lane = %b AND batch = %b RETURNING action", lane, batch)
        if action is not None:
            gone += 1
            db.send(
                "UPDATE deliveries SET batch = NULL WHERE lane = %b AND action = %b AND batch = %b", lane, action, batch
            )
    return gone


def expire(db: Db, dead_before: float | None, now: float, most: int) -> dict[str, int]:
    return {
        "dead": 0 if dead_before is None else db.written(OLD_LETTERS, dead_before, most),
        "dedupe": db.written(OLD_IDS, now, most),
    }
