"""Dead letters: found, counted, brought back with what was skipped for their sake, let in from elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from engine.records import Dead, Delivery, Trace, Try
from engine.stores.postgres.arrivals import Insert, encode_tries, turns_of
from engine.stores.postgres.lanes import locked
from engine.stores.postgres.settling import Follower
from engine.stores.rules import Wait, tried

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from engine.records import Which
    from engine.stores.postgres.connections import Db
    from engine.stores.postgres.connections import Row as DbRow
    from engine.stores.postgres.lanes import Numbers, Sums

COLUMNS = """
    dead.id, lanes.connector, lanes.client, dead.action, dead.delivery_id, dead.event_id, dead.key, dead.body,
    dead.reason, dead.code, dead.attempts, dead.received_at, dead.at, dead.expected, dead.trace, dead.tries
"""
LAST = 2**63 - 1  # no id is beyond it
_FROM = "FROM dead JOIN lanes ON lanes.id = dead.lane"
DEAD = f"SELECT {COLUMNS} {_FROM}"
COUNTED = {
    "reason": "dead.reason",
    "code": "dead.code",
    "action": "dead.action",
    "client": "lanes.client",
    "connector": "lanes.connector",
}
BACK = """
    DELETE FROM dead WHERE id = %b
    RETURNING lane, action, key, delivery_id, event_id, body, received_at, followers, tries, at, reason
"""
OF_EVENT = "SELECT id, action FROM dead WHERE lane = %b AND event_id = %b ORDER BY id"
WAITING_IDS = "SELECT id FROM deliveries WHERE id = ANY(%b::text[])"
DEAD_IDS = "SELECT delivery_id FROM dead WHERE delivery_id = ANY(%b::text[])"
ADMIT = """
    INSERT INTO dead (lane, action, key, delivery_id, event_id, body, received_at,
        at, attempts, reason, code, expected, trace, tries, followers)
    VALUES (%b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b)
"""

_encode = msgspec.json.Encoder(decimal_format="number").encode
_decode_trace = msgspec.json.Decoder(Trace).decode
_decode_tries = msgspec.json.Decoder(tuple[Try, ...]).decode
decode_followers = msgspec.json.Decoder(list[Follower]).decode


def found(db: Db, which: Which, *, after: int, limit: int, newest: bool = False) -> list[Dead]:
    where, values = _where(which)
    compared, order = ("<", " DESC") if newest else (">", "")
    after = after or (LAST if newest else 0)
    rows = db.rows(f"{DEAD} WHERE dead.id {compared} %b{where} ORDER BY dead.id{order} LIMIT %b", after, *values, limit)
    return [letter_of(row) for row in rows]


def counted(db: Db, by: str, which: Which) -> dict[str, int]:
    where, values = _where(which)
    return dict(db.rows(f"SELECT {COUNTED[by]}, count(*) {_FROM} WHERE true{where} GROUP BY 1", *values))


def _where(which: Which) -> tuple[str, list[Any]]:
    """What follows a WHERE, and its values."""
    conditions = {
        "connector": "lanes.connector = %b",
        "client": "lanes.client = %b",
        "action": "dead.action = %b",
        "reason": "strpos(dead.reason, %b) > 0",
        "code": "dead.code = %b",
        "key": "dead.key = %b",
        "event_id": "dead.event_id = %b",
        "since": "dead.at >= %b",
        "until": "dead.at < %b",
    }
    given = {conditions[name]: value for name, value in which.items() if value is not None}
    return "".join(f" AND {condition}" for condition in given), list(given.values())


def letter_of(row: DbRow) -> Dead:
    trace, tries = row[-2:]
    sent = None if trace is None else _decode_trace(trace)
    return Dead(*(*row[:-2], sent, () if tries is None else _decode_tries(tries)))


class Reviver:
    """Brings dead letters back into their lanes."""

    def __init__(self, numbers: Numbers, wake: Callable[[Db], None]) -> None:
        self._numbers, self._wake = numbers, wake

    def requeue(self, db: Db, dead_ids: Sequence[int], now: float) -> int:
        lanes = db.rows("SELECT DISTINCT lane FROM dead WHERE id = ANY(%b::bigint[])", list(dead_ids))
        sums = locked(db, [lane for (lane,) in lanes])
        return sum(bool(self._back(db, sums, dead_id, now, now)) for dead_id in dict.fromkeys(dead_ids))

    def revive(
        self, db: Db, lane: int | None, event_id: str, actions: Collection[str], now: float, due_at: float
    ) -> list[Delivery]:
        if lane is None:
            return []
        sums = locked(db, [lane])
        letters = [dead_id for dead_id, action in db.rows(OF_EVENT, lane, event_id) if action in actions]
        return [delivery for dead_id in letters for delivery in self._back(db, sums, dead_id, now, due_at)]

    def _back(self, db: Db, sums: Sums, dead_id: int, now: float, due_at: float) -> list[Delivery]:
        row = db.row(BACK, dead_id)
        if row is None:
            return []
        lane, action, key, delivery_id, event_id, body, received_at, kept, tries, at, reason = row
        theirs = decode_followers(kept) if kept is not None else []
        revived = [
            (lane, Delivery(0, of, event_id, what, whose, body, received_at, due_at, again_at=now))
            for of, what, whose in [(delivery_id, action, key), *(each[:3] for each in theirs)]
        ]
        history = tried(_decode_tries(tries) if tries is not None else (), at, reason)
        waits = _waits_again(db, [each.wait for each in theirs])
        stored = Insert(self._numbers, sums, turns_of(db, revived)).send(db, revived, waits, history)
        sums.count(lane, "rejected", -1)
        sums.count(lane, "skipped", -len(theirs))
        sums.write()
        if sums.woken:
            self._wake(db)
        return stored()


def _waits_again(db: Db, kept: Sequence[Wait]) -> dict[int, Wait]:
    """What each waits for, by place, without those that have ended since."""
    others = sorted(-each for wait in kept for each in wait.after if each < 0)
    rows = db.rows("SELECT seq FROM deliveries WHERE seq = ANY(%b::bigint[])", others) if others else []
    there = {-seq for (seq,) in rows}
    return {
        place: Wait(frozenset(each for each in wait.after if each >= 0 or each in there), wait.past_rejected)
        for place, wait in enumerate(kept, 1)
    }


def whereabouts(db: Db, delivery_ids: Collection[str]) -> dict[str, str]:
    wanted = list(delivery_ids)
    waiting, dead = db.send(WAITING_IDS, wanted), db.send(DEAD_IDS, wanted)
    found = {delivery_id: "waiting" for (delivery_id,) in waiting.fetchall()}
    return found | {delivery_id: "dead" for (delivery_id,) in dead.fetchall()}


def admit(db: Db, numbers: Numbers, letters: Sequence[Dead]) -> list[bool]:
    if not letters:
        return []
    lanes = numbers.made(db, {(letter.connector, letter.client) for letter in letters})
    sums = locked(db, lanes.values())
    here = set(whereabouts(db, [letter.delivery_id for letter in letters]))
    admitted = []
    for letter in letters:
        admitted.append(letter.delivery_id not in here)
        if letter.delivery_id in here:
            continue
        here.add(letter.delivery_id)
        lane = lanes[letter.connector, letter.client]
        insert(db, lane, letter, None)
        sums.count(lane, "accepted")
        sums.count(lane, "rejected")
    sums.write()
    return admitted


def insert(db: Db, lane: int, letter: Dead, theirs: str | None) -> None:
    """`theirs`: what was skipped for its sake, encoded."""
    trace = None if letter.trace is None else _encode(letter.trace)
    named = (lane, letter.action, letter.key, letter.delivery_id, letter.event_id, letter.body, letter.received_at)
    said = (letter.at, letter.attempts, letter.reason, letter.code, letter.expected, trace)
    db.send(ADMIT, *named, *said, encode_tries(letter.tries), theirs)
