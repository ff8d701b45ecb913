"""What stands is seen in the store, whoever met with it, and so is its end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import Heard, Shop, Vendor, reply

from engine.alerts.book import Book
from engine.alerts.desk import Desk
from engine.alerts.ledger import CALM_S
from engine.alerts.looking import TokenEar, Watcher
from engine.alerts.rules import Rules
from engine.alerts.ways import Way
from engine.records import LaneChange
from engine.spec.project import AlertSettings, ClientAlerts
from engine.upkeep.capacity import MIN_FREE, Capacity

if TYPE_CHECKING:
    from engine.alerts.messages import Message

HOUR = 3600.0
GOES_ON = LaneChange(pause=False, reason="", not_before=0.0, failures=0, failing_since=0)
RULES = (
    "replies: {outcomes: [{status: 410, then: reject, expected: true}, {status: 403, then: pause, why: no right}]}\n"
)


class Paper(Way):
    name = shown = "ops"

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def send(self, message: Message) -> str:
        self.messages.append(message)
        return "written"


class Watch:
    """A shop that somebody looks at; `look` gives what was told since the last time."""

    def __init__(
        self, *answers: Any, used: int = 0, most: int | None = None, free: int = 10**12, **settings: Any
    ) -> None:
        self.shop = Shop(RULES, vendor=Vendor(*answers) if answers else None)
        self.used, self.free, self.paper, self.held = used, free, Paper(), []  # type: ignore[var-annotated]
        self.rules, self.most = Rules(AlertSettings(**settings)), most
        self.restart()

    def restart(self) -> None:
        clock, store = self.shop.clock, self.shop.store
        self.desk = Desk(
            Book(store, clock.now), [self.paper], lambda: self.rules, now=clock.now, telemetry=Heard(), pauses_s=()
        )
        self.capacity = Capacity(
            used=lambda: self.used,
            folder=Path(),
            max_bytes=self.most,
            telemetry=Heard(),
            free=lambda _: self.free,
            clock=lambda: 0.0,
        )
        self.watcher = Watcher(store, clock, self.desk, self.capacity, lambda: self.held)

    def look(self, after: float = 0.0) -> list[tuple[str, str, str]]:
        self.shop.clock.sleep(after)
        self.capacity.measure()
        self.watcher.look()
        assert self.desk.flush(30)
        found = [(message.state, message.kind, message.text.split("\n")[0]) for message in self.paper.messages]
        self.paper.messages.clear()
        return found

    def ended(self, after: float = 15.0) -> list[tuple[str, str]]:
        """After the calm."""
        self.look(after)
        return [(state, kind) for state, kind, _ in self.look(CALM_S)]


def test_a_lane_that_paused_is_told_by_a_process_that_has_just_started_and_so_is_its_end() -> None:
    watch = Watch(reply(403))
    watch.shop.post({"id": "1"})
    watch.shop.drain()
    told = ("open", "lane-paused", "crm/abc: no right (HTTP 403); lane paused, 1 event is kept")
    assert watch.look() == [told]
    watch.restart()
    assert watch.look(HOUR / 2) == []
    watch.shop.store.change_lane("crm", "abc", GOES_ON, now=watch.shop.clock.now())
    watch.restart()
    assert watch.ended() == [("over", "lane-paused")]


def test_an_event_that_waits_longer_than_the_bound_is_told_and_a_client_may_have_another_bound() -> None:
    for settings, bound in [({}, HOUR), ({"oldest": "2h", "clients": {"abc": ClientAlerts(oldest="15m")}}, 900.0)]:
        watch = Watch(**settings)
        watch.shop.post({"id": "1"})
        assert watch.look(bound) == []
        waited = "1 h" if bound == HOUR else "15 min"
        assert watch.look(1) == [("open", "oldest", f"crm/abc: the oldest event, of 1, has waited {waited}")]
        watch.shop.drain()
        assert watch.ended() == [("over", "oldest")]


def test_an_event_that_waits_in_a_paused_lane_is_no_second_trouble() -> None:
    watch = Watch(reply(403))
    watch.shop.post({"id": "1"})
    watch.shop.drain()
    assert [kind for _, kind, _ in watch.look()] == ["lane-paused"]
    assert watch.look(3 * HOUR) == []
    watch.shop.store.change_lane("crm", "abc", GOES_ON, now=watch.shop.clock.now())
    assert [(state, kind) for state, kind, _ in watch.look(15)] == [("open", "oldest")]


def test_dead_letters_are_told_above_their_rate_and_over_when_they_are_older() -> None:
    watch = Watch(reply(422, {"why": "no"}), dead_letters="3/1h")
    watch.shop.post({"id": "1"}, {"id": "2"})
    watch.shop.drain()
    assert watch.look() == []
    watch.shop.post({"id": "3"})
    watch.shop.drain()
    told = ("open", "dead-letter", "crm/abc: 3 were rejected within 1 h, the first: HTTP 422")
    assert watch.look(HOUR / 2) == [told]
    assert watch.look(HOUR / 4) == []
    assert watch.ended(HOUR / 2) == [("over", "dead-letter")]


def test_dead_letters_that_a_rule_expects_are_no_trouble() -> None:
    watch = Watch(reply(410), reply(410), reply(422))
    watch.shop.post({"id": "1"}, {"id": "2"})
    watch.shop.drain()
    assert watch.look() == []
    watch.shop.post({"id": "3"})
    watch.shop.drain()
    assert watch.look() == [("open", "dead-letter", "crm/abc: 1 was rejected within 1 h, the first: HTTP 422")]


def test_dead_letters_are_counted_anew_only_when_one_came_or_some_grew_old(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(reply(422))
    asked: list[float] = []
    count = watch.shop.store.count_dead

    def counted(by: str, **which: Any) -> dict[str, int]:
        asked.append(watch.shop.clock.now())
        return count(by, **which)

    monkeypatch.setattr(watch.shop.store, "count_dead", counted)
    watch.look()
    watch.shop.post({"id": "1"})
    watch.shop.drain()
    for _ in range(12):
        watch.look(15)
    assert len(asked) == 3


def test_a_vendor_that_is_down_is_told_after_three_tries_and_when_it_is_back() -> None:
    watch = Watch(reply(503), reply(503), reply(503), reply(200))
    watch.shop.post({"id": "1"})
    told = []
    for _ in range(3):
        watch.shop.drain()
        told += watch.look()
        watch.shop.clock.sleep(600)
    assert told == [("open", "outage", "crm/abc: HTTP 503; 3 tries in a row failed, 1 event is kept")]
    watch.shop.drain()
    assert watch.ended() == [("over", "outage")]


def test_a_store_that_fills_and_is_full_is_told_and_when_there_is_room_again() -> None:
    watch = Watch(used=899, most=1000)
    assert watch.look() == []
    watch.used = 900
    full = "the store is nearly full: 90% of what it may hold is used"
    assert watch.look() == [("open", "store-filling", full)]
    watch.used = 1000
    told = [("open", "store-full", "nothing is taken in: the store holds 1.0 KB, and max_store is 1.0 KB")]
    assert watch.look() == told
    watch.used = 10
    assert sorted(watch.ended()) == [("over", "store-filling"), ("over", "store-full")]


@pytest.mark.parametrize(
    ("used", "most", "free", "share"),
    [(900, 1000, 10**12, 0.9), (900, None, MIN_FREE + 100, 0.9), (900, 10**6, MIN_FREE, 1.0), (0, 1000, 10**12, None)],
)
def test_how_full_a_store_is_goes_by_its_budget_and_by_its_disk(
    used: int, most: int | None, free: int, share: float | None
) -> None:
    watch = Watch(used=used, most=most, free=free)
    assert watch.capacity.share() == share


def test_an_action_that_stands_still_is_told_once_for_as_long_as_it_does() -> None:
    watch = Watch()
    watch.held = [("crm", "abc", "note")]
    assert [watch.look(60) for _ in range(100)][0] == [  # noqa: RUF015
        ("open", "action-paused", "crm/abc: the action note is paused; its events are kept")
    ]
    watch.held = []
    assert [kind for _, kind, _ in watch.look(HOUR + CALM_S)] == ["action-paused"]


def test_three_log_ins_that_fail_in_a_row_are_told_and_one_that_comes_off_ends_it() -> None:
    watch = Watch()
    heard = Heard()
    ear = TokenEar(heard, watch.desk)
    lane = {"connector": "crm", "client": "abc"}

    def fails(times: int) -> list[tuple[str, str, str]]:
        for _ in range(times):
            ear.event("token-failed", **lane, why="HTTP 503")
        return watch.look()

    assert fails(2) == []
    ear.event("token-renewed", **lane)
    assert fails(2) == []
    text = "crm/abc: the log-in failed 3 times in a row: HTTP 503; its events are kept"
    assert fails(1) == [("open", "token-failing", text)]
    assert fails(20) == []
    ear.event("token-renewed", **lane)
    assert watch.ended() == [("over", "token-failing")]
    assert len(heard.events) == 2 + 1 + 2 + 1 + 20 + 1


def test_it_looks_every_quarter_of_a_minute() -> None:
    watch = Watch(reply(403))
    watch.watcher.look_soon()
    watch.shop.post({"id": "1"})
    watch.shop.drain()
    told = []
    for _ in range(8):
        watch.shop.clock.sleep(2)
        watch.watcher.look_soon()
        watch.desk.flush()
        told.append(len(watch.paper.messages))
    assert told == [0, 0, 0, 0, 0, 0, 0, 1]
