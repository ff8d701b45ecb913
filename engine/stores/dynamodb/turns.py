"""Rows of one action, in order of arrival -> what is due, in its order; and the front of a lane as far as known."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from engine.stores.dynamodb.rows import in_batches
from engine.stores.rules import first_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from engine.records import Delivery
    from engine.stores.dynamodb.items import Batch, Name, Row
    from engine.stores.dynamodb.rows import Rows

LOOK_AHEAD = 64  # rows that are read at least: what is not sent now is kept for the next batch


class Turn(NamedTuple):
    """When a delivery is due, with the older ones of its key before it."""

    at: float
    seq: int
    row: Row
    held: bool  # an older one of its key is in a half-done batch

    @property
    def delivery(self) -> Delivery:
        return self.row.delivery(self.at)


def turns(rows: Iterable[Row]) -> list[Turn]:
    """Of those in no half-done batch, in order; `rows` of one action, in order of arrival, from the first on."""
    latest: dict[str, float] = {}
    held: set[str] = set()
    found = []
    for row in rows:
        at = row.turn_at
        if row.key is not None:
            at = latest[row.key] = max(at, latest.get(row.key, -math.inf))
        if row.batch is None:
            found.append(Turn(at, row.seq, row, row.key in held))
        elif row.key is not None:
            held.add(row.key)
    return sorted(found, key=lambda turn: (turn.at, turn.seq))


def times(rows: Collection[Row]) -> Iterator[float]:
    """When each delivery, or half-done batch as a whole, comes due."""
    yield from (turn.at for turn in turns(rows))
    batches: dict[str, float] = defaultdict(lambda: -math.inf)
    for row in rows:
        if row.batch is not None:
            batches[row.batch] = max(batches[row.batch], row.due_at)
    yield from batches.values()


class Front:
    """
    The oldest deliveries of one action, as far as they were looked at; as they lie, without a word of their batches.

    It is of one lease: what others do to these deliveries meanwhile is seen by the lane's `touched`.
    """

    def __init__(self, rows: Rows, name: Name, action: str) -> None:
        self.rows, self.name, self.action = rows, name, action
        self.known: dict[int, Row] = {}  # in order of arrival
        self.last = -1
        self.ended = False

    def due(self, now: float, wanted: int, batches: Collection[Batch], *, consistent: bool) -> list[Turn]:
        """Those that may be sent now, the first `wanted` of them at least, if there are so many."""
        looked = False
        while True:
            found = [turn for turn in turns(self.seen(batches)) if turn.at <= now and not turn.held]
            bound = self.bound()
            surely = sum(turn.at <= bound for turn in found)
            if surely >= wanted or (self.ended and looked):
                return found
            self.extend(max(wanted - surely, len(self.known) if looked else 0), consistent=consistent)
            looked = True

    def seen(self, batches: Collection[Batch]) -> list[Row]:
        return in_batches(self.known.values(), batches)

    def extend(self, more: int, *, consistent: bool) -> None:
        rows, self.last, self.ended = self.rows.scan(
            self.name, self.action, after=self.last, limit=max(more, LOOK_AHEAD), consistent=consistent
        )
        self.known |= {row.seq: row for row in rows}

    def bound(self) -> float:
        """None that was not looked at is due before this: it came later than the last that was."""
        if self.ended:
            return math.inf
        put = (row.due_at for row in reversed(self.known.values()) if not row.timed and not row.after)
        return next(put, -math.inf)

    def next_at(self, now: float, batches: Collection[Batch]) -> float | None:
        """When more comes due, as far as it was looked."""
        return first_of(time for time in times(self.seen(batches)) if time > now)

    def first_at(self, batches: Collection[Batch], *, consistent: bool) -> float | None:
        """When the first of all is due, or before: what was not looked at came after what was."""
        self.extend(LOOK_AHEAD, consistent=consistent)
        found = first_of(times(self.seen(batches)))
        if self.ended:
            return found
        bound = self.bound()
        return first_of([found, bound if bound > -math.inf else 0.0])
