"""A store's URL -> the store: which there are, and what each needs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.errors import UsageError
from engine.secrets import OwnSettings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from engine.ports import Store

PIP = "pip install 'daxgo-connect[{}]'"
# How a URL begins -> an example with a word on it.
SCHEMES = {
    "memory": "memory:  (lost when the process ends)",
    "sqlite": "sqlite:///connect.db  (a file; sqlite:////absolute/path.db)",
    "postgresql": f"postgresql://user:password@host/database?schema=connect  (several hosts; {PIP.format('postgres')})",
    "dynamodb": f"dynamodb://table?region=sa-east-1  (on AWS; &create=1 makes the table; {PIP.format('aws')})",
}


def open_store(url: str, directory: Path, env: Any = os.environ, *, name: str | None = None) -> Store:
    """
    The adapter that a store URL names, claimed for the project of this `name` if it has one.

    UsageError for an unknown scheme, StoreUnavailable if it can't be opened or belongs to another project.
    """
    opener = _OPENERS.get(url.split(":", 1)[0])
    if opener is None:
        raise _unknown(url)
    store = opener(url, directory, OwnSettings(env, directory))
    if name is not None:
        try:
            store.claim(name)
        except BaseException:
            store.close()
            raise
    return store


class Schema(NamedTuple):
    """Versions of a store's tables: what is there, None where there is no store yet; and what this engine makes."""

    found: int | None
    known: int


def schema_of(url: str, directory: Path) -> Schema:
    """Nothing is changed by asking. StoreUnavailable for a version that only a newer engine knows."""
    asked = _SCHEMAS.get(url.split(":", 1)[0])
    if asked is None:
        raise _unknown(url)
    return asked(url, directory)


def look_into(url: str, directory: Path, env: Any = os.environ) -> Store:
    """A store of this engine's version, whosever it is, to be looked at: opened read-only where its kind can be."""
    if not url.startswith("sqlite:"):
        return open_store(url, directory, env)
    from engine.stores.sqlite import SqliteStore

    return SqliteStore(_file(url, directory), cipher=cipher(OwnSettings(env, directory)), read_only=True)


def shown(url: str) -> str:
    """Without the password."""
    before, at, after = url.rpartition("@")
    return f"{before.split('://')[0]}://{after}" if at else url


def cipher(env: Any) -> Any:
    """Encryption of stored tokens with the key in CONNECT_KEY, or where that refers to; None without one."""
    key = env.get("CONNECT_KEY")
    if not key:
        return None
    from cryptography.fernet import Fernet

    try:
        return Fernet(key.encode())
    except ValueError:
        raise UsageError("CONNECT_KEY is not a key; make one with `connect key`") from None


def _memory(url: str, directory: Path, env: Any) -> Store:
    del url, directory, env
    from engine.stores.memory import MemoryStore

    return MemoryStore()


def _sqlite(url: str, directory: Path, env: Any) -> Store:
    from engine.stores.sqlite import SqliteStore

    return SqliteStore(_file(url, directory), cipher=cipher(env))


def _file(url: str, directory: Path) -> Path:
    if not url.startswith("sqlite:///"):
        raise _unknown(url)
    return directory / url.removeprefix("sqlite:///")


def _postgres(url: str, directory: Path, env: Any) -> Store:
    del directory
    store: Store = _postgres_package().PostgresStore(url, cipher=cipher(env))
    return store


def _postgres_package() -> Any:
    try:
        from engine.stores import postgres
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "psycopg":
            raise
        raise UsageError("a PostgreSQL store needs its driver: pip install 'daxgo-connect[postgres]'") from None
    return postgres


def _dynamodb(url: str, directory: Path, env: Any) -> Store:
    del directory
    from engine.stores.dynamodb.address import parsed
    from engine.stores.dynamodb.store import DynamoStore
    from engine.stores.dynamodb.table import Table

    address = parsed(url, env)
    table = Table(address.table, address.region, endpoint=address.endpoint, create=address.create)
    return DynamoStore(table, cipher=cipher(env))


_OPENERS: dict[str, Callable[[str, Path, Any], Store]] = {
    "memory": _memory,
    "sqlite": _sqlite,
    "postgresql": _postgres,
    "postgres": _postgres,
    "dynamodb": _dynamodb,
}


def _sqlite_schema(url: str, directory: Path) -> Schema:
    from engine.stores import sqlite

    return Schema(sqlite.version_of(_file(url, directory)), sqlite.VERSION)


def _postgres_schema(url: str, directory: Path) -> Schema:
    del directory
    package = _postgres_package()
    return Schema(package.version_of(package.parsed(url)), package.VERSION)


def _dynamodb_schema(url: str, directory: Path) -> Schema:
    del directory
    from engine.stores.dynamodb import table
    from engine.stores.dynamodb.address import parsed

    address = parsed(url, os.environ)
    return Schema(table.version_of(address.table, address.region, endpoint=address.endpoint), table.VERSION)


_SCHEMAS: dict[str, Callable[[str, Path], Schema]] = {
    "sqlite": _sqlite_schema,
    "postgresql": _postgres_schema,
    "postgres": _postgres_schema,
    "dynamodb": _dynamodb_schema,
}


def _unknown(url: str) -> UsageError:
    scheme = url.partition(":")[0].partition("/")[0]  # what follows may hold a password
    return UsageError(f"no store is called {scheme}; known are {'; '.join(SCHEMES.values())}")
