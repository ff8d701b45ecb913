"""
`kill -9` of `connect serve` under traffic: what was answered 202 is delivered or a dead letter, and little of it twice.

Kills come at random and at chosen moments: while a batch is at the vendor, right after its answer, in the middle of
a log-in that spends a refresh token, between the creation of a job and the first look at it, in a direct caller's walk.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from command import ROOT, environment
from parties import RECORDS, SECRETS, Crm, Sender, Serve, figures, project, proven, sized, sums, until_empty

from engine.stores import sqlite
from engine.stores.sqlite import SqliteStore

KILLS = int(os.environ.get("CONNECT_KILLS", sized("4", "200")))
POINTS = ["", "", *Crm.POINTS, *(f"{point} answered" for point in Crm.POINTS)]  # "": at random


@pytest.mark.parametrize(("processes", "share"), [(1, 0.5), (2, 0.25), (4, 0.25)] if KILLS >= 40 else [(2, 1.0)])
def test_what_was_answered_202_survives_kill_9_and_is_delivered(tmp_path: Path, processes: int, share: float) -> None:
    kills = max(1, round(KILLS * share))
    folder = project(tmp_path / "project", "ledger", "direct", "jobs", "member")
    rng, crm, done = random.Random(processes), Crm(), threading.Event()
    serves = [Serve(folder, crm.port) for _ in range(processes)]
    ports = [serve.port for serve in serves]
    senders = [Sender(ports, f"s{at}", done, pace_s=0.002, ledger=3, direct=1, jobs=2, member=2) for at in range(4)]
    points = [POINTS[at % len(POINTS)] for at in range(kills)] if kills >= len(POINTS) else rng.sample(POINTS, kills)
    aimed = 0
    try:
        for sender in senders:
            sender.start()
        for point in points:
            victim = rng.choice(serves)
            time.sleep(rng.uniform(0.1, 0.6))
            aimed += bool(point) and crm.reached(point, 3.0)
            victim.kill()
            victim.start()
        time.sleep(0.3)
        done.set()
        for sender in senders:
            sender.join()
        recovery_s = until_empty(serves[0])
        assert [serve.end() for serve in serves] == [0] * processes
    finally:
        done.set()
        for serve in serves:
            serve.close()
        crm.close()
    number, lost = proven(senders, crm, folder / "connect.db")
    figures(
        f"test_what_was_answered_202_survives_kill_9_and_is_delivered[{processes}]",
        f"{processes} processes: {kills} kills ({aimed} at a chosen point), {number} events answered 2xx, "
        f"{len(lost)} lost, {crm.twice} sent twice, all done {recovery_s:.1f} s after the last",
    )
    assert lost == set()
    assert crm.twice <= kills * RECORDS * 5, "a crash repeats at most the batches in flight"


# Runs first in the process: it dies of itself when a statement of this kind begins for the so-many-th time.
DIES_AT = """
import os, signal
from engine.stores import sqlite
opened = sqlite._open_for_writing
def watched(*args):
    db = opened(*args)
    left = [int(os.environ["DIES_AFTER"])]
    def begins(statement):
        left[0] -= os.environ["DIES_AT"] in statement
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    db.set_trace_callback(begins)
    return db
sqlite._open_for_writing = watched
"""
STATEMENTS = {
    "intake": "INTO deliveries", "settle": "DELETE FROM deliveries", "dead letter": "INSERT INTO dead",
    "token": "INTO tokens", "half-done batch": "INTO batches", "before a commit": "COMMIT", "after a commit": "BEGIN",
}  # fmt: skip


def test_a_kill_at_any_statement_of_the_store_loses_nothing(tmp_path: Path) -> None:
    """In the middle of a transaction, at its commit, and between a commit and the answer to whoever waits for it."""
    kills = sized(3, 60)
    folder = project(tmp_path / "project", "ledger", "direct", "jobs", "member")
    rng, crm, done = random.Random(8), Crm(), threading.Event()
    places = [list(STATEMENTS)[at % len(STATEMENTS)] for at in range(kills)]
    serve = Serve(folder, crm.port, before=DIES_AT, env={"DIES_AT": "never", "DIES_AFTER": "1"})
    senders = [
        Sender([serve.port], f"s{at}", done, pace_s=0.002, ledger=3, direct=1, jobs=2, member=2) for at in (0, 1)
    ]
    died = 0
    try:
        for sender in senders:
            sender.start()
        for place in places:
            serve.kill()
            crm.live.clear()  # somebody comes for a new token
            few = place in ("dead letter", "token", "half-done batch")
            serve.env |= {"DIES_AT": STATEMENTS[place], "DIES_AFTER": str(rng.randint(1, 2 if few else 40))}
            with contextlib.suppress(AssertionError):  # it may die before it is ready
                serve.start()
            with contextlib.suppress(subprocess.TimeoutExpired):
                serve.process.wait(5)
                died += 1
        serve.kill()
        serve.env |= {"DIES_AT": "never"}
        serve.start()
        done.set()
        for sender in senders:
            sender.join()
        recovery_s = until_empty(serve)
        assert serve.end() == 0
    finally:
        done.set()
        serve.close()
        crm.close()
    number, lost = proven(senders, crm, folder / "connect.db")
    figures(
        "test_a_kill_at_any_statement_of_the_store_loses_nothing",
        f"{died} kills at {len(set(places))} kinds of statement ({', '.join(STATEMENTS)}), {number} events answered "
        f"2xx, {len(lost)} lost, {crm.twice} sent twice, all done {recovery_s:.1f} s after the last",
    )
    assert lost == set()
    assert died > kills / 2


def test_a_process_that_was_stopped_past_its_lease_settles_nothing_when_it_wakes(tmp_path: Path) -> None:
    lease_s = sized(2.0, 30.0)
    short = f"import engine.worker\nengine.worker.LEASE_S = {lease_s}"
    folder, crm, done = project(tmp_path / "project", "ledger", clients=1), Crm(answer_s=0.3), threading.Event()
    one = Serve(folder, crm.port, before=short)
    two = Serve(folder, crm.port, before=short, starts=False)
    sender = Sender([one.port], "s", done, clients=1, pace_s=0.01, ledger=1)
    try:
        sender.start()
        time.sleep(0.5)
        done.set()
        sender.join()
        assert crm.reached("ledger", 10)
        time.sleep(0.1)  # the request is at the vendor; nobody holds the lock of the file
        one.process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        two.start()
        until_empty(two)
        recovery_s = time.monotonic() - began
        before = two.lanes()
        one.process.send_signal(signal.SIGCONT)
        time.sleep(1.5)
        assert two.lanes() == before, "what it settled late would be counted here"
        assert (one.end(), two.end()) == (0, 0)
        assert "lease" in one.said()
    finally:
        done.set()
        one.close()
        two.close()
        crm.close()
    number, lost = proven([sender], crm, folder / "connect.db")
    found, _ = sums(folder / "connect.db")
    figures(
        "test_a_process_that_was_stopped_past_its_lease_settles_nothing_when_it_wakes",
        f"{number} events, stopped for {recovery_s:.0f} s (lease {lease_s:g} s), {len(lost)} lost, "
        f"{crm.twice} sent twice, settled twice 0",
    )
    assert lost == set()
    assert found["accepted"] == 2 * number


MIGRATE = """
import sys
from engine.stores.sqlite import SqliteStore
sys.stdout.write("ready\\n")
sys.stdout.flush()
SqliteStore(sys.argv[1])
sys.stdout.write("done\\n")
sys.stdout.flush()
"""


def older(path: Path, version: int, rows: int) -> None:
    """A file as an engine left it that knew only so many versions, with deliveries and dead letters in it."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        for statement in (each for part in sqlite.SCHEMA[:version] for each in part):
            db.execute(statement)
        numbers = f"WITH RECURSIVE n (at) AS (SELECT 1 UNION ALL SELECT at + 1 FROM n WHERE at < {rows})"
        db.execute(
            "INSERT INTO lanes (connector, client, wake_at, accepted, rejected) VALUES ('crm', 'abc', 1, ?, ?)",
            (2 * rows, rows),
        )
        body = '{"name":"' + "x" * 200 + '"}'
        db.execute(
            f"{numbers} INSERT INTO deliveries (lane, action, key, id, event_id, body, received_at, due_at, turn_at,"
            f" attempts) SELECT 1, 'task', NULL, 'd' || at, 'e' || at, '{body}', 0, 1, 1, 0 FROM n"
        )
        db.execute(
            f"{numbers} INSERT INTO dead (lane, action, key, delivery_id, event_id, body, received_at, at, attempts,"
            f" reason, code, expected) SELECT 1, 'task', NULL, 'x' || at, 'x' || at, '{body}', 0, 1, 1, '', "
            f" '', 0 FROM n"
        )
        db.execute(f"PRAGMA user_version = {version}")
        db.commit()


def test_an_upgrade_of_the_store_that_is_killed_in_the_middle_is_done_whole_or_not_at_all(tmp_path: Path) -> None:
    rows, kills = sized(20_000, 100_000), sized(3, 20)
    rng, versions = random.Random(5), []
    original = tmp_path / "original.db"
    older(original, 1, rows)
    whole_s = 0.0  # of an upgrade that nobody kills
    for kill in range(kills + 1):
        path = tmp_path / f"{kill}.db"
        path.write_bytes(original.read_bytes())
        with subprocess.Popen(
            [sys.executable, "-c", MIGRATE, str(path)], stdout=subprocess.PIPE, env=environment(PYTHONPATH=str(ROOT))
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            began = time.monotonic()
            if kill == 0:
                process.stdout.readline()
                whole_s = time.monotonic() - began
            time.sleep(rng.uniform(0, 1.2 * whole_s) if kill else 0.0)
            process.kill()
        with closing(sqlite3.connect(path)) as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            versions += [version] if kill else []
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        with closing(SqliteStore(path)) as store:
            (lane,) = store.lanes()
            assert (lane.accepted, lane.rejected, lane.waiting) == (2 * rows, rows, rows)
            lease = store.lease("crm", "abc", owner="me", ttl_s=60, now=2.0)
            assert lease is not None
            assert len(store.read(lease, "task", limit=2 * rows, now=2.0)) == rows
        path.unlink()
    figures(
        "test_an_upgrade_of_the_store_that_is_killed_in_the_middle_is_done_whole_or_not_at_all",
        f"{kills} kills while a file with {2 * rows} rows was upgraded: {versions.count(1)} times still of the old "
        f"version, {versions.count(sqlite.VERSION)} times of the new one; every row there each time",
    )
    assert set(versions) <= {1, sqlite.VERSION}


def test_a_refresh_token_lost_by_a_kill_keeps_every_event_until_someone_logs_in(tmp_path: Path) -> None:
    """The vendor spent the old one and its answer never arrived: nobody has a good token, and that is said."""
    folder = project(tmp_path / "project", "member", clients=1)
    file = folder / "connectors" / "member.yaml"
    auth = file.read_text().replace("oauth2_password", "oauth2_refresh_token").replace("username: {}, password", "old")
    auth = auth.replace('  username: "{{ secrets.username }}"\n', "").replace("password:", "refresh_token:")
    file.write_text(auth.replace("secrets.password", "secrets.old"))
    (folder / "clients" / "c0.yaml").write_text(
        '{"client": "c0", "connectors": {"member": {"secrets": {"old": "env:LEDGER_OLD"}}}}'
    )
    crm, done = Crm(answer_s=0.2), threading.Event()
    crm.refresh.add("first")
    serve = Serve(folder, crm.port, env={"LEDGER_OLD": "first"})
    sender = Sender([serve.port], "s", done, clients=1, pace_s=0.01, member=1)
    try:
        sender.start()
        assert crm.reached("member answered", 10)
        assert crm.reached("token", 10)
        serve.kill()
        serve.start()
        until = time.monotonic() + 20
        while serve.lanes()[0]["state"] != "paused" and time.monotonic() < until:
            time.sleep(0.1)
        done.set()
        sender.join()
        (lane,) = serve.lanes()
        assert lane["state"] == "paused", lane
        serve.kill()
        crm.refresh.add("second")
        serve.env = {**serve.env, **SECRETS, "LEDGER_OLD": "second"}
        serve.start()
        until_empty(serve)
        assert serve.end() == 0
    finally:
        done.set()
        serve.close()
        crm.close()
    number, lost = proven([sender], crm, folder / "connect.db")
    figures(
        "test_a_refresh_token_lost_by_a_kill_keeps_every_event_until_someone_logs_in",
        f"{number} events, {len(lost)} lost, {crm.twice} sent twice; the lane was paused until a new token was there",
    )
    assert lost == set()
