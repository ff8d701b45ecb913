"""When intake stops: the store's budget, and its disk."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from conftest import Heard, Shop

from engine.errors import StoreUnavailable
from engine.stores.sqlite import SqliteStore
from engine.upkeep.capacity import MIN_FREE, Capacity


class Disk:
    """A store and a disk whose figures are set."""

    def __init__(self, used: int = 0, free: int = 10**12, **more: Any) -> None:
        self.bytes_used, self.bytes_free, self.now = used, free, 0.0
        self.heard = Heard()
        given = {"used": lambda: self.bytes_used, "folder": Path("/"), "max_bytes": 5 * 10**9, **more}
        self.capacity = Capacity(telemetry=self.heard, free=lambda _: self.bytes_free, clock=lambda: self.now, **given)


def test_a_store_is_full_from_its_budget_on_until_there_is_room_again() -> None:
    disk = Disk(used=4_999_999_999)
    assert disk.capacity.measure() is None
    disk.bytes_used += 1
    says = "the store holds 5.0 GB, and max_store is 5.0 GB"
    assert [disk.capacity.measure() for _ in range(2)] == [says] * 2
    disk.bytes_used = 10
    assert disk.capacity.measure() is None
    assert disk.heard.events == [("store-full", {"reason": says}), ("store-has-room", {})]


def test_some_of_the_disk_is_left_for_what_was_accepted() -> None:
    disk = Disk(free=MIN_FREE, max_bytes=None)
    assert disk.capacity.measure() is None
    disk.bytes_free -= 1
    assert disk.capacity.measure() == "the store's disk has 100.0 MB left, and 100.0 MB are kept free"


def test_the_loop_is_told_what_was_measured_beside_it() -> None:
    disk = Disk(used=10**12)
    disk.capacity.why()
    until = time.monotonic() + 5
    while disk.capacity.why() is None and time.monotonic() < until:
        time.sleep(0.005)
    assert disk.capacity.why() == "the store holds 1000.0 GB, and max_store is 5.0 GB"


def test_what_can_not_be_measured_is_told_and_stops_nothing() -> None:
    def broken() -> int:
        raise StoreUnavailable("connect.db: locked")

    disk = Disk(used=0)
    disk.capacity._used = broken
    assert disk.capacity.measure() is None
    assert [name for name, _ in disk.heard.events] == ["fault"]


def test_a_store_in_memory_is_never_full() -> None:
    disk = Disk(used=10**15, free=0, folder=None)
    disk.capacity._max_bytes = None
    disk.capacity._measures = False
    assert disk.capacity.why() is None


def test_what_was_delivered_makes_room_in_the_file(tmp_path: Path) -> None:
    shop = Shop(store=SqliteStore(tmp_path / "connect.db"))
    store: Any = shop.store
    empty = store.used_bytes()
    shop.post(*[{"id": f"e{number}", "more": "x" * 2_000} for number in range(500)])
    full = store.used_bytes()
    assert full > empty + 1_000_000
    shop.drain()
    assert store.used_bytes() < empty + 200_000
    assert store.folder == tmp_path
    store.close()
