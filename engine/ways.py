"""The way of an event, found by its id: what the trail knows of it, and what the store has of it now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from engine.intake import shortened
from engine.ports import Carrier
from engine.program import decode_event
from engine.records import Waiting
from engine.trail.entries import LEAST_PREFIX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.dead_letters import Desk
    from engine.ports import Store
    from engine.records import Dead, Lane, Which
    from engine.trail.entries import Followed, Found, Query
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


class Now(NamedTuple):
    """What became of one action of an event, last."""

    connector: str
    client: str
    action: str
    outcome: str  # one of OUTCOMES | waits | stands, for its lane is paused | dead
    at: float
    reason: str = ""
    due_at: float | None = None  # inf: it waits for another action
    letter: int | None = None


def now_at(way: Way) -> list[Now]:
    """Of each action of each lane: what the store says of it, else what was last known."""
    found: dict[tuple[str, str, str], Now] = {}
    for each in way.attempts:
        one = each.found
        key = (one.connector, one.client, one.action)
        found[key] = Now(*key, one.outcome, one.at, one.reason)
    for letter in way.dead:
        key = (letter.connector, letter.client, letter.action)
        found[key] = Now(*key, "dead", letter.at, letter.reason, letter=letter.id)
    for waits in way.waiting:
        delivery = waits.row.delivery
        key = (waits.lane.connector, waits.lane.client, delivery.action)
        due_at = float("inf") if waits.row.after else max(delivery.due_at, waits.lane.not_before)
        outcome = "stands" if waits.lane.state == "paused" else "waits"
        last = waits.row.tries[-1].reason if waits.row.tries else ""
        found[key] = Now(*key, outcome, delivery.received_at, last, due_at)
    return [found[key] for key in sorted(found)]


def bodies(way: Way, desk: Desk) -> list[tuple[str, str, Any]]:
    """(connector, client, the event as it may be shown) of each that the store still has; the same one once."""
    held = {(each.lane.connector, each.lane.client, each.row.delivery.body) for each in way.waiting}
    held |= {(each.connector, each.client, each.body) for each in way.dead}
    return [
        (connector, client, desk.personal(connector).event(decode_event(body)))
        for connector, client, body in sorted(held)
    ]


def found(trail: Recorder | None, query: Query, given: str, limit: int) -> tuple[list[Found], str]:
    """
    What fits the query and what somebody wrote: an id, its beginning, an address, the key of a record.

    And how it was found: id | prefix | person, or empty where nothing was written.
    """
    if trail is None:
        return [], ""
    ways: list[tuple[str, Query]] = []
    if not given:
        ways.append(("", query))
    elif "@" in given:
        ways.append(("person", query._replace(people=trail.people(given))))
    if given:
        ways.append(("id", query._replace(event_id=shortened(given))))
        if len(given) >= LEAST_PREFIX:
            ways.append(("prefix", query._replace(event_id=given, prefix=True)))
        if "@" not in given:
            ways.append(("person", query._replace(people=trail.people(given))))
    for how, each in ways:
        if rows := trail.find(each, limit):
            return rows, how
    return [], ""
