"""
A trail in a SQLite file of its own, or in memory.

Losing the file loses nobody's event; it may lose its last second with the power, and a damaged one is begun anew.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from engine.errors import StoreUnavailable
from engine.trail import finding, writing
from engine.trail.earlier import OF_SQLITE, taken_over
from engine.trail.entries import newer
from engine.trail.tables import SCHEMA, VERSION, marks
from engine.trail.writing import Memory, Writing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from engine.trail.entries import Attempt, Followed, Found, Missing, People, Query, State, Taken

MEMORY = ":memory:"
BUSY_S = 10.0


class SqliteDb:
    """As tables.Db says."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def rows(self, sql: str, *values: Any) -> list[Any]:
        return self._connection.execute(sql, values).fetchall()

    def send(self, sql: str, *values: Any) -> object:
        return self._connection.execute(sql, values)

    def insert(self, table: str, rows: Sequence[Sequence[Any]]) -> None:
        if rows:
            self._connection.executemany(f"INSERT INTO {table} VALUES ({marks(rows[0])})", rows)


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
        self._memory = Memory()

    # --- written ---

    def salt(self) -> bytes:
        with self._reading() as db:
            return bytes(db.rows("SELECT salt FROM trail_facts")[0][0])

    def write(self, taken: list[Taken], attempts: list[Attempt], missing: list[Missing], people: People) -> None:
        with self._writing() as db:
            Writing(db, self._memory, people).write(taken, attempts, missing)

    def forget(self, people: list[int], text: str | None, *, client: str | None, now: float, dry: bool) -> int:
        if not dry:
            with self._writing() as db:  # before they are looked for: that takes a while, and others write meanwhile
                writing.gone(db, people, client, now)
        with self._reading() as db:
            places, count = writing.to_forget(db, people, text, client)
            changed = writing.named_in(db, text)
        if not dry:
            with self._writing(secure=True) as db:
                self._memory = Memory()
                writing.forget(db, places, changed)
        return count

    def expire(self, *, before: float, now: float, max_bytes: int) -> bool:
        with self._writing() as db:
            return writing.expire(db, before=before, now=now) or (
                _used(db) > max_bytes and writing.expire(db, before=writing.ANY_TIME, now=now)
            )

    def close(self) -> None:
        with self._reads, self._gate:
            self._closed = True
            self._let_go()

    # --- read ---

    def find(self, query: Query, limit: int) -> list[Found]:
        with self._reading() as db:
            return finding.find(db, query, limit)

    def of_event(self, event_id: str, limit: int) -> list[Followed]:
        with self._reading() as db:
            return finding.of_event(db, event_id, limit)

    def state(self) -> State:
        with self._reading() as db:
            return finding.state(db)

    # --- connections ---

    @contextmanager
    def _writing(self, *, secure: bool = False) -> Iterator[SqliteDb]:
        """`secure`: what is deleted can't be read in the file any more, either (FAST: in pages in use)."""
        with self._named(), self._gate:
            try:
                db = self._opened()
                db.execute(f"PRAGMA secure_delete = {'ON' if secure else 'FAST'}")
                db.execute("BEGIN IMMEDIATE")
                yield SqliteDb(db)
                db.execute("COMMIT")
                if secure:
                    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            except BaseException:
                self._memory = Memory()  # it may know of places that are none
                raise
            finally:
                if self._db is not None and self._db.in_transaction:
                    with suppress(sqlite3.Error):
                        self._db.execute("ROLLBACK")

    @contextmanager
    def _reading(self) -> Iterator[SqliteDb]:
        """Beside the writer; in memory there is only one connection."""
        with self._named(), self._reads:
            yield SqliteDb(self._reader())

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Around the locks: who lets go of both connections takes both, and whoever reads has the first already."""
        try:
            yield
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
        self._db = self._read = None
        self._memory = Memory()
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
        if version > VERSION or version < 0:
            raise StoreUnavailable(newer(version, VERSION, "remove the file"))
        if version != VERSION:
            for statement in SCHEMA:
                db.execute(statement)
            db.execute("INSERT INTO trail_facts VALUES (1, ?, 1)", (secrets.token_bytes(32),))
            if version:
                db.execute("PRAGMA secure_delete = ON")  # nothing is left of it where nobody looks when erasing
                taken_over(SqliteDb(db), OF_SQLITE[version])
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


def _used(db: SqliteDb) -> int:
    size, pages, free = (db.rows(f"PRAGMA {of}")[0][0] for of in ("page_size", "page_count", "freelist_count"))
    return int(size * (pages - free))
