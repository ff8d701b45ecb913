"""What becomes of dead letters, in every store: found, counted, mended, tried again, moved, and removed in time."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from conftest import Shop, Vendor, balanced, reply

from engine.records import Accepted, Delivery, Draft, Lane, Lease, Progress, Settled, Trace, Try
from engine.stores.memory import MemoryStore
from engine.stores.sqlite import SqliteStore
from engine.upkeep.dead_letters import alike

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from engine.ports import Store

TRACE = Trace("POST", "https://api.crm.example/v1/notes", 400, '{"id": "1"}', "no")


@pytest.fixture(params=["memory", "sqlite"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """Makes stores of one kind."""
    stores: list[Store] = []

    def make() -> Store:
        numbers = count(len(stores) * 100 + 1)
        new_id = lambda: f"d{next(numbers)}"  # noqa: E731
        path = tmp_path / f"connect-{len(stores)}.db"
        stores.append(MemoryStore(new_id=new_id) if request.param == "memory" else SqliteStore(path, new_id=new_id))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def store(made: Callable[[], Store]) -> Store:
    return made()


def put(store: Store, event_id: str = "e1", *, client: str = "abc", key: str | None = None, **more: Any) -> int:
    event = Accepted("crm", client, event_id, more.pop("body", b"{}"), 1.0, (Draft("note", key),), **more)
    return store.put([event], now=1.0).result()[0].deliveries[0].seq


def bury(store: Store, seq: int, reason: str = "no", code: str = "", at: float = 5.0, **more: Any) -> None:
    store.settle(None, [Settled(seq, "rejected", reason=reason, code=code, **more)], now=at)


def leased(store: Store, client: str = "abc") -> Lease:
    lease = store.lease("crm", client, owner="w1", ttl_s=60, now=9.0)
    assert lease is not None
    return lease


def lane(store: Store) -> Lane:
    found = store.lane("crm", "abc")
    assert found is not None
    balanced(store)
    return found


# looking


def test_dead_letters_are_found_by_all_that_they_have(store: Store) -> None:
    bury(store, put(store, "e1", key="ana"), "HTTP 400: bad mail", "BAD", at=5.0)
    bury(store, put(store, "e2"), "HTTP 404", "GONE", at=6.0)
    bury(store, put(store, "e3", client="xyz"), "HTTP 404", "GONE", at=7.0)

    def found(**which: Any) -> list[str]:
        return [dead.event_id for dead in store.dead(**which)]

    assert found() == found(connector="crm") == found(action="note") == found(since=5.0) == ["e1", "e2", "e3"]
    assert found(client="abc") == found(until=7.0) == ["e1", "e2"]
    assert found(code="GONE") == found(reason="404") == found(since=5.5) == ["e2", "e3"]
    assert found(key="ana") == found(since=5.0, until=6.0) == found(limit=1) == ["e1"]
    assert found(code="GONE", client="abc") == found(after=1, limit=1) == ["e2"]
    assert found(connector="other") == found(reason="%") == []


def test_dead_letters_are_counted_by_what_they_have_in_common(store: Store) -> None:
    for event_id, client, reason in (("e1", "abc", "HTTP 404"), ("e2", "abc", "HTTP 400"), ("e3", "xyz", "HTTP 404")):
        bury(store, put(store, event_id, client=client), reason, reason[-3:])
    assert store.count_dead("reason") == {"HTTP 404": 2, "HTTP 400": 1}
    assert store.count_dead("client") == {"abc": 2, "xyz": 1}
    assert store.count_dead("code", client="xyz") == {"404": 1}
    assert (store.count_dead("connector"), store.count_dead("action")) == ({"crm": 3}, {"note": 3})
    assert store.count_dead("reason", reason="nothing") == {}


def test_a_dead_letter_tells_of_the_tries_before_and_goes_on_telling_when_it_is_tried_again(store: Store) -> None:
    seq = put(store)
    for at, reason in ((2.0, "HTTP 503"), (3.0, "HTTP 503"), (4.0, ""), (5.0, "HTTP 409")):
        store.settle(None, [Settled(seq, "later", due_at=at, reason=reason)], now=at)
    bury(store, seq, "HTTP 400", at=6.0)
    before = (Try(2.0, 3.0, "HTTP 503", 2), Try(5.0, 5.0, "HTTP 409"))
    assert [dead.tries for dead in store.dead()] == [before]
    store.requeue([1], now=8.0)
    (again,) = store.read(leased(store), "note", limit=9, now=9.0)
    bury(store, again.seq, "HTTP 422", at=9.0)
    assert [dead.tries for dead in store.dead()] == [(*before, Try(6.0, 6.0, "HTTP 400"))]


def test_of_many_tries_the_latest_are_kept(store: Store) -> None:
    seq = put(store)
    for at in range(30):
        store.settle(None, [Settled(seq, "later", due_at=1.0, reason=f"HTTP {at}")], now=float(at))
    bury(store, seq)
    (dead,) = store.dead()
    assert dead.tries == tuple(Try(float(at), float(at), f"HTTP {at}") for at in range(10, 30))


# mending


def test_an_amended_event_is_what_is_tried_again_with_what_waited_for_it(store: Store) -> None:
    drafts = (Draft("note", "ana"), Draft("deal", "ana", ("note",)))
    store.put([Accepted("crm", "abc", "e1", b'{"a":1}', 1.0, drafts)], now=1.0).result()
    bury(store, 1)
    assert store.amend(1, body=b'{"a":2}', key="bia") is True
    assert store.amend(9, body=b"{}", key=None) is False
    store.requeue([1], now=8.0)
    lease = leased(store)
    (note,) = store.read(lease, "note", limit=9, now=9.0)
    assert note == Delivery(3, "d1", "e1", "note", "bia", b'{"a":2}', 1.0, 8.0, again_at=8.0)
    store.settle(lease, [Settled(3, "delivered")], now=9.0)
    (deal,) = store.read(lease, "deal", limit=9, now=9.0)
    assert deal == Delivery(4, "d2", "e1", "deal", "ana", b'{"a":2}', 1.0, 8.0, again_at=8.0)


OUTAGE = "http: {base_url: https://api.crm.example, retry: {initial: 1m, max: 1h, jitter: none, give_up_after: 1d}}"


def test_what_is_tried_again_in_an_outage_is_given_up_no_sooner_than_what_is_new(store: Store) -> None:
    shop = Shop(OUTAGE, vendor=Vendor(reply(503)), store=store)
    shop.post({"id": "1"})
    shop.drain(3 * 86_400)
    assert shop.sums() == {"rejected": 1}
    shop.post({"id": "2"})
    shop.store.requeue([1], now=shop.clock.now())
    shop.drain(86_400 - 2 * 3600)
    assert shop.sums() == {"waiting": 2}
    shop.worker = shop.new_worker()  # a new process knows it, too
    shop.drain(3 * 3600)
    assert shop.sums() == {"rejected": 2}


def test_whereabouts_says_what_waits_what_is_dead_and_nothing_of_the_rest(store: Store) -> None:
    first, second, third = (put(store, name) for name in ("e1", "e2", "e3"))
    bury(store, second)
    store.settle(None, [Settled(third, "delivered")], now=5.0)
    assert store.whereabouts(["d1", "d2", "d3", "other"]) == {"d1": "waiting", "d2": "dead"}
    assert first == 1


# moving


def test_dead_letters_from_elsewhere_are_admitted_once_and_accounted_for(made: Callable[[], Store]) -> None:
    one, other = made(), made()
    bury(one, put(one, "e1", key="ana", body=b'{"a":1}'), "HTTP 400", "BAD", trace=TRACE, expected=True)
    letters = one.dead()
    assert one.admit(letters) == [False]
    assert other.admit([*letters, *letters]) == [True, False]
    assert other.admit(letters) == [False]
    assert other.dead() == letters
    assert (lane(other).accepted, lane(other).rejected) == (1, 1)
    other.requeue([1], now=8.0)
    assert other.admit(letters) == [False]
    assert lane(other).waiting == 1


# in time


def test_old_dead_letters_and_spent_ids_are_removed_some_at_a_time(store: Store) -> None:
    for number in range(5):
        bury(store, put(store, f"e{number}", dedupe_s=10 if number < 3 else 100), at=10.0 + number)
    assert store.expire(dead_before=13.0, now=11.0, most=2) == {"dead": 2, "dedupe": 2}
    assert store.expire(dead_before=13.0, now=11.0, most=2) == {"dead": 1, "dedupe": 1}
    assert store.expire(dead_before=None, now=11.0) == {"dead": 0, "dedupe": 0}
    assert [dead.event_id for dead in store.dead()] == ["e3", "e4"]
    assert (lane(store).accepted, lane(store).rejected) == (5, 5)


# people


def test_forgetting_is_for_one_client_where_only_one_is_asked(store: Store) -> None:
    for client in ("abc", "xyz"):
        put(store, "e1", client=client, body=b'{"email":"ana@x.com"}', dedupe_s=60)
        bury(store, put(store, "e2", client=client, key="ana@x.com"))
    found = {"waiting": 1, "dead": 1, "dedupe": 1, "progress": 0, "traces": 0, "limits": 0, "mentioned": 0}
    assert store.forget("ANA@x.com", now=7.0, client="xyz") == found
    assert [(lane.client, lane.waiting, lane.rejected, lane.skipped) for lane in store.lanes()] == [
        ("abc", 1, 1, 0),
        ("xyz", 0, 1, 1),
    ]
    balanced(store)


def test_by_key_nothing_but_the_key_decides(store: Store) -> None:
    put(store, "e1", key="17")
    put(store, "e2", body=b'{"product":"17"}')
    assert store.forget("17", now=7.0, by_key=True)["waiting"] == 1
    assert [each.event_id for each in store.read(leased(store), "note", limit=9, now=9.0)] == ["e2"]


def test_events_of_others_that_name_the_person_stay_unless_they_are_asked_for(store: Store) -> None:
    put(store, "e1", body=b'{"email":"bia@x.com","note":"wife of ana@x.com"}')
    bury(store, put(store, "e2", body=b'{"url":"https://shop.example/?e=ana%40x.com"}'))
    assert store.forget("ana@x.com", now=7.0)["mentioned"] == 2
    found = {"waiting": 1, "dead": 1, "dedupe": 0, "progress": 0, "traces": 0, "limits": 0, "mentioned": 0}
    assert store.forget("ana@x.com", now=7.0, mentions=True) == found
    assert (store.dead(), lane(store).waiting) == ([], 0)


def test_what_was_said_of_others_names_the_person_no_more(store: Store) -> None:
    seq = put(store, "e1", key="bia@x.com")
    store.settle(None, [Settled(seq, "later", due_at=1.0, reason="HTTP 400: not ana@x.com")], now=2.0)
    bury(store, seq, "HTTP 400: ana@x.com", trace=Trace("POST", "https://crm.example/?e=ana%40x.com", 400, "", "no"))
    bury(store, put(store, "e2"), trace=TRACE)
    assert store.forget("ana@x.com", now=7.0)["traces"] == 1
    assert [(dead.reason, dead.trace, dead.tries) for dead in store.dead()] == [
        ("HTTP 400: ***", None, (Try(2.0, 2.0, "HTTP 400: not ***"),)),
        ("no", TRACE, ()),
    ]


def test_a_dry_run_changes_nothing(store: Store) -> None:
    put(store, "e1", key="ana", dedupe_s=60)
    put(store, "e2", key="bia")
    store.save_progress(None, Progress("b1", "note", "poll", {}, records=["ana", "bia"]), [1, 2], now=1.0)
    bury(store, put(store, "e3", key="ana"))
    before: list[Any] = [store.lanes(), store.dead(), store.forgotten()]
    found = store.forget("ana", now=7.0, dry=True)
    assert found == {"waiting": 1, "dead": 1, "dedupe": 1, "progress": 1, "traces": 0, "limits": 0, "mentioned": 0}
    assert [store.lanes(), store.dead(), store.forgotten()] == before
    assert len(store.progress(leased(store), "note", now=9.0)) == 1
    assert (store.forget("ana", now=7.0), store.forgotten()) == (found, 1)


def test_whoever_caches_people_hears_that_one_was_forgotten(store: Store) -> None:
    assert store.forgotten() == 0
    store.forget("nobody@x.com", now=7.0)
    store.forget("nobody@x.com", now=7.0)
    assert store.forgotten() == 2


def test_a_lane_that_is_leased_is_known_by_its_fence(store: Store) -> None:
    put(store)
    assert store.held(now=9.0) == {}
    lease = leased(store)
    assert (store.held(now=9.0), store.held(now=70.0)) == ({("crm", "abc"): lease.fence}, {})
    store.release(lease, wake_at=None)
    assert store.held(now=9.0) == {}


def test_reasons_that_differ_by_an_address_or_a_long_number_are_counted_as_one() -> None:
    counts = {
        "no ana@x.com in order 1001": 2,
        "no bia@y.com in order 1002": 3,
        "refused: cida@x.com": 1,
        "HTTP 422": 1,
        "HTTP 400": 1,
    }
    assert alike(counts) == [("no … in order …", 5), ("HTTP 400", 1), ("HTTP 422", 1), ("refused: c***@x.com", 1)]
