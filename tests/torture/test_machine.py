"""Our side: the disk is full, the file locked, damaged or read-only, descriptors and memory are few, clocks jump."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import socket
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from command import connect, soon
from conftest import START, Shop, Vendor, balanced, reply
from filled import fill
from parties import RECORDS, Crm, Sender, Serve, figures, project, proven, sized, sums, until_empty

from engine.clock import VirtualClock
from engine.errors import StoreUnavailable
from engine.records import Accepted, Draft
from engine.sending import HttpTransport
from engine.stores.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Iterator


class Disk:
    """
    A small file system at `folder` where we may mount one; elsewhere the files of a process are small, which stops it
    in the same way, but for the number of the error (EFBIG, not ENOSPC). `before` is Python for the process.
    """

    def __init__(self, folder: Path, megabytes: int, mounts: bool) -> None:
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder]
        self.folder = folder
        self.mounted = mounts and subprocess.run(mount, capture_output=True).returncode == 0
        self.bytes = megabytes << 20
        limit = f"import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({self.bytes}, -1))"
        self.before = "" if self.mounted else limit
        self.what = f"{'a file system' if self.mounted else 'files'} of {megabytes} MB"

    def grow(self, process: int) -> None:
        if self.mounted:
            subprocess.run(["mount", "-o", "remount,size=200m", self.folder], check=True)
        else:
            resource.prlimit(process, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int = 6, *, mounts: bool = True) -> Iterator[Disk]:
    disk = Disk(folder, megabytes, mounts)
    try:
        yield disk
    finally:
        if disk.mounted:
            subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("how", ["100 MB to be kept free", "filled to the last byte", "no file may be larger"])
def test_a_full_disk_is_told_to_senders_and_nothing_that_was_accepted_is_lost(tmp_path: Path, how: str) -> None:
    """
    Intake stops while 100 MB are left; where another program takes those, the file itself can't grow (ENOSPC). In each
    case senders are told to come again, the CRM gets what it may, and all goes on when there is room.
    """
    folder, crm, done = project(tmp_path / "project", "ledger", clients=1), Crm(), threading.Event()
    crm.down = True
    kept_free = how == "100 MB to be kept free"
    with small_disk(tmp_path / "disk", 6 if kept_free else 8, mounts=how != "no file may be larger") as disk:
        before = disk.before + (
            "" if kept_free else "\nimport engine.upkeep.capacity\nengine.upkeep.capacity.MIN_FREE = 0"
        )
        serve = Serve(folder, crm.port, store=f"sqlite:///{disk.folder}/connect.db", before=before)
        senders = [Sender([serve.port], f"s{at}", done, clients=1, pad=20_000, ledger=1) for at in range(4)]
        try:
            for sender in senders:
                sender.start()
            soon(lambda: sum(sender.answers["503"] for sender in senders) > 20, 60)
            crm.down = False  # what is sent now may find no room for its end
            time.sleep(sized(1.0, 10.0))
            refused = sum(sender.answers["503"] for sender in senders)
            disk.grow(serve.process.pid)
            before_room = sum(len(sender.accepted["ledger"]) for sender in senders)
            soon(lambda: sum(len(sender.accepted["ledger"]) for sender in senders) > before_room + 20, 30)
            done.set()
            for sender in senders:
                sender.join()
            until_empty(serve)
            assert serve.end() == 0
        finally:
            done.set()
            serve.close()
            crm.close()
        number, lost = proven(senders, crm, disk.folder / "connect.db")
    figures(
        f"test_a_full_disk_is_told_to_senders_and_nothing_that_was_accepted_is_lost[{how}]",
        f"{disk.what}, {how}: {number} events accepted, {before_room} of them before there was room, {refused} times "
        f"told 503, {len(lost)} lost, {crm.twice} sent twice",
    )
    assert lost == set()
    assert all(
        sender.told.keys() == {"503"} and all(int(seconds) > 0 for seconds in sender.told["503"]) for sender in senders
    )
    assert crm.twice <= RECORDS * sized(1, 2), "what was sent and could not be written down is not sent again and again"
    says = {"100 MB to be kept free": "are kept free", "filled to the last byte": "the disk is full; free some space"}
    assert says.get(how, "the disk can't be read or written") in serve.said()


def test_a_store_that_another_program_locks_takes_its_events_in_when_it_is_free(tmp_path: Path) -> None:
    folder, crm, done = project(tmp_path / "project", "ledger", clients=1), Crm(), threading.Event()
    serve = Serve(folder, crm.port)
    sender = Sender([serve.port], "s", done, clients=1, pace_s=0.01, timeout_s=40, ledger=1)
    try:
        sender.start()
        time.sleep(0.5)
        with closing(sqlite3.connect(folder / "connect.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            before = len(sender.accepted["ledger"])
            time.sleep(sized(1.0, 25.0))  # a write waits for ten seconds, then it fails
            held = len(sender.accepted["ledger"]) - before
            other.execute("ROLLBACK")
        soon(lambda: len(sender.accepted["ledger"]) > before + 20, 30)
        done.set()
        sender.join()
        until_empty(serve)
        assert serve.end() == 0
    finally:
        done.set()
        serve.close()
        crm.close()
    number, lost = proven([sender], crm, folder / "connect.db")
    figures(
        "test_a_store_that_another_program_locks_takes_its_events_in_when_it_is_free",
        f"locked for {sized(1, 25)} s: {held} accepted meanwhile, {sender.answers['503']} told 503; "
        f"{number} accepted in all, {len(lost)} lost",
    )
    assert (lost, held <= 1) == (set(), True)  # one may have been on its way
    refused = sender.answers["503"]
    assert refused == 0 if sized(True, False) else 1 <= refused <= 3, (
        "who writes waits for ten seconds, then it is told"
    )


def everything(path: Path) -> str:
    """Open the store and read all that is in it; what it says of damage, or an empty text."""
    try:
        with closing(SqliteStore(path)) as store:
            for lane in store.lanes():
                lease = store.lease(lane.connector, lane.client, owner="me", ttl_s=1, now=5.0)
                if lease is not None:
                    for action in store.waiting_actions(lease):
                        store.read(lease, action, limit=100_000, now=5.0)
                        store.progress(lease, action, now=5.0)
            store.dead(limit=1000)
            store.next_due(now=5.0)
    except StoreUnavailable as error:
        return str(error)
    return ""


def test_a_damaged_store_is_said_plainly_and_never_made_anew(tmp_path: Path) -> None:
    whole, path, rng = tmp_path / "whole.db", tmp_path / "connect.db", random.Random(2)
    fill(whole, 2_000)
    good = whole.read_bytes()
    said, quiet, times = 0, 0, sized(40, 600)
    for _ in range(times):
        damaged = bytearray(good)
        for at in rng.sample(range(len(good) if rng.random() < 0.5 else 4096), rng.choice([1, 8, 64])):
            damaged[at] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        inode = path.stat().st_ino
        why = everything(path)  # nothing but StoreUnavailable may come out
        assert path.stat().st_ino == inode
        assert path.stat().st_size >= len(good), "what was there is there still"
        said += bool(why)
        quiet += not why
        for beside in ("-wal", "-shm"):
            Path(f"{path}{beside}").unlink(missing_ok=True)
    figures(
        "test_a_damaged_store_is_said_plainly_and_never_made_anew",
        f"{times} files with 1 to 64 flipped bits: {said} times said, {quiet} times not met by any reading; "
        "0 other errors, 0 files made anew",
    )
    assert said > times / 10


def test_serve_does_not_start_on_a_damaged_store_and_leaves_it_as_it_is(tmp_path: Path) -> None:
    folder = project(tmp_path / "project", "ledger", clients=1)
    fill(folder / "connect.db", 500)
    data = bytearray((folder / "connect.db").read_bytes())
    data[:64] = os.urandom(64)
    (folder / "connect.db").write_bytes(data)
    for command in (("serve", "--port", "0"), ("deliver",), ("status",)):
        ended = connect(*command, "--store", "sqlite:///connect.db", project=folder)
        assert (ended.code != 0, "is damaged or no SQLite database; it is left as it is" in ended.err) == (True, True)
    assert (folder / "connect.db").read_bytes() == data


def test_a_folder_that_may_not_be_written_is_named_at_the_start(tmp_path: Path) -> None:
    folder, place = project(tmp_path / "project", "ledger", clients=1), tmp_path / "store"
    with small_disk(place) as disk:
        if disk.mounted:
            subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        else:
            place.chmod(0o555)
        for command in (("serve", "--port", "0"), ("deliver",)):
            ended = connect(*command, "--store", f"sqlite:///{place}/connect.db", project=folder)
            assert ended.code != 0
            assert "the file or its folder is read-only; check who may write there" in ended.err


def test_where_descriptors_run_out_nothing_is_lost_and_it_goes_on_when_they_are_back(tmp_path: Path) -> None:
    folder, crm, done = project(tmp_path / "project", "ledger", clients=1), Crm(), threading.Event()
    few = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))"
    serve = Serve(folder, crm.port, before=few)
    sender = Sender([serve.port], "s", done, clients=1, pace_s=0.01, timeout_s=3, ledger=1)
    try:
        sender.start()
        time.sleep(0.5)
        idle = [socket.create_connection(("127.0.0.1", serve.port)) for _ in range(100)]
        held = len(sender.accepted["ledger"])
        time.sleep(sized(1.5, 5.0))
        held = len(sender.accepted["ledger"]) - held
        for each in idle:
            each.close()
        before = len(sender.accepted["ledger"])
        soon(lambda: len(sender.accepted["ledger"]) > before + 20, 40)
        done.set()
        sender.join()
        until_empty(serve)
        assert serve.end() == 0
    finally:
        done.set()
        serve.close()
        crm.close()
    number, lost = proven([sender], crm, folder / "connect.db")
    figures(
        "test_where_descriptors_run_out_nothing_is_lost_and_it_goes_on_when_they_are_back",
        f"64 descriptors, 100 connections that say nothing: {held} events accepted meanwhile, {number} in all, "
        f"{len(lost)} lost",
    )
    assert lost == set()
    assert held > 5, "who waits longest without a word makes room for others"


LIMIT = 256 << 20


@contextlib.contextmanager
def little_memory() -> Iterator[tuple[str, str]]:
    """Python that limits its process to 256 MB, and by what."""
    group = Path(f"/sys/fs/cgroup/memory/connect-torture-{os.getpid()}")
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(LIMIT))
        join = f"open('{group}/cgroup.procs', 'w').write('0')"
        by = "cgroup"
    except OSError:
        group = Path("/nowhere")
        join = f"import resource\nresource.setrlimit(resource.RLIMIT_DATA, ({LIMIT}, {LIMIT}))"
        by = "RLIMIT_DATA"
    try:
        yield join, by
    finally:
        with contextlib.suppress(OSError):
            group.rmdir()


def test_a_million_waiting_events_are_delivered_with_256_mb(tmp_path: Path) -> None:
    number, for_s = sized(100_000, 1_000_000), sized(1.5, 60.0)
    folder, crm = project(tmp_path / "project", "ledger", clients=1), Crm(answer_s=0.0)
    fill(folder / "connect.db", number, connector="ledger", client="c0", action="note")
    with little_memory() as (limit, by):
        serve = Serve(folder, crm.port, before=limit)
        try:
            time.sleep(for_s)
            lanes = serve.lanes()
            status = Path(f"/proc/{serve.process.pid}/status").read_text()
            most_mb = int(status.partition("VmHWM:")[2].split()[0]) / 1024
            assert serve.end() == 0
        finally:
            serve.close()
            crm.close()
    found, dead = sums(folder / "connect.db")
    figures(
        "test_a_million_waiting_events_are_delivered_with_256_mb",
        f"{number} waiting, limit of 256 MB by {by}: at most {most_mb:.0f} MB resident, "
        f"{lanes[0]['delivered']} delivered in {for_s:g} s; the rest waits, 0 lost",
    )
    assert (found["accepted"], dead) == (number, set())
    assert found["delivered"] == len(crm.seen["ledger"]) > 0
    assert most_mb < 256


def test_a_clock_that_jumps_by_a_day_loses_nothing_and_buries_nothing() -> None:
    rng = random.Random(4)
    late = 0.0
    for _ in range(sized(5, 100)):
        clock = VirtualClock(START)
        vendor = Vendor(answer=lambda _, rng=rng: reply(503) if rng.random() < 0.2 else reply(200, {}))
        shop = Shop("", vendor=vendor, clock=clock)
        number, ahead_s = 0, 0.0
        for _ in range(30):
            for _ in range(rng.randint(0, 3)):
                number += 1
                shop.post({"id": str(number)})
            shop.worker.drain()
            balanced(shop.store)
            clock.time += rng.choice([0, 1, 30, 30])
            if rng.random() < 0.3:
                jump_s = -ahead_s or rng.choice([-86_400.0, 86_400.0])
                ahead_s += jump_s
                clock.time += jump_s
        began = clock.now()
        shop.drain(10 * 86400)
        assert (shop.sums(), shop.reasons()) == ({"delivered": number}, {})
        late = max(late, max(vendor.at) - began)
    figures(
        "test_a_clock_that_jumps_by_a_day_loses_nothing_and_buries_nothing",
        f"{sized(5, 100)} runs with jumps of a day to and fro: 0 lost, 0 dead letters; "
        f"the last event left {late / 86400:.1f} days after the last jump",
    )


def test_without_dns_events_wait_and_go_out_when_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a day without an answer of the name service, in each of its ways; the CRM is a socket of this machine."""
    crm, real, asked, gone = Crm(answer_s=0.0), socket.getaddrinfo, list[str](), True
    ways = [
        socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        TimeoutError("timed out"),
    ]

    def look_up(host: Any, *args: Any, **options: Any) -> Any:
        if host != "vendors.test":
            return real(host, *args, **options)
        asked.append(host)
        if gone:
            raise ways[len(asked) % len(ways)]
        return real("127.0.0.1", *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    transport = HttpTransport(f"http://vendors.test:{crm.port}")
    shop = Shop(
        'actions: {note: {record: {id: "${ event.id }"}, request: {path: /leads, json: ["${ record }"]}}}\n'
        "http: {base_url: https://api.crm.example}",
        vendor=transport,
    )
    shop.post_many(20)
    shop.drain(12 * 3600)
    assert (shop.sums(), shop.dead()) == ({"waiting": 20}, [])
    assert "no connection to api.crm.example" in str(shop.lane().reason)
    in_vain, gone = len(asked), False
    shop.drain(3600)
    transport.close()
    crm.close()
    assert (shop.sums(), shop.dead()) == ({"delivered": 20}, [])
    assert crm.seen["direct"] == Counter({str(at): 1 for at in range(1, 21)})
    figures(
        "test_without_dns_events_wait_and_go_out_when_it_is_back",
        f"12 hours (virtual) without it: asked for {in_vain} times, 0 of 20 events lost, 0 dead letters",
    )
    assert in_vain < 500


def test_a_put_of_a_store_that_is_full_is_whole_or_not_there(tmp_path: Path) -> None:
    """A list of events that did not all find room leaves none of them behind."""
    with small_disk(tmp_path / "disk") as disk, closing(SqliteStore(disk.folder / "connect.db")) as store:
        size = 20_000
        limit = None
        if not disk.mounted:
            limit = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (6 << 20, limit[1]))
        kept, refused = 0, 0
        try:
            for number in range(40):
                events = [
                    Accepted("crm", "abc", f"e{number}-{at}", b"x" * size, 0.0, (Draft("task"), Draft("note")))
                    for at in range(20)
                ]
                try:
                    kept += len(store.put(events, now=0.0).result())
                except StoreUnavailable as error:
                    refused += "disk" in str(error)
        finally:
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        (lane,) = store.lanes()
        assert (lane.accepted, lane.waiting) == (2 * kept, 2 * kept)
        assert refused > 10
