"""Stores with very many deliveries, made at once."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from engine.stores.sqlite import SqliteStore


def fill(path: Path, rows: int, *, connector: str = "crm", client: str = "abc", action: str = "task") -> None:
    """A store with so many deliveries of one lane, due, with the ids `1` …"""
    SqliteStore(path).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute(
            "INSERT INTO lanes (connector, client, wake_at, accepted) VALUES (?, ?, 1, ?)", (connector, client, rows)
        )
        db.execute(
            "WITH RECURSIVE n (at) AS (SELECT 1 UNION ALL SELECT at + 1 FROM n WHERE at < ?)"
            " INSERT INTO deliveries (lane, action, key, id, event_id, body, received_at, due_at, turn_at, attempts)"
            " SELECT 1, ?, NULL, 'd' || at, at, json_object('id', '' || at, 'client', ?), 0, 1, 1, 0 FROM n",
            (rows, action, client),
        )
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
