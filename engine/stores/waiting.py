"""The events that wait in a store, read without a lease and without a write: what `connect plan` takes as samples."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from engine import records
from engine.errors import StoreUnavailable, UsageError
from engine.stores import opening

if TYPE_CHECKING:
    from pathlib import Path

    from engine.ports import Store


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
    if url.startswith("memory:"):
        raise UsageError(f"{url}: stored events are read from a store that lasts, such as sqlite:///connect.db")
    return _of_file(url, directory, most) if url.startswith("sqlite:///") else _of_server(url, directory, most)


def _of_server(url: str, directory: Path, most: int) -> list[Waiting]:
    if opening.schema_of(url, directory).found is None:
        raise UsageError(f"{opening.shown(url)}: no store is there")
    store = opening.look_into(url, directory)
    try:
        oldest: list[tuple[int, Waiting]] = []
        for lane in store.lanes():
            oldest += _of_lane(store, lane.connector, lane.client, most)
    finally:
        store.close()
    return [event for _, event in sorted(oldest)[:most]]


def _of_lane(store: Store, connector: str, client: str, most: int) -> list[tuple[int, Waiting]]:
    """The oldest events, each with the seq of its first delivery."""
    first: dict[str, tuple[int, Waiting]] = {}
    after, more = 0, True
    while more and len(first) < most:
        rows = store.carry_out(connector, client, records.Waiting, after=after, limit=most)
        more = len(rows) == most
        for delivery in (row.delivery for row in rows):
            after, event_id = delivery.seq, delivery.event_id
            first.setdefault(event_id, (after, Waiting(connector, client, event_id, delivery.body)))
    return list(first.values())


def _of_file(url: str, directory: Path, most: int) -> list[Waiting]:
    path = url.removeprefix("sqlite:///")
    file = (directory / path).resolve()
    if not file.is_file():
        raise UsageError(f"{url}: no such store; {file.name} is not in {file.parent}")
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=10)) as database:
            rows = database.execute(_OLDEST, (most,)).fetchall()
    except sqlite3.Error as error:
        raise StoreUnavailable(f"{url} can't be read: {error}") from None
    return [Waiting(connector, client, event_id, bytes(body)) for connector, client, event_id, body, _ in rows]
