"""What is written of a trail, and taken out of it: the same for whatever database holds it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from engine.privacy.people import Subject
from engine.records import Trace
from engine.trail import packing
from engine.trail.entries import ACCEPTED, UNWANTED
from engine.trail.finding import Chunks, Wanted, accepted, events, referring
from engine.trail.packing import Events
from engine.trail.tables import NEIGHBOURS, in_parts, indexed, marks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from engine.records import Delivery
    from engine.trail.entries import Attempt, Missing, People, Taken
    from engine.trail.tables import Db

TOGETHER = 1_000  # events in one row
LATER = 20_000  # places of which the index knows nothing yet: each search looks through them
HELD = 50_000  # deliveries whose events are remembered
OVERLAPPING = 100  # rows of events of a lane that were written at the same time: one for each choice of actions
PART = 20_000  # deliveries that are removed in one transaction
ANY_TIME = 1e18  # `before` which all is
GONE_S = 600.0  # for so long what is written late of somebody who was erased is looked for

_encode = msgspec.json.Encoder().encode
_trace = msgspec.json.Decoder(Trace).decode


class Memory:
    """What a process remembers between two writes; nothing of it where anything went wrong."""

    def __init__(self) -> None:
        self.lanes: dict[tuple[str, str], int] = {}
        self._places: dict[int, dict[int, int]] = {}
        self._count = 0
        self._oldest = 0

    def places(self, lane: int) -> dict[int, int]:
        """By the seq of a delivery: where its event stands."""
        return self._places.setdefault(lane, {})

    def bound(self, oldest: int) -> None:
        """Between two writes: what one of them has learned it needs. What stood before `oldest` is kept no more."""
        if self._count > HELD:
            self._places, self._count = {}, 0
        elif oldest > self._oldest:
            for lane, places in self._places.items():
                self._places[lane] = {seq: place for seq, place in places.items() if place >= oldest}
            self._count = sum(map(len, self._places.values()))
        self._oldest = oldest

    def put(self, lane: int, seqs_at: dict[int, int]) -> None:
        self.places(lane).update(seqs_at)
        self._count += len(seqs_at)

    def learn(self, lane: int, first: int, events: Events) -> None:
        seqs, places = events.seqs, range(first, first + len(events.ids))
        if len(seqs) > len(places):
            each = len(seqs) // len(places)
            self.places(lane).update((seq, place) for seq, place in zip(seqs, _repeated(places, each), strict=True))
        else:
            self.places(lane).update(zip(seqs, places, strict=False))
        self._count += len(seqs)


def _repeated(places: Iterable[int], each: int) -> Iterator[int]:
    return (place for place in places for _ in range(each))


class Writing:
    """One write, in a transaction that nobody else writes beside."""

    def __init__(self, db: Db, memory: Memory, people: People) -> None:
        self._db, self._memory, self._people = db, memory, people
        self._gone: list[Any] = []
        self._events: list[tuple[Any, ...]] = []
        self._outcomes: list[tuple[Any, ...]] = []
        self._refers: list[tuple[int, int]] = []

    def write(self, taken: list[Taken], attempts: list[Attempt], missing: list[Missing]) -> None:
        db = self._db
        count = sum(len(each.events.ids) for each in taken) + sum(len(each.passed) for each in attempts)
        db.send("UPDATE trail_facts SET next = next + ?", count)  # waits for whoever writes or erases
        self._gone = db.rows("SELECT person, client, at FROM trail_gone")
        end = db.rows("SELECT next FROM trail_facts")[0][0]
        place = end - count
        oldest = db.rows("SELECT min(first) FROM trail_events")[0][0]
        self._memory.bound(place if oldest is None else oldest)
        for each_taken in taken:
            place = self._taken(each_taken, place)
        for attempt in attempts:
            place = self._attempt(attempt, place)
        db.insert("trail_events", self._events)
        db.insert("trail_outcomes", self._outcomes)
        db.insert("trail_refers", self._refers)
        db.insert("trail_missing", missing)
        if end - indexed(db) >= LATER:
            index(db)

    def _taken(self, taken: Taken, place: int) -> int:
        lane = self._lane(taken.connector, taken.client)
        outcome = ACCEPTED if taken.actions else UNWANTED
        if self._gone:
            self._leave_out(taken.events, taken.client)
        for at in range(0, len(taken.events.ids), TOGETHER):
            events = taken.events.part(at, at + TOGETHER)
            end = place + len(events.ids)
            self._events.append(event_row(place, lane, taken.at, events))
            told = (taken.actions, taken.at, outcome, "", "", 1, _encode({"began": taken.at}), None, None)
            self._outcomes.append((place, end - 1, lane, *told))
            self._memory.learn(lane, place, events)
            place = end
        return place

    def _attempt(self, attempt: Attempt, first: int) -> int:
        lane, passed = self._lane(attempt.connector, attempt.client), attempt.passed
        known = self._memory.places(lane)
        places: list[int | None] = [known.get(delivery.seq) for delivery in passed]
        if None in places:
            places = self._found(lane, passed)
        if None in places:
            places = self._new(lane, attempt, places, first)
        trace = None if attempt.trace is None else _encode(attempt.trace)
        told = (attempt.action, attempt.at, attempt.outcome, attempt.reason, attempt.code, attempt.tries)
        theirs: list[int] = places  # type: ignore[assignment]
        row = (first, first + len(passed) - 1, lane, *told, attempt.stages, trace, packing.packed_places(theirs))
        self._outcomes.append(row)
        self._refers += refers(first, theirs)
        return first + len(passed)

    def _found(self, lane: int, passed: Sequence[Delivery]) -> list[int | None]:
        """With the events that this process does not remember."""
        known = self._memory.places(lane)
        left = sorted((each.seq, each.event_id) for each in passed if each.seq not in known and each.again_at is None)
        while left:
            seq, event_id = left[0]
            rows = self._db.rows(
                "SELECT first, first_seq FROM trail_events WHERE lane = ? AND last_seq >= ? "
                f"ORDER BY last_seq LIMIT {OVERLAPPING}",
                *(lane, seq),
            )
            for first in [first for first, first_seq in rows if first_seq <= seq]:
                [(last, given)] = self._db.rows("SELECT last, packed FROM trail_events WHERE first = ?", first)
                events = packing.unpacked_events(given, last - first + 1)
                if seq in events.seqs and _is_at(events, seq, event_id):  # and not one of another store, before
                    self._memory.learn(lane, first, events)
                    break
            known = self._memory.places(lane)
            beyond = min((row[1] for row in rows), default=float("inf"))
            left = [each for each in left[1:] if each[0] not in known and each[0] >= beyond]
        found = [known.get(each.seq) for each in passed]
        for at, delivery in enumerate(passed):
            if found[at] is None and delivery.again_at is not None:  # it has another seq than when it was accepted
                found[at] = self._by_id(lane, delivery)
        return found

    def _by_id(self, lane: int, delivery: Delivery) -> int | None:
        for event in events(self._db, Chunks(self._db), Wanted(packing.whole(delivery.event_id))):
            if event.lane == lane and abs(event.received_at - delivery.received_at) < 1e-6:
                self._memory.put(lane, {delivery.seq: event.place})
                return event.place
        return None

    def _new(self, lane: int, attempt: Attempt, places: list[int | None], first: int) -> list[int | None]:
        """Events that were accepted when there was no trail stand where their delivery does."""
        events = Events([], [], [], [], [])
        for place, delivery in zip(places, attempt.passed, strict=True):
            new = place is None
            events.ids.append(delivery.event_id if new else None)
            events.times.append(float(delivery.received_at) if new else 0.0)
            one, other = self._people(delivery.key, delivery.body) if new else (None, None)
            events.people.append(one)
            events.others.append(other)
            events.seqs.append(delivery.seq if new else 0)
        if self._gone:
            self._leave_out(events, attempt.client)
        self._events.append(event_row(first, lane, attempt.at, events))
        found = [at if place is None else place for at, place in enumerate(places, first)]
        seqs = [each.seq for each in attempt.passed]
        self._memory.put(lane, {seq: at for seq, at, place in zip(seqs, found, places, strict=True) if place is None})
        return found  # type: ignore[return-value]

    def _leave_out(self, events: Events, client: str) -> None:
        """What comes late of somebody who was erased."""
        for person, of_client, until in self._gone:
            if of_client in (None, client):
                for at in range(len(events.ids)):
                    if events.times[at] <= until and events.is_of(at, person):
                        events.take_out(at)

    def _lane(self, connector: str, client: str) -> int:
        key = (connector, client)
        if key not in self._memory.lanes:
            self._memory.lanes[key] = lane_of(self._db, connector, client)
        return self._memory.lanes[key]


def lane_of(db: Db, connector: str, client: str) -> int:
    """Its number; made where it has none."""
    which = "SELECT id FROM trail_lanes WHERE connector = ? AND client = ?"
    found = db.rows(which, connector, client)
    if not found:
        number = db.rows("SELECT coalesce(max(id), 0) + 1 FROM trail_lanes")[0][0]
        db.insert("trail_lanes", [(number, connector, client)])
        return int(number)
    return int(found[0][0])


def event_row(first: int, lane: int, at: float, events: Events) -> tuple[Any, ...]:
    if not any(events.others):
        events.others = []
    seqs = [seq for seq in events.seqs if seq]
    span = (min(seqs), max(seqs)) if seqs else (None, None)
    return first, first + len(events.ids) - 1, lane, float(at), *span, packing.packed_events(events)


def refers(outcome: int, events: Sequence[int]) -> list[tuple[int, int]]:
    return [(neighbours, outcome) for neighbours in sorted({place // NEIGHBOURS for place in events})]


def _is_at(events: Events, seq: int, event_id: str) -> bool:
    each = len(events.seqs) // len(events.ids)
    return events.ids[events.seqs.index(seq) // each] == packing.whole(event_id)


def index(db: Db) -> None:
    """A part of the index, of what came since the last one."""
    rows = db.rows("SELECT first, last, packed FROM trail_events WHERE first > ? ORDER BY first", indexed(db))
    if rows:
        base = rows[0][0]
        rows = [row for row in rows if row[1] - base < packing.REACH]
        read = [(first, packing.unpacked_events(given, last - first + 1)) for first, last, given in rows]
        found = packing.index_of(base, read)
        db.insert("trail_index", found)
        db.insert("trail_parts", [(base, rows[-1][1])])


# --- taken out ---


def to_forget(db: Db, people: list[int], text: str | None, client: str | None) -> tuple[list[int], int]:
    """Where the events of a person stand, and of how many entries they are."""
    subject = Subject(text) if text is not None else None
    chunks = Chunks(db)
    theirs = {(each.place, each.lane) for person in people for each in events(db, chunks, Wanted(person=person))}
    if subject is not None:
        theirs |= set(_named(db, subject))
    lanes = {lane for lane, of in db.rows("SELECT id, client FROM trail_lanes") if client in (None, of)}
    places = sorted(place for place, lane in theirs if lane in lanes)
    chunks.load(places)
    known = accepted(db, places, chunks) + referring(db, places)
    return places, sum(len(passed) for _, passed in known)


def _named(db: Db, subject: Subject) -> Iterator[tuple[int, int]]:
    """Place and lane of the events in whose id they stand."""
    wanted, after = subject.wanted.lower(), -1
    while rows := db.rows(
        "SELECT first, last, lane, packed FROM trail_events WHERE first > ? ORDER BY first LIMIT 100", after
    ):
        for first, last, lane, given in rows:
            after = first
            ids = packing.unpacked_events(given, last - first + 1).ids
            if wanted in "\n".join(filter(None, ids)).lower():
                for place, event_id in enumerate(ids, first):
                    if event_id is not None and subject.named_in(event_id):
                        yield place, lane


def named_in(db: Db, text: str | None) -> list[tuple[str, bytes | None, int]]:
    """(reason, exchange, number) of each outcome that names them, without them."""
    changed: list[tuple[str, bytes | None, int]] = []
    if text is None:
        return changed
    subject, after = Subject(text), -1
    of = "SELECT first, reason, trace FROM trail_outcomes WHERE first > ? AND (reason <> '' OR trace IS NOT NULL)"
    while rows := db.rows(f"{of} ORDER BY first LIMIT 1000", after):
        after = rows[-1][0]
        for first, reason, given in rows:
            trace = None if given is None else bytes(given)
            if subject.named_in(reason) or (trace is not None and subject.named_in(trace)):
                kept = None if trace is None else _encode(_without(_trace(trace), subject))
                changed.append((subject.taken_out(reason), kept, first))
    return changed


def _without(trace: Trace, subject: Subject) -> Trace:
    url, request, reply = (subject.taken_out(text) for text in (trace.url, trace.request, trace.reply))
    return Trace(trace.method, url, trace.status, request, reply)


def gone(db: Db, people: list[int], client: str | None, now: float) -> None:
    """From then on nothing of theirs is written that was accepted before `now`."""
    db.insert("trail_gone", [(person, client, float(now)) for person in people])


def forget(db: Db, places: list[int], changed: Iterable[tuple[Any, ...]]) -> None:
    """What still names their places names nothing then."""
    chunks = Chunks(db)
    chunks.load(places)
    numbers: list[tuple[int, int]] = []  # of the index, and the place
    for first, held in chunks.held.items():
        theirs = [place for place in places if first <= place < first + len(held.events.ids)]
        for place in theirs:
            numbers += [(number, place) for number in packing.numbers_of(held.events, place - first)]
            held.events.take_out(place - first)
        if theirs:
            db.send("UPDATE trail_events SET packed = ? WHERE first = ?", packing.packed_events(held.events), first)
    parts = db.rows("SELECT base, last FROM trail_parts")
    for base, last in parts:
        without: dict[int, set[int]] = {}
        for number, place in numbers:
            if base <= place <= last:
                without.setdefault(packing.part_row(number, base), set()).add(number + place - base)
        for row, gone in without.items():
            for (given,) in db.rows("SELECT numbers FROM trail_index WHERE id = ?", row):
                left = [number for number in packing.unpacked_numbers(given) if number not in gone]
                db.send("UPDATE trail_index SET numbers = ? WHERE id = ?", packing.packed_numbers(left), row)
    for reason, trace, first in changed:
        db.send("UPDATE trail_outcomes SET reason = ?, trace = ? WHERE first = ?", reason, trace, first)


def expire(db: Db, *, before: float, now: float) -> bool:
    """A part of what is older, the oldest first; may there be more?"""
    if before < ANY_TIME:
        db.send("DELETE FROM trail_gone WHERE at < ?", max(before, now - GONE_S))
        db.send("DELETE FROM trail_missing WHERE at < ?", before)
    of = f"SELECT at, first, last FROM trail_outcomes WHERE at < ? ORDER BY at, first LIMIT {PART}"
    rows = db.rows(of, before)
    count, ended = 0, list[tuple[float, int]]()
    for at, first, last in rows:
        ended.append((at, first))
        count += last - first + 1
        if count >= PART:
            break
    if not ended:
        return False
    for part in in_parts([first for _, first in ended]):
        db.send(f"DELETE FROM trail_outcomes WHERE first IN ({marks(part)})", *part)
    at, first = ended[-1]
    db.send("DELETE FROM trail_events WHERE at < ? OR (at = ? AND first <= ?)", at, at, first)
    oldest = db.rows("SELECT coalesce(min(first), (SELECT next FROM trail_facts)) FROM trail_events")[0][0]
    db.send("DELETE FROM trail_refers WHERE events < ?", oldest // NEIGHBOURS)
    for (base,) in db.rows("SELECT base FROM trail_parts WHERE last < ?", oldest):
        for part in in_parts(packing.part_rows(base)):
            db.send(f"DELETE FROM trail_index WHERE id IN ({marks(part)})", *part)
        db.send("DELETE FROM trail_parts WHERE base = ?", base)
    return count >= PART
