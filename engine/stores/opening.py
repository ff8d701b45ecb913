"""A store's URL -> the store: which there are, and what each needs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from engine.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from engine.ports import Store

# How a URL begins -> an example with a word on it.
SCHEMES = {
    "memory": "memory:  (lost when the process ends)",
    "sqlite": "sqlite:///connect.db  (a file; sqlite:////absolute/path.db)",
}


def open_store(url: str, directory: Path, env: Any = os.environ, *, name: str | None = None) -> Store:
    """
    The adapter that a store URL names, claimed for the project of this `name` if it has one.

    UsageError for an unknown scheme, StoreUnavailable if it can't be opened or belongs to another project.
    """
    opener = _OPENERS.get(url.split(":", 1)[0])
    if opener is None:
        raise _unknown(url)
    store = opener(url, directory, env)
    if name is not None:
        try:
            store.claim(name)
        except BaseException:
            store.close()
            raise
    return store


def cipher(env: Any) -> Any:
    """Encryption of stored tokens with the key in CONNECT_KEY; None without one."""
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

    if not url.startswith("sqlite:///"):
        raise _unknown(url)
    path = url.removeprefix("sqlite:///")
    return SqliteStore(directory / path if not path.startswith("/") else path, cipher=cipher(env))


_OPENERS: dict[str, Callable[[str, Path, Any], Store]] = {"memory": _memory, "sqlite": _sqlite}


def _unknown(url: str) -> UsageError:
    return UsageError(f"no store is called {url.split('://', 1)[0]}; known are {'; '.join(SCHEMES.values())}")
