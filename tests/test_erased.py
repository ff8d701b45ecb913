"""A person who was erased: no byte of them is left in the files of the store."""

from __future__ import annotations

import threading
from itertools import count
from pathlib import Path

from engine.records import Accepted, Draft, Progress, Settled, Trace
from engine.stores.sqlite import SqliteStore

ANA = b"ana.maria@example.com"


def written(path: Path) -> list[str]:
    """The files of the store in which the address stands, in whatever case."""
    files = sorted(path.parent.glob(f"{path.name}*"))
    return [file.name for file in files if ANA in file.read_bytes().lower()]


def filled(path: Path) -> SqliteStore:
    """A store with Ana everywhere: waiting, delivered, dead, half done, in others' requests, in ids and limits."""
    numbers = count(1)
    store = SqliteStore(path, new_id=lambda: f"d{next(numbers)}")
    store._writer.run(lambda db: db.execute("PRAGMA secure_delete = OFF").fetchone())  # as SQLite is by itself

    def put(event_id: str, email: str, key: str | None = None) -> int:
        body = b'{"email":"%s","padding":"%s"}' % (email.encode(), b"x" * 3000)
        event = Accepted("crm", "abc", event_id, body, 1.0, (Draft("note", key),), dedupe_s=1e9)
        return store.put([event], now=1.0).result()[0].deliveries[0].seq

    for number in range(40):
        done = put(f"done {number}", "Ana.Maria@example.com")
        store.settle(None, [Settled(done, "delivered")], now=2.0)
    waits, dies, other = put("e1", "ANA.MARIA@example.com", ANA.decode()), put(ANA.decode(), "ana.maria@example.com"), 0
    other = put("e2", "bia@example.com")
    half = Progress("b1", "note", "poll", {"row": ANA.decode()}, records=[{"to": ANA.decode()}, {}])
    store.save_progress(None, half, [waits, other], now=2.0)
    trace = Trace("POST", "https://crm.example", 400, f'[{{"to": "{ANA.decode()}"}}]', "no")
    store.settle(None, [Settled(dies, "rejected", reason="no", trace=trace)], now=3.0)
    store.settle(
        None, [Settled(put("e3", "bia@example.com"), "rejected", reason=f"not {ANA.decode()}", trace=trace)], now=3.0
    )
    store.take(f"crm/abc:mine:{ANA.decode()}", count=1, per_s=1e9, now=3.0)  # as it was named once
    return store


def test_of_an_erased_person_no_byte_is_left_in_any_file_of_the_store(tmp_path: Path) -> None:
    path = tmp_path / "connect.db"
    store = filled(path)
    assert "connect.db-wal" in written(path)
    found = store.forget("Ana.Maria@Example.com ", now=5.0)
    assert found == {"waiting": 1, "dead": 1, "dedupe": 2, "progress": 1, "traces": 1, "limits": 1, "mentioned": 0}
    assert written(path) != []  # it is deleted, and may be read all the same
    assert store.scrub() is True
    assert written(path) == []
    assert [(dead.event_id, dead.reason, dead.trace) for dead in store.dead()] == [("e3", "not ***", None)]
    store.close()
    assert written(path) == []


def test_another_process_reads_and_writes_on_after_the_file_was_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "connect.db"
    serving = filled(path)
    lease = serving.lease("crm", "abc", owner="w1", ttl_s=60, now=4.0)
    assert lease is not None
    stop = threading.Event()
    numbers = count(1)

    def put() -> None:
        while not stop.is_set():
            event = Accepted("crm", "abc", f"n{next(numbers)}", b"{}", 1.0, (Draft("tag"),))
            serving.put([event], now=4.0).result()

    sender = threading.Thread(target=put)
    sender.start()
    other = SqliteStore(path)
    other.forget("ana.maria@example.com", now=5.0)
    assert other.scrub() is True
    stop.set()
    sender.join()
    assert written(path) == []
    put_in = next(numbers) - 1
    assert len(serving.read(lease, "tag", limit=100_000, now=9.0)) == put_in
    assert [each.event_id for each in serving.read(lease, "note", limit=9, now=9.0)] == ["e2"]
    (lane,) = other.lanes()
    assert lane.accepted == lane.delivered + lane.rejected + lane.skipped + lane.waiting == 44 + put_in
    other.close()
    serving.close()


def test_where_a_reader_stands_in_the_way_it_says_so(tmp_path: Path) -> None:
    path = tmp_path / "connect.db"
    store = filled(path)
    quick = SqliteStore(path, busy_s=0.1)
    with store._readers.reading() as db:
        db.execute("SELECT count(*) FROM deliveries").fetchone()
        quick.forget("ana.maria@example.com", now=5.0)
        assert quick.scrub() is False
    assert quick.scrub() is True
    assert written(path) == []
    quick.close()
    store.close()
