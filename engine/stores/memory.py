"""The store in memory, for tests and `connect test`, in plain loops; and the rules that both stores share."""

from __future__ import annotations

import math
import threading
import uuid
from collections import defaultdict
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import msgspec

from engine.errors import BadValue, LeaseLost, StoreUnavailable
from engine.records import Dead, Delivery, Lane, Lease, Settled, Skipped, Stored

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from engine.records import Accepted, LaneChange, Progress, TokenRow

P = ParamSpec("P")
T = TypeVar("T")

Name = tuple[str, str]  # of a lane: connector, client


# Rules that both stores share


def wait_until(then: float, now: float) -> float:
    """Seconds from now to then, such that now + seconds is never before then."""
    wait = then - now
    return wait if now + wait >= then else math.nextafter(then, math.inf) - now


def first_of(times: Iterable[float | None]) -> float | None:
    """The first of these times; inf, that of a delivery which waits for another, is no time."""
    return min((time for time in times if time is not None and time < math.inf), default=None)


def lane_state(*, paused: bool, reason: str | None, waiting: int) -> str:
    if paused:
        return "paused"
    if reason is not None:
        return "throttled"
    return "waiting" if waiting else "idle"


def refuse_impossible(name: str, *, count: int, cost: int) -> None:
    if cost > count:
        raise BadValue(f"a request that costs {cost} never fits into the {count} that {name} allows")


def lost(lease: Lease) -> LeaseLost:
    return LeaseLost(f"{lease.connector}/{lease.client}: {lease.owner} no longer holds the lane")


class Wait(NamedTuple):
    """The deliveries of its event that one waits for, by seq."""

    after: frozenset[int]
    past_rejected: bool


def waits_of(event: Accepted, first: int) -> dict[int, Wait]:
    """Which deliveries of an event wait for which, where that of its first draft has the seq `first`."""
    seqs = {draft.action: seq for seq, draft in enumerate(event.drafts, first)}
    waits = {}
    for seq, draft in enumerate(event.drafts, first):
        if after := frozenset(seqs[name] for name in draft.after if name in seqs) - {seq}:
            waits[seq] = Wait(after, draft.past_rejected)
    return waits


def follow(ended: Mapping[int, bool], waits: Mapping[int, Wait]) -> tuple[dict[int, Wait], dict[int, int]]:
    """
    (what those still wait for that waited for one of `ended`, and for whose sake others are skipped), by seq.

    `ended` says which were rejected. What waits for one that was skipped for its sake is skipped too.
    """
    left: dict[int, Wait] = {}
    skipped: dict[int, int] = {}
    news = {seq: seq if rejected else None for seq, rejected in ended.items()}
    while news:
        heard, news = news, {}
        for seq, wait in waits.items():
            over = wait.after & heard.keys()
            if seq in skipped or not over:
                continue
            roots = [root for each in sorted(over) if (root := heard[each]) is not None]
            if roots and not wait.past_rejected:
                skipped[seq] = news[seq] = roots[0]
                left.pop(seq, None)
            else:
                left[seq] = Wait(left.get(seq, wait).after - over, wait.past_rejected)
    return left, dict(sorted(skipped.items()))


def followers(skipped: Mapping[int, int], waits: Mapping[int, Wait]) -> dict[int, dict[int, Wait]]:
    """
    For each that was rejected, those skipped for its sake: what comes back with it if it is tried again.

    Each waits by place: 0 is the rejected one, then they follow in order.
    """
    by_root: dict[int, dict[int, Wait]] = {}
    for root in sorted(set(skipped.values())):
        seqs = sorted(seq for seq in skipped if skipped[seq] == root)
        places = {seq: place for place, seq in enumerate([root, *seqs])}
        by_root[root] = {
            seq: Wait(frozenset(places[each] for each in waits[seq].after if each in places), waits[seq].past_rejected)
            for seq in seqs
        }
    return by_root


def concerns(subject: str, key: str | None, body: bytes) -> bool:
    """Is the key, or a text value anywhere in the JSON body, this subject in whatever case?"""
    wanted = subject.strip().casefold()
    if key is not None and key.strip().casefold() == wanted:
        return True
    if b"\\" not in body and not mentions(subject, body):  # without an escape the text stands there as it is
        return False
    try:
        return _holds(msgspec.json.decode(body), wanted)
    except msgspec.DecodeError:
        return mentions(subject, body)


def mentions(subject: str, text: bytes) -> bool:
    """Does the subject stand anywhere in the text, be it as a part of a word?"""
    return subject.strip().casefold() in text.decode(errors="replace").casefold()


def _holds(value: Any, wanted: str) -> bool:
    match value:
        case str():
            return value.strip().casefold() == wanted
        case dict():
            return any(_holds(item, wanted) for item in value.values())
        case list():
            return any(_holds(item, wanted) for item in value)
    return False


# The store


@dataclass(slots=True)
class _Lane:
    wake_at: float | None = None
    stirred: bool = False  # made due by someone else since it was leased
    owner: str | None = None
    until: float = -math.inf
    fence: int = 0
    paused: bool = False
    reason: str | None = None
    not_before: float = 0.0
    failures: int = 0
    failing_since: float | None = None
    accepted: int = 0
    counts: dict[str, int] = field(default_factory=lambda: {"delivered": 0, "rejected": 0, "skipped": 0})

    @property
    def waiting(self) -> int:
        return self.accepted - sum(self.counts.values())

    def stir(self, at: float | None) -> None:
        if first_of([at]) is not None:
            self.wake_at = first_of([self.wake_at, at])
            self.stirred = True


class _Waiting(msgspec.Struct, frozen=True):
    lane: Name
    delivery: Delivery  # its due_at is its own, whatever stands before it
    wait: Wait | None = None

    @property
    def due_at(self) -> float:
        return self.delivery.due_at if self.wait is None else math.inf


def _one_at_a_time(
    verb: Callable[Concatenate[MemoryStore, P], T],
) -> Callable[Concatenate[MemoryStore, P], T]:
    @wraps(verb)
    def guarded(store: MemoryStore, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with store._gate:
            if store._closed:
                raise StoreUnavailable("the store is closed")
            return verb(store, *args, **kwargs)

    return guarded


class MemoryStore:
    """A Store that is gone with the process."""

    def __init__(self, *, new_id: Callable[[], str] = lambda: str(uuid.uuid4())) -> None:
        self._gate = threading.RLock()
        self._closed = False
        self._new_id = new_id
        self._lanes: dict[Name, _Lane] = defaultdict(_Lane)
        self._last_seq = 0
        self._rows: dict[int, _Waiting] = {}  # by seq, rising
        self._batches: dict[tuple[Name, str], Progress] = {}
        self._last_dead = 0
        self._dead: dict[int, Dead] = {}
        self._followers: dict[int, list[tuple[Delivery, Wait]]] = {}  # skipped for the sake of a dead letter
        self._dedupe: dict[tuple[Name, str], float] = {}
        self._tokens: dict[tuple[str, str, str], TokenRow] = {}
        self._locks: dict[str, tuple[str, float]] = {}
        self._slots: dict[str, dict[str, float]] = defaultdict(dict)
        self._uses: dict[str, list[tuple[float, int]]] = defaultdict(list)

    # Deliveries in

    @_one_at_a_time
    def put(self, events: Sequence[Accepted], *, now: float, hold_s: float = 0) -> Future[list[Stored]]:
        future: Future[list[Stored]] = Future()
        future.set_result([self._accept(event, now, now + hold_s) for event in events])
        return future

    def _accept(self, event: Accepted, now: float, due_at: float) -> Stored:
        name = (event.connector, event.client)
        lane = self._lanes[name]
        if event.dedupe_s > 0:
            if self._dedupe.get((name, event.event_id), -math.inf) > now:
                return Stored(event.event_id, duplicate=True, deliveries=())
            self._dedupe[name, event.event_id] = now + event.dedupe_s
        lane.accepted += len(event.drafts) or 1
        lane.counts["skipped"] += not event.drafts
        fresh = [
            Delivery(0, self._new_id(), event.event_id, draft.action, draft.key, event.body, event.received_at, due_at)
            for draft in event.drafts
        ]
        waits = waits_of(event, self._last_seq + 1)
        return Stored(event.event_id, duplicate=False, deliveries=tuple(self._add(name, each, waits) for each in fresh))

    def _add(self, name: Name, delivery: Delivery, waits: Mapping[int, Wait]) -> Delivery:
        self._last_seq += 1
        delivery = msgspec.structs.replace(delivery, seq=self._last_seq)
        row = _Waiting(name, delivery, waits.get(self._last_seq))
        self._rows[self._last_seq] = row
        seen = self._in_turn(row)
        self._lanes[name].stir(seen.due_at)
        return seen

    def _in_turn(self, row: _Waiting) -> Delivery:
        """The delivery with the due_at that counts: the latest of its own and of the older ones of its key."""
        delivery = row.delivery
        if delivery.batch is not None:
            return delivery
        if delivery.key is None:
            return msgspec.structs.replace(delivery, due_at=row.due_at)
        due_at = max(older.due_at for older in self._of_key(row.lane, delivery) if older.delivery.seq <= delivery.seq)
        return msgspec.structs.replace(delivery, due_at=due_at)

    def _of_key(self, name: Name, like: Delivery) -> Iterator[_Waiting]:
        for row in self._rows.values():
            if (row.lane, row.delivery.action, row.delivery.key) == (name, like.action, like.key):
                yield row

    # Lanes

    @_one_at_a_time
    def due_lanes(self, *, now: float, limit: int = 100) -> list[tuple[str, str]]:
        due = [
            (max(lane.wake_at, lane.not_before), place, name)
            for place, (name, lane) in enumerate(self._lanes.items())
            if lane.wake_at is not None and max(lane.wake_at, lane.not_before, lane.until) <= now
            if lane.waiting and not lane.paused
        ]
        return [name for _, _, name in sorted(due)[:limit]]

    @_one_at_a_time
    def next_due(self, *, now: float) -> float | None:
        return first_of(
            max(lane.wake_at, lane.not_before, lane.until if lane.until > now else lane.wake_at)
            for lane in self._lanes.values()
            if lane.wake_at is not None and lane.waiting and not lane.paused
        )

    @_one_at_a_time
    def lease(self, connector: str, client: str, *, owner: str, ttl_s: float, now: float) -> Lease | None:
        name = (connector, client)
        if name not in self._lanes or self._lanes[name].until > now:
            return None
        lane = self._lanes[name]
        lane.owner, lane.until, lane.stirred = owner, now + ttl_s, False
        lane.fence += 1
        return self._lease(name)

    @_one_at_a_time
    def renew(self, lease: Lease, *, ttl_s: float, now: float) -> Lease:
        name = self._held(lease)
        self._lanes[name].until = now + ttl_s
        return self._lease(name)

    @_one_at_a_time
    def release(self, lease: Lease, *, wake_at: float | None) -> None:
        try:
            name = self._held(lease)
        except LeaseLost:
            return
        lane = self._lanes[name]
        lane.wake_at = first_of([wake_at, self._earliest(name)]) if lane.stirred else wake_at
        lane.owner, lane.until = None, -math.inf

    @_one_at_a_time
    def reclaim(self, gone: Callable[[str], bool]) -> int:
        held = [lane for lane in self._lanes.values() if lane.owner is not None and gone(lane.owner)]
        for lane in held:
            lane.owner, lane.until = None, -math.inf
        for name, (owner, _) in list(self._locks.items()):
            if gone(owner):
                del self._locks[name]
        for slots in self._slots.values():
            for owner in [owner for owner in slots if gone(owner)]:
                del slots[owner]
        for row in list(self._rows.values()):
            if row.wait is not None and not row.wait.after & self._rows.keys():
                self._wait(row, None)
        return len(held)

    @_one_at_a_time
    def change_lane(self, connector: str, client: str, change: LaneChange, *, now: float) -> None:
        del now
        self._apply((connector, client), change)
        self._lanes[connector, client].stir(self._earliest((connector, client)))

    @_one_at_a_time
    def behind(self, connector: str, client: str, delivery: Delivery) -> bool:
        return any(
            row.delivery.key == delivery.key is not None and row.delivery.seq < delivery.seq
            for row in self._of_lane((connector, client), delivery.action)
        )

    @_one_at_a_time
    def lane(self, connector: str, client: str) -> Lane | None:
        return self._shown((connector, client)) if (connector, client) in self._lanes else None

    @_one_at_a_time
    def lanes(self) -> list[Lane]:
        return [self._shown(name) for name in sorted(self._lanes)]

    def _shown(self, name: Name) -> Lane:
        lane = self._lanes[name]
        return Lane(
            *name,
            state=lane_state(paused=lane.paused, reason=lane.reason, waiting=lane.waiting),
            waiting=lane.waiting,
            accepted=lane.accepted,
            delivered=lane.counts["delivered"],
            rejected=lane.counts["rejected"],
            skipped=lane.counts["skipped"],
            oldest_at=min((row.delivery.received_at for row in self._of_lane(name)), default=None),
            not_before=lane.not_before,
            reason=lane.reason,
            failures=lane.failures,
            failing_since=lane.failing_since,
        )

    def _lease(self, name: Name) -> Lease:
        lane = self._lanes[name]
        assert lane.owner is not None
        return Lease(
            *name,
            owner=lane.owner,
            fence=lane.fence,
            until=lane.until,
            not_before=lane.not_before,
            paused=lane.paused,
            failures=lane.failures,
            failing_since=lane.failing_since,
        )

    def _held(self, lease: Lease) -> Name:
        name = (lease.connector, lease.client)
        if name not in self._lanes or (self._lanes[name].fence, self._lanes[name].owner) != (lease.fence, lease.owner):
            raise lost(lease)
        return name

    def _apply(self, name: Name, change: LaneChange) -> None:
        lane = self._lanes[name]
        if change.not_before is not None:
            lane.not_before = change.not_before
        if change.reason is not None:
            lane.reason = change.reason or None
        if change.pause is not None:
            lane.paused = change.pause
        if change.failures is not None:
            lane.failures = change.failures
        if change.failing_since is not None:
            lane.failing_since = change.failing_since or None

    def _of_lane(self, name: Name, action: str | None = None) -> list[_Waiting]:
        return [row for row in self._rows.values() if row.lane == name and action in (None, row.delivery.action)]

    def _loose(self, name: Name, action: str | None = None) -> list[Delivery]:
        """Deliveries of no half-done batch, in order."""
        loose = [self._in_turn(row) for row in self._of_lane(name, action) if row.delivery.batch is None]
        return sorted(loose, key=lambda delivery: (delivery.due_at, delivery.seq))

    def _half_done(self, name: Name, action: str | None = None) -> dict[str, list[Delivery]]:
        batches: dict[str, list[Delivery]] = defaultdict(list)
        for row in self._of_lane(name, action):
            if row.delivery.batch is not None:
                batches[row.delivery.batch].append(row.delivery)
        return batches

    def _times(self, name: Name, action: str | None = None) -> Iterator[float]:
        """When each delivery, or half-done batch as a whole, comes due."""
        yield from (delivery.due_at for delivery in self._loose(name, action))
        for deliveries in self._half_done(name, action).values():
            yield max(delivery.due_at for delivery in deliveries)

    def _earliest(self, name: Name) -> float | None:
        return first_of(self._times(name))

    # What a lane holds

    @_one_at_a_time
    def backlog(self, lease: Lease, action: str, *, now: float, cap: int) -> tuple[int, float | None, float | None]:
        name = (lease.connector, lease.client)
        due = self._readable(name, action, now)[:cap]
        next_at = first_of(time for time in self._times(name, action) if time > now)
        return len(due), min((delivery.received_at for delivery in due), default=None), next_at

    @_one_at_a_time
    def waiting_actions(self, lease: Lease) -> list[str]:
        return sorted({row.delivery.action for row in self._of_lane((lease.connector, lease.client))})

    @_one_at_a_time
    def read(self, lease: Lease, action: str, *, limit: int, now: float) -> list[Delivery]:
        return self._readable(self._held(lease), action, now)[:limit]

    def _readable(self, name: Name, action: str, now: float) -> list[Delivery]:
        return [
            delivery
            for delivery in self._loose(name, action)
            if delivery.due_at <= now and not self._held_by_batch(name, delivery)
        ]

    def _held_by_batch(self, name: Name, delivery: Delivery) -> bool:
        return delivery.key is not None and any(
            older.delivery.batch is not None and older.delivery.seq < delivery.seq
            for older in self._of_key(name, delivery)
        )

    @_one_at_a_time
    def progress(self, lease: Lease, action: str, *, now: float) -> list[tuple[Progress, list[Delivery]]]:
        name = self._held(lease)
        half_done = self._half_done(name, action)
        return [
            (progress, half_done[batch])
            for (of, batch), progress in self._batches.items()
            if of == name and batch in half_done
            if all(delivery.due_at <= now for delivery in half_done[batch])
        ]

    @_one_at_a_time
    def save_progress(self, lease: Lease | None, progress: Progress, seqs: Sequence[int], *, now: float) -> None:
        del now
        rows = [row for row in self._there(lease, seqs) if row.delivery.action == progress.action]
        names = {row.lane for row in rows} if lease is None else {self._held(lease)}
        for name in names:
            self._batches[name, progress.batch] = progress
        for row in rows:
            self._change(row, batch=progress.batch)
        self._drop_done_batches()

    @_one_at_a_time
    def settle(
        self, lease: Lease | None, done: Sequence[Settled], *, now: float, change: LaneChange | None = None
    ) -> list[Skipped]:
        for settled in done:
            if settled.kind not in ("delivered", "skipped", "rejected", "later"):
                raise ValueError(f"a delivery is delivered, skipped, rejected or later, not {settled.kind}")
        there = self._there(lease, [settled.seq for settled in done])
        names = {row.lane for row in there} if lease is None else {self._held(lease)}
        verdicts = {settled.seq: settled for settled in reversed(done)}  # of two for one delivery the first holds
        for row in there:
            self._settle(row, verdicts[row.delivery.seq], now)
        skipped = self._follow([(row, verdicts[row.delivery.seq].kind) for row in there])
        self._drop_done_batches()
        for name in names:
            if change is not None:
                self._apply(name, change)
            if lease is None:
                self._lanes[name].stir(self._earliest(name))
        return skipped

    def _follow(self, settled: Sequence[tuple[_Waiting, str]]) -> list[Skipped]:
        """Those that waited for one that ended wait no longer, or are skipped."""
        ended = {row.delivery.seq: kind == "rejected" for row, kind in settled if kind != "later"}
        waits = {seq: row.wait for seq, row in self._rows.items() if row.wait is not None}
        left, skipped = follow(ended, waits)
        for seq, wait in left.items():
            self._wait(self._rows[seq], wait if wait.after else None)
        letters = {row.delivery.seq: self._letter_of(row.delivery.id) for row, kind in settled if kind == "rejected"}
        for root, those in followers(skipped, waits).items():
            self._followers[letters[root].id] = [(self._rows[seq].delivery, wait) for seq, wait in those.items()]
        gone = [self._rows.pop(seq) for seq in skipped]
        for row in gone:
            self._lanes[row.lane].counts["skipped"] += 1
            self._lanes[row.lane].stir(self._earliest(row.lane))
        seqs = [row.delivery.seq for row in gone]
        whys = [f"{letters[skipped[seq]].action} was rejected" for seq in seqs]
        return [Skipped(row.delivery.seq, row.delivery.action, why) for row, why in zip(gone, whys, strict=True)]

    def _letter_of(self, delivery_id: str) -> Dead:
        return [letter for letter in self._dead.values() if letter.delivery_id == delivery_id][-1]

    def _wait(self, row: _Waiting, wait: Wait | None) -> None:
        self._rows[row.delivery.seq] = _Waiting(row.lane, row.delivery, wait)
        if wait is None:
            self._lanes[row.lane].stir(self._earliest(row.lane))

    def _there(self, lease: Lease | None, seqs: Iterable[int]) -> list[_Waiting]:
        name = None if lease is None else self._held(lease)
        rows = [self._rows[seq] for seq in dict.fromkeys(seqs) if seq in self._rows]
        return [row for row in rows if name in (None, row.lane)]

    def _settle(self, row: _Waiting, settled: Settled, now: float) -> None:
        if settled.kind == "later":
            progress = self._batches.get((row.lane, settled.batch or ""))
            batch = progress.batch if progress is not None and progress.action == row.delivery.action else None
            self._change(row, due_at=settled.due_at, attempts=settled.attempts, batch=batch)
            return
        if settled.kind == "rejected":
            self._bury(row, settled, now)
        del self._rows[row.delivery.seq]
        self._lanes[row.lane].counts[settled.kind] += 1

    def _bury(self, row: _Waiting, settled: Settled, now: float) -> None:
        delivery = row.delivery
        self._last_dead += 1
        self._dead[self._last_dead] = Dead(
            self._last_dead,
            *row.lane,
            action=delivery.action,
            delivery_id=delivery.id,
            event_id=delivery.event_id,
            key=delivery.key,
            body=delivery.body,
            reason=settled.reason,
            code=settled.code,
            attempts=max(delivery.attempts, settled.attempts),
            received_at=delivery.received_at,
            at=now,
            expected=settled.expected,
            trace=settled.trace,
        )

    def _change(self, row: _Waiting, **fields: Any) -> None:
        self._rows[row.delivery.seq] = _Waiting(row.lane, msgspec.structs.replace(row.delivery, **fields), row.wait)

    def _drop_done_batches(self) -> None:
        alive = {(row.lane, row.delivery.batch) for row in self._rows.values()}
        for batch in [batch for batch in self._batches if batch not in alive]:
            del self._batches[batch]

    # Dead letters, and people

    @_one_at_a_time
    def dead(
        self,
        *,
        connector: str | None = None,
        client: str | None = None,
        reason: str | None = None,
        limit: int = 100,
        after: int = 0,
    ) -> list[Dead]:
        return [
            letter
            for letter in self._dead.values()
            if connector in (None, letter.connector) and client in (None, letter.client)
            if letter.id > after and (reason or "") in letter.reason
        ][:limit]

    @_one_at_a_time
    def dead_letter(self, dead_id: int) -> Dead | None:
        return self._dead.get(dead_id)

    @_one_at_a_time
    def requeue(self, dead_ids: Sequence[int], *, now: float) -> int:
        letters = [self._dead[dead_id] for dead_id in dict.fromkeys(dead_ids) if dead_id in self._dead]
        for letter in letters:
            self._requeue(letter, now)
        return len(letters)

    def _requeue(self, letter: Dead, due_at: float) -> list[Delivery]:
        name = (letter.connector, letter.client)
        del self._dead[letter.id]
        theirs = self._followers.pop(letter.id, [])
        self._lanes[name].counts["rejected"] -= 1
        self._lanes[name].counts["skipped"] -= len(theirs)
        fresh = (letter.delivery_id, letter.event_id, letter.action, letter.key, letter.body, letter.received_at)
        first = self._last_seq + 1
        waits = {
            first + place: Wait(frozenset(first + each for each in wait.after), wait.past_rejected)
            for place, (_, wait) in enumerate(theirs, 1)
        }
        again = [msgspec.structs.replace(each, due_at=due_at, attempts=0) for each, _ in theirs]
        return [self._add(name, each, waits) for each in (Delivery(0, *fresh, due_at=due_at), *again)]

    @_one_at_a_time
    def revive(
        self, connector: str, client: str, event_id: str, actions: Collection[str], *, now: float, hold_s: float
    ) -> list[Delivery]:
        letters = [
            letter
            for letter in self._dead.values()
            if (letter.connector, letter.client, letter.event_id) == (connector, client, event_id)
            if letter.action in actions
        ]
        return [delivery for letter in letters for delivery in self._requeue(letter, now + hold_s)]

    @_one_at_a_time
    def discard(self, dead_ids: Sequence[int], *, reason: str, now: float) -> int:
        del reason, now  # for the log of who calls; the letter is gone
        for dead_id in dead_ids:
            self._followers.pop(dead_id, None)
        return sum(self._dead.pop(dead_id, None) is not None for dead_id in dead_ids)

    @_one_at_a_time
    def forget(self, subject: str, *, now: float) -> dict[str, int]:
        rows = [row for row in self._rows.values() if concerns(subject, row.delivery.key, row.delivery.body)]
        letters = [letter for letter in self._dead.values() if concerns(subject, letter.key, letter.body)]
        events = {(row.lane, row.delivery.event_id) for row in rows}
        events |= {((letter.connector, letter.client), letter.event_id) for letter in letters}
        self._disband(subject, rows)
        self.settle(None, [Settled(row.delivery.seq, "skipped") for row in rows], now=now)
        for letter in letters:
            del self._dead[letter.id]
            self._followers.pop(letter.id, None)
        for dead_id, theirs in list(self._followers.items()):
            if any(concerns(subject, each.key, each.body) for each, _ in theirs):
                del self._followers[dead_id]
        for letter in self._dead.values():
            if letter.trace is not None and mentions(subject, msgspec.json.encode(letter.trace)):
                self._dead[letter.id] = msgspec.structs.replace(letter, trace=None)
        wanted = subject.strip().casefold()
        seen = [each for each in self._dedupe if each in events or each[1].casefold() == wanted]
        held_until = [self._dedupe.pop(each) for each in seen]
        return {"waiting": len(rows), "dead": len(letters), "dedupe": sum(until > now for until in held_until)}

    def _disband(self, subject: str, rows: list[_Waiting]) -> None:
        """What a half-done batch remembers may hold the person too: it goes, and the others in it start afresh."""
        theirs = {(row.lane, row.delivery.batch) for row in rows}
        for (name, batch), progress in list(self._batches.items()):
            if (name, batch) in theirs or mentions(subject, msgspec.json.encode(progress)):
                for row in self._of_lane(name):
                    if row.delivery.batch == batch:
                        self._change(row, batch=None)
                del self._batches[name, batch]
                self._lanes[name].stir(self._earliest(name))

    # Tokens and locks

    @_one_at_a_time
    def token(self, connector: str, client: str, name: str) -> TokenRow | None:
        return self._tokens.get((connector, client, name))

    @_one_at_a_time
    def save_token(self, connector: str, client: str, name: str, row: TokenRow) -> None:
        self._tokens[connector, client, name] = row

    @_one_at_a_time
    def lock(self, name: str, *, owner: str, ttl_s: float, now: float) -> bool:
        holder, until = self._locks.get(name, (owner, now))
        if holder != owner and until > now:
            return False
        self._locks[name] = (owner, now + ttl_s)
        return True

    @_one_at_a_time
    def unlock(self, name: str, *, owner: str) -> None:
        if name in self._locks and self._locks[name][0] == owner:
            del self._locks[name]

    # Rates and slots

    @_one_at_a_time
    def take(self, name: str, *, count: int, per_s: float, now: float, cost: int = 1) -> float:
        refuse_impossible(name, count=count, cost=cost)
        uses = self._uses[name] = [(at, spent) for at, spent in self._uses[name] if at + per_s > now]
        room = count - sum(spent for _, spent in uses)
        for at, spent in uses:
            if room >= cost:
                break
            room += spent
            if room >= cost:
                return wait_until(at + per_s, now)
        last_at, last_spent = uses[-1] if uses else (now, 0)
        at = max(now, last_at)  # clocks differ; the log must not go back
        uses[-1:] = [(at, last_spent + cost)] if at == last_at else [*uses[-1:], (at, cost)]
        return 0.0

    @_one_at_a_time
    def acquire(self, name: str, *, slots: int, owner: str, ttl_s: float, now: float) -> bool:
        held = self._slots[name]
        if sum(until > now for holder, until in held.items() if holder != owner) >= slots:
            return False
        held[owner] = now + ttl_s
        return True

    @_one_at_a_time
    def release_slot(self, name: str, *, owner: str) -> None:
        self._slots[name].pop(owner, None)

    def close(self) -> None:
        self._closed = True
