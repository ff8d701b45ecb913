"""The deliveries of a lane, read in their order of arrival; never more of them than were asked for."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from engine.stores.dynamodb.items import (
    Batch,
    Name,
    Row,
    action_of,
    batch_key,
    batches_of,
    place,
    read_batch,
    read_progress,
    read_row,
    row_key,
    rows_of,
    seq_of,
)
from engine.stores.dynamodb.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from engine.records import Progress
    from engine.stores.dynamodb.items import LaneState
    from engine.stores.dynamodb.table import Item

STALE_S = 60.0  # an eventually consistent read is behind by less
PAGES = 5  # of 1 MB: a lane of more is counted, and not looked at row by row
ASLEEP_S = 60.0
COUNT_RCU = 2.0  # a lane whose counting costs less is counted whenever someone asks


class _Count(NamedTuple):
    many: int
    oldest_at: float | None
    cost: float  # read units
    at: float  # monotonic
    version: int  # of the lane


class Rows:
    """
    `monotonic` measures how long ago this process changed a delivery: what it reads may still be older than that.
    """

    def __init__(self, table: Table, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.table, self.monotonic = table, monotonic
        self.gate = threading.Lock()
        self.gone: dict[tuple[Name, int], float] = {}  # when we ended it
        self.newer: dict[tuple[Name, int], tuple[Row, float]] = {}  # as we left it, and when
        self.counts: dict[Name, _Count] = {}

    # One by one

    def get(self, name: Name, places: Iterable[str]) -> dict[int, Row]:
        """By seq, those that are there; as they stand now."""
        keys = [row_key(name, where) for where in dict.fromkeys(places)]
        found = self._current(name, map(read_row, self.table.get_all(keys)))
        return {row.seq: row for row in sorted(found, key=lambda row: row.seq)}

    def find(self, name: Name, seqs: Collection[int]) -> dict[int, Row]:
        """By seq, where nothing is known but that: each may be of any action."""
        actions = self.actions(name) if seqs else []
        return self.get(name, [place(action, seq) for action in actions for seq in seqs if seq >= 0])

    # In order

    def scan(
        self, name: Name, action: str, *, after: int = -1, limit: int | None = None, consistent: bool = True
    ) -> tuple[list[Row], int, bool]:
        """(rows behind seq `after`, the seq that was looked at last, is it the end?)."""
        condition, values = _range(name, place(action, after + 1) if after >= 0 else f"{action}#", f"{action}#~")
        found: list[Row] = []
        last, ended = after, True
        for page in self.table.pages(condition, values, limit=limit, ConsistentRead=consistent):
            rows = list(map(read_row, page["Items"]))
            last = rows[-1].seq if rows else last
            found += self._current(name, rows)
            ended = "LastEvaluatedKey" not in page
        return found, last, ended

    def actions(self, name: Name, *, consistent: bool = True) -> list[str]:
        """Those that have something here, found by one step for each."""
        found: list[str] = []
        after = " "
        while True:
            condition, values = _range(name, after, "~")
            items = self.table.query(condition, values, limit=1, ConsistentRead=consistent)
            rows = self._current(name, map(read_row, items))
            if not items:
                return found
            if not rows:  # it has ended a moment ago: is it the only one of its action?
                action = action_of(items[0]["sk"]["S"])
                seen, _, _ = self.scan(name, action)
                found += [action] if seen else []
            else:
                action = rows[0].action
                found.append(action)
            after = f"{action}#~"

    def last(self, name: Name, action: str) -> int:
        """The seq of the youngest, or -1."""
        condition, values = _range(name, f"{action}#", f"{action}#~")
        items = self.table.query(condition, values, limit=1, ScanIndexForward=False, ConsistentRead=True)
        return seq_of(items[0]["sk"]["S"]) if items else -1

    def any(self, name: Name) -> bool:
        """Is there anything at all?"""
        values = {":pk": rows_of(name)}
        for page in self.table.pages("pk = :pk", values, limit=1, ConsistentRead=True, ProjectionExpression="pk, sk"):
            ended = [item for item in page["Items"] if not self.ended(name, seq_of(item["sk"]["S"]))]
            if ended or not page["Items"]:
                return bool(ended)
        return any(True for _ in self.all(name, limit=500))

    def all(self, name: Name, limit: int | None = None) -> Iterator[Row]:
        """Every one of the lane, action by action."""
        for page in self.table.pages("pk = :pk", {":pk": rows_of(name)}, limit=limit, ConsistentRead=True):
            yield from self._current(name, map(read_row, page["Items"]))

    def older_of_key(self, name: Name, action: str, key: str | None, than: int) -> bool:
        """Is an older one of the same action and key there?"""
        if key is None:
            return False
        condition, values = _range(name, f"{action}#", place(action, than))
        values |= {":key": {"S": key}}
        only = "k = :key"
        for page in self.table.pages(condition, values, FilterExpression=only, ConsistentRead=True):
            seqs = [seq_of(item["sk"]["S"]) for item in page["Items"]]
            if any(seq != than and not self.ended(name, seq) for seq in seqs):
                return True
        return False

    # Counting

    def waiting(self, lane: LaneState, leaving: Collection[str]) -> tuple[int, float | None]:
        """
        (how many, received_at of the oldest), without those that are `leaving`.

        A small lane is counted whenever someone asks, a large one only so often that counting stays cheap, and one that
        sleeps only now and then: nothing is put into it that does not wake it.
        """
        name = lane.name
        sleeps = lane.wake_at is None and lane.lingers is None and lane.owner is None
        with self.gate:
            last = self.counts.get(name)
        if last is not None:
            age_s = self.monotonic() - last.at
            asleep = sleeps and last.version == lane.version and age_s < ASLEEP_S
            if asleep or (last.cost > COUNT_RCU and age_s < last.cost):
                return last.many, last.oldest_at
        count, oldest_at, cost = self._count(name, leaving)
        with self.gate:
            self.counts[name] = _Count(count, oldest_at, cost, self.monotonic(), lane.version)
        return count, oldest_at

    def recount(self, name: Name) -> None:
        with self.gate:
            self.counts.pop(name, None)

    def counted(self, name: Name, more: int) -> None:
        """So many came, or left (below zero), by this process."""
        with self.gate:
            if name in self.counts:
                last = self.counts[name]
                self.counts[name] = last._replace(many=max(last.many + more, 0), version=-1)

    def _count(self, name: Name, leaving: Collection[str]) -> tuple[int, float | None, float]:
        count, oldest_at, cost, pages = 0, None, 0.0, 0
        start: Item = {}
        values = {":pk": rows_of(name)}
        while True:
            few = pages < PAGES
            given = {"ProjectionExpression": "sk, r"} if few else {"Select": "COUNT"}
            page = self.table.call(
                "query",
                KeyConditionExpression="pk = :pk",
                ExpressionAttributeValues=values,
                ConsistentRead=few,
                ReturnConsumedCapacity="TOTAL",
                **given,
                **start,
            )
            pages += 1
            cost += page.get("ConsumedCapacity", {}).get("CapacityUnits", 1.0)
            if few:
                for item in page["Items"]:
                    where = item["sk"]["S"]
                    if where not in leaving and not self.ended(name, seq_of(where)):
                        count += 1
                        received_at = float(item["r"]["N"])
                        oldest_at = received_at if oldest_at is None else min(oldest_at, received_at)
            else:
                count += page["Count"]
            if "LastEvaluatedKey" not in page:
                return count, oldest_at, cost
            start = {"ExclusiveStartKey": page["LastEvaluatedKey"]}

    # What this process did a moment ago

    def end(self, name: Name, seqs: Iterable[int]) -> None:
        now = self.monotonic()
        with self.gate:
            for seq in seqs:
                self.gone[name, seq] = now
                self.newer.pop((name, seq), None)
            while self.gone and next(iter(self.gone.values())) < now - STALE_S:
                del self.gone[next(iter(self.gone))]

    def left(self, name: Name, row: Row) -> None:
        now = self.monotonic()
        with self.gate:
            self.newer.pop((name, row.seq), None)
            self.newer[name, row.seq] = (row, now)
            while next(iter(self.newer.values()))[1] < now - STALE_S:
                del self.newer[next(iter(self.newer))]

    def ended(self, name: Name, seq: int) -> bool:
        return (name, seq) in self.gone

    def _current(self, name: Name, rows: Iterable[Row]) -> list[Row]:
        with self.gate:
            there = [row for row in rows if (name, row.seq) not in self.gone]
            if not self.newer:
                return there
            found = []
            for row in there:
                newer, _ = self.newer.get((name, row.seq), (row, 0.0))
                found.append(newer if newer.version > row.version else row)
            return found

    # Half-done batches

    def batches(self, name: Name, ids: Iterable[str]) -> dict[str, Batch]:
        items = self.table.get_all(batch_key(name, batch) for batch in ids)
        return {batch.batch: batch for batch in map(read_batch, items)}

    def progress(self, name: Name, batch: Batch) -> Progress:
        condition, values = (
            "pk = :pk AND begins_with(sk, :saved)",
            {
                ":pk": batches_of(name),
                ":saved": {"S": f"p#{batch.saved}#"},
            },
        )
        return read_progress(self.table.query(condition, values, ConsistentRead=True))


def in_batches(rows: Iterable[Row], batches: Iterable[Batch]) -> list[Row]:
    """Each as the batch that it is in knows it."""
    of = {(batch.action, seq): (batch.batch, member) for batch in batches for seq, member in batch.members.items()}
    found = []
    for row in rows:
        batch, member = of.get((row.action, row.seq), (None, None))
        if member is not None:
            row = msgspec.structs.replace(
                row, batch=batch, due_at=member.due_at, attempts=member.attempts, tries=member.tries
            )
        found.append(row)
    return found


def _range(name: Name, first: str, last: str) -> tuple[str, Item]:
    values = {":pk": rows_of(name), ":first": {"S": first}, ":last": {"S": last}}
    return "pk = :pk AND sk BETWEEN :first AND :last", values
