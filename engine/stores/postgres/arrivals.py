"""Events and the deliveries they cause, into the tables: many puts in a handful of statements and two ways there."""

from __future__ import annotations

import math
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from engine.records import Delivery, Stored, Try
from engine.stores.postgres.lanes import LOCK, Numbers, Sums, all_of, columns
from engine.stores.rules import Wait, waits_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from engine.records import Accepted
    from engine.stores.postgres.connections import Db, Row

SWEEP = 100  # expired rows cleaned in passing
LONG_KEY = 400  # characters
SWEEP_EVERY = 16  # remembered event ids between two such cleanings

SEEN = """
    SELECT d.lane, d.event_id, d.until FROM unnest(%b::bigint[], %b::text[]) AS asked (lane, event_id)
    JOIN dedupe AS d ON d.lane = asked.lane AND d.event_id = asked.event_id
"""
REMEMBER = """
    INSERT INTO dedupe SELECT * FROM unnest(%b::bigint[], %b::text[], %b::float8[])
    ON CONFLICT (lane, event_id) DO UPDATE SET until = excluded.until
"""
# Only of keys that hold their next one back: mostly of none.
TURNS = """
    SELECT asked.lane, asked.action, asked.key, last.turn_at
    FROM unnest(%b::bigint[], %b::text[], %b::text[], %b::float8[]) AS asked (lane, action, key, due_at)
    CROSS JOIN LATERAL (
        SELECT d.turn_at FROM deliveries AS d
        WHERE d.lane = asked.lane AND d.action = asked.action AND d.key = asked.key
        ORDER BY d.seq DESC LIMIT 1) AS last
    WHERE last.turn_at > asked.due_at
"""
# A seq is drawn for row after row, in the order of the arrays.
INSERT = """
    INSERT INTO deliveries (
        lane, action, key, long_key, id, event_id, body, received_at, due_at, turn_at, attempts, again_at, tries)
    SELECT lane, action, key, long_key, id, event_id, body, received_at, due_at, turn_at, 0, again_at, tries
    FROM unnest(
        %b::bigint[], %b::text[], %b::text[], %b::text[], %b::text[], %b::text[], %b::bytea[], %b::float8[],
        %b::float8[], %b::float8[], %b::float8[], %b::text[])
    AS v (lane, action, key, long_key, id, event_id, body, received_at, due_at, turn_at, again_at, tries)
    RETURNING seq
"""
WAIT = """
    UPDATE deliveries SET waits_for = %b::bigint[], past_rejected = %b WHERE seq = %b
"""
# What another transaction holds at this moment is left to a later one.
SWEEP_SEEN = """
    DELETE FROM dedupe WHERE (lane, event_id) IN (
        SELECT lane, event_id FROM dedupe WHERE until <= %b ORDER BY until LIMIT %b FOR UPDATE SKIP LOCKED)
"""

_encode = msgspec.json.Encoder(decimal_format="number").encode
Waits = dict[int, Wait]  # by place in a list of drafts; below 0 in it: the negated seq of one that is stored


def indexed(key: str | None) -> str | None:
    """A key as it stands in an index, which takes no text of several kilobytes: its beginning and a digest."""
    if key is None or len(key) <= LONG_KEY:
        return key
    return f"{key[:LONG_KEY]}-{sha256(key.encode()).hexdigest()}"


class Put(NamedTuple):
    """Work that is done as one with the puts before and behind it."""

    events: Sequence[Accepted]
    now: float
    due_at: float
    new_id: Callable[[], str]


class _Arrival(NamedTuple):
    lane: int
    event: Accepted
    put: Put


class Accepter:
    """Takes puts in; the numbers it has learned stay with it."""

    def __init__(self, numbers: Numbers, wake: Callable[[Db], None]) -> None:
        self._numbers, self._wake = numbers, wake
        self._unswept = 0

    def accept(self, db: Db, puts: Sequence[Put]) -> list[list[Stored]]:
        """All of them in one transaction, committed when this returns."""
        names = {(event.connector, event.client) for put in puts for event in put.events}
        lanes = self._numbers.made(db, names)
        arrivals = [_Arrival(lanes[event.connector, event.client], event, put) for put in puts for event in put.events]
        # From here on nobody else puts or settles in these lanes: a seq is later than those that are there.
        waking = db.send(LOCK, sorted(lanes.values()))
        keyed = _keys(arrivals)
        asking = db.send(TURNS, *columns([(*where, due_at) for where, due_at in keyed.items()], 4)) if keyed else None
        asked = [(lane, event.event_id) for lane, event, _ in arrivals if event.dedupe_s > 0]
        until = {(lane, event_id): end for lane, event_id, end in db.rows(SEEN, *columns(asked, 2))} if asked else {}
        fresh, remembered = _first_times(arrivals, until)
        sums = all_of(db, sorted(lanes.values()), waking.fetchall())
        insert = Insert(self._numbers, sums, {} if asking is None else {row[:3]: row[3] for row in asking.fetchall()})
        drafted, waits = _drafted(arrivals, fresh)
        rows = insert.send(db, drafted, waits)
        _count_accepted(sums, arrivals, fresh)
        if remembered:
            db.send(REMEMBER, *columns([(*where, end) for where, end in remembered.items()], 3))
            self._sweep(db, len(remembered), min(put.now for put in puts))
        sums.write()
        if sums.woken:
            self._wake(db)
        db.commit()
        deliveries = iter(rows())
        answers = iter(
            [
                Stored(event.event_id, not first, tuple(next(deliveries) for _ in event.drafts) if first else ())
                for (_, event, _), first in zip(arrivals, fresh, strict=True)
            ]
        )
        return [[next(answers) for _ in put.events] for put in puts]

    def _sweep(self, db: Db, new: int, now: float) -> None:
        times, self._unswept = divmod(self._unswept + new, SWEEP_EVERY)
        if times:
            db.send(SWEEP_SEEN, now, SWEEP * times)


class Insert:
    """Deliveries on their way into lanes that are locked; `latest`: the turn of the last of a key, where it is late."""

    def __init__(self, numbers: Numbers, sums: Sums, latest: dict[Row, float]) -> None:
        self._numbers, self._sums, self._latest = numbers, sums, latest
        self.turns: list[float] = []

    def send(
        self, db: Db, fresh: Sequence[tuple[int, Delivery]], waits: Mapping[int, Wait], tries: tuple[Try, ...] = ()
    ) -> Callable[[], list[Delivery]]:
        """What gives them as stored, once they are: with their seqs, and due when their turn comes."""
        self.turns = self.in_turn(fresh, waits)
        if not fresh:
            return list
        for (lane, _), turn_at in zip(fresh, self.turns, strict=True):
            self._sums.lower(lane, turn_at)
            self._sums.stir(lane, turn_at)
        self._numbers.seen(db, {(lane, each.action) for lane, each in fresh})
        kept = [encode_tries(tries)] + [None] * (len(fresh) - 1)
        deliveries = [each for _, each in fresh]
        keys = [indexed(each.key) for each in deliveries]
        cursor = db.send(
            INSERT,
            [lane for lane, _ in fresh],
            [each.action for each in deliveries],
            keys,
            [each.key if each.key != key else None for each, key in zip(deliveries, keys, strict=True)],
            [each.id for each in deliveries],
            [each.event_id for each in deliveries],
            [each.body for each in deliveries],
            [float(each.received_at) for each in deliveries],
            [float(each.due_at) for each in deliveries],
            self.turns,
            [each.again_at for each in deliveries],
            kept,
        )
        if waits:
            seqs = [seq for (seq,) in cursor.fetchall()]
            for at, wait in waits.items():
                after = sorted(seqs[each] if each >= 0 else -each for each in wait.after)
                db.send(WAIT, after, wait.past_rejected, seqs[at])
            return lambda: self._stored(seqs, deliveries)
        return lambda: self._stored([seq for (seq,) in cursor.fetchall()], deliveries)

    def _stored(self, seqs: Sequence[int], deliveries: Sequence[Delivery]) -> list[Delivery]:
        return [
            Delivery(
                *(seq, each.id, each.event_id, each.action, each.key, each.body, each.received_at, turn_at),
                again_at=each.again_at,
            )
            for seq, each, turn_at in zip(seqs, deliveries, self.turns, strict=True)
        ]

    def in_turn(self, fresh: Sequence[tuple[int, Delivery]], waits: Mapping[int, Wait]) -> list[float]:
        """When each comes to its turn: not before the one before it of its key, and never while it waits."""
        turns = []
        for at, (lane, each) in enumerate(fresh):
            turn_at = math.inf if at in waits else float(each.due_at)
            if each.key is not None:
                where = (lane, each.action, indexed(each.key))
                turn_at = self._latest[where] = max(turn_at, self._latest.get(where, turn_at))
            turns.append(turn_at)
        return turns


def turns_of(db: Db, fresh: Sequence[tuple[int, Delivery]]) -> dict[Row, float]:
    """The turn of the last of each of their keys, where it is later than they are."""
    keyed = [(lane, each.action, indexed(each.key), float(each.due_at)) for lane, each in fresh if each.key is not None]
    return {row[:3]: row[3] for row in db.rows(TURNS, *columns(keyed, 4))} if keyed else {}


def encode_tries(tries: tuple[Try, ...]) -> str | None:
    return _encode(tries).decode() if tries else None


def _drafted(arrivals: Sequence[_Arrival], fresh: Sequence[bool]) -> tuple[list[tuple[int, Delivery]], Waits]:
    """The deliveries, each with its lane; and which of them wait for which, by their places in that list."""
    drafted: list[tuple[int, Delivery]] = []
    waits: Waits = {}
    for (lane, event, put), first in zip(arrivals, fresh, strict=True):
        at, waiting = len(drafted), False
        for draft in event.drafts if first else ():
            named = (put.new_id(), event.event_id, draft.action, draft.key)
            drafted.append((lane, Delivery(0, *named, event.body, event.received_at, put.due_at)))
            waiting = waiting or draft.after != ()
        if waiting:
            waits |= waits_of(event, at)
    return drafted, waits


def _first_times(
    arrivals: Sequence[_Arrival], until: dict[tuple[int, str], float]
) -> tuple[list[bool], dict[tuple[int, str], float]]:
    """For each whether it is no duplicate; and until when those that are none are remembered."""
    new: dict[tuple[int, str], float] = {}
    fresh = []
    for lane, event, put in arrivals:
        where = (lane, event.event_id)
        first = event.dedupe_s <= 0 or until.get(where, -math.inf) <= put.now
        fresh.append(first)
        if first and event.dedupe_s > 0:
            until[where] = new[where] = float(put.now + event.dedupe_s)
    return fresh, new


def _keys(arrivals: Sequence[_Arrival]) -> dict[Row, float]:
    """The keys that are put to, each with the earliest time at which one of its new deliveries is due."""
    keys: dict[Row, float] = {}
    for lane, event, put in arrivals:
        for draft in event.drafts:
            if draft.key is not None:
                where = (lane, draft.action, indexed(draft.key))
                keys[where] = min(keys.get(where, put.due_at), put.due_at)
    return keys


def _count_accepted(sums: Sums, arrivals: Sequence[_Arrival], fresh: Sequence[bool]) -> None:
    for (lane, event, _), first in zip(arrivals, fresh, strict=True):
        if first:
            sums.count(lane, "accepted", len(event.drafts) or 1)
            if not event.drafts:
                sums.count(lane, "skipped")
