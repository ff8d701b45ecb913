"""The stores that the contract suite runs over: each is made empty, in a folder of the test's own."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

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


KINDS: dict[str, Callable[[Path], Store]] = {"memory": memory, "sqlite": sqlite}
