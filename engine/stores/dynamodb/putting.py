"""Events in: plain ones as they come, many in one request; those with more to them each in a transaction of its own."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec

from engine.errors import BadValue, StoreUnavailable
from engine.records import Stored
from engine.stores.dynamodb.items import MAX_EVENT, Row, mark_item, mark_key, place, row_item
from engine.stores.dynamodb.table import Unmet
from engine.stores.rules import waits_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from engine.records import Accepted
    from engine.stores.dynamodb.holding import Holdings
    from engine.stores.dynamodb.items import LaneState, Name
    from engine.stores.dynamodb.lanes import Lanes
    from engine.stores.dynamodb.rows import Rows
    from engine.stores.dynamodb.settling import Settling
    from engine.stores.dynamodb.table import Item, Table

WRITERS = 8
MOST_TOGETHER = 25  # deliveries of several callers in one request


class _Put:
    """One call."""

    def __init__(self, events: Sequence[Accepted], now: float, due_at: float) -> None:
        self.events, self.now, self.due_at = events, now, due_at
        self.future: Future[list[Stored]] = Future()
        self.rows: list[list[Row] | None] = []  # of each event; None: a duplicate

    @property
    def plain(self) -> bool:
        return not any(event.dedupe_s > 0 or any(draft.after for draft in event.drafts) for event in self.events)


class Putting:
    """One for a store."""

    def __init__(
        self,
        table: Table,
        lanes: Lanes,
        rows: Rows,
        holdings: Holdings,
        settling: Settling,
        *,
        new_seq: Callable[[int], int],
        new_id: Callable[[], str],
        woken: Callable[[], None],
    ) -> None:
        self.table, self.lanes, self.rows, self.holdings, self.settling = table, lanes, rows, holdings, settling
        self.new_seq, self.new_id, self.woken = new_seq, new_id, woken
        self.threads = ThreadPoolExecutor(WRITERS, thread_name_prefix="put")
        self.waiting: deque[_Put] = deque()
        self.gate = threading.Lock()
        self.closed = False

    def put(self, events: Sequence[Accepted], *, now: float, hold_s: float) -> Future[list[Stored]]:
        for event in events:
            if (size := event.size) > MAX_EVENT:
                raise BadValue(
                    f"the event has {size} bytes; this store takes {MAX_EVENT}, for an item has room for no more"
                )
        job = _Put(events, now, now + hold_s)
        if self.closed:
            raise StoreUnavailable(f"{self.table}: the store is closed")
        try:
            if not job.plain:
                self.threads.submit(self._alone, job)
                return job.future
            with self.gate:
                self.waiting.append(job)
            self.threads.submit(self._together)
        except RuntimeError:  # it was closed a moment ago
            raise StoreUnavailable(f"{self.table}: the store is closed") from None
        return job.future

    def close(self) -> None:
        self.closed = True
        self.threads.shutdown()

    def _together(self) -> None:
        """What waits is written in one request, as far as it fits; a call with more than that has several."""
        jobs: list[_Put] = []
        with self.gate:
            room = MOST_TOGETHER
            while self.waiting and (not jobs or sum(len(each.drafts) for each in self.waiting[0].events) <= room):
                jobs.append(self.waiting.popleft())
                room -= sum(len(each.drafts) for each in jobs[-1].events)
            try:
                for job in jobs:
                    job.rows = [self._made(event, job.due_at, job.now) for event in job.events]
            except Exception as error:
                for job in jobs:
                    job.future.set_exception(error)
                return
        if jobs:
            self._finish(jobs, self._write_plain)

    def _alone(self, job: _Put) -> None:
        self._finish([job], self._write_marked)

    def _finish(self, jobs: list[_Put], write: Callable[[list[_Put]], None]) -> None:
        try:
            write(jobs)
            self._count(jobs)
            self._wake(jobs)
        except Exception as error:
            for job in jobs:
                job.future.set_exception(error)
            return
        for job in jobs:
            job.future.set_result([_stored(*each) for each in zip(job.events, job.rows, strict=True)])

    # Rows

    def _made(self, event: Accepted, due_at: float, now: float) -> list[Row]:
        if not event.drafts:
            return []
        first = self.new_seq(len(event.drafts))
        waits = waits_of(event, first)
        places = {seq: place(draft.action, seq) for seq, draft in enumerate(event.drafts, first)}
        rows = []
        for seq, draft in enumerate(event.drafts, first):
            wait = waits.get(seq)
            rows.append(
                Row(
                    seq=seq,
                    action=draft.action,
                    id=self.new_id(),
                    event_id=event.event_id,
                    key=draft.key,
                    body=event.body,
                    received_at=event.received_at,
                    due_at=due_at,
                    after=frozenset(places[each] for each in wait.after) if wait else frozenset(),
                    past_rejected=wait.past_rejected if wait else False,
                    waiters=frozenset(places[other] for other, wait in waits.items() if seq in wait.after),
                    timed=due_at != now,
                )
            )
        return rows

    def _write_plain(self, jobs: list[_Put]) -> None:
        self.table.write(
            {"PutRequest": {"Item": row_item(_lane(event), row)}}
            for job in jobs
            for event, rows in zip(job.events, job.rows, strict=True)
            for row in rows or ()
        )

    def _write_marked(self, jobs: list[_Put]) -> None:
        (job,) = jobs
        marked = dict.fromkeys((_lane(each), each.event_id) for each in job.events if each.dedupe_s > 0)
        marks = self.table.get_all([mark_key(*each) for each in marked], consistent=False)
        until = {(item["pk"]["S"], item["sk"]["S"]): float(item["until"]["N"]) for item in marks}
        plain: list[Item] = []
        whole: list[int] = []  # those that have a transaction of their own
        for at, event in enumerate(job.events):
            name = _lane(event)
            if event.dedupe_s > 0:
                key = mark_key(name, event.event_id)
                mark = (key["pk"]["S"], key["sk"]["S"])
                if until.get(mark, float("-inf")) > job.now:
                    job.rows.append(None)
                    continue
                until[mark] = job.now + event.dedupe_s
            rows = self._made(event, job.due_at, job.now)
            job.rows.append(rows)
            if event.dedupe_s > 0 or any(row.after for row in rows):
                whole.append(at)
            else:
                plain += [{"PutRequest": {"Item": row_item(name, row)}} for row in rows]
        self.table.write(plain)
        stored = self.table.each(lambda at: self._write_whole(job.events[at], job.rows[at] or [], job.now), whole)
        for at, new in zip(whole, stored, strict=True):
            if not new:
                job.rows[at] = None

    def _write_whole(self, event: Accepted, rows: Sequence[Row], now: float) -> bool:
        """All deliveries of an event, or none; False if it was here before."""
        if event.dedupe_s > 0:
            return self._write_once(event, rows, now)
        self.table.transact([{"Put": {"Item": row_item(_lane(event), row)}} for row in rows])
        return True

    def _write_once(self, event: Accepted, rows: Sequence[Row], now: float) -> bool:
        """The event with the mark that it was here; False if it was."""
        name = _lane(event)
        mark = {
            "Item": mark_item(name, event.event_id, now + event.dedupe_s),
            "ConditionExpression": "attribute_not_exists(pk) OR #until <= :now",
            "ExpressionAttributeNames": {"#until": "until"},
            "ExpressionAttributeValues": {":now": {"N": repr(now)}},
        }
        try:
            self.table.transact([{"Put": mark}, *({"Put": {"Item": row_item(name, row)}} for row in rows)])
        except Unmet:
            return False
        return True

    # Lanes

    def _count(self, jobs: list[_Put]) -> None:
        """Lanes come into being in the order of the events; what no action wants is counted."""
        skipped: dict[Name, int] = {}
        for job in jobs:
            for event, rows in zip(job.events, job.rows, strict=True):
                skipped.setdefault(_lane(event), 0)
                skipped[_lane(event)] += rows == []
        for name, more in skipped.items():

            def edit(lane: LaneState, more: int = more) -> LaneState | None:
                if lane.version and not more:
                    return None
                return msgspec.structs.replace(lane, skipped=lane.skipped + more)

            known = self.lanes.picture(name, within_s=float("inf"))
            if more or known is None or not known.version:
                self.lanes.change(name, edit, trusting=True)

    def _wake(self, jobs: list[_Put]) -> None:
        put: dict[Name, list[Row]] = {}
        for job in jobs:
            for event, rows in zip(job.events, job.rows, strict=True):
                put.setdefault(_lane(event), []).extend(rows or ())
                if job.due_at != job.now:
                    self.settling.remember(_lane(event), rows or ())
        for name, rows in put.items():
            self.rows.counted(name, len(rows))
            self.lanes.stir(name, self.holdings.turn_at(name, rows))
        self.woken()


def _lane(event: Accepted) -> Name:
    return event.connector, event.client


def _stored(event: Accepted, rows: Iterable[Row] | None) -> Stored:
    if rows is None:
        return Stored(event.event_id, duplicate=True, deliveries=())
    return Stored(event.event_id, duplicate=False, deliveries=tuple(row.delivery(row.turn_at) for row in rows))
