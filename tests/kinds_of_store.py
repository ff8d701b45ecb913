"""The stores that the contract suite runs over: each is made empty, in a folder of the test's own."""

from __future__ import annotations

import re
from itertools import count
from typing import TYPE_CHECKING

import dynamodb_server
import postgres_server
import pytest

from engine.stores.memory import MemoryStore
from engine.stores.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from engine.ports import Store


def numbered() -> Callable[[], str]:
    """Delivery ids d1, d2, …"""
    numbers = count(1)
    return lambda: f"d{next(numbers)}"


def memory(folder: Path) -> Store:
    del folder
    return MemoryStore(new_id=numbered())


def sqlite(folder: Path) -> Store:
    return SqliteStore(folder / "connect.db", new_id=numbered())


def postgres(folder: Path, schema: str = "contract") -> Store:
    del folder
    if (reason := postgres_server.why_none()) is not None:
        pytest.skip(reason)
    from engine.stores.postgres import PostgresStore

    return PostgresStore(_emptied(schema), new_id=numbered())


def _emptied(schema: str) -> str:
    """One schema for all tests of this process: making its tables takes longer than most of them."""
    import psycopg

    from engine.stores.postgres.address import parsed
    from engine.stores.postgres.schema import SCHEMA, TABLES, prepare

    url = postgres_server.shared().url(schema)
    address = parsed(url)
    prepare(address)
    sequences = re.findall("CREATE SEQUENCE (\\w+)", str(SCHEMA))
    with psycopg.connect(address.url, autocommit=True) as connection:
        connection.execute(f'SET search_path = "{schema}"'.encode())
        connection.execute("; ".join(f"DELETE FROM {table}" for table in TABLES))
        connection.execute("; ".join(f"ALTER SEQUENCE {name} RESTART" for name in sequences))
        connection.execute("INSERT INTO forgotten VALUES (0)")
    return url


def dynamodb(folder: Path) -> Store:
    del folder
    from engine.stores.dynamodb.store import DynamoStore
    from engine.stores.dynamodb.table import Table

    table = Table(dynamodb_server.new_name(), dynamodb_server.REGION, endpoint=dynamodb_server.shared(), create=True)
    last = 0

    def new_seq(many: int) -> int:
        nonlocal last
        first, last = last + 1, last + many
        return first

    return DynamoStore(table, new_id=numbered(), new_seq=new_seq)


KINDS: dict[str, Callable[[Path], Store]] = {
    "dynamodb": dynamodb,
    "memory": memory,
    "postgres": postgres,
    "sqlite": sqlite,
}
SLOW = {"dynamodb"}  # each verb is several requests: walks through these are shorter
NEAR = {"dynamodb"}  # these look no further than they must, for looking is paid
