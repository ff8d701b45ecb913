"""
A trail in a SQLite file of its own, or in memory: a row for each event, a short one for each delivery of it, the rest
once for a batch.

Deliveries that were settled together have numbers in a row, so that nothing points from one table to the other. Names
and people are put into their indexes many at once and in order: one by one, each would cost a page. Losing the file
loses nobody's event; it may lose its last second with the power, and a damaged one is begun anew.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
from contextlib import contextmanager, suppress
from itertools import chain
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from engine.errors import StoreUnavailable
from engine.privacy.people import Subject
from engine.records import Trace
from engine.trail.entries import ACCEPTED, UNWANTED, Attempt, Cursor, Followed, Found, Query, Stages, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from engine.trail.entries import Missing, Passed, People

VERSION = 2
MEMORY = ":memory:"
BUSY_S = 10.0
ROWS = 200  # in one statement
PART = 20_000  # deliveries that are removed in one transaction
LATER = 50_000  # entries that are not in the indexes yet: looked through by each search
GONE_S = 600.0  # for so long what is written late of somebody who was erased is looked for
MOST_LANES = 2_000
MOST_LOOKED_AT = 1_000
SCHEMA = (
    """
    CREATE TABLE attempts (
        first INTEGER PRIMARY KEY, last INTEGER NOT NULL, lane INTEGER NOT NULL, action TEXT NOT NULL, at REAL NOT NULL,
        outcome TEXT NOT NULL, reason TEXT NOT NULL, code TEXT NOT NULL, tries INTEGER NOT NULL, stages BLOB NOT NULL,
        trace BLOB)
    """,
    "CREATE INDEX attempts_at ON attempts (at, first)",
    "CREATE INDEX attempts_outcome ON attempts (outcome, at, first)",
    "CREATE INDEX attempts_lane ON attempts (lane, at, first)",
    "CREATE INDEX attempts_lane_outcome ON attempts (lane, outcome, at, first)",
    # The numbers of an attempt's deliveries are first to last. Those above `indexed` are in neither of the indexes yet.
    # A row with an `event` is a delivery of the one at that place, and has nothing else; no index but `passed_event`
    # knows it. `seq`: the first that the event has in the store.
    """
    CREATE TABLE passed (
        place INTEGER PRIMARY KEY, event_id TEXT NOT NULL, received_at REAL NOT NULL, person INTEGER, other INTEGER,
        seq INTEGER, event INTEGER)
    """,
    "CREATE INDEX passed_event ON passed (event) WHERE event IS NOT NULL",
    "CREATE TABLE names (event_id TEXT NOT NULL, place INTEGER NOT NULL, PRIMARY KEY (event_id, place)) WITHOUT ROWID",
    "CREATE TABLE people (person INTEGER NOT NULL, place INTEGER NOT NULL, PRIMARY KEY (person, place)) WITHOUT ROWID",
    "CREATE TABLE indexed (place INTEGER NOT NULL)",
    "INSERT INTO indexed VALUES (0)",
    "CREATE TABLE lanes (id INTEGER PRIMARY KEY, connector TEXT NOT NULL, client TEXT NOT NULL, "
    "UNIQUE (connector, client))",
    "CREATE TABLE missing (at REAL NOT NULL, count INTEGER NOT NULL)",
    "CREATE TABLE gone (person INTEGER NOT NULL, client TEXT, at REAL NOT NULL)",
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value BLOB NOT NULL)",
)
UPGRADE = (  # from version 1
    "ALTER TABLE passed ADD COLUMN seq INTEGER",
    "ALTER TABLE passed ADD COLUMN event INTEGER",
    "CREATE INDEX passed_event ON passed (event) WHERE event IS NOT NULL",
)
FOUND = (
    "p.place, e.event_id, l.connector, l.client, a.action, a.at, a.outcome, a.reason, a.code, e.received_at"  # a Found
)
WHOLE = "JOIN passed e ON e.place = coalesce(p.event, p.place)"  # the row of a delivery's event
# What is listed of an event by its name or person: that it was accepted, while nothing else is known of it.
TELLING = f"(a.outcome != '{ACCEPTED}' OR NOT EXISTS (SELECT 1 FROM passed r WHERE r.event = p.place))"
MOST_HIDDEN = 100_000  # entries that are looked through for newer ones; beyond, older states are listed, too
OF = "first = (SELECT first FROM attempts WHERE first <= p.place ORDER BY first DESC LIMIT 1) AND a.last >= p.place"

# Of a delivery the last that became of it, and that an event was accepted while nothing else is known of it.
NEWEST = (
    f"NOT EXISTS (SELECT 1 FROM passed r JOIN attempts n ON n.{OF.replace('p.', 'r.').replace('a.last', 'n.last')} "
    f"WHERE r.event = e.place AND r.place > p.place AND (a.outcome = '{ACCEPTED}' OR n.action = a.action) "
    "AND (:until IS NULL OR n.at < :until))"
)

_encode = msgspec.json.Encoder().encode
_stages = msgspec.json.Decoder(Stages).decode
_trace = msgspec.json.Decoder(Trace).decode


class SqliteKeeper:
    """In the file at `path`, made if it is not there, or in memory for MEMORY."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._gate = threading.RLock()  # of the connection that writes
        self._reads = self._gate if self._path == MEMORY else threading.RLock()  # of the other one
        self._db: sqlite3.Connection | None = None
        self._read: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None  # that is open; somebody may have put another in its place
        self._closed = False
        # Of what is not in the indexes yet: hash of lane, id and time -> place of the event; None: not known.
        self._fresh: dict[int, int] | None = None

    # --- written ---

    def salt(self) -> bytes:
        with self._writing() as db:
            db.execute("INSERT OR IGNORE INTO facts VALUES ('salt', ?)", (secrets.token_bytes(32),))
            return bytes(db.execute("SELECT value FROM facts WHERE name = 'salt'").fetchone()[0])

    def write(self, attempts: list[Attempt], missing: list[Missing], people: People) -> None:
        try:
            with self._writing() as db:
                self._write(db, attempts, people)
                db.executemany("INSERT INTO missing VALUES (?, ?)", missing)
        except BaseException:
            self._fresh = None  # places that are none
            raise

    def _write(self, db: sqlite3.Connection, attempts: list[Attempt], people: People) -> None:
        if self._fresh is None:
            _index(db)
            self._fresh = {}
        fresh, place = self._fresh, _last(db)
        first = place + 1
        lanes: dict[tuple[str, str], int] = {}
        events: list[Any] = []  # rows of `passed`, one after the other
        deliveries: list[int] = []  # place and event
        unknown: list[tuple[int, int, Passed]] = []  # place and lane
        made = []
        for each in attempts:
            key = (each.connector, each.client)
            if key not in lanes:
                lanes[key] = _lane(db, *key)
            lane, begin = lanes[key], place + 1
            if each.outcome in (ACCEPTED, UNWANTED):
                for event_id, received_at, whose, body, seq in each.passed:
                    place += 1
                    fresh[hash((lane, event_id, received_at))] = place
                    events += (place, event_id, received_at, *people(whose, body), seq)
            else:
                known = [fresh.get(hash((lane, one[0], one[1]))) for one in each.passed]
                if None in known:
                    for at, event in enumerate(known, begin):
                        if event is None:
                            unknown.append((at, lane, each.passed[at - begin]))
                        else:
                            deliveries += (at, event)
                else:
                    deliveries += chain.from_iterable(enumerate(known, begin))  # type: ignore[arg-type]
                place += len(known)
            trace = None if each.trace is None else _encode(each.trace)
            told = (each.action, each.at, each.outcome, each.reason, each.code, each.tries, each.stages, trace)
            made.append((begin, place, lane, *told))
        before = _known(db, unknown)
        for at, lane, (event_id, received_at, whose, body, seq) in unknown:
            name = hash((lane, event_id, received_at))
            event = before.get(at) or fresh.get(name)
            if event is not None:
                deliveries += (at, event)
            else:
                fresh[name] = at
                events += (at, event_id, received_at, *people(whose, body), seq)
        db.executemany("INSERT INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", made)
        _insert(db, "place, event_id, received_at, person, other, seq", "(?, ?, ?, ?, ?, ?)", events)
        _insert(db, "place, event, event_id, received_at", "(?, ?, '', 0)", deliveries)
        for person, client, at in db.execute("SELECT person, client, at FROM gone").fetchall():
            late = (
                "SELECT place FROM passed p WHERE place >= :first AND (person = :person OR other = :person) "
                f"AND received_at <= :at AND {_OF_CLIENT}"
            )
            given = {"person": person, "first": first, "at": at, "client": client}
            _take_out(db, [place for (place,) in db.execute(late, given)])
        if place - _indexed(db) >= LATER:
            _index(db)
            self._fresh = {}

    def forget(self, people: list[int], text: str | None, *, client: str | None, now: float, dry: bool) -> int:
        subject = Subject(text) if text is not None else None
        with self._reading() as db:
            places = set[int]()
            for person in people:
                for part in (
                    "SELECT place FROM people p WHERE person = :person",
                    "SELECT place FROM passed p WHERE place > :indexed AND (person = :person OR other = :person)",
                ):
                    given = {"person": person, "client": client, "indexed": _indexed(db)}
                    places |= {place for (place,) in db.execute(f"{part} AND {_OF_CLIENT}", given)}
            changed: list[tuple[str, bytes | None, int]] = []
            if subject is not None:
                named = f"SELECT place, event_id FROM passed p WHERE instr(lower(event_id), :text) AND {_OF_CLIENT}"
                found = db.execute(named, {"text": subject.wanted.lower(), "client": client})
                places |= {place for place, event_id in found if subject.named_in(event_id)}
                changed = named_in(db.execute("SELECT first, reason, trace FROM attempts"), subject)
            places |= set(_deliveries(db, places))
        if dry:
            return len(places)
        with self._writing(secure=True) as db:
            self._fresh = None
            _take_out(db, sorted(places))
            db.executemany("INSERT INTO gone VALUES (?, ?, ?)", [(person, client, now) for person in people])
            db.executemany("UPDATE attempts SET reason = ?, trace = ? WHERE first = ?", changed)
        return len(places)

    def expire(self, *, before: float, now: float, max_bytes: int) -> bool:
        with self._writing() as db:
            db.execute("DELETE FROM gone WHERE at < ?", (max(before, now - GONE_S),))
            db.execute("DELETE FROM missing WHERE at < ?", (before,))
            size = _used(db)
            if (
                size <= max_bytes
                and db.execute("SELECT 1 FROM attempts WHERE at < ? LIMIT 1", (before,)).fetchone() is None
            ):
                return False
            _index(db)  # its place is kept where nothing else is: no place is given twice
            self._fresh = {}
            return _remove(db, "at < ?", (before,)) or (size > max_bytes and _remove(db, "1", ()))

    def close(self) -> None:
        with self._reads, self._gate:
            self._closed = True
            self._let_go()

    # --- read ---

    def find(self, query: Query, limit: int) -> list[Found]:
        with self._reading() as db:
            lanes = _lanes(db, query)
            if query.event_id is not None or query.people is not None:
                return _by_event(db, query, lanes, limit)
            return _by_time(db, query, lanes, limit)

    def of_event(self, event_id: str, limit: int) -> list[Followed]:
        with self._reading() as db:
            places = _places(db, Query(event_id=event_id), limit, whole=True)
            rows = db.execute(
                f"SELECT {FOUND}, a.tries, a.last - a.first + 1, a.stages, a.trace, e.seq FROM passed p {WHOLE} "
                f"JOIN attempts a ON a.{OF} JOIN lanes l ON l.id = a.lane "
                "WHERE p.place IN (SELECT value FROM json_each(?)) ORDER BY p.place",
                (_encode(places).decode(),),
            ).fetchall()
        return [
            Followed(
                *(Found(*row[:10]), row[10], row[11], _stages(row[12])),
                None if row[13] is None else _trace(row[13]),
                row[14],
            )
            for row in rows
        ]

    def state(self) -> State:
        with self._reading() as db:
            since = db.execute("SELECT at FROM attempts ORDER BY at LIMIT 1").fetchone()
            missing = db.execute("SELECT sum(count) FROM missing").fetchone()
            return State(since[0] if since else None, missing[0] or 0)

    # --- connections ---

    @contextmanager
    def _writing(self, *, secure: bool = False) -> Iterator[sqlite3.Connection]:
        """`secure`: what is deleted can't be read in the file any more, either."""
        with self._gate:
            try:
                db = self._opened()
                db.execute(f"PRAGMA secure_delete = {'ON' if secure else 'OFF'}")
                db.execute("BEGIN IMMEDIATE")
                yield db
                db.execute("COMMIT")
                if secure:
                    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            except sqlite3.Error as error:
                self._failed(error)
                raise StoreUnavailable(f"{self._path}: {_says(error)}") from error
            finally:
                if self._db is not None and self._db.in_transaction:
                    with suppress(sqlite3.Error):
                        self._db.execute("ROLLBACK")

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """Beside the writer; in memory there is only one connection."""
        with self._reads:
            try:
                yield self._reader()
            except sqlite3.Error as error:
                self._failed(error)
                raise StoreUnavailable(f"{self._path}: {_says(error)}") from error

    def _reader(self) -> sqlite3.Connection:
        if self._path == MEMORY:
            return self._opened()
        if self._read is None or self._file != _identity(self._path):
            with self._gate:
                self._opened()
            self._read = _connect(self._path)
            self._read.execute("PRAGMA query_only = ON")
        return self._read

    def _opened(self) -> sqlite3.Connection:
        if self._closed:
            raise StoreUnavailable(f"{self._path}: the trail is closed")
        if self._db is not None and (self._path == MEMORY or self._file == _identity(self._path)):
            return self._db
        self._db = self._read = self._fresh = None
        try:
            self._db = _prepared(_connect(self._path))
        except StoreUnavailable as error:
            raise StoreUnavailable(f"{self._path}: {error}") from error
        except sqlite3.DatabaseError as error:
            if not _is_damaged(error):
                raise
            remove(self._path)
            self._db = _prepared(_connect(self._path))
        self._file = _identity(self._path)
        return self._db

    def _failed(self, error: sqlite3.Error) -> None:
        """After an error it is opened anew; a damaged file is of use to nobody."""
        if self._path == MEMORY:
            return
        with self._reads, self._gate:
            self._let_go()
            if _is_damaged(error):
                remove(self._path)

    def _let_go(self) -> None:
        for db in (self._read, self._db):
            if db is not None:
                with suppress(sqlite3.Error):
                    db.close()
        self._db = self._read = None


_OF_CLIENT = (
    "(:client IS NULL OR EXISTS (SELECT 1 FROM attempts a JOIN lanes l ON l.id = a.lane "
    f"WHERE a.{OF} AND l.client = :client))"
)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def remove(path: str | os.PathLike[str]) -> None:
    for end in ("", "-wal", "-shm"):
        with suppress(OSError):
            os.unlink(f"{os.fspath(path)}{end}")


def named_in(
    attempts: Iterable[tuple[int, str, bytes | None]], subject: Subject
) -> list[tuple[str, bytes | None, int]]:
    """(reason, exchange, number) of each attempt that names them, without them."""
    changed = []
    for first, reason, given in attempts:
        trace = None if given is None else bytes(given)
        if subject.named_in(reason) or (trace is not None and subject.named_in(trace)):
            kept = None if trace is None else _encode(without(_trace(trace), subject))
            changed.append((subject.taken_out(reason), kept, first))
    return changed


def without(trace: Trace, subject: Subject) -> Trace:
    """An exchange without a person."""
    url, request, reply = (subject.taken_out(text) for text in (trace.url, trace.request, trace.reply))
    return Trace(trace.method, url, trace.status, request, reply)


def newer(version: int, known: int, otherwise: str) -> str:
    """What to do where another version of this program has written the trail."""
    return (
        f"a newer version of this program has written it (format {version}, this one knows {known}); "
        f"start the newer program again, or {otherwise}: no event is lost with it"
    )


def beside(path: Path) -> Path:
    """The file of the trail that goes with a store's file: connect.trail.db with connect.db."""
    return path.with_suffix(f".trail{path.suffix or '.db'}")


def _connect(path: str) -> sqlite3.Connection:
    name = path if path == MEMORY else f"file:{quote(os.path.abspath(path))}?mode=rwc"
    return sqlite3.connect(
        name, uri=path != MEMORY, timeout=BUSY_S, isolation_level=None, check_same_thread=False, cached_statements=256
    )


def _prepared(db: sqlite3.Connection) -> sqlite3.Connection:
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA wal_autocheckpoint = 4000")
        db.execute("PRAGMA journal_size_limit = 33554432")
        db.execute("PRAGMA cache_size = -16000")
        db.execute("BEGIN IMMEDIATE")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, 1, VERSION):
            raise StoreUnavailable(newer(version, VERSION, "remove the file"))
        if version != VERSION:
            for statement in UPGRADE if version else SCHEMA:
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("COMMIT")
    except BaseException:
        db.close()
        raise
    return db


def _is_damaged(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _says(error: sqlite3.Error) -> str:
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None and code & 0xFF in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return f"{error}; check that the file and its folder can be read and written"
    return str(error)


def _whole(text: str) -> str:
    return text.encode(errors="replace").decode()


def _lane(db: sqlite3.Connection, connector: str, client: str) -> int:
    db.execute("INSERT OR IGNORE INTO lanes (connector, client) VALUES (?, ?)", (connector, client))
    found = db.execute("SELECT id FROM lanes WHERE connector = ? AND client = ?", (connector, client)).fetchone()
    return int(found[0])


def _lanes(db: sqlite3.Connection, query: Query) -> list[int] | None:
    """Those that are meant; None: all of them."""
    if query.connector is None and query.client is None:
        return None
    sql = "SELECT id FROM lanes WHERE (?1 IS NULL OR connector = ?1) AND (?2 IS NULL OR client = ?2) LIMIT ?3"
    return [lane for (lane,) in db.execute(sql, (query.connector, query.client, MOST_LANES))]


def _places(db: sqlite3.Connection, query: Query, limit: int, *, whole: bool = False) -> list[int]:
    """
    Where events of this name, or of these people, stand with their deliveries: the newest, but for a name's beginning.

    `whole`: the events themselves are among them, however many deliveries there are.
    """
    indexed, below = _indexed(db), query.before.place if query.before is not None else 2**62
    order = "" if query.prefix else "ORDER BY place DESC"
    wanted: list[tuple[str, str, str, dict[str, Any]]] = []  # the index, what is looked for there and behind it
    if query.event_id is not None:
        name = _whole(query.event_id)
        where = "event_id >= :name AND event_id < :end" if query.prefix else "event_id = :name"
        wanted.append(("names", where, where, {"name": name, "end": f"{name}\U0010ffff"}))
    for person in query.people or ():
        wanted.append(("people", "person = :person", "(person = :person OR other = :person)", {"person": person}))
    found: list[int] = []
    for table, where, behind, values in wanted:
        for sql in (
            f"SELECT place FROM {table} WHERE {where} AND place < :below {order} LIMIT :limit",
            "SELECT place FROM passed WHERE place > :indexed AND place < :below AND event IS NULL "
            f"AND {behind} {order} LIMIT :limit",
        ):
            given = {**values, "below": below, "limit": limit, "indexed": indexed}
            found += [place for (place,) in db.execute(sql, given)]
    found = sorted(set(found), reverse=True)[:limit]
    given = {"events": _encode(found).decode(), "below": below, "limit": limit}
    of = "event IN (SELECT value FROM json_each(:events)) AND place < :below ORDER BY place DESC LIMIT :limit"
    both = found + [place for (place,) in db.execute(f"SELECT place FROM passed WHERE {of}", given)]
    return both if whole else sorted(set(both), reverse=True)[:limit]


def _by_event(db: sqlite3.Connection, query: Query, lanes: list[int] | None, limit: int) -> list[Found]:
    """By id or person: of MOST_LOOKED_AT at most the rest is looked at one by one."""
    places = _places(db, query, MOST_LOOKED_AT)
    filters: str = "1"
    allowed: list[Any] = [_encode(places).decode()]
    if query.outcomes is None:
        filters = TELLING
    for name, at in (("a.at >= ?", query.since), ("a.at < ?", query.until)):
        if at is not None:
            filters += f" AND {name}"
            allowed.append(at)
    for column, ones in (("a.outcome", query.outcomes), ("a.lane", lanes)):
        if ones is not None:
            filters += f" AND {column} IN (SELECT value FROM json_each(?))"
            allowed.append(_encode(ones).decode())
    sql = (
        f"SELECT {FOUND} FROM passed p {WHOLE} JOIN attempts a ON a.{OF} JOIN lanes l ON l.id = a.lane "
        f"WHERE p.place IN (SELECT value FROM json_each(?)) AND {filters} ORDER BY p.place DESC LIMIT ?"
    )
    return [Found(*row) for row in db.execute(sql, (*allowed, limit))]


def _by_time(db: sqlite3.Connection, query: Query, lanes: list[int] | None, limit: int) -> list[Found]:
    """The newest of each lane and outcome that is meant, by an index, put together; where any is, the newest states."""
    rows: list[Found] = []
    most, looked = limit, 0
    while True:
        found: list[tuple[float, int, int]] = []  # at, first, last
        for lane in [None] if lanes is None else lanes:
            for outcome in [None] if query.outcomes is None else query.outcomes:
                found += _attempts(db, query, lane, outcome, most)
        found.sort(reverse=True)
        for at, first, last in found[:most]:
            if query.before is not None and at == query.before.at:
                last = min(last, query.before.place - 1)
            sql = (
                f"SELECT {FOUND} FROM passed p {WHOLE} JOIN attempts a ON a.first = :first "
                "JOIN lanes l ON l.id = a.lane WHERE p.place BETWEEN :first AND :last "
                f"{f'AND {NEWEST}' if query.outcomes is None and looked < MOST_HIDDEN else ''} "
                "ORDER BY p.place DESC LIMIT :limit"
            )
            given = {"first": first, "last": last, "limit": limit - len(rows), "until": query.until}
            rows += [Found(*row) for row in db.execute(sql, given)]
            looked += last - first + 1
            if len(rows) >= limit:
                return rows
        if len(found) < most:
            return rows
        query = query._replace(before=Cursor(*found[most - 1][:2]))
        most = min(2 * most, MOST_LOOKED_AT)


def _attempts(
    db: sqlite3.Connection, query: Query, lane: int | None, outcome: str | None, limit: int
) -> list[tuple[float, int, int]]:
    where, values = [], []
    for name, value in (
        ("lane = ?", lane),
        ("outcome = ?", outcome),
        ("at >= ?", query.since),
        ("at < ?", query.until),
    ):
        if value is not None:
            where.append(name)
            values.append(value)
    if query.before is not None:
        where.append("(at, first) < (?, ?)")
        values += [query.before.at, query.before.place]
    sql = (
        f"SELECT at, first, last FROM attempts WHERE {' AND '.join(where) or '1'} ORDER BY at DESC, first DESC LIMIT ?"
    )
    return db.execute(sql, (*values, limit)).fetchall()


def _indexed(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT place FROM indexed").fetchone()[0])


def _last(db: sqlite3.Connection) -> int:
    """The highest place that was given."""
    last: int | None = db.execute("SELECT max(last) FROM attempts").fetchone()[0]
    return max(last or 0, _indexed(db))


def _index(db: sqlite3.Connection) -> None:
    """What came since is put into the indexes, in their order."""
    since = (_indexed(db),)
    new = "FROM passed WHERE place > ?1 AND event IS NULL"
    db.execute(f"INSERT INTO names SELECT event_id, place {new} ORDER BY 1, 2", since)
    db.execute(
        f"INSERT INTO people SELECT person, place {new} AND person IS NOT NULL "
        f"UNION ALL SELECT other, place {new} AND other IS NOT NULL ORDER BY 1, 2",
        since,
    )
    db.execute("UPDATE indexed SET place = ?", (_last(db),))


def _insert(db: sqlite3.Connection, columns: str, row: str, values: list[Any]) -> None:
    """Many rows with one statement."""
    step = ROWS * row.count("?")
    for at in range(0, len(values), step):
        part = values[at : at + step]
        sql = f"INSERT INTO passed ({columns}) VALUES {', '.join([row] * (len(part) // row.count('?')))}"
        try:
            db.execute(sql, part)
        except UnicodeEncodeError:  # half of a character
            db.execute(sql, [_whole(each) if isinstance(each, str) else each for each in part])


def _known(db: sqlite3.Connection, unknown: Sequence[tuple[int, int, Passed]]) -> dict[int, int]:
    """By place: where the event of a delivery stands, if it is in the index: of that lane, id and time."""
    if not unknown:
        return {}
    wanted = [(place, lane, _whole(one[0]), one[1]) for place, lane, one in unknown]
    sql = f"""
        SELECT json_extract(j.value, '$[0]'), e.place
        FROM json_each(?) j CROSS JOIN names n ON n.event_id = json_extract(j.value, '$[2]')
        JOIN passed e ON e.place = n.place AND abs(e.received_at - json_extract(j.value, '$[3]')) < 1e-6
        JOIN attempts a ON a.{OF.replace("p.", "e.")} AND a.lane = json_extract(j.value, '$[1]')
    """
    return dict(db.execute(sql, (_encode(wanted).decode(),)).fetchall())


def _deliveries(db: sqlite3.Connection, events: Iterable[int]) -> list[int]:
    of = "SELECT place FROM passed WHERE event IN (SELECT value FROM json_each(?))"
    return [place for (place,) in db.execute(of, (_encode(list(events)).decode(),))]


def _take_out(db: sqlite3.Connection, places: Sequence[int]) -> None:
    """With the deliveries of those that are events."""
    which = "SELECT {}, place FROM passed WHERE place IN (SELECT value FROM json_each(?))"
    given = (_encode(places).decode(),)
    db.execute(f"DELETE FROM names WHERE (event_id, place) IN ({which.format('event_id')})", given)
    for column in ("person", "other"):
        db.execute(f"DELETE FROM people WHERE (person, place) IN ({which.format(column)})", given)
    db.execute("DELETE FROM passed WHERE event IN (SELECT value FROM json_each(?))", given)
    db.execute("DELETE FROM passed WHERE place IN (SELECT value FROM json_each(?))", given)


def _remove(db: sqlite3.Connection, which: str, values: Sequence[Any]) -> bool:
    """A part of the attempts, the oldest first, with their deliveries; may there be more?"""
    places: list[int] = []
    attempts: list[tuple[int]] = []
    for first, last in db.execute(f"SELECT first, last FROM attempts WHERE {which} ORDER BY at LIMIT {PART}", values):
        attempts.append((first,))
        places += range(first, last + 1)
        if len(places) >= PART:
            break
    if places:
        _take_out(db, places)
        db.executemany("DELETE FROM attempts WHERE first = ?", attempts)
    return len(places) >= PART


def _used(db: sqlite3.Connection) -> int:
    size, pages, free = (
        db.execute(f"PRAGMA {of}").fetchone()[0] for of in ("page_size", "page_count", "freelist_count")
    )
    return int(size * (pages - free))
