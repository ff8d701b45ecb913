"""What only the PostgreSQL store has: several hosts that write at once, and a server that refuses, dies or is full."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import postgres_server
import psycopg
import pytest
from command import EVENTS, KEYS, SECRETS, Running, connect, make_project, post, soon
from kinds_of_store import numbered
from test_sqlite import Backwards
from test_stores import Walk, answer, everything_waiting, sums

from engine.errors import LeaseLost, StoreUnavailable, UsageError
from engine.records import Accepted, Delivery, Draft, LaneChange, Lease, Part, Progress, Settled, TokenRow
from engine.stores import opening
from engine.stores.memory import MemoryStore
from engine.stores.postgres import PostgresStore, address, arrivals, connections, reading, schema, settling, waking
from engine.stores.postgres import lanes as lanes_of_store
from engine.stores.waiting import Waiting
from engine.stores.waiting import waiting as oldest_waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engine.stores.postgres.connections import Db

pytestmark = pytest.mark.skipif(postgres_server.why_none() is not None, reason=str(postgres_server.why_none()))


@pytest.fixture
def url() -> str:
    return postgres_server.shared().fresh_schema()


@pytest.fixture
def store(url: str) -> Iterator[PostgresStore]:
    made = PostgresStore(url, new_id=numbered())
    yield made
    made.close()


@pytest.fixture(scope="module")
def own_server() -> Iterator[postgres_server.Server]:
    """One that may be killed, durable as in earnest, with few connections."""
    server = postgres_server.Server(durable=True, settings=("max_connections=12", "superuser_reserved_connections=0"))
    yield server
    server.remove()


def event(event_id: str = "e1", *, key: str | None = None, client: str = "abc", dedupe_s: float = 0) -> Accepted:
    return Accepted("crm", client, event_id, b"{}", 0.0, (Draft("task", key),), dedupe_s)


def leased(store: PostgresStore, now: float = 0.0, owner: str = "w1") -> Lease:
    lease = store.lease("crm", "abc", owner=owner, ttl_s=60, now=now)
    assert lease is not None
    return lease


def sql(url: str, *statements: str) -> list[tuple[Any, ...]]:
    """Done by another program, in the store's schema; the rows of the last one."""
    where = address.parsed(url)
    with psycopg.connect(where.url, autocommit=True) as connection:
        connection.execute(f"SET search_path = {where.schema}".encode())
        for statement in statements:
            cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def others(url: str, what: str) -> int:
    """How many connections of stores were cut or cancelled."""
    named = "SELECT {}(pid) FROM pg_stat_activity WHERE application_name = 'connect' AND pid <> pg_backend_pid()"
    return len(sql(url.replace("?", "?application_name=test&"), named.format(what)))


# What is committed stays


def test_all_of_a_lane_is_there_for_another_host(url: str, store: PostgresStore) -> None:
    store.put([event("e1", dedupe_s=60), event("e2", key="ana"), event("e3")], now=0.0).result()
    lease = leased(store)
    progress = Progress("b1", "task", "poll", {"job": {"id": "7"}})
    store.save_progress(lease, progress, [1], now=1.0)
    store.settle(lease, [Settled(3, "rejected", reason="no\0")], now=1.0, change=LaneChange(not_before=5.0, failures=2))
    store.save_token("crm", "abc", "main", TokenRow({"value": "t"}, 0.0, None, "f"))
    other = PostgresStore(url)
    assert (other.lanes(), other.dead()) == (store.lanes(), store.dead())
    assert other.dead()[0].reason == "no\0"
    assert other.token("crm", "abc", "main") == TokenRow({"value": "t"}, 0.0, None, "f")
    assert [each for each, _ in other.progress(lease, "task", now=2.0)] == [progress]
    assert other.put([event("e1", dedupe_s=60)], now=2.0).result()[0].duplicate
    assert other.lease("crm", "abc", owner="w2", ttl_s=9, now=60.0) == Lease(
        "crm", "abc", "w2", 2, 69.0, 5.0, failures=2
    )
    with pytest.raises(LeaseLost):
        store.settle(lease, [Settled(2, "delivered")], now=61.0)
    assert [each.key for each in other.read(leased(other, 70.0), "task", limit=9, now=70.0)] == ["ana"]
    other.close()


def test_what_was_queued_before_closing_is_stored(url: str) -> None:
    store = PostgresStore(url)
    futures = [store.put([event(f"e{n}")], now=0.0) for n in range(300)]
    store.close()
    assert all(future.result() for future in futures)
    reopened = PostgresStore(url)
    assert [lane.waiting for lane in reopened.lanes()] == [300]
    reopened.close()


@contextmanager
def lane_locked(url: str) -> Iterator[None]:
    """Another transaction holds the lane's row meanwhile."""
    where = address.parsed(url)
    with psycopg.connect(where.url) as connection:
        connection.execute(f"SET search_path = {where.schema}".encode())
        connection.execute("SELECT 1 FROM lanes FOR UPDATE")
        yield


def test_puts_that_wait_together_share_one_commit_and_one_bad_one_harms_no_other(
    url: str, store: PostgresStore
) -> None:
    store.put([event("first")], now=0.0).result()
    with lane_locked(url):
        held = store.put([event("held")], now=0.0)
        time.sleep(0.1)
        futures = [store.put([event(f"e{n}", key="\ud800" if n == 3 else "ana")], now=0.0) for n in range(50)]
    assert isinstance(futures[3].exception(10), UnicodeEncodeError)
    seqs = [future.result(10)[0].deliveries[0].seq for n, future in enumerate(futures) if n != 3]
    assert (held.result(10)[0].deliveries[0].seq, seqs) == (2, list(range(3, 52)))
    assert [lane.waiting for lane in store.lanes()] == [51]
    with lane_locked(url):
        store.put([event("held")], now=0.0)
        time.sleep(0.1)
        futures = [store.put([event(f"x{n}")], now=0.0) for n in range(50)]
    assert len([future.result(10) for future in futures]) == 50
    assert sql(url, "SELECT count(DISTINCT xmin::text) FROM deliveries WHERE event_id LIKE 'x%'") == [(1,)]


def test_a_key_of_many_kilobytes_keeps_its_order_and_comes_back_whole(store: PostgresStore) -> None:
    key = "".join(random.Random(1).choices("abcdefgh", k=20_000))
    store.put([event("e1", key=key), event("e2", key=f"{key}!"), event("e3", key=key)], now=0.0).result()
    lease = leased(store)
    store.settle(lease, [Settled(1, "later", due_at=9.0)], now=0.0)
    assert [each.key for each in store.read(lease, "task", limit=9, now=1.0)] == [f"{key}!"]
    store.settle(lease, [Settled(1, "rejected")], now=9.0)
    assert [each.seq for each in store.read(lease, "task", limit=9, now=9.0)] == [2, 3]
    assert [letter.key for letter in store.dead(key=key)] == [key]


@pytest.mark.parametrize("seed", range(10, 14))
def test_any_walk_is_as_in_memory_where_readers_begin_further_behind_after_every_settling(
    store: PostgresStore, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "RAISE_EVERY", 1)
    monkeypatch.setattr(settling, "PART", 2)
    walk, model = Walk(seed), MemoryStore(new_id=numbered())
    for _ in range(150):
        operation = walk.step()
        expected = answer(model, operation)
        assert answer(store, operation) == expected
        if isinstance(expected, Lease):
            walk.leases[expected.client].append(expected)
        assert walk.seen(store, "postgres") == walk.seen(model, "postgres")
    for client, (accepted, delivered, rejected, skipped, waiting) in sums(store).items():
        assert accepted == delivered + rejected + skipped + waiting
        assert waiting == everything_waiting(store, client, now=walk.now + 1000)


def test_a_store_that_was_emptied_while_in_use_takes_nothing_in(url: str, store: PostgresStore) -> None:
    store.put([event("e1")], now=0.0).result()
    sql(url, "DELETE FROM lanes", "DELETE FROM deliveries")
    with pytest.raises(StoreUnavailable, match="the store was emptied or restored while it was in use; restart"):
        store.put([event("e2")], now=0.0).result()
    assert sql(url, "SELECT count(*) FROM deliveries") == [(0,)]


# Tables, made and refused


def test_a_start_waits_for_no_host_that_was_cut_off_while_it_made_tables(url: str) -> None:
    PostgresStore(url).close()
    address, _, schema = url.partition("?schema=")
    with psycopg.connect(address) as cut_off:
        cut_off.execute(f'SELECT 1 FROM "{schema}".schema_version FOR UPDATE'.encode())
        began = time.monotonic()
        PostgresStore(url).close()
        assert time.monotonic() - began < 5


def test_hosts_that_start_at_once_make_the_tables_once(url: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        stores = list(pool.map(lambda _: PostgresStore(url), range(6)))
    stores[0].put([event()], now=0.0).result()
    assert [store.lanes()[0].waiting for store in stores] == [1] * 6
    assert sql(url, "SELECT program, version FROM schema_version") == [(schema.PROGRAM, schema.VERSION)]
    for store in stores:
        store.close()


def test_a_host_that_made_the_tables_after_another_had_looked_is_in_nobodys_way(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql(url, f"CREATE SCHEMA {address.parsed(url).schema}")
    look, looks = schema._version, count(1)

    def looked(*of: Any) -> int | None:
        version = look(*of)
        if next(looks) == 1:
            PostgresStore(url).close()
        return version

    monkeypatch.setattr(schema, "_version", looked)
    PostgresStore(url).close()
    assert opening.schema_of(url, Path()) == opening.Schema(schema.VERSION, schema.VERSION)


def test_tables_of_the_first_version_take_records_one_by_one_once_they_are_brought_up_to_date(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = Progress("b1", "task", "each", {}, records=[{}, {}], members=[[1], [2]])
    with monkeypatch.context() as older:
        older.setattr(schema, "SCHEMA", schema.SCHEMA[:1])
        older.setattr(schema, "VERSION", 1)
        first = PostgresStore(url)
        first.put([event("e1"), event("e2")], now=0.0).result()
        first.close()
        sql(
            url,
            "INSERT INTO batches (lane, batch, action, progress) SELECT id, 'b1', 'task',"
            f" '{msgspec.json.encode(progress).decode()}'::bytea FROM lanes",
            "UPDATE deliveries SET batch = 'b1'",
        )
    assert sql(url, "SELECT version FROM schema_version") == [(1,)]
    with closing(PostgresStore(url)) as store:
        lease = store.lease("crm", "abc", owner="w", ttl_s=30.0, now=1.0)
        assert lease is not None
        assert store.add_progress(lease, "b1", "task", Part("each", "1", {"id": 7}), now=1.0)
        [(read, _)] = store.progress(lease, "task", now=1.0)
        assert read.saved == {"each": {"1": {"id": 7}}}
        store.settle(lease, [Settled(1, "delivered"), Settled(2, "delivered")], now=1.0)
    assert sql(url, "SELECT count(*) FROM parts") == [(0,)]
    assert opening.schema_of(url, Path()) == opening.Schema(schema.VERSION, schema.VERSION)


def test_a_newer_schema_is_refused_by_its_number(url: str) -> None:
    PostgresStore(url).close()
    sql(url, "UPDATE schema_version SET version = 99")
    with pytest.raises(StoreUnavailable) as refused:
        PostgresStore(url)
    assert str(refused.value) == (
        f"{address.parsed(url).shown} has schema version 99, this engine knows versions up to {schema.VERSION};"
        " use a newer engine"
    )
    with pytest.raises(StoreUnavailable, match="has schema version 99"):
        opening.schema_of(url, Path())


@pytest.mark.parametrize(
    "foreign",
    ["CREATE TABLE dead (to_someone TEXT)", "CREATE TABLE schema_version (installed_rank INTEGER, version TEXT)"],
)
def test_tables_of_another_program_are_refused_and_left_as_they_are(url: str, foreign: str) -> None:
    where = address.parsed(url)
    sql(url, f"CREATE SCHEMA {where.schema}", foreign)
    with pytest.raises(
        StoreUnavailable, match=r"of another program; give the store a schema of its own with \?schema="
    ):
        PostgresStore(url)
    tables = sql(url, f"SELECT count(*) FROM information_schema.tables WHERE table_schema = '{where.schema}'")
    assert tables == [(1,)]


def test_asking_which_version_there_is_makes_nothing(url: str) -> None:
    assert opening.schema_of(url, Path()) == opening.Schema(None, schema.VERSION)
    assert sql(url, "SELECT count(*) FROM information_schema.schemata WHERE schema_name = current_schema()") == [(0,)]


def test_a_database_of_another_encoding_is_refused(url: str) -> None:
    with suppress(psycopg.errors.DuplicateDatabase):
        sql(url, "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'")
    with pytest.raises(StoreUnavailable, match="the database is encoded as LATIN1; the store needs one of UTF8"):
        PostgresStore(url.replace("/postgres?", "/latin?"))


# What is said of a server

GRANT = "to this database; allow it with GRANT CONNECT and LOGIN, or name another"
LIMIT = "has no connection free; raise its CONNECTION LIMIT, or give each host fewer with ?connections="


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"user": "locked:hush-hush"}, "the server refuses the user or the password; check the store's URL"),
        ({"user": "nobody:hush-hush"}, "there is no such user; create it, or name another"),
        ({"database": "nowhere"}, "there is no such database; create it, or name another"),
        ({"database": "closed"}, f"the user may not connect {GRANT}"),
        ({"user": "no_log_in:hush-hush"}, f"the user may not connect {GRANT}"),
        ({"user": "no_room:hush-hush"}, f"the user or the database {LIMIT}"),
        (
            {"user": "no_room:hush-hush", "database": "full"},
            f"the user or the database {LIMIT}",
        ),
    ],
)
def test_a_refused_log_in_is_one_plain_sentence_without_the_password(wrong: dict[str, str], said: str) -> None:
    server = postgres_server.shared()
    server.lock_user("locked", "the-right-one")
    for each in (
        *("CREATE ROLE no_log_in NOLOGIN", "CREATE ROLE no_room LOGIN CONNECTION LIMIT 0"),
        *("CREATE DATABASE closed ALLOW_CONNECTIONS false", "CREATE DATABASE crowded CONNECTION LIMIT 0"),
    ):
        with suppress(psycopg.errors.DuplicateObject, psycopg.errors.DuplicateDatabase):
            sql(server.url(), each)
    with pytest.raises(StoreUnavailable) as refused:
        PostgresStore(server.url(**wrong))
    assert str(refused.value) == f"postgresql://127.0.0.1:{server.port}/{wrong.get('database', 'postgres')}: {said}"


def test_the_right_password_opens_a_schema_of_its_own(url: str) -> None:
    server = postgres_server.shared()
    server.lock_user("locked", "p@ss/%?#")
    where = server.url("locked_own", user="locked:p%40ss%2F%25%3F%23")
    sql(url, "GRANT CREATE ON DATABASE postgres TO locked")
    store = PostgresStore(where)
    assert store.put([event()], now=0.0).result()[0].deliveries
    store.close()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("postgresql:/user:hush@host/db", "a PostgreSQL store has a URL such as postgresql://user:password@host:5432/"),
        ("postgresql://user:hush@host:many/db", "the store's URL can't be read; it has the form postgresql://"),
        ("postgresql://user:hush@host/db?schema=My-Own", "schema=My-Own: a name of small letters, digits and _"),
        ("postgresql://host/db?user=user&password=hush", "the password stands before the host, so that it is never"),
        ("postgresql://user:hush@host/db?connections=1", "connections=1: a number from 2 to 1000"),
        ("postgresql://user:12/hush@host/db", "in the password of the store's URL / is written %2F, # %23"),
        ("postgresql://user:12#hush@host/db", "in the password of the store's URL / is written %2F, # %23"),
        ("postgresql//user:hush@host/db", "no store is called postgresql; known are memory:"),
        ("user:hush@host/db", "no store is called user; known are memory:"),
    ],
)
def test_a_url_that_is_none_is_refused_without_its_password(wrong: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        opening.open_store(wrong, Path(), {})
    assert str(refused.value).startswith(said)
    assert "hush" not in str(refused.value)


def test_a_parameter_that_is_none_is_refused_without_the_password() -> None:
    url = postgres_server.shared().url(user="connect:hush") + "&pasword=hush"
    with pytest.raises(StoreUnavailable, match="the URL has a parameter that libpq does not know") as refused:
        PostgresStore(url)
    assert "hush" not in str(refused.value)


def test_without_its_driver_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from pathlib import Path; from engine.stores.opening import open_store\n"
        "open_store('postgresql://host/db', Path(), {})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=Path.cwd())
    assert done.stderr.splitlines()[-1] == (
        "engine.errors.UsageError: a PostgreSQL store needs its driver: pip install 'daxgo-connect[postgres]'"
    )


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("53100", "the server's disk is full; free some space, then it goes on by itself (53100)"),
        ("25006", "the server takes no writes: a standby, or one that fails over; name the primary (25006)"),
        ("57014", "a statement was cancelled or took too long; it is tried again later (57014)"),
    ],
)
def test_a_server_that_can_not_write_is_said_and_it_goes_on_when_it_can(
    url: str, store: PostgresStore, state: str, said: str
) -> None:
    failing(url, state, times=1)
    with pytest.raises(StoreUnavailable) as refused:
        store.put([event("e1", key="a secret")], now=0.0).result()
    assert str(refused.value) == f"{address.parsed(url).shown}: {said}"
    assert store.lanes() == []
    store.put([event("e2")], now=0.0).result()
    assert [lane.waiting for lane in store.lanes()] == [1]


def failing(url: str, state: str, times: int) -> None:
    """The first so many deliveries that are inserted fail like that."""
    sql(
        url,
        "CREATE SEQUENCE failures",
        f"""
        CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF nextval('failures') <= {times} THEN RAISE EXCEPTION 'a secret' USING ERRCODE = '{state}'; END IF;
            RETURN NEW;
        END $$
        """,
        "CREATE TRIGGER failing BEFORE INSERT ON deliveries FOR EACH ROW EXECUTE FUNCTION fail()",
    )


@pytest.mark.parametrize("state", ["40001", "40P01"])
def test_what_others_got_in_the_way_of_is_done_again_and_not_for_ever(
    url: str, store: PostgresStore, state: str
) -> None:
    failing(url, state, times=11)
    with pytest.raises(StoreUnavailable, match="others changed the same rows again and again; try again"):
        store.put([event("e1")], now=0.0).result()
    store.put([event("e2")], now=0.0).result()  # the ninth to the twelfth
    assert [lane.accepted for lane in store.lanes()] == [1]


def test_two_that_lock_each_other_out_both_come_through(url: str, store: PostgresStore) -> None:
    store.put([event("e1"), event("e2", client="xyz")], now=0.0).result()
    where = address.parsed(url)
    with psycopg.connect(where.url) as other:
        other.execute(f"SET search_path = {where.schema}".encode())
        other.execute("SELECT 1 FROM lanes WHERE id = 2 FOR UPDATE")
        put = store.put([event("e3"), event("e4", client="xyz")], now=0.0)  # has 1, waits for 2
        time.sleep(0.2)
        with suppress(psycopg.errors.DeadlockDetected):
            other.execute("SELECT 1 FROM lanes WHERE id = 1 FOR UPDATE")
    assert len(put.result(20)) == 2
    assert [lane.waiting for lane in store.lanes()] == [2, 2]


# A server that dies


def test_nothing_that_was_answered_is_lost_when_backends_are_killed_and_the_server_starts_again(
    own_server: postgres_server.Server, caplog: pytest.LogCaptureFixture
) -> None:
    url = own_server.url("killed")
    store, answered, handed_out, told = PostgresStore(url), set[str](), set[str](), Counter[str]()
    over = threading.Event()

    def put(name: str) -> None:
        n = 0
        while not over.is_set():
            n += 1
            try:
                store.put([event(f"{name}{n}", key=name)], now=0.0).result(30)
                answered.add(f"{name}{n}")
            except StoreUnavailable as error:
                told[str(error).partition(": ")[2]] += 1
                time.sleep(0.02)

    def settle() -> None:
        while not over.is_set():
            with suppress(StoreUnavailable, LeaseLost):
                lease = store.lease("crm", "abc", owner="w1", ttl_s=60, now=0.0)
                if lease is None:
                    sql(url, "UPDATE lanes SET until = NULL")
                    continue
                read = store.read(lease, "task", limit=50, now=0.0)
                handed_out.update(each.event_id for each in read[:10])
                store.settle(lease, [Settled(each.seq, "delivered") for each in read[:10]], now=0.0)
                store.release(lease, wake_at=0.0)

    threads = [threading.Thread(target=put, args=(name,)) for name in "abcd"]
    threads.append(threading.Thread(target=lambda: _quietly(settle)))
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    for pid in own_server.backends()[:2]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # the server ends all others and recovers
    time.sleep(1.0)
    own_server.stop(signal.SIGQUIT)
    time.sleep(0.3)
    own_server.start()
    time.sleep(0.7)
    over.set()
    for thread in threads:
        thread.join(60)
    assert [record.getMessage() for record in caplog.records] == []  # the driver keeps out of our log
    store.put([event("last")], now=0.0).result()
    [lane] = store.lanes()
    waiting = sql(url, "SELECT event_id, key, seq FROM deliveries ORDER BY seq")
    assert lane.accepted == lane.delivered + lane.waiting
    assert lane.waiting == len(waiting)
    assert lane.accepted >= len(answered) + 1 > 50
    uncertain = told["the connection broke before it was known whether all was stored; send it again"]
    assert lane.accepted - 1 - len(answered) <= 4 * uncertain  # of those nobody was told that they are stored
    assert answered - handed_out - {event_id for event_id, _, _ in waiting} == set()
    for name in "abcd":
        numbers = [int(event_id[1:]) for event_id, key, _ in waiting if key == name]
        assert numbers == sorted(numbers)
    store.close()


def _quietly(work: Callable[[], None]) -> None:
    with suppress(psycopg.Error):
        work()


def test_connections_that_are_used_up_are_said_and_it_goes_on_when_one_is_free(
    own_server: postgres_server.Server,
) -> None:
    url = own_server.url("crowded")
    PostgresStore(url).close()
    where = address.parsed(url)
    store = PostgresStore(url)
    said = (
        f"{where.shown}: the server has no connection free;"
        " raise its max_connections, or give each host fewer with ?connections="
    )
    others(url, "pg_terminate_backend")  # it has one idle, and would go on with that
    with crowd(where.url):
        for verb in (lambda: PostgresStore(url), lambda: store.put([event()], now=0.0).result(), store.lanes):
            with pytest.raises(StoreUnavailable) as refused:
                verb()
            assert str(refused.value) == said
    soon(lambda: _stores(store))
    assert [lane.waiting for lane in store.lanes()] == [1]
    store.close()


@contextmanager
def crowd(url: str) -> Iterator[None]:
    """All connections that a server has."""
    with ExitStack() as stack:
        refused = 0
        while refused < 20:  # one that was just closed, or refused, is free a moment later
            try:
                stack.enter_context(closing(psycopg.connect(url)))
            except psycopg.OperationalError:
                refused += 1
                time.sleep(0.1 if refused % 2 else 0)
        yield


def _stores(store: PostgresStore) -> bool:
    try:
        return bool(store.put([event("e2")], now=0.0).result())
    except StoreUnavailable:
        return False


def test_a_server_that_is_not_there_is_said_at_once_and_used_again_when_it_is_back(
    own_server: postgres_server.Server,
) -> None:
    store = PostgresStore(own_server.url("gone"))
    store.put([event("e1")], now=0.0).result()
    own_server.stop()
    for verb in (
        store.lanes,
        lambda: store.put([event("e2")], now=0.0).result(),
        lambda: PostgresStore(own_server.url()),
    ):
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="no server answers there; check host and port, or start it"):
            verb()
        assert time.monotonic() - began < 3
    own_server.start()
    store.put([event("e3")], now=0.0).result()
    assert [lane.waiting for lane in store.lanes()] == [2]
    store.close()


def test_a_server_that_shuts_down_is_not_mistaken_for_one_without_the_database(
    own_server: postgres_server.Server,
) -> None:
    url = own_server.url("leaving")
    with psycopg.connect(url.partition("?")[0]):  # it waits for this one
        assert own_server._process is not None
        own_server._process.send_signal(signal.SIGTERM)
        ends_at = time.monotonic() + 30
        while "shutting down" not in (said := _why_not(url)):
            assert time.monotonic() < ends_at
            assert said == "", said
        with pytest.raises(StoreUnavailable, match="the server is not there or just starting; it goes on by itself"):
            PostgresStore(url)
    own_server.stop()
    own_server.start()


def _why_not(url: str) -> str:
    """What the server itself says."""
    try:
        psycopg.connect(url.partition("?")[0]).close()
    except psycopg.OperationalError as error:
        return str(error)
    return ""


def test_connections_that_were_cut_while_idle_are_not_noticed(url: str, store: PostgresStore) -> None:
    store.put([event("e1")], now=0.0).result()
    assert others(url, "pg_terminate_backend") >= 1
    soon(lambda: not others(url, ""))
    store.put([event("e2")], now=0.0).result()
    others(url, "pg_terminate_backend")
    assert [lane.waiting for lane in store.lanes()] == [2]


def test_no_thread_waits_for_ever_for_a_connection(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "PATIENCE_S", 0.2)
    store = PostgresStore(f"{url}&connections=2")
    busy = pytest.raises(StoreUnavailable, match=r"all 2 connections are busy; see \?connections=")
    with store._connections.lent(), store._connections.lent(), busy:
        store.lanes()
    assert store.lanes() == []
    store.close()


# Waking


PUT_LATER = """
import sys, time
from engine.records import Accepted, Draft
from engine.stores.postgres import PostgresStore
store = PostgresStore(sys.argv[1])
store.put([Accepted("crm", "other", "e0", b"{}", 0.0, (), 0)], now=0.0).result()
for n in range(int(sys.argv[2])):
    sys.stdin.readline()
    at = time.time()
    store.put([Accepted("crm", f"c{n}", f"e{n}", b"{}", 0.0, (Draft("task"),), 0)], now=0.0).result()
    print(at, flush=True)
"""


def test_a_put_of_another_process_wakes_one_that_waits(url: str, store: PostgresStore) -> None:
    took = []
    with Process(PUT_LATER, url, "5") as other:
        store.wait(0.01)
        soon(lambda: store._waker.listening)
        for _ in range(5):
            assert store.due_lanes(now=-1.0) == []
            other.say("go")
            store.wait(10.0)
            woken_at = time.time()
            took.append(woken_at - float(other.line()))
    assert sorted(took)[2] < 0.2
    assert max(took) < 2  # and not ten seconds


def test_what_was_put_since_the_last_look_is_not_slept_over(url: str, store: PostgresStore) -> None:
    store.wait(0.01)
    soon(lambda: store._waker.listening)
    assert store.due_lanes(now=5.0) == []
    heard = store._waker._heard
    other = PostgresStore(url)
    other.put([event()], now=0.0).result()
    other.close()
    soon(lambda: store._waker._heard > heard + 1)  # the other says something at its start, too
    began = time.monotonic()
    store.wait(10.0)
    assert time.monotonic() - began < 1
    assert store.due_lanes(now=5.0) == [("crm", "abc")]


def test_one_who_listens_waits_longer_but_not_past_what_comes_due(store: PostgresStore) -> None:
    store.wait(0.01)
    soon(lambda: store._waker.listening)
    heard = store._waker._heard
    store.put([event()], now=0.0, hold_s=0.2).result()
    soon(lambda: store._waker._heard > heard)
    assert store.due_lanes(now=0.0) == []
    began = time.monotonic()
    store.wait(0.01)
    assert 0.1 < time.monotonic() - began < 0.45


def test_a_listener_that_is_cut_off_is_made_anew_and_meanwhile_one_looks(url: str, store: PostgresStore) -> None:
    store.wait(0.01)
    soon(lambda: store._waker.listening)
    listeners = "SELECT {} FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND query LIKE '%{}%'"
    mine = store._address.channel
    sql(url, listeners.format("pg_terminate_backend(pid)", f'"{mine}"'))
    soon(lambda: not store._waker.listening)
    store.due_lanes(now=0.0)
    began = time.monotonic()
    store.wait(0.05)
    assert time.monotonic() - began < 0.4
    soon(lambda: store._waker.listening)
    assert sql(url, listeners.format("count(*)", f'"{mine}"')) == [(1,)]


def test_where_listening_is_refused_one_looks(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "_notifies", lambda *_: False)
    store = PostgresStore(url)
    began = time.monotonic()
    store.wait(0.05)
    assert time.monotonic() - began < 0.4
    assert store._waker._thread is None
    store.put([event()], now=0.0).result()
    assert store.due_lanes(now=0.0) == [("crm", "abc")]
    store.close()
    assert waking.LONGEST_S <= 0.5


# Several hosts


class Process:
    """A Python program with its lines."""

    def __init__(self, code: str, *args: str) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen([sys.executable, "-c", code, *args], text=True, **pipes)  # type: ignore[call-overload]

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def say(self, line: str) -> None:
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def line(self) -> str:
        return str(self._process.stdout.readline()).rstrip("\n")


# Puts, and delivers what is due, as if it were a host; a line for each thing that a vendor would see.
HOST = """
import json, random, sys, threading, time
from engine.errors import LeaseLost
from engine.records import Accepted, Draft, Settled
from engine.stores.postgres import PostgresStore
url, name, count, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
chance, store = random.Random(seed), PostgresStore(url)
print("ready", flush=True)
sys.stdin.readline()
one_at_a_time = threading.Lock()

def tell(facts):
    with one_at_a_time:
        print(json.dumps(facts), flush=True)

def put():
    futures = []
    for n in range(count):
        key = chance.choice([None, "ana", "bob"])
        drafts = (Draft("task", key), Draft("note", key, ("task",)))[: chance.randint(1, 2)]
        client = chance.choice(["abc", "xyz"])
        # The same event comes by way of every host.
        both = Accepted("crm", client, f"shared-{n}", b"{}", 0.0, (), 3600)
        own = Accepted("crm", client, f"{name}-{n}", b"{}", 0.0, drafts, 0)
        futures.append(store.put([own, both], now=time.time()))
        if n % 7 == 0:
            futures[-1].result()
    accepted = [future.result() for future in futures]
    tell({"put": sum(len(one[0].deliveries) for one in accepted)})

def deliver():
    idle = 0
    while idle < 20:
        due = store.due_lanes(now=time.time())
        idle = 0 if due else idle + 1
        if not due:
            time.sleep(0.05)
        for connector, client in due:
            lease = store.lease(connector, client, owner=name, ttl_s=30, now=time.time())
            if lease is None:
                continue
            try:
                for action in store.waiting_actions(lease):
                    read = store.read(lease, action, limit=chance.randint(1, 20), now=time.time())
                    done = []
                    for each in read:
                        kind = chance.choice(["delivered", "delivered", "delivered", "later", "rejected"])
                        if each.attempts > 2 and kind == "later":
                            kind = "delivered"
                        if kind == "later" and each.key is not None:
                            done.append(Settled(each.seq, "later", time.time() + 0.01, each.attempts + 1))
                            break
                        done.append(Settled(each.seq, kind, time.time(), each.attempts + 1))
                        if kind == "delivered":
                            facts = [client, action, each.key, each.seq, each.id]
                            tell({"sent": facts, "at": time.monotonic()})
                        while store.take("calls", count=5, per_s=0.05, now=time.time()):
                            time.sleep(0.005)
                        tell({"used": time.time()})
                    store.settle(lease, done, now=time.time())
            except LeaseLost:
                tell({"lost": client})
            finally:
                store.release(lease, wake_at=time.time())

threads = [threading.Thread(target=each) for each in (put, deliver, deliver)]
for each in threads: each.start()
for each in threads: each.join()
store.close()
print("over", flush=True)
"""


def test_hosts_that_put_lease_and_settle_at_once_lose_nothing_and_keep_each_keys_order(url: str) -> None:
    hosts = [Process(HOST, url, f"h{n}", "60", str(n)) for n in range(3)]
    for host in hosts:
        assert host.line() == "ready"
    for host in hosts:
        host.say("go")
    seen: list[dict[str, Any]] = []
    for host in hosts:
        while (line := host.line()) != "over":
            assert line, "a host ended too early"
            seen.append(json.loads(line))
        host.__exit__()
    store = PostgresStore(url)
    put, sent = sum(each.get("put", 0) for each in seen), [each["sent"] for each in seen if "sent" in each]
    counts = sums(store)
    accepted, delivered, rejected, skipped, waiting = (sum(each) for each in zip(*counts.values(), strict=True))
    shared = sql(url, "SELECT count(*) FROM dedupe")[0][0]  # a lane has each of them once
    assert (accepted, waiting, [each for each in seen if "lost" in each]) == (put + shared, 0, [])
    assert delivered + rejected + skipped == accepted
    assert len(sent) == delivered == len({each[4] for each in sent})
    assert len(store.dead(limit=9999)) == rejected
    by_time = sorted((each for each in seen if "sent" in each), key=lambda each: each["at"])
    order: dict[tuple[str, str, str], list[int]] = {}
    for client, action, key, seq, _ in (each["sent"] for each in by_time):
        if key is not None and action == "task":
            order.setdefault((client, action, key), []).append(seq)
    assert len(order) == 4
    assert all(seqs == sorted(seqs) for seqs in order.values())
    used = sorted(each["used"] for each in seen if "used" in each)
    assert len(used) >= delivered
    [[most]] = sql(
        url,
        "SELECT max((SELECT sum(cost) FROM uses AS o WHERE o.at >= u.at AND o.at < u.at + 0.05)) FROM uses AS u",
    )
    assert most <= 5
    store.close()


def test_of_many_that_ask_two_stores_at_once_as_many_get_it_as_there_is_room(url: str, store: PostgresStore) -> None:
    other = PostgresStore(url)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(by.take, "calls", count=7, per_s=2, now=1.0) for by in (store, other) * 20]
        locks = [
            pool.submit(by.lock, "token", owner=f"o{n}", ttl_s=9, now=1.0) for n, by in enumerate((store, other) * 10)
        ]
        slots = [
            pool.submit(by.acquire, "crm", slots=3, owner=f"o{n}", ttl_s=9, now=1.0)
            for n, by in enumerate((store, other) * 10)
        ]
        leases = [pool.submit(by.lease, "crm", "abc", owner="w", ttl_s=9, now=1.0) for by in (store, other) * 10]
    other.close()
    assert sorted(each.result() for each in asked) == [0.0] * 7 + [2.0] * 33
    assert [sum(each.result() for each in of) for of in (locks, slots)] == [1, 3]
    assert [each.result() for each in leases] == [None] * 20  # a lane that never held anything
    store.put([event()], now=0.0).result()
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda n: store.lease("crm", "abc", owner=f"w{n}", ttl_s=9, now=1.0), range(20)))
    assert [lease.fence for lease in taken if lease is not None] == [1]


def test_deliveries_of_a_key_that_hosts_put_at_once_come_in_the_order_of_their_commits(
    url: str, store: PostgresStore
) -> None:
    other = PostgresStore(url)
    with ThreadPoolExecutor(2) as pool:

        def puts(by: PostgresStore, name: str) -> list[int]:
            found = [by.put([event(f"{name}{n}", key="ana")], now=0.0).result() for n in range(60)]
            return [one[0].deliveries[0].seq for one in found]

        first, second = pool.map(puts, (store, other), "ab")
    assert first == sorted(first)
    assert second == sorted(second)
    assert sorted(first + second) == list(range(1, 121))
    lease, seen = leased(store), list[Delivery]()
    while read := store.read(lease, "task", limit=7, now=0.0):
        seen += read
        store.settle(lease, [Settled(each.seq, "delivered") for each in read], now=0.0)
    assert [each.seq for each in seen] == list(range(1, 121))
    other.close()


# Tokens at rest


def test_an_encrypted_token_stands_nowhere_in_the_table(url: str) -> None:
    store = PostgresStore(url, cipher=Backwards(b"k1:"))
    row = TokenRow({"value": "very-secret"}, 0.0, 9.0, "f")
    store.save_token("crm", "abc", "main", row)
    assert store.token("crm", "abc", "main") == row
    store.close()
    assert b"very-secret" not in sql(url, "SELECT saved FROM tokens")[0][0]
    other_key = PostgresStore(url, cipher=Backwards(b"k2:"))
    with pytest.raises(StoreUnavailable, match=r"the token crm/abc/main can't be decrypted"):
        other_key.token("crm", "abc", "main")
    other_key.close()


# Plans: what stays fast however much waits


def pages(store: PostgresStore, statement: str, values: tuple[Any, ...]) -> tuple[int, list[str]]:
    """How many pages a statement looks at, and the indexes that it walks."""

    def explain(db: Db) -> Any:
        return db.value(f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {statement}", *values)

    [found] = store._connections.read(explain, begin=connections.BEGIN)
    top = found["Plan"]
    return top["Shared Hit Blocks"] + top["Shared Read Blocks"], re.findall("'Index Name': '(\\w+)'", str(found))


def test_what_a_full_lane_costs_is_what_is_read_and_not_what_waits(url: str, store: PostgresStore) -> None:
    sql(url, "ANALYZE deliveries")  # while it is empty, as after a quiet night
    for n in range(20):
        keys = [None, "ana", *(f"k{n}-{each}" for each in range(100))]
        events = [
            Accepted("crm", "abc", f"e{n}-{each}", b"x" * 500, 0.0, (Draft("task", keys[each % 102]), Draft("note")))
            for each in range(500)
        ]
        store.put(events, now=1.0).result()
    statements = {
        reading.READ: (1, "task", 9.0, 1, 100),
        reading.BACKLOG: (1, "task", 9.0, 1, 100),
        reading.NEXT_TURN: (1, "task", 9.0),
        reading.NEXT_BATCH: (1, "task", 9.0),
        reading.ACTIONS: (1,),
        reading.BATCHES: (1, "task"),
        reading.MEMBERS: (1, "task"),
        lanes_of_store.EARLIEST: (1, 1),
        lanes_of_store.LANES: (),
        settling.ROWS: (list(range(1, 101)), [1]),
        settling.WAITING_FOR: (list(range(1, 101)), [1]),
        settling.FORSAKEN: (),
        settling.OF_KEY: (1, "task", "ana", 1, 100),
        settling.TURN_BEFORE: (1, "task", "ana", 9_999),
        arrivals.TURNS: ([1, 1], ["task"] * 2, ["ana", "k1-1"], [0.0, 0.0]),
        reading.BEHIND: (1, "task", "ana", 9_999),
    }
    for _ in range(2):
        looked_at = {statement: pages(store, statement, values) for statement, values in statements.items()}
        assert {statement: found for statement, found in looked_at.items() if found[0] > 900} == {}  # of 3,000
        assert looked_at[reading.READ][1] == ["lanes_pkey", "deliveries_turn", "deliveries_held"]
        for statement, more in {settling.MOVE: (), settling.LATER: ([0] * 100, [""] * 100, ["b1"] * 100)}.items():
            assert pages(store, statement, (list(range(1, 101)), [1.0] * 100, *more))[1][0] == "deliveries_pkey"
        sql(url, "ANALYZE")
        store.close()
        store = PostgresStore(url)
    assert [each.seq for each in store.read(leased(store, now=1.0), "task", limit=3, now=1.0)] == [1, 3, 5]
    store.close()


def test_a_reader_begins_behind_what_has_left(url: str, store: PostgresStore) -> None:
    futures = [store.put([event(f"e{n}")], now=float(n)) for n in range(settling.RAISE_EVERY + 20)]
    assert all(future.result() for future in futures)
    lease = leased(store, now=9999.0)
    for first in range(1, settling.RAISE_EVERY + 1, 100):
        store.settle(lease, [Settled(seq, "delivered") for seq in range(first, first + 100)], now=9999.0)
    assert sql(url, "SELECT low_at FROM lanes") == [(float(settling.RAISE_EVERY),)]
    store.put([event("early")], now=5.0).result()
    assert sql(url, "SELECT low_at FROM lanes") == [(5.0,)]
    assert store.read(lease, "task", limit=1, now=9999.0)[0].event_id == "early"


# The whole


def test_serve_takes_in_and_delivers_with_its_store_in_postgresql(url: str, tmp_path: Path) -> None:
    home = make_project(tmp_path)
    with Running("sandbox", "--port", "0", project=home) as sandbox:
        via = sandbox.lines_until("export XYZ_WRITE_KEY")[1].removeprefix("export CONNECT_VIA=")
        with Running("serve", "--store", url, "--port", "0", "--via", via, project=home, **SECRETS) as serve:
            said = serve.lines_until("Tokens are")
            assert f"Store: {url.replace('connect@', '')}" in [line.replace("connect@", "") for line in said]
            port = said[0].partition("127.0.0.1:")[2].partition("/")[0]
            answers = {}
            for name, body in EVENTS.items():
                status, told = post(f"http://127.0.0.1:{port}/{name}", body, **{"X-Connect-Key": KEYS[name]})
                answers[name] = (status, told.get("outcome") or told.get("accepted"))
            assert answers == {"responsys": (202, 1), "salesforce": (202, 1), "rdstation": (200, "delivered")}
            soon(lambda: all(not one["waiting"] for one in _lanes(home, url)), within_s=30)
            ended = serve.end()
        assert ended.code == 0
        assert {one["connector"]: one["delivered"] for one in _lanes(home, url)} == dict.fromkeys(EVENTS, 1)


def test_a_store_that_nobody_wrote_to_is_empty_and_looking_at_it_does_not_make_it(url: str, tmp_path: Path) -> None:
    home = make_project(tmp_path)
    assert _lanes(home, url) == []
    ended = connect("plan", "connectors", "connectors", "--from-store", url, "1", project=home)
    assert (ended.code, ended.err) == (2, f"connect: {opening.shown(url)}: no store is there\n")
    assert opening.schema_of(url, home).found is None


def test_what_waits_in_it_can_be_looked_at_by_a_plan(url: str, store: PostgresStore) -> None:
    drafts = (Draft("task"), Draft("note"))
    for n, client in enumerate(["abc", "xyz", "abc", "xyz"]):
        store.put([Accepted("crm", client, f"e{n}", b'{"n":%d}' % n, 0.0, drafts)], now=0.0).result()
    found = oldest_waiting(url, Path(), 3)
    assert found == [Waiting("crm", client, f"e{n}", b'{"n":%d}' % n) for n, client in enumerate(["abc", "xyz", "abc"])]
    assert store.held(now=0.0) == {}


def _lanes(home: Path, url: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = connect("status", "--json", "--store", url, project=home).json["lanes"]
    return found


def test_a_host_that_stops_between_two_statements_is_idle_to_the_server_and_loses_its_locks(
    url: str, store: PostgresStore
) -> None:
    """Whatever it had sent: were it busy, no timeout of the server's would take the locks away."""
    store.put([event("e1")], now=0.0).result()
    states = "SELECT state FROM pg_stat_activity WHERE application_name = 'connect' AND pid = {}"

    def work(db: Db) -> tuple[Any, ...]:
        pid = db.value("SELECT pg_backend_pid()")
        db.rows(lanes_of_store.LOCK, [1])
        return sql(url, states.format(pid))[0]

    assert store._connections.transact(work) == ("idle in transaction",)
    assert store._connections.once(work) == ("idle",)
