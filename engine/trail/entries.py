"""The values of a trail: what is written of deliveries that were settled together, and what is found again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from engine.records import Delivery, Trace
from engine.trail.packing import Events

ACCEPTED, UNWANTED = "accepted", "unwanted"  # events, on disk: by actions that want them, or none
OUTCOMES = ("delivered", "rejected", "skipped", "retry", "throttle", "defer", "pause", "later", ACCEPTED, UNWANTED)
LEAST_PREFIX = 8  # characters of an event's id, to search by its beginning


class Exchange(msgspec.Struct, frozen=True, omit_defaults=True):
    """One request of a batch: what it was for, how it ended, and when."""

    step: str
    method: str
    host: str
    status: int  # 0: no reply
    began: float
    ended: float
    action: str = ""


class Stages(msgspec.Struct, frozen=True, omit_defaults=True):
    """The stages that a batch went through before it was settled; a time is None where there was no such stage."""

    began: float
    looked_up_at: float | None = None
    mapped_at: float | None = None
    looked_up: tuple[Exchange, ...] = ()
    sent: tuple[Exchange, ...] = ()
    more: int = 0  # further exchanges, of which nothing else is kept


People = Callable[[str | None, bytes], tuple[int | None, int | None]]  # key and body -> digests of two people at most


class Taken(NamedTuple):
    """Events of one lane that were accepted, with the actions that want them; empty where none does."""

    connector: str
    client: str
    actions: str
    at: float
    events: Events


class Attempt(NamedTuple):
    """Deliveries of one action that were settled together and alike."""

    connector: str
    client: str
    action: str
    at: float
    outcome: str  # one of OUTCOMES
    reason: str
    code: str
    tries: int
    stages: bytes  # Stages as JSON
    trace: Trace | None  # of the exchange, nothing personal in it
    passed: Sequence[Delivery]


class Missing(NamedTuple):
    """Events and deliveries that the trail does not know: too much came at once, or it could not be written."""

    at: float
    many: int


class Found(NamedTuple):
    """One delivery in a list. `place` is where it stands, the newest highest."""

    place: int
    event_id: str
    connector: str
    client: str
    action: str
    at: float
    outcome: str
    reason: str
    code: str
    received_at: float


class Followed(NamedTuple):
    """One attempt of an event, whole."""

    found: Found
    tries: int
    together: int  # deliveries that were settled with it, itself among them
    stages: Stages
    trace: Trace | None
    seq: int | None = None  # the first that its event has in the store, where that is known


class Cursor(NamedTuple):
    """Where a list goes on: at what is older than this."""

    at: float
    place: int

    def __str__(self) -> str:
        return f"{self.at!r}-{self.place}"


class Query(NamedTuple):
    """Which deliveries are meant; what is None leaves all. `people`: digests of which one must be theirs."""

    event_id: str | None = None
    prefix: bool = False  # `event_id` is its beginning
    people: tuple[int, ...] | None = None
    connector: str | None = None
    client: str | None = None
    outcomes: tuple[str, ...] | None = None
    since: float | None = None
    until: float | None = None  # before that time
    before: Cursor | None = None


class State(NamedTuple):
    """What a trail knows of itself."""

    since: float | None  # of the oldest that is kept
    missing: int  # deliveries that it does not know, since then
    trouble: str = ""  # why it can't be written just now
    unread: str = ""  # why it can't be read, and nothing above is known


class Keeper(Protocol):
    """Where a trail is kept. Each method raises StoreUnavailable, never a driver's own error; any thread may call."""

    def salt(self) -> bytes:
        """What digests of people are made with, besides the key of the installation; made once."""

    def write(self, taken: list[Taken], attempts: list[Attempt], missing: list[Missing], people: People) -> None:
        """
        All of it in one commit; of people who were erased meanwhile nothing is kept. A delivery points to its event
        where that is known; `people` is asked about the others.
        """

    def find(self, query: Query, limit: int) -> list[Found]:
        """The newest first, `limit` at most; by time and of whatever outcome: of each action of an event the last."""

    def of_event(self, event_id: str, limit: int) -> list[Followed]:
        """All that is known of an event with exactly this id, in whatever lane, the oldest first."""

    def state(self) -> State:
        """Since when it knows, and what is missing."""

    def forget(self, people: list[int], text: str | None, *, client: str | None, now: float, dry: bool) -> int:
        """
        Erase what is theirs, also what is written later of what was accepted before `now`; how many deliveries.

        `text`: it is looked for in ids, and taken out of what was said of others.
        """

    def expire(self, *, before: float, now: float, max_bytes: int) -> bool:
        """What is older goes, and the oldest where it is too large: a part of it. True: there may be more."""

    def close(self) -> None:
        """Let go of it."""


def newer(version: int, known: int, otherwise: str) -> str:
    """What to do where another version of this program has written the trail."""
    return (
        f"a newer version of this program has written it (format {version}, this one knows {known}); "
        f"start the newer program again, or {otherwise}: no event is lost with it"
    )


def cursor_of(text: str) -> Cursor | None:
    """What `str` made of one; None for what is none."""
    at, dash, place = text.rpartition("-")
    try:
        found = Cursor(float(at), int(place)) if dash and len(text) < 60 else None
    except ValueError:
        return None
    return found if found is not None and found.at == found.at and 0 <= found.place < 2**62 else None
