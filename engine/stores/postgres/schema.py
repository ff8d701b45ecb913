"""The tables, version by version, and how a database comes to have them: in one schema, made by who starts first."""

from __future__ import annotations

import time
from contextlib import suppress
from random import uniform
from typing import TYPE_CHECKING

import psycopg

from engine.errors import StoreUnavailable
from engine.stores.postgres.connections import BEGIN, connect
from engine.stores.postgres.faults import AGAIN, unavailable

if TYPE_CHECKING:
    from engine.stores.postgres.address import Address
    from engine.stores.postgres.connections import Connection

PROGRAM = "daxgo-connect"
_OURS = {"program", "version"}  # the columns of schema_version
STARTS = 20  # that may get into each other's way
_JUST_MADE = (psycopg.errors.UniqueViolation, psycopg.errors.DuplicateObject, psycopg.errors.DuplicateTable)

_NUMBERED = "BIGINT PRIMARY KEY DEFAULT nextval('{}')"
_TEXT = 'TEXT COLLATE "C"'
_TIME = "DOUBLE PRECISION"

FIRST = (
    "CREATE SEQUENCE lanes_id",
    # `low_at`: no delivery outside of a half-done batch has an earlier turn. A reader begins there, and need not walk
    # over all that has left since the table was last cleaned. A lease begins without it, so that no mistake lasts.
    f"""
    CREATE TABLE lanes (
        id {_NUMBERED.format("lanes_id")}, connector {_TEXT} NOT NULL, client {_TEXT} NOT NULL,
        wake_at {_TIME}, stirred BOOLEAN NOT NULL DEFAULT false, low_at {_TIME} NOT NULL DEFAULT '-Infinity',
        owner {_TEXT}, until {_TIME}, fence BIGINT NOT NULL DEFAULT 0,
        paused BOOLEAN NOT NULL DEFAULT false, reason TEXT, not_before {_TIME} NOT NULL DEFAULT 0,
        failures BIGINT NOT NULL DEFAULT 0, failing_since {_TIME},
        accepted BIGINT NOT NULL DEFAULT 0, delivered BIGINT NOT NULL DEFAULT 0,
        rejected BIGINT NOT NULL DEFAULT 0, skipped BIGINT NOT NULL DEFAULT 0,
        UNIQUE (connector, client))
    """,
    f"CREATE TABLE actions (lane BIGINT NOT NULL, action {_TEXT} NOT NULL, PRIMARY KEY (lane, action))",
    "CREATE SEQUENCE deliveries_seq",
    # An index takes no text of several kilobytes: of a long key, `key` is the beginning and a digest.
    f"""
    CREATE TABLE deliveries (
        seq {_NUMBERED.format("deliveries_seq")}, lane BIGINT NOT NULL, action {_TEXT} NOT NULL,
        key {_TEXT}, long_key {_TEXT}, id {_TEXT} NOT NULL, event_id {_TEXT} NOT NULL, body BYTEA NOT NULL,
        received_at {_TIME} NOT NULL, due_at {_TIME} NOT NULL, turn_at {_TIME} NOT NULL, attempts BIGINT NOT NULL,
        batch {_TEXT}, waits_for BIGINT[], past_rejected BOOLEAN NOT NULL DEFAULT false, again_at {_TIME}, tries TEXT)
    """,
    "CREATE INDEX deliveries_turn ON deliveries (lane, action, turn_at, seq) WHERE batch IS NULL",
    "CREATE INDEX deliveries_key ON deliveries (lane, action, key, seq) WHERE key IS NOT NULL",
    "CREATE INDEX deliveries_batch ON deliveries (lane, action, batch, seq) WHERE batch IS NOT NULL",
    "CREATE INDEX deliveries_held ON deliveries (lane, action, key, seq) WHERE batch IS NOT NULL",
    "CREATE INDEX deliveries_oldest ON deliveries (lane, received_at)",
    "CREATE INDEX deliveries_waits ON deliveries (lane, event_id) WHERE waits_for IS NOT NULL",
    "CREATE SEQUENCE batches_number",
    f"""
    CREATE TABLE batches (
        number BIGINT NOT NULL DEFAULT nextval('batches_number'), lane BIGINT NOT NULL, batch {_TEXT} NOT NULL,
        action {_TEXT} NOT NULL, progress BYTEA NOT NULL, PRIMARY KEY (lane, batch))
    """,
    "CREATE SEQUENCE dead_id",
    f"""
    CREATE TABLE dead (
        id {_NUMBERED.format("dead_id")}, lane BIGINT NOT NULL, action {_TEXT} NOT NULL, key {_TEXT},
        delivery_id {_TEXT} NOT NULL, event_id {_TEXT} NOT NULL, body BYTEA NOT NULL, received_at {_TIME} NOT NULL,
        at {_TIME} NOT NULL, attempts BIGINT NOT NULL, reason {_TEXT} NOT NULL, code {_TEXT} NOT NULL,
        expected BOOLEAN NOT NULL, trace BYTEA, tries TEXT, followers TEXT)
    """,
    "CREATE INDEX dead_lane ON dead (lane, id)",
    "CREATE INDEX dead_event ON dead (lane, event_id)",
    "CREATE INDEX dead_delivery ON dead (delivery_id)",
    "CREATE INDEX dead_at ON dead (at)",
    f"""
    CREATE TABLE tokens (
        connector {_TEXT} NOT NULL, client {_TEXT} NOT NULL, name {_TEXT} NOT NULL, saved BYTEA NOT NULL,
        obtained_at {_TIME} NOT NULL, expires_at {_TIME}, fingerprint TEXT NOT NULL,
        PRIMARY KEY (connector, client, name))
    """,
    f"CREATE TABLE locks (name {_TEXT} PRIMARY KEY, owner {_TEXT} NOT NULL, until {_TIME} NOT NULL)",
    "CREATE INDEX locks_until ON locks (until)",
    # The row of a limit that is locked by whoever takes from it. `total` is the running sum of costs, so that what a
    # window holds is a difference and not a sum over its rows.
    f"""
    CREATE TABLE limits (
        name {_TEXT} PRIMARY KEY, total BIGINT NOT NULL DEFAULT 0, at {_TIME} NOT NULL DEFAULT '-Infinity',
        until {_TIME} NOT NULL DEFAULT '-Infinity')
    """,
    "CREATE INDEX limits_until ON limits (until)",
    f"""
    CREATE TABLE uses (
        name {_TEXT} NOT NULL, total BIGINT NOT NULL, at {_TIME} NOT NULL, cost BIGINT NOT NULL, until {_TIME} NOT NULL,
        PRIMARY KEY (name, total))
    """,
    "CREATE INDEX uses_until ON uses (until)",
    f"""
    CREATE TABLE slots (
        name {_TEXT} NOT NULL, owner {_TEXT} NOT NULL, until {_TIME} NOT NULL, PRIMARY KEY (name, owner))
    """,
    "CREATE INDEX slots_until ON slots (until)",
    f"""
    CREATE TABLE dedupe (
        lane BIGINT NOT NULL, event_id {_TEXT} NOT NULL, until {_TIME} NOT NULL, PRIMARY KEY (lane, event_id))
    """,
    "CREATE INDEX dedupe_until ON dedupe (until)",
    f"CREATE TABLE marks (name {_TEXT} PRIMARY KEY, value {_TEXT} NOT NULL)",
    "CREATE TABLE forgotten (times BIGINT NOT NULL)",
    "INSERT INTO forgotten VALUES (0)",
)
# What is written whole takes the place of all that was added to it, and what leaves takes that along.
PARTS = (
    "CREATE SEQUENCE parts_number",
    f"""
    CREATE TABLE parts (
        number {_NUMBERED.format("parts_number")}, lane BIGINT NOT NULL, batch {_TEXT} NOT NULL, part TEXT NOT NULL,
        FOREIGN KEY (lane, batch) REFERENCES batches (lane, batch) ON DELETE CASCADE)
    """,
    "CREATE INDEX parts_batch ON parts (lane, batch, number)",
)
SCHEMA = (FIRST, PARTS)  # each takes a database from the version before it; a new one goes through all of them
VERSION = len(SCHEMA)
TABLES = (
    *("lanes", "actions", "deliveries", "batches", "dead", "tokens", "locks", "limits", "uses", "slots", "dedupe"),
    *("marks", "forgotten", "parts"),
)

# What PostgreSQL is told of its own housekeeping; another server may know none of it. A row that changes with every
# commit has room beside it for its next version; a queue is cleaned when so many have left, not when a part of it has.
_QUEUE = "autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = {}, autovacuum_vacuum_cost_delay = 0"
TUNING = (
    "ALTER TABLE lanes SET (fillfactor = 20)",
    "ALTER TABLE limits SET (fillfactor = 20)",
    *(
        f"ALTER TABLE {table} SET ({_QUEUE.format(most)})"
        for table, most in {
            "deliveries": 20_000,
            "dedupe": 50_000,
            "uses": 20_000,
            "slots": 5_000,
            "locks": 5_000,
            "lanes": 2_000,
            "limits": 2_000,
        }.items()
    ),
)


def prepare(address: Address) -> bool:
    """Make the tables, or bring them up to date; can the server wake those who wait?"""
    connection = connect(address)
    try:
        for starts in range(1, STARTS + 1):
            try:
                _prepare(connection, address)
                return _notifies(connection, address)
            except (*AGAIN, *_JUST_MADE) as error:
                if starts == STARTS:  # two that make the same schema at once
                    raise unavailable(address.shown, error) from error
                connection.execute(b"ROLLBACK")
                time.sleep(uniform(0, 0.1))
    except psycopg.Error as error:
        raise unavailable(address.shown, error) from error
    finally:
        connection.close()
    raise AssertionError("a start succeeds or raises")


def version_of(address: Address) -> int | None:
    """Of the tables that are there; None without any. Nothing is changed by asking."""
    connection = connect(address)
    try:
        return _version(connection, address)
    except psycopg.Error as error:
        raise unavailable(address.shown, error) from error
    finally:
        connection.close()


def _prepare(connection: Connection, address: Address) -> None:
    [[encoding]] = connection.execute("SHOW server_encoding")
    if str(encoding).replace("-", "").upper() != "UTF8":
        raise StoreUnavailable(f"{address.shown}: the database is encoded as {encoding}; the store needs one of UTF8")
    connection.execute(BEGIN)
    names = "SELECT 1 FROM information_schema.schemata WHERE schema_name = %s"
    if connection.execute(names, [address.schema]).fetchone() is None:  # who may not make one may still use one
        connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{address.schema}"'.encode())
    found = _version(connection, address)
    if found == VERSION:  # a start waits for nobody, least of all for a host that was cut off
        connection.execute(b"COMMIT")
        return
    if found is None:
        connection.execute("CREATE TABLE schema_version (program TEXT PRIMARY KEY, version BIGINT NOT NULL)")
        connection.execute("INSERT INTO schema_version (program, version) VALUES (%s, 0)", [PROGRAM])
    connection.execute("SELECT 1 FROM schema_version FOR UPDATE")  # whoever makes them at the same time waits here
    version = _version(connection, address) or 0
    for statement in (each for part in SCHEMA[version:] for each in part):
        connection.execute(statement.encode())
    if version < VERSION:
        connection.execute("UPDATE schema_version SET version = %s", [VERSION])
    connection.execute(b"COMMIT")
    if version < VERSION:
        for statement in TUNING:
            with suppress(psycopg.errors.FeatureNotSupported, psycopg.errors.SyntaxError, psycopg.errors.DataError):
                connection.execute(statement.encode())


def _version(connection: Connection, address: Address) -> int | None:
    columns = _columns(connection, address, "schema_version")
    if not columns:
        foreign = [table for table in TABLES if _columns(connection, address, table)]
        if foreign:
            raise _of_another(address, foreign[0])
        return None
    rows = connection.execute("SELECT program, version FROM schema_version").fetchall() if columns >= _OURS else []
    if [program for program, _ in rows] != [PROGRAM]:
        raise _of_another(address, "schema_version")
    version: int = rows[0][1]
    if version > VERSION:
        raise StoreUnavailable(
            f"{address.shown} has schema version {version}, this engine knows versions up to {VERSION};"
            " use a newer engine"
        )
    return version


def _columns(connection: Connection, address: Address, table: str) -> set[str]:
    found = connection.execute(
        "SELECT column_name::text FROM information_schema.columns WHERE table_schema = %s AND table_name = %s",
        [address.schema, table],
    )
    return {str(name) for (name,) in found}


def _of_another(address: Address, table: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"{address.shown}: the schema {address.schema} has a table {table} of another program;"
        " give the store a schema of its own with ?schema="
    )


def _notifies(connection: Connection, address: Address) -> bool:
    try:
        connection.execute(f'NOTIFY "{address.channel}"'.encode())
    except (psycopg.errors.FeatureNotSupported, psycopg.errors.SyntaxError):
        return False
    return True
