from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from typing import Any

import pytest

from engine.clock import VirtualClock
from engine.errors import StoreUnavailable
from engine.records import Accepted, Draft, Lane, Settled
from engine.stores.memory import MemoryStore
from engine.telemetry.log import NullTelemetry, Telemetry
from engine.upkeep.counts import DeadCounts


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def unmasked(text: str) -> str:
    return text


def written(name: str, *, level: str = "info", **facts: object) -> list[dict[str, object]]:
    stream = io.StringIO()
    telemetry = Telemetry(
        mask=lambda text: text.replace("s3cr3t", "***"), stream=stream, level=level, clock=lambda: 1_700_000_000.25
    )
    telemetry.event(name, **facts)
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def samples(telemetry: Telemetry) -> dict[str, float]:
    """Ours only, without the times of creation and the buckets."""
    lines = [line for line in telemetry.metrics().decode().splitlines() if line.startswith("connect_")]
    pairs = [line.rsplit(" ", 1) for line in lines if not re.search("_created|_bucket", line)]
    return {name: float(value) for name, value in pairs}


def test_an_event_is_one_json_line() -> None:
    assert written("retry", connector="crm", client="a", count=2, wait_s=1.5, steps=["x", {"y": None}]) == [
        {
            "at": "2023-11-14T22:13:20.250Z",
            "level": "info",
            "event": "retry",
            "connector": "crm",
            "client": "a",
            "count": 2,
            "wait_s": 1.5,
            "steps": ["x", {"y": None}],
        }
    ]


def test_a_fact_cannot_take_the_place_of_the_head() -> None:
    [line] = written("retry", level="info", event="other", at=0)
    assert (line["event"], line["at"]) == ("retry", "2023-11-14T22:13:20.250Z")


def test_every_text_is_masked_wherever_it_stands() -> None:
    [line] = written(
        "fault", error=ValueError("bad s3cr3t"), deep={"a s3cr3t": ["s3cr3t"]}, long="x" * 1995 + "s3cr3t" + "y" * 50
    )
    del line["at"], line["level"], line["event"]
    assert line == {
        "error": "bad ***",
        "deep": {"a ***": ["***"]},
        "long": "x" * 1995 + "***" + "yy" + "… (2048 characters)",
    }


@pytest.mark.parametrize(
    ("level", "names"),
    [
        ("debug", ["accepted", "retry", "lane-paused", "token-refused", "unheard-of"]),
        ("info", ["retry", "lane-paused", "token-refused", "unheard-of"]),
        ("error", ["token-refused"]),
    ],
)
def test_a_level_keeps_lower_events_out_of_the_log(level: str, names: list[str]) -> None:
    all_names = ["accepted", "retry", "lane-paused", "token-refused", "unheard-of"]
    assert [name for name in all_names if written(name, level=level)] == names


def test_a_person_who_watches_reads_no_json() -> None:
    screen = Screen()
    telemetry = Telemetry(mask=unmasked, stream=screen, clock=lambda: 0.0)
    telemetry.event("lane-paused", connector="crm", why="HTTP 401")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue())
    assert re.sub(" +", " ", plain) == "1970-01-01T00:00:00.000Z [warning ] lane-paused connector=crm why='HTTP 401'\n"


def test_a_log_that_cannot_be_written_stops_nobody() -> None:
    stream = io.StringIO()
    telemetry = Telemetry(mask=unmasked, stream=stream)
    stream.close()
    telemetry.event("throttled", connector="crm", client="a")
    assert samples(telemetry)['connect_throttled_total{client="a",connector="crm"}'] == 1  # still counted


def test_what_the_walk_says_is_counted() -> None:
    telemetry = Telemetry(mask=unmasked, stream=io.StringIO(), level="error")
    lane = {"connector": "crm", "client": "a"}
    telemetry.event("accepted", **lane, count=3)
    telemetry.event("refused", connector="crm", status=422)
    telemetry.event("delivered", **lane, action="lead", count=2)
    telemetry.event("rejected", **lane, action="lead")
    telemetry.event("skipped", **lane, action="lead", count=4)
    telemetry.event("retry", **lane, action="lead", count=5)
    for status, seconds in [(200, 0.2), (204, 0.3), (503, 1), (None, 30)]:
        telemetry.event(
            "exchange", **lane, action="lead", step="s", method="POST", host="h", status=status, seconds=seconds
        )
    telemetry.event("token-renewed", **lane)
    telemetry.event("token-refused", **lane)
    telemetry.event("token-failed", **lane)
    telemetry.event("access-refused", **lane, action="lead", status=401)
    telemetry.event("api-limit", **lane, action="lead", status=429)
    telemetry.event("misconfigured", connector="crm", reason="unknown-client", count=2)
    telemetry.event("throttled", **lane)
    telemetry.event("alert", **lane, kind="lane-paused")
    telemetry.event("fault", where="serve")
    telemetry.event("unheard-of", **lane)
    labels = 'client="a",connector="crm"'
    assert samples(telemetry) == {
        f"connect_events_accepted_total{{{labels}}}": 3,
        'connect_events_refused_total{connector="crm",status="422"}': 1,
        f'connect_deliveries_total{{action="lead",{labels},outcome="delivered"}}': 2,
        f'connect_deliveries_total{{action="lead",{labels},outcome="rejected"}}': 1,
        f'connect_deliveries_total{{action="lead",{labels},outcome="skipped"}}': 4,
        f'connect_retries_total{{action="lead",{labels}}}': 5,
        f'connect_exchanges_total{{{labels},status_class="2xx"}}': 2,
        f'connect_exchanges_total{{{labels},status_class="5xx"}}': 1,
        f'connect_exchanges_total{{{labels},status_class="none"}}': 1,
        f'connect_exchange_seconds_count{{action="lead",{labels}}}': 4,
        f'connect_exchange_seconds_sum{{action="lead",{labels}}}': 31.5,
        f'connect_token_renewals_total{{{labels},result="renewed"}}': 1,
        f'connect_token_renewals_total{{{labels},result="refused"}}': 1,
        f'connect_token_renewals_total{{{labels},result="failed"}}': 1,
        f"connect_auth_errors_total{{{labels}}}": 2,
        f"connect_api_limit_errors_total{{{labels}}}": 1,
        'connect_configuration_errors_total{connector="crm",reason="unknown-client"}': 2,
        f"connect_throttled_total{{{labels}}}": 1,
        f'connect_alerts_total{{{labels},kind="lane-paused"}}': 1,
        'connect_faults_total{where="serve"}': 1,
        "connect_store_up": 1,
    }


def test_lanes_are_read_when_they_are_asked_for() -> None:
    lanes = [
        Lane("crm", "a", state="paused", waiting=7, oldest_at=900),
        Lane("crm", "b"),
    ]
    telemetry = Telemetry(mask=unmasked, stream=io.StringIO(), clock=lambda: 1_000)
    telemetry.watch(lambda: lanes)
    assert samples(telemetry) == {
        'connect_oldest_seconds{client="a",connector="crm"}': 100,
        'connect_lane_waiting{client="a",connector="crm"}': 7,
        'connect_lane_waiting{client="b",connector="crm"}': 0,
        'connect_lane_paused{client="a",connector="crm"}': 1,
        'connect_lane_paused{client="b",connector="crm"}': 0,
        'connect_oldest_seconds{client="b",connector="crm"}': 0,
        "connect_store_up": 1,
    }


def test_dead_letters_are_told_by_lane_and_counted_seldom() -> None:
    class Counting(MemoryStore):
        asked = 0

        def count_dead(self, by: str, **which: Any) -> dict[str, int]:
            self.asked += 1
            clock.sleep(takes_s)
            return super().count_dead(by, **which)

    store, clock, takes_s = Counting(), VirtualClock(1_000), 0.5
    counts = DeadCounts(store, clock.now)
    telemetry = Telemetry(mask=unmasked, stream=io.StringIO())
    telemetry.watch(store.lanes, counts)
    put_dead(store, "a", "a", "b")
    put_dead(store, "c")
    store.discard([4], reason="a test", now=0)

    def told() -> dict[str, float]:
        return {name: value for name, value in samples(telemetry).items() if "dead" in name}

    first = {
        'connect_dead_letters{client="a",connector="crm"}': 2,
        'connect_dead_letters{client="b",connector="crm"}': 1,
        'connect_dead_letters{client="c",connector="crm"}': 0,
    }
    assert told() == first
    store.requeue([1], now=0)
    clock.sleep(59.9)
    assert (told(), store.asked) == (first, 1)
    clock.sleep(0.1)
    takes_s = 10.0
    assert (told(), store.asked) == ({**first, 'connect_dead_letters{client="a",connector="crm"}': 1}, 2)
    clock.sleep(299)  # a count that takes long is made seldom
    assert (told()['connect_dead_letters{client="b",connector="crm"}'], store.asked) == (1, 2)
    clock.sleep(1)
    assert (told()['connect_dead_letters{client="b",connector="crm"}'], store.asked) == (1, 3)


def put_dead(store: MemoryStore, *clients: str) -> None:
    for client in clients:
        store.put([Accepted("crm", client, "e", b"{}", 0.0, (Draft("task"),))], now=0)
        lease = store.lease("crm", client, owner="w", ttl_s=60, now=0)
        assert lease is not None
        [one] = store.read(lease, "task", limit=1, now=0)
        store.settle(lease, [Settled(one.seq, "rejected", reason="no")], now=0)
        store.release(lease, wake_at=None)


def test_metrics_can_be_read_while_the_store_is_away() -> None:
    def away() -> list[Lane]:
        raise StoreUnavailable("locked")

    telemetry = Telemetry(mask=unmasked, stream=io.StringIO(), lanes=away)
    assert samples(telemetry) == {"connect_store_up": 0}


def test_labels_are_bounded_whatever_is_passed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.telemetry.log.MAX_VALUES", 2)
    telemetry = Telemetry(mask=unmasked, stream=io.StringIO())
    for path in ["a", "b", "c", "d", "a"]:
        telemetry.event("refused", connector=path, status=404)
    assert samples(telemetry) == {
        'connect_events_refused_total{connector="a",status="404"}': 2,
        'connect_events_refused_total{connector="b",status="404"}': 1,
        'connect_events_refused_total{connector="other",status="404"}': 2,
        "connect_store_up": 1,
    }


def test_two_of_them_share_nothing() -> None:
    one, two = (Telemetry(mask=unmasked, stream=io.StringIO()) for _ in range(2))
    one.event("throttled", connector="crm", client="a")
    assert samples(two) == {"connect_store_up": 1}


def test_nobody_has_to_listen(capfd: pytest.CaptureFixture[str]) -> None:
    NullTelemetry().event("accepted", connector="crm")
    assert capfd.readouterr() == ("", "")


def test_a_delivery_that_the_walk_settles_as_later_counts_as_put_back() -> None:
    telemetry = Telemetry(mask=unmasked, stream=io.StringIO())
    telemetry.event("later", connector="crm", client="a", action="lead", count=3)
    assert samples(telemetry)['connect_retries_total{action="lead",client="a",connector="crm"}'] == 3


def test_what_is_bound_stands_in_every_line() -> None:
    stream = io.StringIO()
    telemetry = Telemetry(mask=unmasked, stream=stream, clock=lambda: 0.0)
    telemetry.bind(request_id="8f5", event="other")
    telemetry.event("retry", connector="crm")
    telemetry.bind(request_id="9a1")
    telemetry.event("retry", connector="crm")
    telemetry.bind()
    telemetry.event("retry", connector="crm")
    head = {"at": "1970-01-01T00:00:00.000Z", "level": "info", "event": "retry"}
    assert [json.loads(line) for line in stream.getvalue().splitlines()] == [
        {**head, "request_id": "8f5", "connector": "crm"},
        {**head, "request_id": "9a1", "connector": "crm"},
        {**head, "connector": "crm"},
    ]


def test_an_error_that_nobody_caught_is_one_line_without_its_text() -> None:
    code = """
import threading
from engine.telemetry.log import Telemetry
telemetry = Telemetry(mask=str)
telemetry.catch()
telemetry.bind(request_id="8f5")

def bad():
    raise ValueError("s3cr3t\\nand more")

class Bad:
    def __del__(self):
        bad()

thread = threading.Thread(target=bad, name="lane_0")
thread.start()
thread.join()
Bad()
bad()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    faults = [(line["level"], line["event"], line["request_id"], line["where"], line["error"]) for line in lines]
    assert faults == [
        ("error", "fault", "8f5", where, "ValueError at __main__:9")
        for where in ("thread lane_0", "clean-up", "process")
    ]
    assert (done.returncode, "s3cr3t" in done.stderr) == (1, False)
