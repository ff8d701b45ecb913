"""What holds over all hosts: tokens, who renews them, open connections to a vendor, and uses of a rate."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from engine.stores.rules import wait_until

if TYPE_CHECKING:
    from engine.stores.postgres.connections import Db

SWEEP = 100  # expired rows cleaned in passing
SWEEP_EVERY = 16  # takes between two such cleanings
SWEEP_AFTER_S = 60.0  # a host whose clock is ahead removes nothing that counts by another's

TOKEN = """
    SELECT saved, obtained_at, expires_at, fingerprint FROM tokens WHERE connector = %b AND client = %b AND name = %b
"""
SAVE_TOKEN = """
    INSERT INTO tokens (connector, client, name, saved, obtained_at, expires_at, fingerprint)
    VALUES (%b, %b, %b, %b, %b, %b, %b)
    ON CONFLICT (connector, client, name) DO UPDATE SET saved = excluded.saved, obtained_at = excluded.obtained_at,
        expires_at = excluded.expires_at, fingerprint = excluded.fingerprint
"""
LOCK = """
    INSERT INTO locks (name, owner, until) VALUES (%b, %b, %b)
    ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, until = excluded.until
    WHERE locks.until <= %b OR locks.owner = excluded.owner RETURNING 1
"""
UNLOCK = "DELETE FROM locks WHERE name = %b AND owner = %b"
# Whoever takes from a limit, or wants one of its slots, holds its row until they have committed.
_MAKE = "INSERT INTO limits (name) VALUES (%b) ON CONFLICT (name) DO NOTHING"
_HOLD = "SELECT total, at, until FROM limits WHERE name = %b FOR UPDATE"
# The use that must have left before this one fits; the log is in order of time, so those before it left earlier.
_MUST_LEAVE = """
    SELECT u.at, u.total - u.cost, u.until FROM uses AS u
    WHERE u.name = %b AND u.total >= (SELECT total FROM limits WHERE name = %b) + %b ORDER BY u.total LIMIT 1
"""
_USE_MORE = "UPDATE uses SET total = total + %b, cost = cost + %b WHERE name = %b AND total = %b"
_USE = "INSERT INTO uses (name, total, at, cost, until) VALUES (%b, %b, %b, %b, %b)"
_USED = "UPDATE limits SET total = %b, at = %b, until = %b WHERE name = %b"
USED = """
    SELECT (SELECT total FROM limits WHERE name = %b) - (total - cost), at FROM uses
    WHERE name = %b AND at + %b > %b ORDER BY total LIMIT 1
"""
HELD = "SELECT count(*) FROM slots WHERE name = %b AND until > %b"
_OTHERS = "SELECT count(*) FROM slots WHERE name = %b AND owner <> %b AND until > %b"
_SLOT = """
    INSERT INTO slots (name, owner, until) VALUES (%b, %b, %b) ON CONFLICT (name, owner) DO UPDATE SET
    until = excluded.until
"""
RELEASE_SLOT = "DELETE FROM slots WHERE name = %b AND owner = %b"
_SWEEP = """
    DELETE FROM {table} WHERE {key} IN (
        SELECT {columns} FROM {table} AS t WHERE until <= %b{unless} ORDER BY until LIMIT %b FOR UPDATE SKIP LOCKED)
"""
_UNUSED = """
    AND NOT EXISTS (SELECT 1 FROM uses AS u WHERE u.name = t.name)
    AND NOT EXISTS (SELECT 1 FROM slots AS s WHERE s.name = t.name)
"""
SWEEPS = tuple(
    _SWEEP.format(table=table, key=f"({columns})", columns=columns, unless=unless)
    for table, columns, unless in (
        ("locks", "name", ""),
        ("slots", "name, owner", ""),
        ("uses", "name, total", ""),
        ("limits", "name", _UNUSED),
    )
)

_calls = count(1)


def lock(db: Db, name: str, owner: str, until: float, now: float) -> bool:
    return db.row(LOCK, name, owner, until, now) is not None


def acquire(db: Db, name: str, slots: int, owner: str, until: float, now: float) -> bool:
    _hold(db, name)
    if db.value(_OTHERS, name, owner, now) >= slots:
        return False
    db.send(_SLOT, name, owner, until)
    sweep(db, now)
    return True


def take(db: Db, name: str, count: int, per_s: float, now: float, cost: int) -> float:
    db.send(_MAKE, name)
    holding = db.send(_HOLD, name)
    leaves = cost - count
    first = db.row(_MUST_LEAVE, name, name, leaves)
    row = holding.fetchone()
    if row is None:  # it was removed as unused at this very moment
        return take(db, name, count, per_s, now, cost)
    total, last_at, last_until = row
    if first is not None and first[1] < total + leaves and first[0] + per_s > now:
        return wait_until(first[0] + per_s, now)
    at = max(now, last_at)  # clocks of two hosts differ; the log must not go back
    if (at, at + per_s) == (last_at, last_until):  # uses of one moment leave together: one row, as for a whole budget
        db.send(_USE_MORE, cost, cost, name, total)
    else:
        db.send(_USE, name, total + cost, at, cost, at + per_s)
    db.send(_USED, total + cost, at, at + per_s, name)
    sweep(db, now)
    return 0.0


def _hold(db: Db, name: str) -> None:
    db.send(_MAKE, name)
    if db.row(_HOLD, name) is None:
        _hold(db, name)


def sweep(db: Db, now: float) -> None:
    if next(_calls) % SWEEP_EVERY == 0:
        for sql in SWEEPS:
            db.send(sql, now - SWEEP_AFTER_S, SWEEP)
