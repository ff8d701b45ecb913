from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import pytest
from conftest import Shop, Vendor, program_from, reply
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clock import VirtualClock
from engine.errors import BadValue
from engine.expressions import Compiler
from engine.limits import Gate
from engine.names import ROW
from engine.records import Outcome, OutcomeKind
from engine.spec.located import read
from engine.spec.types import Limit
from engine.stores.memory import MemoryStore


def gate(text: str, lane: str = "crm/abc", owner: str = "http") -> Gate:
    compiler = Compiler()
    made = Gate(lane)
    made.add(compiler, msgspec.convert(read(text, "f").data, dict[str, Limit]), ROW, ("http", "limits"), owner=owner)
    assert compiler.problems == []
    return made


class Client:
    """One client that asks a gate for room, on a clock of its own."""

    def __init__(self, made: Gate, store: MemoryStore, owner: str = "o", credentials: str = "") -> None:
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
    assert client.enters(0, settings={"rate": "often", "no": True}) == Outcome(OutcomeKind.PAUSE, reason, "limit")


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


def test_a_limit_reads_settings_only() -> None:
    with pytest.raises(Exception, match="event does not exist here"):
        program_from("http: {base_url: https://api.crm.example, limits: {a: {rate: '${ event.rate }'}}}")
