"""A store and `trail` of `connect.yaml` -> the trail that goes with it, or none."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from engine.spec import units
from engine.trail.recording import Limits, Recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.ports import Store, Telemetry
    from engine.spec.project import TrailSettings
    from engine.trail.entries import Keeper

IN_MEMORY = 64_000_000  # bytes, where the store is in memory, too


def open_trail(
    store: Store,
    settings: TrailSettings,
    env: Mapping[str, str],
    *,
    now: Callable[[], float],
    telemetry: Telemetry,
) -> Recorder | None:
    """None where it is off, and for a kind of store that has none: with DynamoDB each event would cost a write."""
    keeper = keeper_of(store) if settings.active else None
    return None if keeper is None else _recorder(keeper, store, settings, env, now=now, telemetry=telemetry)


def existing_trail(
    store: Store,
    settings: TrailSettings,
    env: Mapping[str, str],
    *,
    now: Callable[[], float],
    telemetry: Telemetry,
) -> Recorder | None:
    """The same for who only looks, or erases: also one that is off by now, and nothing is made."""
    from engine.trail.sqlite import beside

    path = getattr(store, "path", None)
    if is_in_memory(store) or (path is not None and not beside(path).exists()):
        return None
    keeper = keeper_of(store)
    return None if keeper is None else _recorder(keeper, store, settings, env, now=now, telemetry=telemetry)


def _recorder(
    keeper: Keeper,
    store: Store,
    settings: TrailSettings,
    env: Mapping[str, str],
    *,
    now: Callable[[], float],
    telemetry: Telemetry,
) -> Recorder:
    limits = Limits(units.duration(settings.keep), units.size(settings.max))
    if is_in_memory(store):
        limits = limits._replace(max_bytes=min(limits.max_bytes, IN_MEMORY))
    key = sha256(env.get("CONNECT_KEY", "").encode()).digest()
    return Recorder(keeper, key, limits, now=now, telemetry=telemetry)


def keeper_of(store: Store) -> Keeper | None:
    """Nothing is made or opened before something is written or asked."""
    from engine.trail.sqlite import MEMORY, SqliteKeeper, beside

    if (path := getattr(store, "path", None)) is not None:
        return SqliteKeeper(beside(path))
    if (address := getattr(store, "address", None)) is not None:
        from engine.trail.postgres import PostgresKeeper

        return PostgresKeeper(address)
    return SqliteKeeper(MEMORY) if is_in_memory(store) else None


def is_in_memory(store: Store) -> bool:
    if getattr(store, "path", None) is not None:
        return False
    from engine.stores.memory import MemoryStore  # not in the time of a start on a file

    return isinstance(store, MemoryStore)
