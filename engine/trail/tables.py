"""The tables of a trail, the same in a SQLite file and in PostgreSQL, and how their rows are reached."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

VERSION = 3
SCHEMA = (
    # Events, packed (packing.py); their places are first to last. `seq`s: of their deliveries in the store.
    """
    CREATE TABLE trail_events (
        first INTEGER PRIMARY KEY, last INTEGER NOT NULL, lane INTEGER NOT NULL, at REAL NOT NULL,
        first_seq INTEGER, last_seq INTEGER, packed BLOB NOT NULL)
    """,
    "CREATE INDEX trail_events_at ON trail_events (at)",
    "CREATE INDEX trail_events_seq ON trail_events (lane, last_seq) WHERE last_seq IS NOT NULL",
    # What became of deliveries; `events` are the places of theirs. Without them it is that the events at these very
    # places were accepted. All places are of one row of numbers; a delivery whose event is not known has it at its own.
    """
    CREATE TABLE trail_outcomes (
        first INTEGER PRIMARY KEY, last INTEGER NOT NULL, lane INTEGER NOT NULL, action TEXT NOT NULL, at REAL NOT NULL,
        outcome TEXT NOT NULL, reason TEXT NOT NULL, code TEXT NOT NULL, tries INTEGER NOT NULL, stages BLOB NOT NULL,
        trace BLOB, events BLOB)
    """,
    "CREATE INDEX trail_outcomes_at ON trail_outcomes (at, first)",
    "CREATE INDEX trail_outcomes_outcome ON trail_outcomes (outcome, at, first)",
    "CREATE INDEX trail_outcomes_lane ON trail_outcomes (lane, at, first)",
    "CREATE INDEX trail_outcomes_both ON trail_outcomes (lane, outcome, at, first)",
    # Which outcomes name events whose place divided by NEIGHBOURS is that.
    "CREATE TABLE trail_refers (events INTEGER NOT NULL, outcome INTEGER NOT NULL, PRIMARY KEY (events, outcome)) "
    "WITHOUT ROWID",
    # Ids and people of the events up to the last of its parts: each part has a row for each bucket (packing.py).
    "CREATE TABLE trail_index (id INTEGER PRIMARY KEY, numbers BLOB NOT NULL)",
    "CREATE TABLE trail_parts (base INTEGER PRIMARY KEY, last INTEGER NOT NULL)",
    "CREATE TABLE trail_lanes (id INTEGER PRIMARY KEY, connector TEXT NOT NULL, client TEXT NOT NULL, "
    "UNIQUE (connector, client))",
    "CREATE TABLE trail_missing (at REAL NOT NULL, count INTEGER NOT NULL)",
    "CREATE TABLE trail_gone (person INTEGER NOT NULL, client TEXT, at REAL NOT NULL)",
    "CREATE TABLE trail_facts (one INTEGER PRIMARY KEY, salt BLOB NOT NULL, next INTEGER NOT NULL)",
)
NEIGHBOURS = 64
AT_ONCE = 200  # values that one statement asks for


class Db(Protocol):
    """A connection in a transaction, or one that reads."""

    def rows(self, sql: str, *values: Any) -> list[Any]: ...

    def send(self, sql: str, *values: Any) -> object: ...

    def insert(self, table: str, rows: Sequence[Sequence[Any]]) -> None:
        """Whole rows."""


def marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


def in_parts(values: Sequence[int]) -> list[Sequence[int]]:
    return [values[at : at + AT_ONCE] for at in range(0, len(values), AT_ONCE)]


def indexed(db: Db) -> int:
    """The last place that the index knows of."""
    return int(db.rows("SELECT coalesce(max(last), 0) FROM trail_parts")[0][0])
