"""The store in DynamoDB beyond what all stores do: crashes between its steps, others at work, what it costs."""

from __future__ import annotations

import json
import random
import re
import threading
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import dynamodb_server
import msgspec
import pytest
from capacity_meter import Meter
from kinds_of_store import numbered

from engine.errors import BadValue, LeaseLost, StoreUnavailable, UsageError
from engine.records import (
    Accepted,
    Dead,
    Draft,
    LaneChange,
    Lease,
    Progress,
    Settled,
    Trace,
)
from engine.stores.dynamodb import table as tables
from engine.stores.dynamodb.address import Address, parsed
from engine.stores.dynamodb.items import MAX_EVENT, Letter, item_size, letter_item, read_letter
from engine.stores.dynamodb.seqs import Seqs
from engine.stores.dynamodb.sharing import _shard_key
from engine.stores.dynamodb.store import DynamoStore
from engine.stores.dynamodb.table import Table
from engine.stores.opening import open_store, schema_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from engine.records import Delivery, Stored

SOURCE = Path(__file__).parent.parent / "engine/stores/dynamodb"


class Clock:
    """Unix seconds and monotonic ones, moved together."""

    def __init__(self, at: float = 1_000_000.0) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


class Shelf:
    """One table, and any number of processes on it: each a store with its own table object."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint, self.name = endpoint, dynamodb_server.new_name()
        self.stores: list[DynamoStore] = []
        self.seqs, self.ids = count(1), numbered()

    def table(self, *, create: bool = True) -> Table:
        return Table(self.name, dynamodb_server.REGION, endpoint=self.endpoint, create=create)

    def process(self, **given: Any) -> DynamoStore:
        def new_seq(many: int) -> int:
            return [next(self.seqs) for _ in range(many)][0]  # noqa: RUF015

        store = DynamoStore(self.table(), new_id=self.ids, **{"new_seq": new_seq, **given})
        self.stores.append(store)
        return store

    def close(self) -> None:
        for store in self.stores:
            store.close()


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    made = Shelf(dynamodb_server.shared())
    yield made
    made.close()


def event(event_id: str = "e1", *, body: bytes = b"{}", key: str | None = None, dedupe_s: float = 0) -> Accepted:
    return Accepted("crm", "abc", event_id, body, 0.0, (Draft("task", key),), dedupe_s)


def put(store: DynamoStore, *events: Accepted, now: float = 0.0, hold_s: float = 0) -> list[Stored]:
    return store.put(events, now=now, hold_s=hold_s).result()


def leased(store: DynamoStore, *, now: float = 0.0, owner: str = "w1", ttl_s: float = 60) -> Lease:
    lease = store.lease("crm", "abc", owner=owner, ttl_s=ttl_s, now=now)
    assert lease is not None
    return lease


def sums(store: DynamoStore) -> tuple[int, int, int, int, int]:
    (lane,) = store.lanes()
    return lane.accepted, lane.delivered, lane.rejected, lane.skipped, lane.waiting


def ids(deliveries: list[Delivery]) -> list[str]:
    return [delivery.id for delivery in deliveries]


# Killed between two steps


class Killed(Exception):
    """The process is not there any more."""


def dies_at(step: str) -> Callable[[str], None]:
    def at(name: str) -> None:
        if name == step:
            raise Killed

    return at


CHAIN = Accepted("crm", "abc", "chain", b"{}", 0.0, (Draft("task"), Draft("note", None, ("task",))))
ENDS = [
    Settled(1, "delivered"),
    Settled(2, "rejected", reason="no"),
    Settled(3, "later", due_at=50.0, attempts=1),
    Settled(4, "delivered"),
    Settled(5, "rejected", reason="never"),
]


def full(store: DynamoStore) -> None:
    put(store, *(event(f"e{n}") for n in range(1, 5)), CHAIN, event("e7"))


def after_all(store: DynamoStore, *, now: float) -> tuple[list[str], list[str], tuple[int, ...]]:
    """(what is sent by the next holder, the dead letters, the counters)."""
    lease = leased(store, now=now, owner="w2")
    sent = [
        delivery for name in store.waiting_actions(lease) for delivery in store.read(lease, name, limit=99, now=now)
    ]
    return ids(sent), [letter.delivery_id for letter in store.dead()], sums(store)


@pytest.mark.parametrize(
    ("step", "sent", "dead", "counted"),
    [
        ("commit", ["d1", "d2", "d3", "d4", "d5", "d7"], [], (7, 0, 0, 0, 7)),
        ("apply", ["d7", "d3"], ["d2", "d5"], (7, 2, 2, 1, 2)),
        ("done", ["d7", "d3"], ["d2", "d5"], (7, 2, 2, 1, 2)),
    ],
)
def test_a_settling_whose_process_is_killed_is_whole_or_was_not(
    shelf: Shelf, step: str, sent: list[str], dead: list[str], counted: tuple[int, ...]
) -> None:
    dying, heir = shelf.process(step=dies_at(step)), shelf.process()
    full(dying)
    lease = leased(dying)
    with pytest.raises(Killed):
        dying.settle(lease, ENDS, now=1.0)
    assert sums(heir) == counted  # before anybody has cleaned up, too
    assert heir.due_lanes(now=60.0) == [("crm", "abc")]
    assert after_all(heir, now=60.0) == (sent, dead, counted)


def test_what_a_killed_process_had_half_taken_out_is_taken_out_by_the_next_holder_and_counted_once(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying, heir = shelf.process(), shelf.process()
    put(dying, *(event(f"e{n}") for n in range(60)))
    lease = leased(dying)

    write = dying._table.write

    def writes_some(requests: Iterable[Any]) -> None:
        write(list(requests)[:25])
        raise Killed

    monkeypatch.setattr(dying._table, "write", writes_some)
    with pytest.raises(Killed):
        dying.settle(lease, [Settled(seq, "delivered") for seq in range(1, 61)], now=1.0)
    assert sums(heir) == (60, 60, 0, 0, 0)
    late = leased(heir, now=61.0, owner="w2")
    assert heir.read(late, "task", limit=99, now=61.0) == []
    assert sums(heir) == (60, 60, 0, 0, 0)


def test_one_who_takes_out_late_what_it_settled_does_no_harm(shelf: Shelf) -> None:
    """It stood still between commit and deletion, while another took the lane and a letter came back."""
    stands, goes = threading.Event(), threading.Event()

    def step(name: str) -> None:
        if name == "apply":
            stands.set()
            assert goes.wait(20)

    slow, quick = shelf.process(step=step), shelf.process()
    put(slow, event("e1"), event("e2"), event("e3"))
    lease = leased(slow)
    ends = [Settled(1, "delivered"), Settled(2, "rejected")]
    settling = threading.Thread(target=lambda: slow.settle(lease, ends, now=1.0))
    settling.start()
    assert stands.wait(20)
    other = leased(quick, now=61.0, owner="w2")
    assert quick.requeue([1], now=62.0) == 1
    assert ids(quick.read(other, "task", limit=9, now=62.0)) == ["d3", "d2"]
    goes.set()
    settling.join(20)
    assert ids(quick.read(other, "task", limit=9, now=62.0)) == ["d3", "d2"]
    with pytest.raises(LeaseLost):
        slow.settle(lease, [Settled(3, "delivered")], now=63.0)
    quick.settle(other, [Settled(3, "delivered"), Settled(4, "delivered")], now=63.0)
    assert [sums(store) for store in (slow, quick)] == [(3, 3, 0, 0, 0)] * 2


def test_a_lane_that_is_written_again_because_the_answer_was_not_heard_counts_once(shelf: Shelf) -> None:
    """The lane was written and the answer lost; what wrote it tries again, as the library under it does."""
    store = shelf.process()
    put(store, event("e1"), event("e2"))
    call = store._table.call

    def twice(verb: str, **given: Any) -> dict[str, Any]:
        if verb == "put_item":
            call(verb, **given)
        return call(verb, **given)

    store._table.call = twice  # type: ignore[method-assign]
    lease = leased(store)
    assert lease.fence == 1
    store.settle(lease, [Settled(1, "delivered")], now=1.0)
    put(store, msgspec.structs.replace(event("unwanted"), drafts=()))
    assert sums(store) == (3, 1, 0, 1, 1)


def test_a_settling_of_many_exceptions_is_several_and_all_are_in(shelf: Shelf) -> None:
    store = shelf.process()
    put(store, *(event(f"e{n}") for n in range(150)))
    lease = leased(store)
    kinds = ["rejected", "later", "delivered"]
    ends = [Settled(seq, kinds[seq % 3], due_at=9.0, reason="no") for seq in range(1, 151)]
    change = LaneChange(not_before=5.0, reason="slow")
    assert store.settle(lease, ends, now=1.0, change=change) == []
    assert sums(store) == (150, 50, 50, 0, 50)
    assert [store.lanes()[0].not_before, len(store.dead())] == [5.0, 50]
    assert len(store.read(lease, "task", limit=99, now=9.0)) == 50


def test_a_settling_that_frees_very_much_is_several_too(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.stores.dynamodb.settling.MOST_IN_TRANSACTION", 9)
    store = shelf.process()
    names = [f"note{n}" for n in range(3)]
    drafts = (Draft("task"), *(Draft(name, None, ("task",)) for name in names))
    put(store, *(Accepted("crm", "abc", f"e{n}", b"{}", 0.0, drafts) for n in range(6)))
    lease = leased(store)
    store.settle(lease, [Settled(1 + 4 * n, "delivered") for n in range(6)], now=1.0)
    assert sums(store) == (24, 6, 0, 0, 18)
    assert sum(len(store.read(lease, name, limit=99, now=1.0)) for name in names) == 18


# Others at work


def test_a_direct_caller_and_a_worker_of_other_processes_settle_one_lane_and_each_counts_once(shelf: Shelf) -> None:
    door, worker = shelf.process(), shelf.process()
    put(door, *(event(f"e{n}") for n in range(1, 21)), now=0.0)
    held = [stored.deliveries[0].seq for n in range(20) for stored in put(door, event(f"h{n}"), now=0.0, hold_s=25)]
    lease = leased(worker)
    seqs = [delivery.seq for delivery in worker.read(lease, "task", limit=99, now=1.0)]

    def direct() -> None:
        for seq in held:
            door.settle(None, [Settled(seq, "delivered")], now=2.0)

    caller = threading.Thread(target=direct)
    caller.start()
    for seq in seqs:
        worker.settle(lease, [Settled(seq, "delivered")], now=2.0)
    caller.join(60)
    assert [sums(store) for store in (door, worker)] == [(40, 40, 0, 0, 0)] * 2


def test_what_an_operator_takes_away_meanwhile_is_not_counted_as_delivered(shelf: Shelf) -> None:
    worker, operator = shelf.process(), shelf.process()
    put(worker, event("e1", key="ana"), event("e2"))
    lease = leased(worker)
    seqs = [delivery.seq for delivery in worker.read(lease, "task", limit=9, now=1.0)]
    assert operator.forget("ana", now=1.0)["waiting"] == 1
    worker.settle(lease, [Settled(seq, "delivered") for seq in seqs], now=2.0)
    assert sums(worker) == (2, 1, 0, 1, 0)


def test_many_who_want_one_lane_get_it_one_after_the_other(shelf: Shelf) -> None:
    stores = [shelf.process() for _ in range(4)]
    put(stores[0], event("e1"))
    found: list[Lease | None] = [None] * 4

    def want(at: int) -> None:
        found[at] = stores[at].lease("crm", "abc", owner=f"w{at}", ttl_s=30, now=1.0)

    threads = [threading.Thread(target=want, args=(at,)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [lease.fence for lease in found if lease is not None] == [1]


def test_a_limit_and_its_slots_hold_over_processes(shelf: Shelf) -> None:
    stores = [shelf.process() for _ in range(3)]
    taken: list[float] = []
    threads = [
        threading.Thread(target=lambda store=store: taken.extend(
            store.take("calls", count=5, per_s=60, now=1.0) for _ in range(4)
        ))
        for store in stores
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(taken) == [0.0] * 5 + [60.0] * 7
    got = [store.acquire("open", slots=2, owner=f"w{at}", ttl_s=9, now=1.0) for at, store in enumerate(stores)]
    assert got == [True, True, False]


def test_a_limit_with_very_many_uses_stays_small_and_never_lets_more_through(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.stores.dynamodb.sharing.MOST_USES", 16)
    store = shelf.process()
    chance, now, uses = random.Random(3), 0.0, list[float]()
    for _ in range(120):
        now += chance.random() / 5
        if store.take("calls", count=40, per_s=5.0, now=now) == 0.0:
            uses.append(now)
    assert 40 < len(uses) < 120
    assert max(sum(at <= use < at + 5.0 for use in uses) for at in uses) == 40
    item = store._table.get(_shard_key("calls"))
    assert item is not None
    assert len(item["uses"]["B"]) < 400


# What lags behind, what is put off


def test_what_was_just_ended_or_put_off_is_not_read_again_from_a_copy_that_lags(shelf: Shelf) -> None:
    store = shelf.process()
    put(store, event("e1"), event("e2"), event("e3"))
    call, stale = store._table.call, list[dict[str, Any]]()

    def lagging(verb: str, **given: Any) -> dict[str, Any]:
        """The first page of deliveries that was read, for every later one."""
        if verb != "query" or given["ExpressionAttributeValues"].get(":pk") != {"S": "d#crm/abc"}:
            return call(verb, **given)
        stale.append(call(verb, **given))
        return dict(max(stale, key=lambda page: len(page["Items"])))

    lease = leased(store)
    store._table.call = lagging  # type: ignore[method-assign]
    assert ids(store.read(lease, "task", limit=9, now=1.0)) == ["d1", "d2", "d3"]
    store.settle(lease, [Settled(1, "delivered"), Settled(2, "later", due_at=50.0)], now=1.0)
    store.release(lease, wake_at=1.0)
    again = leased(store, now=2.0)
    assert ids(store.read(again, "task", limit=9, now=2.0)) == ["d3"]


def test_writes_and_reads_that_dynamodb_puts_off_are_tried_again(shelf: Shelf) -> None:
    store = shelf.process()
    client, chance = store._table.client, random.Random(1)
    write, get = client.batch_write_item, client.batch_get_item

    def some_written(**given: Any) -> dict[str, Any]:
        ((name, requests),) = given["RequestItems"].items()
        done = [each for each in requests if chance.random() < 0.6]
        left = [each for each in requests if each not in done]
        if done:
            write(RequestItems={name: done})
        return {"UnprocessedItems": {name: left} if left else {}}

    def some_read(**given: Any) -> dict[str, Any]:
        ((name, asked),) = given["RequestItems"].items()
        keys = asked["Keys"]
        some = keys[: max(1, len(keys) // 2)]
        reply = dict(get(RequestItems={name: {**asked, "Keys": some}}))
        reply["UnprocessedKeys"] = {name: {**asked, "Keys": keys[len(some) :]}} if keys[len(some) :] else {}
        return reply

    client.batch_write_item, client.batch_get_item = some_written, some_read
    put(store, *(event(f"e{n}") for n in range(60)))
    lease = leased(store)
    store.settle(lease, [Settled(seq, "delivered") for seq in range(1, 60)], now=1.0)
    assert sums(store) == (60, 59, 0, 0, 1)
    assert ids(store.read(lease, "task", limit=99, now=1.0)) == ["d60"]


class Refusals:
    """Answers of DynamoDB that come before its own, one after the other, as bytes of HTTP."""

    def __init__(self, store: DynamoStore, verb: str, *codes: str) -> None:
        self.left = list(codes)
        self.asked = 0
        store._table.client.meta.events.register_first(f"before-send.dynamodb.{verb}", self.answer)

    def answer(self, request: Any, **_: Any) -> Any:
        from botocore.awsrequest import AWSResponse

        self.asked += 1
        if not self.left:
            return None
        told = {"__type": f"com.amazonaws.dynamodb.v20120810#{self.left.pop(0)}", "message": "said by the test"}
        headers = {"content-type": "application/x-amz-json-1.0"}
        return AWSResponse(request.url, 400, headers, _Raw(json.dumps(told).encode()))


class _Raw:
    def __init__(self, body: bytes) -> None:
        self.body = body

    def stream(self) -> Iterator[bytes]:
        yield self.body


def test_what_is_throttled_is_tried_again_and_at_last_said(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "TRIES", 2)
    store = shelf.process()
    refusals = Refusals(store, "BatchWriteItem", "ThrottlingException")
    put(store, event("e1"))
    assert (refusals.asked, sums(store)) == (2, (1, 0, 0, 0, 1))
    Refusals(store, "GetItem", *["ThrottlingException"] * 99)
    with pytest.raises(StoreUnavailable, match="asks to slow down, and still does after many tries"):
        store.lane("crm", "abc")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("UnrecognizedClientException", r"AWS refuses the credentials \(UnrecognizedClientException\); give"),
        ("AccessDeniedException", "do not allow what is needed on the table; add it to the role or user$"),
        ("ResourceNotFoundException", "there is no such table, or not yet$"),
        ("ValidationException", "DynamoDB refuses with ValidationException$"),
    ],
)
def test_what_dynamodb_refuses_is_said_in_a_sentence(shelf: Shelf, code: str, said: str) -> None:
    store = shelf.process()
    Refusals(store, "GetItem", code)
    with pytest.raises(StoreUnavailable, match=said):
        store.lane("crm", "abc")


# What is too large


def noise(size: int) -> bytes:
    """JSON that can't be compressed much."""
    return b'{"a":"' + random.Random(size).randbytes(size).hex()[: size - 8].encode() + b'"}'


def test_the_largest_event_goes_all_the_way_and_one_byte_more_is_refused(shelf: Shelf) -> None:
    store = shelf.process()
    largest = noise(MAX_EVENT - 2)
    trace = Trace("POST", "https://crm.example", 400, "x" * 100_000, noise(100_000).decode())
    reason = "no" * 500
    put(store, event("e1", body=largest))
    lease = leased(store)
    (delivery,) = store.read(lease, "task", limit=9, now=0.0)
    assert delivery.body == largest
    for n in range(30):
        store.settle(lease, [Settled(1, "later", due_at=0.0, attempts=n, reason=f"{n} {reason}")], now=float(n))
    store.settle(lease, [Settled(1, "rejected", reason=reason, trace=trace)], now=1.0)
    (letter,) = store.dead()
    assert (letter.body, letter.reason, letter.trace is not None) == (largest, reason, True)
    with pytest.raises(
        BadValue, match=f"^the event has {MAX_EVENT + 1} bytes; this store takes {MAX_EVENT}, for an it"
    ):
        store.put([event("e2"), event("e3", body=noise(MAX_EVENT - 1))], now=0.0)
    assert sums(store) == (1, 0, 1, 0, 0)


def test_a_letter_whose_request_has_no_room_is_kept_without_it() -> None:
    body, told = random.Random(1).randbytes(300_000), noise(200_000).decode()
    trace = Trace("POST", "https://crm.example", 400, told, told)
    dead = Dead(1, "crm", "abc", "task", "d1", "e1", None, body, "no", "", 1, 0.0, 1.0, trace=trace)
    item = letter_item(Letter(dead))
    assert item_size(item) < 400_000
    kept = read_letter(item).dead
    assert kept.trace == Trace("POST", "https://crm.example", 400, "(too long to keep)", "(too long to keep)")
    assert msgspec.structs.replace(kept, trace=trace) == dead


def test_a_half_done_batch_may_have_more_than_one_item_holds(shelf: Shelf) -> None:
    store = shelf.process()
    put(store, event("e1"), event("e2"))
    lease = leased(store)
    progress = Progress("b1", "task", "poll", {}, records=[noise(300_000).decode(), noise(300_001).decode()])
    store.save_progress(lease, progress, [1, 2], now=0.0)
    further = msgspec.structs.replace(progress, step="close")
    store.save_progress(lease, further, [1, 2], now=0.0)
    ((read, deliveries),) = store.progress(lease, "task", now=1.0)
    assert (read, ids(deliveries)) == (further, ["d1", "d2"])
    store.settle(lease, [Settled(1, "delivered"), Settled(2, "delivered")], now=1.0)
    left = store._table.query("pk = :pk", {":pk": {"S": "b#crm/abc"}})
    assert left == []


# Awake, lingering, asleep


def lane_writes(store: DynamoStore) -> Callable[[], int]:
    call, written = store._table.call, count()

    def counting(verb: str, **given: Any) -> dict[str, Any]:
        if verb == "put_item" and given["Item"]["pk"]["S"].startswith("lane#"):
            next(written)
        return call(verb, **given)

    store._table.call = counting  # type: ignore[method-assign]
    return lambda: int(repr(written)[6:-1])


def test_a_lane_that_is_awake_is_not_written_for_what_is_put(shelf: Shelf) -> None:
    door, clock = shelf.process(), Clock()
    put(door, event("e0"), now=clock.at)
    writes = lane_writes(door)
    for n in range(20):
        put(door, event(f"e{n}"), now=clock.at + n)
    assert writes() == 0


@pytest.mark.parametrize("apart_s", [-30.0, 0.0, 30.0])
def test_what_is_put_into_a_lane_that_was_put_to_sleep_elsewhere_is_found_though_clocks_differ(
    shelf: Shelf, apart_s: float
) -> None:
    clock, theirs = Clock(), Clock(1_000_000.0 + apart_s)
    worker = shelf.process(clock=clock, monotonic=clock, new_seq=None)
    door = shelf.process(clock=theirs, monotonic=theirs, new_seq=None)

    def passes(seconds: float) -> None:
        clock.at += seconds
        theirs.at += seconds

    def runs() -> list[str]:
        lease = leased(worker, now=clock.at, ttl_s=30)
        found = worker.read(lease, "task", limit=9, now=clock.at)
        worker.settle(lease, [Settled(each.seq, "delivered") for each in found], now=clock.at)
        worker.release(lease, wake_at=None)
        return [each.event_id for each in found]

    put(door, event("e1"), now=theirs.at)
    passes(max(0.0, apart_s))
    assert runs() == ["e1"]
    writes = lane_writes(door)
    passes(15)
    assert worker.due_lanes(now=clock.at) == []
    put(door, event("e2"), now=theirs.at)
    assert writes() == (0 if apart_s <= 0 else 1)  # it trusts what it saw half a minute ago, and no longer
    passes(3)
    if apart_s > 0:
        passes(apart_s)  # what it puts is due by its own clock
    assert worker.due_lanes(now=clock.at) == [("crm", "abc")]
    assert runs() == ["e2"]
    for _ in range(70):
        passes(2)
        assert worker.due_lanes(now=clock.at) == []
    assert worker._lanes.indexed(1e15) == []  # asleep for good: nobody looks into it any more
    put(door, event("e3"), now=theirs.at)
    passes(1 + max(0.0, apart_s))
    assert worker.due_lanes(now=clock.at) == [("crm", "abc")]


@pytest.mark.parametrize("action", ["task", "note"])
def test_what_comes_after_the_last_look_of_a_holder_that_was_done_is_found_soon(shelf: Shelf, action: str) -> None:
    """It had read exactly as many as there were, and asked which actions wait, before the next one came."""
    clock = Clock()
    worker, door = (shelf.process(clock=clock, monotonic=clock) for _ in range(2))
    put(door, *(event(f"e{n}") for n in range(64)), now=clock.at)
    lease = leased(worker, now=clock.at)
    found = worker.read(lease, "task", limit=64, now=clock.at)
    worker.settle(lease, [Settled(each.seq, "delivered") for each in found], now=clock.at)
    assert worker.waiting_actions(lease) == []
    put(door, Accepted("crm", "abc", "late", b"{}", 0.0, (Draft(action),)), now=clock.at)
    worker.release(lease, wake_at=None)
    assert worker.due_lanes(now=clock.at) == []
    clock.at += 3
    assert worker.due_lanes(now=clock.at) == [("crm", "abc")]


def test_a_put_of_the_same_process_wakes_who_waits_at_once(shelf: Shelf) -> None:
    store = shelf.process()
    waited = threading.Event()

    def wait() -> None:
        store.wait(30)
        waited.set()

    threading.Thread(target=wait, daemon=True).start()
    assert not waited.wait(0.2)
    put(store, event("e1"))
    assert waited.wait(5)


def test_an_awake_lane_in_which_nothing_is_falls_asleep(shelf: Shelf) -> None:
    clock = Clock()
    store = shelf.process(clock=clock, monotonic=clock)
    (stored,) = put(store, event("e1"), now=clock.at, hold_s=25)
    store.settle(None, [Settled(stored.deliveries[0].seq, "delivered")], now=clock.at)
    for _ in range(140):
        clock.at += 2
        assert store.due_lanes(now=clock.at) == []
    assert store._lanes.indexed(1e15) == []


# Numbers


def test_two_processes_never_have_the_same_number(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(1_800_000_000.0)
    monkeypatch.setattr("engine.stores.dynamodb.seqs.PROCESSES", 3)
    monkeypatch.setattr("engine.stores.dynamodb.seqs.random.sample", lambda among, _: list(among))
    tables_ = [shelf.table() for _ in range(4)]
    one, two, three, four = (Seqs(table, clock) for table in tables_)
    seqs = [each(1) for each in (one, two, three) for _ in range(600)]
    assert len(set(seqs)) == 1800
    with pytest.raises(StoreUnavailable, match="no number is free for this process"):
        four(1)
    clock.at += 4000  # one renews its number; that of a process which is not there any more is free again
    assert one(1) > max(seqs)
    assert four(1) != one(1)
    for table in tables_:
        table.close()


def test_numbers_rise_with_what_was_seen_but_not_with_a_clock_that_is_wrong(shelf: Shelf) -> None:
    clock = Clock(1_800_000_000.0)
    table = shelf.table()
    seqs = Seqs(table, clock)
    first = seqs(3)
    ahead = first + (20_000 << 22)
    seqs.saw(ahead)
    assert seqs(1) > ahead
    seqs.saw(first + (10**9 << 22))
    assert seqs(1) < first + (10**8 << 22)
    table.close()


# Never a scan


def test_nothing_ever_scans_the_table(shelf: Shelf) -> None:
    from whole_stores import drained, fill, whole

    verbs = set[str]()
    store = shelf.process()
    store._table.client.meta.events.register(
        "before-send.dynamodb", lambda request, **_: verbs.add(request.headers["X-Amz-Target"].decode()) or None
    )
    fill(store)
    whole(store)
    store.next_due(now=1.0)
    store.whereabouts(["d1"])
    store.count_dead("reason")
    store.reclaim(lambda _: True)
    store.expire(dead_before=9e9, now=9e9)
    store.forget("ana@example.com", now=9.0, mentions=True)
    drained(store)
    asked = {verb.partition(".")[2] for verb in verbs}
    assert {"BatchGetItem", "BatchWriteItem", "GetItem", "PutItem", "Query", "TransactWriteItems"} <= asked
    assert not any("Scan" in verb or "Statement" in verb for verb in asked)
    for file in SOURCE.glob("*.py"):
        assert '"scan"' not in file.read_text()


# Addresses, and tables that are none of ours


def test_an_address_has_a_table_and_a_region() -> None:
    assert parsed("dynamodb://connect?region=sa-east-1", {}) == Address("connect", "sa-east-1")
    assert parsed("dynamodb://my.table_1?create=1", {"AWS_REGION": "us-east-1"}) == Address(
        "my.table_1", "us-east-1", create=True
    )
    whole = parsed("dynamodb://abc?region=x&endpoint=http://127.0.0.1:8000", {})
    assert whole == Address("abc", "x", "http://127.0.0.1:8000")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("dynamodb://connect", "no region is said; write it as in dynamodb://connect"),
        ("dynamodb:///connect?region=x", "has the name of a table, 3 to 255 letters and digits, and nothing before it"),
        ("dynamodb://a?region=x", "has the name of a table"),
        ("dynamodb://AKIA:s3cr3t@connect?region=x", "has the name of a table"),
        ("dynamodb://connect?regoin=x", "regoin is no option of a DynamoDB store; there are region, endpoint, create"),
    ],
)
def test_an_address_that_is_none_says_what_is_missing(url: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        open_store(url, tmp_path, {})
    assert "s3cr3t" not in str(refused.value)


def test_a_table_that_is_not_there_says_how_it_is_made_and_is_made_when_asked(shelf: Shelf, tmp_path: Path) -> None:
    name = dynamodb_server.new_name()
    with pytest.raises(StoreUnavailable, match="there is no such table; make it with `&create=1` at the end of the st"):
        open_store(dynamodb_server.url(shelf.endpoint, name, create=False), tmp_path)
    open_store(dynamodb_server.url(shelf.endpoint, name), tmp_path).close()
    again = open_store(dynamodb_server.url(shelf.endpoint, name, create=False), tmp_path, name="loja")
    told = again._table.client.describe_time_to_live(TableName=name)  # type: ignore[attr-defined]
    assert told["TimeToLiveDescription"]["AttributeName"] == "ttl"
    again.close()
    with pytest.raises(StoreUnavailable, match="project `loja`"):
        open_store(dynamodb_server.url(shelf.endpoint, name), tmp_path, name="outra")


def test_processes_that_make_one_table_at_the_same_time_all_have_it(shelf: Shelf) -> None:
    made_: list[DynamoStore] = []
    threads = [threading.Thread(target=lambda: made_.append(shelf.process())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(made_) == 4
    put(made_[0], event())
    assert [sums(store) for store in made_] == [(1, 0, 0, 0, 1)] * 4


def made(shelf: Shelf, hash_: str, range_: str | None, *, index: bool = False) -> Any:
    """A table of something else's."""
    client = shelf.process()._table.client
    name = dynamodb_server.new_name()
    keys = [(hash_, "HASH"), *([(range_, "RANGE")] if range_ else [])]
    types = [(each, "S") for each, _ in keys] + ([("gpk", "S"), ("gsk", "N")] if index else [])
    due = {
        "IndexName": "due",
        "KeySchema": [{"AttributeName": "gpk", "KeyType": "HASH"}, {"AttributeName": "gsk", "KeyType": "RANGE"}],
        "Projection": {"ProjectionType": "KEYS_ONLY"},
    }
    client.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": each, "KeyType": kind} for each, kind in keys],
        AttributeDefinitions=[{"AttributeName": each, "AttributeType": kind} for each, kind in types],
        **({"GlobalSecondaryIndexes": [due]} if index else {}),
    )
    return client, name


@pytest.mark.parametrize(
    ("hash_", "range_", "said"),
    [
        ("id", None, "the table has keys id; a store has keys pk.sk, index due gpk.gsk, all of type S but for gsk"),
        ("pk", "sk", "the table has keys pk.sk; a store has keys pk.sk, index due"),
        ("sk", "pk", "the table has keys sk.pk; a store has keys pk.sk"),
    ],
)
def test_a_table_with_other_keys_is_refused_and_left_as_it_is(
    shelf: Shelf, tmp_path: Path, hash_: str, range_: str | None, said: str
) -> None:
    client, name = made(shelf, hash_, range_)
    with pytest.raises(StoreUnavailable, match=said):
        open_store(dynamodb_server.url(shelf.endpoint, name), tmp_path)
    assert client.describe_table(TableName=name)["Table"]["ItemCount"] == 0


def test_who_only_asks_for_the_version_of_a_table_with_other_keys_hears_what_to_do(
    shelf: Shelf, tmp_path: Path
) -> None:
    _, name = made(shelf, "id", None)
    with pytest.raises(StoreUnavailable, match=r"the table has keys id; a store has .*; give the store a t"):
        schema_of(dynamodb_server.url(shelf.endpoint, name), tmp_path)


def test_a_table_in_which_something_else_lies_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    client, name = made(shelf, "pk", "sk", index=True)
    client.put_item(TableName=name, Item={"pk": {"S": "order"}, "sk": {"S": "1"}})
    with pytest.raises(StoreUnavailable, match="the table holds 1 items of something else"):
        open_store(dynamodb_server.url(shelf.endpoint, name), tmp_path)


def test_a_table_of_a_newer_schema_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    store = shelf.process()
    meta = {"pk": {"S": "meta"}, "sk": {"S": "meta"}, "store": {"S": "daxgo-connect"}, "version": {"N": "7"}}
    store._table.put(meta)
    with pytest.raises(StoreUnavailable, match="is of schema 7; this is a DaxGO Connect for schema 1: install a newer"):
        open_store(dynamodb_server.url(shelf.endpoint, shelf.name), tmp_path)


def test_an_endpoint_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dynamodb_server.credentials()
    monkeypatch.setattr(tables, "TRIES", 2)
    with pytest.raises(StoreUnavailable, match=r"http://127.0.0.1:9 does not answer \(EndpointConnectionError\)$"):
        open_store(dynamodb_server.url("http://127.0.0.1:9"), tmp_path)


def test_missing_credentials_are_said(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = dynamodb_server.url(shelf.endpoint)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(StoreUnavailable, match="there are no AWS credentials; give the process a role, or AWS_ACCESS"):
        open_store(url, tmp_path)


def test_a_missing_library_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "boto3", None)
    with pytest.raises(UsageError, match=r"pip install 'daxgo-connect\[aws\]'"):
        open_store("dynamodb://connect?region=sa-east-1", tmp_path)


# What it costs

BATCH = 200


def kilobyte(number: int) -> bytes:
    """An event of 1,024 bytes as a shop sends it."""
    chance = random.Random(number)
    items = [
        {"sku": f"SKU-{chance.randint(1000, 99999)}", "name": "Tênis de corrida", "price": chance.randint(1000, 99999)}
        for _ in range(4)
    ]
    whole = {
        "id": f"{chance.getrandbits(64):016x}",
        "event": "purchase",
        "client": "loja-abc",
        "email": f"customer{number}@example.com",
        "timestamp": f"2026-11-28T15:{number // 60 % 60:02}:{number % 60:02}.000Z",
        "url": f"https://www.loja.example/checkout/{chance.randint(1, 10**9)}?utm_source=google&utm_medium=cpc",
        "agent": "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0",
        "items": items,
        "session": "",
    }
    body = json.dumps(whole, ensure_ascii=False, separators=(",", ":")).encode()
    return body[:-2] + chance.randbytes(600).hex()[: 1024 - len(body)].encode() + b'"}'


def events(many: int = 1_000, *, dedupe_s: float = 0) -> list[Accepted]:
    return [Accepted("crm", "abc", f"event-{n:08}", kilobyte(n), 5.0, (Draft("task"),), dedupe_s) for n in range(many)]


def drained(store: DynamoStore) -> int:
    """As a worker does it, batch after batch under one lease."""
    sent = 0
    lease = leased(store, now=6.0)
    while "task" in store.waiting_actions(lease):
        due, _, _ = store.backlog(lease, "task", now=6.0, cap=BATCH)
        rows = store.read(lease, "task", limit=BATCH, now=6.0)
        store.settle(lease, [Settled(row.seq, "delivered") for row in rows], now=6.0)
        assert due == len(rows)
        sent += due
    store.release(lease, wake_at=None)
    return sent


class Bill(NamedTuple):
    """Units for one event."""

    writes: float
    reads: float


def billed(endpoint: str, put_all: Callable[[DynamoStore], object], *, by_rule: bool) -> tuple[Bill, Bill]:
    """What putting costs for each event, and what draining does."""
    shelf = Shelf(endpoint)
    store = shelf.process(new_seq=None)
    meter = Meter(store._table)
    put_all(store)
    putting = meter.units(by_rule=by_rule)
    many = drained(store)
    whole = meter.units(by_rule=by_rule)
    shelf.close()
    draining = (whole.writes - putting.writes, whole.reads - putting.reads)
    return Bill(*(each / many for each in putting)), Bill(*(each / many for each in draining))


def singly(store: DynamoStore) -> None:
    for future in [store.put([each], now=5.0) for each in events()]:
        future.result()


def in_a_list(store: DynamoStore) -> None:
    store.put(events(), now=5.0).result()


def once(store: DynamoStore) -> None:
    store.put(events(200, dedupe_s=86_400), now=5.0).result()  # moto copies its whole table for each transaction


def server(which: str) -> str:
    if which == "moto":
        return dynamodb_server.shared()
    if (reason := dynamodb_server.why_no_local()) is not None:
        pytest.skip(reason)
    return dynamodb_server.local()


@pytest.mark.parametrize("which", ["moto", "local"])
@pytest.mark.parametrize("put_all", [singly, in_a_list])
def test_an_event_costs_one_write_one_delete_and_an_eighth_of_a_read_and_little_for_its_batch(
    put_all: Callable[[DynamoStore], object], which: str
) -> None:
    putting, draining = billed(server(which), put_all, by_rule=which == "moto")
    assert 1.0 <= putting.writes <= 1.01
    assert putting.reads <= 0.01
    assert 1.0 <= draining.writes <= 1.02
    assert draining.reads <= 1 / 8 + 0.02


@pytest.mark.parametrize("which", ["moto", "local"])
def test_an_event_that_is_taken_once_costs_two_writes_twice_when_it_is_put(which: str) -> None:
    putting, draining = billed(server(which), once, by_rule=which == "moto")
    assert 4.0 <= putting.writes <= 4.02
    assert putting.reads <= 1.02
    assert 1.0 <= draining.writes <= 1.05


ROW = re.compile(r"^\| \**([^|*]+?)\** \| ([\d,]+) \| ([\d,]+) \| ([\d.]+) \|$", re.MULTILINE)


def test_the_page_about_cost_says_what_was_counted_and_its_dollars_are_its_units() -> None:
    text = (SOURCE.parents[2] / "docs/cost.md").read_text()
    rows = {
        what: (int(w.replace(",", "")), int(r.replace(",", "")), float(usd)) for what, w, r, usd in ROW.findall(text)
    }
    for writes, reads, dollars in rows.values():
        assert round(writes * 0.625e-6 + reads * 0.125e-6, 2) == pytest.approx(dollars, abs=0.011)
    put_, drained_ = billed(dynamodb_server.shared(), in_a_list, by_rule=True)
    marked, _ = billed(dynamodb_server.shared(), once, by_rule=True)
    for what, one in (("put", put_.writes), ("delivered", drained_.writes), ("put with `dedupe`", marked.writes)):
        assert rows[what][0] / 1e6 == pytest.approx(one, rel=0.01), what
    assert rows["delivered"][1] / 1e6 == pytest.approx(drained_.reads, abs=0.02)
    for both, first in (("both", "put"), ("both with `dedupe`", "put with `dedupe`")):
        assert rows[both][:2] == tuple(map(sum, zip(rows[first][:2], rows["delivered"][:2], strict=True)))
