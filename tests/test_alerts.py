"""One trouble is told once, to each way, and told when it is over; whatever the ways do, nobody waits for them."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from alert_receivers import Hook
from conftest import START, Heard

from engine.alerts.book import MARK, Book
from engine.alerts.desk import Desk
from engine.alerts.kinds import KINDS
from engine.alerts.ledger import CALM_S, MOST, Ledger, Trouble
from engine.alerts.log import LogAlerts, Once
from engine.alerts.rules import Rules, lasting
from engine.alerts.ways import LogWay, NotTaken, Way
from engine.alerts.webhook import WebhookWay
from engine.clock import VirtualClock
from engine.egress import LOOPBACK
from engine.errors import StoreUnavailable
from engine.spec.project import AlertSettings, ClientAlerts
from engine.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.alerts.messages import Message

DAY = 86_400.0
NOON = START - START % DAY + DAY / 2


class Paper(Way):
    """A way that writes down what it is told; while `down` says something it takes nothing."""

    def __init__(self, name: str = "ops") -> None:
        self.name = self.shown = name
        self.messages: list[Message] = []
        self.down: Exception | None = None

    def send(self, message: Message) -> str:
        if self.down is not None:
            raise self.down
        self.messages.append(message)
        return "written"

    def told(self) -> list[tuple[str, str, str]]:
        """(state, kind, client) of what came since the last time."""
        found = [(message.state, message.kind, message.client) for message in self.messages]
        self.messages = []
        return found


class Office:
    """Desks of several processes on one store and one clock, each with the same ways."""

    def __init__(self, *ways: Paper, store: MemoryStore | None = None, now: float = NOON, **settings: Any) -> None:
        self.clock, self.store, self.heard = VirtualClock(now), store or MemoryStore(), Heard()
        self.ways = ways or (Paper(),)
        self.rules = Rules(AlertSettings(**settings))
        self.desk = self.new_desk()

    @property
    def paper(self) -> Paper:
        return self.ways[0]

    def new_desk(self) -> Desk:
        """As a process that starts: it knows nothing but what is in the store."""
        book = Book(self.store, self.clock.now)
        return Desk(book, self.ways, lambda: self.rules, now=self.clock.now, telemetry=self.heard, pauses_s=())

    def look(self, *found: Trouble, after: float = 0.0, desk: Desk | None = None) -> list[tuple[str, str, str]]:
        """What the first way is told when a look finds these."""
        self.clock.sleep(after)
        desk = desk or self.desk
        desk.stands(found, frozenset(KINDS), self.clock.now())
        assert desk.flush(30)
        return self.paper.told()

    def trouble(self, client: str = "abc", kind: str = "lane-paused", text: str = "HTTP 401") -> Trouble:
        return Trouble(kind, "crm", client, f"crm/{client}: {text}", self.clock.now())


def test_one_trouble_is_told_once_and_once_when_it_is_over() -> None:
    office = Office()
    paused = office.trouble()
    found = [office.look(paused), office.look(paused, after=15), office.look(paused, after=DAY)]
    found += [office.look(after=15), office.look(after=CALM_S), office.look(after=DAY)]
    over = ("over", "lane-paused", "abc")
    assert found == [[("open", "lane-paused", "abc")], [], [], [], [over], []]
    assert Ledger.read(office.store.mark(MARK)).entries == {}


def test_what_is_told_says_what_since_when_what_to_do_and_where_and_at_the_end_how_long() -> None:
    office = Office(timezone="America/Sao_Paulo")
    office.rules = Rules(office.rules.settings, "https://connect.example.com/")
    office.clock.time = NOON
    office.desk.stands([office.trouble("loja abc")], frozenset(KINDS), NOON)
    office.desk.flush()
    office.clock.sleep(14 * 60)
    office.desk.stands([], frozenset(KINDS), office.clock.now())
    office.desk.flush()
    office.clock.sleep(CALM_S)
    office.desk.stands([], frozenset(KINDS), office.clock.now())
    office.desk.flush()
    do = (
        "Mend what the reason names, run `connect check crm loja abc`, and the lane goes on; "
        "or `connect resume crm loja abc`."
    )
    link = "https://connect.example.com/lane/crm/loja%20abc"
    assert [message.text.split("\n") for message in office.paper.messages] == [
        ["crm/loja abc: HTTP 401", "since 09:00 America/Sao_Paulo", f"what to do: {do}", link],
        ["crm/loja abc: lane-paused is over; it lasted 14 min", "it was: crm/loja abc: HTTP 401", link],
    ]
    opened, over = [message.fields for message in office.paper.messages]
    assert (opened["severity"], opened["do"], opened["link"]) == ("error", do, link)
    assert (over["state"], over["lasted_s"]) == ("over", 840)
    assert opened["id"] != over["id"]


def test_a_trouble_that_comes_and_goes_is_one() -> None:
    office = Office()
    paused = office.trouble()
    assert office.look(paused) == [("open", "lane-paused", "abc")]
    for _ in range(10):
        assert office.look(after=CALM_S / 2) == []
        assert office.look(paused, after=CALM_S / 4) == []


def test_a_trouble_that_comes_again_after_its_end_is_told_again() -> None:
    office = Office()
    office.look(office.trouble())
    office.look(after=15)
    assert office.look(after=CALM_S) == [("over", "lane-paused", "abc")]
    assert office.look(office.trouble(), after=15) == [("open", "lane-paused", "abc")]


def test_a_trouble_is_told_by_one_process_and_its_end_by_whichever_sees_it_also_after_a_restart() -> None:
    office = Office()
    paused = office.trouble()
    desks = [office.desk, office.new_desk(), office.new_desk()]
    for desk in desks:
        desk.stands([paused], frozenset(KINDS), office.clock.now())
    assert all(desk.flush(30) for desk in desks)
    assert office.paper.told() == [("open", "lane-paused", "abc")]
    assert office.look(paused, after=60, desk=office.new_desk()) == []
    assert office.look(after=60, desk=office.new_desk()) == []
    assert office.look(after=CALM_S, desk=office.new_desk()) == [("over", "lane-paused", "abc")]


def test_what_another_process_wrote_meanwhile_is_not_lost() -> None:
    office = Office()
    other = Ledger()
    other.begin(office.trouble("other"), office.clock.now())

    class Between(MemoryStore):
        def lock(self, name: str, **how: Any) -> bool:
            if self.mark(name) is None:
                self.write_mark(name, other.written())
            return super().lock(name, **how)

    book = Book(Between(), office.clock.now)
    book.change(lambda ledger, now: ledger.begin(office.trouble("ours"), now))
    assert sorted(client for _, _, client in book.read().entries) == ["other", "ours"]


def test_a_way_that_is_down_is_told_when_it_is_up_again_and_the_others_only_once() -> None:
    mail, ops = Paper("mail"), Paper("ops")
    mail.down = OSError("no way")
    office = Office(ops, mail)
    assert office.look(office.trouble()) == [("open", "lane-paused", "abc")]
    assert office.heard.named("fault") == [
        {"where": "alerts", "receiver": "mail", "target": "mail", "error": "OSError"}
    ]
    mail.down = None
    assert (office.look(office.trouble(), after=15), mail.messages) == ([], [])  # it is not tried at every look
    assert (office.look(office.trouble(), after=60), mail.told()) == ([], [("open", "lane-paused", "abc")])


def test_who_was_never_told_of_a_trouble_is_not_told_that_it_is_over() -> None:
    mail, ops = Paper("mail"), Paper("ops")
    mail.down = OSError("no way")
    office = Office(ops, mail)
    office.look(office.trouble())
    office.look(after=15)
    mail.down = None
    assert (office.look(after=CALM_S), mail.messages) == ([("over", "lane-paused", "abc")], [])


def test_a_way_that_asks_to_wait_is_left_alone_for_so_long() -> None:
    office = Office()
    office.paper.down = NotTaken("HTTP 429", 600.0)
    office.look(office.trouble())
    office.paper.down = None
    assert office.look(office.trouble(), after=599) == []
    assert office.look(office.trouble(), after=1) == [("open", "lane-paused", "abc")]


def test_a_process_that_dies_while_it_tells_leaves_the_telling_to_another() -> None:
    office = Office()
    ledger = Ledger()
    ledger.begin(office.trouble(), office.clock.now())
    ledger.claim(("lane-paused", "crm", "abc"), "ops", office.clock.now())
    office.store.write_mark(MARK, ledger.written())
    assert office.look(office.trouble(), after=119) == []
    assert office.look(office.trouble(), after=1) == [("open", "lane-paused", "abc")]


def test_many_at_once_are_one_message() -> None:
    office = Office()
    found = [office.trouble(f"c{number}", "outage", "HTTP 503") for number in range(60)]
    assert office.look(*found) == [("summary", "outage", "")]
    office.look(after=15)
    office.desk.stands([], frozenset(KINDS), office.clock.now() + CALM_S)
    office.clock.sleep(CALM_S)
    office.desk.stands([], frozenset(KINDS), office.clock.now())
    office.desk.flush()
    [message] = office.paper.messages
    assert (message.subject, len(message.text.split("\n"))) == ("60 over", 1 + 50 + 1 + 1)
    assert len(message.fields["troubles"]) == 60


def test_a_way_gets_five_messages_a_minute_and_the_rest_together() -> None:
    office = Office()
    found: list[Trouble] = []
    told = []
    for number in range(9):
        found.append(office.trouble(f"c{number}"))
        told += office.look(*found, after=1)
    assert told == [("open", "lane-paused", f"c{number}") for number in range(5)]
    assert office.look(*found, after=60) == [("summary", "lane-paused", "")]


@pytest.mark.parametrize("cause", ["lane-paused", "token-failing"])
def test_what_follows_from_another_trouble_is_not_told_beside_it(cause: str) -> None:
    office = Office()
    both = [office.trouble(kind=cause), office.trouble(kind="outage")]
    assert office.look(*both) == [("open", cause, "abc")]
    assert office.look(both[1], after=15) == [("open", "outage", "abc")]


def test_in_quiet_hours_only_what_is_urgent_is_told_and_the_rest_comes_as_one_when_they_end() -> None:
    night = NOON - NOON % DAY + DAY + 2 * 3600  # 23:00 in São Paulo
    office = Office(now=night, quiet="22:00-07:00", timezone="America/Sao_Paulo")
    old, gone, paused = office.trouble("old", "oldest"), office.trouble("gone", "dead-letter"), office.trouble("urgent")
    assert office.look(old, gone, paused) == [("open", "lane-paused", "urgent")]
    assert office.look(old, after=15) == []
    assert office.look(old, after=CALM_S) == [("over", "lane-paused", "urgent")]
    assert office.look(old, after=7 * 3600) == []
    office.desk.stands([old], frozenset(KINDS), office.clock.now() + 3600)
    office.clock.sleep(3600)
    office.desk.stands([old], frozenset(KINDS), office.clock.now())
    office.desk.flush()
    [message] = office.paper.messages
    assert (message.state, message.text.split("\n")[0]) == ("summary", "1 trouble, 1 over: dead-letter, oldest")
    assert [(each["client"], each["state"]) for each in message.fields["troubles"]] == [
        ("old", "open"),
        ("gone", "past"),
    ]
    office.paper.told()
    assert office.look(after=15) == []
    assert office.look(after=CALM_S) == [("over", "oldest", "old")]


def test_a_trouble_that_comes_and_goes_while_it_waits_is_one_since_the_first_time() -> None:
    night = NOON - NOON % DAY
    office = Office(now=night, quiet="22:00-07:00")
    old = office.trouble(kind="oldest")
    office.look(old)
    office.look(after=15)
    assert office.look(office.trouble(kind="oldest"), after=15) == []
    [entry] = Ledger.read(office.store.mark(MARK)).entries.values()
    assert (entry.trouble.since, entry.gone) == (night, None)


@pytest.mark.parametrize(
    ("quiet", "expected"),
    [("22:00-07:00", [True, True, False, False]), ("09:00-13:00", [False, False, False, True])],
)
def test_quiet_hours_are_of_the_settings_zone(quiet: str, expected: list[bool]) -> None:
    rules = Rules(AlertSettings(quiet=quiet, timezone="America/Sao_Paulo"))
    midnight = NOON - NOON % DAY
    assert [rules.is_quiet(midnight + hour * 3600) for hour in (1, 9.98, 10, 12)] == expected


def test_the_urgent_kinds_may_be_named() -> None:
    midnight = NOON - NOON % DAY
    office = Office(now=midnight, quiet="22:00-07:00", urgent=["oldest"])
    assert office.look(office.trouble(kind="oldest"), office.trouble("b")) == [("open", "oldest", "abc")]


def test_a_bound_may_be_another_for_a_client() -> None:
    rules = Rules(AlertSettings(oldest="2h", clients={"abc": ClientAlerts(oldest="15m")}))
    assert [(rules.of(name).oldest_s, rules.of(name).dead) for name in ("abc", "xyz")] == [
        (900.0, (1, 3600.0)),
        (7200.0, (1, 3600.0)),
    ]


def test_what_only_a_process_knows_is_over_when_it_says_so_or_has_not_said_so_for_an_hour() -> None:
    office = Office()
    fail = {"connector": "crm", "client": "abc", "text": "boom", "facts": {}}
    looked = frozenset(name for name, kind in KINDS.items() if kind.looked)

    def look(after: float) -> list[tuple[str, str, str]]:
        office.clock.sleep(after)
        office.desk.stands([], looked, office.clock.now())
        assert office.desk.flush(30)
        return office.paper.told()

    for _ in range(1000):
        office.desk.alert("lane-failed", **fail)  # type: ignore[arg-type]
    assert look(0) == [("open", "lane-failed", "abc")]
    assert look(3000) == []
    office.desk.alert("lane-failed", **fail)  # type: ignore[arg-type]
    office.desk.flush()
    assert [look(3000), look(700)] == [[], [("over", "lane-failed", "abc")]]
    office.desk.alert("token-failing", **fail)  # type: ignore[arg-type]
    assert look(0) == [("open", "token-failing", "abc")]
    office.desk.over("token-failing", connector="crm", client="abc")
    assert [look(0), look(CALM_S)] == [[], [("over", "token-failing", "abc")]]


def test_while_the_store_is_away_it_is_told_all_the_same_and_not_again_when_it_is_back() -> None:
    class Away(MemoryStore):
        away = False

        def mark(self, name: str) -> str | None:
            if self.away:
                raise StoreUnavailable("gone")
            return super().mark(name)

    store = Away()
    office = Office(store=store)
    store.away = True
    failed = office.trouble(kind="lane-failed")
    assert office.look(failed) == [("open", "lane-failed", "abc")]
    assert office.look(failed, after=15) == []
    store.away = False
    assert office.look(failed, after=15) == []
    assert office.look(failed, after=15, desk=office.new_desk()) == []


def test_a_ledger_that_can_t_be_read_is_begun_anew() -> None:
    office = Office()
    office.store.write_mark(MARK, '{"what": "is this"}')
    assert office.look(office.trouble()) == [("open", "lane-paused", "abc")]


def test_the_memory_for_troubles_is_bounded_and_its_texts_are_short() -> None:
    ledger = Ledger()
    for number in range(MOST + 5):
        text = f"{number} x" * 5000
        ledger.begin(Trouble("outage", "crm", f"client-{number:04}", text, 0.0, {"reason": text}), 0.0)
    assert len(ledger.entries) == MOST
    assert len(ledger.written()) < 100_000
    assert Ledger.read(ledger.written()).entries == ledger.entries


def test_what_goes_out_is_masked() -> None:
    office = Office()
    office.desk = Desk(
        Book(office.store, office.clock.now),
        office.ways,
        lambda: office.rules,
        now=office.clock.now,
        telemetry=office.heard,
        mask=lambda text: text.replace("t0k3n", "***"),
    )
    office.desk.alert("lane-paused", connector="crm", client="abc", text="no t0k3n", facts={"reason": "t0k3n"})
    office.desk.flush()
    [message] = office.paper.messages
    assert (message.fields["what"], message.fields["facts"]) == ("no ***", {"reason": "***"})


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-1, "0 s"), (40, "40 s"), (840, "14 min"), (11_100, "3 h 5 min"), (7200, "2 h"), (187_200, "2 d 4 h")],
)
def test_a_length_of_time_is_written_for_people(seconds: float, shown: str) -> None:
    assert lasting(seconds) == shown


# --- nobody waits ---


@pytest.fixture
def hook() -> Iterator[Hook]:
    hook = Hook()
    yield hook
    hook.close()


def test_a_webhook_that_hangs_holds_neither_the_walk_nor_the_other_ways(hook: Hook) -> None:
    hook.gate.clear()
    office = Office()
    ways = [WebhookWay("hangs", lambda: hook.url, reach=LOOPBACK, timeout_s=1.0), office.paper]
    desk = Desk(
        Book(office.store, office.clock.now), ways, lambda: office.rules, now=office.clock.now, telemetry=office.heard
    )
    began = time.monotonic()
    for number in range(2000):
        desk.alert("lane-failed", connector="crm", client=f"c{number % 40}", text="boom", facts={})
    assert time.monotonic() - began < 0.5
    until = time.monotonic() + 10
    while not office.paper.messages and time.monotonic() < until:
        time.sleep(0.01)
    assert (len(office.paper.messages) > 0, hook.bodies) == (True, [])
    assert not desk.flush(0.05)
    began = time.monotonic()
    desk.close(0.2)
    assert time.monotonic() - began < 1.0


def test_a_full_inbox_drops_what_it_can_t_hold() -> None:
    stands = threading.Event()

    class Slow(MemoryStore):
        def mark(self, name: str) -> str | None:
            stands.wait(20)
            return super().mark(name)

    office = Office(store=Slow())
    desk = Desk(
        Book(office.store, office.clock.now),
        office.ways,
        lambda: office.rules,
        now=office.clock.now,
        telemetry=office.heard,
        limit=3,
    )
    began = time.monotonic()
    for number in range(50):
        desk.alert("lane-failed", connector="crm", client=f"c{number}", text="boom", facts={})
    assert time.monotonic() - began < 0.5
    stands.set()
    assert desk.flush(20)
    known = Ledger.read(office.store.mark(MARK)).entries
    assert 3 <= len(known) <= 8


def test_nothing_is_told_after_the_end() -> None:
    office = Office()
    office.look(office.trouble())
    office.desk.close()
    assert office.look(office.trouble("other")) == []


# --- the log ---


def test_an_alert_and_its_end_are_events_of_the_telemetry() -> None:
    office = Office()
    heard = Heard()
    office.desk = Desk(
        Book(office.store, office.clock.now),
        [LogWay(heard)],
        lambda: office.rules,
        now=office.clock.now,
        telemetry=heard,
    )
    office.look(office.trouble())
    office.look(after=15)
    office.look(after=CALM_S)
    lane = {"kind": "lane-paused", "connector": "crm", "client": "abc", "text": "crm/abc: HTTP 401"}
    rest = {"severity": "error", "since": "2026-01-28T12:00:00Z", "facts": {}}
    assert heard.events == [("alert", {**lane, **rest}), ("alert-over", {**lane, **rest})]


def test_without_a_desk_the_log_is_told_once_an_hour_with_what_was_held_back() -> None:
    heard, now = Heard(), [0.0]
    alerts = LogAlerts(heard, clock=lambda: now[0])
    for now[0] in (0.0, 1.0, 3599.0, 3600.0):
        alerts.alert("lane-paused", connector="crm", client="abc", text="HTTP 401", facts={"kept": "100"})
    alerts.over("lane-paused", connector="crm", client="abc")
    alerts.alert("lane-paused", connector="crm", client="abc", text="HTTP 401", facts={"kept": "100"})
    lane = {"kind": "lane-paused", "connector": "crm", "client": "abc", "facts": {"kept": "100"}}
    again = "HTTP 401 (2 more since the last alert)"
    assert heard.events == [("alert", {**lane, "text": text}) for text in ("HTTP 401", again, "HTTP 401")]


def test_the_memory_for_what_the_log_was_told_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.alerts.log.KEEP", 2)
    once = Once()
    assert [once.passes("k", "crm", client, 0) for client in "abca"] == [0, 0, 0, 0]
    assert once.passes("k", "crm", "c", 0) is None
