"""The way of an event, found by its id: what the trail knows of it, and what the store has of it now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from engine.errors import StoreUnavailable
from engine.intake import shortened
from engine.ports import Carrier
from engine.program import decode_event
from engine.records import Waiting
from engine.trail.entries import ACCEPTED, LEAST_PREFIX, UNWANTED, Followed, Found

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.ports import Store
    from engine.records import Dead, Lane, Which
    from engine.trail.entries import Query
    from engine.trail.recording import Recorder
    from engine.upkeep.dead_letters import Desk

MOST_ATTEMPTS = 100  # of one event that are shown, the latest
MOST_LANES = 200  # that are asked for an event whose lane nobody named
MOST_WAITING = 1_000  # deliveries of a lane that are looked through, the oldest
MOST_IN_ALL = 3_000
MOST_DEAD = 50
ROOM = 16  # seqs of other deliveries that may stand between those of one event
FLUSH_S = 0.5


class Waits(NamedTuple):
    """One delivery of the event that is in the store still."""

    lane: Lane
    row: Waiting


class Way(NamedTuple):
    """All that is known of an event."""

    event_id: str
    accepted: Sequence[Followed]  # each time it was; the oldest first
    attempts: Sequence[Followed]  # the oldest first
    waiting: Sequence[Waits]
    dead: Sequence[Dead]
    unseen: int  # deliveries that wait and were not looked through, for they are many
    unasked: int = 0  # lanes with dead letters that were not asked, for they are many
    unread: str = ""  # why the trail can't be read: only the store was asked

    @property
    def is_known(self) -> bool:
        return bool(self.accepted or self.attempts or self.waiting or self.dead)

    @property
    def lanes(self) -> list[tuple[str, str]]:
        """(connector, client) in which it is, or was."""
        found = {(each.found.connector, each.found.client) for each in (*self.accepted, *self.attempts)}
        found |= {(each.lane.connector, each.lane.client) for each in self.waiting}
        return sorted(found | {(each.connector, each.client) for each in self.dead})


def way_of(
    store: Store, trail: Recorder | None, given: str, *, connector: str | None = None, client: str | None = None
) -> Way:
    """Of the event with exactly this id; of one lane, or wherever there is one of this name."""
    way = _way(store, trail, shortened(given), connector, client)
    if trail is not None and any(one.outcome == "unknown" for one in now_at(way)):
        trail.flush(FLUSH_S)  # it may have ended between one look and the other
        way = _way(store, trail, way.event_id, connector, client)
    return way


def _way(store: Store, trail: Recorder | None, event_id: str, connector: str | None, client: str | None) -> Way:
    followed, unread = list[Followed](), ""
    try:
        followed = trail.of_event(event_id, MOST_ATTEMPTS) if trail is not None else []
    except StoreUnavailable as error:  # of the trail, not of the store: that is asked all the same
        unread = str(error)
    followed = [each for each in followed if _fits(each.found.connector, each.found.client, connector, client)]
    accepted = [each for each in followed if each.found.outcome in (ACCEPTED, UNWANTED)]
    attempts = [each for each in followed if each.found.outcome not in (ACCEPTED, UNWANTED)]
    lanes = [lane for lane in store.lanes() if _fits(lane.connector, lane.client, connector, client)]
    known = {(each.found.connector, each.found.client) for each in followed}
    lanes.sort(key=lambda lane: ((lane.connector, lane.client) not in known, lane.waiting))  # where it was comes first
    dead: list[Dead] = []
    rejecting = [lane for lane in lanes if lane.rejected]
    for lane in rejecting[:MOST_LANES]:
        which: Which = {"connector": lane.connector, "client": lane.client, "event_id": event_id}
        dead += store.dead(limit=MOST_DEAD, **which)
    waiting = _at_their_seqs(store, lanes, accepted)
    if accepted:  # elsewhere than at its seq it stands only where it came back from the dead letters
        ended = [each.found for each in attempts if each.found.outcome in ("rejected", "skipped")]
        known -= {(each.found.connector, each.found.client) for each in accepted}
        known |= {(each.connector, each.client) for each in ended}
        lanes = [lane for lane in lanes if (lane.connector, lane.client) in known]
    others, unseen = _waiting(store, lanes, event_id)
    unasked = max(len(rejecting) - MOST_LANES, 0)
    return Way(event_id, accepted, attempts, [*waiting, *others], dead, unseen, unasked, unread)


def _fits(connector: str, client: str, wanted_connector: str | None, wanted_client: str | None) -> bool:
    return wanted_connector in (None, connector) and wanted_client in (None, client)


def _at_their_seqs(store: Store, lanes: Sequence[Lane], accepted: Sequence[Followed]) -> list[Waits]:
    """What waits of an event whose place in the store is known."""
    by_name = {(lane.connector, lane.client): lane for lane in lanes}
    found: dict[tuple[str, str, int], Waits] = {}
    for each in accepted:
        one, lane = each.found, by_name.get((each.found.connector, each.found.client))
        if each.seq is None or lane is None or not isinstance(store, Carrier):
            continue
        most = len(one.action.split()) + ROOM
        for row in store.carry_out(one.connector, one.client, Waiting, after=each.seq - 1, limit=most):
            if row.delivery.event_id == one.event_id:
                found[one.connector, one.client, row.delivery.seq] = Waits(lane, row)
    return list(found.values())


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
    outcome: str  # one of OUTCOMES | waits | stands, for its lane is paused | dead | unknown: not waiting, no end known
    at: float
    reason: str = ""
    due_at: float | None = None  # inf: it waits for another action
    letter: int | None = None


def now_at(way: Way) -> list[Now]:
    """Of each action of each lane: what the store says of it, else what was last known."""
    found: dict[tuple[str, str, str], Now] = {}
    for each in way.accepted:
        one = each.found
        for action in one.action.split():
            key = (one.connector, one.client, action)
            found[key] = Now(*key, "unknown", one.received_at)
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


class Search(NamedTuple):
    """What a trail has of what was asked for."""

    rows: list[Found]
    how: str  # it was found: id | prefix | person, or empty where nothing was written
    unread: str = ""  # why the trail can't be read


def bodies(way: Way, desk: Desk) -> list[tuple[str, str, Any]]:
    """(connector, client, the event as it may be shown) of each that the store still has; the same one once."""
    held = {(each.lane.connector, each.lane.client, each.row.delivery.body) for each in way.waiting}
    held |= {(each.connector, each.client, each.body) for each in way.dead}
    return [
        (connector, client, desk.personal(connector).event(decode_event(body)))
        for connector, client, body in sorted(held)
    ]


def found(trail: Recorder | None, query: Query, given: str, limit: int) -> Search:
    """What fits the query and what somebody wrote: an id, its beginning, an address, the key of a record."""
    if trail is None:
        return Search([], "")
    try:
        return _found(trail, query, given, limit)
    except StoreUnavailable as error:
        return Search([], "", str(error))


def _found(trail: Recorder, query: Query, given: str, limit: int) -> Search:
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
            return Search(rows, how)
    return Search([], "")
