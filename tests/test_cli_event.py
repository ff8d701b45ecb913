"""`connect event`: did it arrive? And `connect forget` with what is kept of that."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from command import EVENTS, connect, make_project

from engine.records import Accepted, Delivery, Draft, Settled, Trace
from engine.stores.sqlite import SqliteStore
from engine.trail.digests import Digests
from engine.trail.entries import Attempt, Missing, Taken
from engine.trail.opening import keeper_of
from engine.trail.packing import Events

STAGES = b'{"began":1001.0,"mapped_at":1001.5,"sent":[{"step":"request","method":"POST","host":"api.rd.services","status":%d,"began":1001.5,"ended":1001.75}]}'  # noqa: E501
EVENT = {**EVENTS["rdstation"], "name": "Ana Souza"}
LANE = ("rdstation", "client-xyz", "send_conversion")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """e1 was tried twice and delivered, e2 is a dead letter, e3 waits; nothing else is known of e2 and e3."""
    home = make_project(tmp_path)
    store = SqliteStore(home / "connect.db")
    keeper = keeper_of(store)
    assert keeper is not None
    people = Digests(_key(), keeper.salt()).of_event
    trace = Trace("POST", "https://api.rd.services/c", 503, '{"name":"***"}', "try later")
    one, other = delivery(101, "order-2026-1", 1_000.0, "user@example.com"), delivery(102, "o2", 1.0)
    keeper.write(
        [],
        [
            Attempt(*LANE, 1_002.0, "retry", "HTTP 503", "", 1, STAGES % 503, trace, [one]),
            Attempt(*LANE, 1_062.0, "delivered", "", "", 1, STAGES % 200, None, [one, other]),
        ],
        [Missing(1_003.0, 7)],
        people,
    )
    keeper.close()
    body = json.dumps(EVENT).encode()
    events = [Accepted("rdstation", "client-xyz", name, body, 1_000.0, (Draft(LANE[2]),)) for name in ("e2", "e3")]
    stored = store.put(events, now=1_000.0).result()
    rejected = Settled(stored[0].deliveries[0].seq, "rejected", attempts=1, reason="HTTP 422 unknown", trace=trace)
    store.settle(None, [rejected], now=1_010.0)
    store.close()
    return home


def delivery(seq: int, event_id: str, received_at: float, key: str | None = None) -> Delivery:
    return Delivery(seq, "", event_id, LANE[2], key, b"", received_at, received_at)


def _key() -> bytes:
    """Of an installation without CONNECT_KEY."""
    from hashlib import sha256

    return sha256(b"").digest()


def said(home: Path, *args: str, code: int = 0) -> str:
    done = connect(*args, project=home, TZ="UTC")
    assert done.code == code, done.err
    assert all(len(line) <= 80 for line in done.out.splitlines())
    return str(done.out)


def data(home: Path, *args: str) -> Any:
    return json.loads(connect("event", *args, "--json", project=home).out)


def test_the_way_of_an_event_is_told_attempt_by_attempt(home: Path) -> None:
    assert said(home, "event", "order-2026-1").splitlines() == [
        "order-2026-1",
        "  rdstation/client-xyz send_conversion: delivered (1970-01-01 00:17:42)",
        "",
        "1970-01-01 00:16:42+00:00  failed, tried again",
        "  rdstation/client-xyz send_conversion",
        "  HTTP 503",
        "  accepted   1970-01-01 00:16:40+00:00",
        "  taken up   1970-01-01 00:16:41+00:00",
        "  mapped     1970-01-01 00:16:41+00:00",
        "  request: POST api.rd.services 503 in 250 ms",
        "  > POST https://api.rd.services/c",
        '  > {"name":"***"}',
        "  < 503",
        "  < try later",
        "",
        "1970-01-01 00:17:42+00:00  delivered",
        "  rdstation/client-xyz send_conversion",
        "  accepted   1970-01-01 00:16:40+00:00",
        "  taken up   1970-01-01 00:16:41+00:00",
        "  mapped     1970-01-01 00:16:41+00:00",
        "  request: POST api.rd.services 200 in 250 ms",
        "  in a batch, with 1 others that ended alike",
    ]


def test_what_waits_and_what_is_a_dead_letter_is_told_from_the_store(home: Path) -> None:
    assert said(home, "event", "e2").splitlines()[1:] == [
        "  rdstation/client-xyz send_conversion: dead letter 1 (1970-01-01 00:16:50)",
        "  see `connect dead show 1`",
    ]
    assert "waits (accepted 1970-01-01 00:16:40)" in said(home, "event", "e3")
    waits = data(home, "e3")
    assert (waits["now"][0]["outcome"], waits["missing"], waits["unseen"]) == ("waits", 7, 0)
    assert waits["event"][0]["event"]["email"].endswith("***@example.com")
    assert "Ana Souza" not in json.dumps(waits)


def test_events_of_a_person_and_ids_that_begin_so_are_listed(home: Path) -> None:
    assert said(home, "event", "USER@example.com").splitlines()[1].split() == [
        *("1970-01-01", "00:17:42", "order-2026-1", "client-xyz", "send_conversion", "delivered"),
    ]
    assert [each["outcome"] for each in data(home, "order-20")["found"]] == ["delivered", "retry"]
    words = [line.split()[5] for line in said(home, "event", "order-20").splitlines()[1:]]
    assert words == ["delivered", "failed"]
    assert said(home, "event", "order-20", "--client", "nobody", code=1) == "nothing is known of such an event\n"


def test_forgetting_somebody_erases_what_became_of_their_events(home: Path) -> None:
    dry = json.loads(connect("forget", "user@example.com", "--dry-run", "--json", project=home).out)
    assert dry["trail"] == 2
    assert "     2  entries of what is kept about what became of events" in said(home, "forget", "user@example.com")
    assert said(home, "event", "order-2026-1", code=1) == "nothing is known of such an event\n"
    held = (home / "connect.trail.db").read_bytes()
    assert b"order-2026-1" not in held


def test_where_the_trail_cannot_be_read_the_rest_is_erased_and_it_says_to_run_it_again(home: Path) -> None:
    (home / "connect.trail.db").rename(home / "kept")
    (home / "connect.trail.db").mkdir()
    says = (
        f"{home / 'connect.trail.db'}: unable to open database file; check that the file and its folder can be read "
        "and written; then run this again. Without that it goes when its time (`trail: {keep: …}`) is over\n"
    )
    dry = connect("forget", "user@example.com", "--dry-run", project=home)
    assert (dry.code, dry.err) == (1, f"what became of their events is not counted: {says}")
    done = connect("forget", "user@example.com", project=home)
    assert (done.code, done.err) == (1, f"what became of their events is still there: {says}")
    assert done.out.startswith("erased:\n")
    told = connect("forget", "user@example.com", "--json", project=home).json
    assert (told["dead"], told["trail"], told["scrubbed"]) == (0, None, True)
    (home / "connect.trail.db").rmdir()
    (home / "kept").rename(home / "connect.trail.db")
    again = "erased:\n     2  entries of what is kept about what became of events\n"
    assert said(home, "forget", "user@example.com") == again


def test_without_a_trail_it_says_so(tmp_path: Path) -> None:
    home = make_project(tmp_path)
    SqliteStore(home / "connect.db").close()
    done = connect("event", "e1", project=home)
    assert (done.code, done.out) == (1, "nothing is known of such an event\n")
    assert "is not kept here" in done.err
    assert not (home / "connect.trail.db").exists()


def test_what_was_accepted_is_told_with_the_actions_that_want_it_before_anything_became_of_it(home: Path) -> None:
    keeper = keeper_of(SqliteStore(home / "connect.db"))
    assert keeper is not None
    accepted = Taken(*LANE, 1_000.0, Events(["e3"], [1_000.0], [None], [None], [2]))
    unwanted = Taken(*LANE[:2], "", 1_000.0, Events(["e4"], [1_000.0], [None], [None], []))
    keeper.write([accepted, unwanted], [], [], lambda _key, _body: (None, None))
    keeper.close()
    assert said(home, "event", "e3").splitlines() == [
        "e3",
        "  accepted 1970-01-01 00:16:40",
        "  rdstation/client-xyz: send_conversion",
        "  rdstation/client-xyz send_conversion: waits (accepted 1970-01-01 00:16:40)",
    ]
    assert said(home, "event", "e4").splitlines()[1:] == [
        "  accepted 1970-01-01 00:16:40",
        "  rdstation/client-xyz: no action wanted it",
    ]
    lane = {"connector": "rdstation", "client": "client-xyz", "at": 1_000}
    assert data(home, "e3")["accepted"] == [{**lane, "actions": ["send_conversion"]}]
    assert data(home, "e4")["accepted"] == [{**lane, "actions": []}]


def test_where_the_trail_is_of_a_newer_version_the_store_is_asked_and_it_says_why(home: Path) -> None:
    with closing(sqlite3.connect(home / "connect.trail.db")) as db:
        db.execute("PRAGMA user_version = 4")
    done = connect("event", "e2", project=home, TZ="UTC")
    assert done.code == 0
    assert done.out.splitlines()[1] == "  rdstation/client-xyz send_conversion: dead letter 1 (1970-01-01 00:16:50)"
    why = f"{home}/connect.trail.db: a newer version of this program has written it (format 4, this one knows 3); "
    why += "start the newer program again, or remove the file: no event is lost with it"
    assert done.err == f"what became of events can't be read; the store has what waits and dead letters: {why}\n"
    none = connect("event", "order-2026-1", project=home)
    assert (none.code, none.out) == (1, "neither waits such an event, nor is it a dead letter\n")
    assert why in none.err
    assert data(home, "e2")["unread"] == why


def test_a_list_fits_80_columns_with_times_and_outcomes_whole(home: Path) -> None:
    keeper = keeper_of(SqliteStore(home / "connect.db"))
    assert keeper is not None
    lane = ("salesforce", "a-client-with-a-rather-long-name", "create_or_update_opportunity")
    passed = [delivery(n, f"7c9e6679-7425-40de-944b-e07fc1f9{n:04}", 1_000.0) for n in (1, 2)]
    for outcome, at in (("throttle", 1_000.0), ("delivered", 1_060.0)):
        attempt = Attempt(*lane, at, outcome, "", "", 1, STAGES % 200, None, passed)
        keeper.write([], [attempt], [], lambda *_: (None, None))
    keeper.close()
    lines = said(home, "event", "7c9e6679-74").splitlines()
    assert lines[0].split() == ["at", "event", "client", "action", "outcome"]
    assert [(line[:19], line.split()[-1]) for line in lines[1:]] == [
        *[("1970-01-01 00:17:40", "delivered")] * 2,
        *[("1970-01-01 00:16:40", "back")] * 2,
    ]
    assert lines[1].split()[2:5] == ["7c9e6679-7425-40de-944b…", "a-client-…", "create_or…"]
    whole = said(home, "event", "7c9e6679-7425-40de-944b-e07fc1f90001").splitlines()[1]
    assert whole == "  salesforce/a-client-with-a-rather-long-name …: delivered (1970-01-01 00:17:40)"
