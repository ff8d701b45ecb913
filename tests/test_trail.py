from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import postgres_server
import pytest
from conftest import REFUSED, START, Heard, Shop, Vendor, reply

from engine.errors import StoreUnavailable
from engine.records import Delivery, Trace
from engine.stores.sqlite import SqliteStore
from engine.trail import packing, writing
from engine.trail.digests import Digests, addresses_in
from engine.trail.entries import (
    Attempt,
    Cursor,
    Exchange,
    Followed,
    Found,
    Missing,
    Query,
    Stages,
    State,
    Taken,
    cursor_of,
)
from engine.trail.opening import keeper_of
from engine.trail.packing import Events
from engine.trail.recording import Limits, Recorder
from engine.trail.sqlite import MEMORY, SqliteKeeper, beside
from engine.trail.writing import Memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engine.trail.entries import Keeper

EVERY = Query()
SECRET = "s3cr3t-t0k3n"
CRM = """
receive:
  client: "${ event.client }"
  id: "${ event.id }"
  schema:
    type: object
    properties:
      id: {type: string}
      client: {type: string}
      email: {type: string, x-personal: true}
      name: {type: string, x-personal: true}
    required: [id, client]
secrets: {token: {title: Token}}
auth: {place: {query: {token: "{{ secrets.token }}"}}}
replies: {message: "${ response.body.error }"}
actions:
  note:
    batch: {records: 3}
    key: "${ event.email }"
    record: {id: "${ event.id }", email: "${ event.email }", name: "${ event.name }"}
    request: {path: /notes, json: {notes: "${ batch.records }"}}
"""
ONE = CRM.replace("    batch: {records: 3}\n", "").replace('notes: "${ batch.records }"', 'note: "${ record }"')
HOSTILE = [
    "<script>alert(1)</script>",
    "\u202etxt.exe \u0000\u2066مرحبا",
    "a/../../b?c=d&e#f%2F..",
    "x" * 200,
    "'; DROP TABLE passed; --",
    "100%_",
]


def sqlite(folder: Path) -> Keeper:
    return SqliteKeeper(folder / "connect.trail.db")


def memory(_: Path) -> Keeper:
    return SqliteKeeper(MEMORY)


def _postgres() -> Keeper:
    from engine.stores.postgres.address import parsed
    from engine.trail.postgres import PostgresKeeper

    return PostgresKeeper(parsed(postgres_server.shared().url("trail")))


def in_postgres(*statements: str) -> None:
    import psycopg

    from engine.stores.postgres.address import parsed

    with psycopg.connect(parsed(postgres_server.shared().url("trail")).url, autocommit=True) as connection:
        connection.execute(b'SET search_path = "trail"')
        connection.execute("; ".join(statements).encode())


def postgres(_: Path) -> Keeper:
    """Empty, in one schema for all tests."""
    if (reason := postgres_server.why_none()) is not None:
        pytest.skip(reason)
    from engine.stores.postgres.address import parsed
    from engine.stores.postgres.schema import prepare
    from engine.trail.postgres import COLUMNS

    prepare(parsed(postgres_server.shared().url("trail")))
    keeper = _postgres()
    keeper.state()
    in_postgres(*(f"DELETE FROM {table}" for table in COLUMNS))
    return keeper


@pytest.fixture(params=[sqlite, memory, postgres], ids=["sqlite", "memory", "postgres"])
def keeper(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Keeper]:
    made: Keeper = request.param(tmp_path)
    yield made
    made.close()


class Followed_(Shop):
    """A shop whose deliveries leave a trail; it is written when it is asked for."""

    def __init__(self, keeper: Keeper, text: str = CRM, *clients: str, **more: Any) -> None:
        self.keeper, self.options = keeper, {name: more.pop(name) for name in ("most_waiting", "share") if name in more}
        super().__init__(text, *clients, secrets={"token": SECRET}, **more)

    def new_worker(self) -> Any:
        worker = super().new_worker()
        self.trail = Recorder(
            *(self.keeper, b"key", Limits()),
            now=self.clock.now,
            telemetry=self.heard,
            by_itself=False,
            **{"share": 1.0, **self.options},
        )
        worker.world = worker.reporter.world = worker.withdrawn.world = worker.world._replace(trail=self.trail)
        return worker

    def found(self, limit: int = 50, **which: Any) -> list[tuple[str, str, str]]:
        """(event's id, outcome, reason) of those that fit, the newest first."""
        self.trail.flush(1.0)
        return [(each.event_id, each.outcome, each.reason) for each in self.trail.find(Query(**which), limit)]

    def followed(self, event_id: str) -> list[Followed]:
        self.trail.flush(1.0)
        return self.trail.of_event(event_id, 50)


_seqs = count(1)
_seq_of: dict[tuple[str, float], int] = {}


def delivery(event_id: str, received_at: float, key: str | None, *, again_at: float | None = None) -> Delivery:
    """Of an event that was `taken`, or of another one; with `again_at` as one that is not where it was."""
    seq = _seq_of.setdefault((event_id, received_at), next(_seqs)) if again_at is None else next(_seqs)
    return Delivery(
        *(seq, "", event_id, "note", key, b"", received_at, received_at),
        again_at=again_at,
    )


def attempt(
    at: float, *ids: str, outcome: str = "delivered", client: str = "abc", person: int | None = None
) -> Attempt:
    passed = [delivery(each, at - 1, None if person is None else str(person)) for each in ids]
    return Attempt("crm", client, "note", at, outcome, "", "", 1, b'{"began":1.0}', None, passed)


def people(key: str | None, _: bytes) -> tuple[int | None, int | None]:
    return None if key is None else int(key), None


def ids(found: list[Found]) -> list[str]:
    return [each.event_id for each in found]


# --- what is written ---


def test_a_delivered_event_is_found_by_its_id_with_its_times_and_the_exchange_of_its_batch(keeper: Keeper) -> None:
    shop = Followed_(keeper)
    shop.post({"id": "e1", "email": "Ana@example.com", "name": "Ana Lima"}, {"id": "e2", "name": "Bea"})
    shop.drain()
    shop.clock.time += 5
    [got] = shop.followed("e1")
    place = got.found.place
    assert got == Followed(
        Found(place, "e1", "crm", "abc", "note", START, "delivered", "", "", START),
        *(1, 2),
        Stages(START, None, START, (), (Exchange("request", "POST", "api.crm.example", 200, START, START),)),
        Trace(
            *("POST", "https://api.crm.example/v1/notes?token=***", 200),
            '{"notes":[{"id":"e1","email":"***@example.com","name":"***"},{"id":"e2","name":"***"}]}',
            '{"ok":true}',
        ),
        seq=1,
    )
    assert shop.found() == [("e2", "delivered", ""), ("e1", "delivered", "")]


def test_each_attempt_of_an_event_is_kept_until_it_is_rejected(keeper: Keeper) -> None:
    refused = reply(422, {"error": "no such product for ana@example.com"})
    shop = Followed_(keeper, ONE, vendor=Vendor(REFUSED, reply(429, retry_after="60"), refused))
    shop.post({"id": "e1", "email": "ana@example.com"})
    shop.drain(for_s=600)
    got = shop.followed("e1")
    assert [(each.found.outcome, each.found.at - START, each.tries) for each in got] == [
        ("retry", 0.0, 1),
        ("throttle", got[1].found.at - START, 1),
        ("rejected", got[2].found.at - START, 1),
    ]
    assert got[2].found.at - got[1].found.at >= 60
    assert got[0].trace == Trace(
        *("POST", "https://api.crm.example/v1/notes?token=***", None),
        '{"note":{"id":"e1","email":"a***@example.com"}}',
    )
    assert got[2].found.reason.endswith("no such product for a***@example.com")
    assert [each.status for each in got[2].stages.sent] == [422]


def test_what_ended_otherwise_than_its_batch_stands_for_itself(keeper: Keeper) -> None:
    vendor = Vendor(answer=lambda asked: reply(422 if b'"e2"' in (asked.content or b"") else 200, {"error": "bad"}))
    shop = Followed_(keeper, vendor=vendor)
    shop.post(*({"id": f"e{at}"} for at in range(1, 4)))
    shop.drain(for_s=60)
    ended = [each for each in shop.found() if each[1] in ("delivered", "rejected")]
    assert sorted((event, outcome) for event, outcome, _ in ended) == [
        ("e1", "delivered"),
        ("e2", "rejected"),
        ("e3", "delivered"),
    ]


def test_a_direct_event_leaves_a_trail_too(keeper: Keeper) -> None:
    direct = ONE.replace("receive:\n", "receive:\n  mode: direct\n")
    shop = Followed_(keeper, direct, vendor=Vendor(reply(400, {"error": "no"})))
    shop.post({"id": "e1"})
    assert [(event, outcome) for event, outcome, _ in shop.found()] == [("e1", "rejected")]


@pytest.mark.parametrize("event_id", HOSTILE)
def test_an_id_may_be_any_text(keeper: Keeper, event_id: str) -> None:
    keeper.write([], [attempt(START, event_id, "other")], [], people)
    assert ids(keeper.find(Query(event_id=event_id), 10)) == [event_id]
    assert [each.found.event_id for each in keeper.of_event(event_id, 10)] == [event_id]


def test_half_a_character_in_an_id_keeps_nothing_from_being_written(keeper: Keeper) -> None:
    keeper.write([], [attempt(START, "a\ud800b", "e1")], [], people)
    assert ids(keeper.find(EVERY, 10)) == ["e1", "a?b"]
    assert ids(keeper.find(Query(event_id="a\ud800b"), 10)) == ["a?b"]


CHAIN = ONE.replace(
    "actions:\n",
    """actions:
  deal:
    record: {id: "${ event.id }"}
    request: {path: /deals, json: {deal: "${ record }"}}
""",
).replace("  note:\n", "  note:\n    after: [deal]\n")


def test_what_the_store_skips_by_itself_leaves_a_trail(keeper: Keeper) -> None:
    vendor = Vendor(answer=lambda asked: reply(422 if b'"e2"' in (asked.content or b"") else 200, {"error": "no"}))
    shop = Followed_(keeper, CHAIN, vendor=vendor)
    shop.post({"id": "e1"}, {"id": "e2"})
    shop.drain()
    assert [(each.found.action, each.found.outcome, each.found.reason) for each in shop.followed("e2")] == [
        ("deal", "rejected", "HTTP 422 no"),
        ("note", "skipped", "deal was rejected"),
    ]
    assert [(each.found.action, each.found.outcome) for each in shop.followed("e1")] == [
        ("deal", "delivered"),
        ("note", "delivered"),
    ]


# --- what was accepted ---


def taken(event_id: str, at: float = START, *, actions: str = "note", person: int | None = None) -> Taken:
    _seq_of[event_id, at] = seq = next(_seqs)
    seqs = [seq, *[next(_seqs) for _ in actions.split()[1:]]] if actions else []
    return Taken("crm", "abc", actions, at, Events([event_id], [at], [person], [None], seqs))


def ended(
    event_id: str, at: float, received_at: float = START, *, outcome: str = "delivered", again_at: float | None = None
) -> Attempt:
    made = attempt(at, event_id, outcome=outcome, person=9)
    return made._replace(passed=[delivery(event_id, received_at, "9", again_at=again_at)])


def told(keeper: Keeper, event_id: str) -> list[tuple[str, float]]:
    """(outcome, accepted at) of all that is known of an event."""
    return [(each.found.outcome, each.found.received_at - START) for each in keeper.of_event(event_id, 50)]


@pytest.mark.parametrize("later", [False, True], ids=["still-new", "in-the-index"])
@pytest.mark.parametrize("restarted", [False, True], ids=["remembered", "read"])
def test_a_delivery_points_to_its_event_and_repeats_nothing_of_it(
    keeper: Keeper, later: bool, restarted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.trail.writing.LATER", 1 if later else 100)
    keeper.write([taken("e1", person=1, actions="note task"), taken("e2", actions="", person=2)], [], [], people)
    if restarted:
        keeper._memory = Memory()  # type: ignore[attr-defined]
    second = ended("e1", START + 7)
    seq = second.passed[0].seq + 1
    second = second._replace(action="task", passed=[msgspec.structs.replace(second.passed[0], seq=seq)])
    keeper.write([], [ended("e1", START + 5, outcome="retry"), ended("e3", START + 5), second], [], people)
    keeper.write([], [ended("e1", START + 9), ended("e3", START + 9)], [], people)
    assert told(keeper, "e1") == [("accepted", 0), ("retry", 0), ("delivered", 0), ("delivered", 0)]
    assert {each.seq for each in keeper.of_event("e1", 9)} == {seq - 1}
    assert told(keeper, "e2") == [("unwanted", 0)]
    assert told(keeper, "e3") == [("delivered", 0), ("delivered", 0)]
    assert [each.outcome for each in keeper.find(Query(people=(1,)), 9)] == ["delivered", "delivered", "retry"]
    assert ids(keeper.find(Query(people=(9,)), 9)) == ["e3", "e3"]  # nobody was asked whose e1 is
    assert ids(keeper.find(Query(outcomes=("accepted", "unwanted")), 9)) == ["e2", "e1"]


@pytest.mark.parametrize("later", [False, True], ids=["still-new", "in-the-index"])
def test_a_delivery_that_came_back_from_the_dead_letters_points_to_its_event(
    keeper: Keeper, later: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.trail.writing.LATER", 1 if later else 100)
    keeper.write(
        [taken("e1", person=1), taken("e1", START + 60)], [ended("e1", START + 5, outcome="rejected")], [], people
    )
    keeper.write([], [ended("e1", START + 99, again_at=START + 90)], [], people)
    assert [each.outcome for each in keeper.find(Query(people=(1,)), 9)] == ["delivered", "rejected"]


def test_a_seq_that_another_store_gave_before_leads_to_no_event_of_that(keeper: Keeper) -> None:
    keeper.write([taken("e1", person=1)], [], [], people)
    keeper._memory = Memory()  # type: ignore[attr-defined]
    other = msgspec.structs.replace(delivery("e1", START, "9"), event_id="e2")
    keeper.write([], [ended("e2", START + 5)._replace(passed=[other])], [], people)
    assert (told(keeper, "e1"), told(keeper, "e2")) == ([("accepted", 0)], [("delivered", 0)])


def test_many_events_that_came_at_once_are_found_each(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.trail.writing.TOGETHER", 7)
    monkeypatch.setattr("engine.trail.writing.LATER", 30)
    monkeypatch.setattr("engine.trail.writing.HELD", 20)
    for at in range(5):
        numbers = range(at * 20, at * 20 + 20)
        events = Events(
            [f"many-{n}" for n in numbers], [START] * 20, [*numbers], [None] * 20, [10_000 + n for n in numbers]
        )
        keeper.write([Taken("crm", "abc", "note", START + at, events)], [], [], people)
    done = [Delivery(10_000 + n, "", f"many-{n}", "note", None, b"", START, START) for n in range(0, 100, 3)]
    keeper.write([], [attempt(START + 9)._replace(passed=done)], [], people)
    found = [keeper.find(Query(people=(n,)), 9) for n in range(100)]
    assert [[(each.event_id, each.outcome) for each in rows] for rows in found] == [
        [(f"many-{n}", "accepted" if n % 3 else "delivered")] for n in range(100)
    ]
    assert [len(keeper.of_event(f"many-{n}", 9)) for n in range(100)] == [1 if n % 3 else 2 for n in range(100)]
    assert len(keeper.find(Query(event_id="many-", prefix=True), 200)) == 100
    assert len(keeper.find(EVERY, 200)) == 100


def test_an_id_that_is_accepted_again_is_another_event(keeper: Keeper) -> None:
    keeper.write([taken("e1", person=1), taken("e1", START + 60, person=2)], [], [], people)
    keeper.write([], [ended("e1", START + 99, START + 60)], [], people)
    assert told(keeper, "e1") == [("accepted", 0), ("accepted", 60), ("delivered", 60)]
    assert [each.outcome for each in keeper.find(Query(people=(1,)), 9)] == ["accepted"]
    assert [each.outcome for each in keeper.find(Query(people=(2,)), 9)] == ["delivered"]


def test_an_event_that_goes_takes_its_deliveries_with_it(keeper: Keeper) -> None:
    keeper.write([taken("e1", person=1), taken("e2", START + 50, person=2)], [], [], people)
    keeper.write([], [ended("e1", START + 60), ended("e2", START + 60, START + 50)], [], people)
    assert keeper.forget([2], None, client=None, now=START, dry=True) == 2
    assert keeper.forget([2], None, client=None, now=START, dry=False) == 2
    assert told(keeper, "e2") == []
    assert len(told(keeper, "e1")) == 2
    keeper.expire(before=START + 10, now=START + 70, max_bytes=10**9)
    assert (told(keeper, "e1"), ids(keeper.find(EVERY, 9))) == ([], [])
    keeper.expire(before=START + 100, now=START + 110, max_bytes=10**9)
    if isinstance(keeper, SqliteKeeper):
        with keeper._reading() as db:
            tables = ("events", "outcomes", "index", "parts")
            assert [db.rows(f"SELECT count(*) FROM trail_{table}") for table in tables] == [[(0,)]] * 4
    keeper.write([taken("e4", START + 120)], [], [], people)
    assert ids(keeper.find(EVERY, 9)) == ["e4"]


def test_a_write_that_fails_leaves_nothing_behind_that_later_ones_point_to(tmp_path: Path) -> None:
    keeper = SqliteKeeper(tmp_path / "connect.trail.db")
    keeper.write([taken("e0")], [], [], people)
    nobodys = ended("e2", START)._replace(passed=[delivery("e2", START, "nobody")])
    with pytest.raises(ValueError, match="invalid literal"):
        keeper.write([taken("e1")], [nobodys], [], people)
    keeper.write([], [ended("e1", START + 5)], [], people)
    assert told(keeper, "e1") == [("delivered", 0)]
    keeper.close()


# The tables of versions 1 and 2, with what the upgrade reads of them. {of_lane}: a lane's number, or its names.
EARLIER = """
CREATE TABLE {attempts} (first BIGINT PRIMARY KEY, last BIGINT, {of_lane}, action TEXT, at DOUBLE PRECISION,
    outcome TEXT, reason TEXT, code TEXT, tries BIGINT, stages {blob}, trace {blob});
CREATE TABLE {passed} (place BIGINT PRIMARY KEY, event_id TEXT, received_at DOUBLE PRECISION, person BIGINT,
    other BIGINT, seq BIGINT, event BIGINT);
CREATE TABLE {missing} (at DOUBLE PRECISION, count BIGINT);
CREATE TABLE {gone} (person BIGINT, client TEXT, at DOUBLE PRECISION);
INSERT INTO {missing} VALUES (5, 4);
INSERT INTO {attempts} VALUES
    (1, 2, {lane}, 'note', 10, 'accepted', '', '', 1, {began}, NULL),
    (3, 3, {lane}, 'note', 11, 'retry', 'HTTP 503', '', 1, {began}, {trace}),
    (4, 6, {lane}, 'note', 12, 'delivered', '', '', 2, {began}, NULL);
INSERT INTO {passed} VALUES
    (1, 'e1', 10, 1, 2, 7, NULL), (2, 'e2', 10, NULL, NULL, 8, NULL), (3, '', 0, NULL, NULL, NULL, 1),
    (4, 'e3', 9, 3, NULL, NULL, NULL), (5, '', 0, NULL, NULL, NULL, 1);
"""
OF_SQLITE = """
CREATE TABLE names (event_id TEXT); CREATE TABLE people (person BIGINT); CREATE TABLE indexed (place BIGINT);
CREATE TABLE lanes (id INTEGER PRIMARY KEY, connector TEXT, client TEXT); INSERT INTO lanes VALUES (5, 'crm', 'abc');
CREATE TABLE facts (name TEXT PRIMARY KEY, value BLOB); INSERT INTO facts VALUES ('salt', CAST('grains' AS BLOB));
"""
OF_POSTGRES = """
CREATE TABLE trail_lanes (connector TEXT, client TEXT); INSERT INTO trail_lanes VALUES ('crm', 'abc');
CREATE TABLE trail_facts (one BIGINT PRIMARY KEY, salt BYTEA, next BIGINT);
INSERT INTO trail_facts VALUES (1, 'grains', 7);
"""


def earlier_sqlite(folder: Path, version: int) -> Keeper:
    tables = {name: name for name in ("attempts", "passed", "missing", "gone")}
    began, trace = """CAST('{"began":1.0}' AS BLOB)""", """CAST('{"method":"GET","url":"https://x/"}' AS BLOB)"""
    made = EARLIER.format(**tables, of_lane="lane BIGINT", lane=5, blob="BLOB", began=began, trace=trace)
    with closing(sqlite3.connect(folder / "connect.trail.db")) as db:
        db.executescript(f"{made}{OF_SQLITE}PRAGMA user_version = {version};")
        if version == 1:  # a delivery did not point to its event
            db.executescript("UPDATE passed SET event_id = 'e1', received_at = 10, person = 1 WHERE event IS NOT NULL;")
            db.executescript("ALTER TABLE passed DROP COLUMN seq; ALTER TABLE passed DROP COLUMN event")
    return sqlite(folder)


def earlier_postgres(folder: Path, _: int) -> Keeper:
    postgres(folder).close()
    from engine.trail.postgres import TABLES

    tables = {name: f"trail_{name}" for name in ("attempts", "passed", "missing", "gone")}
    began, trace = """'{"began":1.0}'""", """'{"method":"GET","url":"https://x/"}'"""
    lane = {"of_lane": "connector TEXT, client TEXT", "lane": "'crm', 'abc'"}
    made = EARLIER.format(**tables, **lane, blob="BYTEA", began=began, trace=trace)
    in_postgres(f"DROP TABLE {', '.join(TABLES)}", made.rstrip().rstrip(";"), OF_POSTGRES.rstrip().rstrip(";"))
    return _postgres()


@pytest.mark.parametrize(
    ("make", "version"), [(earlier_sqlite, 1), (earlier_sqlite, 2), (earlier_postgres, 2)], ids=["1", "2", "postgres"]
)
def test_a_trail_of_an_earlier_version_is_taken_over_with_all_that_it_knows(
    make: Callable[[Path, int], Keeper], version: int, tmp_path: Path
) -> None:
    keeper = make(tmp_path, version)
    assert keeper.salt() == b"grains"
    assert keeper.state() == State(10, 4)
    if version == 2:
        assert told(keeper, "e1") == [("accepted", 10 - START), ("retry", 10 - START), ("delivered", 10 - START)]
        assert [each.seq for each in keeper.of_event("e1", 9)] == [7, 7, 7]
        assert [(each.event_id, each.outcome) for each in keeper.find(EVERY, 9)] == [
            *[("e1", "delivered"), ("e3", "delivered"), ("e2", "accepted")],
        ]
    assert [each.outcome for each in keeper.find(Query(people=(1,)), 9)] == ["delivered", "retry"] + (
        ["accepted"] if version == 1 else []
    )
    [_, retried, delivered] = keeper.of_event("e1", 9)
    assert (retried.found.reason, retried.trace) == ("HTTP 503", Trace("GET", "https://x/"))
    assert (delivered.tries, delivered.together, delivered.trace) == (2, 3, None)
    keeper.write([], [ended("e1", START, 10.0, again_at=11.0), ended("e2", START, 10.0)], [], people)
    assert [len(keeper.of_event(each, 9)) for each in ("e1", "e2", "e3")] == [4, 2, 1]
    assert keeper.forget([3], None, client=None, now=START, dry=False) == 1
    assert (told(keeper, "e3"), len(told(keeper, "e1"))) == ([], 4)
    keeper.close()


def of_version(keeper: Keeper, folder: Path, version: int) -> Keeper:
    """The same trail, as a program of that version leaves it, opened anew."""
    keeper.salt()
    if isinstance(keeper, SqliteKeeper):
        with closing(sqlite3.connect(folder / "connect.trail.db")) as db:
            db.execute(f"PRAGMA user_version = {version}")
        return SqliteKeeper(folder / "connect.trail.db")
    in_postgres(f"UPDATE trail_facts SET version = {version}")
    return _postgres()


@pytest.mark.parametrize("make", [sqlite, postgres])
def test_a_trail_of_a_newer_version_says_so_is_left_alone_and_is_read_again_by_that_version(
    make: Callable[[Path], Keeper], tmp_path: Path
) -> None:
    first = make(tmp_path)
    first.write([taken("e1")], [], [], people)
    newer = of_version(first, tmp_path, 4)
    asked: list[Callable[[], object]] = [
        newer.state,
        lambda: newer.find(EVERY, 9),
        lambda: newer.of_event("e1", 9),
        lambda: newer.write([taken("e2")], [], [], people),
    ]
    for ask in asked:
        with pytest.raises(
            StoreUnavailable, match=r"a newer version .* \(format 4, this one knows 3\); start the newer"
        ):
            ask()
    newer.close()
    same = of_version(first, tmp_path, 3)
    assert [each.event_id for each in same.find(EVERY, 9)] == ["e1"]
    same.close()
    first.close()


def test_a_trail_that_cannot_be_read_says_why_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "connect.trail.db").mkdir()
    keeper = SqliteKeeper(tmp_path / "connect.trail.db")
    recorder = Recorder(keeper, b"", Limits(), now=lambda: START, telemetry=Heard(), by_itself=False)
    why = f"{tmp_path}/connect.trail.db: unable to open database file; "
    why += "check that the file and its folder can be read and written"
    assert recorder.state() == State(None, 0, "", why)
    recorder.close()


def test_an_entry_that_cannot_be_decoded_is_said_and_breaks_nothing(keeper: Keeper) -> None:
    keeper.write([], [ended("e1", START)._replace(stages=b'{"began":"then"}')], [], people)
    recorder = Recorder(keeper, b"", Limits(), now=lambda: START, telemetry=Heard(), by_itself=False)
    with pytest.raises(StoreUnavailable, match=r"^an entry of the trail can't be read: Expected `float`"):
        recorder.of_event("e1", 9)


@pytest.mark.parametrize(
    "rotten", [b"\x93\xff", packing.packed(Events(["e1"], [], [], [], []))], ids=["bytes", "short"]
)
def test_events_that_cannot_be_read_any_more_are_gone_and_the_trail_goes_on(
    keeper: Keeper, rotten: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "LATER", 4)  # so that the last write makes a part of the index
    keeper.write([taken("e1", person=1), taken("e2")], [], [], people)
    of = "WHERE first = (SELECT min(first) FROM trail_events)"
    if isinstance(keeper, SqliteKeeper):
        with keeper._writing() as db:
            db.send(f"UPDATE trail_events SET packed = ? {of}", rotten)
    else:
        in_postgres(f"UPDATE trail_events SET packed = '\\x{rotten.hex()}' {of}")
    keeper._memory = Memory()  # type: ignore[attr-defined]
    assert ids(keeper.find(EVERY, 9)) == ["e2"]
    assert keeper.forget([1], "ana@example.com", client=None, now=START, dry=False) == 0
    keeper.write([taken("e3")], [ended("e1", START + 1), ended("e2", START + 1)], [], people)
    assert ids(keeper.find(EVERY, 9)) == ["e2", "e1", "e3"]
    assert ids(keeper.find(Query(event_id="e3"), 9)) == ["e3"]


# --- what is found ---


def test_an_id_is_found_by_its_beginning_and_a_percent_sign_is_no_joker(keeper: Keeper) -> None:
    keeper.write(
        [], [attempt(START, "order-2026-1", "order-2026-2", "order-2027-1", "order%2026"), attempt(9, "x")], [], people
    )
    assert ids(keeper.find(Query(event_id="order-2026", prefix=True), 10)) == ["order-2026-2", "order-2026-1"]
    assert ids(keeper.find(Query(event_id="order%", prefix=True), 10)) == ["order%2026"]
    assert ids(keeper.find(Query(event_id="order-2026"), 10)) == []


def test_a_person_is_found_by_an_address_in_whatever_case_and_by_the_key(keeper: Keeper) -> None:
    shop = Followed_(keeper)
    shop.post({"id": "e1", "email": "Ana@Example.com"}, {"id": "e2", "email": "bea@example.com"}, {"id": "e3"})
    shop.drain()
    assert shop.found(people=shop.trail.people(" ana@example.COM ")) == [("e1", "delivered", "")]
    assert shop.found(people=shop.trail.people("nobody@example.com")) == []


def test_lists_are_filtered_by_lane_time_and_outcome_and_go_on_page_by_page(keeper: Keeper) -> None:
    keeper.write(
        [],
        [
            attempt(START, "a1", "a2", "a3"),
            attempt(START + 10, "b1", outcome="rejected"),
            attempt(START + 20, "c1", "c2", client="other"),
            attempt(START + 20, "c3", client="other", outcome="retry"),
        ],
        [],
        people,
    )
    assert ids(keeper.find(EVERY, 10)) == ["c3", "c2", "c1", "b1", "a3", "a2", "a1"]
    assert ids(keeper.find(Query(client="abc"), 10)) == ["b1", "a3", "a2", "a1"]
    assert ids(keeper.find(Query(connector="crm"), 3)) == ["c3", "c2", "c1"]
    assert ids(keeper.find(Query(connector="crm", client="other", outcomes=("delivered",)), 10)) == ["c2", "c1"]
    assert ids(keeper.find(Query(connector="else"), 10)) == []
    assert ids(keeper.find(Query(outcomes=("rejected", "retry")), 10)) == ["c3", "b1"]
    assert ids(keeper.find(Query(since=START + 10, until=START + 20), 10)) == ["b1"]
    assert ids(keeper.find(Query(event_id="c1", client="abc"), 10)) == []
    pages: list[str] = []
    before: Cursor | None = None
    while page := keeper.find(Query(before=before), 2):
        pages += ids(page)
        before = cursor_of(str(Cursor(page[-1].at, page[-1].place)))
    assert pages == ["c3", "c2", "c1", "b1", "a3", "a2", "a1"]


@pytest.mark.parametrize("per_page", [1, 2, 3, 50])
def test_a_list_by_time_has_each_action_of_an_event_once_in_its_newest_state_however_it_is_paged(
    keeper: Keeper, per_page: int
) -> None:
    keeper.write([taken(f"e{n}", START + n) for n in range(6)], [], [], people)
    keeper.write([taken("both", START + 10, actions="note task")], [], [], people)
    keeper.write([], [ended(f"e{n}", START + 20 + n, START + n, outcome="retry") for n in range(5)], [], people)
    keeper.write([], [ended(f"e{n}", START + 30 + n, START + n) for n in range(4)], [], people)
    rejected = ended("both", START + 40, START + 10, outcome="rejected")
    keeper.write([], [rejected, ended("both", START + 41, START + 10)._replace(action="task")], [], people)
    query, rows = EVERY, list[Found]()
    while found := keeper.find(query, per_page):
        rows += found
        query = query._replace(before=Cursor(found[-1].at, found[-1].place))
    assert [(row.event_id, row.action, row.outcome) for row in rows] == [
        ("both", "task", "delivered"),
        ("both", "note", "rejected"),
        *[(f"e{n}", "note", "delivered") for n in (3, 2, 1, 0)],
        ("e4", "note", "retry"),
        ("e5", "note", "accepted"),
    ]
    until = keeper.find(Query(until=START + 30), 50)
    assert [(row.event_id, row.outcome) for row in until] == [
        *[(f"e{n}", "retry") for n in (4, 3, 2, 1, 0)],
        ("both", "accepted"),
        ("e5", "accepted"),
    ]


def test_beyond_what_may_be_looked_through_older_states_are_listed_and_nothing_is_left_out(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper.write([taken(f"e{n}", START + n) for n in range(3)], [], [], people)
    keeper.write([], [ended(f"e{n}", START + 30 + n, START + n) for n in range(3)], [], people)
    monkeypatch.setattr("engine.trail.finding.MOST_HIDDEN", 4)
    assert [row.outcome for row in keeper.find(EVERY, 50)] == [*["delivered"] * 3, *["accepted"] * 2]


@pytest.mark.parametrize("text", ["", "x", "1.0", "nan-1", "1.0--5", "1.0-" + "9" * 70])
def test_what_is_no_place_in_a_list_is_none(text: str) -> None:
    assert cursor_of(text) is None


def test_what_is_in_the_index_and_what_is_not_yet_are_found_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.trail.writing.LATER", 3)
    keeper = SqliteKeeper(MEMORY)
    for at in range(10):
        keeper.write([], [attempt(START + at, f"event-{at}", "same-event", person=at % 2)], [], people)
    assert ids(keeper.find(Query(event_id="event-", prefix=True), 50)) == [f"event-{at}" for at in range(9, -1, -1)]
    assert len(keeper.of_event("same-event", 50)) == 10
    assert [each.found.at - START for each in keeper.of_event("same-event", 3)] == [7, 8, 9]
    assert len(keeper.find(Query(people=(1,)), 50)) == 10
    assert keeper.forget([1], "x@example.com", client=None, now=START, dry=True) == 10


# --- whose they are ---


def test_digests_depend_on_the_key_and_the_salt_and_not_on_the_case() -> None:
    same = {Digests(b"k", b"s").of(text) for text in ("ana@example.com", " Ana@EXAMPLE.com ")}
    other = {Digests(key, salt).of("ana@example.com") for key, salt in ((b"k", b"s"), (b"l", b"s"), (b"k", b"t"))}
    assert (len(same), len(other)) == (1, 3)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"email":"Ana@Example.com"}', ["ana@example.com"]),
        (b'{"a":"x@y.z","b":"X@y.z","c":{"d":["u@v.w"]},"e":"k@l.m"}', ["x@y.z", "u@v.w"]),
        (b'{"url":"https://user@host/","text":"mail me @ home","email":"ana@example.com"}', ["ana@example.com"]),
        (b'{"email":"Jos\\u00e9@example.com"}', ["josé@example.com"]),
        (b'{"email":"\\ud800@example.com"}', []),
        (b"@", []),
        (b'{"a":"' + b"@" * 100_000 + b'"}', []),
    ],
)
def test_addresses_of_an_event_are_texts_that_are_nothing_else(body: bytes, found: list[str]) -> None:
    assert addresses_in(body) == [text.encode() for text in found]


def test_nothing_personal_and_no_secret_is_kept(keeper: Keeper, tmp_path: Path) -> None:
    long = {"id": "e4", "email": "dora@example.com", "name": "Dora Quintanilha " * 200}
    echo = Vendor(answer=lambda asked: reply(422, {"error": f"{SECRET} {(asked.content or b'').decode()}"}))
    shop = Followed_(keeper, vendor=echo)
    shop.post({"id": "e1", "email": "ana.lima@example.com", "name": "Ana Lima"}, long)
    shop.drain(for_s=600)
    kept = repr([shop.found(), shop.followed("e1"), shop.followed("e4")])
    if isinstance(keeper, SqliteKeeper):
        kept += "".join(file.read_bytes().decode("latin-1") for file in tmp_path.iterdir())
    assert "e1" in kept
    assert [word for word in (SECRET, "ana.lima@", "Lima", "dora@", "Dora", "Quintan") if word in kept] == []


def test_a_batch_whose_records_each_fail_for_a_reason_of_their_own_is_masked_once(keeper: Keeper) -> None:
    answers = [{"ok": False, "error": f"record {number} is bad"} for number in range(300)]
    text = CRM.replace("records: 3", "records: 300").replace(
        "      name: {", "      phone: {type: string, x-personal: true}\n      name: {"
    )
    text += """    results: {at: "${ response.body.results }", ok: "${ result.ok }", message: "${ result.error }"}
"""
    crm = Followed_(keeper, text, vendor=Vendor(reply(200, {"results": answers})))
    crm.post(*({"id": f"e{at}", "name": f"Ana Souza{at}", "phone": f"+55 11 9{at:08}"} for at in range(300)))
    crm.drain()
    began = time.thread_time()
    assert len(crm.found(500, outcomes=("rejected",))) == 300
    assert time.thread_time() - began < 5.0  # once for each of them it was more than half a minute
    (followed,) = [each for each in crm.followed("e7") if each.found.outcome == "rejected"]
    assert (followed.found.reason, followed.trace is not None) == ("record 7 is bad", True)


def test_of_a_name_that_was_cut_off_no_part_is_kept() -> None:
    cut_off = reply(422, text=f"{'x ' * 997}Quintanilha{' y' * 50}")  # 2,000 characters of a reply are shown
    shop = Followed_(SqliteKeeper(MEMORY), ONE, vendor=Vendor(cut_off))
    shop.post({"id": "e1", "name": "Dora Quintanilha"})
    shop.drain()
    [got] = shop.followed("e1")
    assert got.trace is not None
    assert got.trace.reply == f"{'x ' * 950}… (2105 characters)"


def test_what_is_buried_because_its_action_is_gone_leaves_a_trail_too() -> None:
    shop = Followed_(SqliteKeeper(MEMORY), ONE)
    shop.post({"id": "e1"})
    other = ONE.replace("  note:\n", "  other:\n")
    later = Followed_(shop.keeper, other, store=shop.store, clock=shop.clock)
    later.clock.time += 86_401
    later.drain()
    assert [(event, outcome) for event, outcome, _ in later.found()] == [("e1", "rejected")]


def test_forgetting_a_person_takes_out_their_events_and_what_is_written_late_of_them(keeper: Keeper) -> None:
    shop = Followed_(keeper, ONE, vendor=Vendor(reply(422, {"error": "e1/ana@example.com is known as bea-of-ana"})))
    shop.post({"id": "e1", "email": "ana@example.com"}, {"id": "of:ana@example.com"}, {"id": "e3"})
    shop.drain()
    assert len(shop.found()) == 3
    shop.post({"id": "e4", "email": "ana@example.com"})
    accepted_at = shop.clock.now()
    assert shop.trail.forget("ANA@example.com", dry=True) == 2
    shop.clock.time += 1
    assert shop.trail.forget("ANA@example.com") == 2
    shop.drain()
    assert shop.found(people=shop.trail.people("ana@example.com")) == []
    assert [event for event, _, _ in shop.found()] == ["e3"]
    shop.clock.time = accepted_at + 60
    shop.post({"id": "e5", "email": "ana@example.com"})  # who comes back is a customer again
    shop.drain()
    assert [event for event, _, _ in shop.found()] == ["e5", "e3"]


def test_of_who_is_forgotten_nothing_is_left_in_the_index_nor_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.trail.writing.LATER", 1)
    keeper, digest = SqliteKeeper(tmp_path / "connect.trail.db"), 0x0102030405060708
    others = [taken(f"other-{n}", person=n) for n in range(1, 500)]
    keeper.write([*others[:250], taken("theirs", person=digest), *others[250:]], [], [], people)
    pieces = [b"theirs", digest.to_bytes(8, "big"), packing.person_number(digest).to_bytes(8, "little")[3:]]
    before = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert keeper.forget([digest], None, client=None, now=START, dry=False) == 1
    with keeper._writing(secure=True) as db:
        db.send("DELETE FROM trail_gone")  # whose they are, for ten minutes
    left = (tmp_path / "connect.trail.db").read_bytes()
    assert [(piece in before, piece in left) for piece in pieces] == [(True, False)] * 3
    assert len(keeper.find(Query(event_id="other-", prefix=True), 900)) == 499
    assert [ids(keeper.find(Query(people=(n,)), 9)) for n in (1, 499)] == [["other-1"], ["other-499"]]
    keeper.close()


def test_forgetting_for_one_client_leaves_the_others(keeper: Keeper) -> None:
    keeper.write([], [attempt(START, "e1", person=7), attempt(START, "e2", person=7, client="other")], [], people)
    assert keeper.forget([7], "ana@example.com", client="abc", now=START, dry=False) == 1
    assert ids(keeper.find(EVERY, 10)) == ["e2"]
    keeper.write([], [attempt(START, "e3", person=7), attempt(START, "e4", person=7, client="other")], [], people)
    assert ids(keeper.find(EVERY, 10)) == ["e4", "e2"]


def test_a_person_is_taken_out_of_what_was_said_of_others(keeper: Keeper) -> None:
    trace = Trace("POST", "https://x/?to=Ana%20Lima", 400, '{"ref":"Ana Lima"}', "Ana Lima is unknown")
    said = attempt(START, "e1")._replace(reason="not for Ana Lima", outcome="rejected", trace=trace)
    keeper.write([], [said], [], people)
    keeper.forget([1], "Ana Lima", client=None, now=START, dry=False)
    [got] = keeper.of_event("e1", 10)
    assert (got.found.reason, got.trace) == (
        "not for ***",
        Trace("POST", "https://x/?to=***", 400, '{"ref":"***"}', "*** is unknown"),
    )


# --- bounds ---


def test_what_is_old_goes_and_of_what_is_too_large_the_oldest(keeper: Keeper) -> None:
    keeper.write(
        [], [attempt(START + at, f"e{at}") for at in range(10)], [Missing(START, 5), Missing(START + 9, 2)], people
    )
    assert keeper.state() == State(START, 7)
    assert keeper.expire(before=START + 5, now=START + 10, max_bytes=10**9) is False
    assert (ids(keeper.find(EVERY, 50)), keeper.state()) == ([f"e{at}" for at in range(9, 4, -1)], State(START + 5, 2))
    if isinstance(keeper, SqliteKeeper):
        keeper.expire(before=0, now=START + 10, max_bytes=1)
        assert keeper.find(EVERY, 50) == []


def test_a_full_queue_leaves_out_and_says_so(keeper: Keeper) -> None:
    shop = Followed_(keeper, most_waiting=4)
    shop.post(*({"id": f"e{at}"} for at in range(9)))
    shop.drain()
    assert shop.sums() == {"delivered": 9}
    assert shop.trail.state().missing == 6
    assert len(shop.found()) == 3
    assert shop.trail.state() == State(START, 6)
    assert keeper.state().missing == 6  # whoever looks at it, from whatever process


def test_a_trail_that_cannot_be_written_harms_no_walk_and_is_told_once(tmp_path: Path) -> None:
    keeper = SqliteKeeper(tmp_path / "nowhere" / "connect.trail.db")
    shop = Followed_(keeper)
    for at in range(3):
        shop.post({"id": f"e{at}"})
        shop.drain()
        assert shop.trail.flush(1.0) is False
    assert shop.sums() == {"delivered": 3}
    [told] = shop.heard.named("trail-failed")
    assert "unable to open database file" in str(told["why"])
    (tmp_path / "nowhere").mkdir()
    shop.post({"id": "e3"})
    shop.drain()
    assert shop.found() == [("e3", "delivered", "")]
    assert shop.trail.state() == State(START, 3)


def test_a_full_disk_harms_no_walk(tmp_path: Path) -> None:
    keeper = SqliteKeeper(tmp_path / "connect.trail.db")
    keeper.salt()
    with keeper._writing() as db:  # a disk that has no room for another page
        [(pages,)] = db.rows("PRAGMA page_count")
    keeper._opened().execute(f"PRAGMA max_page_count = {pages}")
    shop = Followed_(keeper)
    shop.post(*({"id": f"{at}-{'x' * 150}"} for at in range(300)))
    shop.drain()
    assert (shop.sums(), shop.trail.flush(1.0)) == ({"delivered": 300}, False)
    assert "full" in shop.trail._trouble
    shop.post({"id": "e4"})
    shop.drain()
    assert shop.found() == [("e4", "delivered", "")]  # there is room again
    assert shop.trail.state() == State(START, 300)


def test_a_damaged_file_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "connect.trail.db"
    path.write_bytes(b"no database " * 1000)
    keeper = SqliteKeeper(path)
    keeper.write([], [attempt(START, "e1")], [], people)
    assert ids(keeper.find(EVERY, 10)) == ["e1"]
    keeper.close()


def test_a_file_that_is_taken_away_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "connect.trail.db"
    keeper = SqliteKeeper(path)
    keeper.write([], [attempt(START, "e1")], [], people)
    assert ids(keeper.find(EVERY, 10)) == ["e1"]
    for file in tmp_path.iterdir():
        os.unlink(file)
    keeper.write([], [attempt(START, "e2")], [], people)
    assert ids(keeper.find(EVERY, 10)) == ["e2"]
    keeper.close()


def test_two_processes_write_one_trail(tmp_path: Path) -> None:
    keepers = [SqliteKeeper(tmp_path / "connect.trail.db") for _ in range(2)]
    assert len({keeper.salt() for keeper in keepers}) == 1

    def write(keeper: Keeper, name: str) -> None:
        for at in range(20):
            keeper.write([], [attempt(START + at, f"{name}{at}", f"{name}{at}-more")], [], people)

    threads = [threading.Thread(target=write, args=(keeper, f"p{at}-")) for at, keeper in enumerate(keepers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids(keepers[0].find(EVERY, 100)))) == 80
    for at in range(2):
        assert [each.found.at for each in keepers[1 - at].of_event(f"p{at}-7", 10)] == [START + 7]


def test_the_thread_writes_by_itself_and_the_rest_when_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "connect.trail.db"
    shop = Followed_(SqliteKeeper(path))
    shop.trail = Recorder(SqliteKeeper(path), b"key", Limits(), now=shop.clock.now, telemetry=Heard())
    shop.worker.world = shop.worker.world._replace(trail=shop.trail)
    shop.post({"id": "e1"})
    shop.drain()
    for _ in range(200):
        with suppress(StoreUnavailable):
            if shop.trail.find(EVERY, 10):
                break
        threading.Event().wait(0.05)
    shop.post({"id": "e2"})
    shop.drain()
    shop.trail.close()
    assert ids(SqliteKeeper(path).find(EVERY, 10)) == ["e2", "e1"]


def test_a_store_has_its_trail_beside_it(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "shop.sqlite")
    assert beside(store.path) == tmp_path / "shop.trail.sqlite"
    assert not beside(store.path).exists()
    found = keeper_of(store)
    assert found is not None
    found.write([], [attempt(START, "e1")], [], people)
    assert sorted(file.name for file in tmp_path.glob("*.sqlite")) == ["shop.sqlite", "shop.trail.sqlite"]
    store.close()
    found.close()


# --- what happens at the same moment ---


def test_a_write_and_a_read_that_both_open_the_file_again_do_not_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.trail.sqlite.BUSY_S", 0.2)
    keeper = SqliteKeeper(tmp_path / "connect.trail.db")
    keeper.write([taken("e1")], [], [], people)
    blocks = threading.Event()

    def write() -> None:
        with suppress(StoreUnavailable), keeper._writing():
            blocks.set()
            time.sleep(0.1)  # the read is waiting for the file to be opened
            raise sqlite3.OperationalError("disk I/O error")

    writing = threading.Thread(target=write, daemon=True)
    writing.start()
    blocks.wait(5)
    reading = threading.Thread(target=keeper.state, daemon=True)
    reading.start()
    for thread in (writing, reading):
        thread.join(5)
    assert [writing.is_alive(), reading.is_alive()] == [False, False]
    keeper.close()


def test_what_the_thread_is_writing_just_now_is_found(tmp_path: Path) -> None:
    begun = threading.Event()

    class Slow(SqliteKeeper):
        def write(self, *given: Any) -> None:
            begun.set()
            time.sleep(0.1)
            super().write(*given)

    shop = Followed_(Slow(tmp_path / "connect.trail.db"))
    shop.post({"id": "e1"})
    shop.drain()
    writes = threading.Thread(target=shop.trail.flush, args=(5.0,))
    writes.start()
    begun.wait(5)
    assert ids(shop.trail.find(Query(event_id="e1"), 10)) == ["e1"]
    writes.join()
    shop.trail.close()


def test_who_is_erased_while_others_write_is_not_in_what_they_write(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_file = isinstance(keeper, SqliteKeeper) and keeper._path != MEMORY
    other = SqliteKeeper(keeper._path) if isinstance(keeper, SqliteKeeper) and in_file else keeper
    keeper.write([taken("e1", person=7)], [], [], people)
    late = threading.Thread(target=other.write, args=([taken("e2", person=7), taken("e3", person=8)], [], [], people))
    looked = writing.named_in

    def named_in(*given: Any) -> Any:
        late.start()
        late.join(0.2)  # where it waits for the end of this, it goes on after it
        return looked(*given)

    monkeypatch.setattr(writing, "named_in", named_in)
    assert keeper.forget([7], "ana@example.com", client=None, now=START + 9, dry=False) == 1
    late.join()
    assert ids(keeper.find(EVERY, 9)) == ["e3"]
    if other is not keeper:
        other.close()


def test_an_event_is_found_among_many_of_its_moment_that_other_actions_want(keeper: Keeper) -> None:
    first = next(_seqs)
    together = []
    for at in range(20):
        seqs = [first + at, first + at + 30]
        events = Events([f"e{at}", f"later{at}"], [START] * 2, [None] * 2, [None] * 2, seqs)
        together.append(Taken("crm", "abc", f"a{at}", START, events))
    keeper.write(together, [], [], people)
    keeper._memory = Memory()  # type: ignore[attr-defined]
    last = Delivery(first + 19, "", "e19", "a19", None, b"", START, START)
    keeper.write([], [attempt(START + 1)._replace(action="a19", passed=[last])], [], people)
    found = keeper.find(EVERY, 99)
    assert [each.outcome for each in found if each.event_id == "e19"] == ["delivered"]
    assert len(found) == 40


def test_what_becomes_of_an_event_that_was_too_old_to_be_kept_is_kept(keeper: Keeper) -> None:
    keeper.write([taken("old"), taken("new", START + 90)], [], [], people)
    keeper.expire(before=START + 50, now=START + 100, max_bytes=10**9)
    keeper.write([], [ended("old", START + 100), ended("new", START + 101, START + 90)], [], people)
    assert ids(keeper.find(EVERY, 9)) == ["new", "old"]
    assert told(keeper, "old") == [("delivered", 0.0)]


def test_what_a_process_remembers_of_deliveries_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "HELD", 10)
    keeper = SqliteKeeper(MEMORY)
    for at in range(8):
        keeper.write([], [attempt(START, *(f"e{at}-{each}" for each in range(6)))], [], people)
    assert sum(len(places) for places in keeper._memory._places.values()) <= 10 + 6
    keeper.close()
