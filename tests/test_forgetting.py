"""A person is erased, also from what a worker has in its hands while it happens."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import Shop, Vendor, reply

from engine.clock import VirtualClock
from engine.ports import Store
from engine.privacy.forgetting import Erased, erase
from engine.records import Accepted, Draft, Lease, Progress, Settled, Trace
from engine.stores.memory import MemoryStore
from engine.stores.sqlite import SqliteStore

NOTHING = {"waiting": 0, "dead": 0, "dedupe": 0, "progress": 0, "traces": 0, "limits": 0, "mentioned": 0}
TRACE = Trace("POST", "https://crm.example", 400, '[{"to": "ana@x.com"}, {"to": "bia@x.com"}]', "no")


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "connect.db")
    yield made
    made.close()


class Meanwhile(VirtualClock):
    """A clock on which something happens the first time that someone waits."""

    def __init__(self, act: Any) -> None:
        super().__init__(10.0)
        self.act = act
        self.waits = 0

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self.waits += 1
        if self.waits == 1:
            self.act()


def put(store: Store, client: str, *people: str) -> list[int]:
    events = [Accepted("crm", client, who, b"{}", 1.0, (Draft("note", f"{who}@x.com"),)) for who in people]
    return [stored.deliveries[0].seq for stored in store.put(events, now=1.0).result()]


def leased(store: Store, client: str, now: float = 9.0) -> Lease:
    lease = store.lease("crm", client, owner="w1", ttl_s=30, now=now)
    assert lease is not None
    return lease


def test_what_a_worker_writes_down_meanwhile_is_erased_as_well(store: Store) -> None:
    ana, bia, eva = put(store, "abc", "ana", "bia", "eva")
    lease = leased(store, "abc")

    def ends() -> None:
        half = Progress("b1", "note", "poll", {}, records=["ana@x.com", "eva@x.com"])
        store.save_progress(lease, half, [ana, eva], now=10.0)
        store.settle(lease, [Settled(bia, "rejected", reason="no ana@x.com", trace=TRACE)], now=10.0)
        store.release(lease, wake_at=10.0)

    clock, heard = Meanwhile(ends), list[int]()
    found = erase(store, "ana@x.com", clock=clock, waiting_for=heard.append)
    assert found == Erased({**NOTHING, "waiting": 1, "progress": 1, "traces": 1}, [])
    assert (heard, clock.waits, store.forgotten()) == ([1, 0], 1, 2)
    assert [(dead.trace, dead.reason) for dead in store.dead()] == [(None, "no ***")]
    assert store.progress(leased(store, "abc", 50.0), "note", now=50.0) == []


def test_a_turn_that_never_ends_is_named_and_one_of_another_client_is_not_waited_for(store: Store) -> None:
    put(store, "abc", "ana")
    put(store, "xyz", "ana")
    slow, _ = leased(store, "abc"), leased(store, "xyz")
    kept = [slow]
    clock = Meanwhile(lambda: None)

    def renewed(_: int) -> None:
        kept[0] = store.renew(kept[0], ttl_s=30, now=clock.now())

    found = erase(store, "ana@x.com", clock=clock, client="abc", patience_s=60.0, waiting_for=renewed)
    assert found == Erased({**NOTHING, "waiting": 1}, [("crm", "abc")])
    assert clock.now() == pytest.approx(70.0, abs=0.3)


def test_nobody_is_waited_for_where_nothing_was_under_way(store: Store) -> None:
    put(store, "abc", "bia")
    leased(store, "abc")
    clock = Meanwhile(lambda: None)
    assert erase(store, "ana@x.com", clock=clock) == Erased(NOTHING, [])
    assert clock.waits == 0


BY = 'http: {base_url: https://api.crm.example, limits: {each: {rate: 1/1h, by: "${ event.email }"}}}'


def test_a_limit_for_each_person_keeps_no_address_and_lets_go_of_who_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "connect.db"
    store = SqliteStore(path)
    shop = Shop(BY, store=store, vendor=Vendor(reply(200, {})))
    shop.post({"id": "1", "email": "Ana@x.com"}, {"id": "2", "email": "bia@x.com"})
    shop.drain()
    assert shop.sums() == {"delivered": 2}
    with closing(sqlite3.connect(path)) as db:
        names = [name for (name,) in db.execute("SELECT DISTINCT name FROM limits")]
    assert len(names) == 2
    assert "@" not in "".join(names)
    assert store.forget("Ana@x.com", now=shop.clock.now())["limits"] == 1
    shop.post({"id": "3", "email": "Ana@x.com"}, {"id": "4", "email": "bia@x.com"})
    shop.drain()
    assert shop.sums() == {"delivered": 3, "waiting": 1}
    store.close()
