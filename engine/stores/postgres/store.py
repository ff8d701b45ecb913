"""The store's verbs: each is a read, a statement or a transaction of the modules beside it."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, Unpack

import msgspec
import psycopg

from engine.errors import StoreUnavailable, TokenUnreadable
from engine.ids import random_id
from engine.privacy.people import Subject
from engine.records import Held, Stored, TokenRow
from engine.stores.postgres import carrying, erasing, limits, reading, settling
from engine.stores.postgres import letters as dead_letters
from engine.stores.postgres.address import parsed
from engine.stores.postgres.arrivals import Accepter, Put, indexed
from engine.stores.postgres.connections import Connections
from engine.stores.postgres.lanes import (
    DUE_LANES,
    LANES,
    NEXT_DUE,
    RELEASE,
    RENEW,
    TAKE,
    Numbers,
    apply,
    lane_of,
    lease_of,
    locked,
    must_hold,
)
from engine.stores.postgres.schema import prepare
from engine.stores.postgres.waking import Waker
from engine.stores.rules import PROJECT, enter_one_by_one, refuse_another, refuse_impossible

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from engine.records import (
        Accepted,
        Carried,
        Dead,
        Delivery,
        Lane,
        LaneChange,
        Lease,
        Part,
        Progress,
        Settled,
        Skipped,
        Use,
        Which,
    )
    from engine.stores.postgres.address import Address
    from engine.stores.postgres.connections import Db

T = TypeVar("T")

_OF_ONE = (psycopg.DataError, psycopg.errors.ProgramLimitExceeded)  # what one put did wrong, not the server

GROUP = 1000  # puts in one commit at most, so that the first of them is not kept waiting by the last

_encode = msgspec.json.Encoder(decimal_format="number").encode
_decode_values = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal).decode


class Cipher(Protocol):
    """What keeps tokens unreadable in the database."""

    def encrypt(self, data: bytes, /) -> bytes:
        """Bytes that only `decrypt` can read."""

    def decrypt(self, data: bytes, /) -> bytes:
        """What was encrypted; raises if it was by another key."""


class _NotNow(Exception):
    """What was found is told, and the transaction taken back."""

    def __init__(self, counts: dict[str, int]) -> None:
        super().__init__()
        self.counts = counts


class PostgresStore:
    """A Store in the database at `url`; the tables are made if they are not there."""

    def __init__(self, url: str, *, new_id: Callable[[], str] | None = None, cipher: Cipher | None = None) -> None:
        self._address = address = parsed(url)
        self._new_id = new_id or random_id
        self._cipher = cipher
        self._notify = f'NOTIFY "{address.channel}"' if prepare(address) else None
        self._connections = Connections(address)
        self.clock = self._connections.clock
        with self._connections.lent():
            pass  # the first asks the server for its time
        self._waker = Waker(address, listens=self._notify is not None)
        self._numbers = Numbers()
        self._settler = settling.Settler(self._wake)
        self._reviver = dead_letters.Reviver(self._numbers, self._wake)
        self._writer = _Writer(address.shown, self._connections, Accepter(self._numbers, self._wake))

    @property
    def address(self) -> Address:
        """Where its tables are."""
        return self._address

    def _wake(self, db: Db) -> None:
        """A lane is due earlier than anybody knew: those who wait are told with the commit."""
        if self._notify is not None:
            db.send(self._notify)

    # Deliveries in

    def put(self, events: Sequence[Accepted], *, now: float, hold_s: float = 0) -> Future[list[Stored]]:
        return self._writer.submit(Put(events, float(now), float(now + hold_s), self._new_id))

    # Lanes

    def wait(self, seconds: float) -> None:
        self._waker.wait(seconds)

    def due_lanes(self, *, now: float, limit: int = 100) -> list[tuple[str, str]]:
        self._waker.looks()

        def look(db: Db) -> tuple[list[Any], float | None]:
            due, following = db.send(DUE_LANES, now, now, now, limit), db.send(NEXT_DUE, now)
            following_at = following.fetchall()[0][0]
            return due.fetchall(), following_at

        found, next_at = self._connections.read(look)
        self._waker.nothing_before(None if next_at is None else next_at - now)
        return found

    def next_due(self, *, now: float) -> float | None:
        due_at: float | None = self._connections.read(lambda db: db.value(NEXT_DUE, now))
        return due_at

    def lease(self, connector: str, client: str, *, owner: str, ttl_s: float, now: float) -> Lease | None:
        row = self._connections.once(lambda db: db.row(TAKE, owner, now + ttl_s, connector, client, now))
        return None if row is None else lease_of(row)

    def renew(self, lease: Lease, *, ttl_s: float, now: float) -> Lease:
        held = (lease.connector, lease.client, lease.fence, lease.owner)
        row = self._connections.once(lambda db: db.row(RENEW, now + ttl_s, *held))
        return lease_of(must_hold(row, lease))

    def release(self, lease: Lease, *, wake_at: float | None) -> None:
        def work(db: Db) -> None:
            lane = self._numbers.of(db, lease.connector, lease.client)
            locked(db, [] if lane is None else [lane])
            db.send(RELEASE, wake_at, lane, lane, wake_at, lane, lease.fence, lease.owner)

        self._connections.transact(work)

    def reclaim(self, gone: Callable[[str], bool]) -> int:
        return self._connections.transact(lambda db: settling.reclaim(db, gone))

    def change_lane(self, connector: str, client: str, change: LaneChange, *, now: float) -> None:
        del now

        def work(db: Db) -> None:
            name = (connector, client)
            lane = self._numbers.made(db, [name])[name]  # a pause before the first event holds too
            sums = locked(db, [lane])
            apply(db, lane, change)
            sums.stir_for_all(lane)
            sums.write()
            self._wake(db)

        self._connections.transact(work)

    def behind(self, connector: str, client: str, delivery: Delivery) -> bool:
        def look(db: Db) -> bool:
            lane = self._numbers.of(db, connector, client)
            return db.row(reading.BEHIND, lane, delivery.action, indexed(delivery.key), delivery.seq) is not None

        return self._connections.read(look)

    def lane(self, connector: str, client: str) -> Lane | None:
        of = f"{LANES} WHERE connector = %b AND client = %b"
        row = self._connections.read(lambda db: db.row(of, connector, client))
        return None if row is None else lane_of(row)

    def lanes(self) -> list[Lane]:
        return [lane_of(row) for row in self._connections.read(lambda db: db.rows(f"{LANES} ORDER BY 1, 2"))]

    # What a lane holds

    def backlog(self, lease: Lease, action: str, *, now: float, cap: int) -> tuple[int, float | None, float | None]:
        return self._in_lane(lease, lambda db, lane: reading.backlog(db, lane, action, now=now, cap=cap))

    def waiting_actions(self, lease: Lease) -> list[str]:
        return self._in_lane(lease, lambda db, lane: [action for (action,) in db.rows(reading.ACTIONS, lane)])

    def read(self, lease: Lease, action: str, *, limit: int, now: float) -> list[Delivery]:
        return self._in_lane(lease, lambda db, lane: reading.read(db, lane, lease, action, limit=limit, now=now))

    def progress(self, lease: Lease, action: str, *, now: float) -> list[tuple[Progress, list[Delivery]]]:
        return self._in_lane(lease, lambda db, lane: reading.progress(db, lane, lease, action, now=now))

    def save_progress(self, lease: Lease | None, progress: Progress, seqs: Sequence[int], *, now: float) -> None:
        del now

        def work(db: Db) -> None:
            lane = None if lease is None else self._numbers.of(db, lease.connector, lease.client)
            settling.save_progress(db, lane, lease, progress, seqs)

        self._connections.transact(work)

    def add_progress(self, lease: Lease, batch: str, action: str, part: Part, *, now: float) -> bool:
        del now

        def work(db: Db) -> bool:
            lane = self._numbers.of(db, lease.connector, lease.client)
            return settling.add_progress(db, lane, lease, batch, action, part)

        return self._connections.transact(work)

    def settle(
        self, lease: Lease | None, done: Sequence[Settled], *, now: float, change: LaneChange | None = None
    ) -> list[Skipped]:
        def work(db: Db) -> list[Skipped]:
            lane = None if lease is None else self._numbers.of(db, lease.connector, lease.client)
            return self._settler.settle(db, lane, lease, done, now, change)

        return self._connections.transact(work)

    def _in_lane(self, lease: Lease, look: Callable[[Db, int | None], T]) -> T:
        return self._connections.read(lambda db: look(db, self._numbers.of(db, lease.connector, lease.client)))

    # Dead letters, and people

    def held(self, *, now: float) -> dict[tuple[str, str], int]:
        held = "SELECT connector, client, fence FROM lanes WHERE until > %b"
        rows = self._connections.read(lambda db: db.rows(held, now))
        return {(connector, client): fence for connector, client, fence in rows}

    def dead(self, *, limit: int = 100, after: int = 0, newest: bool = False, **which: Unpack[Which]) -> list[Dead]:
        return self._connections.read(lambda db: dead_letters.found(db, which, after=after, limit=limit, newest=newest))

    def count_dead(self, by: str, **which: Unpack[Which]) -> dict[str, int]:
        return self._connections.read(lambda db: dead_letters.counted(db, by, which))

    def dead_letter(self, dead_id: int) -> Dead | None:
        row = self._connections.read(lambda db: db.row(f"{dead_letters.DEAD} WHERE dead.id = %b", dead_id))
        return None if row is None else dead_letters.letter_of(row)

    def requeue(self, dead_ids: Sequence[int], *, now: float) -> int:
        return self._connections.transact(lambda db: self._reviver.requeue(db, dead_ids, now))

    def revive(
        self, connector: str, client: str, event_id: str, actions: Collection[str], *, now: float, hold_s: float
    ) -> list[Delivery]:
        def work(db: Db) -> list[Delivery]:
            lane = self._numbers.of(db, connector, client)
            return self._reviver.revive(db, lane, event_id, actions, now, now + hold_s)

        return self._connections.transact(work)

    def amend(self, dead_id: int, *, body: bytes, key: str | None) -> bool:
        changed = "UPDATE dead SET body = %b, key = %b WHERE id = %b RETURNING id"
        return self._connections.once(lambda db: db.row(changed, body, key, dead_id)) is not None

    def admit(self, letters: Sequence[Dead]) -> list[bool]:
        return self._connections.transact(lambda db: dead_letters.admit(db, self._numbers, letters))

    def whereabouts(self, delivery_ids: Collection[str]) -> dict[str, str]:
        return self._connections.snapshot(lambda db: dead_letters.whereabouts(db, delivery_ids))

    def discard(self, dead_ids: Sequence[int], *, reason: str, now: float) -> int:
        del reason, now  # for the log of who calls; the letter is gone
        gone = "DELETE FROM dead WHERE id = ANY(%b::bigint[]) RETURNING id"
        return len(self._connections.once(lambda db: db.rows(gone, list(dead_ids))))

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
        person = Subject(subject, by_key=by_key)
        found = self._connections.snapshot(lambda db: erasing.find(db, person, client, mentions=mentions))

        def erase(db: Db) -> dict[str, int]:
            counts = erasing.forget(db, found, person, client, now)
            if dry:
                raise _NotNow(counts)
            return counts

        try:
            return self._connections.transact(erase)
        except _NotNow as found_only:
            return found_only.counts

    def forgotten(self) -> int:
        times: int = self._connections.read(lambda db: db.value("SELECT times FROM forgotten"))
        return times

    def scrub(self) -> bool:
        """Tables are written anew; the server's log and its backups keep what was deleted until they are recycled."""
        return self._connections.cleaned(["deliveries", "batches", "dead", "lanes", "dedupe", "uses", "limits"])

    def expire(self, *, dead_before: float | None, now: float, most: int = 1000) -> dict[str, int]:
        return self._connections.transact(lambda db: erasing.expire(db, dead_before, now, most))

    # Tokens and locks

    def token(self, connector: str, client: str, name: str) -> TokenRow | None:
        row = self._connections.read(lambda db: db.row(limits.TOKEN, connector, client, name))
        if row is None:
            return None
        saved, *rest = row
        return TokenRow(self._unseal(saved, f"{connector}/{client}/{name}"), *rest)

    def save_token(self, connector: str, client: str, name: str, row: TokenRow) -> None:
        saved = _encode(row.values)
        if self._cipher is not None:
            saved = self._cipher.encrypt(saved)
        values = (connector, client, name, saved, row.obtained_at, row.expires_at, row.fingerprint)
        self._connections.transact(lambda db: db.send(limits.SAVE_TOKEN, *values))

    def lock(self, name: str, *, owner: str, ttl_s: float, now: float) -> bool:
        return self._connections.once(lambda db: limits.lock(db, name, owner, now + ttl_s, now))

    def unlock(self, name: str, *, owner: str) -> None:
        self._connections.once(lambda db: db.written(limits.UNLOCK, name, owner))

    # Rates and slots

    def take(self, name: str, *, count: int, per_s: float, now: float, cost: int = 1) -> float:
        refuse_impossible(name, count=count, cost=cost)
        return self._connections.transact(lambda db: limits.take(db, name, count, per_s, now, cost))

    def acquire(self, name: str, *, slots: int, owner: str, ttl_s: float, now: float) -> bool:
        return self._connections.transact(lambda db: limits.acquire(db, name, slots, owner, now + ttl_s, now))

    def release_slot(self, name: str, *, owner: str) -> None:
        self._connections.once(lambda db: db.written(limits.RELEASE_SLOT, name, owner))

    def enter(self, uses: Sequence[Use], *, owner: str, ttl_s: float, now: float) -> tuple[int, float] | None:
        # A transaction for each: one that holds the rows of several limits could wait for another that waits for it.
        return enter_one_by_one(self, uses, owner=owner, ttl_s=ttl_s, now=now)

    def used(self, name: str, *, per_s: float, now: float) -> tuple[int, float | None]:
        found = self._connections.read(lambda db: db.row(limits.USED, name, name, float(per_s), float(now)))
        return (found[0], found[1]) if found is not None else (0, None)

    def slots_held(self, name: str, *, now: float) -> int:
        return int(self._connections.read(lambda db: db.value(limits.HELD, name, float(now))))

    # From store to store

    def mark(self, name: str) -> str | None:
        value: str | None = self._connections.read(lambda db: db.value(carrying.MARK, name))
        return value

    def write_mark(self, name: str, value: str) -> None:
        self._connections.transact(lambda db: db.send(carrying.WRITE_MARK, name, value))

    def count(self, connector: str, client: str, *, now: float) -> Held:
        def look(db: Db) -> Held:
            lane = self._numbers.of(db, connector, client)
            [row] = db.rows(carrying.HELD, lane, lane, lane, lane, float(now), lane)
            return Held(*row)

        return self._connections.snapshot(look)

    def carry_out(self, connector: str, client: str, kind: Any, *, after: Any, limit: int) -> list[Any]:
        def look(db: Db) -> list[Any]:
            return carrying.out(db, self._numbers.of(db, connector, client), kind, after, limit)

        return self._connections.read(look)

    def reserve(self, connector: str, client: str, count: int) -> int:
        def work(db: Db) -> int:
            self._numbers.made(db, [(connector, client)])
            return carrying.reserve(db, count)

        return self._connections.transact(work)

    def carry_in(self, connector: str, client: str, items: Sequence[Carried]) -> None:
        def work(db: Db) -> None:
            name = (connector, client)
            carrying.carry_in(db, self._numbers, self._numbers.made(db, [name])[name], items)

        self._connections.transact(work)

    def carry_away(self, connector: str, client: str) -> None:
        def work(db: Db) -> None:
            lane = self._numbers.of(db, connector, client)
            for table in carrying.OF_LANES:
                db.send(f"DELETE FROM {table} WHERE lane = %b", lane)

        self._connections.transact(work)

    def carry_lane(self, lane: Lane, *, mark: str, value: str) -> None:
        def work(db: Db) -> None:
            name = (lane.connector, lane.client)
            carrying.carry_lane(db, self._numbers.made(db, [name])[name], lane)
            db.send(carrying.WRITE_MARK, mark, value)
            self._wake(db)

        self._connections.transact(work)

    def tokens(self) -> list[tuple[str, str, str]]:
        return [(*row,) for row in self._connections.read(lambda db: db.rows(carrying.TOKENS))]

    def carry_forgotten(self, times: int) -> None:
        self._connections.transact(lambda db: db.send(carrying.FORGOTTEN, times))

    def faults(self) -> list[str]:
        return self._connections.snapshot(carrying.faults)

    # The whole

    def claim(self, name: str) -> None:
        def work(db: Db) -> str:
            db.send("INSERT INTO marks (name, value) VALUES (%b, %b) ON CONFLICT (name) DO NOTHING", PROJECT, name)
            owner: str = db.value("SELECT value FROM marks WHERE name = %b", PROJECT)
            return owner

        refuse_another(self._address.shown, self._connections.transact(work), name)

    def close(self) -> None:
        self._writer.close()
        self._waker.close()
        self._connections.close()

    def _unseal(self, saved: bytes, name: str) -> dict[str, Any]:
        try:
            return _decode_values(saved if self._cipher is None else self._cipher.decrypt(saved))
        except Exception as error:  # a cipher has its own exceptions
            raise TokenUnreadable(
                f"{self._address.shown}: the token {name} can't be decrypted; is the key the one it was saved with?"
            ) from error


class _Job(NamedTuple):
    future: Future[list[Stored]]
    put: Put


class _Writer:
    """The one thread of a process that puts: takes all that is queued, commits once, then answers."""

    def __init__(self, shown: str, connections: Connections, accepter: Accepter) -> None:
        self._shown, self._connections, self._accepter = shown, connections, accepter
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._gate = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="store-writer", daemon=True)
        self._thread.start()

    def submit(self, put: Put) -> Future[list[Stored]]:
        future: Future[list[Stored]] = Future()
        with self._gate:
            if self._closed:
                raise StoreUnavailable(f"{self._shown}: the store is closed")
            self._jobs.put(_Job(future, put))
        return future

    def close(self) -> None:
        with self._gate:
            if self._closed:
                return
            self._closed = True
            self._jobs.put(None)
        self._thread.join()

    def _serve(self) -> None:
        going = True
        while going:
            group, going = self._queued()
            live = [job for job in group if job.future.set_running_or_notify_cancel()]
            if live:
                self._store(live)

    def _queued(self) -> tuple[list[_Job], bool]:
        group: list[_Job] = []
        job = self._jobs.get()
        while job is not None:
            group.append(job)
            if len(group) == GROUP:
                return group, True
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return group, True
        return group, False

    def _store(self, jobs: list[_Job]) -> None:
        try:
            answers = self._connections.transact(partial(self._accepter.accept, puts=[job.put for job in jobs]))
        except Exception as error:
            if len(jobs) == 1 or (isinstance(error, StoreUnavailable) and not isinstance(error.__cause__, _OF_ONE)):
                for job in jobs:
                    job.future.set_exception(error)
                return
            for job in jobs:  # one that is bad harms no other
                self._store([job])
            return
        for job, answer in zip(jobs, answers, strict=True):
            job.future.set_result(answer)
