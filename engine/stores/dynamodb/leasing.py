"""
Which lanes are due, and who holds them.

Whoever puts a delivery writes to its lane only if it does not know it to be awake, and trusts what it saw for half a
minute. So a lane that is put to sleep lingers for two: those that look for due lanes peek into it for deliveries that
its holder did not know.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import msgspec

from engine.errors import LeaseLost
from engine.stores.rules import first_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.records import Lease
    from engine.stores.dynamodb.holding import Holdings
    from engine.stores.dynamodb.items import LaneState, Name
    from engine.stores.dynamodb.lanes import Lanes
    from engine.stores.dynamodb.rows import Rows

LINGERS_S = 120.0  # the trust of those who put, twice clocks that differ by 30 s, and a slow write
PEEK_S = 2.0  # between two peeks of a process into one lane
ASK_S = 0.3  # what was not due is not asked about again before
SOON_S = 2.0  # a lane that wakes so soon needs nobody who peeks
EMPTY_S = 120.0  # an awake lane in which there has been nothing for so long falls asleep


class _Lingering(msgspec.Struct):
    known_by: float  # its place in the index: another one, and it is another lane
    lane: LaneState
    peek_at: float  # monotonic


class Leasing:
    """`clock` gives unix seconds, and is that of `now`; `monotonic` measures."""

    def __init__(
        self,
        lanes: Lanes,
        rows: Rows,
        holdings: Holdings,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lanes, self.rows, self.holdings = lanes, rows, holdings
        self.clock, self.monotonic = clock, monotonic
        self.gate = threading.Lock()
        self.lingering: dict[Name, _Lingering] = {}
        self.empty_since: dict[Name, float] = {}
        self.nothing: tuple[float, float, int] = (float("-inf"), 0.0, -1)  # (monotonic, now, changes) of such an answer

    # Leases

    def lease(self, name: Name, *, owner: str, ttl_s: float, now: float) -> Lease | None:
        before: LaneState | None = None

        def edit(lane: LaneState) -> LaneState | None:
            nonlocal before
            before = lane
            if not lane.version or (lane.until is not None and lane.until > now):
                return None
            return msgspec.structs.replace(
                lane,
                owner=owner,
                until=now + ttl_s,
                stirred=False,
                fence=lane.fence + 1,
                lingers=None,
                seen=b"",
            )

        after = self.lanes.change(name, edit)
        if before is None or after.fence != before.fence + 1 or after.owner != owner:
            return None
        ours = self.lanes.ours.get(name) == after.fence - 1
        with self.lanes.gate:
            self.lanes.ours[name] = after.fence
            self.lanes.holding[name] = after.fence
            self.lanes.stirred.discard(name)
        self.lanes.take_out(after)
        self.holdings.begin(after, taken_over=before.fence > 0 and not ours)
        return after.lease()

    def renew(self, lease: Lease, *, ttl_s: float, now: float) -> Lease:
        def edit(lane: LaneState) -> LaneState:
            return msgspec.structs.replace(self.lanes.held(lease, lane), until=now + ttl_s)

        return self.lanes.change((lease.connector, lease.client), edit).lease()

    def release(self, lease: Lease, *, wake_at: float | None) -> None:
        name = (lease.connector, lease.client)
        lane = self.lanes.picture(name) or self.lanes.fetch(name)
        if lane.fence > lease.fence:
            return
        with self.lanes.gate:  # from here on whoever puts something writes it to the lane
            if self.lanes.holding.get(name) == lease.fence:
                del self.lanes.holding[name]
            stirred = name in self.lanes.stirred and self.lanes.ours.get(name) == lease.fence
        seen: bytes | None = None

        def edit(lane: LaneState) -> LaneState | None:
            nonlocal seen
            self.lanes.held(lease, lane)
            wakes = wake_at
            if stirred or lane.stirred:
                wakes = first_of([wake_at, self.holdings.first_at(name, self.holdings.view(lease, lane))])
            new = msgspec.structs.replace(lane, owner=None, until=None, wake_at=wakes, stirred=False)
            if not lane.leaving or self.lanes.taken_out.get(name) == lane.leaving:
                new = msgspec.structs.replace(new, leaving=b"")
            due_at = new.due_at
            if due_at is not None and due_at <= self.clock() + SOON_S:
                return msgspec.structs.replace(new, lingers=None, seen=b"")
            seen = self._known(lease, lane) if seen is None else seen
            return msgspec.structs.replace(new, lingers=self.clock(), seen=seen)

        try:
            self.lanes.change(name, edit)
        except LeaseLost:
            return
        self.holdings.drop(name)

    def _known(self, lease: Lease, lane: LaneState) -> bytes:
        """
        The last seq of each action that its holder has looked at. Of one that it knew of and did not look at, for it
        stands still or is not there any more, that of all; whatever else there is has come meanwhile.
        """
        view = self.holdings.view(lease, lane)
        seen = {action: front.last for action, front in view.fronts.items()}
        for action in view.asked - seen.keys():
            seen[action] = self.rows.last(lane.name, action)
        return msgspec.json.encode(seen)

    # What is due

    def due_lanes(self, *, now: float, limit: int) -> list[Name]:
        changes = self.lanes.changes
        asked_at, for_now, at_changes = self.nothing
        since = self.monotonic() - asked_at
        if since < ASK_S and abs(now - for_now - since) < ASK_S / 10 and changes == at_changes:
            return []
        found: list[LaneState] = []
        wanted: list[Name] = []
        indexed = self.lanes.indexed(now)
        for name, at in indexed:
            known = self._lingers(name, at)
            due = known is None or (known.due_at is not None and known.due_at <= now)
            if due or (known is not None and self._peeks(name, known)):
                wanted.append(name)
        self._forget({name for name, _ in indexed})
        while wanted and len(found) < limit:
            some, wanted = wanted[: limit + 8], wanted[limit + 8 :]
            for lane in sorted(self.lanes.fetch_all(some), key=lambda lane: (lane.turn_at, lane.made)):
                if lane.lingers is not None:
                    lane = self._lingered(lane)
                if lane.due_at is not None and lane.due_at <= now and self._holds_something(lane):
                    found.append(lane)
        if not found:
            self.nothing = (self.monotonic(), now, self.lanes.changes)
        return [lane.name for lane in sorted(found, key=lambda lane: (lane.turn_at, lane.made))[:limit]]

    def next_due(self, *, now: float) -> float | None:
        indexed = self.lanes.indexed(1e15)
        looked = [name for name, at in indexed if at <= now]
        due: float | None = None
        for lane in self.lanes.fetch_all(looked):
            if lane.due_at is not None and (due is None or self._next(lane, now) < due) and self.rows.any(lane.name):
                due = self._next(lane, now)
        for name, at in indexed:
            if at > now and (due is None or at < due) and self.rows.any(name):
                return at
        return due

    @staticmethod
    def _next(lane: LaneState, now: float) -> float:
        over = lane.until is None or lane.until <= now
        return lane.turn_at if over or lane.due_at is None else lane.due_at

    def _holds_something(self, lane: LaneState) -> bool:
        if self.rows.any(lane.name):
            self.empty_since.pop(lane.name, None)
            return True
        since = self.empty_since.setdefault(lane.name, self.monotonic())
        if self.monotonic() - since > EMPTY_S:
            self.empty_since.pop(lane.name, None)
            self._fall_asleep(lane)
        return False

    def _fall_asleep(self, lane: LaneState) -> None:
        """As it was seen, or not at all."""

        def edit(there: LaneState) -> LaneState | None:
            if there.version != lane.version:
                return None
            return msgspec.structs.replace(there, wake_at=None, lingers=self.clock(), seen=b"{}")

        self.lanes.change(lane.name, edit)

    # Lanes that linger

    def _lingers(self, name: Name, known_by: float) -> LaneState | None:
        """As this process knows it, if it does."""
        with self.gate:
            kept = self.lingering.get(name)
        return kept.lane if kept is not None and kept.known_by == known_by else None

    def _forget(self, names: set[Name]) -> None:
        with self.gate:
            for name in [name for name in self.lingering if name not in names]:
                del self.lingering[name]

    def _peeks(self, name: Name, lane: LaneState) -> bool:
        """Is it time to look into it, and is there something to be done with it?"""
        with self.gate:
            kept = self.lingering[name]
            if self.monotonic() < kept.peek_at:
                return False
            kept.peek_at = self.monotonic() + PEEK_S
        return self._over(lane) or self._holds_news(lane)

    def _lingered(self, lane: LaneState) -> LaneState:
        """What becomes of a lane that lingers, when it was looked at anew."""
        if lane.lingers is None:
            return lane
        with self.gate:
            kept = self.lingering.get(lane.name)
            if kept is None or kept.known_by != -lane.lingers:
                kept = _Lingering(-lane.lingers, lane, self.monotonic() + PEEK_S)
                self.lingering[lane.name] = kept
                return lane
        if self._holds_news(lane):
            self.lanes.stir(lane.name, self.clock())
            return self.lanes.picture(lane.name) or lane
        return self._end(lane) if self._over(lane) else lane

    def _over(self, lane: LaneState) -> bool:
        return lane.lingers is not None and self.clock() - lane.lingers > LINGERS_S

    def _holds_news(self, lane: LaneState) -> bool:
        """Is there a delivery that its last holder can't have known?"""
        seen = msgspec.json.decode(lane.seen) if lane.seen else {}
        for action in self.rows.actions(lane.name, consistent=False):
            after = seen.get(action, -1)
            rows, _, _ = self.rows.scan(lane.name, action, after=after, limit=1, consistent=False)
            if rows:
                return True
        return False

    def _end(self, lane: LaneState) -> LaneState:
        """Asleep for good, or till it wakes by itself; with what there is, were it put by one whose clock is slow."""
        first_at = self.holdings.first_at(lane.name, self.holdings.outside(lane))

        def edit(there: LaneState) -> LaneState | None:
            if there.version != lane.version:
                return None
            wake_at = first_of([there.wake_at, first_at])
            return msgspec.structs.replace(there, wake_at=wake_at, lingers=None, seen=b"")

        return self.lanes.change(lane.name, edit)
