"""The store in memory, for tests and `connect test`, in plain loops."""

from __future__ import annotations

import math
import sys
import threading
import time
import uuid
from collections import Counter, defaultdict
from concurrent.futures import Future
from copy import deepcopy
from dataclasses import dataclass, field
from functools import wraps
from itertools import islice
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, Unpack

import msgspec

from engine.errors import LeaseLost, StoreUnavailable
from engine.privacy.people import Subject
from engine.records import (
    Buried,
    Dead,
    Delivery,
    Follower,
    Held,
    Lane,
    Lease,
    Progress,
    Remembered,
    Settled,
    Skipped,
    Stored,
    Try,
    Waiting,
)
from engine.stores.rules import (
    PROJECT,
    Wait,
    enter_one_by_one,
    first_of,
    follow,
    followers,
    lane_state,
    lost,
    named_by_limit,
    names_in,
    refuse_another,
    refuse_impossible,
    tried,
    wait_until,
    waits_of,
    without,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from engine.records import Accepted, Carried, LaneChange, Part, TokenRow, Use, Which

P = ParamSpec("P")
T = TypeVar("T")

Name = tuple[str, str]  # of a lane: connector, client


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


# What `forget` changes.
_ERASED = ("_lanes", "_rows", "_batches", "_dead", "_followers", "_dedupe", "_slots", "_uses", "_forgotten")


def _fits(letter: Dead, which: Which) -> bool:
    same = all(
        value is None or getattr(letter, name) == value
        for name, value in which.items()
        if name in ("connector", "client", "action", "code", "key", "event_id")
    )
    since, until = which.get("since"), which.get("until")
    return (
        same
        and (which.get("reason") or "") in letter.reason
        and (since is None or letter.at >= since)
        and (until is None or letter.at < until)
    )


class _Waiting(msgspec.Struct, frozen=True):
    lane: Name
    delivery: Delivery  # its due_at is its own, whatever stands before it
    wait: Wait | None = None
    tries: tuple[Try, ...] = ()

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
        self._forgotten = 0
        self._marks: dict[str, str] = {}

    @_one_at_a_time
    def claim(self, name: str) -> None:
        refuse_another("memory:", self._marks.setdefault(PROJECT, name), name)

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

    def _add(self, name: Name, delivery: Delivery, waits: Mapping[int, Wait], tries: tuple[Try, ...] = ()) -> Delivery:
        self._last_seq += 1
        delivery = msgspec.structs.replace(delivery, seq=self._last_seq)
        row = _Waiting(name, delivery, waits.get(self._last_seq), tries)
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

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

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

    def add_progress(self, lease: Lease, batch: str, action: str, part: Part, *, now: float) -> bool:
        del lease, batch, action, part, now
        return False  # nothing is encoded here: written whole costs no more

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
        each = [row.delivery for row in gone]
        return [Skipped(one.seq, one.action, why, one.event_id) for one, why in zip(each, whys, strict=True)]

    def _letter_of(self, delivery_id: str) -> Dead:
        return [letter for letter in self._dead.values() if letter.delivery_id == delivery_id][-1]

    def _wait(self, row: _Waiting, wait: Wait | None) -> None:
        self._rows[row.delivery.seq] = msgspec.structs.replace(row, wait=wait)
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
            row = msgspec.structs.replace(row, tries=tried(row.tries, now, settled.reason))
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
            tries=row.tries,
        )

    def _change(self, row: _Waiting, **fields: Any) -> None:
        delivery = msgspec.structs.replace(row.delivery, **fields)
        self._rows[row.delivery.seq] = msgspec.structs.replace(row, delivery=delivery)

    def _drop_done_batches(self) -> None:
        alive = {(row.lane, row.delivery.batch) for row in self._rows.values()}
        for batch in [batch for batch in self._batches if batch not in alive]:
            del self._batches[batch]

    # Dead letters, and people

    @_one_at_a_time
    def held(self, *, now: float) -> dict[Name, int]:
        return {name: lane.fence for name, lane in self._lanes.items() if lane.until > now}

    @_one_at_a_time
    def dead(self, *, limit: int = 100, after: int = 0, newest: bool = False, **which: Unpack[Which]) -> list[Dead]:
        letters = reversed(self._dead.values()) if newest else self._dead.values()
        ids = range(1, after or sys.maxsize) if newest else range(after + 1, sys.maxsize)
        return list(islice((letter for letter in letters if letter.id in ids and _fits(letter, which)), limit))

    @_one_at_a_time
    def count_dead(self, by: str, **which: Unpack[Which]) -> dict[str, int]:
        return dict(Counter(str(getattr(letter, by)) for letter in self._dead.values() if _fits(letter, which)))

    @_one_at_a_time
    def dead_letter(self, dead_id: int) -> Dead | None:
        return self._dead.get(dead_id)

    @_one_at_a_time
    def requeue(self, dead_ids: Sequence[int], *, now: float) -> int:
        letters = [self._dead[dead_id] for dead_id in dict.fromkeys(dead_ids) if dead_id in self._dead]
        for letter in letters:
            self._requeue(letter, now, now)
        return len(letters)

    def _requeue(self, letter: Dead, now: float, due_at: float) -> list[Delivery]:
        name = (letter.connector, letter.client)
        del self._dead[letter.id]
        theirs = self._followers.pop(letter.id, [])
        self._lanes[name].counts["rejected"] -= 1
        self._lanes[name].counts["skipped"] -= len(theirs)
        named = (letter.delivery_id, letter.event_id, letter.action, letter.key, letter.body, letter.received_at)
        fresh = Delivery(0, *named, due_at=due_at, again_at=now)
        first = self._last_seq + 1
        waits = {
            first + place: Wait(
                frozenset(
                    first + each if each >= 0 else -each for each in wait.after if each >= 0 or -each in self._rows
                ),
                wait.past_rejected,
            )
            for place, (_, wait) in enumerate(theirs, 1)
        }
        again = [msgspec.structs.replace(each, due_at=due_at, attempts=0, again_at=now) for each, _ in theirs]
        tries = tried(letter.tries, letter.at, letter.reason)
        return [self._add(name, fresh, waits, tries), *(self._add(name, each, waits) for each in again)]

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
        return [delivery for letter in letters for delivery in self._requeue(letter, now, now + hold_s)]

    @_one_at_a_time
    def amend(self, dead_id: int, *, body: bytes, key: str | None) -> bool:
        if dead_id not in self._dead:
            return False
        self._dead[dead_id] = msgspec.structs.replace(self._dead[dead_id], body=body, key=key)
        for each, (delivery, wait) in enumerate(self._followers.get(dead_id, [])):
            self._followers[dead_id][each] = (msgspec.structs.replace(delivery, body=body), wait)
        return True

    @_one_at_a_time
    def admit(self, letters: Sequence[Dead]) -> list[bool]:
        return [self._admit(letter) for letter in letters]

    def _admit(self, letter: Dead) -> bool:
        if self.whereabouts([letter.delivery_id]):
            return False
        lane = self._lanes[letter.connector, letter.client]
        lane.accepted += 1
        lane.counts["rejected"] += 1
        self._last_dead += 1
        self._dead[self._last_dead] = msgspec.structs.replace(letter, id=self._last_dead)
        return True

    @_one_at_a_time
    def whereabouts(self, delivery_ids: Collection[str]) -> dict[str, str]:
        wanted = set(delivery_ids)
        waiting = {row.delivery.id: "waiting" for row in self._rows.values() if row.delivery.id in wanted}
        return waiting | {each.delivery_id: "dead" for each in self._dead.values() if each.delivery_id in wanted}

    @_one_at_a_time
    def discard(self, dead_ids: Sequence[int], *, reason: str, now: float) -> int:
        del reason, now  # for the log of who calls; the letter is gone
        for dead_id in dead_ids:
            self._followers.pop(dead_id, None)
        return sum(self._dead.pop(dead_id, None) is not None for dead_id in dead_ids)

    @_one_at_a_time
    def forget(
        self,
        subject: str,
        *,
        now: float,
        by_key: bool = False,
        mentions: bool = False,
        client: str | None = None,
        dry: bool = False,
    ) -> dict[str, int]:
        before = {name: deepcopy(getattr(self, name)) for name in _ERASED} if dry else {}
        found = self._forget(Subject(subject, by_key=by_key), now, client, mentions=mentions)
        for name, value in before.items():
            setattr(self, name, value)
        return found

    def _forget(self, person: Subject, now: float, client: str | None, *, mentions: bool) -> dict[str, int]:
        def theirs(key: str | None, body: bytes) -> bool:
            return person.has(key, body) or (mentions and person.named_in(body))

        self._forgotten += 1
        of_client = [row for row in self._rows.values() if client in (None, row.lane[1])]
        rows = [row for row in of_client if theirs(row.delivery.key, row.delivery.body)]
        letters = [
            each for each in self._dead.values() if client in (None, each.client) and theirs(each.key, each.body)
        ]
        events = {(row.lane, row.delivery.event_id) for row in rows}
        events |= {((letter.connector, letter.client), letter.event_id) for letter in letters}
        disbanded = self._disband(person, rows, client)
        self.settle(None, [Settled(row.delivery.seq, "skipped") for row in rows], now=now)
        for letter in letters:
            del self._dead[letter.id]
            self._followers.pop(letter.id, None)
        for dead_id, waiting in list(self._followers.items()):
            if client in (None, self._dead[dead_id].client) and any(theirs(each.key, each.body) for each, _ in waiting):
                del self._followers[dead_id]
        named = [each for each in self._dead.values() if client in (None, each.client) and names_in(person, each)]
        for letter in named:
            self._dead[letter.id] = without(person, letter)
        for name, lane in self._lanes.items():
            if client in (None, name[1]) and lane.reason is not None:
                lane.reason = person.taken_out(lane.reason)
        seen = [
            each
            for each in self._dedupe
            if each in events or (client in (None, each[0][1]) and each[1].casefold() == person.wanted)
        ]
        held_until = [self._dedupe.pop(each) for each in seen]
        kept = [row.delivery.body for row in self._rows.values() if client in (None, row.lane[1])]
        kept += [letter.body for letter in self._dead.values() if client in (None, letter.client)]
        return {
            "waiting": len(rows),
            "dead": len(letters),
            "dedupe": sum(until > now for until in held_until),
            "progress": disbanded,
            "traces": len(named),
            "limits": 0 if client is not None else self._forget_limits(person),
            "mentioned": 0 if person.by_key else sum(map(person.named_in, kept)),
        }

    def _forget_limits(self, person: Subject) -> int:
        names = [*self._uses, *self._slots]
        theirs = {name for name in names if named_by_limit(person, name)}
        for name in theirs:
            self._uses.pop(name, None)
            self._slots.pop(name, None)
        return len(theirs)

    def _disband(self, person: Subject, rows: list[_Waiting], client: str | None) -> int:
        """What a half-done batch remembers may hold the person too: it goes, and the others in it start afresh."""
        theirs = {(row.lane, row.delivery.batch) for row in rows}
        gone = 0
        for (name, batch), progress in list(self._batches.items()):
            named = client in (None, name[1]) and person.named_in(msgspec.json.encode(progress))
            if (name, batch) in theirs or named:
                gone += 1
                for row in self._of_lane(name):
                    if row.delivery.batch == batch:
                        self._change(row, batch=None)
                del self._batches[name, batch]
                self._lanes[name].stir(self._earliest(name))
        return gone

    @_one_at_a_time
    def forgotten(self) -> int:
        return self._forgotten

    def scrub(self) -> bool:
        return True

    @_one_at_a_time
    def expire(self, *, dead_before: float | None, now: float, most: int = 1000) -> dict[str, int]:
        old = [] if dead_before is None else [each.id for each in self._dead.values() if each.at < dead_before][:most]
        for dead_id in old:
            del self._dead[dead_id]
            self._followers.pop(dead_id, None)
        over = [each for each, until in self._dedupe.items() if until <= now][:most]
        for each in over:
            del self._dedupe[each]
        return {"dead": len(old), "dedupe": len(over)}

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

    def enter(self, uses: Sequence[Use], *, owner: str, ttl_s: float, now: float) -> tuple[int, float] | None:
        return enter_one_by_one(self, uses, owner=owner, ttl_s=ttl_s, now=now)

    @_one_at_a_time
    def used(self, name: str, *, per_s: float, now: float) -> tuple[int, float | None]:
        uses = [(at, spent) for at, spent in self._uses.get(name, ()) if at + per_s > now]
        return sum(spent for _, spent in uses), uses[0][0] if uses else None

    @_one_at_a_time
    def slots_held(self, name: str, *, now: float) -> int:
        return sum(until > now for until in self._slots.get(name, {}).values())

    # From store to store

    @_one_at_a_time
    def mark(self, name: str) -> str | None:
        return self._marks.get(name)

    @_one_at_a_time
    def write_mark(self, name: str, value: str) -> None:
        self._marks[name] = value

    @_one_at_a_time
    def count(self, connector: str, client: str, *, now: float) -> Held:
        name = (connector, client)
        rows = self._of_lane(name)
        return Held(
            len(rows),
            sum(of == name for of, _ in self._batches),
            sum((each.connector, each.client) == name for each in self._dead.values()),
            sum(of == name and until > now for (of, _), until in self._dedupe.items()),
            max((row.delivery.seq for row in rows), default=0),
        )

    @_one_at_a_time
    def carry_out(self, connector: str, client: str, kind: Any, *, after: Any, limit: int) -> list[Any]:
        found = self._carried((connector, client), kind)
        return [found[at] for at in sorted(found) if at > after][:limit]

    def _carried(self, name: Name, kind: Any) -> dict[Any, Any]:
        """Each by what `after` names."""
        if kind is Waiting:
            return {row.delivery.seq: self._whole(row) for row in self._of_lane(name)}
        if kind is Buried:
            dead = [each for each in self._dead.values() if (each.connector, each.client) == name]
            return {each.id: Buried(each, self._followers_of(each.id)) for each in dead}
        if kind is Progress:
            return {batch: progress for (of, batch), progress in self._batches.items() if of == name}
        return {event_id: Remembered(event_id, until) for (of, event_id), until in self._dedupe.items() if of == name}

    @staticmethod
    def _whole(row: _Waiting) -> Waiting:
        if row.wait is None:
            return Waiting(row.delivery, row.tries)
        return Waiting(row.delivery, row.tries, tuple(sorted(row.wait.after)), row.wait.past_rejected)

    def _followers_of(self, dead_id: int) -> tuple[Follower, ...]:
        return tuple(
            Follower(each.id, each.action, each.key, tuple(sorted(wait.after)), wait.past_rejected)
            for each, wait in self._followers.get(dead_id, [])
        )

    @_one_at_a_time
    def reserve(self, connector: str, client: str, count: int) -> int:
        self._lanes[connector, client].stir(None)
        before, self._last_seq = self._last_seq, self._last_seq + count
        return before

    @_one_at_a_time
    def carry_in(self, connector: str, client: str, items: Sequence[Carried]) -> None:
        for item in items:
            self._carry_in((connector, client), item)
        self._rows = dict(sorted(self._rows.items()))

    def _carry_in(self, name: Name, item: Carried) -> None:
        match item:
            case Waiting():
                wait = None if item.after is None else Wait(frozenset(item.after), item.past_rejected)
                self._rows.setdefault(item.delivery.seq, _Waiting(name, item.delivery, wait, item.tries))
            case Progress():
                self._batches[name, item.batch] = item
            case Remembered():
                self._dedupe[name, item.event_id] = item.until
            case Buried():
                letter = item.letter
                if any(each.delivery_id == letter.delivery_id for each in self._dead.values()):
                    return
                self._last_dead += 1
                self._dead[self._last_dead] = msgspec.structs.replace(letter, id=self._last_dead)
                if item.followers:
                    self._followers[self._last_dead] = [_follower(letter, each) for each in item.followers]

    @_one_at_a_time
    def carry_away(self, connector: str, client: str) -> None:
        name = (connector, client)
        for row in self._of_lane(name):
            del self._rows[row.delivery.seq]
        for letter in [each for each in self._dead.values() if (each.connector, each.client) == name]:
            del self._dead[letter.id]
            self._followers.pop(letter.id, None)
        self._batches = {of: progress for of, progress in self._batches.items() if of[0] != name}
        self._dedupe = {of: until for of, until in self._dedupe.items() if of[0] != name}

    @_one_at_a_time
    def carry_lane(self, lane: Lane, *, mark: str, value: str) -> None:
        name = (lane.connector, lane.client)
        there = self._lanes[name]
        there.accepted += lane.accepted
        for kind in there.counts:
            there.counts[kind] += getattr(lane, kind)
        there.paused, there.reason, there.not_before = lane.state == "paused", lane.reason, lane.not_before
        there.failures, there.failing_since = lane.failures, lane.failing_since
        there.stir(self._earliest(name))
        self._marks[mark] = value

    @_one_at_a_time
    def tokens(self) -> list[tuple[str, str, str]]:
        return sorted(self._tokens)

    @_one_at_a_time
    def carry_forgotten(self, times: int) -> None:
        self._forgotten = max(self._forgotten, times)

    def faults(self) -> list[str]:
        return []

    def close(self) -> None:
        self._closed = True


def _follower(letter: Dead, follower: Follower) -> tuple[Delivery, Wait]:
    named = (follower.delivery_id, letter.event_id, follower.action, follower.key, letter.body, letter.received_at)
    return Delivery(0, *named, due_at=letter.received_at), Wait(frozenset(follower.after), follower.past_rejected)
