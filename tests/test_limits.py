from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from conftest import START, Shop, Vendor, program_from, reply
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds_of_store import KINDS

from engine.clock import VirtualClock
from engine.errors import BadValue
from engine.expressions import Compiler
from engine.limits import LATELY, Gate, Period, Usage, period_of
from engine.names import ROW
from engine.records import Outcome, OutcomeKind
from engine.spec.located import read
from engine.spec.types import Limit
from engine.stores.memory import MemoryStore
from engine.stores.sqlite import SqliteStore


def gate(text: str, lane: str = "crm/abc", owner: str = "http", cost: Any = 1) -> Gate:
    compiler = Compiler()
    made = Gate(lane)
    made.add(compiler, msgspec.convert(read(text, "f").data, dict[str, Limit]), ROW, ("http", "limits"), owner=owner)
    made.costs(compiler, cost, ROW, ("actions", "a", "request"))
    assert compiler.problems == []
    return made


Store = MemoryStore | SqliteStore


class Client:
    """One client that asks a gate for room, on a clock of its own."""

    def __init__(self, made: Gate, store: Store, owner: str = "o", credentials: str = "") -> None:
        self.gate, self.store, self.owner, self.credentials = made, store, owner, credentials

    def enters(self, now: float = 0.0, **scope: Any) -> Outcome | list[str]:
        return self.gate.enter(self.store, scope, owner=self.owner, now=now, credentials=self.credentials)


def used_up(rate: str, wait: float, kind: OutcomeKind = OutcomeKind.THROTTLE) -> Outcome:
    return Outcome(kind, f"our limit of {rate} is used up", "limit", wait, count=False, ours=True)


IN_USE = Outcome(OutcomeKind.THROTTLE, "all 1 connections are in use", "limit", 0.5, count=False, ours=True)


def test_a_rate_lets_so_many_through_and_then_says_how_long_to_wait() -> None:
    client = Client(gate("{calls: {rate: 2/10s}}"), MemoryStore())
    assert client.enters(0) == []
    assert client.enters(4) == []
    assert client.enters(5) == used_up("2/10s", 5.0)
    assert client.enters(10) == []
    assert client.enters(10) == used_up("2/10s", 4.0)


@given(st.lists(st.floats(0, 3), min_size=1, max_size=60), st.integers(1, 5), st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_no_window_ever_holds_more_than_the_rate(gaps: list[float], uses: int, seconds: int) -> None:
    client = Client(gate(f"{{calls: {{rate: {uses}/{seconds}s}}}}"), MemoryStore())
    clock = VirtualClock(1_700_000_000.0)
    through: list[float] = []
    for gap in gaps:
        clock.sleep(gap)
        while isinstance(found := client.enters(clock.now()), Outcome):
            assert found.wait_s is not None
            assert 0 < found.wait_s <= seconds
            clock.sleep(found.wait_s)
        through.append(clock.now())
    for at in through:
        assert sum(at <= other < at + seconds for other in through) <= uses
    assert len(through) == len(gaps)


def test_by_counts_each_value_by_itself_and_defer_holds_only_that_delivery() -> None:
    client = Client(gate("{lead: {rate: 1/24h, by: '${ fields.email }', then: defer}}"), MemoryStore())
    assert client.enters(0, fields={"email": "a"}) == []
    assert client.enters(1, fields={"email": "b"}) == []
    assert client.enters(2, fields={}) == []
    assert client.enters(3, fields={"email": "a"}) == used_up("1/24h", 86_397.0, OutcomeKind.DEFER)
    assert client.enters(86_400, fields={"email": "a"}) == []


def test_by_of_a_wrong_type_is_the_record_s_fault_and_gives_its_slot_back() -> None:
    made = gate("{open: {concurrency: 1}, lead: {rate: 1/24h, by: '${ fields.email }'}}")
    store = MemoryStore()
    with pytest.raises(BadValue):
        Client(made, store, "one").enters(0, fields={"email": ["a"]})
    assert isinstance(Client(made, store, "two").enters(0, fields={"email": "a"}), list)


def test_a_slot_is_held_until_it_is_given_back_or_its_holder_died() -> None:
    made, store = gate("{open: {concurrency: 1}}"), MemoryStore()
    one, two = Client(made, store, "one"), Client(made, store, "two")
    slots = one.enters(0)
    assert isinstance(slots, list)
    assert two.enters(1) == IN_USE
    Gate.leave(store, slots, "one")
    assert isinstance(two.enters(1), list)
    assert one.enters(300) == IN_USE
    assert isinstance(one.enters(302), list)


def test_a_rate_and_slots_may_come_from_settings_and_be_there_only_sometimes() -> None:
    made = gate(
        "{calls: {rate: '${ get(tables.rates, settings.plan) }', when: '${ settings.plan }'}, open: {concurrency: '${ settings.open }'}}"  # noqa: E501
    )
    scope = {"tables": {"rates": {"free": "1/1m"}}, "settings": {"plan": "free", "open": 2}}
    client = Client(made, MemoryStore())
    assert isinstance(client.enters(0, **scope), list)
    assert client.enters(15, **scope) == used_up("1/1m", 45.0)
    assert isinstance(client.enters(15, settings={"open": 2}), list)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (
            "{calls: {rate: '${ settings.rate }'}}",
            "http.limits.calls: 'often' is not a rate; write it as 120/1m or 10/1s",
        ),
        ("{calls: {rate: '${ settings.gone }'}}", "http.limits.calls: None is not a rate; write it as 120/1m or 10/1s"),
        (
            "{open: {concurrency: '${ settings.rate }'}}",
            "http.limits.open: 'often' is not a number of connections; write it as 10",
        ),
        (
            "{open: {concurrency: '${ settings.no }'}}",
            "http.limits.open: True is not a number of connections; write it as 10",
        ),
    ],
)
def test_settings_that_give_no_limit_stop_the_lane_and_reject_nothing(limits: str, reason: str) -> None:
    client = Client(gate(limits), MemoryStore())
    assert client.enters(0, settings={"rate": "often", "no": True}) == Outcome(
        OutcomeKind.PAUSE, reason, "limit", private=True
    )


def test_who_waits_for_the_second_uses_up_nothing_of_the_day() -> None:
    client = Client(gate("{day: {rate: 3/24h}, second: {rate: 1/1s}, open: {concurrency: 5}}"), MemoryStore())
    assert isinstance(client.enters(0), list)
    for _ in range(5):
        assert client.enters(0.5) == used_up("1/1s", 0.5)
    assert isinstance(client.enters(1), list)
    assert isinstance(client.enters(2), list)
    assert client.enters(3) == used_up("3/24h", 86_397.0)


def test_a_rate_that_refuses_gives_the_slot_back() -> None:
    made, store = gate("{calls: {rate: 1/1m}, open: {concurrency: 1}}"), MemoryStore()
    one, two = Client(made, store, "one"), Client(made, store, "two")
    slots = one.enters(0)
    assert isinstance(slots, list)
    Gate.leave(store, slots, "one")
    assert two.enters(0) == used_up("1/1m", 60.0)
    assert one.enters(0) == used_up("1/1m", 60.0)


# --- of: who shares it ---


def rooms(of: str) -> list[bool]:
    """Who still gets through after abc has: itself, another client with its secrets, one with others, another connector."""  # noqa: E501
    store = MemoryStore()
    text = f"{{calls: {{rate: 1/1m, of: {of}}}}}"
    assert Client(gate(text, "crm/abc"), store, credentials="k1").enters() == []
    asked = [("crm/abc", "k1"), ("crm/def", "k1"), ("crm/ghi", "k2"), ("other/abc", "k1")]
    return [Client(gate(text, lane), store, credentials=key).enters() == [] for lane, key in asked]


def test_a_limit_is_of_a_client_of_its_credentials_or_of_the_host() -> None:
    assert rooms("client") == [False, True, True, True]
    assert rooms("credentials") == [False, False, True, True]
    assert rooms("host") == [False, False, False, True]


def test_slots_of_credentials_are_shared_too() -> None:
    store, text = MemoryStore(), "{open: {concurrency: 1, of: credentials}}"
    slots = Client(gate(text, "crm/abc"), store, "one", "k").enters()
    assert isinstance(slots, list)
    other = Client(gate(text, "crm/def"), store, "two", "k")
    assert other.enters() == IN_USE
    Gate.leave(store, slots, "one")
    assert isinstance(other.enters(), list)


def test_limits_of_one_name_at_two_levels_are_two_limits() -> None:
    made = gate("{calls: {rate: 2/1m}}")
    made.add(Compiler(), {"calls": Limit(rate="1/1m")}, ROW, ("actions", "a", "limits"), owner="a")
    client = Client(made, MemoryStore())
    assert client.enters() == []
    assert client.enters() == used_up("1/1m", 60.0)


# --- budgets ---


def at(text: str, zone: str = "UTC") -> float:
    """`2026-01-28 10:30`, in unix seconds."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def spent(budget: str, wait: float, kind: OutcomeKind = OutcomeKind.THROTTLE) -> Outcome:
    return Outcome(kind, f"our budget of {budget} is used up", "limit", wait, count=False, ours=True)


def test_a_budget_is_spent_by_cost_and_begins_anew_with_the_day_of_its_time_zone() -> None:
    store, text = MemoryStore(), "{daily: {budget: 30, per: day, timezone: America/Sao_Paulo}}"
    search, write = Client(gate(text, cost=20), store), Client(gate(text, cost=5), store)
    assert search.enters(at("2026-01-28 10:30")) == []
    assert write.enters(at("2026-01-29 02:59")) == []  # 23:59 there
    assert search.enters(at("2026-01-29 02:59")) == spent("30 a day", 60.0)
    assert write.enters(at("2026-01-29 02:59")) == []
    assert write.enters(at("2026-01-29 02:59:59")) == spent("30 a day", 1.0)
    assert search.enters(at("2026-01-29 03:00")) == []
    assert search.enters(at("2026-01-29 03:00")) == spent("30 a day", 86_400.0)


@pytest.mark.parametrize(
    ("per", "zone", "now", "begins", "ends", "hours"),
    [
        ("hour", "UTC", "2026-01-28 10:30:45", "2026-01-28 10:00", "2026-01-28 11:00", 1),
        ("hour", "Asia/Kolkata", "2026-01-28 10:30:45", "2026-01-28 10:00", "2026-01-28 11:00", 1),
        ("day", "UTC", "2026-01-28 10:30:45", "2026-01-28 00:00", "2026-01-29 00:00", 24),
        ("day", "Europe/Berlin", "2026-03-29 12:00", "2026-03-29 00:00", "2026-03-30 00:00", 23),
        ("day", "Europe/Berlin", "2026-10-25 12:00", "2026-10-25 00:00", "2026-10-26 00:00", 25),
        # at midnight it became one o'clock, and eleven in the evening: Brazil until 2019
        ("day", "America/Sao_Paulo", "2018-11-04 12:00", "2018-11-04 01:00", "2018-11-05 00:00", 23),
        ("day", "America/Sao_Paulo", "2018-02-17 12:00", "2018-02-17 00:00", "2018-02-18 00:00", 25),
        ("month", "UTC", "2026-02-28 23:59", "2026-02-01 00:00", "2026-03-01 00:00", 28 * 24),
        ("month", "America/Sao_Paulo", "2026-12-31 23:00", "2026-12-01 00:00", "2027-01-01 00:00", 31 * 24),
        ("month", "Europe/Berlin", "2026-03-05 00:00", "2026-03-01 00:00", "2026-04-01 00:00", 31 * 24 - 1),
    ],
)
def test_an_hour_a_day_and_a_month_are_those_of_the_calendar(
    per: str, zone: str, now: str, begins: str, ends: str, hours: int
) -> None:
    found = period_of(per, ZoneInfo(zone), at(now, zone))
    assert found == Period(at(begins, zone), at(ends, zone))
    assert found.ends - found.begins == hours * 3600


@given(st.floats(1_500_000_000, 1_900_000_000), st.sampled_from(["hour", "day", "month"]))
@settings(max_examples=300, deadline=None)
def test_one_period_ends_where_the_next_begins(now: float, per: str) -> None:
    for zone in map(ZoneInfo, ("America/Sao_Paulo", "Europe/Berlin", "Asia/Kolkata", "America/Havana")):
        found = period_of(per, zone, now)
        assert found.begins <= now < found.ends
        assert period_of(per, zone, found.begins) == found
        assert period_of(per, zone, found.ends).begins == found.ends


def test_a_day_whose_midnight_comes_twice_begins_with_the_first() -> None:
    havana = ZoneInfo("America/Havana")  # on 2026-11-01 one o'clock became midnight again
    day = Period(at("2026-11-01 04:00"), at("2026-11-02 05:00"))
    assert [period_of("day", havana, at(f"2026-11-01 {time}")) for time in ("04:30", "05:30", "23:00")] == [day] * 3


@pytest.mark.parametrize(
    ("per", "zone", "days"),
    [
        ("day", "Europe/Berlin", ("2026-10-24", "2026-10-25", "2026-10-26")),
        ("month", "UTC", ("2026-11-30", "2026-12-01")),
    ],
)
def test_a_longer_day_or_month_owes_nothing_to_the_one_before(per: str, zone: str, days: tuple[str, ...]) -> None:
    client = Client(gate(f"{{calls: {{budget: 1, per: {per}, timezone: {zone}}}}}"), MemoryStore())
    assert [client.enters(at(f"{day} 00:00", zone)) for day in days] == [[]] * len(days)
    assert client.enters(at(f"{days[-1]} 00:00", zone)) != []


def test_the_hour_that_the_clocks_show_twice_is_two_hours() -> None:
    client = Client(gate("{hourly: {budget: 1, per: hour, timezone: Europe/Berlin}}"), MemoryStore())
    twice = at("2026-10-25 02:30", "Europe/Berlin")
    assert client.enters(twice) == []
    assert client.enters(twice) == spent("1 an hour", 1800.0)
    assert client.enters(twice + 3600) == []


def test_a_cost_above_the_whole_budget_pauses_and_takes_nothing() -> None:
    text = "{daily: {budget: 30}, open: {concurrency: 1}, calls: {rate: 1/1m}}"
    store = MemoryStore()
    reason = "http.limits.daily: a request that costs 31 is above our whole budget of 30 a day"
    assert Client(gate(text, cost=31), store).enters() == Outcome(OutcomeKind.PAUSE, reason, "limit")
    assert isinstance(Client(gate(text, cost=30), store).enters(), list)


def test_who_waits_for_another_limit_spends_nothing_of_the_budget() -> None:
    text = "{daily: {budget: 3}, mail: {rate: 1/48h, by: '${ fields.email }', then: defer}, open: {concurrency: 1}}"
    store = MemoryStore()
    client, other = Client(gate(text), store), Client(gate(text), store, "other")
    slots = client.enters(0, fields={"email": "a"})
    assert isinstance(slots, list)
    assert other.enters(0, fields={"email": "b"}) == IN_USE
    Gate.leave(store, slots, "o")
    for _ in range(5):
        assert client.enters(0, fields={"email": "a"}) == used_up("1/48h", 172_800.0, OutcomeKind.DEFER)
    for email in "bc":
        slots = client.enters(0, fields={"email": email})
        assert isinstance(slots, list)
        Gate.leave(store, slots, "o")
    assert client.enters(0, fields={"email": "d"}) == spent("3 a day", 86_400.0)


def test_a_budget_of_each_person_puts_only_that_delivery_off_and_spends_nothing_of_the_whole() -> None:
    text = "{all: {budget: 3}, each: {budget: 1, per: month, by: '${ fields.email }', then: defer}}"
    client = Client(gate(text), MemoryStore())
    now = at("2026-01-28 10:00")
    assert client.enters(now, fields={"email": "a"}) == []
    left = at("2026-02-01 00:00") - now
    for _ in range(3):
        assert client.enters(now, fields={"email": "a"}) == spent("1 a month", left, OutcomeKind.DEFER)
    assert [client.enters(now, fields={"email": email}) for email in "bc"] == [[], []]
    assert client.enters(now, fields={"email": "d"}) == spent("3 a day", 14 * 3600.0)


def test_budget_time_zone_and_cost_may_be_computed() -> None:
    made = gate(
        "{daily: {budget: '${ settings.tokens }', timezone: '${ settings.zone }', when: '${ settings.tokens }'}}",
        cost="${ get(tables.costs, event.kind) }",
    )
    scope = {"settings": {"tokens": 30, "zone": "America/Sao_Paulo"}, "tables": {"costs": {"search": 20, "free": 0}}}
    client = Client(made, MemoryStore())
    now = at("2026-01-28 10:00", "America/Sao_Paulo")
    assert client.enters(now, **scope, event={"kind": "search"}) == []
    assert client.enters(now, **scope, event={"kind": "search"}) == spent("30 a day", 14 * 3600.0)
    assert client.enters(now, **scope, event={"kind": "free"}) == []
    assert client.enters(now, settings={}, event={"kind": "search"}) == []
    with pytest.raises(BadValue, match=r"^actions.a.request.cost: None is not a cost; it is a whole number such as 10"):
        client.enters(now, **scope, event={"kind": "other"})


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("budget: '${ settings.no }'", "True is not a budget; write it as 30000"),
        ("budget: '${ settings.gone }'", "None is not a budget; write it as 30000"),
        (
            "budget: 5, timezone: '${ settings.zone }'",
            "'Sao Paulo' is not a time zone; write it as America/Sao_Paulo or UTC",
        ),
    ],
)
def test_settings_that_give_no_budget_stop_the_lane(written: str, reason: str) -> None:
    client = Client(gate(f"{{daily: {{{written}}}}}"), MemoryStore())
    found = client.enters(0, settings={"no": True, "zone": "Sao Paulo"})
    assert found == Outcome(OutcomeKind.PAUSE, f"http.limits.daily: {reason}", "limit", private=True)


def test_processes_on_one_store_never_spend_more_than_one_budget_together(tmp_path: Path) -> None:
    stores = [SqliteStore(tmp_path / "connect.db") for _ in range(2)]
    text, now = "{daily: {budget: 100, of: credentials}}", at("2026-01-28 10:00")
    through: list[int] = []
    refused: list[int] = []

    def work(store: SqliteStore, lane: str, cost: int) -> None:
        client = Client(gate(text, lane, cost=cost), store, lane, "the-same")
        for second in range(20):
            (through if client.enters(now + second) == [] else refused).append(cost)

    threads = [
        threading.Thread(target=work, args=(store, lane, cost))
        for store, lane, cost in [(stores[0], "crm/abc", 3), (stores[1], "crm/abc", 4), (stores[1], "crm/def", 5)]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0 <= 100 - sum(through) < min(refused)  # nobody was refused what was still there
    rows = stores[0]._writer.run(lambda db: db.execute("SELECT count(*), sum(cost) FROM limits").fetchone())
    assert tuple(rows) == (1, sum(through))
    assert Client(gate(text, cost=9), stores[0], credentials="the-same").enters(now + 86_400) == []
    rows = stores[0]._writer.run(lambda db: db.execute("SELECT count(*), sum(cost) FROM limits").fetchone())
    assert tuple(rows) == (1, 9)  # yesterday's is swept
    for store in stores:
        store.close()


# --- in the walk ---

LIMITED = """
settings: {properties: {rate: {type: string}}}
http:
  base_url: https://api.crm.example
  limits: {calls: {rate: "${ settings.rate }", of: credentials}}
"""
BOTH = [f"{{client: {name}, connectors: {{crm: {{settings: {{rate: 3/1s}}}}}}}}" for name in ("abc", "def")]


def test_two_clients_with_one_account_never_exceed_its_rate_together() -> None:
    shop = Shop(LIMITED, *BOTH, secrets={"key": "the-same-key"})
    shop.post_many(10, client="abc")
    shop.post_many(10, client="def")
    shop.drain(for_s=30)
    assert shop.sums("abc") == shop.sums("def") == {"delivered": 10}
    for at in shop.vendor.at:
        assert sum(at <= other < at + 1 for other in shop.vendor.at) <= 3
    assert len(shop.vendor.at) == 20
    assert max(two - one for one, two in pairwise(shop.vendor.at)) <= 1.01


def test_a_rate_that_the_settings_get_wrong_pauses_the_lane_and_keeps_its_events() -> None:
    shop = Shop(LIMITED, "{client: abc, connectors: {crm: {settings: {rate: often}}}}")
    shop.post({"id": "1"}, {"id": "2"})
    shop.drain()
    assert shop.vendor.asked == []
    assert shop.sums() == {"waiting": 2}
    lane = shop.lane()
    assert (lane.state, lane.reason) == (
        "paused",
        "http.limits.calls: 'often' is not a rate; write it as 120/1m or 10/1s",
    )


def test_a_limit_with_defer_lets_the_others_pass() -> None:
    shop = Shop(
        """
http:
  base_url: https://api.crm.example
  limits: {lead: {rate: 1/1h, by: "${ event.email }", then: defer}}
""",
        vendor=Vendor(reply(200, {})),
    )
    shop.post(*({"id": str(at), "email": email} for at, email in enumerate("aab")))
    shop.drain()
    assert [body["id"] for body in shop.vendor.bodies] == ["0", "2"]
    shop.drain(for_s=3600)
    assert [body["id"] for body in shop.vendor.bodies] == ["0", "2", "1"]
    assert shop.sums() == {"delivered": 3}


TOKENS = """
settings: {properties: {daily_tokens: {type: integer}}}
http:
  base_url: https://api.crm.example
  retry: {attempts: 2, initial: 10s, jitter: none}
  limits: {daily: {budget: "${ settings.daily_tokens }", per: day, timezone: America/Sao_Paulo}}
actions:
  note:
    record: {id: "${ event.id }", cost: "${ event.cost }"}
    request: {path: /notes, json: "${ record }", cost: "${ record.cost }"}
"""
BUDGETED = "{client: abc, connectors: {crm: {settings: {daily_tokens: 30}}}}"


def test_a_used_up_budget_holds_the_lane_until_midnight_and_is_no_try() -> None:
    shop = Shop(TOKENS, BUDGETED)
    shop.post(*({"id": str(number), "cost": 12} for number in range(5)))
    shop.drain()
    assert shop.sums() == {"delivered": 2, "waiting": 3}
    lane = shop.lane()
    midnight = at("2026-01-29 00:00", "America/Sao_Paulo")
    assert (lane.reason, lane.not_before) == ("our budget of 30 a day is used up", midnight)
    shop.drain(for_s=5 * 86_400)
    assert shop.sums() == {"delivered": 5}
    assert shop.vendor.at == [START, START, midnight, midnight, midnight + 86_400]


def test_a_try_that_failed_spends_again() -> None:
    shop = Shop(TOKENS, BUDGETED, vendor=Vendor(reply(503), reply(503), reply(200, {})))
    shop.post({"id": "1", "cost": 12})
    shop.drain(for_s=3600)
    assert len(shop.vendor.asked) == 2
    assert shop.lane().reason == "our budget of 30 a day is used up"
    shop.drain(for_s=86_400)
    assert shop.sums() == {"delivered": 1}


def test_a_cost_above_the_whole_budget_pauses_the_lane() -> None:
    shop = Shop(TOKENS, BUDGETED)
    shop.post({"id": "1", "cost": 31})
    shop.drain()
    assert (shop.vendor.asked, shop.sums(), shop.lane().state) == ([], {"waiting": 1}, "paused")
    assert shop.lane().reason == "http.limits.daily: a request that costs 31 is above our whole budget of 30 a day"


def test_a_record_without_a_cost_is_rejected_by_itself() -> None:
    shop = Shop(TOKENS, BUDGETED)
    shop.post({"id": "1", "cost": "much"}, {"id": "2", "cost": 1})
    shop.drain()
    assert shop.reasons() == {"1": "actions.note.request.cost: 'much' is not a cost; it is a whole number such as 10"}
    assert shop.sums() == {"delivered": 1, "rejected": 1}


def test_look_ups_and_steps_spend_each_its_own_cost() -> None:
    shop = Shop(
        """
http: {base_url: https://api.crm.example, limits: {daily: {budget: 40}}}
actions:
  note:
    lookups:
      person:
        key: ${ event.id }
        sources: {found: {request: {method: GET, path: "/people/{{ key }}", cost: 20}, rows: "${ response.body }"}}
        when_absent: continue
    record: {id: "${ event.id }"}
    steps:
      one: {request: {path: /one, json: "${ record }", cost: 5}}
      two: {request: {path: /two, json: "${ record }"}}
""",
        vendor=Vendor(reply(200, [])),
    )
    shop.post({"id": "1"}, {"id": "2"})
    shop.drain()
    first = ["GET /people/1", "POST /one", "POST /two"]
    assert shop.vendor.lines == first  # 26 of 40
    shop.drain(for_s=86_400)
    assert shop.vendor.lines == [*first, "GET /people/2", "POST /one", "POST /two"]
    assert shop.sums() == {"delivered": 2}


def test_a_log_in_spends_what_its_own_budget_has() -> None:
    shop = Shop(
        """
auth:
  type: login
  request:
    url: https://api.crm.example/token
    cost: 2
    limits: {log_ins: {budget: 1}}
  save: {value: "${ response.body.token }"}
"""
    )
    shop.post({"id": "1"})
    shop.drain()
    reason = "auth.token.request.limits.log_ins: a request that costs 2 is above our whole budget of 1 a day"
    assert (shop.vendor.asked, shop.lane().reason) == ([], reason)


def test_a_limit_reads_settings_only() -> None:
    with pytest.raises(Exception, match="event does not exist here"):
        program_from("http: {base_url: https://api.crm.example, limits: {a: {rate: '${ event.rate }'}}}")


# --- what is used ---


@pytest.fixture(params=sorted(KINDS))
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    store = KINDS[request.param](tmp_path)
    yield store
    store.close()


def test_how_much_of_each_limit_is_used_is_seen_and_seeing_it_uses_nothing(any_store: Any) -> None:
    made = gate(
        """
        calls: {rate: 3/10s}
        daily: {budget: 30, timezone: America/Sao_Paulo}
        open: {concurrency: 2}
        shared: {rate: 5/1m, of: credentials}
        everywhere: {rate: 9/1m, of: host}
        """,
        cost="${ fields.cost }",
    )

    def seen(now: float) -> list[Usage]:
        return made.usages(any_store, {}, now=now, credentials=lambda: "f")

    now = datetime(2026, 1, 28, 22, 0, tzinfo=ZoneInfo("America/Sao_Paulo")).timestamp()
    midnight = now + 7200
    nothing = [
        Usage("http.limits.calls", "rate", "client", 3, "10s", 0),
        Usage("http.limits.daily", "budget", "client", 30, "day", 0, midnight),
        Usage("http.limits.open", "concurrency", "client", 2, "", 0),
        Usage("http.limits.shared", "rate", "credentials", 5, "1m", 0),
        Usage("http.limits.everywhere", "rate", "host", 9, "1m", 0),
    ]
    assert [seen(now), seen(now)] == [nothing, nothing]
    one, two = Client(made, any_store, "one", "f"), Client(made, any_store, "two", "f")
    slots = one.enters(now, fields={"cost": 12})
    assert isinstance(two.enters(now + 4, fields={"cost": 18}), list)
    other = Client(gate("{shared: {rate: 5/1m, of: credentials}}", "crm/xyz"), any_store, "three", "f")
    assert other.enters(now + 4) == []
    assert isinstance(slots, list)
    Gate.leave(any_store, slots, "one")
    assert seen(now + 5) == [
        nothing[0]._replace(used=2),
        nothing[1]._replace(used=30),
        nothing[2]._replace(used=1),
        nothing[3]._replace(used=3),
        nothing[4]._replace(used=2),
    ]
    assert [each.is_full for each in seen(now + 5)] == [False, True, False, False, False]
    Gate.leave(any_store, two.enters(now + 6, fields={"cost": 0}), "two")  # type: ignore[arg-type]
    assert seen(now + 6)[0] == Usage("http.limits.calls", "rate", "client", 3, "10s", 3, now + 10)
    assert one.enters(now + 6, fields={"cost": 0}) == used_up("3/10s", 4.0)
    assert seen(midnight)[:2] == [nothing[0], nothing[1]._replace(free_at=midnight + 86_400)]


def test_of_a_limit_that_counts_by_a_value_the_fullest_of_the_last_values_is_seen(any_store: Any) -> None:
    made = gate("{lead: {rate: 2/24h, by: '${ fields.email }', then: defer}}")
    one = Client(made, any_store, "one", "f")

    def seen(now: float) -> Usage:
        return made.usages(any_store, {}, now=now, credentials=lambda: "f")[0]

    assert seen(1.0) == Usage("http.limits.lead", "rate", "client", 2, "24h", apart=True)
    for at, email in [(1.0, "ana"), (2.0, "bia"), (3.0, "bia"), (4.0, "cida"), (5.0, "ana")]:
        assert one.enters(at, fields={"email": email}) == []
    fullest = Usage("http.limits.lead", "rate", "client", 2, "24h", 2, 86_401.0, apart=True, values=3, full=2)
    assert [seen(6.0), seen(6.0)] == [fullest, fullest]
    assert seen(86_401.5) == fullest._replace(free_at=86_402.0, full=1)
    assert seen(86_404.5) == fullest._replace(used=1, free_at=None, full=0)
    for number in range(LATELY):
        one.enters(7.0, fields={"email": f"{number}"})
    assert seen(8.0) == fullest._replace(used=1, free_at=None, values=LATELY, full=0)


def test_a_limit_that_counts_by_a_value_or_is_not_known_says_what_it_allows_and_no_number() -> None:
    text = """
    lead: {rate: 1/24h, by: '${ fields.email }'}
    shared: {rate: 5/1m, of: credentials}
    plan: {rate: '${ settings.rate }', when: '${ settings.plan }'}
    """
    found = gate(text).usages(MemoryStore(), {"settings": {"rate": "often"}}, now=0.0, credentials=lambda: None)
    assert found == [
        Usage("http.limits.lead", "rate", "client", 1, "24h", apart=True),
        Usage("http.limits.shared", "rate", "credentials", 5, "1m"),
        Usage(
            "http.limits.plan",
            "rate",
            "client",
            None,
            says="http.limits.plan: 'often' is not a rate; write it as 120/1m or 10/1s",
            active=False,
        ),
    ]
