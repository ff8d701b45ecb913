"""The store's verbs, each by the part that knows about it."""

from __future__ import annotations

import threading
import time
import uuid
from typing import TYPE_CHECKING, Any, Unpack

import msgspec

from engine.errors import StoreUnavailable
from engine.privacy.people import Subject
from engine.stores.dynamodb.carrying import Carrying
from engine.stores.dynamodb.holding import Holdings
from engine.stores.dynamodb.items import MAX_EVENT, LaneState, unpack_places
from engine.stores.dynamodb.lanes import Lanes, changed
from engine.stores.dynamodb.leasing import Leasing
from engine.stores.dynamodb.letters import Letters
from engine.stores.dynamodb.people import People
from engine.stores.dynamodb.putting import Putting
from engine.stores.dynamodb.rows import Rows
from engine.stores.dynamodb.seqs import PAST, Seqs
from engine.stores.dynamodb.settling import Settling
from engine.stores.dynamodb.sharing import Limits, Tokens
from engine.stores.dynamodb.table import Unmet
from engine.stores.rules import PROJECT, enter_one_by_one, refuse_another

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from concurrent.futures import Future

    from engine.records import (
        Accepted,
        Carried,
        Dead,
        Delivery,
        Held,
        Lane,
        LaneChange,
        Lease,
        Part,
        Progress,
        Settled,
        Skipped,
        Stored,
        TokenRow,
        Use,
        Which,
    )
    from engine.stores.dynamodb.sharing import Cipher
    from engine.stores.dynamodb.table import Table

WAIT_S = 1.0  # at least, between two looks for what others have put: each look is paid


class DynamoStore:
    """
    A Store in a table.

    `new_seq` gives the first of so many seqs that follow one another. `clock` gives unix seconds and is that of `now`;
    it is DynamoDB's if none is given. `monotonic` measures. `step` is told before each step of a settling.
    """

    max_event_bytes = MAX_EVENT

    def __init__(
        self,
        table: Table,
        *,
        cipher: Cipher | None = None,
        new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
        new_seq: Callable[[int], int] | None = None,
        clock: Callable[[], float] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        step: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._table = table
        self.clock = table.clock
        clock = clock or self.clock.now
        seqs = new_seq or Seqs(table, clock)
        self._woken = threading.Event()
        self._lanes = Lanes(table, monotonic)
        self._rows = Rows(table, monotonic)
        self._holdings = Holdings(self._lanes, self._rows, monotonic)
        self._leasing = Leasing(self._lanes, self._rows, self._holdings, clock=clock, monotonic=monotonic)
        self._settling = Settling(table, self._lanes, self._rows, self._holdings, self._new_dead, step=step)
        self._putting = Putting(
            table,
            self._lanes,
            self._rows,
            self._holdings,
            self._settling,
            new_seq=seqs,
            new_id=new_id,
            woken=self._woken.set,
        )
        self._letters = Letters(table, self._lanes, self._rows, self._settling, new_seq=seqs, new_dead=self._new_dead)
        self._carrying = Carrying(
            table, self._lanes, self._rows, self._holdings, self._letters, new_dead=self._new_dead
        )
        self._reserved = self._carried if new_seq is None else lambda count: new_seq(count) - 1
        self._tokens = Tokens(table, cipher)
        self._limits = Limits(table)
        self._people = People(table, self._lanes, self._rows, self._settling, self._letters, self._limits)

    def _new_dead(self, count: int) -> int:
        return self._counter("dead-id", count) - count + 1

    def _counter(self, name: str, more: int) -> int:
        item = self._table.update(_meta(name), "ADD n :more", {":more": {"N": str(more)}})
        return int(item["n"]["N"])

    def close(self) -> None:
        self._putting.close()
        self._table.close()

    # Marks

    def claim(self, name: str) -> None:
        owner = self.mark(PROJECT)
        if owner is None:
            item = _meta(f"mark#{PROJECT}") | {"value": {"S": name}}
            try:
                self._table.put(item, "attribute_not_exists(pk)")
                owner = name
            except Unmet as unmet:
                there = unmet.items[0]
                owner = there["value"]["S"] if there is not None else self.mark(PROJECT)
        refuse_another(str(self._table), owner or name, name)

    def mark(self, name: str) -> str | None:
        item = self._table.get(_meta(f"mark#{name}"))
        return None if item is None else item["value"]["S"]

    def write_mark(self, name: str, value: str) -> None:
        self._table.put(_meta(f"mark#{name}") | {"value": {"S": value}})

    # From store to store

    def _carried(self, count: int) -> int:
        """Before all that are put: those begin where the year 2024 was over, in which nobody had this store."""
        last = self._counter("carried", count)
        if last > PAST:
            raise StoreUnavailable(f"{self._table}: too many copies have gone into this table; use a new one")
        return last - count

    def count(self, connector: str, client: str, *, now: float) -> Held:
        return self._carrying.count((connector, client), now)

    def carry_out(self, connector: str, client: str, kind: Any, *, after: Any, limit: int) -> list[Any]:
        return self._carrying.out((connector, client), kind, after, limit)

    def reserve(self, connector: str, client: str, count: int) -> int:
        self._carrying.make((connector, client))
        return self._reserved(count) if count else 0

    def carry_in(self, connector: str, client: str, items: Sequence[Carried]) -> None:
        self._carrying.carry_in((connector, client), items)

    def carry_away(self, connector: str, client: str) -> None:
        self._carrying.carry_away((connector, client))

    def carry_lane(self, lane: Lane, *, mark: str, value: str) -> None:
        self._carrying.carry_lane(lane, _meta(f"mark#{mark}") | {"value": {"S": value}})
        self._woken.set()

    def tokens(self) -> list[tuple[str, str, str]]:
        return self._tokens.names()

    def carry_forgotten(self, times: int) -> None:
        more = times - self.forgotten()
        if more > 0:
            self._counter("forgotten", more)

    def faults(self) -> list[str]:
        """No item lies outside of a lane that could be found without a scan."""
        return []

    # Deliveries in

    def put(self, events: Sequence[Accepted], *, now: float, hold_s: float = 0) -> Future[list[Stored]]:
        return self._putting.put(events, now=now, hold_s=hold_s)

    # Lanes

    def wait(self, seconds: float) -> None:
        self._woken.wait(max(seconds, WAIT_S))
        self._woken.clear()

    def due_lanes(self, *, now: float, limit: int = 100) -> list[tuple[str, str]]:
        return self._leasing.due_lanes(now=now, limit=limit)

    def next_due(self, *, now: float) -> float | None:
        return self._leasing.next_due(now=now)

    def lease(self, connector: str, client: str, *, owner: str, ttl_s: float, now: float) -> Lease | None:
        return self._leasing.lease((connector, client), owner=owner, ttl_s=ttl_s, now=now)

    def renew(self, lease: Lease, *, ttl_s: float, now: float) -> Lease:
        return self._leasing.renew(lease, ttl_s=ttl_s, now=now)

    def release(self, lease: Lease, *, wake_at: float | None) -> None:
        self._leasing.release(lease, wake_at=wake_at)

    def reclaim(self, gone: Callable[[str], bool]) -> int:
        """What waits for others is freed where those end; there is none whose others are not there any more."""
        freed = 0
        for lane in self._lanes.all():
            if lane.owner is None or not gone(lane.owner):
                continue

            def edit(there: LaneState, owner: str = lane.owner) -> LaneState | None:
                return None if there.owner != owner else msgspec.structs.replace(there, owner=None, until=None)

            self._lanes.change(lane.name, edit)
            freed += 1
        self._tokens.reclaim(gone)
        self._limits.reclaim(gone)
        return freed

    def change_lane(self, connector: str, client: str, change: LaneChange, *, now: float) -> None:
        del now
        name = (connector, client)

        def edit(lane: LaneState) -> LaneState | None:
            new = changed(lane, change)
            return None if new == lane and lane.version else new

        lane = self._lanes.change(name, edit)
        self._lanes.stir(name, self._holdings.first_at(name, self._holdings.outside(lane)))
        self._woken.set()

    def behind(self, connector: str, client: str, delivery: Delivery) -> bool:
        return self._rows.older_of_key((connector, client), delivery.action, delivery.key, delivery.seq)

    def lane(self, connector: str, client: str) -> Lane | None:
        lane = self._lanes.fetch((connector, client))
        return self._shown(lane) if lane.version else None

    def lanes(self) -> list[Lane]:
        return self._table.each(self._shown, self._lanes.all())

    def _shown(self, lane: LaneState) -> Lane:
        return lane.shown(*self._rows.waiting(lane, set(unpack_places(lane.leaving))))

    def held(self, *, now: float) -> dict[tuple[str, str], int]:
        return {lane.name: lane.fence for lane in self._lanes.all() if lane.until is not None and lane.until > now}

    # What a lane holds

    def backlog(self, lease: Lease, action: str, *, now: float, cap: int) -> tuple[int, float | None, float | None]:
        return self._holdings.backlog(lease, action, now=now, cap=cap)

    def waiting_actions(self, lease: Lease) -> list[str]:
        return self._holdings.waiting_actions(lease)

    def read(self, lease: Lease, action: str, *, limit: int, now: float) -> list[Delivery]:
        return self._holdings.read(lease, action, limit=limit, now=now)

    def progress(self, lease: Lease, action: str, *, now: float) -> list[tuple[Progress, list[Delivery]]]:
        return self._holdings.progress(lease, action, now=now)

    def save_progress(self, lease: Lease | None, progress: Progress, seqs: Sequence[int], *, now: float) -> None:
        del now
        self._settling.save_progress(lease, progress, seqs)

    def add_progress(self, lease: Lease, batch: str, action: str, part: Part, *, now: float) -> bool:
        del lease, batch, action, part, now
        return False  # here a batch is written whole each time

    def settle(
        self, lease: Lease | None, done: Sequence[Settled], *, now: float, change: LaneChange | None = None
    ) -> list[Skipped]:
        return self._settling.settle(lease, done, now=now, change=change)

    # Dead letters, and people

    def dead(self, *, limit: int = 100, after: int = 0, newest: bool = False, **which: Unpack[Which]) -> list[Dead]:
        return self._letters.dead(which, limit=limit, after=after, newest=newest)

    def count_dead(self, by: str, **which: Unpack[Which]) -> dict[str, int]:
        return self._letters.count(by, which)

    def dead_letter(self, dead_id: int) -> Dead | None:
        letter = self._letters.one(dead_id)
        return None if letter is None else letter.dead

    def requeue(self, dead_ids: Sequence[int], *, now: float) -> int:
        count = self._letters.requeue(dead_ids, now=now)
        self._woken.set()
        return count

    def amend(self, dead_id: int, *, body: bytes, key: str | None) -> bool:
        return self._letters.amend(dead_id, body=body, key=key)

    def admit(self, letters: Sequence[Dead]) -> list[bool]:
        return self._letters.admit(letters)

    def whereabouts(self, delivery_ids: Collection[str]) -> dict[str, str]:
        return self._letters.whereabouts(delivery_ids)

    def revive(
        self, connector: str, client: str, event_id: str, actions: Collection[str], *, now: float, hold_s: float
    ) -> list[Delivery]:
        return self._letters.revive((connector, client), event_id, actions, now=now, hold_s=hold_s)

    def discard(self, dead_ids: Sequence[int], *, reason: str, now: float) -> int:
        del reason, now  # for the log of who calls; the letter is gone
        return self._letters.discard(dead_ids)

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
        def counted() -> None:
            self._counter("forgotten", 1)

        person = Subject(subject, by_key=by_key)
        return self._people.forget(person, now=now, mentions=mentions, client=client, dry=dry, counted=counted)

    def forgotten(self) -> int:
        item = self._table.get(_meta("forgotten"))
        return 0 if item is None else int(item["n"]["N"])

    def scrub(self) -> bool:
        """Nothing is left behind in the table; its backups are AWS's to keep and yours to delete."""
        return True

    def expire(self, *, dead_before: float | None, now: float, most: int = 1000) -> dict[str, int]:
        del now  # DynamoDB itself takes away the ids that ran out
        return {"dead": 0 if dead_before is None else self._letters.expire(dead_before, most), "dedupe": 0}

    # Tokens and locks

    def token(self, connector: str, client: str, name: str) -> TokenRow | None:
        return self._tokens.token(f"{connector}/{client}/{name}")

    def save_token(self, connector: str, client: str, name: str, row: TokenRow) -> None:
        self._tokens.save(f"{connector}/{client}/{name}", row)

    def lock(self, name: str, *, owner: str, ttl_s: float, now: float) -> bool:
        return self._tokens.lock(name, owner=owner, ttl_s=ttl_s, now=now)

    def unlock(self, name: str, *, owner: str) -> None:
        self._tokens.unlock(name, owner=owner)

    # Rates and slots

    def take(self, name: str, *, count: int, per_s: float, now: float, cost: int = 1) -> float:
        return self._limits.take(name, count=count, per_s=per_s, now=now, cost=cost)

    def acquire(self, name: str, *, slots: int, owner: str, ttl_s: float, now: float) -> bool:
        return self._limits.acquire(name, slots=slots, owner=owner, ttl_s=ttl_s, now=now)

    def release_slot(self, name: str, *, owner: str) -> None:
        self._limits.release(name, lambda holder: holder == owner)

    def enter(self, uses: Sequence[Use], *, owner: str, ttl_s: float, now: float) -> tuple[int, float] | None:
        return enter_one_by_one(self, uses, owner=owner, ttl_s=ttl_s, now=now)

    def used(self, name: str, *, per_s: float, now: float) -> tuple[int, float | None]:
        return self._limits.used(name, per_s=per_s, now=now)

    def slots_held(self, name: str, *, now: float) -> int:
        return self._limits.held(name, now=now)


def _meta(name: str) -> dict[str, dict[str, str]]:
    return {"pk": {"S": "meta"}, "sk": {"S": name}}
