"""Lanes as items that change by compare-and-swap, and what this process last saw of each."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import msgspec

from engine.errors import LeaseLost
from engine.stores.dynamodb.items import (
    SHARDS,
    LaneState,
    Name,
    lane_item,
    lane_key,
    lane_shard,
    read_lane,
    row_key,
    unpack_places,
)
from engine.stores.dynamodb.table import INDEX, Table, Unmet
from engine.stores.rules import first_of, lost

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.records import LaneChange, Lease
    from engine.stores.dynamodb.table import Item

TRUST_S = 30.0  # so long a process thinks that a lane is still awake that it saw awake
KEPT_WRITES = 4


class Lanes:
    """
    `monotonic` measures how old a picture is.

    A picture is a lane as it was at some time; a change is tried on it, and again on what stands there when it has
    changed since.
    """

    def __init__(self, table: Table, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.table, self.monotonic = table, monotonic
        self.gate = threading.RLock()
        self.pictures: dict[Name, tuple[LaneState, float]] = {}
        self.ours: dict[Name, int] = {}  # the fence of the last lease that this process took
        self.holding: dict[Name, int] = {}  # the fence of a lease that was not given back
        self.stirred: set[Name] = set()  # by us, since we took that lease
        self.taken_out: dict[Name, bytes] = {}  # the leaving ones that this process has deleted
        self.changes = 0  # how often this process changed any lane

    # Looking

    def fetch(self, name: Name) -> LaneState:
        item = self.table.get(lane_key(name))
        return self._seen(LaneState(*name) if item is None else read_lane(item))

    def fetch_all(self, names: Sequence[Name]) -> list[LaneState]:
        items = self.table.get_all([lane_key(name) for name in names])
        return [self._seen(read_lane(item)) for item in items]

    def all(self) -> list[LaneState]:
        """By name."""
        shards = self.table.each(
            lambda shard: self.table.query("pk = :pk", {":pk": lane_shard(shard)}, ConsistentRead=True), range(SHARDS)
        )
        found = [self._seen(read_lane(item)) for items in shards for item in items]
        return sorted(found, key=lambda lane: lane.name)

    def indexed(self, until: float) -> list[tuple[Name, float]]:
        """The lanes that are due until then, and those that linger (below zero), in that order."""
        items = self.table.query(
            "gpk = :gpk AND gsk <= :until",
            {":gpk": {"S": "lanes"}, ":until": {"N": repr(until)}},
            IndexName=INDEX,
        )
        return [(_name(item), float(item["gsk"]["N"])) for item in items]

    def picture(self, name: Name, *, within_s: float = TRUST_S) -> LaneState | None:
        """As it was seen at most that long ago."""
        with self.gate:
            lane, at = self.pictures.get(name, (None, 0.0))
        return lane if lane is not None and self.monotonic() - at <= within_s else None

    def _seen(self, lane: LaneState) -> LaneState:
        with self.gate:
            before, _ = self.pictures.get(lane.name, (lane, 0.0))
            self.pictures[lane.name] = (lane if lane.version >= before.version else before, self.monotonic())
        return lane

    # Changing

    def change(
        self,
        name: Name,
        edit: Callable[[LaneState], LaneState | None],
        operations: Sequence[Item] = (),
        *,
        trusting: bool = False,
    ) -> LaneState:
        """
        The lane as it is afterwards; `edit` gives None to leave it as it is, and may raise.

        `operations` are done with it, all or none: Unmet if a condition of theirs is not met. `trusting`: what a
        picture says is enough to leave the lane as it is.
        """
        write = os.urandom(4).hex()
        lane = self.picture(name)
        fresh = lane is None
        if lane is None:
            lane = self.fetch(name)
        for _ in self.table.patiently(f"the lane {'/'.join(name)} is changed by others all the time"):
            try:
                new = edit(lane)
            except LeaseLost:
                if fresh:
                    raise
                new = None
            if new is None and (fresh or (trusting and not operations)):
                return lane
            if new is None:
                lane, fresh = self.fetch(name), True
                continue
            if new.lingers is not None and new.lingers == lane.lingers and new.due_at != lane.due_at:
                new = msgspec.structs.replace(new, lingers=new.lingers + 0.001)  # who knows it by that looks again
            new = msgspec.structs.replace(
                new,
                version=lane.version + 1,
                writes=(*lane.writes[1 - KEPT_WRITES :], write),
                made=lane.made or time.time_ns(),
            )
            try:
                self._write(new, lane.version, operations)
            except Unmet as unmet:
                if 0 not in unmet.items:
                    raise
                there = unmet.items[0]
                lane, fresh = self._seen(LaneState(*name) if there is None else read_lane(there)), True
                if write not in lane.writes:
                    if any(at > 0 for at in unmet.items):
                        raise
                    continue
                new = lane  # it was done, and its answer lost
            with self.gate:
                self.changes += 1
            return self._seen(new)
        raise AssertionError  # patiently() raises

    def _write(self, lane: LaneState, version: int, operations: Sequence[Item]) -> None:
        given = {"Item": lane_item(lane), "ReturnValuesOnConditionCheckFailure": "ALL_OLD"}
        if version:
            given |= {"ConditionExpression": "v = :v", "ExpressionAttributeValues": {":v": {"N": str(version)}}}
        else:
            given |= {"ConditionExpression": "attribute_not_exists(pk)"}
        if operations:
            self.table.transact([{"Put": given}, *operations])
        else:
            self.table.call("put_item", **given)

    def stir(self, name: Name, at: float | None) -> None:
        """Due at that time, if it is not due before; None: only that it is there."""
        at = first_of([at])

        def edit(lane: LaneState) -> LaneState | None:
            if at is None:
                return None if lane.version else lane
            held = lane.owner is not None
            with self.gate:
                flagged = held and self.holding.get(name) == lane.fence
                if flagged:
                    self.stirred.add(name)
            wake_at = first_of([lane.wake_at, at])
            if lane.version and wake_at == lane.wake_at and (not held or flagged or lane.stirred):
                return None
            return msgspec.structs.replace(lane, wake_at=wake_at, stirred=True)

        self.change(name, edit, trusting=True)

    def held(self, lease: Lease, lane: LaneState) -> LaneState:
        """The lane; LeaseLost where it is not that lease's any more."""
        if (lane.fence, lane.owner) != (lease.fence, lease.owner):
            raise lost(lease)
        return lane

    # What has ended and may still be there

    def take_out(self, lane: LaneState) -> None:
        """Delete what a settling has ended, if this process has not done so; twice is as once."""
        if not lane.leaving or self.taken_out.get(lane.name) == lane.leaving:
            return
        keys = [row_key(lane.name, where) for where in unpack_places(lane.leaving)]
        self.table.write({"DeleteRequest": {"Key": key}} for key in keys)
        self.taken_out[lane.name] = lane.leaving


def changed(lane: LaneState, change: LaneChange) -> LaneState:
    given: dict[str, object] = {}
    if change.not_before is not None:
        given["not_before"] = change.not_before
    if change.reason is not None:
        given["reason"] = change.reason or None
    if change.pause is not None:
        given["paused"] = change.pause
    if change.failures is not None:
        given["failures"] = change.failures
    if change.failing_since is not None:
        given["failing_since"] = change.failing_since or None
    return msgspec.structs.replace(lane, **given)


def _name(item: Item) -> Name:
    connector, client = item["sk"]["S"].split("/", 1)
    return connector, client
