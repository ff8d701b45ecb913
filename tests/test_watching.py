from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from command import ROOT, Running, environment, make_project

from engine.cli import status
from engine.cli.watching import History, frame, named, number, plain, sparkline
from engine.records import Accepted, Draft, Lane, LaneChange, Settled
from engine.stores.sqlite import SqliteStore


def shown(*looks: tuple[float, list[Lane]], width: int = 80, height: int | None = None) -> list[str]:
    """The lines after the last look; without the summary's time of day."""
    history = History()
    for at, lanes in looks:
        found = history.look(lanes, at)
    lines = plain(frame(found, looks[-1][0], width=width, height=height)).splitlines()
    return [lines[0].partition("  ")[2], *lines[1:]]


def test_rates_are_differences_of_counters_and_trouble_comes_first() -> None:
    def lanes(delivered: int, waiting: int, rejected: int) -> list[Lane]:
        return [
            Lane("crm", "busy", "waiting", waiting, delivered=delivered, oldest_at=990.0),
            Lane("crm", "done", delivered=7),
            Lane("crm", "late", "waiting", 1, oldest_at=10.0),
            Lane("crm", "lossy", "waiting", 1, rejected=rejected, oldest_at=999.0),
            Lane("crm", "slowed", "throttled", 4, oldest_at=900.0, not_before=1_120.0, reason="HTTP 429"),
            Lane("crm", "stopped", "paused", 3, oldest_at=900.0, reason="HTTP 401"),
        ]

    looks = [(1_000.0 + 20 * at, lanes(10 * at, 2 * at, 3 + at // 2)) for at in range(4)]
    assert shown(*looks) == [
        "6 lanes  1 paused  1 throttled  15 waiting  30/min  1 rejected",
        "",
        "connector/client          state     waiting              /min             oldest",
        "crm/stopped               paused          3       ████      0        ▁▁▁      2m",
        "  HTTP 401",
        "crm/lossy                 waiting         1       ████      0        ▁▁▁     61s",
        "  1 rejected within 3 minutes",
        "crm/slowed                throttled       4       ████      0        ▁▁▁      2m",
        "  for 60s more; HTTP 429",
        "crm/late                  waiting         1       ████      0        ▁▁▁     17m",
        "crm/busy                  waiting         6       ▁▃▆█     30        ███     70s",
        "crm/done                  idle            0       ▁▁▁▁      0        ▁▁▁",
    ]


def test_five_hundred_lanes_fit_a_screen_and_the_rest_is_summed_up() -> None:
    lanes = [Lane("responsys", f"loja-{n:03}", "waiting", 2, oldest_at=n) for n in range(500)]
    after = [Lane("responsys", f"loja-{n:03}", "waiting", 2, delivered=10, oldest_at=n) for n in range(500)]
    lines = shown((1_000, lanes), (1_060, after), height=24)
    assert len(lines) == 24
    assert lines[-1] == "… and 481 more: 962 waiting, 4810/min"
    assert lines[0] == "500 lanes  1,000 waiting  5000/min"
    assert [line.split()[0] for line in lines[3:22]] == [f"responsys/loja-{n:03}" for n in range(19)]


def test_no_line_is_wider_than_the_screen() -> None:
    lanes = [
        Lane("a-connector-of-some-length", "x" * 200, "paused", 10**9, oldest_at=0, reason="why " * 90),
        Lane("crm", "loja", "waiting", 123_456, delivered=10**12, oldest_at=0),
    ]
    for width in (70, 72, 80, 200):
        assert max(map(len, shown((1_000, lanes), (1_001, lanes), width=width, height=24))) <= width


def test_of_a_long_name_both_ends_are_seen() -> None:
    assert [named(Lane("crm", "loja"), 12), named(Lane("salesforce", "loja-001"), 14)] == ["crm/loja", "sale…/loja-001"]
    assert named(Lane("rdstation", "loja-001-com-um-nome-comprido-sul"), 24) == "rdstati…/loja-001-…o-sul"


def test_a_lane_that_comes_and_one_that_begins_anew_have_no_rate_below_nothing() -> None:
    new = [Lane("crm", "old", delivered=3), Lane("crm", "new", delivered=50)]
    lines = shown((0, [Lane("crm", "old", delivered=90)]), (30, new))
    assert [line.split()[:4] for line in lines[3:]] == [["crm/new", "idle", "0", "▁"], ["crm/old", "idle", "0", "▁▁"]]
    assert lines[0] == "2 lanes  0 waiting  0/min"


def test_a_sparkline_tells_nothing_from_a_little_and_from_not_looked_at() -> None:
    assert sparkline([None, 0, 0.01, 5, 10]) == " ▁▂▅█"
    assert sparkline([0, 0]) == "▁▁"
    assert [number(n) for n in (0, 0.25, 9.96, 12.4, 99_999, 123_456, 12_345_678, 3e9)] == [
        "0", "0.2", "10", "12", "99999", "123k", "12M", "3G",
    ]  # fmt: skip


def test_a_store_that_is_away_is_said_and_what_was_known_stays_in_the_summary() -> None:
    found = History().look([Lane("crm", "a", waiting=5)], 10)
    lines = plain(
        frame(found, 10, width=40, height=24, away="the store can't be read: database is locked")
    ).splitlines()
    assert lines[0].endswith("1 lane  5 waiting")
    assert lines[1:] == ["the store can't be read: database is lo…"]


# --- the command ---


def filled(home: Path) -> SqliteStore:
    store = SqliteStore(home / "connect.db")
    for client in ("client-abc", "client-xyz"):
        event = Accepted("responsys", client, "e", b"{}", time.time() - 300, (Draft("trigger_event", None),))
        [stored] = store.put([event], now=time.time()).result()
        if client == "client-xyz":
            store.settle(None, [Settled(stored.deliveries[0].seq, "delivered")], now=time.time())
    store.change_lane("responsys", "client-abc", LaneChange(pause=True, reason="HTTP 401"), now=time.time())
    return store


def test_watch_with_json_gives_a_line_for_each_look(tmp_path: Path) -> None:
    home = make_project(tmp_path)
    with Running("status", "--watch", "--json", "--interval", "100ms", project=home) as status:
        assert json.loads(status.line())["lanes"] == []  # there is no store yet
        store = filled(home)
        found: list[dict[str, object]] = []
        while len(found) < 2 or found[0]["delivered_per_minute"] is None:
            found = json.loads(status.line())["lanes"]
        ended = status.end(signal.SIGINT)
    store.close()
    assert (ended.code, ended.err) == (0, "")
    assert [(lane["client"], lane["state"], lane["reason"]) for lane in found] == [
        ("client-abc", "paused", "HTTP 401"),
        ("client-xyz", "idle", None),
    ]


@pytest.mark.parametrize("interval", ["0.5", "500", "50ms", "soon", ""])
def test_an_interval_that_is_no_time_is_refused_with_how_to_write_it(interval: str) -> None:
    ended = CliRunner().invoke(status.command, ["--watch", "--interval", interval])
    assert ended.exit_code == 2
    assert f"{interval!r} is no time from 100ms on; write it as 500ms or 2s" in ended.output


def test_watch_into_a_pipe_writes_plain_lines(tmp_path: Path) -> None:
    home = make_project(tmp_path)
    filled(home).close()
    with Running("status", "--watch", "--interval", "100ms", project=home) as status:
        lines = [status.line() for _ in range(7)]
        ended = status.end(signal.SIGINT)
    assert (ended.code, ended.err) == (0, "")
    assert [line.split()[:3] for line in lines[2:]] == [
        ["connector/client", "state", "waiting"],
        ["responsys/client-abc", "paused", "1"],
        ["HTTP", "401"],
        ["responsys/client-xyz", "idle", "0"],
        [],
    ]
    assert "\x1b" not in "".join(lines)


def test_watch_on_a_terminal_has_a_screen_of_its_own_and_gives_it_back(tmp_path: Path) -> None:
    home = make_project(tmp_path)
    filled(home).close()
    here, there = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "engine.cli", "status", "--watch", "--interval", "200ms"],
        stdin=there, stdout=there, stderr=there, cwd=home,
        env=environment(PYTHONPATH=str(ROOT), TERM="xterm-256color", COLUMNS="80", LINES="24"),
    ) as process:  # fmt: skip
        os.close(there)
        try:
            seen = read(here, lambda text: text.count("responsys/client-abc") >= 2)
            process.send_signal(signal.SIGINT)
            seen += read(here, lambda _: False)
            assert process.wait(20) == 0
        finally:
            process.kill()  # or a failure would wait for it for ever
    os.close(here)
    assert (seen.count("\x1b[?1049h"), seen.count("\x1b[?1049l")) == (1, 1)
    assert "\x1b[2J" not in seen.partition("responsys/client-abc")[2]  # drawn over and not wiped: no flicker
    assert "Traceback" not in seen


def read(terminal: int, enough: object) -> str:
    text = ""
    until = time.monotonic() + 30
    while time.monotonic() < until and not enough(text):  # type: ignore[operator]
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            part = os.read(terminal, 65_536)
        except OSError:
            break
        if not part:
            break
        text += part.decode(errors="replace")
    return text
