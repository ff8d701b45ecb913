"""A trail in the tables of a PostgreSQL store's schema, so that any host knows what each of them did."""

from __future__ import annotations

import secrets
import threading
from typing import TYPE_CHECKING, Any

import msgspec
import psycopg

from engine.errors import StoreUnavailable
from engine.privacy.people import Subject
from engine.records import Trace
from engine.stores.postgres.connections import Connections, connect
from engine.stores.postgres.faults import unavailable
from engine.trail.entries import ACCEPTED, UNWANTED, Attempt, Cursor, Followed, Found, Missing, Query, Stages, State
from engine.trail.sqlite import GONE_S, MOST_HIDDEN, MOST_LANES, MOST_LOOKED_AT, PART, named_in, newer

if TYPE_CHECKING:
    from engine.stores.postgres.address import Address
    from engine.stores.postgres.connections import Db
    from engine.trail.entries import Passed, People

VERSION = 2  # tables without one are of it, too
_TEXT = 'TEXT COLLATE "C"'
_TIME = "DOUBLE PRECISION"
SCHEMA = (
    f"""
    CREATE TABLE IF NOT EXISTS trail_attempts (
        first BIGINT PRIMARY KEY, last BIGINT NOT NULL, connector {_TEXT} NOT NULL, client {_TEXT} NOT NULL,
        action {_TEXT} NOT NULL, at {_TIME} NOT NULL, outcome {_TEXT} NOT NULL, reason {_TEXT} NOT NULL,
        code {_TEXT} NOT NULL, tries BIGINT NOT NULL, stages BYTEA NOT NULL, trace BYTEA)
    """,
    "CREATE INDEX IF NOT EXISTS trail_attempts_at ON trail_attempts (at, first)",
    "CREATE INDEX IF NOT EXISTS trail_attempts_outcome ON trail_attempts (outcome, at, first)",
    "CREATE INDEX IF NOT EXISTS trail_attempts_lane ON trail_attempts (connector, client, at, first)",
    "CREATE INDEX IF NOT EXISTS trail_attempts_both ON trail_attempts (connector, client, outcome, at, first)",
    f"""
    CREATE TABLE IF NOT EXISTS trail_passed (
        place BIGINT PRIMARY KEY, event_id {_TEXT} NOT NULL, received_at {_TIME} NOT NULL, person BIGINT, other BIGINT)
    """,
    # A row with an `event` is a delivery of the one at that place, and has nothing else.
    "ALTER TABLE trail_passed ADD COLUMN IF NOT EXISTS seq BIGINT, ADD COLUMN IF NOT EXISTS event BIGINT",
    "CREATE INDEX IF NOT EXISTS trail_passed_event ON trail_passed (event_id, place)",
    "CREATE INDEX IF NOT EXISTS trail_passed_of ON trail_passed (event) WHERE event IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS trail_passed_person ON trail_passed (person, place) WHERE person IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS trail_passed_other ON trail_passed (other, place) WHERE other IS NOT NULL",
    f"""
    CREATE TABLE IF NOT EXISTS trail_lanes (
        connector {_TEXT} NOT NULL, client {_TEXT} NOT NULL, PRIMARY KEY (connector, client))
    """,
    f"CREATE TABLE IF NOT EXISTS trail_missing (at {_TIME} NOT NULL, count BIGINT NOT NULL)",
    f"CREATE TABLE IF NOT EXISTS trail_gone (person BIGINT NOT NULL, client {_TEXT}, at {_TIME} NOT NULL)",
    "CREATE TABLE IF NOT EXISTS trail_facts (one BIGINT PRIMARY KEY, salt BYTEA NOT NULL, next BIGINT NOT NULL)",
    f"ALTER TABLE trail_facts ADD COLUMN IF NOT EXISTS version BIGINT NOT NULL DEFAULT {VERSION}",
)
TABLES = (*("trail_attempts", "trail_passed", "trail_lanes", "trail_missing", "trail_gone", "trail_facts"),)
FOUND = "p.place, e.event_id, a.connector, a.client, a.action, a.at, a.outcome, a.reason, a.code, e.received_at"
WHOLE = "JOIN trail_passed e ON e.place = coalesce(p.event, p.place)"  # the row of a delivery's event
TELLING = f"(a.outcome <> '{ACCEPTED}' OR NOT EXISTS (SELECT 1 FROM trail_passed r WHERE r.event = p.place))"
OF = (
    "JOIN LATERAL (SELECT * FROM trail_attempts WHERE first <= p.place ORDER BY first DESC LIMIT 1) a "
    "ON a.last >= p.place"
)
NEWEST = (
    "NOT EXISTS (SELECT 1 FROM trail_passed r JOIN LATERAL (SELECT * FROM trail_attempts WHERE first <= r.place "
    "ORDER BY first DESC LIMIT 1) n ON n.last >= r.place WHERE r.event = e.place AND r.place > p.place "
    f"AND (a.outcome = '{ACCEPTED}' OR n.action = a.action) AND (%b::float8 IS NULL OR n.at < %b::float8))"
)
_CONNECTIONS = 3

_encode = msgspec.json.Encoder().encode
_stages = msgspec.json.Decoder(Stages).decode
_trace = msgspec.json.Decoder(Trace).decode


class PostgresKeeper:
    """In the schema of the store; its tables are made with the first that is written or asked."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._connections = Connections(address._replace(connections=_CONNECTIONS))
        self._gate, self._there = threading.Lock(), False

    def salt(self) -> bytes:
        self._make()

        def made(db: Db) -> bytes:
            db.written(
                "INSERT INTO trail_facts VALUES (1, %b, 1) ON CONFLICT (one) DO NOTHING", secrets.token_bytes(32)
            )
            return bytes(db.value("SELECT salt FROM trail_facts"))

        return self._connections.transact(made)

    def write(self, attempts: list[Attempt], missing: list[Missing], people: People) -> None:
        self.salt()
        count = sum(len(each.passed) for each in attempts)

        def written(db: Db) -> None:
            # Whoever takes numbers holds the row until it has committed: places rise in the order of what is read.
            place = db.value("UPDATE trail_facts SET next = next + %b RETURNING next", count) - count
            first = place
            columns: list[list[Any]] = [[] for _ in range(12)]
            rows: list[tuple[Any, ...]] = []
            fresh: dict[tuple[str, str, str, float], int] = {}
            known = _known(db, attempts)
            for each in attempts:
                begin = place
                for one in each.passed:
                    name = _name(each, one)
                    event = None if each.outcome in (ACCEPTED, UNWANTED) else fresh.get(name) or known.get(name)
                    if event is None:
                        fresh[name] = place
                        rows.append((place, *name[2:], *people(one[2], one[3]), one[4], None))
                    else:
                        rows.append((place, "", 0.0, None, None, None, event))
                    place += 1
                trace = None if each.trace is None else _encode(each.trace)
                row = (begin, place - 1, each.connector, each.client, each.action, float(each.at), each.outcome)
                told = (each.reason, each.code, each.tries, each.stages, trace)
                for column, value in zip(columns, (*row, *told), strict=True):
                    column.append(value)
            for connector, client in sorted({(each.connector, each.client) for each in attempts}):
                db.send("INSERT INTO trail_lanes VALUES (%b, %b) ON CONFLICT DO NOTHING", connector, client)
            kinds = ("bigint", "bigint", *["text"] * 3, "float8", *["text"] * 3, "bigint", "bytea", "bytea")
            marks = ", ".join(f"%b::{kind}[]" for kind in kinds)
            db.send(f"INSERT INTO trail_attempts SELECT * FROM unnest({marks})", *columns)
            passed = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(7)]
            marks = ", ".join(f"%b::{kind}[]" for kind in ("bigint", "text", "float8", *["bigint"] * 4))
            columns_named = "place, event_id, received_at, person, other, seq, event"
            db.send(f"INSERT INTO trail_passed ({columns_named}) SELECT * FROM unnest({marks})", *passed)
            for each_missing in missing:
                db.send("INSERT INTO trail_missing VALUES (%b, %b)", *each_missing)
            for person, client, at in db.rows("SELECT person, client, at FROM trail_gone"):
                db.send(
                    "DELETE FROM trail_passed p WHERE (person = %b OR other = %b) AND place >= %b AND received_at <= %b"
                    " AND (%b::text IS NULL OR EXISTS (SELECT 1 FROM trail_attempts a WHERE a.first <= p.place"
                    " AND a.last >= p.place AND a.first >= %b AND a.client = %b))",
                    *(person, person, first, at, client, first, client),
                )

        self._connections.transact(written)

    def forget(self, people: list[int], text: str | None, *, client: str | None, now: float, dry: bool) -> int:
        self._make()
        subject = Subject(text) if text is not None else None

        def found(db: Db) -> tuple[set[int], list[tuple[str, bytes | None, int]]]:
            theirs = f"(%b::text IS NULL OR EXISTS (SELECT 1 FROM trail_passed q {OF.replace('p.', 'q.')}" + (
                " WHERE q.place = p.place AND a.client = %b))"
            )
            places = {
                place
                for person in people
                for column in ("person", "other")
                for (place,) in db.rows(
                    f"SELECT place FROM trail_passed p WHERE {column} = %b AND {theirs}", person, client, client
                )
            }
            if subject is None:
                return _with_deliveries(db, places), []
            named = f"SELECT place, event_id FROM trail_passed p WHERE strpos(lower(event_id), %b) > 0 AND {theirs}"
            for place, event_id in db.rows(named, subject.wanted.lower(), client, client):
                if subject.named_in(event_id):
                    places.add(place)
            changed = named_in(db.rows("SELECT first, reason, trace FROM trail_attempts"), subject)
            return _with_deliveries(db, places), changed

        places, changed = self._connections.read(found)
        if dry:
            return len(places)

        def erased(db: Db) -> None:
            db.send("DELETE FROM trail_passed WHERE place = ANY(%b::bigint[])", sorted(places))
            for person in people:
                db.send("INSERT INTO trail_gone VALUES (%b, %b, %b)", person, client, now)
            for each in changed:
                db.send("UPDATE trail_attempts SET reason = %b, trace = %b WHERE first = %b", *each)

        self._connections.transact(erased)
        return len(places)

    def expire(self, *, before: float, now: float, max_bytes: int) -> bool:
        """By age; how large a database may be is its own to say."""
        del max_bytes
        self._make()

        def removed(db: Db) -> bool:
            db.send("DELETE FROM trail_gone WHERE at < %b", max(before, now - GONE_S))
            db.send("DELETE FROM trail_missing WHERE at < %b", before)
            left = PART
            over = "SELECT first, last FROM trail_attempts WHERE at < %b ORDER BY at LIMIT %b"
            for first, last in db.rows(over, before, PART):
                db.send("DELETE FROM trail_passed WHERE event BETWEEN %b AND %b", first, last)
                db.send("DELETE FROM trail_passed WHERE place BETWEEN %b AND %b", first, last)
                db.send("DELETE FROM trail_attempts WHERE first = %b", first)
                left -= last - first + 1
                if left <= 0:
                    break
            return left <= 0

        return self._connections.transact(removed)

    def find(self, query: Query, limit: int) -> list[Found]:
        self._make()
        if query.event_id is not None or query.people is not None:
            return self._connections.read(lambda db: _by_event(db, query, limit))
        return self._connections.read(lambda db: _by_time(db, query, limit))

    def of_event(self, event_id: str, limit: int) -> list[Followed]:
        self._make()
        sql = (
            f"SELECT {FOUND}, a.tries, a.last - a.first + 1, a.stages, a.trace, e.seq FROM unnest(%b::bigint[]) "
            f"w(place) JOIN trail_passed p USING (place) {WHOLE} {OF} ORDER BY p.place DESC"
        )

        def asked(db: Db) -> list[Any]:
            of = "SELECT place FROM trail_passed WHERE event_id = %b AND event IS NULL ORDER BY place DESC LIMIT %b"
            places = [place for (place,) in db.rows(of, _whole(event_id), limit)]
            return db.rows(sql, places + _deliveries(db, places, 2**62, limit))

        rows = self._connections.read(asked)
        return [
            Followed(
                Found(*row[:10]),
                *(row[10], row[11], _stages(bytes(row[12]))),
                None if row[13] is None else _trace(bytes(row[13])),
                row[14],
            )
            for row in reversed(rows)
        ]

    def state(self) -> State:
        self._make()

        def asked(db: Db) -> State:
            since = db.value("SELECT at FROM trail_attempts ORDER BY at LIMIT 1")
            return State(since, int(db.value("SELECT sum(count) FROM trail_missing") or 0))

        return self._connections.read(asked)

    def close(self) -> None:
        self._connections.close()

    def _make(self) -> None:
        with self._gate:
            if self._there:
                return
            connection = connect(self._address)
            try:
                connection.execute(b"BEGIN")
                connection.execute(b"SELECT 1 FROM schema_version FOR UPDATE")  # whoever makes them, too, waits here
                version = _version(connection)
                if version > VERSION:
                    why = newer(version, VERSION, "drop its tables (trail_…)")
                    raise StoreUnavailable(f"{self._address.shown}: the trail: {why}")
                for statement in SCHEMA:
                    connection.execute(statement.encode())
                connection.execute(b"COMMIT")
            except psycopg.Error as error:
                raise unavailable(self._address.shown, error) from error
            finally:
                connection.close()
            self._there = True


def _version(connection: psycopg.Connection[Any]) -> int:
    """Of the tables that are there."""
    named = "SELECT 1 FROM information_schema.columns WHERE table_schema = current_schema() AND table_name = "
    if connection.execute(f"{named}'trail_facts' AND column_name = 'version'".encode()).fetchone() is None:
        return VERSION
    found = connection.execute(b"SELECT max(version) FROM trail_facts").fetchone()
    return VERSION if found is None or found[0] is None else int(found[0])


def _whole(text: str) -> str:
    return text.encode(errors="replace").decode()


def _name(attempt: Attempt, one: Passed) -> tuple[str, str, str, float]:
    return attempt.connector, attempt.client, _whole(one[0]), float(one[1])


def _known(db: Db, attempts: list[Attempt]) -> dict[tuple[str, str, str, float], int]:
    """Where the events stand that were written before, by lane, id and time."""
    names = {_name(each, one) for each in attempts if each.outcome not in (ACCEPTED, UNWANTED) for one in each.passed}
    if not names:
        return {}
    sql = (
        "SELECT a.connector, a.client, p.event_id, p.received_at, p.place "
        f"FROM unnest(%b::text[]) w(event_id) JOIN trail_passed p ON p.event_id = w.event_id AND p.event IS NULL {OF}"
    )
    rows = db.rows(sql, sorted({name[2] for name in names}))
    found = {(connector, client, event_id, at): place for connector, client, event_id, at, place in rows}
    return {name: place for name, place in found.items() if name in names}


def _deliveries(db: Db, events: list[int], below: int, limit: int) -> list[int]:
    of = "SELECT place FROM trail_passed WHERE event = ANY(%b::bigint[]) AND place < %b ORDER BY place DESC LIMIT %b"
    return [place for (place,) in db.rows(of, events, below, limit)]


def _with_deliveries(db: Db, places: set[int]) -> set[int]:
    return places | set(_deliveries(db, sorted(places), 2**62, 2**62))


def _by_event(db: Db, query: Query, limit: int) -> list[Found]:
    """By id or person: of MOST_LOOKED_AT at most the rest is looked at one by one, the newest where it is no prefix."""
    below = query.before.place if query.before is not None else 2**62
    wanted: list[tuple[str, tuple[Any, ...]]] = []
    if query.event_id is not None:
        given = _whole(query.event_id)
        if query.prefix:
            wanted.append(("event_id >= %b AND event_id < %b", (given, f"{given}\U0010ffff")))
        else:
            wanted.append(("event_id = %b", (given,)))
    for person in query.people or ():
        wanted += [("person = %b", (person,)), ("other = %b", (person,))]
    places: list[int] = []
    for where, values in wanted:
        order = "" if query.prefix else "ORDER BY place DESC"
        where += " AND event IS NULL"
        sql = f"SELECT place FROM trail_passed WHERE {where} AND place < %b {order} LIMIT {MOST_LOOKED_AT}"
        places += [place for (place,) in db.rows(sql, *values, below)]
    places += _deliveries(db, places, below, MOST_LOOKED_AT)
    filters, given_values = "" if query.outcomes is not None else f" AND {TELLING}", list[Any]()
    for name, value in (
        *(("a.at >= %b", query.since), ("a.at < %b", query.until)),
        *(("a.connector = %b", query.connector), ("a.client = %b", query.client)),
        ("a.outcome = ANY(%b::text[])", None if query.outcomes is None else list(query.outcomes)),
    ):
        if value is not None:
            filters += f" AND {name}"
            given_values.append(value)
    sql = (
        f"SELECT {FOUND} FROM unnest(%b::bigint[]) w(place) JOIN trail_passed p USING (place) {WHOLE} {OF} "
        f"WHERE true{filters} ORDER BY p.place DESC LIMIT %b"
    )
    return [Found(*row) for row in db.rows(sql, sorted(set(places)), *given_values, limit)]


def _by_time(db: Db, query: Query, limit: int) -> list[Found]:
    """The newest of each lane and outcome that is meant, by an index, put together; where any is, the newest states."""
    lanes: list[tuple[str, str] | None] = [None]
    if query.connector is not None and query.client is not None:
        lanes = [(query.connector, query.client)]
    elif query.connector is not None or query.client is not None:
        column, value = ("connector", query.connector) if query.connector is not None else ("client", query.client)
        sql = f"SELECT connector, client FROM trail_lanes WHERE {column} = %b LIMIT {MOST_LANES}"
        lanes = [(connector, client) for connector, client in db.rows(sql, value)]
    rows: list[Found] = []
    most, looked = limit, 0
    while True:
        found: list[tuple[float, int, int]] = []
        for lane in lanes:
            for outcome in [None] if query.outcomes is None else query.outcomes:
                found += _attempts(db, query, lane, outcome, most)
        found.sort(reverse=True)
        for at, first, last in found[:most]:
            if query.before is not None and at == query.before.at:
                last = min(last, query.before.place - 1)
            newest = query.outcomes is None and looked < MOST_HIDDEN
            sql = (
                f"SELECT {FOUND} FROM trail_passed p {WHOLE} JOIN trail_attempts a ON a.first = %b WHERE p.place "
                f"BETWEEN %b AND %b {f'AND {NEWEST}' if newest else ''} ORDER BY p.place DESC LIMIT %b"
            )
            until = (query.until, query.until) if newest else ()
            rows += [Found(*row) for row in db.rows(sql, first, first, last, *until, limit - len(rows))]
            looked += last - first + 1
            if len(rows) >= limit:
                return rows
        if len(found) < most:
            return rows
        query = query._replace(before=Cursor(*found[most - 1][:2]))
        most = min(2 * most, MOST_LOOKED_AT)


def _attempts(
    db: Db, query: Query, lane: tuple[str, str] | None, outcome: str | None, limit: int
) -> list[tuple[float, int, int]]:
    where, values = ["true"], list[Any]()
    connector, client = lane if lane is not None else (None, None)
    for name, value in (
        *(("connector = %b", connector), ("client = %b", client), ("outcome = %b", outcome)),
        *(("at >= %b", query.since), ("at < %b", query.until)),
    ):
        if value is not None:
            where.append(name)
            values.append(value)
    if query.before is not None:
        where.append("(at, first) < (%b, %b)")
        values += [query.before.at, query.before.place]
    sql = (
        f"SELECT at, first, last FROM trail_attempts WHERE {' AND '.join(where)} ORDER BY at DESC, first DESC LIMIT %b"
    )
    return [(at, first, last) for at, first, last in db.rows(sql, *values, limit)]
