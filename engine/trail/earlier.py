"""A trail as versions 1 and 2 of it kept it, a row for each delivery -> the tables of today; its places stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from engine.trail import packing
from engine.trail.entries import ACCEPTED, UNWANTED
from engine.trail.packing import Events
from engine.trail.writing import LATER, TOGETHER, event_row, index, lane_of, refers

if TYPE_CHECKING:
    from engine.trail.tables import Db

STEP = 500  # of its rows at once


class Earlier(NamedTuple):
    """What there is of it."""

    attempts: str  # SQL: first, last, connector, client, action, at, outcome, reason, code, tries, stages, trace
    passed: str  # SQL: place, event_id, received_at, person, other, seq, event
    facts: tuple[str, ...]
    tables: tuple[str, ...]


def _of_sqlite(passed: str) -> Earlier:
    return Earlier(
        "SELECT first, last, connector, client, action, at, outcome, reason, code, tries, stages, trace "
        "FROM attempts JOIN lanes ON id = lane",
        f"SELECT place, event_id, received_at, person, other, {passed} FROM passed",
        (
            "UPDATE trail_facts SET salt = coalesce((SELECT value FROM facts WHERE name = 'salt'), salt), "
            "next = (SELECT coalesce(max(last), 0) + 1 FROM attempts)",
            "INSERT INTO trail_missing SELECT at, count FROM missing",
            "INSERT INTO trail_gone SELECT person, client, at FROM gone",
        ),
        ("attempts", "passed", "names", "people", "indexed", "lanes", "missing", "gone", "facts"),
    )


OF_SQLITE = {1: _of_sqlite("NULL, NULL"), 2: _of_sqlite("seq, event")}
OF_POSTGRES = Earlier(
    "SELECT first, last, connector, client, action, at, outcome, reason, code, tries, stages, trace "
    "FROM trail_attempts",
    "SELECT place, event_id, received_at, person, other, seq, event FROM trail_passed",
    (),
    ("trail_attempts", "trail_passed"),
)


def taken_over(db: Db, earlier: Earlier) -> None:
    """All of it, in the transaction that makes the tables of today."""
    for statement in earlier.facts:
        db.send(statement)
    lanes: dict[tuple[str, str], int] = {}
    after = waiting = -1
    while rows := db.rows(f"{earlier.attempts} WHERE first > ? ORDER BY first LIMIT {STEP}", after):
        for first, last, connector, client, *told in rows:
            if (connector, client) not in lanes:
                lanes[connector, client] = lane_of(db, connector, client)
            for begin in range(first, last + 1, TOGETHER):
                end = min(begin + TOGETHER - 1, last)
                passed = db.rows(f"{earlier.passed} WHERE place BETWEEN ? AND ?", begin, end)
                _put(db, lanes[connector, client], begin, end, told, passed)
        waiting += rows[-1][1] - after
        after = rows[-1][1]
        if waiting > LATER:
            index(db)
            waiting = 0
    for table in earlier.tables:
        db.send(f"DROP TABLE {table}")


def _put(db: Db, lane: int, first: int, last: int, told: list[Any], passed: list[Any]) -> None:
    """A part of an attempt, with the events that stand among its deliveries."""
    count = last - first + 1
    nobody: list[int | None] = [None] * count
    events = Events([None] * count, [0.0] * count, [*nobody], [*nobody], [0] * count)
    places = [*range(first, last + 1)]
    own = False
    for place, event_id, received_at, person, other, seq, event in passed:
        at = place - first
        if event is not None:
            places[at] = event
        else:
            own = True
            events.ids[at], events.times[at], events.seqs[at] = event_id, received_at, seq or 0
            events.people[at], events.others[at] = person, other
    if not any(events.seqs):
        events.seqs = []
    action, at_time, outcome, reason, code, tries, stages, trace = told
    is_new = outcome in (ACCEPTED, UNWANTED)
    if own:
        db.insert("trail_events", [event_row(first, lane, at_time, events)])
    row = (first, last, lane, action, at_time, outcome, reason, code, tries, bytes(stages))
    kept = None if trace is None else bytes(trace)
    db.insert("trail_outcomes", [(*row, kept, None if is_new else packing.packed_places(places))])
    if not is_new:
        db.insert("trail_refers", refers(first, places))
