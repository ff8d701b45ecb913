"""How much a sender may send."""

from __future__ import annotations

from engine.door.meters import Meter, Meters
from engine.spec.units import Rate


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_as_many_as_the_rate_go_at_once_and_then_one_by_one() -> None:
    time = Time()
    meters = Meters(Rate(3, 6.0), time)
    assert [meters.wait_s("a") for _ in range(4)] == [0, 0, 0, 2.0]
    assert meters.wait_s("b") == 0
    time.now += 1.5
    assert meters.wait_s("a") == 0.5
    time.now += 0.5
    assert [meters.wait_s("a") for _ in range(2)] == [0, 2.0]
    time.now += 60
    assert [meters.wait_s("a") for _ in range(4)] == [0, 0, 0, 2.0]


def test_in_the_long_run_no_more_go_than_the_rate_says() -> None:
    time = Time()
    meters = Meters(Rate(10, 1.0), time)
    taken = 0
    for _ in range(10_000):
        time.now += 0.01
        taken += meters.wait_s("a") == 0
    assert 1_000 <= taken <= 1_010


def test_a_list_above_the_rate_is_taken_and_paid_for_afterwards() -> None:
    time = Time()
    meter = Meter(Rate(10, 1.0), time)
    assert meter.wait_s() == 0
    meter.count(100)
    assert round(meter.wait_s(), 6) == 9.1
    time.now += 9.1
    assert meter.wait_s() == 0
    meter.count(1)
    assert meter.wait_s() > 0


def test_of_too_many_senders_those_who_owe_nothing_are_forgotten_first() -> None:
    time = Time()
    meters = Meters(Rate(1, 10.0), time, most=4)
    for sender in ("old", "older"):
        meters.wait_s(sender)
    time.now += 10
    for sender in ("a", "b", "c"):
        meters.wait_s(sender)
    assert [meters.wait_s(sender) > 0 for sender in ("a", "b", "c")] == [True] * 3
    for number in range(100):
        meters.wait_s(f"flood-{number}")
    assert len(meters._owed_until) <= 4
