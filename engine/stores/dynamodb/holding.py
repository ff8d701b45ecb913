"""What the holder of a lane has read of it, kept from one batch to the next."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from engine.stores.dynamodb.rows import in_batches
from engine.stores.dynamodb.turns import LOOK_AHEAD, Front, turns
from engine.stores.rules import first_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from engine.records import Delivery, Lease, Progress
    from engine.stores.dynamodb.items import LaneState, Name, Row
    from engine.stores.dynamodb.lanes import Lanes
    from engine.stores.dynamodb.rows import Rows

SETTLES_S = 2.0  # after another held the lane: what it did may not be in every copy yet


class View:
    """A lane as it was read under one lease, while nobody else touches its deliveries."""

    def __init__(self, rows: Rows, lane: LaneState, consistent_until: float, now: Callable[[], float]) -> None:
        self.rows, self.name = rows, lane.name
        self.fence, self.touched = lane.fence, lane.touched
        self._consistent_until, self._now = consistent_until, now
        self.batches = rows.batches(lane.name, [batch for batch, _ in lane.batches]) if lane.batches else {}
        self.fronts: dict[str, Front] = {}
        self.asked: set[str] = set()  # the actions that its holder was told of
        self.members: dict[int, Row] = {}  # read with their batch

    @property
    def consistent(self) -> bool:
        return self._now() < self._consistent_until

    def front(self, action: str) -> Front:
        if action not in self.fronts:
            self.fronts[action] = Front(self.rows, self.name, action)
        return self.fronts[action]

    def known(self, seqs: Collection[int]) -> dict[int, Row]:
        """As they lie, without a word of their batches."""
        found = {}
        for seq in seqs:
            for rows in (*(front.known for front in self.fronts.values()), self.members):
                if seq in rows:
                    found[seq] = rows[seq]
        return found

    def left(self, gone: Collection[int], changed: Collection[Row]) -> None:
        for rows in (*(front.known for front in self.fronts.values()), self.members):
            for seq in gone:
                rows.pop(seq, None)
            for row in changed:
                if row.seq in rows:
                    rows[row.seq] = row

    def first_at(self, action: str) -> float | None:
        of = [batch for batch in self.batches.values() if batch.action == action]
        return self.front(action).first_at(of, consistent=self.consistent)


class Holdings:
    """The views of this process."""

    def __init__(self, lanes: Lanes, rows: Rows, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.lanes, self.rows, self.monotonic = lanes, rows, monotonic
        self.gate = threading.Lock()
        self.views: dict[Name, View] = {}

    def begin(self, lane: LaneState, *, taken_over: bool) -> None:
        with self.gate:
            self.views.pop(lane.name, None)
        until = self.monotonic() + SETTLES_S if taken_over else 0.0
        view = self._made(lane, until)
        with self.gate:
            self.views[lane.name] = view

    def drop(self, name: Name) -> None:
        with self.gate:
            self.views.pop(name, None)

    def view(self, lease: Lease, lane: LaneState) -> View:
        """That of the lease, if nothing was touched since; else a new one."""
        with self.gate:
            kept = self.views.get(lane.name)
        if kept is not None and (kept.fence, kept.touched) == (lane.fence, lane.touched):
            return kept
        view = self._made(lane, self.monotonic() + SETTLES_S)
        if self.lanes.ours.get(lane.name) == lane.fence == lease.fence:
            with self.gate:
                self.views[lane.name] = view
        return view

    def outside(self, lane: LaneState) -> View:
        """For one who does not hold the lane."""
        return self._made(lane, float("inf"))

    def _made(self, lane: LaneState, consistent_until: float) -> View:
        return View(self.rows, lane, consistent_until, self.monotonic)

    # What the holder asks

    def backlog(self, lease: Lease, action: str, *, now: float, cap: int) -> tuple[int, float | None, float | None]:
        lane = self.lanes.picture((lease.connector, lease.client))
        if lane is None or lane.fence != lease.fence:
            lane = self.lanes.fetch((lease.connector, lease.client))
        view = self.view(lease, lane)
        front, batches = view.front(action), view.batches.values()
        due = front.due(now, cap, batches, consistent=view.consistent)[:cap]
        of = [batch for batch in batches if batch.action == action]
        return len(due), min((turn.row.received_at for turn in due), default=None), front.next_at(now, of)

    def read(self, lease: Lease, action: str, *, limit: int, now: float) -> list[Delivery]:
        view = self.held(lease)
        found = view.front(action).due(now, limit, view.batches.values(), consistent=view.consistent)
        return [turn.delivery for turn in found[:limit]]

    def waiting_actions(self, lease: Lease) -> list[str]:
        name = (lease.connector, lease.client)
        found = sorted(self.rows.actions(name))
        with self.gate:
            view = self.views.get(name)
        if view is not None and view.fence == lease.fence:
            view.asked.update(found)
        return found

    def held(self, lease: Lease) -> View:
        """The view of a lease that still holds; else LeaseLost."""
        return self.view(lease, self.lanes.held(lease, self.lanes.fetch((lease.connector, lease.client))))

    def progress(self, lease: Lease, action: str, *, now: float) -> list[tuple[Progress, list[Delivery]]]:
        lane = self.lanes.held(lease, self.lanes.fetch((lease.connector, lease.client)))
        view = self.view(lease, lane)
        found = []
        for batch in (view.batches[each] for each, of in lane.batches if of == action and each in view.batches):
            if any(member.due_at > now for member in batch.members.values()):
                continue
            rows = self.rows.get(lane.name, [member.place for member in batch.members.values()])
            view.members |= rows
            deliveries = [row.delivery(row.due_at) for row in in_batches(rows.values(), [batch])]
            found.append((self.rows.progress(lane.name, batch), deliveries))
        return found

    def first_at(self, name: Name, view: View) -> float | None:
        """When the first delivery of the lane is due, or before."""
        return first_of(view.first_at(action) for action in self.rows.actions(name))

    def turn_at(self, name: Name, rows: Sequence[Row]) -> float | None:
        """
        When the first of these, that were just put, is due behind the older ones of its key.

        Where too many came before them it is their own time: a lane that is woken too early costs a look.
        """
        at = first_of(row.turn_at for row in rows)
        if at is None or all(row.key is None for row in rows):
            return at
        lane = self.lanes.picture(name) or self.lanes.fetch(name)
        if lane.wake_at is not None and lane.wake_at <= at:
            return at
        batches = self.rows.batches(name, [batch for batch, _ in lane.batches]).values() if lane.batches else ()
        found: list[float] = []
        for action in {row.action for row in rows}:
            ours = {row.seq: row for row in rows if row.action == action}
            if all(row.key is None for row in ours.values()):
                found += (row.turn_at for row in ours.values())
                continue
            older, _, ended = self.rows.scan(name, action, limit=LOOK_AHEAD)
            if not ended:
                return at
            found += (turn.at for turn in turns(in_batches(older, batches)) if turn.seq in ours)
        return first_of(found)
