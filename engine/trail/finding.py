"""What is found in a trail: events by id or person, what became of them by time; the same for whatever database."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from engine.records import Trace
from engine.trail import packing
from engine.trail.entries import ACCEPTED, Cursor, Followed, Found, Query, Stages, State
from engine.trail.tables import AT_ONCE, NEIGHBOURS, in_parts, indexed, marks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.trail.packing import Events
    from engine.trail.tables import Db

MOST_LANES = 2_000
MOST_LOOKED_AT = 1_000
MOST_HIDDEN = 100_000  # entries that are looked through for newer ones; beyond, older states are listed, too

_stages = msgspec.json.Decoder(Stages).decode
_trace = msgspec.json.Decoder(Trace).decode


class Event(NamedTuple):
    place: int
    lane: int
    event_id: str
    received_at: float
    seq: int | None  # the first that it has in the store


class Held(NamedTuple):
    """A row of events."""

    first: int
    last: int
    lane: int
    events: Events

    def event(self, place: int) -> Event | None:
        """None for one that was taken out."""
        at = place - self.first
        event_id = self.events.ids[at]
        if event_id is None:
            return None
        return Event(place, self.lane, event_id, self.events.times[at], next(iter(self.events.seqs_of(at)), None))


class Outcome(NamedTuple):
    """A row of outcomes, without what is shown of one only."""

    first: int
    last: int
    at: float
    outcome: str
    action: str
    connector: str
    client: str
    reason: str
    code: str
    events: bytes | None

    @property
    def passed(self) -> list[tuple[int, int]]:
        """The place of each delivery, and of its event."""
        places = range(self.first, self.last + 1)
        if self.events is None:
            return list(zip(places, places, strict=True))
        return list(zip(places, packing.unpacked_places(self.events, len(places)), strict=True))

    def found(self, place: int, event: Event) -> Found:
        which = (place, event.event_id, self.connector, self.client, self.action)
        return Found(*which, self.at, self.outcome, self.reason, self.code, event.received_at)


_OUTCOME = "o.first, o.last, o.at, o.outcome, o.action, l.connector, l.client, o.reason, o.code, o.events"
_OF_LANE = "JOIN trail_lanes l ON l.id = o.lane"
_HELD = "SELECT first, last, lane, packed FROM trail_events"


class Chunks:
    """Rows of events that one search needs."""

    def __init__(self, db: Db) -> None:
        self._db = db
        self.held: dict[int, Held] = {}
        self._by_place: dict[int, Held] = {}

    def keep(self, rows: Sequence[Any]) -> list[Held]:
        kept = []
        for first, last, lane, given in rows:
            if first not in self.held:
                self.held[first] = Held(first, last, lane, packing.unpacked_events(given, last - first + 1))
                self._by_place.update(dict.fromkeys(range(first, last + 1), self.held[first]))
            kept.append(self.held[first])
        return kept

    def load(self, places: Sequence[int]) -> None:
        """Those in which these places are."""
        for part in in_parts([place for place in places if place not in self._by_place]):
            wanted = ", ".join(["(?)"] * len(part))
            sql = (
                f"WITH w(place) AS (VALUES {wanted}) SELECT DISTINCT e.first, e.last, e.lane, e.packed FROM w "
                "JOIN trail_events e ON e.first = (SELECT max(first) FROM trail_events WHERE first <= w.place)"
            )
            self.keep(self._db.rows(sql, *part))

    def of(self, place: int) -> Held | None:
        """Of those that are loaded."""
        return self._by_place.get(place)

    def at(self, place: int) -> Event | None:
        held = self.of(place)
        return None if held is None else held.event(place)


class Wanted(NamedTuple):
    """By what events are looked for."""

    event_id: str | None = None
    person: int | None = None
    prefix: bool = False  # `event_id` is its beginning

    def fits(self, events: Events, at: int) -> bool:
        event_id = events.ids[at]
        if event_id is None:
            return False
        if self.person is not None:
            return events.is_of(at, self.person)
        wanted: str = self.event_id  # type: ignore[assignment]
        return event_id.startswith(wanted) if self.prefix else event_id == wanted

    @property
    def bytes(self) -> bytes:
        """What is among those of a row that has such an event."""
        if self.prefix and self.event_id is not None:
            return self.event_id.encode()
        return packing.packed(self.person if self.person is not None else self.event_id)

    @property
    def number(self) -> int:
        if self.person is not None:
            return packing.person_number(self.person)
        return packing.name_number(self.event_id or "")


def events(db: Db, chunks: Chunks, wanted: Wanted, below: int = 2**62) -> Iterator[Event]:
    """Those that fit, the newest first: of what is not in the index yet, and from the index."""
    since = 0 if wanted.prefix else indexed(db)  # the index knows no beginnings
    end, theirs = below, wanted.bytes
    rows = f"{_HELD} WHERE first > ? AND first < ? ORDER BY first DESC LIMIT {AT_ONCE}"
    while found := db.rows(rows, since, end):
        for held in chunks.keep([row for row in found if theirs in row[3]]):
            yield from _fitting(held, wanted, range(held.last, held.first - 1, -1), below)
        end = found[-1][0]
    if wanted.prefix:
        return
    number = wanted.number
    parts = db.rows("SELECT id, numbers FROM trail_index WHERE id BETWEEN ? AND ?", *packing.bucket_rows(number))
    places = sorted((place for place in packing.places_of(number, parts) if place < below), reverse=True)
    for part in in_parts(places):
        chunks.load(part)
        for place in part:
            if (of := chunks.of(place)) is not None:
                yield from _fitting(of, wanted, [place], below)


def _fitting(held: Held, wanted: Wanted, places: Sequence[int], below: int) -> Iterator[Event]:
    for place in places:
        if place < below and wanted.fits(held.events, place - held.first):
            yield held.event(place)  # type: ignore[misc]


def accepted(db: Db, places: Sequence[int], chunks: Chunks) -> list[tuple[Outcome, list[tuple[int, int]]]]:
    """That these events were accepted."""
    wanted: dict[int, list[tuple[int, int]]] = {}
    for place in places:
        if (held := chunks.of(place)) is not None:
            wanted.setdefault(held.first, []).append((place, place))
    found = []
    for part in in_parts(list(wanted)):
        of = f"WHERE o.events IS NULL AND o.first IN ({marks(part)})"
        for row in db.rows(f"SELECT {_OUTCOME} FROM trail_outcomes o {_OF_LANE} {of}", *part):
            found.append((Outcome(*row), wanted[row[0]]))
    return found


def referring(db: Db, places: Sequence[int]) -> list[tuple[Outcome, list[tuple[int, int]]]]:
    """What became of deliveries of these events: each with its place and that of its event."""
    wanted, rows = set(places), dict[int, Outcome]()
    for part in in_parts(sorted({place // NEIGHBOURS for place in wanted})):
        of = f"SELECT outcome FROM trail_refers WHERE events IN ({marks(part)})"
        sql = f"SELECT {_OUTCOME} FROM trail_outcomes o {_OF_LANE} WHERE o.first IN ({of})"
        rows |= {row[0]: Outcome(*row) for row in db.rows(sql, *part)}
    found = []
    for outcome in rows.values():
        if passed := [(place, event) for place, event in outcome.passed if event in wanted]:
            found.append((outcome, passed))
    return found


def find(db: Db, query: Query, limit: int) -> list[Found]:
    if query.event_id is not None or query.people is not None:
        return _by_event(db, query, limit)
    return _by_time(db, query, limit)


def _by_event(db: Db, query: Query, limit: int) -> list[Found]:
    """By id or person: of the newest MOST_LOOKED_AT the rest is looked at one by one."""
    below = query.before.place if query.before is not None else 2**62
    wanted = [Wanted(person=person) for person in query.people or ()]
    if query.event_id is not None:
        wanted.append(Wanted(packing.whole(query.event_id), prefix=query.prefix))
    chunks = Chunks(db)
    places = {each.place for one in wanted for each in islice(events(db, chunks, one, below), MOST_LOOKED_AT)}
    newest = sorted(places, reverse=True)[:MOST_LOOKED_AT]
    became = referring(db, newest)
    told = {event for _, passed in became for _, event in passed}
    found = []
    for outcome, passed in accepted(db, newest, chunks) + became:
        if _fits(outcome, query):
            for place, event in passed:
                is_telling = query.outcomes is not None or outcome.outcome != ACCEPTED or event not in told
                if place < below and is_telling and (of := chunks.at(event)) is not None:
                    found.append(outcome.found(place, of))
    found.sort(reverse=True)
    return found[:limit]


def _fits(outcome: Outcome, query: Query) -> bool:
    return (
        query.connector in (None, outcome.connector)
        and query.client in (None, outcome.client)
        and (query.outcomes is None or outcome.outcome in query.outcomes)
        and (query.since is None or outcome.at >= query.since)
        and (query.until is None or outcome.at < query.until)
    )


class Newest:
    """Of which deliveries something newer is known."""

    def __init__(self, db: Db, until: float | None) -> None:
        self._db, self._until = db, until
        self._known: dict[int, list[tuple[int, str]]] = {}  # by the place of an event: each delivery's, and its action
        self._seen: set[int] = set()

    def learn(self, places: Sequence[int]) -> None:
        """Of these events."""
        neighbours = {place // NEIGHBOURS for place in places} - self._seen
        self._seen |= neighbours
        all_of = [place for each in neighbours for place in range(each * NEIGHBOURS, (each + 1) * NEIGHBOURS)]
        for outcome, passed in referring(self._db, all_of):
            if self._until is None or outcome.at < self._until:
                for place, event in passed:
                    self._known.setdefault(event, []).append((place, outcome.action))

    def is_one(self, outcome: Outcome, place: int, event: int) -> bool:
        """The last that became of a delivery; or that an event was accepted, and no more is known of it."""
        was_accepted = outcome.outcome == ACCEPTED
        return not any(
            later > place and (was_accepted or action == outcome.action) for later, action in self._known.get(event, ())
        )


def _by_time(db: Db, query: Query, limit: int) -> list[Found]:
    """The newest of each lane and outcome that is meant, by an index, put together; where any is, the newest states."""
    lanes: list[int | None] = [None]
    if query.connector is not None or query.client is not None:
        named = {"connector = ?": query.connector, "client = ?": query.client}
        where = " AND ".join(name for name, value in named.items() if value is not None)
        values = [value for value in named.values() if value is not None]
        lanes = [lane for (lane,) in db.rows(f"SELECT id FROM trail_lanes WHERE {where} LIMIT {MOST_LANES}", *values)]
    chunks, newest = Chunks(db), Newest(db, query.until)
    rows: list[Found] = []
    most, looked = limit, 0
    while True:
        found: list[Outcome] = []
        for lane in lanes:
            for kind in [None] if query.outcomes is None else query.outcomes:
                found += _outcomes(db, query, lane, kind, most)
        found.sort(key=lambda each: (each.at, each.first), reverse=True)
        for outcome in found[:most]:
            passed = outcome.passed
            if query.before is not None and outcome.at == query.before.at:
                passed = [(place, event) for place, event in passed if place < query.before.place]
            hides = query.outcomes is None and looked < MOST_HIDDEN
            looked += len(passed)
            if hides:
                newest.learn([event for _, event in passed])
                passed = [(place, event) for place, event in passed if newest.is_one(outcome, place, event)]
            passed.reverse()
            chunks.load([event for _, event in passed])
            for place, event in passed:
                if (of := chunks.at(event)) is not None:
                    rows.append(outcome.found(place, of))
                    if len(rows) >= limit:
                        return rows
        if len(found) < most:
            return rows
        query = query._replace(before=Cursor(found[most - 1].at, found[most - 1].first))
        most = min(2 * most, MOST_LOOKED_AT)


def _outcomes(db: Db, query: Query, lane: int | None, outcome: str | None, limit: int) -> list[Outcome]:
    where, values = [], list[Any]()
    for name, value in (
        ("o.lane = ?", lane),
        ("o.outcome = ?", outcome),
        ("o.at >= ?", query.since),
        ("o.at < ?", query.until),
    ):
        if value is not None:
            where.append(name)
            values.append(value)
    if query.before is not None:
        where.append("(o.at, o.first) < (?, ?)")
        values += [query.before.at, query.before.place]
    sql = (
        f"SELECT {_OUTCOME} FROM trail_outcomes o {_OF_LANE} WHERE {' AND '.join(where) or '1 = 1'} "
        "ORDER BY o.at DESC, o.first DESC LIMIT ?"
    )
    return [Outcome(*row) for row in db.rows(sql, *values, limit)]


def of_event(db: Db, event_id: str, limit: int) -> list[Followed]:
    """That each event of this id was accepted, and the newest of what became of them; the oldest first."""
    chunks = Chunks(db)
    places = [each.place for each in islice(events(db, chunks, Wanted(packing.whole(event_id))), limit)]
    became = [(place, event, outcome) for outcome, passed in referring(db, places) for place, event in passed]
    known = [(place, event, outcome) for outcome, passed in accepted(db, places, chunks) for place, event in passed]
    known += sorted(became)[-limit:]
    more: dict[int, Any] = {}
    for part in in_parts([outcome.first for _, _, outcome in known]):
        sql = f"SELECT first, tries, stages, trace FROM trail_outcomes WHERE first IN ({marks(part)})"
        more |= {first: told for first, *told in db.rows(sql, *part)}
    found = []
    for place, event, outcome in sorted(known):
        of = chunks.at(event)
        if of is not None and outcome.first in more:
            tries, stages, trace = more[outcome.first]
            together = outcome.last - outcome.first + 1
            shown = None if trace is None else _trace(trace)
            found.append(Followed(outcome.found(place, of), tries, together, _stages(stages), shown, of.seq))
    return found


def state(db: Db) -> State:
    since = db.rows("SELECT at FROM trail_outcomes ORDER BY at LIMIT 1")
    return State(since[0][0] if since else None, int(db.rows("SELECT sum(count) FROM trail_missing")[0][0] or 0))
