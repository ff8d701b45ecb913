"""The way of an event, found by its id: what the trail knows of it, and what the store has of it now."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from engine.intake import shortened
from engine.ports import Carrier
from engine.records import Waiting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.ports import Store
    from engine.records import Dead, Lane, Which
    from engine.trail.entries import Followed
    from engine.trail.recording import Recorder

MOST_ATTEMPTS = 100  # of one event that are shown, the latest
MOST_LANES = 200  # that are asked for an event whose lane nobody named
MOST_WAITING = 1_000  # deliveries of a lane that are looked through, the oldest
MOST_IN_ALL = 3_000
MOST_DEAD = 50


class Waits(NamedTuple):
    """One delivery of the event that is in the store still."""

    lane: Lane
    row: Waiting


class Way(NamedTuple):
    """All that is known of an event."""

    event_id: str
    attempts: Sequence[Followed]  # the oldest first
    waiting: Sequence[Waits]
    dead: Sequence[Dead]
    unseen: int  # deliveries that wait and were not looked through, for they are many

    @property
    def is_known(self) -> bool:
        return bool(self.attempts or self.waiting or self.dead)

    @property
    def lanes(self) -> list[tuple[str, str]]:
        """(connector, client) in which it is, or was."""
        found = {(each.found.connector, each.found.client) for each in self.attempts}
        found |= {(each.lane.connector, each.lane.client) for each in self.waiting}
        return sorted(found | {(each.connector, each.client) for each in self.dead})


def way_of(
    store: Store, trail: Recorder | None, given: str, *, connector: str | None = None, client: str | None = None
) -> Way:
    """Of the event with exactly this id; of one lane, or wherever there is one of this name."""
    event_id = shortened(given)
    attempts = trail.of_event(event_id, MOST_ATTEMPTS) if trail is not None else []
    attempts = [each for each in attempts if _fits(each.found.connector, each.found.client, connector, client)]
    lanes = [lane for lane in store.lanes() if _fits(lane.connector, lane.client, connector, client)]
    known = {(each.found.connector, each.found.client) for each in attempts}
    lanes.sort(key=lambda lane: ((lane.connector, lane.client) not in known, lane.waiting))  # where it was comes first
    dead: list[Dead] = []
    for lane in [lane for lane in lanes if lane.rejected][:MOST_LANES]:
        which: Which = {"connector": lane.connector, "client": lane.client, "event_id": event_id}
        dead += store.dead(limit=MOST_DEAD, **which)
    waiting, unseen = _waiting(store, lanes, event_id)
    return Way(event_id, attempts, waiting, dead, unseen)


def _fits(connector: str, client: str, wanted_connector: str | None, wanted_client: str | None) -> bool:
    return wanted_connector in (None, connector) and wanted_client in (None, client)


def _waiting(store: Store, lanes: Sequence[Lane], event_id: str) -> tuple[list[Waits], int]:
    """No store finds what waits by its event: the oldest of each lane are looked through."""
    found: list[Waits] = []
    left, unseen = MOST_IN_ALL, 0
    for lane in lanes:
        most = min(MOST_WAITING, left) if isinstance(store, Carrier) else 0
        if lane.waiting and most:
            rows = store.carry_out(lane.connector, lane.client, Waiting, after=0, limit=most)
            found += [Waits(lane, row) for row in rows if row.delivery.event_id == event_id]
            left -= len(rows)
            most = len(rows)
        unseen += max(lane.waiting - most, 0)
    return found, unseen
