"""What only the SQLite store has: a file that outlives the process, shared with others, that may be damaged or full."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from engine.errors import LeaseLost, StoreUnavailable
from engine.records import Accepted, Delivery, Draft, LaneChange, Lease, Progress, Settled, TokenRow, Waiting
from engine.stores import sqlite
from engine.stores.memory import MemoryStore
from engine.stores.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def numbered() -> Any:
    numbers = count(1)
    return lambda: f"d{next(numbers)}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "connect.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    made = SqliteStore(path, new_id=numbered())
    yield made
    made.close()


def event(event_id: str = "e1", *, key: str | None = None, body: bytes = b"{}", dedupe_s: float = 0) -> Accepted:
    return Accepted("crm", "abc", event_id, body, 0.0, (Draft("task", key),), dedupe_s)


def leased(store: SqliteStore, now: float = 0.0) -> Lease:
    lease = store.lease("crm", "abc", owner="w1", ttl_s=60, now=now)
    assert lease is not None
    return lease


# What is committed stays


def test_what_put_answered_is_in_the_file_though_the_store_was_never_closed(store: SqliteStore, path: Path) -> None:
    store.put([event(key="ana", body=b'{"a":1}')], now=3.0).result()
    other = SqliteStore(path)
    assert other.read(leased(other, now=3.0), "task", limit=9, now=3.0) == [
        Delivery(1, "d1", "e1", "task", "ana", b'{"a":1}', 0.0, 3.0)
    ]
    other.close()


def test_every_commit_reaches_the_disk(store: SqliteStore) -> None:
    pragmas = store._writer.run(
        lambda db: [db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "journal_mode")]
    )
    assert pragmas == [2, "wal"]


def test_all_of_a_lane_survives_a_restart(path: Path) -> None:
    first = SqliteStore(path, new_id=numbered())
    first.put([event("e1", dedupe_s=60), event("e2"), event("e3")], now=0.0).result()
    lease = leased(first)
    progress = Progress("b1", "task", "poll", {"job": {"id": "7"}})
    first.save_progress(lease, progress, [1], now=1.0)
    first.settle(lease, [Settled(2, "rejected", reason="no")], now=1.0, change=LaneChange(not_before=5.0, failures=2))
    first.save_token("crm", "abc", "main", TokenRow({"value": "t"}, 0.0, None, "f"))
    before = (first.lanes(), first.dead(), first.token("crm", "abc", "main"))
    first.close()

    second = SqliteStore(path)
    assert (second.lanes(), second.dead(), second.token("crm", "abc", "main")) == before
    assert [each for each, _ in second.progress(lease, "task", now=2.0)] == [progress]
    assert second.put([event("e1", dedupe_s=60)], now=2.0).result()[0].duplicate
    assert second.lease("crm", "abc", owner="w2", ttl_s=9, now=60.0) == Lease(
        "crm", "abc", "w2", 2, 69.0, 5.0, failures=2
    )
    second.close()


def test_what_was_queued_before_closing_is_stored(path: Path) -> None:
    store = SqliteStore(path)
    futures = [store.put([event(f"e{n}")], now=0.0) for n in range(300)]
    store.close()
    assert all(future.done() for future in futures)
    reopened = SqliteStore(path)
    assert [lane.waiting for lane in reopened.lanes()] == [300]
    reopened.close()


def test_writes_that_wait_together_share_one_commit(store: SqliteStore) -> None:
    commits: list[str] = []
    store._writer.run(lambda db: db.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None))
    commits.clear()
    with writer_kept_busy(store):
        futures = [store.put([event(f"e{n}")], now=0.0) for n in range(50)]
    assert sum(len(future.result(10)) for future in futures) == 50
    assert len(commits) == 2  # the one that held, and all that queued behind it


@contextmanager
def writer_kept_busy(store: SqliteStore) -> Iterator[None]:
    """What is submitted within stands in one commit."""
    held, go_on = threading.Event(), threading.Event()

    def hold(_: sqlite3.Connection) -> None:
        held.set()
        go_on.wait(10)

    holding = store._writer.submit(hold)
    assert held.wait(10)
    yield
    go_on.set()
    holding.result(10)


def test_puts_that_wait_together_are_stored_as_if_one_came_after_the_other(store: SqliteStore) -> None:
    chance = random.Random(5)
    puts = []
    for n in range(300):
        drafts = tuple(
            Draft(chance.choice("ab"), chance.choice([None, "ana", "bob\0", "x\u2028"])) for _ in range(n % 3)
        )
        given = Accepted(
            "crm", f"c{n % 5}", f"e{chance.randrange(150)}", b"\xff{}", 0.1 * n, drafts, chance.choice([0, 9])
        )
        puts.append(([given] * (n % 4), 0.3 * n, chance.choice([0, 0, 2.7])))
    memory = MemoryStore(new_id=numbered())
    expected = [memory.put(given, now=now, hold_s=hold_s).result() for given, now, hold_s in puts]
    for half in (puts[:150], puts[150:]):
        with writer_kept_busy(store):
            futures = [store.put(given, now=now, hold_s=hold_s) for given, now, hold_s in half]
        assert [future.result(10) for future in futures] == expected[: len(half)]
        expected = expected[len(half) :]
    assert store.lanes() == memory.lanes()
    assert store.due_lanes(now=99.0) == memory.due_lanes(now=99.0)
    leases = [each.lease("crm", "c1", owner="w1", ttl_s=9, now=99.0) for each in (store, memory)]
    assert leases[0] == leases[1] is not None
    assert store.read(leases[1], "a", limit=999, now=99.0) == memory.read(leases[1], "a", limit=999, now=99.0) != []


def test_a_put_is_a_handful_of_statements_however_much_waits(store: SqliteStore) -> None:
    statements: list[str] = []
    store._writer.run(lambda db: db.set_trace_callback(statements.append))
    with writer_kept_busy(store):
        futures = [store.put([event(f"e{n}", key=f"k{n}", dedupe_s=9)], now=0.0) for n in range(sqlite.ROWS)]
    for future in futures:
        future.result(10)
    assert len(statements) <= 20


def test_a_batch_is_settled_in_a_handful_of_statements_however_large(store: SqliteStore) -> None:
    put = store.put([event(f"e{n}", key=f"k{n}") for n in range(sqlite.ROWS)], now=0.0).result()
    lease = leased(store)
    statements: list[str] = []
    store._writer.run(lambda db: db.set_trace_callback(statements.append))
    statements.clear()
    store.settle(lease, [Settled(each.deliveries[0].seq, "delivered") for each in put], now=0.0)
    assert len(statements) <= 8
    assert [(lane.delivered, lane.waiting) for lane in store.lanes()] == [(sqlite.ROWS, 0)]


def test_what_is_settled_while_many_events_come_in_shares_the_commit_of_the_next(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "SHARE_S", 60.0)
    written: list[str] = []
    store._writer.run(lambda db: db.set_trace_callback(written.append))
    store.put([event(f"e{n}") for n in range(sqlite.CROWD)], now=0.0).result(10)
    written.clear()
    locking = store._writer.submit(lambda db: db.execute("INSERT INTO locks VALUES ('a', 'b', 9)"))
    with pytest.raises(TimeoutError):
        locking.result(0.05)
    store.put([event("next")], now=0.0).result(10)
    assert locking.done()
    assert (written.count("BEGIN IMMEDIATE"), written.count("COMMIT")) == (1, 1)


@pytest.mark.parametrize(("events", "share_s"), [(sqlite.CROWD - 1, 60.0), (sqlite.CROWD, 0.01)])
def test_what_is_settled_waits_for_few_events_not_at_all_and_for_none_not_long(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, events: int, share_s: float
) -> None:
    monkeypatch.setattr(sqlite, "SHARE_S", share_s)
    store.put([event(f"e{n}") for n in range(events)], now=0.0).result(10)
    assert store._writer.submit(lambda db: db.execute("SELECT 1").fetchone()).result(10) == (1,)


def test_who_reads_a_lane_while_many_events_come_in_waits_for_none_of_them(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put([event("e1", key="ana"), event("e2", key="ana")], now=1.0).result()
    lease = leased(store, now=1.0)
    store.settle(lease, [later(1, 50.0)], now=1.0)
    monkeypatch.setattr(sqlite, "SHARE_S", 4.0)
    store.put([event(f"n{n}") for n in range(sqlite.CROWD)], now=9.0).result()
    with ThreadPoolExecutor(1) as pool:  # which lists e2
        assert pool.submit(store.read, lease, "task", limit=9, now=2.0).result(1) == []


def test_one_bad_put_harms_none_of_those_it_waited_with(store: SqliteStore) -> None:
    with writer_kept_busy(store):
        futures = [store.put([event(f"e{n}", key="\ud800" if n == 3 else "ana")], now=0.0) for n in range(6)]
    assert isinstance(futures[3].exception(10), UnicodeEncodeError)
    stored = [future.result(10)[0] for n, future in enumerate(futures) if n != 3]
    assert [(put.event_id, put.deliveries[0].seq) for put in stored] == [
        ("e0", 1),
        ("e1", 2),
        ("e2", 3),
        ("e4", 4),
        ("e5", 5),
    ]
    assert [(lane.accepted, lane.waiting) for lane in store.lanes()] == [(5, 5)]


@pytest.mark.parametrize("others", [0, 2])
def test_a_put_refused_halfway_leaves_nothing_behind(store: SqliteStore, others: int) -> None:
    nameless: Any = None
    halfway = Accepted("crm", "abc", "bad", b"{}", 0.0, (Draft("task"), Draft(nameless)))
    with writer_kept_busy(store):
        futures = [
            store.put([event(f"e{n}"), each], now=0.0) for n, each in enumerate([halfway, *[event("o")] * others])
        ]
    assert isinstance(futures[0].exception(10), StoreUnavailable | sqlite3.IntegrityError)
    assert [len(future.result(10)) for future in futures[1:]] == [2] * others
    stored = store._writer.run(lambda db: db.execute("SELECT event_id FROM deliveries ORDER BY event_id").fetchall())
    assert stored == sorted([(f"e{n + 1}",) for n in range(others)] + [("o",)] * others)


def test_ids_are_random_uuids_of_version_4(path: Path) -> None:
    store = SqliteStore(path)
    drafts = tuple(Draft("task") for _ in range(200))
    [stored] = store.put([Accepted("crm", "abc", "e1", b"{}", 0.0, drafts)], now=0.0).result()
    ids = [uuid.UUID(delivery.id) for delivery in stored.deliveries]
    assert {(each.version, each.variant) for each in ids} == {(4, uuid.RFC_4122)}
    assert [str(each) for each in ids] == [delivery.id for delivery in stored.deliveries]
    assert len(set(ids)) == 200
    store.close()


def test_one_that_fails_takes_back_its_own_writes_and_no_others(store: SqliteStore) -> None:
    def half(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO locks VALUES ('half', 'a', 9)")
        raise LeaseLost("too late")

    def broken(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO nowhere VALUES (1)")

    def whole(db: sqlite3.Connection) -> int:
        return db.execute("INSERT INTO locks VALUES ('whole', 'a', 9)").rowcount

    with writer_kept_busy(store):
        first, second, third = (store._writer.submit(work) for work in (half, broken, whole))
    assert isinstance(first.exception(10), LeaseLost)
    assert str(second.exception(10)) == f"{store._path}: no such table: nowhere"
    assert isinstance(second.exception(10), StoreUnavailable)
    assert third.result(10) == 1
    assert not store.lock("whole", owner="b", ttl_s=9, now=1.0)
    assert store.lock("half", owner="b", ttl_s=9, now=1.0)


def test_a_put_that_fails_leaves_nothing_behind_not_even_its_lane(path: Path) -> None:
    new_ids = iter(["d1", None, "d2"])

    def new_id() -> str:
        made = next(new_ids)
        if made is None:
            raise RuntimeError("no more ids")
        return made

    store = SqliteStore(path, new_id=new_id)
    with pytest.raises(RuntimeError, match="no more ids"):
        store.put([event("e1"), event("e2")], now=0.0).result()
    assert store.lanes() == []
    store.put([event("e3")], now=0.0).result()
    assert [lane.waiting for lane in store.lanes()] == [1]
    store.close()


def test_a_cancelled_write_is_not_done_and_harms_nobody(store: SqliteStore) -> None:
    with writer_kept_busy(store):
        cancelled, kept = store.put([event("e1")], now=0.0), store.put([event("e2")], now=0.0)
        assert cancelled.cancel()
    assert [stored.event_id for stored in kept.result(10)] == ["e2"]
    assert [lane.waiting for lane in store.lanes()] == [1]


# Several that write


def test_two_stores_on_one_file_share_lanes_rates_and_locks(store: SqliteStore, path: Path) -> None:
    other = SqliteStore(path)
    store.put([event()], now=0.0).result()
    assert other.due_lanes(now=0.0) == [("crm", "abc")]
    lease = leased(store)
    assert other.lease("crm", "abc", owner="w2", ttl_s=9, now=1.0) is None
    assert other.lease("crm", "abc", owner="w2", ttl_s=9, now=60.0) is not None
    with pytest.raises(LeaseLost):
        store.settle(lease, [Settled(1, "delivered")], now=61.0)
    assert store.lock("token", owner="a", ttl_s=9, now=0.0)
    assert not other.lock("token", owner="b", ttl_s=9, now=1.0)
    assert store.acquire("crm", slots=1, owner="a", ttl_s=9, now=0.0)
    assert not other.acquire("crm", slots=1, owner="b", ttl_s=9, now=1.0)
    other.close()


def test_no_window_of_two_stores_together_holds_more_than_its_count(store: SqliteStore, path: Path) -> None:
    other, chance = SqliteStore(path), random.Random(3)
    now = 0.0
    taken: list[tuple[float, int]] = []
    for _ in range(200):
        now += chance.choice([0, 0.1, 0.25, 1])
        cost = chance.choice([1, 1, 2, 5])
        if chance.choice([store, other]).take("calls", count=5, per_s=2, now=now, cost=cost) == 0.0:
            taken.append((now, cost))
    other.close()
    used = [sum(cost for at, cost in taken if start <= at < start + 2) for start, _ in taken]
    assert max(used) == 5


def test_of_many_that_ask_two_stores_at_once_as_many_get_it_as_there_is_room(store: SqliteStore, path: Path) -> None:
    other = SqliteStore(path)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(by.take, "calls", count=7, per_s=2, now=1.0) for by in (store, other) * 20]
    other.close()
    assert sorted(each.result() for each in asked) == [0.0] * 7 + [2.0] * 33


WRITE = """
import sys
from engine.records import Accepted, Draft, Settled
from engine.stores.sqlite import SqliteStore
path, name = sys.argv[1:]
store = SqliteStore(path)
print("ready", flush=True)
sys.stdin.readline()
for n in range(150):
    event = Accepted("crm", name, f"e{n}", b"{}", 0.0, (Draft("task", "ana"),))
    [stored] = store.put([event], now=float(n)).result()
    if n % 3 == 0:
        store.settle(None, [Settled(stored.deliveries[0].seq, "delivered")], now=float(n))
store.close()
"""


def test_two_processes_that_write_one_file_lose_nothing(path: Path) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", WRITE, path, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for name in ("one", "two")
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    for process in processes:
        process.communicate(b"go\n", timeout=30)
    assert [process.returncode for process in processes] == [0, 0]
    store = SqliteStore(path)
    assert [(lane.client, lane.accepted, lane.delivered, lane.waiting) for lane in store.lanes()] == [
        ("one", 150, 50, 100),
        ("two", 150, 50, 100),
    ]
    for client in ("one", "two"):
        lease = store.lease("crm", client, owner="w1", ttl_s=9, now=999.0)
        assert lease is not None
        read = store.read(lease, "task", limit=999, now=999.0)
        assert [delivery.event_id for delivery in read] == [f"e{n}" for n in range(150) if n % 3]
    store.close()


def test_threads_that_put_and_read_at_once_lose_nothing(store: SqliteStore) -> None:
    def put(name: str) -> None:
        for n in range(40):
            store.put([event(f"{name}{n}")], now=0.0).result()
            store.lanes()

    threads = [threading.Thread(target=put, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [lane.waiting for lane in store.lanes()] == [160]
    assert len({delivery.event_id for delivery in store.read(leased(store), "task", limit=999, now=0.0)}) == 160


# What can go wrong with a file


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(path: Path) -> None:
    path.write_bytes(b"not a database, but something dear to someone\n" * 99)
    before = path.read_bytes()
    with pytest.raises(StoreUnavailable) as refused:
        SqliteStore(path)
    assert str(refused.value) == (
        f"{path}: the file is damaged or no SQLite database; it is left as it is: restore a copy, or name another file"
        " (file is not a database)"
    )
    assert path.read_bytes() == before


def test_a_file_damaged_inside_is_reported_by_the_verb_that_meets_it(path: Path) -> None:
    SqliteStore(path).close()
    schema = path.stat().st_size
    store = SqliteStore(path)
    store.put([event(f"e{n}", body=b"x" * 3000) for n in range(50)], now=0.0).result()
    store.close()
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(schema)
        file.write(b"\xff" * (size - schema))
    damaged = path.read_bytes()
    store = SqliteStore(path)
    with pytest.raises(StoreUnavailable, match="damaged or no SQLite database"):
        store.forget("ana", now=1.0)
    with pytest.raises(StoreUnavailable, match="damaged or no SQLite database"):
        store.put([event()], now=1.0).result()
    assert path.read_bytes() == damaged
    store.close()


def test_a_newer_schema_is_refused_by_its_number_and_not_touched(path: Path) -> None:
    SqliteStore(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 7")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StoreUnavailable) as refused:
        SqliteStore(path)
    assert str(refused.value) == (
        f"{path} has schema version 7, this engine knows versions up to {sqlite.VERSION}; use a newer engine"
    )
    assert path.read_bytes() == before


def test_another_programs_database_is_refused(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE dear (to_someone TEXT)")
    db.close()
    with pytest.raises(StoreUnavailable, match="is a SQLite database of another program"):
        SqliteStore(path)


@pytest.fixture
def of_version(path: Path) -> Callable[[int], Path]:
    """A file as an engine left it that knew only so many versions, with an event in it and nothing that is newer."""

    def write(version: int) -> Path:
        db = sqlite3.connect(path)
        for statement in (each for part in sqlite.SCHEMA[:version] for each in part):
            db.execute(statement)
        db.execute("INSERT INTO lanes (connector, client, wake_at, accepted) VALUES ('crm', 'abc', 1, 1)")
        db.execute(
            "INSERT INTO deliveries (lane, action, key, id, event_id, body, received_at, due_at, turn_at, attempts)"
            " VALUES (1, 'task', 'ana', 'd1', 'e1', '{}', 0, 1, 1, 0)"
        )
        db.execute(f"PRAGMA user_version = {version}")
        db.commit()
        db.close()
        return path

    return write


@pytest.mark.parametrize("version", range(1, len(sqlite.SCHEMA)))
def test_a_file_of_an_older_version_is_brought_up_to_date_with_what_is_in_it(
    of_version: Callable[[int], Path], version: int, path: Path, tmp_path: Path
) -> None:
    store = SqliteStore(of_version(version))
    drafts = (Draft("task", "ana"), Draft("note", None, ("task",)))
    store.put([Accepted("crm", "abc", "e2", b"{}", 2.0, drafts)], now=2.0).result()
    lease = leased(store, now=2.0)
    assert [each.seq for each in store.read(lease, "task", limit=9, now=2.0)] == [1, 2]
    store.settle(lease, [Settled(1, "delivered"), Settled(2, "delivered")], now=2.0)
    assert [each.seq for each in store.read(lease, "note", limit=9, now=2.0)] == [3]
    store.close()
    SqliteStore(tmp_path / "new.db").close()

    def schema(file: Path) -> list[Any]:
        with closing(sqlite3.connect(file)) as db:
            version = db.execute("PRAGMA user_version").fetchall()
            return version + db.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()

    assert schema(path) == schema(tmp_path / "new.db")


def test_what_waits_for_a_delivery_that_is_gone_goes_on_when_a_process_starts(store: SqliteStore) -> None:
    drafts = (Draft("task"), Draft("note", "ana", ("task",)))
    store.put([Accepted("crm", "abc", each, b"{}", 0.0, drafts) for each in ("e1", "e2")], now=0.0).result()
    store._writer.run(lambda db: db.execute("DELETE FROM deliveries WHERE seq = 1"))  # by another program
    store.reclaim(lambda _: False)
    assert [each.seq for each in store.read(leased(store), "note", limit=9, now=0.0)] == [2]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match=r"nowhere/connect\.db: the file can't be opened; check that its folder"):
        SqliteStore(tmp_path / "nowhere" / "connect.db")


def test_a_folder_in_place_of_the_file_is_refused(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StoreUnavailable, match="the file can't be opened"):
        SqliteStore(path)


def test_a_write_that_another_program_locks_out_fails_and_the_next_goes_on(path: Path) -> None:
    store = SqliteStore(path, busy_s=0.05)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match=r"another program keeps the file locked \(database is locked\)$"):
        store.put([event("e1")], now=0.0).result()
    other.execute("ROLLBACK")
    other.close()
    store.put([event("e2")], now=0.0).result()
    assert [lane.waiting for lane in store.lanes()] == [1]
    store.close()


def test_a_full_disk_fails_the_whole_group_and_the_store_goes_on_when_there_is_room(store: SqliteStore) -> None:
    pages = store._writer.run(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
    store._writer.run(lambda db: db.execute(f"PRAGMA max_page_count = {pages + 2}").fetchall())
    big = event("e1", body=b"x" * 100_000)
    with pytest.raises(StoreUnavailable, match=r"the disk is full; free some space"):
        store.put([big], now=0.0).result()
    assert store.lanes() == []
    store._writer.run(lambda db: db.execute("PRAGMA max_page_count = 100000").fetchall())
    store.put([big], now=0.0).result()
    assert [lane.waiting for lane in store.lanes()] == [1]


def test_a_commit_that_fails_is_told_to_every_one_in_it(path: Path) -> None:
    store = SqliteStore(path)
    store._writer.run(
        lambda db: [
            db.execute(sql)
            for sql in (
                "CREATE TABLE parent (id PRIMARY KEY)",
                "CREATE TABLE child (id REFERENCES parent DEFERRABLE INITIALLY DEFERRED)",
            )
        ]
    )
    store._writer._db.execute("PRAGMA foreign_keys = ON")  # type: ignore[union-attr]
    works = (
        lambda db: db.execute("INSERT INTO locks VALUES ('x', 'a', 9)"),
        lambda db: db.execute("INSERT INTO child VALUES (1)"),  # found wrong at COMMIT only
    )
    with writer_kept_busy(store):
        futures = [store._writer.submit(work) for work in works]
    for future in futures:
        assert isinstance(future.exception(10), StoreUnavailable)
    assert store.lock("x", owner="b", ttl_s=9, now=0.0)
    store.close()


def test_a_file_that_vanished_takes_nothing_in(store: SqliteStore, path: Path) -> None:
    store.put([event("e1")], now=0.0).result()
    moved = path.rename(path.with_name("moved.db"))
    with pytest.raises(StoreUnavailable, match="the file was removed or replaced while in use; restart"):
        store.put([event("e2")], now=0.0).result()
    moved.rename(path)
    assert [stored.event_id for stored in store.put([event("e3")], now=0.0).result()] == ["e3"]


# Tokens at rest


class Backwards:
    """A cipher for tests: the text reversed, with a mark of its key."""

    def __init__(self, mark: bytes) -> None:
        self.mark = mark

    def encrypt(self, data: bytes, /) -> bytes:
        return self.mark + data[::-1]

    def decrypt(self, data: bytes, /) -> bytes:
        if not data.startswith(self.mark):
            raise RuntimeError("of another key")
        return data[len(self.mark) :][::-1]


def test_an_encrypted_token_stands_nowhere_in_the_file(path: Path) -> None:
    store = SqliteStore(path, cipher=Backwards(b"k1:"))
    row = TokenRow({"value": "very-secret"}, 0.0, 9.0, "f")
    store.save_token("crm", "abc", "main", row)
    assert store.token("crm", "abc", "main") == row
    store.close()
    assert b"very-secret" not in path.read_bytes()

    other_key = SqliteStore(path, cipher=Backwards(b"k2:"))
    with pytest.raises(StoreUnavailable, match=r"the token crm/abc/main can't be decrypted"):
        other_key.token("crm", "abc", "main")
    other_key.close()


# Order within a key, though most deliveries are in no index by key


def later(seq: int, due_at: float) -> Settled:
    return Settled(seq, "later", due_at=due_at, attempts=1)


def seqs(store: SqliteStore, lease: Lease, now: float) -> list[int]:
    """What can be sent, looked at in both ways."""
    found = [each.seq for each in store.read(lease, "task", limit=99, now=now)]
    assert store.backlog(lease, "task", now=now, cap=99)[0] == len(found)
    return found


def chosen(store: SqliteStore, where: str) -> list[int]:
    return store._writer.run(
        lambda db: [seq for (seq,) in db.execute(f"SELECT seq FROM deliveries WHERE {where} ORDER BY seq")]
    )


def test_what_stands_behind_one_that_was_put_off_is_met_once_and_then_out_of_the_way(store: SqliteStore) -> None:
    store.put([event(f"e{n}", key="ana" if n % 2 else "bob") for n in range(1, 9)], now=1.0).result()
    assert chosen(store, "listed") == []
    lease = leased(store, now=1.0)
    store.settle(lease, [later(3, 50.0)], now=1.0)
    assert chosen(store, "listed") == [3]
    assert seqs(store, lease, 2.0) == [1, 2, 4, 6, 8]
    assert (chosen(store, "listed"), chosen(store, "turn_at <= 2")) == ([3, 5, 7], [1, 2, 4, 6, 8])
    store.settle(lease, [Settled(3, "delivered")], now=2.0)
    assert seqs(store, lease, 2.0) == [1, 2, 4, 5, 6, 7, 8]


def test_a_lane_wakes_when_the_first_that_stands_behind_no_other_is_due(store: SqliteStore) -> None:
    store.put([event("e1", key="ana"), event("e2", key="ana")], now=1.0).result()
    lease = leased(store, now=1.0)
    store.settle(lease, [later(1, 50.0)], now=1.0)
    store.change_lane("crm", "abc", LaneChange(failures=1), now=1.0)
    store.release(lease, wake_at=None)
    assert store.next_due(now=1.0) == 50.0


def test_clocks_that_are_a_little_apart_keep_the_order_and_a_clock_that_is_put_back_holds_up_its_key_only(
    store: SqliteStore, path: Path
) -> None:
    other = SqliteStore(path)
    store.put([event("e1", key="ana")], now=5_000.0).result()
    other.put([event("e2", key="ana"), event("e3", key="bob")], now=4_999.5).result()
    lease = leased(store)
    assert (seqs(store, lease, 4_999.5), seqs(store, lease, 5_000.0)) == ([], [1, 2, 3])
    assert chosen(store, "listed") == []
    other.put([event("e4", key="ana"), event("e5", key="carl")], now=1_400.0).result()
    other.put([event("e6", key="carl")], now=1_401.0).result()
    assert (seqs(store, lease, 1_401.0), seqs(store, lease, 5_000.0)) == ([5, 6], [5, 6, 1, 2, 3, 4])
    other.close()


def test_a_clock_that_is_put_back_between_two_that_share_a_commit_holds_up_their_key_only(store: SqliteStore) -> None:
    with writer_kept_busy(store):
        for n, (key, now) in enumerate([("ana", 5_000.0), ("ana", 1_400.0), ("bob", 1_400.0)]):
            store.put([event(f"e{n}", key=key)], now=now)
    lease = leased(store)
    assert (seqs(store, lease, 1_400.0), seqs(store, lease, 5_000.0)) == ([3], [3, 1, 2])


def test_what_is_given_an_earlier_moment_stays_behind_an_older_one_of_its_key(store: SqliteStore) -> None:
    store.put([event("e1", key="ana")], now=10.0).result()
    store.put([event("e2", key="ana"), event("e3", key="bob")], now=10.0, hold_s=25).result()
    store.settle(None, [later(2, 9.5), later(3, 9.5)], now=10.0)
    lease = leased(store)
    assert (seqs(store, lease, 9.9), seqs(store, lease, 10.0)) == ([3], [3, 1, 2])


def test_what_is_given_an_earlier_moment_stays_behind_one_whose_half_done_batch_is_forgotten(
    store: SqliteStore,
) -> None:
    store.put([event("e1", key="ana")], now=10.0).result()
    store.put([event("e2", key="ana")], now=10.0, hold_s=25).result()
    lease = leased(store)
    store.save_progress(lease, Progress("b1", "task", "poll", {"seen": "bob@example.com"}), [1], now=10.0)
    store.settle(None, [later(2, 9.5)], now=10.0)
    assert seqs(store, lease, 10.0) == []
    assert store.forget("bob@example.com", now=10.0)["progress"] == 1
    assert (seqs(store, lease, 9.9), seqs(store, lease, 10.0)) == ([], [1, 2])


def test_what_comes_under_numbers_that_were_reserved_stays_behind_an_older_one_of_its_key(store: SqliteStore) -> None:
    store.put([event("e1", key="ana")], now=10.0).result()
    before = store.reserve("crm", "abc", 1)
    store.put([event("e2", key="ana")], now=11.0).result()
    store.carry_in("crm", "abc", [Waiting(Delivery(before + 1, "d9", "e9", "task", "ana", b"{}", 0.0, 3.0))])
    lease = leased(store)
    assert (seqs(store, lease, 10.0), seqs(store, lease, 11.0)) == ([1, 2], [1, 2, 3])


def test_a_direct_caller_is_behind_one_of_its_key_that_was_put_without_a_hold(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def behind(key: str) -> bool:
        [stored] = store.put([event(f"e-{key}", key=key)], now=1.0, hold_s=25).result()
        found = store.behind("crm", "abc", stored.deliveries[0])
        store.settle(None, [Settled(stored.deliveries[0].seq, "delivered")], now=1.0)
        return found

    assert not behind("ana")
    store.put([event(f"e{n}", key=key) for n, key in enumerate(["ana", "bob", "dora"])], now=1.0).result()
    store.save_progress(None, Progress("b1", "task", "poll", {}), [3], now=1.0)
    assert (behind("ana"), behind("bob"), behind("carl")) == (True, True, False)
    monkeypatch.setattr(sqlite, "LOOK_BACK", 2)  # where more wait than are looked through, it is to be expected
    assert behind("carl")


def test_a_file_whose_deliveries_were_all_in_an_index_by_key_keeps_their_order(path: Path) -> None:
    far = 4e9
    rows = [
        *(("ana", far, far), ("ana", 1.0, far), ("bob", 1.0, 1.0), ("bob", 2.0, 2.0)),
        *(("carl", 5.0, 5.0), ("carl", 3.0, 5.0), ("dora", far, far), (None, 1.0, 1.0)),
    ]
    with closing(sqlite3.connect(path)) as db, db:
        for statement in (each for part in sqlite.SCHEMA[:5] for each in part):
            db.execute(statement)
        db.execute("INSERT INTO lanes (connector, client, wake_at, accepted) VALUES ('crm', 'abc', 1, ?)", (len(rows),))
        db.executemany(
            "INSERT INTO deliveries (lane, action, key, id, event_id, body, received_at, due_at, turn_at, attempts)"
            " VALUES (1, 'task', ?, 'd', 'e', '{}', 0, ?, ?, 0)",
            rows,
        )
        db.execute("PRAGMA user_version = 5")
    store = SqliteStore(path)
    assert chosen(store, "listed") == [1, 2, 5, 6, 7]
    store.put([event("e9", key="ana"), event("e10", key="dora"), event("e11", key="bob")], now=6.0).result()
    lease = leased(store, now=6.0)
    assert seqs(store, lease, 6.0) == [3, 8, 4, 5, 6, 11]
    store.settle(lease, [later(3, 50.0), Settled(1, "delivered"), Settled(5, "delivered")], now=6.0)
    assert seqs(store, lease, 6.0) == [2, 8, 6, 9]
    store.close()


def test_a_half_done_batch_of_an_older_file_keeps_its_place_when_it_is_forgotten(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        for statement in (each for part in sqlite.SCHEMA[:5] for each in part):
            db.execute(statement)
        db.execute("INSERT INTO lanes (connector, client, wake_at, accepted) VALUES ('crm', 'abc', 1, 1)")
        db.execute(
            "INSERT INTO deliveries (lane, action, key, id, event_id, body, received_at, due_at, turn_at, attempts,"
            " batch) VALUES (1, 'task', 'ana', 'd', 'e1', X'7b7d', 0, 1, 1, 0, 'b1')"
        )
        progress = msgspec.json.encode(Progress("b1", "task", "poll", {"seen": "bob@example.com"}))
        db.execute("INSERT INTO batches VALUES (1, 'b1', 'task', ?)", (progress,))
        db.execute("PRAGMA user_version = 5")
    store = SqliteStore(path)
    assert store.forget("bob@example.com", now=5.0)["progress"] == 1
    [stored] = store.put([event("e2", key="ana")], now=5.0, hold_s=25).result()
    assert store.behind("crm", "abc", stored.deliveries[0])
    store.settle(None, [later(2, 0.5)], now=5.0)
    lease = leased(store, now=5.0)
    assert (seqs(store, lease, 0.9), seqs(store, lease, 1.0)) == ([], [1, 2])
    store.close()


# Plans: what stays fast however much waits


def plan(store: SqliteStore, sql: str, values: Any) -> list[str]:
    with store._readers.reading() as db:
        return [row[3].replace("COVERING ", "") for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", values)]


def test_reading_a_full_lane_walks_an_index_and_never_sorts(store: SqliteStore) -> None:
    keys = [None, "ana", "bob"]
    drafts = tuple(Draft("task", keys[n % 3]) for n in range(50_000))
    store.put([Accepted("crm", "abc", "e1", b"{}", 0.0, drafts)], now=1.0).result()
    where = {"lane": 1, "action": "task", "now": 9.0, "limit": 100, "after": 9.0, "batch": "b1"}
    by_turn = "SEARCH d USING INDEX deliveries_turn (lane=? AND action=? AND turn_at<?)"
    held = "SEARCH b USING INDEX deliveries_held (lane=? AND action=? AND key=? AND seq<?)"
    listed = "SEARCH {} USING INDEX deliveries_listed (lane=? AND action=?{})"
    before = listed.format("b", " AND key=? AND seq<?")
    steps = [step for step in plan(store, sqlite.READ, where) if "SUBQUERY" not in step]
    assert steps == [by_turn, held, listed.format("deliveries", ""), before]
    assert before in plan(store, sqlite.ENLIST, ("[]",))
    read = (sqlite.BACKLOG, sqlite.NEXT_TURN, sqlite.NEXT_BATCH, sqlite.MEMBERS, *sqlite.ACTIONS, sqlite.LANES)
    where |= {"key": "ana", "seq": 1}
    plans = {sql: plan(store, sql, where) for sql in (*read, sqlite.FRONT, sqlite.OLDER, sqlite.OLDER_AT_ONCE)}
    for steps in plans.values():
        assert not [step for step in steps if "TEMP B-TREE" in step or "SCAN deliveries" in step]
    assert [delivery.seq for delivery in store.read(leased(store, now=1.0), "task", limit=3, now=1.0)] == [1, 2, 3]
    due = plan(store, sqlite.DUE_LANES, {"now": 9.0, "limit": 1})
    assert due == ["SEARCH lanes USING INDEX lanes_due (<expr><?)"]
    of_the_event = "SEARCH deliveries USING INDEX deliveries_after (lane=? AND event_id=?)"
    assert plan(store, sqlite.WAITING_FOR, (1, "[]")).count(of_the_event) == 1
    assert "SEARCH other USING INTEGER PRIMARY KEY (rowid=?)" in plan(store, sqlite.FORSAKEN, ())


def test_expired_rows_are_cleaned_in_passing_a_few_at_a_time(store: SqliteStore) -> None:
    many = sqlite.SWEEP * 2
    store.put([event(f"e{n}", dedupe_s=1) for n in range(many)], now=0.0).result()
    old = [(f"old{n}",) for n in range(many)]
    store._writer.run(lambda db: db.executemany("INSERT INTO locks VALUES (?, 'a', 1)", old))
    store.put([event(f"new{n}", dedupe_s=1) for n in range(sqlite.SWEEP_EVERY)], now=5.0).result()
    store.lock("new", owner="a", ttl_s=1, now=5.0)
    left = store._writer.run(
        lambda db: [db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("dedupe", "locks")]
    )
    assert left == [sqlite.SWEEP + sqlite.SWEEP_EVERY, sqlite.SWEEP + 1]


def test_a_use_costs_the_same_however_many_there_were_and_a_moment_is_one_row(store: SqliteStore) -> None:
    def steps(name: str, now: float) -> int:
        """How many hundreds of steps SQLite's machine takes for one use."""
        ticks = count()
        store._writer.run(lambda db: db.set_progress_handler(lambda: next(ticks) and 0, 100))
        assert store.take(name, count=100_000, per_s=86_400, now=now) == 0.0
        store._writer.run(lambda db: db.set_progress_handler(None, 0))
        return next(ticks)

    def many(name: str, times: range) -> None:
        store._writer.run(lambda db: [sqlite._take(db, name, 100_000, 86_400.0, float(now), 5) for now in times])

    def rows(name: str) -> int:
        found: int = store._writer.run(
            lambda db: db.execute("SELECT count(*) FROM limits WHERE name = ?", (name,)).fetchone()[0]
        )
        return found

    many("rate", range(10))
    few = steps("rate", 10.0)
    many("rate", range(11, 5_000))
    assert steps("rate", 5_000.0) <= few + 2
    many("budget", range(10))
    for _ in range(20):
        assert store.take("budget", count=100_000, per_s=86_400, now=9.0, cost=7) == 0.0
    assert (rows("rate"), rows("budget")) == (5_001, 10)
