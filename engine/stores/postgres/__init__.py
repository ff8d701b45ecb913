"""
The store in a PostgreSQL database, for several hosts at once; it needs `psycopg`, and PostgreSQL 14 or newer.

It is what `stores/sqlite.py` is, with the same `turn_at`; what is its own is who waits for whom. Whoever changes what a
lane holds locks the lane's row first, lanes by rising number: so deliveries of a key get their seq, their turn and
their commit in one order, however many hosts put at once, and nobody reads past one that commits later.

Asked for are row locks (`FOR UPDATE`, `SKIP LOCKED`), `ON CONFLICT`, sequences, partial indexes and arrays. `NOTIFY`
wakes waiting workers; where it is refused, they look several times a second instead. No advisory locks, no triggers,
no functions of its own, no extension.
"""

from engine.stores.postgres.address import parsed
from engine.stores.postgres.schema import VERSION, version_of
from engine.stores.postgres.store import PostgresStore

__all__ = ["VERSION", "PostgresStore", "parsed", "version_of"]
