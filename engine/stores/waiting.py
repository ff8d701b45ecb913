"""The events that wait in a store, read without a lease and without a write: what `connect plan` takes as samples."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from engine.errors import StoreUnavailable, UsageError


class Waiting(NamedTuple):
    """One event as it was accepted; of several actions it is here once."""

    connector: str
    client: str
    event_id: str
    body: bytes


_OLDEST = """
    SELECT lanes.connector, lanes.client, deliveries.event_id, deliveries.body, min(deliveries.seq) AS first
    FROM deliveries JOIN lanes ON lanes.id = deliveries.lane
    GROUP BY deliveries.lane, deliveries.event_id ORDER BY first LIMIT ?
"""


def waiting(url: str, directory: Path, most: int) -> list[Waiting]:
    """At most so many, the oldest first. UsageError where nothing can be read so; StoreUnavailable as of any store."""
    path = url.removeprefix("sqlite:///")
    if path == url:
        raise UsageError(f"{url}: stored events are read from a SQLite store, such as sqlite:///connect.db")
    file = (directory / path).resolve()
    if not file.is_file():
        raise UsageError(f"{url}: no such store; {file.name} is not in {file.parent}")
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=10)) as database:
            rows = database.execute(_OLDEST, (most,)).fetchall()
    except sqlite3.Error as error:
        raise StoreUnavailable(f"{url} can't be read: {error}") from None
    return [Waiting(connector, client, event_id, bytes(body)) for connector, client, event_id, body, _ in rows]
