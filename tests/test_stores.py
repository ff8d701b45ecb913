"""What every store must do: one suite over all of them."""

from __future__ import annotations

import math
import random
from contextlib import suppress
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from kinds_of_store import KINDS, NEAR, SLOW

from engine.errors import BadValue, LeaseLost, StoreUnavailable
from engine.records import (
    Accepted,
    Dead,
    Delivery,
    Draft,
    Lane,
    LaneChange,
    Lease,
    Part,
    Progress,
    Settled,
    Skipped,
    Stored,
    TokenRow,
    Trace,
    Use,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from engine.ports import Store


@pytest.fixture(params=sorted(KINDS))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made = KINDS[request.param](tmp_path)
    yield made
    made.close()


@pytest.fixture
def slow(request: pytest.FixtureRequest) -> bool:
    """Is each verb of this store several requests?"""
    return request.node.callspec.params["store"] in SLOW


def event(
    event_id: str = "e1",
    *,
    client: str = "abc",
    at: float = 0.0,
    key: str | None = None,
    actions: tuple[str, ...] = ("task",),
    body: bytes = b"{}",
    dedupe_s: float = 0,
) -> Accepted:
    return Accepted("crm", client, event_id, body, at, tuple(Draft(action, key) for action in actions), dedupe_s)


def chain(event_id: str = "e1", key: str | None = None, **after: str) -> Accepted:
    """An event with a draft for each action: `task="", note="task"`; `note="task!"` goes on past a rejected one."""
    drafts = (
        Draft(action, key, tuple(names.rstrip("!").split()), past_rejected=names.endswith("!"))
        for action, names in after.items()
    )
    return Accepted("crm", "abc", event_id, b"{}", 0.0, tuple(drafts))


def put(store: Store, *events: Accepted, now: float = 0.0, hold_s: float = 0) -> list[Stored]:
    return store.put(events, now=now, hold_s=hold_s).result()


def leased(store: Store, *, now: float = 0.0, owner: str = "w1", ttl_s: float = 60) -> Lease:
    lease = store.lease("crm", "abc", owner=owner, ttl_s=ttl_s, now=now)
    assert lease is not None
    return lease


def ids(deliveries: list[Delivery]) -> list[str]:
    return [delivery.id for delivery in deliveries]


def later(seq: int, due_at: float, *, attempts: int = 1, batch: str | None = None) -> Settled:
    return Settled(seq, "later", due_at=due_at, attempts=attempts, batch=batch)


def sums(store: Store) -> dict[str, tuple[int, int, int, int, int]]:
    return {
        lane.client: (lane.accepted, lane.delivered, lane.rejected, lane.skipped, lane.waiting)
        for lane in store.lanes()
    }


# Putting


def test_an_event_becomes_one_delivery_for_each_action(store: Store) -> None:
    stored = put(store, event(key="ana", actions=("task", "note"), body=b'{"a":1}', at=5.0), now=6.0)
    first = Delivery(1, "d1", "e1", "task", "ana", b'{"a":1}', received_at=5.0, due_at=6.0)
    second = Delivery(2, "d2", "e1", "note", "ana", b'{"a":1}', received_at=5.0, due_at=6.0)
    assert stored == [Stored("e1", duplicate=False, deliveries=(first, second))]
    lease = leased(store, now=6.0)
    assert store.waiting_actions(lease) == ["note", "task"]
    assert store.read(lease, "task", limit=9, now=6.0) == [first]
    assert store.read(lease, "note", limit=9, now=6.0) == [second]


def test_an_event_that_no_action_wants_is_accepted_and_skipped(store: Store) -> None:
    assert put(store, event(actions=())) == [Stored("e1", duplicate=False, deliveries=())]
    assert sums(store) == {"abc": (1, 0, 0, 1, 0)}
    assert store.due_lanes(now=100.0) == []


def test_a_held_delivery_is_due_when_the_hold_is_over(store: Store) -> None:
    put(store, event(), now=10.0, hold_s=25)
    lease = leased(store, now=10.0)
    assert store.read(lease, "task", limit=9, now=34.9) == []
    assert ids(store.read(lease, "task", limit=9, now=35.0)) == ["d1"]


def test_the_same_event_is_accepted_once_within_its_window(store: Store) -> None:
    twice = put(store, event(dedupe_s=60), event(dedupe_s=60), now=0.0)
    assert [stored.duplicate for stored in twice] == [False, True]
    assert put(store, event(dedupe_s=60), now=59.9) == [Stored("e1", duplicate=True, deliveries=())]
    assert [stored.duplicate for stored in put(store, event(dedupe_s=60), now=60.0)] == [False]
    assert [stored.duplicate for stored in put(store, event(dedupe_s=60), now=61.0)] == [True]
    assert sums(store) == {"abc": (2, 0, 0, 0, 2)}


def test_an_event_of_another_client_or_without_a_window_is_no_duplicate(store: Store) -> None:
    put(store, event(dedupe_s=60))
    again = put(store, event(client="xyz", dedupe_s=60), event())
    assert [stored.duplicate for stored in again] == [False, False]


# Lanes and leases


def test_a_lane_has_one_holder_until_the_lease_ends(store: Store) -> None:
    put(store, event())
    first = leased(store, now=0.0, owner="w1", ttl_s=60)
    assert first == Lease("crm", "abc", "w1", fence=1, until=60.0)
    assert store.lease("crm", "abc", owner="w2", ttl_s=60, now=59.9) is None
    assert store.due_lanes(now=59.9) == []
    assert store.due_lanes(now=60.0) == [("crm", "abc")]
    assert leased(store, now=60.0, owner="w2") == Lease("crm", "abc", "w2", fence=2, until=120.0)


def test_a_lane_that_never_held_anything_cannot_be_leased(store: Store) -> None:
    assert store.lease("crm", "nobody", owner="w1", ttl_s=60, now=0.0) is None


def test_a_late_worker_can_do_nothing_to_a_lane_it_lost(store: Store) -> None:
    put(store, event())
    late = leased(store, now=0.0, owner="w1", ttl_s=60)
    holder = leased(store, now=60.0, owner="w2")
    progress = Progress("b1", "task", "import", {})
    for attempt in (
        lambda: store.settle(late, [Settled(1, "delivered")], now=61.0, change=LaneChange(pause=True)),
        lambda: store.renew(late, ttl_s=60, now=61.0),
        lambda: store.save_progress(late, progress, [1], now=61.0),
        lambda: store.read(late, "task", limit=9, now=61.0),
        lambda: store.progress(late, "task", now=61.0),
    ):
        with pytest.raises(LeaseLost, match=r"^crm/abc: w1 no longer holds the lane$"):
            attempt()
    store.release(late, wake_at=None)
    assert store.renew(holder, ttl_s=60, now=61.0) == Lease("crm", "abc", "w2", fence=2, until=121.0)
    assert ids(store.read(holder, "task", limit=9, now=61.0)) == ["d1"]


def test_a_lease_that_ran_out_still_serves_until_another_takes_the_lane(store: Store) -> None:
    put(store, event())
    lease = leased(store, now=0.0, ttl_s=60)
    store.settle(lease, [Settled(1, "delivered")], now=61.0)
    assert sums(store) == {"abc": (1, 1, 0, 0, 0)}


def test_a_lane_given_back_is_due_when_its_holder_says(store: Store) -> None:
    put(store, event())
    lease = leased(store)
    store.settle(lease, [later(1, 50.0)], now=1.0)
    store.release(lease, wake_at=50.0)
    assert (store.next_due(now=1.0), store.due_lanes(now=49.9)) == (50.0, [])
    assert store.due_lanes(now=50.0) == [("crm", "abc")]
    with pytest.raises(LeaseLost):
        store.settle(lease, [Settled(1, "delivered")], now=51.0)


@pytest.mark.parametrize("wake_at", [None, 900.0])
def test_what_is_put_during_a_lease_leaves_the_lane_due(store: Store, wake_at: float | None) -> None:
    put(store, event("e1"))
    lease = leased(store)
    store.settle(lease, [later(1, 500.0)], now=1.0)
    put(store, event("e2"), now=2.0)
    store.release(lease, wake_at=wake_at)
    assert (store.next_due(now=3.0), store.due_lanes(now=3.0)) == (2.0, [("crm", "abc")])


def test_what_was_put_and_sent_during_a_lease_does_not_wake_the_lane_for_itself(store: Store) -> None:
    put(store, event("e1"))
    lease = leased(store)
    put(store, event("e2"), now=2.0)
    store.settle(lease, [later(1, 500.0), Settled(2, "delivered")], now=3.0)
    store.release(lease, wake_at=None)
    assert store.next_due(now=4.0) == 500.0


def test_a_lane_released_without_a_time_sleeps_until_something_is_put(store: Store) -> None:
    put(store, event("e1"))
    lease = leased(store)
    store.settle(lease, [later(1, 500.0)], now=1.0)
    store.release(lease, wake_at=None)
    assert (store.next_due(now=1.0), store.due_lanes(now=999.0)) == (None, [])
    put(store, event("e2"), now=7.0)
    assert store.next_due(now=7.0) == 7.0


def test_lanes_come_due_longest_first_and_as_many_as_asked(store: Store) -> None:
    put(store, event(client="new"), now=3.0)
    put(store, event(client="abc"), now=1.0)
    put(store, event(client="held-back"), now=0.0)
    store.change_lane("crm", "held-back", LaneChange(not_before=2.0), now=0.0)
    assert store.due_lanes(now=9.0) == [("crm", "abc"), ("crm", "held-back"), ("crm", "new")]
    assert store.due_lanes(now=9.0, limit=1) == [("crm", "abc")]
    assert store.due_lanes(now=2.5) == [("crm", "abc"), ("crm", "held-back")]


def test_a_paused_lane_is_not_due_until_it_is_resumed(store: Store) -> None:
    put(store, event(), now=1.0)
    lease = leased(store, now=1.0)
    change = LaneChange(pause=True, reason="HTTP 401", failures=3, failing_since=1.0, not_before=8.0)
    store.settle(lease, [], now=2.0, change=change)
    store.release(lease, wake_at=None)
    paused = Lane("crm", "abc", "paused", 1, 1, 0, 0, 0, 0.0, 8.0, "HTTP 401", 3, 1.0)
    assert (store.lanes(), store.due_lanes(now=9.0), store.next_due(now=9.0)) == ([paused], [], None)
    assert leased(store, now=9.0, ttl_s=1) == Lease("crm", "abc", "w1", 2, 10.0, 8.0, True, 3, 1.0)
    store.change_lane("crm", "abc", LaneChange(pause=False, reason="", failures=0, failing_since=0), now=9.0)
    assert store.lanes() == [Lane("crm", "abc", "waiting", 1, 1, oldest_at=0.0, not_before=8.0)]
    assert store.due_lanes(now=10.0) == [("crm", "abc")]


def test_a_pause_before_the_first_event_holds(store: Store) -> None:
    store.change_lane("crm", "abc", LaneChange(pause=True), now=0.0)
    put(store, event())
    assert (store.due_lanes(now=1.0), sums(store)) == ([], {"abc": (1, 0, 0, 0, 1)})


def test_a_lane_shows_its_state_and_its_oldest_delivery(store: Store) -> None:
    put(store, event("e1", at=5.0), event("e2", at=3.0), event("e3", client="idle", actions=()))
    store.change_lane("crm", "abc", LaneChange(not_before=60.0, reason="slow down"), now=1.0)
    assert store.lanes() == [
        Lane("crm", "abc", "throttled", 2, 2, oldest_at=3.0, not_before=60.0, reason="slow down"),
        Lane("crm", "idle", "idle", 0, 1, skipped=1),
    ]
    assert [store.lane("crm", client) for client in ("idle", "nobody")] == [store.lanes()[1], None]


# Reading and settling


def test_deliveries_are_read_as_they_come_due(store: Store) -> None:
    put(store, *(event(f"e{n}") for n in range(1, 5)))
    lease = leased(store)
    store.settle(lease, [later(1, 20.0), later(2, 10.0)], now=1.0)
    assert ids(store.read(lease, "task", limit=9, now=9.0)) == ["d3", "d4"]
    assert ids(store.read(lease, "task", limit=9, now=20.0)) == ["d3", "d4", "d2", "d1"]
    assert ids(store.read(lease, "task", limit=3, now=20.0)) == ["d3", "d4", "d2"]


def test_a_backlog_tells_how_many_since_when_and_when_more(store: Store) -> None:
    put(store, *(event(f"e{n}", at=float(n)) for n in range(1, 5)), now=5.0)
    lease = leased(store, now=5.0)
    store.settle(lease, [later(1, 70.0), later(4, 60.0)], now=6.0)
    assert store.backlog(lease, "task", now=6.0, cap=9) == (2, 2.0, 60.0)
    assert store.backlog(lease, "task", now=6.0, cap=1) == (1, 2.0, 60.0)
    assert store.backlog(lease, "task", now=70.0, cap=9) == (4, 1.0, None)
    assert store.backlog(lease, "other", now=70.0, cap=9) == (0, None, None)


def test_what_is_settled_leaves_stays_or_dies(store: Store) -> None:
    put(store, *(event(f"e{n}", body=b'{"n":%d}' % n) for n in range(1, 5)))
    lease = leased(store)
    trace = Trace("POST", "https://crm.example/x", 400, "{}", "no")
    rejected = Settled(3, "rejected", attempts=2, reason="no such person", code="E7", trace=trace, expected=True)
    store.settle(lease, [Settled(1, "delivered"), Settled(2, "skipped"), rejected, later(4, 9.0)], now=5.0)
    dead = Dead(1, "crm", "abc", "task", "d3", "e3", None, b'{"n":3}', "no such person", "E7", 2, 0.0, 5.0, True, trace)
    assert (store.dead(), store.dead_letter(1), store.dead_letter(2)) == ([dead], dead, None)
    assert store.read(lease, "task", limit=9, now=9.0) == [
        Delivery(4, "d4", "e4", "task", None, b'{"n":4}', 0.0, 9.0, attempts=1)
    ]
    assert sums(store) == {"abc": (4, 1, 1, 1, 1)}


def test_a_delivery_that_is_gone_or_of_another_lane_is_passed_over(store: Store) -> None:
    put(store, event("e1"), event("e2", client="xyz"))
    lease = leased(store)
    store.settle(lease, [Settled(1, "delivered"), Settled(1, "rejected"), Settled(2, "delivered")], now=1.0)
    store.settle(None, [Settled(1, "delivered"), Settled(99, "rejected")], now=2.0)
    assert sums(store) == {"abc": (1, 1, 0, 0, 0), "xyz": (1, 0, 0, 0, 1)}


def test_any_text_may_be_a_key_or_an_id(store: Store) -> None:
    for text in ("ana\0bob", "ana", '"\u2028\\', "\x1f", "😀", ""):
        put(store, event(text, key=text), event("next", key=text))
        lease = leased(store)
        older, younger = store.read(lease, "task", limit=9, now=0.0)
        assert (older.event_id, older.key, younger.key) == (text, text, text)
        store.settle(lease, [later(older.seq, 50.0)], now=0.0)
        assert store.read(lease, "task", limit=9, now=49.0) == []
        store.settle(lease, [Settled(older.seq, "delivered")], now=49.0)
        assert ids(store.read(lease, "task", limit=9, now=49.0)) == [younger.id]
        store.settle(lease, [Settled(younger.seq, "delivered")], now=49.0)
        store.release(lease, wake_at=None)


def test_an_unknown_kind_settles_nothing(store: Store) -> None:
    put(store, event("e1"), event("e2"))
    lease = leased(store)
    with pytest.raises(ValueError, match="not lost"):
        store.settle(lease, [Settled(1, "delivered"), Settled(2, "lost")], now=1.0)
    assert ids(store.read(lease, "task", limit=9, now=1.0)) == ["d1", "d2"]


def test_a_direct_caller_settles_without_a_lease_and_what_it_leaves_wakes_the_lane(store: Store) -> None:
    put(store, event("e1"), event("e2"), now=0.0, hold_s=25)
    store.settle(None, [Settled(1, "delivered"), later(2, 7.0)], now=1.0, change=LaneChange(failures=1))
    assert (store.next_due(now=1.0), store.due_lanes(now=7.0)) == (7.0, [("crm", "abc")])
    assert store.lanes() == [Lane("crm", "abc", "waiting", 1, 2, 1, oldest_at=0.0, failures=1)]


def test_a_row_is_never_numbered_like_one_that_left(store: Store) -> None:
    put(store, event("e1"))
    store.settle(None, [Settled(1, "delivered")], now=1.0)
    assert put(store, event("e2"))[0].deliveries[0].seq == 2


# Order within a key


def test_a_delivery_stands_back_while_an_older_one_of_its_key_waits(store: Store) -> None:
    put(store, event("e1", key="ana"), event("e2", key="bob"), event("e3", key="ana"), event("e4"))
    lease = leased(store)
    store.settle(lease, [later(1, 50.0)], now=1.0)
    put(store, event("e5", key="ana"), now=2.0)
    for now in (2.0, 3.0, 49.0):
        assert ids(store.read(lease, "task", limit=9, now=now)) == ["d2", "d4"]
        assert store.backlog(lease, "task", now=now, cap=9) == (2, 0.0, 50.0)
    assert ids(store.read(lease, "task", limit=9, now=50.0)) == ["d2", "d4", "d1", "d3", "d5"]
    assert ids(store.read(lease, "task", limit=3, now=50.0)) == ["d2", "d4", "d1"]


def test_a_key_holds_only_its_own_action(store: Store) -> None:
    put(store, event("e1", key="ana", actions=("task", "note")), event("e2", key="ana", actions=("task", "note")))
    lease = leased(store)
    store.settle(lease, [later(1, 50.0)], now=1.0)
    assert ids(store.read(lease, "task", limit=9, now=2.0)) == []
    assert ids(store.read(lease, "note", limit=9, now=2.0)) == ["d2", "d4"]


@pytest.mark.parametrize("end", ["delivered", "skipped", "rejected"])
def test_who_stood_back_is_free_once_the_older_one_is_gone(store: Store, end: str) -> None:
    put(store, event("e1", key="ana"), now=0.0, hold_s=25)
    put(store, event("e2", key="ana"), event("e3", key="ana"), now=1.0)
    lease = leased(store, now=2.0)
    assert store.read(lease, "task", limit=9, now=2.0) == []
    store.release(lease, wake_at=25.0)
    store.settle(None, [Settled(1, end)], now=3.0)
    assert store.next_due(now=3.0) == 1.0
    assert ids(store.read(leased(store, now=3.0), "task", limit=9, now=3.0)) == ["d2", "d3"]


def test_a_younger_one_that_waits_holds_no_older_one(store: Store) -> None:
    put(store, event("e1", key="ana"), event("e2", key="ana"), event("e3", key="ana"))
    lease = leased(store)
    store.settle(lease, [later(2, 50.0)], now=1.0)
    assert ids(store.read(lease, "task", limit=9, now=2.0)) == ["d1"]
    store.settle(lease, [later(1, 70.0), later(2, 3.0)], now=2.0)
    assert ids(store.read(lease, "task", limit=9, now=69.0)) == []
    store.settle(lease, [Settled(1, "delivered")], now=69.0)
    assert ids(store.read(lease, "task", limit=9, now=69.0)) == ["d3", "d2"][::-1]


# Half-done batches


def half_done(store: Store, progress: Progress, seqs: list[int]) -> Lease:
    lease = leased(store)
    store.save_progress(lease, progress, seqs, now=0.0)
    return lease


def test_a_half_done_batch_is_read_by_progress_only_and_exactly_as_saved(store: Store) -> None:
    put(store, *(event(f"e{n}") for n in range(1, 4)))
    saved = {"job": {"id": "7", "price": Decimal("1299.90"), "big": 10**30}}
    progress = Progress("b1", "task", "poll", saved, 3.0, [{"x": Decimal("0.10")}], [[1, 3]], 2)
    lease = half_done(store, progress, [1, 3])
    [(read, deliveries)] = store.progress(lease, "task", now=1.0)
    assert read == progress
    assert str(read.saved["job"]["price"]) == "1299.90"
    assert [(delivery.id, delivery.batch) for delivery in deliveries] == [("d1", "b1"), ("d3", "b1")]
    assert ids(store.read(lease, "task", limit=9, now=1.0)) == ["d2"]
    assert store.backlog(lease, "task", now=1.0, cap=9) == (1, 0.0, None)
    assert store.progress(lease, "other", now=1.0) == []
    further = msgspec.structs.replace(progress, step="close")
    store.save_progress(lease, further, [1, 3], now=2.0)
    assert [step for step, _ in store.progress(lease, "task", now=2.0)] == [further]


def test_one_record_more_of_a_half_done_batch_is_as_if_it_had_been_written_whole(store: Store) -> None:
    put(store, *(event(f"e{n}") for n in range(1, 4)))
    records, members = [{"m": 1}, {"m": 2}, {"m": 3}], [[1], [2], [3]]
    progress = Progress("b1", "task", "each", {"job": {"id": 7}}, records=records, members=members)
    lease = half_done(store, progress, [1, 2, 3])
    other = Part("each", "1", {})
    assert not store.add_progress(lease, "b2", "task", other, now=1.0)
    assert not store.add_progress(lease, "b1", "other", other, now=1.0)
    parts = [Part("each", "1", {"price": Decimal("0.10")}), Part("each", "3", {}, ["2"])]
    if [store.add_progress(lease, "b1", "task", part, now=1.0) for part in parts] == [True, True]:
        [(read, deliveries)] = store.progress(lease, "task", now=1.0)
        saved = {"job": {"id": 7}, "each": {"1": {"price": Decimal("0.10")}, "3": {}}}
        whole = msgspec.structs.replace(progress, saved=saved, records=[{"m": 1}, {"m": 3}], members=[[1], [3]])
        assert (read, ids(deliveries)) == (whole, ["d1", "d2", "d3"])
        assert str(read.saved["each"]["1"]["price"]) == "0.10"
        assert store.carry_out("crm", "abc", Progress, after="", limit=9) == [whole]
    further = msgspec.structs.replace(progress, step="close")
    store.save_progress(lease, further, [1, 2, 3], now=2.0)
    assert [each for each, _ in store.progress(lease, "task", now=2.0)] == [further]


def test_who_stands_in_one_record_more_of_a_half_done_batch_is_erased_with_it(store: Store) -> None:
    put(store, event("e1"), event("e2"))
    progress = Progress("b1", "task", "each", {}, records=[{}, {}], members=[[1], [2]])
    lease = half_done(store, progress, [1, 2])
    if store.add_progress(lease, "b1", "task", Part("each", "1", {"to": "ana@x.com"}), now=1.0):
        assert store.forget("ana@x.com", now=2.0)["progress"] == 1
        assert store.progress(lease, "task", now=2.0) == []
        store.save_progress(lease, progress, [1, 2], now=3.0)
        assert [each for each, _ in store.progress(lease, "task", now=3.0)] == [progress]


def test_a_late_worker_adds_nothing_to_a_batch_it_lost(store: Store) -> None:
    put(store, event("e1"), event("e2"))
    progress = Progress("b1", "task", "each", {}, records=[{}, {}], members=[[1], [2]])
    late = half_done(store, progress, [1, 2])
    lease = store.lease("crm", "abc", owner="another", ttl_s=30.0, now=late.until)
    assert lease is not None
    with suppress(LeaseLost):
        assert not store.add_progress(late, "b1", "task", Part("each", "1", {}), now=late.until)
    assert [each for each, _ in store.progress(lease, "task", now=late.until)] == [progress]


def test_a_half_done_batch_is_due_when_all_of_it_is(store: Store) -> None:
    put(store, event("e1"), event("e2"))
    lease = half_done(store, Progress("b1", "task", "poll", {}), [1, 2])
    store.settle(lease, [later(1, 10.0, batch="b1"), later(2, 20.0, batch="b1")], now=1.0)
    assert store.progress(lease, "task", now=19.0) == []
    assert store.backlog(lease, "task", now=1.0, cap=9) == (0, None, 20.0)
    assert store.waiting_actions(lease) == ["task"]
    [(_, deliveries)] = store.progress(lease, "task", now=20.0)
    assert [(delivery.due_at, delivery.attempts) for delivery in deliveries] == [(10.0, 1), (20.0, 1)]


def test_a_half_done_batch_holds_its_keys(store: Store) -> None:
    put(store, event("e1", key="ana"), event("e2", key="ana"), event("e3", key="bob"), event("e4", key="bob"))
    lease = half_done(store, Progress("b1", "task", "poll", {}), [1, 4])
    assert ids(store.read(lease, "task", limit=9, now=1.0)) == ["d3"]
    assert store.backlog(lease, "task", now=1.0, cap=9) == (1, 0.0, None)
    store.settle(lease, [Settled(1, "delivered"), Settled(4, "delivered")], now=2.0)
    assert ids(store.read(lease, "task", limit=9, now=2.0)) == ["d2", "d3"]


def test_a_batch_that_nobody_is_left_in_is_dropped(store: Store) -> None:
    put(store, event("e1"), event("e2"), event("e3"))
    lease = half_done(store, Progress("b1", "task", "poll", {}), [1, 2])
    store.settle(lease, [later(1, 1.0)], now=1.0)
    assert [ids(deliveries) for _, deliveries in store.progress(lease, "task", now=1.0)] == [["d2"]]
    store.settle(lease, [Settled(2, "delivered")], now=1.0)
    assert store.progress(lease, "task", now=1.0) == []
    store.settle(lease, [later(1, 2.0, batch="b1")], now=2.0)  # of a batch that is gone: it starts afresh
    assert ids(store.read(lease, "task", limit=9, now=2.0)) == ["d3", "d1"]


def test_a_direct_caller_saves_progress_without_a_lease(store: Store) -> None:
    put(store, event("e1"), hold_s=25)
    progress = Progress("b1", "task", "poll", {"a": 1})
    store.save_progress(None, progress, [1], now=1.0)
    store.settle(None, [later(1, 9.0, batch="b1")], now=2.0)
    assert store.next_due(now=2.0) == 9.0
    assert [each for each, _ in store.progress(leased(store, now=9.0), "task", now=9.0)] == [progress]


# Dead letters, and people


def bury(store: Store, *seqs: int, reason: str = "no") -> None:
    store.settle(None, [Settled(seq, "rejected", reason=reason) for seq in seqs], now=5.0)


def test_dead_letters_are_found_by_lane_reason_and_place(store: Store) -> None:
    put(store, event("e1"), event("e2"), event("e3", client="xyz"))
    bury(store, 1, reason="HTTP 400: bad mail")
    bury(store, 2, 3, reason="HTTP 404")
    assert [dead.event_id for dead in store.dead()] == ["e1", "e2", "e3"]
    assert [dead.event_id for dead in store.dead(client="abc")] == ["e1", "e2"]
    assert [dead.event_id for dead in store.dead(connector="crm", reason="404")] == ["e2", "e3"]
    assert [dead.event_id for dead in store.dead(after=1, limit=1)] == ["e2"]
    assert store.dead(connector="other") == []
    assert [dead.event_id for dead in store.dead(connector="crm", client="abc", event_id="e2")] == ["e2"]
    assert store.dead(connector="crm", client="abc", event_id="e") == []


def test_dead_letters_are_found_with_the_newest_first_and_on_from_there(store: Store) -> None:
    put(store, *(event(f"e{at}", client="abc" if at % 2 else "xyz") for at in range(1, 6)))
    bury(store, 1, 2, 3, 4, 5)

    def newest(**more: Any) -> list[str]:
        return [dead.event_id for dead in store.dead(newest=True, **more)]

    assert newest() == ["e5", "e4", "e3", "e2", "e1"]
    assert newest(limit=2) == ["e5", "e4"]
    assert newest(limit=2, after=4) == ["e3", "e2"]
    assert newest(client="abc", after=5) == ["e3", "e1"]
    assert (newest(after=1), newest(reason="gone"), newest(after=99, limit=1)) == ([], [], ["e5"])
    store.requeue([5], now=6.0)
    assert newest(limit=1) == ["e4"]


def test_a_requeued_letter_is_the_same_delivery_and_due_at_once(store: Store) -> None:
    put(store, event("e1", key="ana", body=b'{"a":1}', at=2.0))
    store.settle(None, [later(1, 3.0, attempts=4)], now=2.0)
    bury(store, 1)
    assert sums(store) == {"abc": (1, 0, 1, 0, 0)}
    assert store.requeue([1, 1, 99], now=8.0) == 1
    assert (store.dead(), sums(store), store.due_lanes(now=8.0)) == ([], {"abc": (1, 0, 0, 0, 1)}, [("crm", "abc")])
    assert store.read(leased(store, now=8.0), "task", limit=9, now=8.0) == [
        Delivery(2, "d1", "e1", "task", "ana", b'{"a":1}', 2.0, 8.0, again_at=8.0)
    ]


def test_a_discarded_letter_stays_counted_as_rejected(store: Store) -> None:
    put(store, event("e1"))
    bury(store, 1)
    assert store.discard([1, 99], reason="test data", now=6.0) == 1
    assert (store.dead(), sums(store)) == ([], {"abc": (1, 0, 1, 0, 0)})


def test_a_person_is_erased_by_key_or_by_a_text_anywhere_in_a_body(store: Store) -> None:
    put(
        store,
        event("e1", key="ANA@x.com", dedupe_s=60),
        event("e2", body=b'{"to":[{"mail":"Ana@X.com"}]}'),
        event("e3", body=rb'{"mail":"\u0061na@x.com"}'),
        event("e4", body=b'{"mail":"joana@x.com","note":"not ana@x.com"}'),
        event("e5", body=b'{"mail":"ana@x.com"}', dedupe_s=60),
        event("e6"),
        event("ana@x.com", actions=(), dedupe_s=60),
    )
    bury(store, 5)
    trace = Trace("POST", "https://crm.example", 400, '[{"mail":"ana@x.com"}]', "one of you is wrong")
    store.settle(None, [Settled(6, "rejected", trace=trace)], now=6.0)
    found = {"waiting": 3, "dead": 1, "dedupe": 3, "progress": 0, "traces": 1, "limits": 0, "mentioned": 1}
    assert store.forget("ana@x.com", now=7.0, dry=True) == found
    assert store.forget("ana@x.com", now=7.0) == found
    assert [(dead.event_id, dead.trace) for dead in store.dead()] == [("e6", None)]
    assert sums(store) == {"abc": (7, 0, 2, 4, 1)}
    assert ids(store.read(leased(store), "task", limit=9, now=9.0)) == ["d4"]
    assert not put(store, event("e1", dedupe_s=60), now=8.0)[0].duplicate


def test_what_a_half_done_batch_remembers_of_an_erased_person_goes_too(store: Store) -> None:
    put(store, event("e1", key="ana"), event("e2", key="bob"), event("e3", key="eva"), event("e4", key="eva"))
    store.save_progress(None, Progress("b1", "task", "poll", {}, records=[{"m": "ana"}, {"m": "bob"}]), [1, 2], now=1.0)
    store.save_progress(None, Progress("b2", "task", "poll", {}, records=[{"m": "eva"}]), [3], now=1.0)
    nothing = {"dead": 0, "dedupe": 0, "traces": 0, "limits": 0, "mentioned": 0}
    assert store.forget("Ana", now=2.0) == {"waiting": 1, "progress": 1, **nothing}
    lease = leased(store, now=2.0)
    assert ids(store.read(lease, "task", limit=9, now=2.0)) == ["d2"]
    assert [progress.batch for progress, _ in store.progress(lease, "task", now=2.0)] == ["b2"]


# Tokens, locks, slots, rates


def test_a_token_is_kept_exactly_and_replaced(store: Store) -> None:
    assert store.token("crm", "abc", "main") is None
    first = TokenRow({"value": "t1", "n": Decimal("1.50"), "of": ["a", None]}, 5.0, None, "f1")
    second = TokenRow({"value": "t2"}, 6.0, 99.5, "f2")
    store.save_token("crm", "abc", "main", first)
    assert store.token("crm", "abc", "main") == first
    store.save_token("crm", "abc", "main", second)
    assert (store.token("crm", "abc", "main"), store.token("crm", "xyz", "main")) == (second, None)


def test_a_lock_has_one_owner_until_let_go_or_run_out(store: Store) -> None:
    def lock(owner: str, now: float) -> bool:
        return store.lock("token", owner=owner, ttl_s=10, now=now)

    assert [lock("a", 0.0), lock("b", 9.9), lock("a", 5.0), lock("b", 14.9), lock("b", 15.0)] == [
        True,
        False,
        True,
        False,
        True,
    ]
    store.unlock("token", owner="a")
    assert not lock("a", 16.0)
    store.unlock("token", owner="b")
    assert lock("a", 16.0)


def test_slots_are_as_many_as_said(store: Store) -> None:
    def acquire(owner: str, now: float) -> bool:
        return store.acquire("crm", slots=2, owner=owner, ttl_s=10, now=now)

    assert [acquire("a", 0.0), acquire("b", 1.0), acquire("c", 2.0), acquire("a", 3.0)] == [True, True, False, True]
    store.release_slot("crm", owner="b")
    store.release_slot("crm", owner="nobody")
    assert [acquire("c", 4.0), acquire("d", 12.9), acquire("d", 13.0)] == [True, False, True]


def test_no_window_holds_more_than_its_count(store: Store) -> None:
    def take(now: float, cost: int = 1) -> float:
        return store.take("calls", count=3, per_s=10, now=now, cost=cost)

    assert [take(0.0), take(1.0), take(2.0), take(3.0)] == [0.0, 0.0, 0.0, 7.0]
    assert [take(10.0), take(10.0), take(11.0)] == [0.0, 1.0, 0.0]
    assert [take(12.0, cost=3), take(21.0, cost=3), take(21.0, cost=2)] == [9.0, 0.0, 10.0]
    assert store.take("others", count=1, per_s=10, now=12.0) == 0.0


def test_a_request_enters_all_of_its_limits_or_gives_its_slots_back(store: Store) -> None:
    uses = [Use("open", 1), Use("calls", 2, 10.0, 0.0), Use("units@0", 7, 86_400.0, 0.0, 3)]

    def enter(owner: str, *asked: Use, now: float = 0.0) -> tuple[int, float] | None:
        return store.enter(asked, owner=owner, ttl_s=10, now=now)

    assert (enter("a", *uses), enter("b", *uses)) == (None, (0, 0.0))
    store.release_slot("open", owner="a")
    assert (enter("b", *uses), store.slots_held("open", now=0.0)) == (None, 1)
    store.release_slot("open", owner="b")
    assert enter("c", *uses) == (1, 10.0)
    assert (store.slots_held("open", now=0.0), store.used("units@0", per_s=86_400.0, now=0.0)) == (0, (6, 0.0))
    assert enter("c", uses[0], Use("others", 1, 10.0, 4.0), uses[2], now=4.0) == (2, 86_400.0)
    assert store.used("others", per_s=10.0, now=4.0) == (1, 4.0)  # what there was room for stays used
    assert (enter("d"), store.slots_held("open", now=4.0)) == (None, 0)


def test_what_is_used_is_seen_and_looking_takes_nothing(store: Store) -> None:
    def used(now: float) -> tuple[int, float | None]:
        return store.used("calls", per_s=10, now=now)

    assert used(0.0) == (0, None)
    for now, cost in [(1.0, 1), (4.0, 2), (4.0, 3), (7.0, 1)]:
        assert store.take("calls", count=7, per_s=10, now=now, cost=cost) == 0.0
    assert [used(now) for now in (7.0, 7.0, 10.9, 11.0, 13.9, 14.0, 17.0)] == [
        (7, 1.0),
        (7, 1.0),
        (7, 1.0),
        (6, 4.0),
        (6, 4.0),
        (1, 7.0),
        (0, None),
    ]
    assert store.take("calls", count=7, per_s=10, now=7.0) == 4.0
    assert (store.used("others", per_s=10, now=7.0), store.used("calls", per_s=4, now=7.0)) == ((0, None), (6, 4.0))
    assert store.take("calls", count=7, per_s=10, now=17.5, cost=2) == 0.0
    assert used(18.0) == (2, 17.5)


def test_slots_that_are_held_are_seen_and_looking_holds_none(store: Store) -> None:
    assert store.slots_held("crm", now=0.0) == 0
    for owner, now in [("a", 0.0), ("b", 1.0)]:
        assert store.acquire("crm", slots=3, owner=owner, ttl_s=10, now=now)
    assert [store.slots_held("crm", now=now) for now in (1.0, 9.9, 10.0, 11.0)] == [2, 2, 1, 0]
    store.release_slot("crm", owner="b")
    assert (store.slots_held("crm", now=1.0), store.slots_held("others", now=1.0)) == (1, 0)


def test_uses_of_one_moment_leave_together(store: Store) -> None:
    takes = [(0.0, 2), (0.0, 1), (5.0, 1), (5.0, 1), (6.0, 3), (10.0, 3), (10.0, 1), (15.0, 2), (15.0, 1)]
    waits = [store.take("calls", count=5, per_s=10, now=now, cost=cost) for now, cost in takes]
    assert waits == [0.0, 0.0, 0.0, 0.0, 4.0, 0.0, 5.0, 0.0, 5.0]


def test_a_clock_that_lags_behind_makes_no_room(store: Store) -> None:
    assert [store.take("calls", count=2, per_s=10, now=now) for now in (5.0, 4.0, 4.5, 14.5, 15.0)] == [
        0.0,
        0.0,
        10.5,
        0.5,
        0.0,
    ]


def test_a_cost_beyond_the_rate_is_refused_for_it_would_wait_forever(store: Store) -> None:
    with pytest.raises(BadValue, match=r"^a request that costs 4 never fits into the 3 that calls allows$"):
        store.take("calls", count=3, per_s=10, now=0.0, cost=4)


def test_waiting_as_long_as_said_is_enough(store: Store) -> None:
    now, chance = 1e9 + 0.1, random.Random(5)
    uses: list[float] = []
    for _ in range(60):
        wait = store.take("calls", count=3, per_s=0.7, now=now)
        if wait:
            now += wait
            assert store.take("calls", count=3, per_s=0.7, now=now) == 0.0
        uses.append(now)
        now += chance.random() / 4
    assert all(later - early >= 0.699999 for early, later in zip(uses, uses[3:], strict=False))


# Deliveries that wait for others of their event


def ready(store: Store, lease: Lease, *, now: float) -> list[str]:
    """The deliveries that could be sent now, as action and seq."""
    actions = store.waiting_actions(lease)
    return [f"{each.action} {each.seq}" for name in actions for each in store.read(lease, name, limit=99, now=now)]


def test_a_delivery_waits_for_those_of_its_event_and_then_is_due(store: Store) -> None:
    (stored,) = put(store, chain(task="", tag="", note="task tag"), now=1.0)
    assert [each.due_at for each in stored.deliveries] == [1.0, 1.0, math.inf]
    lease = leased(store, now=1.0)
    assert ready(store, lease, now=1e12) == ["tag 2", "task 1"]
    assert store.backlog(lease, "note", now=1e12, cap=9) == (0, None, None)
    assert store.settle(lease, [Settled(1, "delivered")], now=2.0) == []
    assert ready(store, lease, now=2.0) == ["tag 2"]
    assert store.settle(lease, [Settled(2, "skipped")], now=3.0) == []
    assert ready(store, lease, now=3.0) == ["note 3"]
    assert sums(store) == {"abc": (3, 1, 0, 1, 1)}


def test_a_delivery_that_waits_is_skipped_when_the_other_is_rejected_and_so_is_what_waits_for_it(store: Store) -> None:
    put(store, chain(task="", note="task", tag="note", list="note!"))
    lease = leased(store)
    skipped = store.settle(lease, [Settled(1, "rejected", reason="HTTP 422")], now=1.0)
    assert skipped == [Skipped(2, "note", "task was rejected", "e1"), Skipped(3, "tag", "task was rejected", "e1")]
    assert (ready(store, lease, now=1.0), sums(store)) == (["list 4"], {"abc": (4, 0, 1, 2, 1)})
    assert [dead.action for dead in store.dead()] == ["task"]


def test_a_delivery_may_go_on_past_a_rejected_one_and_still_waits_for_the_others(store: Store) -> None:
    put(store, chain(task="", tag="", note="task tag!"))
    lease = leased(store)
    assert store.settle(lease, [Settled(1, "rejected")], now=1.0) == []
    assert ready(store, lease, now=1.0) == ["tag 2"]
    store.settle(lease, [Settled(2, "delivered")], now=1.0)
    assert ready(store, lease, now=1.0) == ["note 3"]


def test_several_that_end_in_one_settling_free_or_skip_what_waits_for_all_of_them(store: Store) -> None:
    put(store, chain("e1", task="", tag="", note="task tag"), chain("e2", task="", tag="", note="task tag"))
    lease = leased(store)
    ends = [Settled(1, "delivered"), Settled(2, "delivered"), Settled(4, "delivered"), Settled(5, "rejected")]
    assert store.settle(lease, ends, now=1.0) == [Skipped(6, "note", "tag was rejected", "e2")]
    assert ready(store, lease, now=1.0) == ["note 3"]


def test_a_delivery_waits_only_for_its_own_event_even_where_another_has_the_same_id(store: Store) -> None:
    put(store, chain("e1", task="", note="task"), chain("e1", task="", note="task"))
    lease = leased(store)
    store.settle(lease, [Settled(3, "delivered")], now=1.0)
    assert ready(store, lease, now=1.0) == ["note 4", "task 1"]


def test_an_action_without_a_delivery_for_the_event_is_not_waited_for(store: Store) -> None:
    put(store, chain(note="task note", tag="gone!"))
    assert ready(store, leased(store), now=0.0) == ["note 1", "tag 2"]


def test_one_may_wait_for_a_later_draft(store: Store) -> None:
    put(store, chain(note="task", task=""))
    lease = leased(store)
    assert ready(store, lease, now=0.0) == ["task 2"]
    store.settle(lease, [Settled(2, "delivered")], now=0.0)
    assert ready(store, lease, now=0.0) == ["note 1"]


def test_one_that_is_tried_again_is_waited_for(store: Store) -> None:
    put(store, chain(task="", note="task"))
    lease = leased(store)
    assert store.settle(lease, [later(1, 50.0)], now=1.0) == []
    store.release(lease, wake_at=50.0)
    assert (store.next_due(now=1.0), store.due_lanes(now=49.0)) == (50.0, [])


def test_one_that_waits_holds_the_younger_ones_of_its_key(store: Store) -> None:
    put(store, chain("e1", "ana", task="", note="task"), chain("e2", "ana", note=""), chain("e3", "bob", note=""))
    lease = leased(store)
    assert ready(store, lease, now=9.0) == ["note 4", "task 1"]
    assert store.next_due(now=9.0) is not None
    store.settle(lease, [Settled(1, "rejected")], now=9.0)
    assert ready(store, lease, now=9.0) == ["note 3", "note 4"]


def test_one_that_is_free_keeps_its_turn_behind_the_older_ones_of_its_key(store: Store) -> None:
    put(store, chain("e1", "ana", note=""), chain("e2", "ana", task="", note="task"))
    lease = leased(store)
    store.settle(lease, [later(1, 50.0), Settled(2, "delivered")], now=1.0)
    assert ready(store, lease, now=49.0) == []
    assert ready(store, lease, now=50.0) == ["note 1", "note 3"]


def test_what_waits_does_not_wake_the_lane_and_what_is_free_does(store: Store) -> None:
    put(store, chain(task="", note="task"))
    first = leased(store)
    store.settle(first, [later(1, 500.0)], now=1.0)
    store.release(first, wake_at=500.0)
    assert store.next_due(now=1.0) == 500.0
    store.settle(None, [Settled(1, "delivered")], now=2.0)
    assert store.due_lanes(now=2.0) == [("crm", "abc")]
    second = leased(store, now=2.0)
    store.settle(second, [Settled(2, "delivered")], now=2.0)
    store.release(second, wake_at=None)
    assert (store.next_due(now=3.0), sums(store)) == (None, {"abc": (2, 2, 0, 0, 0)})


def test_a_lane_wakes_for_what_became_free_in_its_lease_whatever_its_holder_thinks(store: Store) -> None:
    put(store, chain(task="", note="task"))
    lease = leased(store)
    store.settle(lease, [Settled(1, "delivered")], now=1.0)
    store.release(lease, wake_at=None)
    assert store.due_lanes(now=1.0) == [("crm", "abc")]


def test_what_becomes_free_is_not_due_before_the_hold_of_its_caller_is_over(store: Store) -> None:
    put(store, chain(task="", note="task"), now=0.0, hold_s=25)
    store.settle(None, [Settled(1, "delivered")], now=1.0)
    lease = leased(store, now=1.0)
    assert (ready(store, lease, now=24.0), ready(store, lease, now=25.0)) == ([], ["note 2"])


def test_one_that_waits_can_be_given_another_time_and_goes_on_waiting(store: Store) -> None:
    put(store, chain(task="", note="task"), now=0.0, hold_s=25)
    store.settle(None, [later(2, 3.0, attempts=0)], now=1.0)
    lease = leased(store, now=1.0)
    assert ready(store, lease, now=30.0) == ["task 1"]
    store.settle(lease, [Settled(1, "delivered")], now=1.0)
    assert ready(store, lease, now=3.0) == ["note 2"]


def test_one_whose_other_was_forgotten_goes_on(store: Store) -> None:
    drafts = (Draft("task", "ana"), Draft("note", None, ("task",)))
    put(store, Accepted("crm", "abc", "e1", b"{}", 0.0, drafts))
    assert store.forget("ana", now=1.0)["waiting"] == 1
    lease = leased(store, now=1.0)
    assert (ready(store, lease, now=1.0), sums(store)) == (["note 2"], {"abc": (2, 0, 0, 1, 1)})


def test_a_person_that_is_forgotten_takes_along_what_waits(store: Store) -> None:
    drafts = (Draft("task"), Draft("note", None, ("task",)))
    put(store, Accepted("crm", "abc", "e1", b'{"email":"ana"}', 0.0, drafts))
    assert store.forget("ana", now=1.0)["waiting"] == 2
    assert sums(store) == {"abc": (2, 0, 0, 2, 0)}


def test_what_was_skipped_for_the_sake_of_a_dead_letter_comes_back_with_it_and_waits_again(store: Store) -> None:
    put(store, chain(task="", note="task", tag="note task", list=""), now=1.0)
    lease = leased(store, now=1.0)
    store.settle(lease, [Settled(1, "rejected"), Settled(4, "delivered")], now=2.0)
    assert (sums(store), store.requeue([1], now=3.0)) == ({"abc": (4, 1, 1, 2, 0)}, 1)
    assert sums(store) == {"abc": (4, 1, 0, 0, 3)}
    (task,) = store.read(lease, "task", limit=9, now=3.0)
    assert (task.id, task.due_at, ready(store, lease, now=1e9)) == ("d1", 3.0, ["task 5"])
    store.settle(lease, [Settled(5, "delivered")], now=4.0)
    (note,) = store.read(lease, "note", limit=9, now=4.0)
    assert (note.id, note.event_id, note.received_at, ready(store, lease, now=4.0)) == ("d2", "e1", 0.0, ["note 6"])
    store.settle(lease, [Settled(6, "rejected")], now=5.0)
    assert (sums(store), [dead.action for dead in store.dead()]) == ({"abc": (4, 2, 1, 1, 0)}, ["note"])


def test_two_that_are_rejected_take_their_own_along(store: Store) -> None:
    put(store, chain("e1", task="", note="task"), chain("e2", task="", note="task"))
    lease = leased(store)
    store.settle(lease, [Settled(1, "rejected"), Settled(3, "rejected")], now=1.0)
    store.requeue([2], now=2.0)
    assert sums(store) == {"abc": (4, 0, 1, 1, 2)}
    assert [each.event_id for each in store.read(lease, "task", limit=9, now=2.0)] == ["e2"]
    assert store.discard([1], reason="", now=2.0) == 1
    assert sums(store) == {"abc": (4, 0, 1, 1, 2)}


def test_the_dead_letters_of_one_event_can_be_held_for_its_caller(store: Store) -> None:
    put(store, chain("e1", task="", note="task", tag=""), chain("e2", task=""))
    lease = leased(store)
    store.settle(lease, [Settled(seq, "rejected") for seq in (1, 3, 4)], now=1.0)
    revived = store.revive("crm", "abc", "e1", {"task", "note"}, now=2.0, hold_s=25)
    assert [(each.seq, each.id, each.action, each.due_at) for each in revived] == [
        (5, "d1", "task", 27.0),
        (6, "d2", "note", math.inf),
    ]
    assert [(dead.event_id, dead.action) for dead in store.dead()] == [("e1", "tag"), ("e2", "task")]
    assert (ready(store, lease, now=26.9), ready(store, lease, now=27.0)) == ([], ["task 5"])
    assert store.revive("crm", "abc", "e1", {"task"}, now=2.0, hold_s=25) == []
    assert store.revive("crm", "nobody", "e1", {"task"}, now=2.0, hold_s=25) == []
    assert sums(store) == {"abc": (4, 0, 2, 0, 2)}


def test_a_person_that_is_forgotten_does_not_come_back_with_a_dead_letter(store: Store) -> None:
    drafts = (Draft("task", "x1"), Draft("note", "ana", ("task",)))
    put(store, Accepted("crm", "abc", "e1", b"{}", 0.0, drafts))
    store.settle(None, [Settled(1, "rejected")], now=1.0)
    store.forget("ana", now=2.0)
    assert (store.requeue([1], now=3.0), sums(store)) == (1, {"abc": (2, 0, 0, 1, 1)})


@pytest.mark.parametrize("seed", range(8))
def test_whatever_becomes_of_them_nothing_waits_for_ever_and_all_are_accounted_for(
    store: Store, seed: int, slow: bool
) -> None:
    chance, actions = random.Random(seed), ["a", "b", "c", "d"]
    for number in range(6 if slow else 30):
        taken = [action for action in actions if chance.random() < 0.8] or ["a"]
        after = {
            name: " ".join(chance.sample(actions[: actions.index(name)], chance.randint(0, actions.index(name))))
            for name in chance.sample(taken, len(taken))
        }
        marked = {name: names + chance.choice(["", "!"]) if names else "" for name, names in after.items()}
        put(store, chain(f"e{number % 20}", chance.choice([None, "ana", "bob"]), **marked), now=float(number))
    now, ended = 30.0, dict[int, str]()
    for _ in range(500):
        due = store.next_due(now=now)
        if due is None:
            break
        now = max(now, due)
        lease = leased(store, now=now)
        for action in store.waiting_actions(lease):
            read = store.read(lease, action, limit=chance.randint(1, 9), now=now)
            kinds = [chance.choice(["delivered", "rejected", "skipped", "later"]) for _ in read]
            rows = [Settled(each.seq, kind, due_at=now + 5) for each, kind in zip(read, kinds, strict=True)]
            skipped = store.settle(lease, rows, now=now)
            new = {row.seq: row.kind for row in rows if row.kind != "later"}
            new |= {each.seq: "skipped" for each in skipped}
            assert not new.keys() & ended.keys()
            ended |= new
        store.release(lease, wake_at=None if chance.random() < 0.5 else now + 5)
        if store.next_due(now=now) is None:  # only what is tried later is left, and its holder said nothing of it
            store.change_lane("crm", "abc", LaneChange(), now=now)
    (lane,) = store.lanes()
    found = [list(ended.values()).count(kind) for kind in ("delivered", "rejected", "skipped")]
    assert [lane.delivered, lane.rejected, lane.skipped, lane.waiting] == [*found, 0]
    assert lane.accepted == sum(found)


# The whole


def test_a_closed_store_says_so(store: Store) -> None:
    store.close()
    for verb in (lambda: put(store, event()), store.lanes, lambda: store.unlock("x", owner="a")):
        with pytest.raises(StoreUnavailable, match=r"the store is closed$"):
            verb()
    store.close()


CAP = 5


class Walk:
    """A random walk of operations; what they answer and leave behind is compared between two stores."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.now = 0.0
        self.events = 0
        self.leases: dict[str, list[Lease]] = {"abc": [], "xyz": []}

    def step(self) -> Callable[[Store], object]:
        """One operation, drawn once, that may be done to any store."""
        chance = self.chance
        self.now += chance.choice([0, 0, 0.5, 1, 5, 20])
        now, client = self.now, chance.choice(["abc", "xyz"])
        seqs = [chance.randint(1, self.events * 2 + 1) for _ in range(chance.randint(1, 6))]
        held = self.leases[client]
        lease = chance.choice([None, *held[-2:]])
        match chance.randrange(17):
            case 0 | 1 | 2 | 3:
                some = [self.some_event(client) for _ in range(chance.randint(1, 4))]
                hold_s = chance.choice([0, 0, 25])
                return lambda store: store.put(some, now=now, hold_s=hold_s).result()
            case 4 | 5:
                owner = f"w{chance.randint(1, 2)}"
                return lambda store: store.lease("crm", client, owner=owner, ttl_s=30, now=now)
            case 6 if lease:
                return lambda store: store.renew(lease, ttl_s=30, now=now)
            case 7 if lease:
                wake_at = chance.choice([None, now, now + 30])
                return lambda store: store.release(lease, wake_at=wake_at)
            case 8 | 9 | 10 | 11:
                done = [self.some_end(seq) for seq in seqs]
                change = chance.choice([None, LaneChange(not_before=now + 5, reason="slow", failures=1)])
                return lambda store: store.settle(lease, done, now=now, change=change)
            case 12:
                progress = Progress(chance.choice(["b1", "b2"]), "task", "poll", {"n": seqs})
                return lambda store: store.save_progress(lease, progress, seqs, now=now)
            case 13:
                return lambda store: (store.requeue(seqs[:2], now=now), store.discard(seqs[2:3], reason="", now=now))
            case 14 if chance.random() < 0.3:
                who = chance.choice(["ana", "BOB", "e3"])
                return lambda store: store.forget(who, now=now)
            case 15:
                name = f"e{chance.randint(1, self.events + 1)}"
                return lambda store: store.revive("crm", client, name, {"task", "tag"}, now=now, hold_s=25)
            case _:
                change = LaneChange(pause=chance.random() < 0.3, reason="", not_before=0, failing_since=now)
                return lambda store: store.change_lane("crm", client, change, now=now)

    def some_event(self, client: str) -> Accepted:
        self.events += 1
        return Accepted(
            "crm",
            client,
            f"e{self.chance.randint(1, self.events)}",
            received_at=self.now - self.chance.choice([0, 3]),
            drafts=self.some_drafts(self.chance.choice([None, "ana", "bob"])),
            body=self.chance.choice([b"{}", b'{"name":"Bob"}']),
            dedupe_s=self.chance.choice([0, 40]),
        )

    def some_drafts(self, key: str | None) -> tuple[Draft, ...]:
        actions = self.chance.choice([(), ("task",), ("task", "note"), ("task", "note", "tag")])
        return tuple(
            Draft(action, key, self.chance.choice([(), actions[:at]]), self.chance.random() < 0.3)
            for at, action in enumerate(actions)
        )

    def some_end(self, seq: int) -> Settled:
        kind = self.chance.choice(["delivered", "skipped", "rejected", "later", "later"])
        due_at = self.now + self.chance.choice([0, 2, 40])
        return Settled(seq, kind, due_at, self.chance.randint(0, 2), self.chance.choice([None, "b1", "b2"]))

    def seen(self, store: Store, kind: str) -> list[object]:
        """All that can be seen of a store at this time."""
        now = self.now
        seen: list[object] = [store.lanes(), store.dead(), store.due_lanes(now=now), store.next_due(now=now)]
        for lease in (leases[-1] for leases in self.leases.values() if leases):
            seen.append(store.waiting_actions(lease))
            for action in ("task", "note", "tag"):
                seen.append(as_near(kind, store.backlog(lease, action, now=now, cap=CAP)))
                seen.append(answer(store, partial(handed_out, lease=lease, action=action, now=now)))
        return seen


def handed_out(store: Store, *, lease: Lease, action: str, now: float) -> object:
    few, all_ = (store.read(lease, action, limit=limit, now=now) for limit in (3, 99))
    assert few == all_[:3]
    return all_, store.progress(lease, action, now=now)


def everything_waiting(store: Store, client: str, *, now: float) -> int:
    """How many deliveries a worker finds that takes out all that is there, in as many rounds as keys ask for."""
    lease = store.lease("crm", client, owner="last", ttl_s=60, now=now)
    assert lease is not None
    taken = 0
    # In the order in which they wait for each other, so that one round is enough.
    for action in sorted(store.waiting_actions(lease), key=["task", "note", "tag"].index):
        batches = store.progress(lease, action, now=now)
        found = [delivery.seq for _, deliveries in batches for delivery in deliveries]
        store.settle(lease, [Settled(seq, "delivered") for seq in found], now=now)
        rest = [delivery.seq for delivery in store.read(lease, action, limit=9999, now=now)]
        store.settle(lease, [Settled(seq, "delivered") for seq in rest], now=now)
        taken += len(found) + len(rest)
    assert store.waiting_actions(lease) == []
    return taken


def answer(store: Store, operation: Callable[[Store], object]) -> object:
    try:
        return operation(store)
    except LeaseLost as error:
        return str(error)


def as_near(kind: str, told: object) -> object:
    """
    What is compared: a store that is near-sighted tells at `put` when a delivery itself is due, not when its turn is,
    and when the next comes due only if there are fewer than were asked for.
    """
    match told:
        case _ if kind not in NEAR:
            return told
        case list():
            return [as_near(kind, each) for each in told]
        case Stored(deliveries=deliveries):
            return msgspec.structs.replace(told, deliveries=tuple(as_near(kind, each) for each in deliveries))
        case Delivery():
            return msgspec.structs.replace(told, due_at=0.0)
        case (count, oldest_at, _) if count == CAP:
            return count, oldest_at
    return told


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"memory"}))
@pytest.mark.parametrize("seed", range(4))
def test_any_walk_leaves_a_store_as_it_leaves_that_in_memory_and_every_delivery_accounted_for(
    tmp_path: Path, seed: int, kind: str
) -> None:
    walk = Walk(seed)
    model, tried = KINDS["memory"](tmp_path), KINDS[kind](tmp_path)
    for _ in range(40 if kind in SLOW else 150):
        operation = walk.step()
        expected = answer(model, operation)
        assert as_near(kind, answer(tried, operation)) == as_near(kind, expected)
        if isinstance(expected, Lease):
            walk.leases[expected.client].append(expected)
        assert walk.seen(tried, kind) == walk.seen(model, kind)
    for client, (accepted, delivered, rejected, skipped, waiting) in sums(tried).items():
        assert accepted == delivered + rejected + skipped + waiting
        assert waiting == everything_waiting(tried, client, now=walk.now + 1000)
    tried.close()


# Whose it is


def test_a_store_belongs_to_the_project_that_named_it_first(store: Store) -> None:
    store.claim("loja")
    store.claim("loja")
    said = "this store holds the events of project `loja`; this project is `outra`; use another store"
    with pytest.raises(StoreUnavailable, match=said):
        store.claim("outra")
    put(store, event())
    assert sums(store) == {"abc": (1, 0, 0, 0, 1)}
