"""A trail in the tables of a PostgreSQL store's schema, so that any host knows what each of them did."""

from __future__ import annotations

import re
import secrets
import threading
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

from engine.errors import StoreUnavailable
from engine.stores.postgres.connections import Connections, Db, connect
from engine.stores.postgres.faults import unavailable
from engine.trail import finding, writing
from engine.trail.earlier import OF_POSTGRES, taken_over
from engine.trail.entries import newer
from engine.trail.tables import SCHEMA, VERSION
from engine.trail.writing import Memory, Writing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.stores.postgres.address import Address
    from engine.trail.entries import Attempt, Followed, Found, Missing, People, Query, State, Taken

T = TypeVar("T")

_CONNECTIONS = 3
_KINDS = {
    **{"INTEGER": "BIGINT", "REAL": "DOUBLE PRECISION", "BLOB": "BYTEA", "TEXT": 'TEXT COLLATE "C"'},
    " WITHOUT ROWID": "",
}
COLUMNS = {  # of each table
    "trail_events": ("bigint", "bigint", "bigint", "float8", "bigint", "bigint", "bytea"),
    "trail_outcomes": (
        *("bigint", "bigint", "bigint", "text", "float8", "text", "text", "text", "bigint", "bytea"),
        *("bytea", "bytea"),
    ),
    "trail_refers": ("bigint", "bigint"),
    "trail_index": ("bigint", "bytea"),
    "trail_parts": ("bigint", "bigint"),
    "trail_lanes": ("bigint", "text", "text"),
    "trail_missing": ("float8", "bigint"),
    "trail_gone": ("bigint", "text", "float8"),
}
TABLES = (*COLUMNS, "trail_facts")


class PostgresDb:
    """As tables.Db says."""

    def __init__(self, db: Db) -> None:
        self._db = db

    def rows(self, sql: str, *values: Any) -> list[Any]:
        return self._db.rows(sql.replace("?", "%b"), *values)

    def send(self, sql: str, *values: Any) -> object:
        return self._db.send(sql.replace("?", "%b"), *values)

    def insert(self, table: str, rows: Sequence[Sequence[Any]]) -> None:
        if rows:
            kinds = COLUMNS[table]
            marks = ", ".join(f"%b::{kind}[]" for kind in kinds)
            columns = [[*column] for column in zip(*rows, strict=True)]
            columns = [
                [None if each is None else float(each) for each in column] if kind == "float8" else column
                for kind, column in zip(kinds, columns, strict=True)
            ]
            self._db.send(f"INSERT INTO {table} SELECT * FROM unnest({marks})", *columns)


class PostgresKeeper:
    """In the schema of the store; its tables are made with the first that is written or asked."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._connections = Connections(address._replace(connections=_CONNECTIONS))
        self._gate, self._there = threading.Lock(), False
        self._memory = Memory()

    def salt(self) -> bytes:
        return self._read(lambda db: bytes(db.rows("SELECT salt FROM trail_facts")[0][0]))

    def write(self, taken: list[Taken], attempts: list[Attempt], missing: list[Missing], people: People) -> None:
        self._make()

        def written(db: Db) -> None:
            memory, self._memory = self._memory, Memory()  # nothing is known of what was not committed
            Writing(PostgresDb(db), memory, people).write(taken, attempts, missing)
            db.kept.append(lambda: setattr(self, "_memory", memory))

        self._connections.transact(written)

    def forget(self, people: list[int], text: str | None, *, client: str | None, now: float, dry: bool) -> int:
        def erased(db: PostgresDb) -> int:
            writing.gone(db, people, client, now)
            places, count = writing.to_forget(db, people, text, client)
            writing.forget(db, places, writing.named_in(db, text))
            return count

        if dry:
            return self._read(lambda db: writing.to_forget(db, people, text, client)[1])
        self._memory = Memory()
        return self._alone(erased)

    def expire(self, *, before: float, now: float, max_bytes: int) -> bool:
        """By age; how large a database may be is its own to say."""
        del max_bytes
        return self._alone(lambda db: writing.expire(db, before=before, now=now))

    def find(self, query: Query, limit: int) -> list[Found]:
        return self._read(lambda db: finding.find(db, query, limit))

    def of_event(self, event_id: str, limit: int) -> list[Followed]:
        return self._read(lambda db: finding.of_event(db, event_id, limit))

    def state(self) -> State:
        return self._read(finding.state)

    def close(self) -> None:
        self._connections.close()

    def _read(self, work: Callable[[PostgresDb], T]) -> T:
        self._make()
        return self._connections.read(lambda db: work(PostgresDb(db)))

    def _alone(self, work: Callable[[PostgresDb], T]) -> T:
        """While nobody else writes."""
        self._make()

        def worked(db: Db) -> T:
            db.send("SELECT 1 FROM trail_facts FOR UPDATE")
            return work(PostgresDb(db))

        return self._connections.transact(worked)

    def _make(self) -> None:
        with self._gate:
            if self._there:
                return
            connection = connect(self._address)
            try:
                with connection.pipeline() as pipeline:
                    db = Db(connection, pipeline)
                    db.send("BEGIN")
                    if _version(PostgresDb(db)) != VERSION:
                        db.send("SELECT 1 FROM schema_version FOR UPDATE")  # whoever makes them, too, waits here
                        self._make_in(PostgresDb(db))
                    db.commit()
            except psycopg.Error as error:
                raise unavailable(self._address.shown, error) from error
            finally:
                connection.close()
            self._there = True

    def _make_in(self, db: PostgresDb) -> None:
        version = _version(db)
        if version > VERSION:
            why = newer(version, VERSION, "drop its tables (trail_…)")
            raise StoreUnavailable(f"{self._address.shown}: the trail: {why}")
        if version == VERSION:
            return
        there = {"trail_missing", "trail_gone", "trail_facts"} if version else set[str]()
        if version:
            db.send("DROP TABLE trail_lanes")  # which had no numbers
        for statement in SCHEMA:
            if statement.split()[2] not in there:
                db.send(re.sub("|".join(_KINDS), lambda found: _KINDS[found[0]], statement))
        db.send(f"ALTER TABLE trail_facts ADD COLUMN IF NOT EXISTS version BIGINT NOT NULL DEFAULT {VERSION}")
        salt = secrets.token_bytes(32)
        db.send("INSERT INTO trail_facts (one, salt, next) VALUES (1, ?, 1) ON CONFLICT (one) DO NOTHING", salt)
        if version:
            taken_over(db, OF_POSTGRES)
        db.send("UPDATE trail_facts SET version = ?", VERSION)
        db.send(f"ALTER TABLE trail_facts ALTER COLUMN version SET DEFAULT {VERSION}")


def _version(db: PostgresDb) -> int:
    """Of the tables that are there; 0 where there are none, and 2 where none is said."""
    of = "SELECT column_name FROM information_schema.columns WHERE table_schema = current_schema() AND table_name = ?"
    columns = {name for (name,) in db.rows(of, "trail_facts")}
    if "version" not in columns:
        return 2 if columns else 0
    found = db.rows("SELECT max(version) FROM trail_facts")
    return int(found[0][0]) if found[0][0] is not None else 2
