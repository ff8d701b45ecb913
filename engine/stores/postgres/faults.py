"""What the driver raises -> one plain sentence and what to do; never a password, never a payload."""

from __future__ import annotations

import psycopg

from engine.errors import StoreUnavailable

_DOWN = "the server is not there or just starting; it goes on by itself when the server is back"
_REFUSED = "the server refuses the user or the password; check the store's URL"
_NO_DATABASE = "there is no such database; create it, or name another"
_NO_ROLE = "there is no such user; create it, or name another"
_FULL = "the server has no connection free; raise its max_connections, or give each host fewer with ?connections="
_LIMITED = (
    "the user or the database has no connection free; raise its CONNECTION LIMIT, or give each host fewer with"
    " ?connections="
)
_CLOSED = "the user may not connect to this database; allow it with GRANT CONNECT and LOGIN, or name another"
_READ_ONLY = "the server takes no writes: a standby, or one that fails over; name the primary"
_GONE = "the store's tables are not there any more; restart to have them made"
_CANCELLED = "a statement was cancelled or took too long; it is tried again later"
_RIGHTS = "the user may not do that; it must own the schema, or may create one"

_BY_STATE = {
    "28P01": _REFUSED,
    "28000": _REFUSED,
    "3D000": _NO_DATABASE,
    "53300": _FULL,
    "53100": "the server's disk is full; free some space, then it goes on by itself",
    "53200": "the server is out of memory",
    "25006": _READ_ONLY,
    "57014": _CANCELLED,
    "57P01": _DOWN,
    "57P02": _DOWN,
    "57P03": _DOWN,
    "25P03": "the transaction stood still for too long and was ended by the server",
    "55P03": "others keep rows locked for too long",
    "40001": "others changed the same rows again and again; try again",
    "40P01": "others changed the same rows again and again; try again",
    "42501": _RIGHTS,
    "42P01": _GONE,
    "3F000": _GONE,
}
# A refused log-in has no code, only words: the first that are in it count, and many name a role or a database besides.
_BY_WORDS = {
    "password authentication failed": _REFUSED,
    "no password supplied": _REFUSED,
    "pg_hba.conf": _REFUSED,
    "authentication failed": _REFUSED,
    "not currently accepting": _CLOSED,
    "too many connections for ": _LIMITED,
    "too many ": _FULL,
    "connection slots": _FULL,
    "starting up": _DOWN,
    "shutting down": _DOWN,
    "recovery mode": _DOWN,
    "accepting connections": _DOWN,  # is not, is not yet
    "permission denied": _CLOSED,
    "not permitted to log in": _CLOSED,
    "role ": _NO_ROLE,
    'database "': _NO_DATABASE,
    "server closed the connection": _DOWN,
    "Connection refused": "no server answers there; check host and port, or start it",
    "translate host name": "there is no such host",
    "resolve host": "there is no such host",
    "timeout": "the server does not answer in time",
    "SSL": "no encrypted connection came about; see sslmode",
    "read-write": _READ_ONLY,
}

AGAIN = (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected)


def unavailable(shown: str, error: psycopg.Error) -> StoreUnavailable:
    """`shown`: the store as it may be shown."""
    state = error.sqlstate
    if state is None:
        said = str(error)
        sentence = next((each for words, each in _BY_WORDS.items() if words in said), None)
        if sentence is None:
            first = (said.splitlines() or [type(error).__name__])[0].strip()
            sentence = f"the connection to the server broke ({first})"
        return StoreUnavailable(f"{shown}: {sentence}")
    sentence = _BY_STATE.get(state)
    if sentence is None:
        sentence = error.diag.message_primary or type(error).__name__
    return StoreUnavailable(f"{shown}: {sentence} ({state})")


def uncertain(shown: str) -> StoreUnavailable:
    """The connection broke while it was committed."""
    return StoreUnavailable(f"{shown}: the connection broke before it was known whether all was stored; send it again")
