"""`connect store`, and whose a store is: as a person runs it."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import dynamodb_server
import postgres_server
import pytest
from command import ROOT, connect, environment, make_project
from cryptography.fernet import Fernet
from whole_stores import drained, fill, put, whole

from engine.records import Draft, Settled, TokenRow
from engine.stores import sqlite
from engine.stores.sqlite import SqliteStore


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_project(tmp_path)


# Whose it is


def test_two_projects_on_one_store_are_told_apart_by_their_names(home: Path) -> None:
    SqliteStore(home / "connect.db").close()
    (home / "connect.yaml").write_text("name: loja\n")
    assert connect("status", project=home).code == 0
    (home / "connect.yaml").write_text("name: outra\n")
    refused = connect("status", project=home)
    assert (refused.code, refused.out) == (3, "")
    assert refused.err == (
        "connect: connect.db: this store holds the events of project `loja`; this project is `outra`; "
        "use another store\n"
    )
    (home / "connect.yaml").write_text("workers: 8\n")
    assert connect("status", project=home).code == 0


# Check


@pytest.fixture
def full(home: Path) -> Path:
    with closing(SqliteStore(home / "connect.db")) as store:
        fill(store)
    return home


def changed(home: Path, *statements: str) -> None:
    """By another program."""
    with closing(sqlite3.connect(home / "connect.db")) as db, db:
        for statement in statements:
            db.execute(statement)


def test_a_store_is_looked_at_and_not_changed(full: Path) -> None:
    before = (full / "connect.db").read_bytes()
    ended = connect("store", "check", project=full)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        "store:    sqlite:///connect.db",
        f"version:  {sqlite.VERSION}",
        "project:  nobody has put a name to it",
        "tokens:   1, not encrypted: there is no CONNECT_KEY",
        "connector  client  state      waiting  half-done  dead  ids",
        "crm        abc     waiting         13          1     1    3",
        "crm        paused  paused           1          0     0    1",
        "erp        abc     throttled        1          0     0    0",
        "nothing is wrong",
    ]
    assert (full / "connect.db").read_bytes() == before


def test_what_a_check_finds_is_for_programs_too(full: Path) -> None:
    (full / "connect.yaml").write_text("name: loja\n")
    connect("status", project=full)
    shown = connect("store", "check", "--json", project=full).json
    assert shown.pop("lanes")[0] == {
        **{"connector": "crm", "client": "abc", "state": "waiting"},
        **{"waiting": 13, "half_done": 1, "dead": 1, "ids": 3},
    }
    assert shown == {
        **{"store": "sqlite:///connect.db", "kind": "sqlite", "version": sqlite.VERSION, "known": sqlite.VERSION},
        "project": "loja",
        "tokens": {"count": 1, "encrypted": False, "unreadable": []},
        "findings": [],
    }


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE lanes SET accepted = 20 WHERE id = 1", "crm/abc: accepted 20 is not delivered 2 + rejected 1 + "),
        ("DELETE FROM batches", "crm/abc: 3 deliveries of the half-done batch b1, which is not there"),
        ("UPDATE deliveries SET batch = NULL", "crm/abc: half-done batch b1 without deliveries: harmless"),
        (
            "UPDATE deliveries SET after = '[[99], false]' WHERE after IS NOT NULL",
            "crm/abc: 2 deliveries wait for others that are not there (seq 7, 9): the next start",
        ),
        ("UPDATE lanes SET id = 9 WHERE client = 'paused'", "1 rows of deliveries belong to no lane: another program"),
        ("UPDATE lanes SET rejected = 0, skipped = 4 WHERE id = 1", "crm/abc: 1 dead letters, but 0 rejected: another"),
    ],
)
def test_what_can_not_be_is_found_and_said(full: Path, statement: str, says: str) -> None:
    changed(full, statement)
    findings = connect("store", "check", "--json", project=full).json["findings"]
    assert [finding for finding in findings if finding.startswith(says)] != [], findings
    ended = connect("store", "check", project=full)
    assert (ended.code, ended.err) == (1, "")
    assert " ".join(ended.out.split()).count("wrong: ") == len(findings)


def test_a_damaged_file_is_found(full: Path) -> None:
    with closing(SqliteStore(full / "connect.db")) as store:
        fill_more = [Draft("task")] * 500
        put(store, "more", *fill_more)
    with (full / "connect.db").open("r+b") as file:
        for page in (9, 15, 20):
            file.seek(4096 * page + 8)
            file.write(b"\xff" * 200)
    ended = connect("store", "check", project=full)
    assert ended.code in (1, 3)
    assert "damaged" in ended.out + ended.err


def test_tokens_under_another_key_are_found(home: Path) -> None:
    key = Fernet.generate_key()
    with closing(SqliteStore(home / "connect.db", cipher=Fernet(key))) as store:
        store.save_token("crm", "abc", "login", TokenRow({"value": "secret-1"}, 0.0, None, "f1"))
    right = connect("store", "check", project=home, CONNECT_KEY=key.decode())
    assert (right.code, "tokens:   1, encrypted with CONNECT_KEY" in right.out) == (0, True)
    for env in ({}, {"CONNECT_KEY": Fernet.generate_key().decode()}):
        wrong = connect("store", "check", project=home, **env)
        assert wrong.code == 1
        assert "crm/abc/login: can't be read; start with the CONNECT_KEY" in " ".join(wrong.out.split())
        copied = connect("store", "copy", "sqlite:///connect.db", "sqlite:///new.db", project=home, **env)
        assert (copied.code, copied.out) == (3, "")
        assert "the token crm/abc/login can't be decrypted; is the key the one" in copied.err


# Migrate


def of_version(home: Path, version: int) -> None:
    with closing(sqlite3.connect(home / "connect.db")) as db, db:
        for statement in (each for part in sqlite.SCHEMA[:version] for each in part):
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {version}")


def test_a_store_is_brought_up_to_date_when_it_is_asked_for(home: Path) -> None:
    of_version(home, 2)
    checked = connect("store", "check", project=home)
    assert (checked.code, checked.out.splitlines()[1]) == (1, "version:  2 (old)")
    said = f"version 2 of {sqlite.VERSION}: bring it up to date with `connect store migrate`"
    assert said in " ".join(checked.out.split())
    dry = connect("store", "migrate", "--dry-run", project=home)
    assert dry == (0, f"sqlite:///connect.db: version 2 would become {sqlite.VERSION}\n", "")
    assert connect("store", "migrate", project=home).out == (
        f"sqlite:///connect.db: version 2 became {sqlite.VERSION}\n"
    )
    assert connect("store", "migrate", project=home).out == (
        f"sqlite:///connect.db: is of version {sqlite.VERSION}, this engine's; nothing to do\n"
    )
    assert connect("store", "check", project=home).code == 0


def test_a_newer_store_is_refused_by_each_of_them(home: Path) -> None:
    SqliteStore(home / "connect.db").close()
    changed(home, "PRAGMA user_version = 99")
    for command in (["check"], ["migrate"], ["copy", "sqlite:///connect.db", "sqlite:///new.db"]):
        ended = connect("store", *command, project=home)
        assert (ended.code, ended.out) == (3, "")
        said = (
            f"connect.db has schema version 99, this engine knows versions up to {sqlite.VERSION}; use a newer engine"
        )
        assert said in ended.err
    assert not (home / "new.db").exists()


# Copy


def test_a_store_is_copied_and_the_old_one_delivers_no_more(full: Path) -> None:
    with closing(SqliteStore(full / "connect.db")) as store:
        before = whole(store)
    ended = connect("store", "copy", "sqlite:///connect.db", "sqlite:///new.db", project=full)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        "connector  client  waiting  half-done  dead  ids  there",
        "crm        abc          13          1     1    3  all",
        "crm        paused        1          0     0    1  all",
        "erp        abc           1          0     0    0  all",
        "all of it is in sqlite:///new.db. Next: name that as `store` in connect.yaml or CONNECT_STORE, and start.",
        "The lanes of sqlite:///connect.db stay paused; `connect resume` there would send what waits a second time.",
    ]
    with closing(SqliteStore(full / "new.db")) as store:
        assert whole(store) == before
        store.requeue([letter.id for letter in store.dead()], now=0.0)
    again = connect("store", "copy", "--json", "sqlite:///connect.db", "sqlite:///new.db", project=full).json
    assert (again["complete"], [lane["problem"] for lane in again["lanes"]]) == (True, [""] * 3)
    assert connect("store", "check", "sqlite:///new.db", project=full).code == 0
    assert '"what":"store copy"' in (full / "connect.audit.log").read_text()


def test_what_went_on_meanwhile_is_said_and_ends_with_1(full: Path) -> None:
    assert connect("store", "copy", "sqlite:///connect.db", "sqlite:///new.db", project=full).code == 0
    with closing(SqliteStore(full / "connect.db")) as store:
        store.settle(None, [Settled(2, "delivered")], now=0.0)
    ended = connect("store", "copy", "sqlite:///connect.db", "sqlite:///new.db", project=full)
    assert ended.code == 1
    assert " ".join(ended.err.split()) == (
        "crm/abc: sqlite:///connect.db went on with this lane meanwhile (delivered 2 -> 3) though it had been copied: "
        "what was sent from there may be sent again from here"
    )
    assert "differs" in ended.out


def postgres_url() -> str:
    if (reason := postgres_server.why_none()) is not None:
        pytest.skip(reason)
    return postgres_server.shared().url(f"copied{os.getpid()}", user="connect:hunter2")


def dynamodb_url() -> str:
    return f"dynamodb://{dynamodb_server.new_name()}?region=sa-east-1&endpoint={dynamodb_server.shared()}&create=1"


@pytest.mark.parametrize(("kind", "made"), [("postgresql", postgres_url), ("dynamodb", dynamodb_url)])
def test_a_store_goes_to_a_database_and_comes_back(full: Path, kind: str, made: Callable[[], str]) -> None:
    with closing(SqliteStore(full / "connect.db")) as store:
        before = whole(store)
    url = made()
    aws = {"AWS_ACCESS_KEY_ID": "hunter2", "AWS_SECRET_ACCESS_KEY": "hunter2"}
    there = connect("store", "copy", "sqlite:///connect.db", url, project=full, **aws)
    assert (there.code, there.err) == (0, "")
    checked = connect("store", "check", url, "--json", project=full, **aws).json
    assert (checked["kind"], checked["version"], checked["findings"]) == (kind, checked["known"], [])
    assert connect("store", "migrate", url, project=full, **aws).out.endswith("this engine's; nothing to do\n")
    back = connect("store", "copy", url, "sqlite:///new.db", project=full, **aws)
    assert (back.code, back.err) == (0, "")
    with closing(SqliteStore(full / "new.db")) as store:
        assert whole(store) == before
    told = there.out + back.out + json.dumps(checked) + (full / "connect.audit.log").read_text()
    assert "hunter2" not in told


@pytest.mark.parametrize(
    ("source", "target", "code", "says"),
    [
        ("sqlite:///connect.db", "sqlite:///./connect.db", 2, "FROM and TO are one store; name two"),
        ("sqlite:///nowhere.db", "sqlite:///new.db", 2, "sqlite:///nowhere.db: no store is there"),
        ("memory:", "sqlite:///new.db", 2, "memory: is lost when its process ends"),
        ("sqlite:///connect.db", "memory:", 2, "memory: is lost when its process ends"),
        ("redis://here", "sqlite:///new.db", 2, "no store is called redis; known are memory:"),
        ("sqlite:///connect.db", "redis://me:secret@here", 2, "no store is called redis; known are memory:"),
        ("sqlite:///connect.db", "sqlite:///no/folder/new.db", 3, "check that its folder is there"),
        ("sqlite:///text.db", "sqlite:///new.db", 3, "the file is damaged or no SQLite database"),
    ],
)
def test_what_can_not_be_copied_is_said_and_nothing_is_made(
    full: Path, source: str, target: str, code: int, says: str
) -> None:
    (full / "text.db").write_text("dear diary " * 1000)
    ended = connect("store", "copy", source, target, project=full)
    assert (ended.code, ended.out) == (code, "")
    assert says in ended.err
    assert "secret" not in ended.err
    assert not (full / "new.db").exists()
    with closing(SqliteStore(full / "connect.db")) as store:
        assert [lane.state for lane in store.lanes()] == ["waiting", "paused", "throttled"]


COPIES = """
import sys, time
from engine.upkeep.copying import Copy
from engine.stores.sqlite import SqliteStore
stores = [SqliteStore(path) for path in sys.argv[1:3]]
print("go", flush=True)
done = Copy(*stores, names=("old", "new"), now=time.time, page=1).run()
assert not any(lane.problem or lane.left for lane in done), done
print("done", flush=True)
"""


def test_a_copy_killed_at_random_moments_loses_nothing_and_sends_nothing_twice(tmp_path: Path) -> None:
    old, new, twin = (tmp_path / name for name in ("old.db", "new.db", "twin.db"))
    with closing(SqliteStore(old)) as store:
        fill(store, more=1500)
        before = whole(store)
    shutil.copy(old, twin)
    moments = random.Random(5)
    kills = 0
    while True:
        copying = subprocess.Popen(
            [sys.executable, "-c", COPIES, str(old), str(new)],
            stdout=subprocess.PIPE,
            env=environment(PYTHONPATH=str(ROOT)),
        )
        assert copying.stdout is not None
        assert copying.stdout.readline() == b"go\n"
        if kills < 5:
            time.sleep(moments.uniform(0, 0.05))
            copying.send_signal(signal.SIGKILL)
        said = copying.stdout.read()
        copying.stdout.close()
        if copying.wait(30) == 0:
            assert said == b"done\n"
            break
        kills += 1
        assert copying.returncode == -signal.SIGKILL
    assert kills >= 3
    with closing(SqliteStore(new)) as store, closing(SqliteStore(twin)) as same:
        assert whole(store) == before
        assert drained(store) == drained(same)
