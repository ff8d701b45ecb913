"""Connections to one server, each lent to one thread at a time, and what is done with one: a transaction, or a read."""

from __future__ import annotations

import logging
import re
import select
import threading
import time
from contextlib import contextmanager, suppress
from random import uniform
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg import pq
from psycopg.adapt import Buffer, Dumper, Loader
from psycopg.types.numeric import Int8BinaryDumper

from engine.clock import SharedClock
from engine.errors import StoreUnavailable
from engine.stores.postgres.faults import AGAIN, unavailable, uncertain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from engine.stores.postgres.address import Address

T = TypeVar("T")

# Beside what it raises it would write a line of its own among those of our log.
logging.getLogger("psycopg").setLevel(logging.ERROR)
Row = tuple[Any, ...]

TRIES = 8  # of a transaction that others got in the way of
PATIENCE_S = 10.0  # until one of many threads gets a connection
IDLE_S = 300.0  # a connection that nobody needed for so long is closed

BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

# The order of an index is the order that is asked for, everywhere; statistics of a queue are always out of date, and by
# them the server would now and then rather sort a million rows.
_SETTINGS = (
    "SET statement_timeout = '60s'",
    "SET idle_in_transaction_session_timeout = '30s'",
    "SET tcp_keepalives_idle = 10",  # a host that vanished keeps no lock for longer, whatever it was doing
    "SET tcp_keepalives_interval = 5",
    "SET tcp_keepalives_count = 3",
    "SET tcp_user_timeout = 30000",
    "SET plan_cache_mode = force_generic_plan",
    *(f"SET enable_{kind} = off" for kind in ("seqscan", "bitmapscan", "sort", "hashjoin", "mergejoin")),
    "SET jit = off",
)


class Connection(psycopg.Connection[Row]):
    """A connection that knows when it was last needed, and whether something was sent that the server may add to."""

    used_at = 0.0
    open_ended: psycopg.Pipeline | None = None

    def end_it(self) -> None:
        """
        Say that for now nothing more comes (Sync). Until then the server takes a host that was cut off or stopped for
        one that is busy, and no timeout of its own takes the host's locks away.
        """
        pipeline, self.open_ended = self.open_ended, None
        if pipeline is not None:
            pipeline.sync()


class _Answer(psycopg.Cursor[Row]):
    """Nobody waits for an answer to what is open-ended."""

    connection: Connection

    def fetchone(self) -> Row | None:
        self.connection.end_it()
        return super().fetchone()

    def fetchall(self) -> list[Row]:
        self.connection.end_it()
        return super().fetchall()


# Text may hold a NUL, which PostgreSQL's can't.
_ESCAPE = "\x1a"


class _TextDumper(Dumper):
    oid = psycopg.adapters.types["text"].oid
    format = pq.Format.BINARY

    def dump(self, obj: str) -> bytes:
        if "\0" in obj or _ESCAPE in obj:
            obj = obj.replace(_ESCAPE, f"{_ESCAPE}a").replace("\0", f"{_ESCAPE}0")
        return obj.encode()


class _TextLoader(Loader):
    format = pq.Format.BINARY

    def load(self, data: Buffer) -> str:
        text = bytes(data).decode()
        return text if _ESCAPE not in text else re.sub(f"{_ESCAPE}(.)", _unescaped, text)


def _unescaped(found: re.Match[str]) -> str:
    return "\0" if found[1] == "0" else _ESCAPE


class Db:
    """
    A connection while something is done with it. What is sent goes out with the next thing whose answer is asked for:
    ten statements that need nothing of each other cost one way to the server and back.
    """

    def __init__(self, connection: Connection, pipeline: psycopg.Pipeline) -> None:
        self._connection, self._pipeline = connection, pipeline
        self.committing = False
        self.kept: list[Callable[[], object]] = []  # done once it is committed

    def send(self, sql: str, *values: Any) -> psycopg.Cursor[Row]:
        cursor = self._connection.execute(sql, values, binary=True)
        self._connection.open_ended = self._pipeline
        return cursor

    def rows(self, sql: str, *values: Any) -> list[Row]:
        return self.send(sql, *values).fetchall()

    def row(self, sql: str, *values: Any) -> Row | None:
        return self.send(sql, *values).fetchone()

    def value(self, sql: str, *values: Any) -> Any:
        row = self.row(sql, *values)
        return None if row is None else row[0]

    def written(self, sql: str, *values: Any) -> int:
        """How many rows were."""
        cursor = self.send(sql, *values)
        self._connection.end_it()
        return cursor.rowcount

    def commit(self) -> None:
        """At the end of a transaction; what was sent before can be read after it."""
        if not self.committing:
            self.committing = True
            self.send("COMMIT")
            self._connection.end_it()


class Connections:
    """As many as are needed at once, `connections` of the address at most; they know the server's time."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self.clock = SharedClock()
        self._idle: list[Connection] = []
        self._lent = 0
        self._closed = False
        self._changed = threading.Condition()

    def transact(self, work: Callable[[Db], T]) -> T:
        """
        All of `work` or nothing of it, durable when this returns; done again where others got in its way, or where the
        connection broke before it was to be committed.
        """
        for tries in range(1, TRIES + 1):
            again, error = False, None
            with self.lent() as connection:
                db = None
                try:
                    with connection.pipeline() as pipeline:
                        db = Db(connection, pipeline)
                        db.send(BEGIN)
                        value = work(db)
                        db.commit()
                    for keep in db.kept:
                        keep()
                    return value
                except psycopg.Error as caught:
                    error, broken = caught, _is_broken(connection)
                    if broken and db is not None and db.committing:
                        raise uncertain(self._address.shown) from caught
                    again = tries < TRIES and (broken or isinstance(caught, AGAIN))
                    if not again:
                        raise unavailable(self._address.shown, caught) from caught
                finally:
                    _end(connection)
            time.sleep(0 if error is None else uniform(0, 0.005 * 2**tries))
        raise AssertionError("a transaction ends or raises")

    def read(self, work: Callable[[Db], T], *, begin: str | None = None) -> T:
        """Statements that write nothing; with `begin` in a transaction that is not kept."""
        try:
            return self._once(work, begin)
        except psycopg.Error as error:
            if error.sqlstate is not None and not error.sqlstate.startswith("57P0"):
                raise unavailable(self._address.shown, error) from error
        return self.once(work, begin=begin)  # the connection broke

    def once(self, work: Callable[[Db], T], *, begin: str | None = None) -> T:
        """One statement that may write."""
        try:
            return self._once(work, begin)
        except psycopg.Error as error:
            raise unavailable(self._address.shown, error) from error

    def snapshot(self, work: Callable[[Db], T]) -> T:
        """Several reads that see the same moment."""
        return self.read(work, begin=SNAPSHOT)

    def cleaned(self, tables: Sequence[str]) -> bool:
        """Tables written anew without what was deleted; False where somebody kept one for too long."""
        with self.lent() as connection:
            try:
                connection.execute(b"SET lock_timeout = '5s'; SET statement_timeout = 0")
                for table in tables:
                    connection.execute(f"VACUUM FULL {table}".encode())
            except psycopg.errors.LockNotAvailable:
                return False
            except psycopg.Error as error:
                raise unavailable(self._address.shown, error) from error
            finally:
                connection.close()  # with its settings
        return True

    def _once(self, work: Callable[[Db], T], begin: str | None) -> T:
        with self.lent() as connection:
            try:
                with connection.pipeline() as pipeline:
                    db = Db(connection, pipeline)
                    if begin is not None:
                        db.send(begin)
                    return work(db)
            finally:
                _end(connection)

    @contextmanager
    def lent(self) -> Iterator[Connection]:
        connection = self._borrow()
        try:
            if self.clock.asks:
                ask_time(connection, self.clock)
            yield connection
        finally:
            self._give_back(connection)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            for connection in self._idle:
                connection.close()
            self._idle.clear()
            self._changed.notify_all()

    def _borrow(self) -> Connection:
        deadline = time.monotonic() + PATIENCE_S
        with self._changed:
            while True:
                if self._closed:
                    raise StoreUnavailable(f"{self._address.shown}: the store is closed")
                while self._idle:
                    connection = self._idle.pop()
                    if _is_alive(connection):
                        self._lent += 1
                        return connection
                    connection.close()
                if self._lent < self._address.connections:
                    self._lent += 1
                    break
                if not self._changed.wait(deadline - time.monotonic()):
                    most = self._address.connections
                    raise StoreUnavailable(f"{self._address.shown}: all {most} connections are busy; see ?connections=")
        try:
            return connect(self._address)
        except BaseException:
            with self._changed:
                self._lent -= 1
                self._changed.notify()
            raise

    def _give_back(self, connection: Connection) -> None:
        over: list[Connection] = []
        connection.used_at = time.monotonic()
        with self._changed:
            self._lent -= 1
            if _is_broken(connection) or self._closed:
                over.append(connection)
            else:
                self._idle.append(connection)
            while self._idle and self._idle[0].used_at < connection.used_at - IDLE_S:
                over.append(self._idle.pop(0))
            self._changed.notify()
        for each in over:
            each.close()


def connect(address: Address) -> Connection:
    """A connection of one's own. StoreUnavailable says why there is none."""
    try:
        connection = Connection.connect(address.url, autocommit=True, prepare_threshold=1, cursor_factory=_Answer)
    except psycopg.ProgrammingError:  # its text may hold the password
        raise StoreUnavailable(f"{address.shown}: the URL has a parameter that libpq does not know") from None
    except psycopg.Error as error:
        raise unavailable(address.shown, error) from None
    try:
        connection.prepared_max = 300
        connection.adapters.register_dumper(str, _TextDumper)
        connection.adapters.register_dumper(int, Int8BinaryDumper)
        for kind in ("text", "varchar"):
            connection.adapters.register_loader(kind, _TextLoader)
        connection.execute(f'SET search_path = "{address.schema}"'.encode())
        _set(connection)
    except psycopg.Error as error:
        connection.close()
        raise unavailable(address.shown, error) from error
    return connection


def ask_time(connection: Connection, clock: SharedClock) -> None:
    """Silent where the connection turns out to be broken: whoever uses it next says so."""
    sent = time.monotonic()
    try:
        row = connection.execute(b"SELECT extract(epoch FROM clock_timestamp())::float8", binary=True).fetchone()
    except psycopg.Error:
        return
    if row is not None:
        clock.told(row[0], row[0], sent=sent, received=time.monotonic())


def _set(connection: Connection) -> None:
    try:
        connection.execute("; ".join(_SETTINGS).encode())
    except psycopg.Error as error:
        if _is_broken(connection):
            raise
        del error  # a server that is no PostgreSQL knows some of them
        for setting in _SETTINGS:
            with suppress(psycopg.Error):
                connection.execute(setting.encode())


def _is_broken(connection: Connection) -> bool:
    return connection.closed or connection.info.transaction_status == pq.TransactionStatus.UNKNOWN


def _is_alive(connection: Connection) -> bool:
    """Nothing is to be read on a connection that is idle, unless the server ended it."""
    if _is_broken(connection):
        return False
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return not poll.poll(0)


def _end(connection: Connection) -> None:
    """Out of whatever transaction it is in; one that can't get out is broken."""
    connection.open_ended = None
    if not _is_broken(connection) and connection.info.transaction_status != pq.TransactionStatus.IDLE:
        try:
            connection.execute(b"ROLLBACK")
        except psycopg.Error:
            connection.close()
