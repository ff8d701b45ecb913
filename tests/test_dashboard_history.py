"""What the pages count over the last hour and day: however it is summed up, it is the same."""

from __future__ import annotations

import random

import pytest

from engine.clock import VirtualClock
from engine.dashboard.charts import Line, bars, share
from engine.dashboard.history import MINUTES, TENS, History

LANE = ("crm", "abc")
NAMES = ("delivered", "rejected", "retries")


def parts(values: tuple[int, ...], count: int) -> list[int]:
    size = -(-len(values) // count)
    return [sum(values[at : at + size]) for at in range(0, len(values), size)]


@pytest.mark.parametrize("seed", range(5))
def test_totals_and_parts_are_the_sums_of_the_series_whatever_the_clock_does(seed: int) -> None:
    chance = random.Random(seed)
    clock = VirtualClock(1_769_596_245.0)
    history = History(clock.now)
    for _ in range(300):
        clock.sleep(chance.choice([0, 1, 59, 61, 600, 4000]))
        for name in ("delivered", "rejected", "retry"):
            history.hear(name, {"connector": "crm", "client": "abc", "count": chance.randrange(50)})
        hour = [history.series(LANE, name) for name in NAMES]
        assert history.totals(LANE, *NAMES) == [each.total for each in hour]
        assert history.summed(LANE, NAMES, 20) == [parts(each.values, 20) for each in hour]
        day = [history.series(LANE, name, day=True) for name in NAMES]
        assert history.summed(LANE, NAMES, 24, day=True) == [parts(each.values, 24) for each in day]
    clock.sleep(86_400)
    assert history.totals(LANE, *NAMES) == [0, 0, 0]
    assert history.summed(LANE, NAMES, 24, day=True) == [[0] * 24] * 3
    assert (len(history.series(LANE, "delivered").values), len(history.series(LANE, "delivered", day=True).values)) == (
        MINUTES,
        TENS,
    )
    assert history.totals(("crm", "nobody"), *NAMES) == [0, 0, 0]


def test_bars_stand_on_each_other_and_what_is_there_is_to_be_seen() -> None:
    drawn = bars("a <b>", Line("delivered", [27, 0, 9]), Line("rejected", [0, 1, 18]), width=30, height=28)
    assert drawn == (
        '<svg class="chart bars" role="img" aria-label="a &lt;b&gt;" viewBox="0 0 30 28" preserveAspectRatio="none" '
        'stroke-width="8"><path class="base" d="M0 27.5h30"/><path class="delivered" d="M5 28v-27M25 28v-9"/>'
        '<path class="rejected" d="M15 28v-1M25 19v-18"/></svg>'
    )
    nothing = bars("none", Line("delivered", [0, None]))
    assert '<path class="base" d="M0 27.5h120"/></svg>' in nothing


def test_a_share_is_a_bar_that_is_full_at_the_limit_and_never_beyond_it() -> None:
    def filled(part: int, whole: int) -> str:
        return share("x", part, whole).rpartition("<path ")[2].removesuffix("/></svg>")

    assert [filled(0, 4), filled(1, 4), filled(4, 4), filled(9, 4)] == [
        'class="used" d="M0 0h0v10H0z"',
        'class="used" d="M0 0h30v10H0z"',
        'class="full" d="M0 0h120v10H0z"',
        'class="full" d="M0 0h120v10H0z"',
    ]


def test_a_clock_that_was_put_back_leaves_the_pages_whole() -> None:
    now = [1_769_596_245.0]
    history = History(lambda: now[0])
    history.hear("delivered", {"connector": "crm", "client": "abc", "count": 3})
    now[0] -= 3_600
    assert history.summed(LANE, NAMES, 20) == [[0] * 20] * 3
    assert history.summed(LANE, NAMES, 24, day=True) == [[0] * 24] * 3
    now[0] += 3_600
    assert history.summed(LANE, ["delivered"], 20) == [[0] * 19 + [3]]
