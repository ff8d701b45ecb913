"""The log of a SQLite store: it grows ahead of what is written, and what stands behind its last frame means nothing."""

from __future__ import annotations

import shutil
from itertools import pairwise
from typing import TYPE_CHECKING

from engine.records import Accepted, Draft
from engine.stores import sqlite
from engine.stores.sqlite import LOG_FIRST, LOG_PAGES, LOG_STEP, SqliteStore

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

BODY = b'{"note":"' + b"x" * 30_000 + b'"}'


def put(store: SqliteStore, number: int) -> None:
    draft = Draft("send", f"person-{number}")
    store.put([Accepted("crm", "acme", f"e{number}", BODY, 1.0, (draft,))], now=1.0).result(10)


def log_of(path: Path) -> int:
    return path.with_name(f"{path.name}-wal").stat().st_size


def test_a_log_that_has_begun_to_grow_grows_by_a_good_piece_at_once(tmp_path: Path) -> None:
    path = tmp_path / "connect.db"
    store = SqliteStore(path)
    sizes = [log_of(path)]
    for number in range(40):
        put(store, number)
        sizes.append(log_of(path))
    store.close()
    grown = [after - before for before, after in pairwise(sizes) if after > before]
    assert sizes[0] < LOG_FIRST
    assert LOG_FIRST + LOG_STEP < sizes[-1] < LOG_FIRST + 4 * LOG_STEP
    assert [each for each in grown if each >= LOG_STEP]
    assert len(grown) < 20  # of 40 commits


def test_what_was_killed_with_a_log_that_is_longer_than_its_frames_holds_every_event_that_was_answered(
    tmp_path: Path,
) -> None:
    path = tmp_path / "connect.db"
    store = SqliteStore(path)
    for number in range(12):
        put(store, number)
    (tmp_path / "after").mkdir()
    for beside in ("", "-wal"):
        shutil.copy(f"{path}{beside}", tmp_path / "after" / f"connect.db{beside}")
    log = (tmp_path / "after" / "connect.db-wal").read_bytes()
    assert log.endswith(bytes(64 * 1024))
    store.close()
    again = SqliteStore(tmp_path / "after" / "connect.db")
    assert [(lane.accepted, lane.waiting) for lane in again.lanes()] == [(12, 12)]
    put(again, 12)
    assert [(lane.accepted, lane.waiting) for lane in again.lanes()] == [(13, 13)]
    assert again.faults() == []
    again.close()


def test_a_log_that_was_cut_to_nothing_grows_again(tmp_path: Path) -> None:
    path = tmp_path / "connect.db"
    store = SqliteStore(path)
    for number in range(20):
        put(store, number)
    assert store.scrub()
    assert log_of(path) == 0
    for number in range(20, 40):
        put(store, number)
    assert log_of(path) > LOG_FIRST + LOG_STEP
    assert [lane.waiting for lane in store.lanes()] == [40]
    assert store.faults() == []
    store.close()


def test_a_log_grows_ahead_only_as_far_as_it_is_folded_into_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "LOG_PAGES", 200)
    path = tmp_path / "connect.db"
    store = SqliteStore(path)
    for number in range(100):
        put(store, number)
    assert log_of(path) < 200 * 4096 + 2 * LOG_STEP
    assert LOG_PAGES * 4096 < 64 * 1024 * 1024  # what SQLite cuts a log to
    store.close()
