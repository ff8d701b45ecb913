"""The rows of lanes: their numbers, the lease, and what a transaction adds to them, each once and in their order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.errors import StoreUnavailable
from engine.records import Lane, Lease
from engine.stores.rules import first_of, lane_state, lost

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from engine.records import LaneChange
    from engine.stores.postgres.connections import Db, Row

Name = tuple[str, str]  # connector, client

NUMBERS = """
    SELECT l.connector, l.client, l.id FROM unnest(%b::text[], %b::text[]) AS asked (connector, client)
    JOIN lanes AS l ON l.connector = asked.connector AND l.client = asked.client
"""
MAKE = """
    INSERT INTO lanes (connector, client) SELECT connector, client FROM unnest(%b::text[], %b::text[])
    AS asked (connector, client) ON CONFLICT (connector, client) DO NOTHING
"""
LOCK = "SELECT id, wake_at FROM lanes WHERE id = ANY(%b::bigint[]) ORDER BY id FOR UPDATE"
HOLD = "SELECT id, wake_at FROM lanes WHERE id = %b AND fence = %b AND owner = %b FOR UPDATE"
HELD = "SELECT id FROM lanes WHERE connector = %b AND client = %b AND fence = %b AND owner = %b"
ADD = """
    UPDATE lanes SET
        accepted = accepted + v.a, delivered = delivered + v.d, rejected = rejected + v.r, skipped = skipped + v.s,
        stirred = stirred OR v.wakes IS NOT NULL, wake_at = least(wake_at, v.wakes), low_at = least(low_at, v.low)
    FROM unnest(%b::bigint[], %b::bigint[], %b::bigint[], %b::bigint[], %b::bigint[], %b::float8[], %b::float8[])
    AS v (lane, a, d, r, s, wakes, low) WHERE lanes.id = v.lane
"""
# The first turn of each action, from where a reader begins.
_FIRST_TURNS = """
    SELECT (SELECT d.turn_at FROM deliveries AS d
            WHERE d.lane = a.lane AND d.action = a.action AND d.batch IS NULL AND d.turn_at >= l.low_at
            ORDER BY d.turn_at, d.seq LIMIT 1) AS turn_at
    FROM actions AS a JOIN lanes AS l ON l.id = a.lane WHERE a.lane = %b
"""
EARLIEST = f"""
    SELECT min(turn_at) FROM (
        {_FIRST_TURNS}
        UNION ALL
        SELECT max(due_at) FROM deliveries WHERE lane = %b AND batch IS NOT NULL GROUP BY action, batch) AS firsts
    WHERE turn_at < 'Infinity'
"""
RAISE_LOW = f"""
    UPDATE lanes SET low_at = (SELECT coalesce(min(turn_at), 'Infinity') FROM ({_FIRST_TURNS}) AS firsts) WHERE id = %b
"""
_LEASE = "connector, client, owner, fence, until, not_before, paused, failures, failing_since"
TAKE = f"""
    UPDATE lanes SET owner = %b, until = %b, fence = fence + 1, stirred = false, low_at = '-Infinity'
    WHERE connector = %b AND client = %b AND (until IS NULL OR until <= %b) RETURNING {_LEASE}
"""
RENEW = f"""
    UPDATE lanes SET until = %b WHERE connector = %b AND client = %b AND fence = %b AND owner = %b RETURNING {_LEASE}
"""
RELEASE = f"""
    UPDATE lanes SET owner = NULL, until = NULL,
        wake_at = CASE WHEN stirred THEN least(%b::float8, ({EARLIEST})) ELSE %b::float8 END
    WHERE id = %b AND fence = %b AND owner = %b
"""
_WAITING = "accepted - delivered - rejected - skipped"
LANES = f"""
    SELECT connector, client, paused, {_WAITING}, accepted, delivered, rejected, skipped,
           (SELECT d.received_at FROM deliveries AS d WHERE d.lane = lanes.id ORDER BY d.received_at LIMIT 1),
           not_before, reason, failures, failing_since
    FROM lanes
"""
DUE_LANES = f"""
    SELECT connector, client FROM lanes
    WHERE wake_at <= %b AND NOT paused AND not_before <= %b AND (until IS NULL OR until <= %b) AND {_WAITING} > 0
    ORDER BY greatest(wake_at, not_before), id LIMIT %b
"""
NEXT_DUE = f"""
    SELECT min(greatest(wake_at, not_before, CASE WHEN until > %b THEN until ELSE wake_at END)) FROM lanes
    WHERE wake_at IS NOT NULL AND NOT paused AND {_WAITING} > 0
"""


class Numbers:
    """The numbers of lanes and the actions each was seen with; neither changes, so they are asked for once."""

    def __init__(self) -> None:
        self._lanes: dict[Name, int] = {}
        self._actions: set[tuple[int, str]] = set()

    def of(self, db: Db, connector: str, client: str) -> int | None:
        lane = self._lanes.get((connector, client))
        return lane if lane is not None else self._ask(db, [(connector, client)]).get((connector, client))

    def made(self, db: Db, names: Collection[Name]) -> dict[Name, int]:
        """Of each; made where it was not there."""
        found = {name: self._lanes[name] for name in names if name in self._lanes}
        missing = sorted(set(names) - found.keys())
        if missing:
            db.send(MAKE, *columns(missing, 2))
            asked = self._find(db, missing)
            db.kept.append(lambda: self._lanes.update(asked))
            found |= asked
        return found

    def seen(self, db: Db, used: set[tuple[int, str]]) -> None:
        """These lanes have these actions; whoever calls has locked the lanes."""
        new = sorted(used - self._actions)
        if new:
            insert = "INSERT INTO actions SELECT * FROM unnest(%b::bigint[], %b::text[]) ON CONFLICT DO NOTHING"
            db.send(insert, *columns(new, 2))
            db.kept.append(lambda: self._actions.update(new))

    def _ask(self, db: Db, names: Collection[Name]) -> dict[Name, int]:
        found = self._find(db, names)
        self._lanes.update(found)
        return found

    def _find(self, db: Db, names: Collection[Name]) -> dict[Name, int]:
        rows = db.rows(NUMBERS, *columns(list(names), 2))
        return {(connector, client): lane for connector, client, lane in rows}


@dataclass(slots=True)
class _Sum:
    accepted: int = 0
    delivered: int = 0
    rejected: int = 0
    skipped: int = 0
    wake_at: float | None = None
    low_at: float | None = None


class Sums:
    """
    What one transaction adds to its lanes, which it has locked; written once, at its end.

    `woken`: a lane is due earlier than anybody knew.
    """

    def __init__(self, db: Db, locked: Iterable[Row]) -> None:
        self._db = db
        self._sums: dict[int, _Sum] = {}
        self._wakes: dict[int, float | None] = dict(locked)
        self.woken = False

    def of(self, lane: int) -> _Sum:
        return self._sums.setdefault(lane, _Sum())

    def count(self, lane: int, kind: str, number: int = 1) -> None:
        at = self.of(lane)
        setattr(at, kind, getattr(at, kind) + number)

    def stir(self, lane: int, at: float | None) -> None:
        """The lane is due at `at` at the latest, whatever its holder thinks when it gives it back."""
        if first_of([at]) is not None:
            self.of(lane).wake_at = first_of([self.of(lane).wake_at, at])

    def stir_for_all(self, lane: int) -> None:
        """The lane is due when the first of all that it holds is."""
        self.write()
        self.stir(lane, self._db.value(EARLIEST, lane, lane))

    def lower(self, lane: int, turn_at: float) -> None:
        """A delivery has this turn now."""
        at = self.of(lane)
        at.low_at = turn_at if at.low_at is None else min(at.low_at, turn_at)

    def write(self) -> None:
        if not self._sums:
            return
        rows = [
            (lane, at.accepted, at.delivered, at.rejected, at.skipped, at.wake_at, at.low_at)
            for lane, at in sorted(self._sums.items())
        ]
        self._db.send(ADD, *columns(rows, 7))
        for lane, at in self._sums.items():
            known = self._wakes.get(lane)
            if at.wake_at is not None and (known is None or at.wake_at < known):
                self._wakes[lane] = at.wake_at
                self.woken = True
        self._sums.clear()


def columns(rows: Sequence[Row], width: int) -> list[list[Any]]:
    """Rows as one array for each column."""
    return [[row[at] for row in rows] for at in range(width)]


def locked(db: Db, lanes: Iterable[int]) -> Sums:
    """These lanes, locked."""
    wanted = sorted(set(lanes))
    return all_of(db, wanted, db.rows(LOCK, wanted))


def all_of(db: Db, wanted: Sequence[int], found: Sequence[Row]) -> Sums:
    """`found` are the rows of the lanes that were to be locked."""
    if len(found) != len(wanted):
        raise StoreUnavailable("a lane is gone: the store was emptied or restored while it was in use; restart")
    return Sums(db, found)


def lease_of(row: Row) -> Lease:
    return Lease(*row)


def lane_of(row: Row) -> Lane:
    connector, client, paused, waiting, accepted, delivered, rejected, skipped, oldest_at, *trouble = row
    reason = trouble[1]
    state = lane_state(paused=paused, reason=reason, waiting=waiting)
    counts = (waiting, accepted, delivered, rejected, skipped)
    return Lane(connector, client, state, *counts, oldest_at, *trouble)


def must_hold(row: Row | None, lease: Lease) -> Row:
    if row is None:
        raise lost(lease)
    return row


def apply(db: Db, lane: int, change: LaneChange) -> None:
    fields: dict[str, Any] = {
        "not_before": change.not_before,
        "reason": change.reason,
        "paused": change.pause,
        "failures": change.failures,
        "failing_since": change.failing_since,
    }
    clears = {"reason": "", "failing_since": 0}
    given = {name: value for name, value in fields.items() if value is not None}
    if given:
        sets = ", ".join(f"{name} = %b" for name in given)
        values = [None if value == clears.get(name) else value for name, value in given.items()]
        db.send(f"UPDATE lanes SET {sets} WHERE id = %b", *values, lane)
