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
    after, waiting = -1, 0
    while rows := db.rows(f"{earlier.attempts} WHERE first > ? ORDER BY first LIMIT {STEP}", after):
        gathered = _Gathered()
        for first, last, connector, client, *told in rows:
            if (connector, client) not in lanes:
                lanes[connector, client] = lane_of(db, connector, client)
            passed = db.rows(f"{earlier.passed} WHERE place BETWEEN ? AND ?", first, last)
            by_place = {place: row for place, *row in passed}
            for begin in range(first, last + 1, TOGETHER):
                places = range(begin, min(begin + TOGETHER, last + 1))
                gathered.add(lanes[connector, client], places, told, [by_place.get(place) for place in places])
        db.insert("trail_events", gathered.events)
        db.insert("trail_outcomes", gathered.outcomes)
        db.insert("trail_refers", gathered.refers)
        waiting += rows[-1][1] - max(after, 0)
        after = rows[-1][1]
        if waiting > LATER:
            index(db)
            waiting = 0
    for table in earlier.tables:
        db.send(f"DROP TABLE {table}")


class _Gathered:
    """Rows that are written at once."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.outcomes: list[Any] = []
        self.refers: list[tuple[int, int]] = []

    def add(self, lane: int, places: range, told: list[Any], rows: list[Any]) -> None:
        """A part of an attempt, with the events that stand among its deliveries."""
        action, at, outcome, reason, code, tries, stages, trace = told
        none = (None, 0.0, None, None, None)
        own = [none if row is None or row[5] is not None else row[:5] for row in rows]
        ids, times, people, others, seqs = (list(column) for column in zip(*own, strict=True))
        if any(event_id is not None for event_id in ids):
            known = [seq or 0 for seq in seqs] if any(seqs) else []
            self.events.append(event_row(places[0], lane, at, Events(ids, times, people, others, known)))
        kept = None if trace is None else bytes(trace)
        row = (places[0], places[-1], lane, action, at, outcome, reason, code, tries, bytes(stages), kept)
        if outcome in (ACCEPTED, UNWANTED):
            self.outcomes.append((*row, None))
        else:
            of = [at if row is None or row[5] is None else row[5] for at, row in zip(places, rows, strict=True)]
            self.outcomes.append((*row, packing.packed_places(of)))
            self.refers += refers(places[0], of)
